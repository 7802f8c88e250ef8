//go:build failpoints

package events

// partSize is small where processes are made to fail, so that they do in the
// middle of a page of several parts without pages of megabytes.
const partSize = 64 << 10
