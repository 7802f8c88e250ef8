package journal_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// The writer of an event hears of it once, with the export after it. Refused events and those of other
// processes are not its own.
func TestAppendedIsCalledForOwnEvents(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	var heard []events.Event
	s := eventstest.JournalOn(t, srv, journal.Config{Appended: func(ev events.Event) {
		at := *ev.Export
		ev.Export = &at
		heard = append(heard, ev)
	}})
	other := eventstest.JournalOn(t, srv, journal.Config{})
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	_, err = s.Append(t.Context(), fresh(), "", always(requested()))
	require.ErrorIs(t, err, events.ErrNotAllowed)
	_, err = other.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	_, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.ErrorIs(t, err, events.ErrNotAllowed)
	require.Len(t, heard, 1)
	require.Equal(t, events.TypeRequested, heard[0].Type())
	require.Equal(t, x.LastSeq, heard[0].Sequence)
	require.Equal(t, x, *heard[0].Export)
}

func TestStatsOfStreamsAndConsumers(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	begin := time.Now()
	_, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	consumer := func() journal.ConsumerStats {
		sizes, consumers, err := s.Stats(t.Context())
		require.NoError(t, err)
		require.Len(t, sizes, 7)
		require.Len(t, consumers, 5)
		for _, st := range sizes {
			if st.Name == events.StreamEvents {
				require.Equal(t, uint64(1), st.Messages)
				require.Positive(t, st.Space.Used)
				require.Equal(t, int64(2<<30), st.Space.Limit)
			}
		}
		for _, c := range consumers {
			if c.Name == events.ConsumerCrawler {
				return c
			}
			require.Zero(t, c.Pending, c.Name)
			require.True(t, c.OldestPending.IsZero(), c.Name)
		}
		return journal.ConsumerStats{}
	}
	waiting := consumer()
	require.Equal(t, uint64(1), waiting.Pending)
	require.WithinDuration(t, begin, waiting.OldestPending, time.Minute)
	require.Zero(t, s.Redeliveries()[events.ConsumerCrawler])

	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	working, done := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 1, func(context.Context, journal.Delivery) error {
			if calls.Add(1) == 1 {
				return journal.RetryAfter(errors.New("again"), time.Millisecond)
			}
			close(working)
			<-done
			return nil
		})
	}()
	<-working
	busy := consumer()
	require.Zero(t, busy.Pending)
	require.Equal(t, 1, busy.Unacknowledged)
	require.True(t, busy.OldestPending.IsZero())
	require.Equal(t, uint64(1), s.Redeliveries()[events.ConsumerCrawler])
	close(done)
	cancel()
	require.NoError(t, <-ended)
}
