package ingress

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Returned submissions that another ingress took must stop counting. Otherwise the tenant's later ones would
// be rejected.
func TestWhoWaitsElsewhereIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBacklog()
		for sequence := range uint64(maxWaiting) {
			require.True(t, s.add("shop", sequence, 1, false))
		}
		require.False(t, s.add("shop", maxWaiting, 1, false))
		require.True(t, s.add("shop", 0, 1, false), "one that waits may go on")
		require.True(t, s.add("bank", maxWaiting, 1, false))

		<-time.After(quotaWait + quotaWait/2) // on the bubble's clock; waiting submissions come back
		require.True(t, s.add("shop", 0, 1, false))
		require.False(t, s.add("shop", maxWaiting, 1, false))
		<-time.After(waitsFor - quotaWait - quotaWait/2 + 1)
		require.True(t, s.add("shop", maxWaiting, 1, false))
		require.Len(t, s.waiting["shop"], 2)

		for sequence := range uint64(2 * maxWaiting) {
			require.True(t, s.add("known", sequence, 1, true), "others may have come first")
		}
		require.False(t, s.add("known", 2*maxWaiting, 1, false))
		require.True(t, s.add("large", 0, maxWaitingBytes+1, false), "one in any case")
		require.False(t, s.add("large", 1, 1, false))
		delete(s.waiting, "known")
		delete(s.waiting, "large")

		s.remove("shop", 0)
		s.remove("shop", maxWaiting)
		s.remove("bank", maxWaiting)
		require.Empty(t, s.waiting)
	})
}
