package leases

import (
	"testing"

	"sheaf/events/eventstest"
)

func TestMain(m *testing.M) { eventstest.Main(m) }
