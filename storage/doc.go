// Package storage keeps what Sheaf answers with: the projection of the log,
// and the finished files.
//
// # What it promises
//
//   - [Tasks] is a view of the log SHEAF_EVENTS and holds no fact of its own.
//     State and applied sequence change in one transaction, so after a crash it
//     goes on exactly where it stood. It may be deleted at any time; a file that
//     is damaged, or written in another format, is set aside and made again
//     from the log.
//   - [Files] holds each finished file whole or not at all. What Commit
//     confirmed outlives a power failure.
//
// Both are safe for concurrent use. DESIGN.md says why they are made as they
// are.
package storage
