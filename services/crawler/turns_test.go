package crawler

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// With every place taken, those who wait are served round-robin by tenant and
// then by export, however many of each there are.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		release, err := turns.take(t.Context(), "a", "first")
		require.NoError(t, err)

		var mu sync.Mutex
		var served []string
		ask := func(tenant, key string) {
			go func() {
				release, err := turns.take(t.Context(), tenant, key)
				if err != nil {
					return
				}
				mu.Lock()
				served = append(served, tenant+"/"+key)
				mu.Unlock()
				release()
			}()
			synctest.Wait() // the order of asking is part of the claim
		}
		for range 4 {
			ask("a", "giant")
		}
		ask("a", "small")
		ask("b", "small")
		release()
		synctest.Wait()
		require.Equal(t, []string{"a/giant", "b/small", "a/small", "a/giant", "a/giant", "a/giant"}, served)
	})
}

func TestTurnsGiveUpWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		release, err := turns.take(t.Context(), "a", "x")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := turns.take(ctx, "a", "y")
			gone <- err
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		release()
		again, err := turns.take(t.Context(), "b", "z")
		require.NoError(t, err, "the place of the one who left is free")
		again()
		require.Empty(t, turns.tenants)
		require.Equal(t, 1, turns.free)
	})
}

// However takers come, go and give up, no place is lost or doubled.
func TestTurnsKeepTheirPlaces(t *testing.T) {
	const places = 3
	turns := newTurns(places)
	var wg sync.WaitGroup
	var mu sync.Mutex
	inside, most := 0, 0
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if i%3 == 0 {
				go cancel()
			}
			defer cancel()
			release, err := turns.take(ctx, fmt.Sprint(i%4), fmt.Sprint(i%7))
			if err != nil {
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			mu.Lock()
			inside--
			mu.Unlock()
			release()
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most, places)
	require.Equal(t, places, turns.free)
	require.Empty(t, turns.tenants)
}
