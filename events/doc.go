// Package events is the contract between the parts of Sheaf: the typed events, the export with its state
// machine, the wire format, and the names of subjects, streams and consumers. It does no I/O. Three packages
// do:
//
//   - events/journal writes and reads the log: the fence, group commit, consumers, and the data that the log
//     stores beside events.
//   - events/pages writes and reads the rows.
//   - events/secrets derives keys, seals values and signs links.
//
// They import each other in the order events, secrets, pages, journal.
//
// # What it promises
//
//   - The log is the truth. Every fact about an export is an event of its key on the stream SHEAF_EVENTS, and
//     each event contains the whole [Export] after it. So the newest event of a key is sufficient, and gaps
//     are normal.
//   - First writer wins. journal.Log.Append writes every event of a key with the expected last sequence over
//     all events of that key. pages.Store.Publish writes each page once, to its own subject. A handler may
//     therefore run twice, or on two machines at once.
//   - When Append, Publish or SaveHeaders returns without an error, the data is on disk.
//   - One function decides about acknowledgement, journal.Log.Consume. A message is delivered at least once;
//     its handler must expect duplicates.
//
// # The flow
//
//	 producers ──REST──▶ ingress ──requested──▶ SHEAF_EVENTS ──▶ crawler ──pages──▶ SHEAF_PAGES
//	     └─sheaf.submit─▶ SHEAF_SUBMIT ─▶ ingress                  └──crawled──▶ SHEAF_EVENTS
//	                                                                                  │
//	 callback ◀── notifier ◀──completed, failed, cancelled── assembler ◀──crawled─────┘
//
//	event               published by          read by
//	requested           ingress               crawler, projection
//	crawled             crawler               assembler, projection
//	completed           assembler             notifier, projection
//	failed              crawler, assembler    notifier, projection
//	cancelled           ingress               all: work on the key stops
//	expired             ingress               projection
//	rejected            ingress               producers
//	callback_attempted  notifier              projection
//	callback_delivered  notifier              projection
//	callback_failed     notifier              projection
//	callback_requested  ingress               notifier, projection
//
// Each event's wire format has a JSON schema in schema/, which refers to that of the export, and a golden
// file in testdata/. asyncapi.yaml documents the subjects.
package events
