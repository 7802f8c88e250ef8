package events_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// newer publishes an event that a later version of Sheaf might write.
func newer(t *testing.T, s *events.Streams, typ events.Type, ceType, data string) uint64 {
	t.Helper()
	return foreign(t, s, events.EventSubject("default", typ, testKey), nats.Header{
		"ce-id": {events.NewID()}, "ce-type": {ceType}, "ce-time": {time.Now().UTC().Format(time.RFC3339Nano)},
	}, data)
}

// An old process is given only types that it knows: each filter names them.
func TestConsumersOfTheLogFilterByKnownTypes(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	log, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	consumers := 0
	for c := range log.ListConsumers(t.Context()).Info() {
		if c.Config.Durable == "" {
			continue
		}
		consumers++
		filters := c.Config.FilterSubjects
		if c.Config.FilterSubject != "" {
			filters = append(filters, c.Config.FilterSubject)
		}
		require.NotEmpty(t, filters, c.Name)
		for _, filter := range filters {
			tokens := strings.Split(filter, ".")
			require.Len(t, tokens, 5, filter)
			require.True(t, slices.Contains(allTypes, events.Type(tokens[3])), filter)
		}
	}
	require.Equal(t, 3, consumers)
}

// A newer version of a type keeps its subject, so an old process is given it. It
// hands it on until a newer process gets it, and goes on with the rest. What no
// version wrote is given up.
func TestNewerEventIsLeftToANewerProcess(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s, other := eventstest.StreamsOn(t, srv, events.Config{}), eventstest.StreamsOn(t, srv, events.Config{})
	const v2 = "sheaf.export.requested.v2"
	want := newer(t, s, events.TypeRequested, v2, `{}`)
	newer(t, s, events.TypeRequested, "archived", `{}`)
	newer(t, s, events.TypeRequested, "sheaf.export.crawled.v1", `{}`)
	last, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: strings.Repeat("b", 32)}, "", always(requested()))
	require.NoError(t, err)

	consume := func(s *events.Streams, h events.Handler) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 1, h) }()
		return func() {
			cancel()
			require.NoError(t, <-done)
		}
	}
	type seen struct {
		sequence, delivered uint64
		err                 error
	}
	old := make(chan seen, 100)
	stop := consume(s, func(_ context.Context, d events.Delivery) error {
		_, err := d.Event()
		old <- seen{d.Sequence, d.Delivered, err}
		return err
	})
	var again, rest bool
	for !again || !rest {
		got := <-old
		switch got.sequence {
		case want:
			require.ErrorIs(t, got.err, events.ErrNewerEvent)
			again = got.delivered > 1
		case last.LastSeq:
			require.NoError(t, got.err)
			rest = true
		default:
			require.ErrorIs(t, got.err, events.ErrUnknownEvent)
			require.NotErrorIs(t, got.err, events.ErrNewerEvent)
			require.EqualValues(t, 1, got.delivered, "given up")
		}
	}
	stop()
	taken := make(chan events.Delivery, 10)
	stop = consume(other, func(_ context.Context, d events.Delivery) error { // a process that knows it
		taken <- d
		return nil
	})
	d := <-taken
	require.Equal(t, want, d.Sequence)
	require.Equal(t, v2, d.Header.Get("ce-type"))
	stop()
	c, err := s.JetStream().Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // acknowledgements are on their way
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 0
	}, 10*time.Second, 5*time.Millisecond)
	require.Empty(t, taken)
}

// Fields and attributes that a newer version added are no hindrance.
func TestUnknownFieldsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, ev := range samples() {
		msg, err := events.Encode(ev)
		require.NoError(t, err)
		msg.Header.Set("ce-colour", "red")
		data := `{"colour":{"of":["x"]},` + strings.TrimPrefix(string(msg.Data), "{")
		data = strings.Replace(data, ",}", "}", 1)
		data = strings.ReplaceAll(data, `"request":{`, `"request":{"shade":7,`)
		got, err := events.Decode(msg.Subject, msg.Header, []byte(data), 1)
		require.NoError(t, err, ev.Type())
		plain, err := events.Decode(msg.Subject, msg.Header, msg.Data, 1)
		require.NoError(t, err)
		require.Equal(t, plain, got)
	}
}

// An event that is not known moves the key's sequence, so the next one passes
// the fence, and nothing else.
func TestUnknownEventDoesNotStopAKey(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	newer(t, s, "paused", "sheaf.export.paused.v1", `{"by":"x"}`)
	last := newer(t, s, events.TypeCrawled, "sheaf.export.crawled.v2", `{"run":"x"}`)
	now, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, now.State)
	require.Equal(t, last, now.LastSeq)
	x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, x.State)
}

func TestVocabularyIsOfThisVersion(t *testing.T) {
	t.Parallel()
	require.Len(t, events.Vocabulary(), 16)
	require.Equal(t, events.Vocabulary(), events.Vocabulary())
	require.True(t, errors.Is(events.ErrNewerEvent, events.ErrUnknownEvent))
}

// A key of which the log holds what only a newer version can read is not a key of nothing.
func TestHasUnknown(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	has := func(want bool) {
		t.Helper()
		got, err := s.HasUnknown(t.Context(), "default", testKey)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	has(false)
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: testKey}, "", always(requested()))
	require.NoError(t, err)
	_, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	has(false)
	newer(t, s, "moved", "sheaf.export.moved.v1", `{}`)
	has(true)
	_, err = s.HasUnknown(t.Context(), "*", testKey)
	require.Error(t, err)
}
