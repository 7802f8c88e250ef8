package events_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var allTypes = []events.Type{
	events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeFailed, events.TypeCancelled,
	events.TypeExpired, events.TypeRejected, events.TypeCarried, events.TypeCallbackAttempted, events.TypeCallbackDelivered, events.TypeCallbackFailed,
}

// at is a fixed time, n seconds on.
func at(n uint64) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

// payload returns a payload of a type whose content depends on n.
func payload(t events.Type, n uint64, callback string) events.Payload {
	switch t {
	case events.TypeRequested:
		return &events.ExportRequested{CreatedAt: at(n), Request: events.Request{Title: fmt.Sprint(n), SourceType: events.SourceHTTP, Callback: callback}}
	case events.TypeCrawled:
		return &events.ExportCrawled{Run: n, Pages: int(n)}
	case events.TypeCompleted:
		return &events.ExportCompleted{Run: n, Pages: int(n), Rows: int64(n), Files: []events.File{{Store: fmt.Sprint(n)}}, ExpiresAt: at(n + 100)}
	case events.TypeFailed:
		return &events.ExportFailed{Code: events.CodeInternal, Reason: fmt.Sprint(n), Run: n, RunSpoiled: n%3 == 0}
	case events.TypeCancelled:
		return &events.ExportCancelled{Reason: fmt.Sprint(n)}
	case events.TypeExpired:
		return &events.ExportExpired{Files: []string{fmt.Sprint(n)}}
	case events.TypeRejected:
		return &events.SubmissionRejected{Submission: events.Submission{Sequence: n}, Reason: fmt.Sprint(n)}
	case events.TypeCarried:
		return &events.ExportCarried{Export: events.Export{
			Tenant: "default", Key: testKey, ID: 1, CreatedAt: at(0), State: events.StateFailed, Request: events.Request{Callback: callback},
			LastSeq: n - 1, TerminalSeq: n, FinishedAt: at(n), Failure: events.ExportFailed{RunSpoiled: true},
		}}
	case events.TypeCallbackAttempted:
		return &events.CallbackAttempted{Attempt: int(n), Status: 500, NextAt: at(n + 5)}
	case events.TypeCallbackDelivered:
		return &events.CallbackDelivered{Attempt: int(n), Status: 204}
	case events.TypeCallbackFailed:
		return &events.CallbackFailed{Attempt: int(n), Status: 410}
	}
	return nil
}

func event(t events.Type, sequence uint64, callback string) events.Event {
	return events.Event{ID: fmt.Sprintf("e-%d", sequence), Tenant: "default", Key: testKey, Time: at(sequence), Sequence: sequence, Payload: payload(t, sequence, callback)}
}

// The whole state machine: which type may follow in which state, and what it
// leads to. What is not named here is refused.
func TestStateMachine(t *testing.T) {
	t.Parallel()
	const pending = "+callback" // the state with a callback still to be told
	paths := map[string][]events.Type{
		"":                    nil,
		"requested":           {events.TypeRequested},
		"crawled":             {events.TypeRequested, events.TypeCrawled},
		"completed":           {events.TypeRequested, events.TypeCrawled, events.TypeCompleted},
		"failed":              {events.TypeRequested, events.TypeFailed},
		"cancelled":           {events.TypeRequested, events.TypeCancelled},
		"expired":             {events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeExpired},
		"rejected":            {events.TypeRejected},
		"requested" + pending: {events.TypeRequested},
		"crawled" + pending:   {events.TypeRequested, events.TypeCrawled},
		"completed" + pending: {events.TypeRequested, events.TypeCrawled, events.TypeCompleted},
		"failed" + pending:    {events.TypeRequested, events.TypeFailed},
		"cancelled" + pending: {events.TypeRequested, events.TypeCancelled},
		"expired" + pending:   {events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeExpired},
	}
	allowed := map[string]map[events.Type]events.State{
		"":          {events.TypeRequested: "requested", events.TypeRejected: "rejected"},
		"requested": {events.TypeCrawled: "crawled", events.TypeFailed: "failed", events.TypeCancelled: "cancelled"},
		"crawled":   {events.TypeCompleted: "completed", events.TypeFailed: "failed", events.TypeCancelled: "cancelled"},
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
	}
	for name, path := range paths {
		state, callback := name, ""
		if n := len(name) - len(pending); n > 0 && name[n:] == pending {
			state, callback = name[:n], "https://example.com/done"
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
			if isCallback && before.Callback.State == events.CallbackPending {
				next, ok = events.State(state), true
			}
			err := x.Allows(typ)
			ev := event(typ, 9, callback)
			if typ == events.TypeCarried && before.State.Terminal() {
				next, ok = before.State, true
				ev.Payload = &events.ExportCarried{Export: before}
			}
			applied := x.Apply(ev)
			if ok {
				require.NoError(t, err, "%s after %s", typ, name)
				require.NoError(t, applied, "%s after %s", typ, name)
				require.Equal(t, next, x.State, "%s after %s", typ, name)
				if isCallback {
					require.Equal(t, callbackTo, x.Callback.State)
				}
				if typ == events.TypeCarried {
					before.LastSeq, before.LastID, before.CarriedSeq = 9, "e-9", 9
					require.Equal(t, before, x, "nothing else has happened")
				}
				continue
			}
			require.ErrorIs(t, err, events.ErrNotAllowed, "%s after %s", typ, name)
			if begins := map[events.Type]events.State{events.TypeRequested: events.StateRequested, events.TypeCarried: events.StateFailed}[typ]; begins != "" {
				// A fold begins anew at what repeats all: see Apply.
				require.NoError(t, applied)
				require.Equal(t, begins, x.State)
				continue
			}
			require.ErrorIs(t, applied, events.ErrNotAllowed, "%s after %s", typ, name)
			before.LastSeq, before.LastID = 9, "e-9"
			require.Equal(t, before, x, "%s after %s changes LastSeq alone", typ, name)
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

// fold applies events to an export that does not exist yet.
func fold(log []events.Event) events.Export {
	x := fresh()
	for _, ev := range log {
		_ = x.Apply(ev)
	}
	return x
}

// Whatever lies in the log, its fold is the same however often it is repeated,
// wherever it is cut, and through a store that keeps JSON; and a round ends
// once.
func TestFold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		callback := rapid.SampledFrom([]string{"", "https://example.com/done"}).Draw(t, "callback")
		log := make([]events.Event, rapid.IntRange(0, 25).Draw(t, "length"))
		honest := rapid.Bool().Draw(t, "honest")
		x, sequence := fresh(), uint64(0)
		endings := map[uint64]int{}
		for i := range log {
			sequence += rapid.Uint64Range(1, 3).Draw(t, "gap")
			candidates := allTypes
			if honest { // only what the fence would let through
				candidates = slices.DeleteFunc(slices.Clone(allTypes), func(typ events.Type) bool { return x.Allows(typ) != nil })
				if len(candidates) == 0 {
					log = log[:i]
					break
				}
			}
			typ := rapid.SampledFrom(candidates).Draw(t, "type")
			log[i] = event(typ, sequence, callback)
			log[i].Requested = x.RequestedSeq
			if typ == events.TypeCarried && honest {
				log[i].Payload = &events.ExportCarried{Export: x}
			}
			before := x
			err := x.Apply(log[i])
			require.False(t, honest && err != nil)
			require.Equal(t, sequence, x.LastSeq)
			if typ == events.TypeCarried {
				if honest {
					require.Equal(t, storedAs(t, before), storedAs(t, x), "nothing has happened")
				}
			} else if x.TerminalSeq != before.TerminalSeq && x.TerminalSeq != 0 {
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
			}
			if before.ID != 0 && typ != events.TypeRequested && (honest || typ != events.TypeCarried) {
				require.Equal(t, before.ID, x.ID)
				require.Equal(t, before.CreatedAt, x.CreatedAt)
			}
			run, ok := x.Resumable()
			require.Equal(t, ok, run != 0)
			if ok {
				require.Contains(t, []events.State{events.StateFailed, events.StateCancelled}, x.State)
				require.False(t, x.Failure.RunSpoiled)
			}
		}

		require.Equal(t, x, fold(log), "again")
		require.Equal(t, x, fold(append(slices.Clone(log), log...)), "the whole log twice")
		var doubled []events.Event
		for _, ev := range log {
			doubled = append(doubled, ev, ev)
		}
		require.Equal(t, x, fold(doubled), "each event twice")

		// A projection that stops anywhere, is written down, and goes on.
		cut := rapid.IntRange(0, len(log)).Draw(t, "cut")
		part := fold(log[:cut])
		data, err := json.Marshal(part)
		require.NoError(t, err)
		var restored events.Export
		require.NoError(t, json.Unmarshal(data, &restored))
		for _, ev := range log[max(cut-3, 0):] { // a few come again
			_ = restored.Apply(ev)
		}
		require.Equal(t, x, restored)

		// A reader that starts at the newest event that repeats all comes to the same,
		// as does one that was sent it.
		for i := len(log) - 1; i >= 0; i-- {
			if log[i].Type() == events.TypeCarried {
				msg, err := events.Encode(log[i])
				require.NoError(t, err)
				read, err := events.Decode(msg.Subject, msg.Header, msg.Data, log[i].Sequence)
				require.NoError(t, err)
				require.Equal(t, x, fold(append([]events.Event{read}, log[i+1:]...)))
			}
			if log[i].Type() == events.TypeRequested || log[i].Type() == events.TypeCarried {
				require.Equal(t, x, fold(log[i:]))
				break
			}
		}
	})
}

// storedAs is what lasts of an export, but for where its newest events lie.
func storedAs(t require.TestingT, x events.Export) string {
	x.LastSeq, x.LastID, x.CarriedSeq = 0, "", 0
	data, err := json.Marshal(x)
	require.NoError(t, err)
	return string(data)
}

// What a foreign hand carried on is none of this export, or had not ended.
func TestCarriedIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*events.Export){
		"another tenant's": func(x *events.Export) { x.Tenant = "other" },
		"another key's":    func(x *events.Export) { x.Key = strings.Repeat("b", 32) },
		"under way":        func(x *events.Export) { x.State = events.StateCrawled },
		"of later":         func(x *events.Export) { x.LastSeq = 9 },
	} {
		for _, path := range [][]events.Type{nil, {events.TypeRequested}, {events.TypeRequested, events.TypeFailed}} {
			x := fresh()
			for i, typ := range path {
				require.NoError(t, x.Apply(event(typ, uint64(i+1), "")))
			}
			want := x
			want.LastSeq, want.LastID = 9, "e-9"
			ev := event(events.TypeCarried, 9, "")
			change(&ev.Payload.(*events.ExportCarried).Export)
			require.ErrorIs(t, x.Apply(ev), events.ErrNotAllowed, name)
			require.Equal(t, want, x, name)
		}
	}
}

func TestIdentityLastsOverRounds(t *testing.T) {
	t.Parallel()
	x := fresh()
	require.NoError(t, x.Apply(event(events.TypeRequested, 5, "")))
	require.EqualValues(t, 5, x.ID)
	require.NoError(t, x.Apply(event(events.TypeFailed, 6, "")))
	again := event(events.TypeRequested, 9, "")
	p := again.Payload.(*events.ExportRequested)
	p.ExportID, p.CreatedAt, p.ContinuesRun = 5, at(5), 5
	require.NoError(t, x.Apply(again))
	require.EqualValues(t, 5, x.ID)
	require.Equal(t, at(5), x.CreatedAt)
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
		"failed before a page was seen":      {base(func(*events.Export) {}), 9},
		"failed in a run":                    {base(func(x *events.Export) { x.Run = 7 }), 7},
		"failed while it continued a run":    {base(func(x *events.Export) { x.ContinuesRun = 5 }), 5},
		"failed in another than it began on": {base(func(x *events.Export) { x.Run, x.ContinuesRun = 9, 5 }), 9},
		"its pages are spoiled":              {base(func(x *events.Export) { x.Run, x.Failure.RunSpoiled = 7, true }), 0},
		"cancelled":                          {base(func(x *events.Export) { x.State = events.StateCancelled }), 9},
		"cancelled after it was crawled":     {base(func(x *events.Export) { x.State, x.Run = events.StateCancelled, 7 }), 7},
		"expired":                            {base(func(x *events.Export) { x.State, x.Run = events.StateExpired, 7 }), 0},
		"completed":                          {base(func(x *events.Export) { x.State = events.StateCompleted }), 0},
		"under way":                          {base(func(x *events.Export) { x.State = events.StateRequested }), 0},
		"rejected":                           {base(func(x *events.Export) { x.State = events.StateRejected }), 0},
		"unknown":                            {events.Export{}, 0},
	} {
		run, ok := tc.x.Resumable()
		require.Equal(t, tc.run, run, name)
		require.Equal(t, tc.run != 0, ok, name)
	}
}

// Over any number of retries the pages that may be used again never reach back
// behind what they reached to before, nor behind a run that was found spoiled.
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
			wrote := x.RequestedSeq // a round continues a run or begins its own
			if continues != 0 && rapid.Bool().Draw(t, "continues") {
				wrote = continues
			}
			sequence++
			var p events.Payload = &events.ExportCancelled{}
			if rapid.Bool().Draw(t, "fails") {
				run := rapid.SampledFrom([]uint64{0, wrote}).Draw(t, "named")
				p = &events.ExportFailed{Code: events.CodeSourceHTTP, Run: run, RunSpoiled: rapid.Bool().Draw(t, "spoiled")}
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
			require.LessOrEqual(t, run, wrote, "what was written last is among them")
			floor = run
		}
	})
}

// Why a file expired before its time lasts until the export begins again.
func TestExpiredReason(t *testing.T) {
	t.Parallel()
	x := events.Export{Tenant: "default", Key: testKey}
	apply := func(seq uint64, p events.Payload) {
		t.Helper()
		require.NoError(t, x.Apply(events.Event{ID: fmt.Sprint(seq), Tenant: x.Tenant, Key: x.Key, Time: time.Unix(int64(seq), 0), Sequence: seq, Payload: p}))
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
