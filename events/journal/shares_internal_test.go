package journal

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Refused messages get their turn one after another. Those that never return, because another process handles
// them, delay no others.
func TestRefusedMessagesGetTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const offers = 100
		s := NewShares(1, 0, offers)
		leave, err := s.Enter("shop")
		require.NoError(t, err)
		_, err = s.Enter("shop")
		require.ErrorIs(t, err, ErrShareTaken)
		other, err := s.Enter("bank")
		require.NoError(t, err, "the share is each tenant's own")
		other()

		const elsewhere = 2000
		last := time.Duration(0)
		for range elsewhere {
			pause := s.pause("shop")
			require.GreaterOrEqual(t, pause, last)
			require.GreaterOrEqual(t, pause, soonest)
			last = pause
		}
		require.InDelta(t, elsewhere/offers, last.Seconds(), 1)
		<-time.After(last) // of the synctest bubble's clock
		require.Equal(t, soonest, s.pause("shop"))
		for range 50_000 { // as many more that were cancelled
			pause := s.pause("shop")
			require.LessOrEqual(t, pause, latest)
			last = pause
		}
		require.GreaterOrEqual(t, last, latest/2)

		leave()
		require.Empty(t, s.running)
		require.Empty(t, s.next)
	})
}
