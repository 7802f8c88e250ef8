// Package journal writes and reads the log of events, SHEAF_EVENTS, and the small
// streams beside it. It promises:
//
//   - First writer wins. [Log.Append] publishes each event of a key on the condition
//     that the key's newest event is still the one its writer knew: the fence. What
//     Append, SaveHeaders or CountStart returned without an error is on disk.
//   - [Log.Read] is the word of the stream's leader, in one request.
//   - [Log.Follow] applies every event that was not purged, in order, each once.
//   - [Log.Consume] is the one place that acknowledges. A message is delivered at
//     least once; what its handler returns decides about it.
//   - [Log.Check] and [Log.Restore] find what a damaged server lost, and publish again
//     what a projection knows of it.
//
// Provision makes every stream and consumer, those of package pages included. The
// import goes from here to pages, not back: a page needs nothing of the log, while the
// log provisions the stream of pages, and purges it when an export has ended. The
// other direction would need exported access to the private stream and the settings.
package journal
