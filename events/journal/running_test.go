package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func watch(t *testing.T, s *journal.Log) *journal.Running {
	t.Helper()
	r, err := s.Watch()
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, s.Conn().Flush())
	return r
}

func TestRunningStopsCancelledWork(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s, other := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	r := watch(t, s)
	var working []context.Context
	for n := range 2 {
		x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
		_, err := s.Append(t.Context(), x, "", always(requested()))
		require.NoError(t, err)
		ctx, leave, err := r.Enter(t.Context(), x.Key)
		require.NoError(t, err)
		defer leave()
		working = append(working, ctx)
	}
	start := time.Now()
	_, err := other.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", 0)}, "",
		always(&events.ExportCancelled{}))
	require.NoError(t, err)
	<-working[0].Done()
	require.Less(t, time.Since(start), time.Second)
	require.True(t, journal.Ended(working[0]))
	require.NoError(t, working[1].Err())
	require.False(t, journal.Ended(working[1]))
}

// A subscriber receives every attempted cancellation, even one that the stream refuses. Work that stopped
// because of such a one, and was acknowledged, would leave its export unfinished forever.
func TestRunningContinuesWhenACancellationWasNotWritten(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := watch(t, s)
	heard := make(chan string, 1)
	stop, err := s.OnCancelled(func(_, key string) { heard <- key })
	require.NoError(t, err)
	defer stop()
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	working, leave, err := r.Enter(t.Context(), testKey)
	require.NoError(t, err)
	defer leave()

	ev := events.Event{ID: events.NewID(), Tenant: "default", Key: testKey, Time: time.Now(),
		Payload: &events.ExportCancelled{}, Export: &x}
	require.NoError(t, x.Apply(ev))
	msg, err := events.Encode(ev)
	require.NoError(t, err)
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence", "9")
	_, err = s.JetStream().PublishMsg(t.Context(), msg)
	require.Error(t, err, "refused by the fence")
	require.Equal(t, testKey, <-heard)
	require.Never(t, func() bool { return working.Err() != nil }, 500*time.Millisecond, 10*time.Millisecond)

	// A written one is still received.
	_, err = s.Append(t.Context(), fresh(), "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	<-working.Done()
	require.True(t, journal.Ended(working))
}

func TestRunningAdmitsAnExportOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := watch(t, s)
	working, leave, err := r.Enter(t.Context(), testKey)
	require.NoError(t, err)
	require.Equal(t, 1, r.Len())
	_, _, err = r.Enter(t.Context(), testKey)
	require.ErrorIs(t, err, journal.ErrTaken)
	_, leaveOther, err := r.Enter(t.Context(), otherKey)
	require.NoError(t, err)
	leaveOther()
	leave()
	require.Zero(t, r.Len())
	require.Error(t, working.Err())
	require.False(t, journal.Ended(working), "it left by itself")
	_, leave, err = r.Enter(t.Context(), testKey)
	require.NoError(t, err)
	leave()

	ctx, cancel := context.WithCancelCause(t.Context())
	working, leave, err = r.Enter(ctx, testKey)
	require.NoError(t, err)
	defer leave()
	cancel(errors.New("drain"))
	<-working.Done()
	require.False(t, journal.Ended(working), "the process drains")
}

// Closing does not wait for a silent server.
func TestRunningClosesAtOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r, err := s.Watch()
	require.NoError(t, err)
	require.NoError(t, s.Conn().Flush())
	working, leave, err := r.Enter(t.Context(), testKey)
	require.NoError(t, err)
	defer leave()
	// Nothing was written, so the leader is asked repeatedly.
	require.NoError(t, s.Conn().PublishMsg(&nats.Msg{Subject: events.EventSubject("default",
		events.TypeCancelled, testKey)}))
	require.NoError(t, s.Conn().Flush())
	start := time.Now()
	r.Close()
	require.Less(t, time.Since(start), 500*time.Millisecond)
	require.NoError(t, working.Err(), "running work continues")
}
