package node

import (
	"context"
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimitLeavesRoomForWhatIsInUse(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, smallProcess, memoryLimit(0))
	require.EqualValues(t, smallProcess, memoryLimit(50<<20))
	require.EqualValues(t, 133<<20, memoryLimit(100<<20))
	require.EqualValues(t, 1288<<20, memoryLimit(1<<30))
}

func TestMemoryLimitIsTheOperatorsIfHeSaysSo(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	ended, cancel := context.WithCancel(t.Context())
	cancel()

	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(1 << 30)
	keepSmall(ended)
	require.EqualValues(t, 1<<30, debug.SetMemoryLimit(-1))

	t.Setenv("GOMEMLIMIT", "")
	keepSmall(ended)
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1), "none is left behind")
}
