//go:build race

package eventstest

const race = true
