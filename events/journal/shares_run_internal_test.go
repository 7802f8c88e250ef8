package journal

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// beside does the work of a handler as Consume does.
func beside(t *testing.T, err error) func() error {
	t.Helper()
	var he *handlingError
	require.ErrorAs(t, err, &he)
	require.NotNil(t, he.work)
	return he.work
}

// Work beyond a tenant's share waits without a slot, in order; other tenants' work continues meanwhile.
// Excess is handed back, and no state is left at the end.
func TestRunWaitsForTheTenantsShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(2, 4, 100)
		ctx, cancel := context.WithCancel(t.Context())
		hold, done := make(chan struct{}), make(chan error, 2*maxWaitingHere)
		require.NoError(t, s.Run(ctx, "other", 1, func() error { return nil })) // so that busy is not alone
		for range 2 {
			go func() { done <- s.Run(ctx, "busy", 1, func() error { <-hold; return nil }) }()
		}
		synctest.Wait()
		var order []int
		for n := range maxWaitingHere {
			work := beside(t, s.Run(ctx, "busy", 1, func() error {
				order = append(order, n)
				if n == 0 {
					return Beside(func() error { return errors.New("beside again") })
				}
				return nil
			}))
			go func() { done <- work() }()
		}
		require.ErrorIs(t, s.Run(ctx, "busy", 1, nil), ErrShareTaken)
		require.NoError(t, s.Run(ctx, "other", 1, func() error { return nil }))
		synctest.Wait()
		require.Empty(t, order)
		hold <- struct{}{}
		synctest.Wait()
		require.Len(t, order, maxWaitingHere)
		require.IsIncreasing(t, order)
		failed := 0
		for range maxWaitingHere + 1 {
			if err := <-done; err != nil {
				require.EqualError(t, err, "beside again")
				failed++
			}
		}
		require.Equal(t, 1, failed)

		// Waiting work ends with the process.
		go func() { done <- s.Run(ctx, "busy", 1, func() error { <-hold; return nil }) }()
		synctest.Wait()
		work := beside(t, s.Run(ctx, "busy", maxWaitingHereBytes, nil))
		require.ErrorIs(t, s.Run(ctx, "busy", 1, nil), ErrShareTaken, "bytes")
		cancel()
		require.ErrorIs(t, work(), context.Canceled)
		close(hold)
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		require.Empty(t, s.waiting)
		require.Empty(t, s.running)
		require.Empty(t, s.all)
	})
}

// Run holds a slot for the tenant's pause after its work. The tenant's next message waits for it, in order.
// Other tenants' messages do not, even if all slots of the process are needed.
func TestRunPausesAfterItsWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(1, 1, 100)
		s.Pause(func(tenant string) time.Duration {
			if tenant == "busy" {
				return time.Second
			}
			return 0
		})
		var at []time.Duration
		start := time.Now()
		work := func() error { at = append(at, time.Since(start)); return nil }
		require.NoError(t, s.Run(t.Context(), "busy", 1, work))
		done := make(chan error)
		for range 2 {
			next := beside(t, s.Run(t.Context(), "busy", 1, work))
			go func() { done <- next() }()
		}
		for range 2 {
			require.NoError(t, s.Run(t.Context(), "other", 1, func() error { return nil }))
		}
		require.Zero(t, time.Since(start))
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, at)
		time.Sleep(time.Second) // on the bubble's clock, like those above
		synctest.Wait()
		require.Empty(t, s.running)
		require.Empty(t, s.waiting)
	})
}
