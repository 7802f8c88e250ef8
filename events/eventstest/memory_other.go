//go:build !linux

package eventstest

// InMemory does nothing: only Linux has a folder in memory that all users can write to.
func InMemory() {}
