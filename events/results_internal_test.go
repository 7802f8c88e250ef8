package events

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The cap lets nobody lose while all fit, fills the total as far as whole messages
// can, and takes from nobody who has less than another keeps.
func TestFairCap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.MapOfN(rapid.String(), rapid.Int64Range(0, 1<<30), 1, 30).Draw(t, "sizes")
		total := rapid.Int64Range(1, 1<<32).Draw(t, "total")
		most := fairCap(sizes, total)
		sum, kept := int64(0), int64(0)
		for size := range maps.Values(sizes) {
			sum += size
			kept += min(size, most)
		}
		if sum <= total {
			require.Equal(t, sum, kept)
			return
		}
		require.LessOrEqual(t, kept, total)
		require.Greater(t, kept, total-int64(len(sizes)))
	})
}
