package crawler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// With every place taken, waiting requests are served round-robin by tenant and then by export, however many
// of each there are.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 0, 0, nil, nil)
		place, err := turns.take(t.Context(), asker{tenant: "a", key: "first"})
		require.NoError(t, err)

		var mu sync.Mutex
		var served []string
		ask := func(tenant, key string) {
			go func() {
				place, err := turns.take(t.Context(), asker{tenant: tenant, key: key})
				if err != nil {
					return
				}
				mu.Lock()
				served = append(served, tenant+"/"+key)
				mu.Unlock()
				place.Done()
			}()
			synctest.Wait() // the claim includes the order of the requests
		}
		for range 4 {
			ask("a", "giant")
		}
		ask("a", "small")
		ask("b", "small")
		place.Done()
		synctest.Wait()
		require.Equal(t, []string{"a/giant", "b/small", "a/small", "a/giant", "a/giant", "a/giant"}, served)
	})
}

func TestTurnsGiveUpWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 0, 0, nil, nil)
		place, err := turns.take(t.Context(), asker{tenant: "a", key: "x"})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := turns.take(ctx, asker{tenant: "a", key: "y"})
			gone <- err
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		place.Done()
		again, err := turns.take(t.Context(), asker{tenant: "b", key: "z"})
		require.NoError(t, err, "the place of the one who left is free")
		again.Done()
		require.Empty(t, turns.tenants)
		require.Equal(t, 1, turns.free)
	})
}

// With requests arriving, ending and giving up at random, no place is lost or duplicated.
func TestTurnsKeepTheirPlaces(t *testing.T) {
	t.Parallel()
	const places = 3
	turns := newTurns(places, 0, 0, nil, nil)
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
			place, err := turns.take(ctx, asker{tenant: fmt.Sprint(i % 4), key: fmt.Sprint(i % 7)})
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
			place.Done()
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most, places)
	require.Equal(t, places, turns.free)
	require.Empty(t, turns.tenants)
}

// With requests arriving, ending, stalling and giving up at random, no host, no tenant and no export exceeds its
// limit of requests in flight. No place is free while a request waits that may have it, an export waits for few
// turns of others, and all are served in the end.
func TestTurnsKeepTheirLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		places := rapid.IntRange(1, 4).Draw(rt, "places")
		turns := newTurns(places, rapid.IntRange(0, 3).Draw(rt, "per host"), rapid.IntRange(0, 3).Draw(rt, "per tenant"), nil, nil)
		type waiter struct {
			of   asker
			turn chan *place
		}
		var waiting []waiter
		var held []*place
		collect := func() {
			for served := true; served; {
				served = false
				waiting = slices.DeleteFunc(waiting, func(w waiter) bool {
					select {
					case p := <-w.turn:
						require.Equal(rt, w.of, p.of)
						held = append(held, p)
						served = true
						return true
					default:
						return false
					}
				})
			}
		}
		check := func() {
			collect()
			hosts, tenants, exports, taken := map[string]int{}, map[string]int{}, map[string]int{}, 0
			for _, p := range held {
				hosts[p.of.host]++
				tenants[p.of.tenant]++
				exports[p.of.key]++
				require.True(rt, p.of.conn == 0 || exports[p.of.key] <= p.of.conn, "%d of export %s", exports[p.of.key], p.of.key)
				if !p.yielded {
					taken++
				}
			}
			require.LessOrEqual(rt, taken, places)
			require.Equal(rt, places-taken, turns.free)
			full := func(counts map[string]int, name string, limit int) bool { return limit > 0 && counts[name] >= limit }
			for name, n := range hosts {
				require.True(rt, turns.perHost == 0 || n <= turns.perHost, "%d at host %s", n, name)
			}
			for name, n := range tenants {
				require.True(rt, turns.perTenant == 0 || n <= turns.perTenant, "%d of tenant %s", n, name)
			}
			for _, w := range waiting {
				require.True(rt, taken == places || full(hosts, w.of.host, turns.perHost) ||
					full(tenants, w.of.tenant, turns.perTenant) || full(exports, w.of.key, w.of.conn),
					"a place is free, and %+v waits", w.of)
			}
		}
		ask := func(of asker) {
			w := waiter{of, make(chan *place, 1)}
			turns.mu.Lock()
			if limits := turns.limits(of); turns.free > 0 && turns.begins(limits) {
				w.turn <- turns.give(of, limits)
			} else {
				turns.enqueue(of, limits, w.turn)
			}
			turns.mu.Unlock()
			waiting = append(waiting, w)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"ask": func(rt *rapid.T) {
				n := rapid.IntRange(0, 5).Draw(rt, "export")
				// Export 4 asks two hosts and has a limit of its own, the others have none.
				of := asker{tenant: fmt.Sprint(n % 2), key: fmt.Sprint(n), host: fmt.Sprint(n % 3)}
				if n == 4 {
					of.conn, of.host = 2, rapid.SampledFrom([]string{"0", "1"}).Draw(rt, "host")
				}
				ask(of)
			},
			"yield": func(rt *rapid.T) {
				if len(held) > 0 {
					rapid.SampledFrom(held).Draw(rt, "place").Yield()
				}
			},
			"done": func(rt *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(rt, "place")
				p := held[i]
				held = slices.Delete(held, i, i+1)
				p.Done()
				p.Done() // harmless
			},
			"give up": func(rt *rapid.T) {
				if len(waiting) == 0 {
					return
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(rt, "waiter")
				w := waiting[i]
				turns.mu.Lock()
				require.True(rt, turns.dequeue(w.of, w.turn))
				turns.mu.Unlock()
				waiting = slices.Delete(waiting, i, i+1)
			},
		})
		// While the others request repeatedly, an export waits for at most one turn of each other.
		collect()
		patient := asker{tenant: "patient", key: "patient", host: "patient"}
		ask(patient)
		for turn := 0; ; turn++ {
			check()
			if slices.ContainsFunc(held, func(p *place) bool { return p.of == patient }) {
				break
			}
			require.Less(rt, turn, 20, "it starves")
			require.NotEmpty(rt, held)
			p := held[0]
			held = held[1:]
			ask(p.of)
			p.Done()
		}
		for range 1000 {
			if check(); len(held) == 0 {
				break
			}
			held[0].Done()
			held = held[1:]
		}
		require.Empty(rt, waiting)
		require.Empty(rt, turns.tenants)
		require.Empty(rt, turns.uses)
		require.Equal(rt, places, turns.free)
	})
}
