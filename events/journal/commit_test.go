package journal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// Concurrent events are written together, each through its own fence. Of two that race for a key one is
// written, and the rest of a group with a loser is written.
func TestAppendsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	for name, eachTakes := range map[string]time.Duration{"separately": 0, "in batches": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := eventstest.Server(t, "")
			s := eventstest.JournalOn(t, srv, journal.Config{})
			other := eventstest.JournalOn(t, srv, journal.Config{})
			s.MeasuredEach(eachTakes)
			other.MeasuredEach(eachTakes)
			appendTogether(t, s, other)
		})
	}
}

func appendTogether(t *testing.T, s, other *journal.Log) {
	errLate := errors.New("another writer was first")
	const keys, rounds = 64, 4
	name := func(n int) string { return fmt.Sprintf("%032x", n) }
	begin := func(s *journal.Log, n int, who string) error {
		_, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: name(n)}, who,
			func(x *events.Export) (events.Payload, error) {
				if x.State != events.StateNone {
					return nil, errLate
				}
				return requested(), nil
			})
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[string]string{}
	for n := range keys {
		for who, s := range map[string]*journal.Log{"one": s, "other": other} {
			wg.Go(func() {
				err := begin(s, n, who)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					if won[name(n)] != "" {
						t.Errorf("both wrote %s", name(n))
					}
					won[name(n)] = who
				case !errors.Is(err, errLate):
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	require.Len(t, won, keys)
	seen := map[uint64]bool{}
	for key, who := range won {
		x, err := s.Read(t.Context(), "default", key)
		require.NoError(t, err)
		require.Equal(t, who, x.CorrelationID)
		require.Equal(t, x.LastSeq, x.RequestedSeq)
		require.Equal(t, x.ID, x.RequestedSeq)
		require.False(t, seen[x.LastSeq])
		seen[x.LastSeq] = true
	}

	// Append returns the same state that a reader finds.
	for n := range keys {
		wg.Go(func() {
			x, err := s.Read(t.Context(), "default", name(n))
			for range rounds {
				if err == nil {
					x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{Reason: "a"}))
				}
				if err == nil {
					x, err = s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
						r := requested()
						r.ExportID = x.ID
						return r, nil
					})
				}
			}
			now, readErr := s.Read(t.Context(), "default", name(n))
			if err = errors.Join(err, readErr); err != nil {
				t.Error(err)
				return
			}
			if now.LastSeq != x.LastSeq || now.ID != x.ID || len(now.Timeline) != 1+2*rounds {
				t.Errorf("appended %+v, read %+v", x, now)
			}
		})
	}
	wg.Wait()
}

// BenchmarkAppend writes four events for each of many exports, from as many concurrent callers.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := eventstest.JournalOn(b, eventstest.Server(b, ""), journal.Config{})
			next := make(chan int)
			go func() {
				defer close(next)
				for n := range b.N {
					next <- n
				}
			}()
			b.ResetTimer()
			begun := time.Now()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for n := range next {
						x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
						for _, p := range []events.Payload{requested(),
							&events.ExportCrawled{Run: 1, Pages: 1},
							&events.ExportCompleted{Run: 1, Pages: 1}, &events.ExportExpired{}} {
							var err error
							if x, err = s.Append(context.Background(), x, "", always(p)); err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(4*float64(b.N)/time.Since(begun).Seconds(), "events/s")
		})
	}
}
