// Package storage holds the data that Sheaf serves: the projection of the log, and the finished files.
//
// # What it promises
//
//   - [Tasks] is a view of the log SHEAF_EVENTS and holds no facts of its own. State and applied sequence
//     change in one transaction, so after a crash it resumes exactly where it stopped. It may be deleted at
//     any time. A file that is damaged, or written in another format, is set aside and rebuilt from the log.
//   - [Files] holds each finished file completely or not at all. A file that Commit confirmed survives a
//     power failure.
//
// Both are safe for concurrent use. DESIGN.md explains the design.
package storage
