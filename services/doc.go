// Package services describes the shape that every service below it has; it
// holds no code.
//
//   - New(cfg, deps...) returns a service, or an error about its
//     configuration. It does no I/O and starts no goroutine.
//   - Run(ctx) does the work and blocks. When ctx ends it takes no more work,
//     finishes or hands back what is in flight, and returns nil. Any other
//     return is an error that ends the process: one role's failure is never
//     hidden by the others.
//   - A service knows the log and the stores, and no other service. What two of
//     them must agree on is an event.
//   - Every handler may run twice, or on two machines at once. The fence of
//     package events decides which of two counts.
//
// The order of imports is events, storage, services, cmd/sheaf: each may use
// what stands before it. A test keeps it.
package services
