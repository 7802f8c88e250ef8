package events_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// While a tenant has as many pages on their way as it may, its next one waits, and those
// of others do not.
func TestPagesOfATenantWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	write := func(ctx context.Context, tenant string) error {
		p := page(1, []byte(`[{"a":1}]`))
		p.Tenant = tenant
		_, err := s.PublishPage(ctx, p)
		return err
	}
	leave := s.HoldWriters(t.Context(), "busy")
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	require.ErrorIs(t, write(soon, "busy"), events.ErrUnavailable)
	cancel()
	require.NoError(t, write(t.Context(), "other"))
	leave()
	require.NoError(t, write(t.Context(), "busy"))
}

// A tenant can queue so many submissions; what was queued before there was a limit stays.
func TestQueuedSubmissionsAreBounded(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	limited := events.Config{MaxQueued: 3}
	s := eventstest.StreamsOn(t, srv, events.Config{})
	submit := func(subject string) error {
		_, err := s.JetStream().Publish(t.Context(), subject, []byte("{}"))
		return err
	}
	queued := func() uint64 {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		return st.CachedInfo().State.Msgs
	}
	for range 5 {
		require.NoError(t, submit("sheaf.submit.busy.raw"))
	}
	eventstest.StreamsOn(t, srv, limited)
	require.EqualValues(t, 5, queued())
	st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	cons, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
	require.NoError(t, err)
	got, err := cons.Fetch(2)
	require.NoError(t, err)
	for m := range got.Messages() {
		require.NoError(t, m.DoubleAck(t.Context()))
	}
	eventstest.StreamsOn(t, srv, limited)
	require.EqualValues(t, 3, queued())
	err = submit("sheaf.submit.busy.raw")
	var refused *jetstream.APIError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Description, "maximum messages per subject exceeded")
	require.NoError(t, submit("sheaf.submit.busy.http"))
	require.NoError(t, submit("sheaf.submit.other.raw"))
}
