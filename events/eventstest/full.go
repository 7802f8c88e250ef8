//go:build chaos

package eventstest

// Full enables long tests and all checks of properties.
const Full = true
