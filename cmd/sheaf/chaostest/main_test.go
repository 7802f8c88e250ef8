//go:build chaos && linux

package chaostest

import (
	"testing"

	"sheaf/events/eventstest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, eventstest.OutlivesServer()) }
