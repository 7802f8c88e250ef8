// Package journal writes and reads the log of events, SHEAF_EVENTS, and the small streams beside it. It
// promises:
//
//   - First writer wins. [Log.Append] publishes each event of a key on the condition that the key's newest
//     event is still the one its writer knew: the fence. When Append, SaveHeaders or CountStart returns
//     without an error, the data is on disk.
//   - [Log.Read] returns the state of the stream's leader, in one request.
//   - [Log.Follow] applies every event that was not purged, in order, each once.
//   - Only [Log.Consume] acknowledges. A message is delivered at least once; its handler's result decides
//     about it.
//   - [Log.Check] and [Log.Restore] find what a damaged server lost, and republish it from a projection.
//
// Provision creates every stream and consumer, including those of package pages. Package journal imports
// pages, not the reverse: a page needs nothing of the log, while the log provisions the stream of pages, and
// purges it when an export has ended. The other direction would need exported access to the private stream
// and the settings.
package journal
