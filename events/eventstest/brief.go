//go:build !chaos

package eventstest

// Full says that tests that take long run too, and all checks of properties.
const Full = false
