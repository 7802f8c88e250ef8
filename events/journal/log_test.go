package journal_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

const testKey = "5ad5f7b92a816b76e70a21e4154c2485"

func requested() *events.ExportRequested {
	return &events.ExportRequested{CreatedAt: time.Now().UTC(),
		Request: events.Request{ExtType: "XLSX", SourceType: events.SourceRaw,
			Raw: &events.RawRows{Pages: 1}}}
}

func always(p events.Payload) journal.Decide {
	return func(*events.Export) (events.Payload, error) { return p, nil }
}

func TestAppendWritesThroughTheFence(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx := t.Context()
	fresh := events.Export{Tenant: "default", Key: testKey}

	x, err := s.Append(ctx, fresh, "c-1", always(requested()))
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
	require.Equal(t, x.ID, x.RequestedSeq)

	// A second writer that believes the key is new sees the first one's event.
	_, err = s.Append(ctx, fresh, "", func(seen *events.Export) (events.Payload, error) {
		if seen.State == events.StateRequested {
			return nil, fmt.Errorf("under way")
		}
		return requested(), nil
	})
	require.ErrorContains(t, err, "under way")

	x2, err := s.Append(ctx, x, "", always(&events.ExportCrawled{Run: x.RequestedSeq, Pages: 3}))
	require.NoError(t, err)
	_, err = s.Append(ctx, x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err, "a stale state is refreshed, and a cancel is still allowed")
	_, err = s.Append(ctx, x2, "", always(&events.ExportCompleted{}))
	require.ErrorIs(t, err, events.ErrNotAllowed)

	got, err := s.Read(ctx, "default", testKey)
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, got.State)
	require.Equal(t, "c-1", got.CorrelationID)
}

// Callers of LastSequence share questions to the leader, and each answer is at least as new as what was
// acknowledged before the call.
func TestLastSequenceIsAskedForTogether(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	var questions atomic.Int64
	sub, err := s.Conn().Subscribe("$JS.API.STREAM.INFO."+events.StreamEvents,
		func(*nats.Msg) { questions.Add(1) })
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	const writers, each, callers = 16, 10, 8 // callers ask at once, after each event
	var all errgroup.Group
	for n := range writers {
		all.Go(func() error {
			x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
			for range each {
				var err error
				x, err = s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
					if x.State == events.StateRequested {
						return &events.ExportCancelled{}, nil
					}
					return requested(), nil
				})
				if err != nil {
					return err
				}
				var asking errgroup.Group
				for range callers {
					asking.Go(func() error {
						last, err := s.LastSequence(t.Context())
						if err == nil && last < x.LastSeq {
							err = fmt.Errorf("the newest sequence is said to be %d after %d was acknowledged",
								last, x.LastSeq)
						}
						return err
					})
				}
				if err := asking.Wait(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
	t.Logf("%d questions for %d calls", questions.Load(), writers*each*callers)
	require.Positive(t, questions.Load())
	require.Less(t, questions.Load(), int64(writers*each*callers/2))
}

func TestConsumeAndFollow(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	handled := make(chan events.Event, 10)
	go func() {
		done <- s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 4,
			func(_ context.Context, d journal.Delivery) error {
				ev, err := d.Event()
				if err != nil {
					return err
				}
				if d.Delivered == 1 {
					return fmt.Errorf("try again")
				}
				handled <- ev
				return nil
			})
	}()
	seen := make(chan events.Event, 10)
	go func() {
		done <- s.Follow(ctx, 1, func(batch []events.Event) error {
			for _, ev := range batch {
				seen <- ev
			}
			return nil
		})
	}()
	_, err := s.Append(ctx, events.Export{Tenant: "default", Key: testKey}, "", always(requested()))
	require.NoError(t, err)
	require.Equal(t, testKey, (<-handled).Key)
	require.Equal(t, events.TypeRequested, (<-seen).Type())
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.ScheduleCallback(ctx, "default", testKey, time.Now().Add(time.Second)))
	due := make(chan string, 1)
	finished := make(chan error, 1)
	go func() {
		finished <- s.Consume(ctx, events.StreamTimers, events.ConsumerDueCallback, 1,
			func(_ context.Context, d journal.Delivery) error {
				_, key, err := journal.DueCallback(d.Subject)
				due <- key
				return err
			})
	}()
	require.Equal(t, testKey, <-due)
	cancel()
	require.NoError(t, <-finished)

	require.NoError(t, s.SaveHeaders(t.Context(), "default", testKey,
		map[string]string{"Authorization": "x"}))
	h, err := s.Headers(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, "x", h["Authorization"])
	n, err := s.CountStart(t.Context(), "default", testKey, "a")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = s.CountStart(t.Context(), "default", testKey, "a")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}
