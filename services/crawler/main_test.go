package crawler_test

import (
	"testing"

	"sheaf/events/eventstest"
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	eventstest.Main(m)
}
