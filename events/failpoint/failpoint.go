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

// Names are all failpoints. The suite in cmd/sheaf/chaostest dies at each of them.
var Names = []string{
	// package events
	"append.before", "append.after", // an event, or anything else that goes through a fence
	"page.before", "page.after", // a page
	"starts.after",           // the count of starts of one work
	"publish-callback.after", // a callback to a NATS subject
	"purge.after",            // the pages and headers of an ended export
	"ack.before",             // whatever becomes of a delivery

	// package storage
	"file.link.after", "file.delete.after", // the name of a finished file in a folder
	"object.meta.after",  // the name of one in a bucket
	"tasks.commit.after", // the projection

	// services/notifier
	"post-callback.after",

	// cmd/sheaf/node: a start that mends what a stream has lost.
	"losses.restored", "losses.reported",
}
