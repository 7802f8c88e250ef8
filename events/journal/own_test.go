package journal_test

import (
	"context"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// The first handler of an event that its process wrote needs no request. Once the export has changed, or the
// message was handled before, the leader is asked.
func TestReadDeliveredAsksTheLeaderOnlyWhenItMust(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	shared := eventstest.JournalOn(t, srv, journal.Config{Shared: true})
	reads := make(chan string, 64)
	_, err := eventstest.Connect(t, srv).Subscribe("$JS.API.STREAM.MSG.GET."+events.StreamEvents,
		func(m *nats.Msg) { reads <- m.Subject })
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	deliveries, ended := make(chan journal.Delivery), make(chan error, 1)
	go func() {
		ended <- s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 1,
			func(_ context.Context, d journal.Delivery) error {
				deliveries <- d
				return nil
			})
	}()
	defer func() { stop(); require.NoError(t, <-ended) }()
	before, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	d := <-deliveries
	ev, err := d.Event()
	require.NoError(t, err)
	require.Empty(t, reads)

	x, err := s.ReadDelivered(t.Context(), d, ev)
	require.NoError(t, err)
	require.Empty(t, reads)
	read, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, read, x, "the event holds what the leader has")
	require.Equal(t, before.LastSeq, x.LastSeq)
	<-reads

	again := d
	again.Delivered = 2
	_, err = s.ReadDelivered(t.Context(), again, ev)
	require.NoError(t, err)
	<-reads
	_, err = shared.ReadDelivered(t.Context(), d, ev)
	require.NoError(t, err)
	<-reads

	_, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	x, err = s.ReadDelivered(t.Context(), d, ev)
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, x.State)
	<-reads
}
