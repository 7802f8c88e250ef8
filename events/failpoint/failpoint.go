// Package failpoint names the places at which a process may die without losing
// or doubling anything: before and after each step that makes something durable
// or tells another party.
//
// An ordinary build knows nothing of it: Hit is empty and compiled away. Built
// with the tag failpoints, a process reads the environment variable
// SHEAF_FAILPOINT once, as NAME or NAME:N, and the N-th Hit of that name (the
// first without N) ends it with SIGKILL: nothing is deferred, flushed or closed.
// As NAME:N:stop it stops with SIGSTOP instead, until somebody sends SIGCONT:
// meanwhile its work is handed to another process, and it does not know. A name
// that is not in Names ends the process at its start, so that a mistyped one cannot
// pass for a process that survived.
package failpoint

// Names are all failpoints. The suite in cmd/sheaf dies at each of them.
var Names = []string{
	// package events: publishes and acknowledgements.
	"append.before", "append.after", // an event, or anything else that goes through a fence
	"page.before", "page.after", // a page of one part
	"batch.before", "batch.after", // a page of several parts, as one atomic batch
	"headers.before", "headers.after", // the sealed headers of a source
	"starts.before", "starts.after", // the count of starts of one work
	"schedule.before", "schedule.after", // the timer of a callback
	"publish-callback.before", "publish-callback.after", // a callback to a NATS subject
	"purge.before", "purge.after", // the pages and headers of an ended export
	"ack.before", "ack.after", // whatever becomes of a delivery

	// package storage: finished files and the projection.
	"file.sync.before", "file.sync.after", // of a draft in a folder
	"file.link.before", "file.link.after", // its name
	"file.folders.before", "file.folders.after", // the sync of the folders
	"file.delete.before", "file.delete.after",
	"object.chunk.before", "object.chunk.after", // one chunk in a bucket
	"object.meta.before", "object.meta.after", // its name
	"object.delete.before", "object.delete.after",
	"tasks.commit.before", "tasks.commit.after", // bbolt
	"watermarks.rename.before", "watermarks.rename.after",

	// services/notifier.
	"post-callback.before", "post-callback.after",

	// cmd/sheaf: the secret key and the name of the store.
	"once.link.before", "once.link.after",

	// cmd/sheaf: a start that mends what a stream has lost.
	"losses.restored", "losses.reported", "losses.forgotten",
}
