package events_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	testKey  = "5ad5f7b92a816b76e70a21e4154c2485"
	otherKey = "68b5e20e3da35f7a4040844a63aaac89"
)

func fresh() events.Export { return events.Export{Tenant: "default", Key: testKey} }

var allTypes = []events.Type{
	events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeFailed, events.TypeCancelled,
	events.TypeExpired, events.TypeRejected, events.TypeCallbackAttempted, events.TypeCallbackDelivered,
	events.TypeCallbackFailed, events.TypeCallbackRequested,
}

func event(t events.Type, sequence uint64, callback string) events.Event {
	return events.Event{ID: fmt.Sprintf("e-%d", sequence), Tenant: "default", Key: testKey,
		Time: eventstest.At(sequence), Sequence: sequence, Payload: eventstest.Payload(t, sequence, callback)}
}

// The whole state machine: which type may follow in which state, and the next state. Everything else is
// refused.
func TestStateMachine(t *testing.T) {
	t.Parallel()
	const pending = "+callback" // the state with a pending callback
	const delivered = "+delivered"
	paths := map[string][]events.Type{
		"":          nil,
		"requested": {events.TypeRequested},
		"crawled":   {events.TypeRequested, events.TypeCrawled},
		"completed": {events.TypeRequested, events.TypeCrawled, events.TypeCompleted},
		"failed":    {events.TypeRequested, events.TypeFailed},
		"cancelled": {events.TypeRequested, events.TypeCancelled},
		"expired": {events.TypeRequested, events.TypeCrawled, events.TypeCompleted,
			events.TypeExpired},
		"rejected":            {events.TypeRejected},
		"requested" + pending: {events.TypeRequested},
		"crawled" + pending:   {events.TypeRequested, events.TypeCrawled},
		"completed" + pending: {events.TypeRequested, events.TypeCrawled, events.TypeCompleted},
		"failed" + pending:    {events.TypeRequested, events.TypeFailed},
		"cancelled" + pending: {events.TypeRequested, events.TypeCancelled},
		"expired" + pending: {events.TypeRequested, events.TypeCrawled, events.TypeCompleted,
			events.TypeExpired},
		"failed" + delivered: {events.TypeRequested, events.TypeFailed, events.TypeCallbackDelivered},
		"expired" + delivered: {events.TypeRequested, events.TypeCrawled, events.TypeCompleted,
			events.TypeCallbackFailed, events.TypeExpired},
	}
	allowed := map[string]map[events.Type]events.State{
		"": {events.TypeRequested: "requested", events.TypeRejected: "rejected"},
		"requested": {events.TypeCrawled: "crawled", events.TypeFailed: "failed",
			events.TypeCancelled: "cancelled"},
		"crawled": {events.TypeCompleted: "completed", events.TypeFailed: "failed",
			events.TypeCancelled: "cancelled"},
		"completed": {events.TypeExpired: "expired"},
		"failed":    {events.TypeRequested: "requested"},
		"cancelled": {events.TypeRequested: "requested"},
		"expired":   {events.TypeRequested: "requested"},
		"rejected":  {},
	}
	told := map[events.Type]string{
		events.TypeCallbackAttempted: events.CallbackPending,
		events.TypeCallbackDelivered: events.CallbackDone,
		events.TypeCallbackFailed:    events.CallbackExhausted,
		events.TypeCallbackRequested: events.CallbackPending,
	}
	for name, path := range paths {
		state, callback := name, ""
		for _, suffix := range []string{pending, delivered} {
			if short, ok := strings.CutSuffix(name, suffix); ok {
				state, callback = short, "https://example.com/done"
			}
		}
		for _, typ := range allTypes {
			x := fresh()
			for i, t2 := range path {
				require.NoError(t, x.Apply(event(t2, uint64(i+1), callback)))
			}
			require.Equal(t, events.State(state), x.State)
			before := x
			next, ok := allowed[state][typ]
			callbackTo, isCallback := told[typ]
			if isCallback && before.Callback.State == events.CallbackPending && typ != events.TypeCallbackRequested ||
				typ == events.TypeCallbackRequested && strings.HasSuffix(name, delivered) {
				next, ok = events.State(state), true
			}
			err := x.Allows(typ)
			applied := x.Apply(event(typ, 9, callback))
			if ok {
				require.NoError(t, err, "%s after %s", typ, name)
				require.NoError(t, applied, "%s after %s", typ, name)
				require.Equal(t, next, x.State, "%s after %s", typ, name)
				if isCallback {
					require.Equal(t, callbackTo, x.Callback.State)
				}
				require.Equal(t, []any{uint64(9), "e-9"}, []any{x.LastSeq, x.LastID})
				require.Len(t, x.Timeline, len(path)+1)
				continue
			}
			require.ErrorIs(t, err, events.ErrNotAllowed, "%s after %s", typ, name)
			require.ErrorIs(t, applied, events.ErrNotAllowed, "%s after %s", typ, name)
			require.Equal(t, before, x, "%s after %s changes nothing", typ, name)
		}
	}
	x := fresh()
	require.ErrorContains(t, x.Allows(events.TypeCompleted), "completed after unknown")
	require.ErrorIs(t, x.Allows("archived"), events.ErrNotAllowed)
}

func TestStates(t *testing.T) {
	t.Parallel()
	for state, want := range map[events.State]struct {
		terminal bool
		status   int
	}{
		events.StateNone: {false, 1}, events.StateRequested: {false, 1}, events.StateCrawled: {false, 1},
		events.StateCompleted: {true, 2}, events.StateExpired: {true, 2},
		events.StateFailed: {true, 3}, events.StateRejected: {true, 3}, events.StateCancelled: {true, 4},
	} {
		require.Equal(t, want.terminal, state.Terminal(), state)
		require.Equal(t, want.status, state.Status(), state)
	}
}

// The newest event of an export is always sufficient: it is decoded as its writer had it, even if earlier
// events are gone. A round ends once, the identity is constant, and the timeline is bounded and counts every
// event.
func TestTheNewestEventIsSufficient(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		callback := rapid.SampledFrom([]string{"", "https://example.com/done"}).Draw(t, "callback")
		x, sequence := fresh(), uint64(0)
		var first []events.Moment
		endings := map[uint64]int{}
		for n := 1; n <= 80; n++ {
			candidates := slices.DeleteFunc(slices.Clone(allTypes), func(typ events.Type) bool {
				return x.Allows(typ) != nil || typ == events.TypeRejected && n > 1
			})
			if len(candidates) == 0 {
				require.Equal(t, events.StateRejected, x.State)
				return
			}
			sequence += rapid.Uint64Range(1, 3).Draw(t, "gap")
			ev := event(rapid.SampledFrom(candidates).Draw(t, "type"), sequence, callback)
			ev.CorrelationID = "order-17"
			before := x
			if p, ok := ev.Payload.(*events.ExportRequested); ok && x.ID != 0 {
				p.ExportID, p.CreatedAt, p.ContinuesRun = x.ID, x.CreatedAt, x.RequestedSeq
			}
			stored := storedAs(t, before)
			require.NoError(t, x.Apply(ev))
			require.Equal(t, stored, storedAs(t, before), "other copies stay as they are")

			ev.Export = &x
			msg, err := events.Encode(ev)
			require.NoError(t, err)
			read, err := events.Decode(msg.Subject, msg.Header, msg.Data, sequence)
			require.NoError(t, err)
			require.Equal(t, storedAs(t, x), storedAs(t, *read.Export))
			var kept events.Export // by a projection
			require.NoError(t, json.Unmarshal([]byte(storedAs(t, x)), &kept))
			require.Equal(t, *read.Export, kept)
			require.Equal(t, ev.Payload, read.Payload)

			require.Equal(t, sequence, x.LastSeq)
			if before.ID != 0 {
				require.Equal(t, before.ID, x.ID)
				require.Equal(t, before.CreatedAt, x.CreatedAt)
			}
			if x.TerminalSeq != before.TerminalSeq && x.TerminalSeq != 0 {
				endings[x.RequestedSeq]++
				require.Equal(t, sequence, x.TerminalSeq)
				require.Equal(t, 1, endings[x.RequestedSeq], "a round ends once")
				require.Equal(t, fmt.Sprintf("%s-%d", testKey, sequence), x.WebhookID())
			}
			if x.State.Terminal() {
				require.NotZero(t, x.TerminalSeq)
				require.False(t, x.FinishedAt.IsZero())
			} else {
				require.Zero(t, x.TerminalSeq)
				require.Empty(t, x.Callback.State)
				require.Empty(t, x.Files)
				require.False(t, x.Settled())
			}
			run, ok := x.Resumable()
			require.Equal(t, ok, run != 0)

			count := 0
			for i, m := range x.Timeline {
				count += max(m.Events, 1)
				require.Equal(t, m.Events > 1, m.Type == "", "one that sums up others is of no type")
				require.True(t, i == 0 || !m.Time.Before(x.Timeline[i-1].Time), "they are in order")
			}
			require.Equal(t, n, count, "no event is left out")
			require.LessOrEqual(t, len(x.Timeline), 32)
			newest := x.Timeline[len(x.Timeline)-1]
			require.Equal(t, []any{ev.Type(), ev.ID, ev.Time},
				[]any{newest.Type, newest.EventID, newest.Time})
			if n <= 8 {
				first = slices.Clone(x.Timeline)
			}
			require.Equal(t, first, x.Timeline[:len(first)], "how it began stays")
		}
	})
}

// storedAs returns the lasting part of an export.
func storedAs(t require.TestingT, x events.Export) string {
	data, err := json.Marshal(x)
	require.NoError(t, err)
	return string(data)
}

// A field that refers to an event by its own sequence is not in that message, which is written before the
// sequence is known. Decode fills it in.
func TestAMessageDoesNotNameItsOwnSequence(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		path   []events.Type
		absent string // one of these refers to the event itself
		there  events.Export
	}{
		{[]events.Type{events.TypeRequested}, "id", events.Export{ID: 99, RequestedSeq: 99}},
		{[]events.Type{events.TypeRequested}, "requested_sequence", events.Export{ID: 99, RequestedSeq: 99}},
		{[]events.Type{events.TypeRequested, events.TypeCrawled}, "crawled_sequence",
			events.Export{ID: 1, RequestedSeq: 1, CrawledSeq: 99}},
		{[]events.Type{events.TypeRequested, events.TypeFailed}, "terminal_sequence",
			events.Export{ID: 1, RequestedSeq: 1, TerminalSeq: 99}},
		{[]events.Type{events.TypeRejected}, "terminal_sequence", events.Export{ID: 99, TerminalSeq: 99}},
		{[]events.Type{events.TypeRequested, events.TypeCancelled, events.TypeCallbackDelivered},
			"last_sequence", events.Export{ID: 1, RequestedSeq: 1, TerminalSeq: 2}},
	} {
		x := fresh()
		var ev events.Event
		for i, typ := range tc.path {
			ev = event(typ, uint64(i+1), "https://example.com/done")
			if i == len(tc.path)-1 {
				ev.Sequence = 0 // it is not written yet
			}
			require.NoError(t, x.Apply(ev))
		}
		ev.Export = &x
		for range 2 { // a decoded event is encoded unchanged
			msg, err := events.Encode(ev)
			require.NoError(t, err)
			var body struct{ Export map[string]any }
			require.NoError(t, json.Unmarshal(msg.Data, &body))
			require.NotContains(t, body.Export, tc.absent)
			require.NotContains(t, body.Export, "last_sequence")
			require.NotContains(t, body.Export, "last_event_id")
			ev, err = events.Decode(msg.Subject, msg.Header, msg.Data, 99)
			require.NoError(t, err)
			got := *ev.Export
			require.Equal(t, []any{uint64(99), ev.ID}, []any{got.LastSeq, got.LastID})
			require.Equal(t, tc.there,
				events.Export{ID: got.ID, RequestedSeq: got.RequestedSeq, CrawledSeq: got.CrawledSeq,
					TerminalSeq: got.TerminalSeq}, tc.path)
		}
	}
}

// A long reason is cut in the timeline, which every event contains, between two characters.
func TestATimelineIsShort(t *testing.T) {
	t.Parallel()
	x := fresh()
	require.NoError(t, x.Apply(event(events.TypeRequested, 1, "")))
	ev := event(events.TypeCancelled, 2, "")
	reason := "x" + strings.Repeat("中", 1000)
	ev.Payload = &events.ExportCancelled{Reason: reason}
	require.NoError(t, x.Apply(ev))
	require.Equal(t, reason[:256], x.Timeline[1].Outcome)
	require.Equal(t, reason, x.Failure.Reason)
	require.NoError(t, x.Apply(event(events.TypeRequested, 3, "")))
	ev.Sequence, ev.Payload = 4, &events.ExportCancelled{Reason: reason[1:]}
	require.NoError(t, x.Apply(ev))
	require.Equal(t, reason[1:256], x.Timeline[3].Outcome)
}

func TestIdentityLastsOverRounds(t *testing.T) {
	t.Parallel()
	x := fresh()
	require.NoError(t, x.Apply(event(events.TypeRequested, 5, "")))
	require.EqualValues(t, 5, x.ID)
	require.NoError(t, x.Apply(event(events.TypeFailed, 6, "")))
	again := event(events.TypeRequested, 9, "")
	p := again.Payload.(*events.ExportRequested)
	p.ExportID, p.CreatedAt, p.ContinuesRun = 5, eventstest.At(5), 5
	require.NoError(t, x.Apply(again))
	require.EqualValues(t, 5, x.ID)
	require.Equal(t, eventstest.At(5), x.CreatedAt)
	require.EqualValues(t, 9, x.RequestedSeq)
	require.EqualValues(t, 5, x.ContinuesRun)
	require.Zero(t, x.Failure)
	require.Zero(t, x.TerminalSeq)
}

func TestResumable(t *testing.T) {
	t.Parallel()
	base := func(f func(*events.Export)) events.Export {
		x := events.Export{State: events.StateFailed, RequestedSeq: 9}
		f(&x)
		return x
	}
	for name, tc := range map[string]struct {
		x   events.Export
		run uint64
	}{
		"failed before a page was seen":   {base(func(*events.Export) {}), 9},
		"failed in a run":                 {base(func(x *events.Export) { x.Run = 7 }), 7},
		"failed while it continued a run": {base(func(x *events.Export) { x.ContinuesRun = 5 }), 5},
		"failed in another than it began on": {base(func(x *events.Export) { x.Run, x.ContinuesRun = 9, 5 }),
			9},
		"its pages are spoiled": {base(func(x *events.Export) {
			x.Run,
				x.Failure.RunSpoiled = 7, true
		}), 0},
		"cancelled": {base(func(x *events.Export) { x.State = events.StateCancelled }), 9},
		"cancelled after it was crawled": {base(func(x *events.Export) {
			x.State,
				x.Run = events.StateCancelled, 7
		}), 7},
		"expired": {base(func(x *events.Export) {
			x.State,
				x.Run = events.StateExpired, 7
		}), 0},
		"completed": {base(func(x *events.Export) { x.State = events.StateCompleted }), 0},
		"under way": {base(func(x *events.Export) { x.State = events.StateRequested }), 0},
		"rejected":  {base(func(x *events.Export) { x.State = events.StateRejected }), 0},
		"unknown":   {events.Export{}, 0},
	} {
		run, ok := tc.x.Resumable()
		require.Equal(t, tc.run, run, name)
		require.Equal(t, tc.run != 0, ok, name)
	}
}

// Over any number of retries, the reusable pages never reach further back than before, or beyond a run found
// spoiled.
func TestRetriesNeverReachFurtherBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, floor, continues := fresh(), uint64(0), uint64(0)
		sequence := uint64(0)
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			sequence++
			begin := event(events.TypeRequested, sequence, "")
			begin.Payload.(*events.ExportRequested).ContinuesRun = continues
			require.NoError(t, x.Apply(begin))
			wrote := x.RequestedSeq // a round continues a run or starts its own
			if continues != 0 && rapid.Bool().Draw(t, "continues") {
				wrote = continues
			}
			sequence++
			var p events.Payload = &events.ExportCancelled{}
			if rapid.Bool().Draw(t, "fails") {
				run := rapid.SampledFrom([]uint64{0, wrote}).Draw(t, "named")
				p = &events.ExportFailed{Code: events.CodeSourceHTTP, Run: run,
					RunSpoiled: rapid.Bool().Draw(t, "spoiled")}
			}
			ev := event(events.TypeCancelled, sequence, "")
			ev.Payload = p
			require.NoError(t, x.Apply(ev))
			run, ok := x.Resumable()
			require.Equal(t, !x.Failure.RunSpoiled, ok)
			if continues = run; !ok {
				floor = sequence
				continue
			}
			require.GreaterOrEqual(t, run, floor)
			require.LessOrEqual(t, run, wrote, "the newest pages are among them")
			floor = run
		}
	})
}

// The reason why a file expired early lasts until the export restarts.
func TestExpiredReason(t *testing.T) {
	t.Parallel()
	x := events.Export{Tenant: "default", Key: testKey}
	apply := func(seq uint64, p events.Payload) {
		t.Helper()
		require.NoError(t, x.Apply(events.Event{ID: fmt.Sprint(seq), Tenant: x.Tenant, Key: x.Key,
			Time: time.Unix(int64(seq), 0), Sequence: seq, Payload: p}))
	}
	apply(1, &events.ExportRequested{})
	apply(2, &events.ExportCrawled{Run: 1})
	apply(3, &events.ExportCompleted{Run: 1})
	apply(4, &events.ExportExpired{Reason: "the file is missing from the store"})
	require.Equal(t, "the file is missing from the store", x.ExpiredReason)
	require.Equal(t, time.Unix(4, 0), x.ExpiresAt)
	require.Empty(t, x.Failure, "the export itself succeeded")
	apply(5, &events.ExportRequested{})
	require.Empty(t, x.ExpiredReason)
}
