package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// newer publishes an event as a later version of Sheaf might.
func newer(t *testing.T, s *journal.Log, typ events.Type, ceType, data string) uint64 {
	t.Helper()
	return foreign(t, s, events.EventSubject("default", typ, testKey), nats.Header{
		"ce-id": {events.NewID()}, "ce-type": {ceType},
		"ce-time": {time.Now().UTC().Format(time.RFC3339Nano)},
	}, data)
}

// An old process receives only types that it knows: each filter names them.
func TestConsumersOfTheLogFilterByKnownTypes(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
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
			require.NotNil(t, events.Schema(events.Type(tokens[3])), filter)
		}
	}
	require.Equal(t, 3, consumers)
}

// A newer version of a type keeps its subject, so an old process receives it. It hands it back until a newer
// process gets it, and continues with the rest. Types that no version writes are given up.
func TestNewerEventIsLeftToANewerProcess(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s, other := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	const v2 = "sheaf.export.requested.v2"
	want := newer(t, s, events.TypeRequested, v2, `{}`)
	newer(t, s, events.TypeRequested, "archived", `{}`)
	newer(t, s, events.TypeRequested, "sheaf.export.crawled.v1", `{}`)
	last, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: strings.Repeat("b", 32)}, "",
		always(requested()))
	require.NoError(t, err)

	consume := func(s *journal.Log, h journal.Handler) (stop func()) {
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
	stop := consume(s, func(_ context.Context, d journal.Delivery) error {
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
	taken := make(chan journal.Delivery, 10)
	stop = consume(other, func(_ context.Context, d journal.Delivery) error { // a process that knows it
		taken <- d
		return nil
	})
	d := <-taken
	require.Equal(t, want, d.Sequence)
	require.Equal(t, v2, d.Header.Get("ce-type"))
	stop()
	c, err := s.JetStream().Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // acknowledgements are in transit
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 0
	}, 10*time.Second, 5*time.Millisecond)
	require.Empty(t, taken)
}

// An event of an unknown type still contains the export after it. Without one it only advances the key's
// sequence, so the next event passes the fence. Either way the export's leftovers do not count as those of an
// unknown key.
func TestUnknownEventDoesNotStopAKey(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	mark, err := s.PurgeMark(t.Context())
	require.NoError(t, err)
	x, err := s.Append(t.Context(), fresh(), "c-1", always(requested()))
	require.NoError(t, err)
	paused := x
	paused.Request.Title = "as the newer version has it"
	data, err := json.Marshal(map[string]any{"by": "x", "export": paused})
	require.NoError(t, err)
	last := newer(t, s, "paused", "sheaf.export.paused.v1", string(data))
	now, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, last, now.LastSeq)
	require.NotEqual(t, x.LastID, now.LastID)
	paused.LastSeq, paused.LastID = now.LastSeq, now.LastID
	require.Equal(t, paused, now)
	x, err = s.Append(t.Context(), x, "", always(&events.ExportCrawled{Run: x.ID, Pages: 1}))
	require.NoError(t, err)
	require.Equal(t, paused.Request.Title, x.Request.Title)

	last = newer(t, s, events.TypeCrawled, "sheaf.export.crawled.v2", `{"run":"x"}`)
	now, err = s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, events.StateNone, now.State)
	require.Equal(t, last, now.LastSeq)
	require.ErrorIs(t, s.PurgeUnknown(t.Context(), journal.Leftover{Tenant: x.Tenant, Key: x.Key}, mark),
		events.ErrNotAllowed)
	require.ErrorIs(t, s.PurgeEnded(t.Context(), x, mark), events.ErrNotAllowed)
	_, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.ErrorIs(t, err, events.ErrNotAllowed, "an unreadable export is not ended")
	x, err = s.Append(t.Context(), x, "", always(requested()))
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
	require.Equal(t, x.LastSeq, x.ID)
}

func TestVocabularyIsOfThisVersion(t *testing.T) {
	t.Parallel()
	require.Len(t, events.Vocabulary(), 16)
	require.Equal(t, events.Vocabulary(), events.Vocabulary())
	require.True(t, errors.Is(events.ErrNewerEvent, events.ErrUnknownEvent))
}
