package events_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestTrimLogRemovesWhatLiesBelow(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.StreamsOn(t, srv, events.Config{})
	ctx := t.Context()
	state := func() events.LogState {
		l, err := s.LogState(ctx)
		require.NoError(t, err)
		return l
	}
	empty := state()
	require.EqualValues(t, 1, empty.First)
	require.Zero(t, empty.Last)
	require.Zero(t, empty.Trimmed)
	require.NoError(t, s.TrimLog(ctx, empty, 100), "there is nothing to trim")

	var ended []events.Export
	for n := range 3 {
		x, err := s.Append(ctx, events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "", always(requested()))
		require.NoError(t, err)
		x, err = s.Append(ctx, x, "", always(&events.ExportCancelled{}))
		require.NoError(t, err)
		ended = append(ended, x)
	}
	full := state()
	require.Positive(t, full.Full)
	require.WithinDuration(t, time.Now(), full.FirstTime, time.Minute)
	require.NoError(t, s.TrimLog(ctx, full, 1))
	require.Zero(t, state().Trimmed, "nothing lies below the first event")

	// 4 lies between the two events of an export.
	require.NoError(t, s.TrimLog(ctx, full, 4))
	l := state()
	require.EqualValues(t, 4, l.First)
	require.EqualValues(t, 4, l.Trimmed)
	require.EqualValues(t, 6, l.Last)
	for n, want := range []events.State{events.StateNone, events.StateNone, events.StateCancelled} {
		x, err := s.Read(ctx, ended[n].Tenant, ended[n].Key)
		require.NoError(t, err)
		require.Equal(t, want, x.State)
	}
	require.NoError(t, s.TrimLog(ctx, full, 3), "less than before")
	require.EqualValues(t, 4, state().First)

	// Whoever still believes in an export learns that it is gone, and may begin
	// it anew. If an event of it is left, he may also go on with what he knew.
	gone := errors.New("gone")
	unlessGone := func(x *events.Export) (events.Payload, error) {
		if x.State == events.StateNone {
			return nil, gone
		}
		return requested(), nil
	}
	_, err := s.Append(ctx, ended[0], "", unlessGone)
	require.ErrorIs(t, err, gone)
	again, err := s.Append(ctx, ended[0], "", always(requested()))
	require.NoError(t, err)
	require.Equal(t, again.RequestedSeq, again.ID)
	_, err = s.Append(ctx, events.Export{Tenant: "default", Key: ended[1].Key}, "", unlessGone)
	require.ErrorIs(t, err, gone)
	again, err = s.Append(ctx, ended[1], "", unlessGone)
	require.NoError(t, err)
	read, err := s.Read(ctx, again.Tenant, again.Key)
	require.NoError(t, err)
	require.Equal(t, again, read)

	require.NoError(t, s.TrimLog(ctx, state(), 1000))
	require.EqualValues(t, 8, state().First, "the newest event stays")
	require.EqualValues(t, 8, state().Trimmed)
}

func TestTrimmedIsOnlyWhatWasRemovedOnPurpose(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	ctx := t.Context()
	fill := func() events.LogState {
		for n := range 4 {
			_, err := s.Append(ctx, events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "", always(requested()))
			require.NoError(t, err)
		}
		l, err := s.LogState(ctx)
		require.NoError(t, err)
		return l
	}
	trimmed := func() events.LogState {
		l, err := s.LogState(ctx)
		require.NoError(t, err)
		return l
	}
	l := fill()
	require.NoError(t, s.TrimLog(ctx, l, 3))
	require.EqualValues(t, 3, trimmed().Trimmed)

	// A foreign hand, or damage, took more.
	log, err := s.JetStream().Stream(ctx, events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, log.Purge(ctx, jetstream.WithPurgeSequence(4)))
	require.EqualValues(t, 4, trimmed().First)
	require.EqualValues(t, 3, trimmed().Trimmed)

	// A process that died after its note and before the removal.
	_, err = s.JetStream().Publish(ctx, "sheaf.private.trimmed", []byte(fmt.Sprintf(`{"log_created":%q,"below":4000}`, l.Created.Format(time.RFC3339Nano))))
	require.NoError(t, err)
	require.EqualValues(t, 4, trimmed().Trimmed)

	// The note of another log says nothing about this one.
	_, err = s.JetStream().Publish(ctx, "sheaf.private.trimmed", []byte(`{"log_created":"2020-01-01T00:00:00Z","below":4}`))
	require.NoError(t, err)
	require.Zero(t, trimmed().Trimmed)
	_, err = s.JetStream().Publish(ctx, "sheaf.private.trimmed", []byte(`not JSON`))
	require.NoError(t, err)
	require.Zero(t, trimmed().Trimmed)
}

func TestHoldersAreFoundAndPurged(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	ctx := t.Context()
	key := func(n int) string { return fmt.Sprintf("%032x", n) }
	page := func(n, number int) {
		id := events.PageID{Tenant: "default", Key: key(n), Run: 7, Number: number}
		_, err := s.PublishPage(ctx, events.Page{PageID: id, Rows: []byte(`[{"a":1}]`), RowCount: 1, Total: -1})
		require.NoError(t, err)
	}
	page(1, 5)
	page(1, 6)
	require.NoError(t, s.SaveHeaders(ctx, "other", key(2), map[string]string{"A": "b"}))
	_, err := s.CountStart(ctx, "default", key(3), "m")
	require.NoError(t, err)
	holders, err := s.Holders(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []events.Holder{{"default", key(1)}, {"other", key(2)}, {"default", key(3)}}, holders)

	mark, err := s.PurgeMark(ctx)
	require.NoError(t, err)
	page(1, 7)
	_, err = s.Append(ctx, events.Export{Tenant: "default", Key: key(3)}, "", always(requested()))
	require.NoError(t, err)
	for _, h := range holders {
		err := s.PurgeUnknown(ctx, h, mark)
		if h.Key == key(3) {
			require.ErrorIs(t, err, events.ErrNotAllowed)
			continue
		}
		require.NoError(t, err)
	}
	holders, err = s.Holders(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []events.Holder{{"default", key(1)}, {"default", key(3)}}, holders)
	left, err := s.ListPages(ctx, "default", key(1), 7)
	require.NoError(t, err)
	require.Equal(t, []int{7}, left, "what lies behind the mark stays")
}

func TestIDTime(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Millisecond)
	at, ok := events.IDTime(events.NewID())
	require.True(t, ok)
	require.WithinRange(t, at, before, time.Now())
	for _, s := range []string{"", "x", "00000000-0000-4000-8000-000000000000"} {
		_, ok := events.IDTime(s)
		require.False(t, ok, s)
	}
}

// What was carried on is read as before when the events before it are gone, by whoever
// knows it or not, and goes on from there.
func TestWhatWasCarriedLivesOn(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	ctx := t.Context()
	paths := [][]events.Type{
		{events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeCallbackAttempted},
		{events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeCallbackDelivered, events.TypeExpired},
		{events.TypeRequested, events.TypeFailed},
		{events.TypeRequested, events.TypeCancelled, events.TypeRequested, events.TypeCancelled},
		{events.TypeRejected},
	}
	carried := make([]events.Export, len(paths))
	known := make([]events.Export, len(paths)) // before it was carried
	for n, path := range paths {
		x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
		for _, typ := range path {
			var err error
			x, err = s.Append(ctx, x, "order-17", always(payload(typ, x.LastSeq+1, "https://example.com/done")))
			require.NoError(t, err)
		}
		known[n] = x
	}
	for n := range paths {
		before, err := s.Read(ctx, "default", known[n].Key)
		require.NoError(t, err)
		carried[n], err = s.Append(ctx, before, "", func(x *events.Export) (events.Payload, error) {
			return &events.ExportCarried{Export: *x}, nil
		})
		require.NoError(t, err)
		require.Equal(t, storedAs(t, before), storedAs(t, carried[n]), "nothing has happened")
		require.Equal(t, before.WebhookID(), carried[n].WebhookID())
	}
	same := func() {
		t.Helper()
		for n := range paths {
			x, err := s.Read(ctx, "default", carried[n].Key)
			require.NoError(t, err)
			require.Equal(t, carried[n], x)
		}
	}
	same()
	l, err := s.LogState(ctx)
	require.NoError(t, err)
	require.NoError(t, s.TrimLog(ctx, l, carried[0].CarriedSeq))
	same()

	// The next event of each follows, whether its writer has seen the carrying or not.
	for n, next := range []events.Type{events.TypeCallbackDelivered, events.TypeRequested, events.TypeRequested, events.TypeRequested, events.TypeCarried} {
		p := payload(next, known[n].LastSeq, "")
		if next == events.TypeCarried {
			p = &events.ExportCarried{Export: carried[n]}
		}
		x, err := s.Append(ctx, known[n], "", always(p))
		require.NoError(t, err)
		require.NoError(t, carried[n].Apply(event(next, x.LastSeq, "")), "the fold admits it")
		read, err := s.Read(ctx, "default", x.Key)
		require.NoError(t, err)
		require.Equal(t, x.State, read.State)
		require.Equal(t, x.LastSeq, read.LastSeq)
		if next == events.TypeRequested {
			require.Zero(t, read.CarriedSeq)
		}
	}

	// A log that lost all that can be put back to where a projection saw it.
	other := eventstest.Streams(t)
	want := known[1]
	want.CarriedSeq = want.LastSeq + 1
	restored, err := other.Restore(ctx, want)
	require.NoError(t, err)
	require.True(t, restored)
	x, err := other.Read(ctx, "default", want.Key)
	require.NoError(t, err)
	require.Equal(t, [3]any{want.State, want.Rows, want.Callback.State}, [3]any{x.State, x.Rows, x.Callback.State})
	require.Zero(t, x.CarriedSeq)
}

// What is accepted can be carried on: a request leaves room for what comes of it.
func TestWhatIsAcceptedCanBeCarried(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	most := int(s.Conn().MaxPayload())
	x := events.Export{Tenant: "default", Key: testKey}
	large := func(size int) *events.ExportRequested {
		r := requested()
		r.Request.Title = strings.Repeat("x", size)
		return r
	}
	_, err := s.Append(t.Context(), x, "", always(large(most-10<<10)))
	require.ErrorIs(t, err, nats.ErrMaxPayload)
	x, err = s.Append(t.Context(), x, "", always(large(most-66<<10)))
	require.NoError(t, err)
	x, err = s.Append(t.Context(), x, "", always(&events.ExportFailed{Code: events.CodeSourceFormat, Reason: strings.Repeat("y", 60<<10)}))
	require.NoError(t, err)
	_, err = s.Append(t.Context(), x, "", always(&events.ExportCarried{Export: x}))
	require.NoError(t, err)
}
