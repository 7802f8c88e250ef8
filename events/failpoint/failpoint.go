// Package failpoint names the places where a process may die without losing or duplicating anything: before
// and after each step that makes data durable or informs another party.
//
// In an ordinary build Hit is empty and compiled away. Built with the tag failpoints, a process reads the
// environment variable SHEAF_FAILPOINT once, as NAME or NAME:N. The N-th Hit of that name (the first without
// N) kills it with SIGKILL: nothing is deferred, flushed or closed. NAME:N:stop stops it with SIGSTOP
// instead, until SIGCONT: meanwhile its work is redelivered to another process, and it does not know. A name
// that is not in Names ends the process at its start, so that a mistyped name does not look like a survived
// failure.
package failpoint

// Names lists all failpoints. The suite in cmd/sheaf/chaostest dies at each of them.
var Names = []string{
	// package events
	"append.before", "append.after", // an event, or another fenced message
	"page.before", "page.after", // a page
	"starts.after",           // the start count of an export
	"publish-callback.after", // a callback to a NATS subject
	"purge.after",            // the pages and headers of an ended export
	"ack.before",             // any answer to a delivery

	// package storage
	"file.link.after", "file.delete.after", // the name of a finished file in a folder
	"object.meta.after",  // the same in a bucket
	"tasks.commit.after", // the projection

	// services/notifier
	"post-callback.after",

	// cmd/sheaf/node: a start that repairs the losses of a stream.
	"losses.restored", "losses.reported",
}
