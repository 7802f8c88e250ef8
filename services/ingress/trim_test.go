package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func (in *ingress) log(t require.TestingT) events.LogState {
	l, err := in.streams.LogState(bg)
	require.NoError(t, err)
	return l
}

// bg is the context of what rapid.T cannot give one to.
var bg = context.Background()

// caughtUpTo waits until the projection has seen the log.
func (in *ingress) caughtUpTo(t require.TestingT) events.LogState {
	l := in.log(t)
	require.NoError(t, in.tasks.WaitApplied(bg, l.Last))
	return l
}

func (in *ingress) digest(t require.TestingT) string {
	_, sum, err := in.tasks.Digest()
	require.NoError(t, err)
	return sum
}

// rebuilt is the digest of a projection that is made from what is left.
func (in *ingress) rebuilt(t testing.TB) string {
	other := startOn(t, in.streams, Config{})
	other.caughtUpTo(t)
	sum := other.digest(t)
	require.NoError(t, other.stop())
	return sum
}

func (in *ingress) knows(t testing.TB, n int) bool {
	t.Helper()
	_, err := in.tasks.Get(testKey(n))
	if !errors.Is(err, storage.ErrUnknownKey) {
		require.NoError(t, err)
	}
	leader := in.read(t, events.DefaultTenant, testKey(n)).State != events.StateNone
	require.Equal(t, leader, err == nil, "the log and the projection disagree on key %d", n)
	return leader
}

func withCallback(title string) *events.ExportRequested {
	r := requestOf(title)
	r.Request.Callback = "http://127.0.0.1/done"
	return r
}

func TestSweeperTrimsTheLog(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	other := start(t, srv, Config{})
	now := time.Now()
	cancelled := func(n int) {
		in.underway(t, testKey(n))
		in.write(t, testKey(n), &events.ExportCancelled{})
	}
	cancelled(0)
	in.write(t, testKey(1), &events.SubmissionRejected{Reason: "no"})
	in.complete(t, testKey(2), "a", []byte("zip"), now)
	in.write(t, testKey(2), &events.ExportExpired{})
	in.write(t, testKey(3), withCallback("a"))
	in.write(t, testKey(3), &events.ExportCancelled{})
	in.write(t, testKey(3), &events.CallbackAttempted{Attempt: 1, Status: 500, NextAt: now})
	cancelled(4)
	running := in.underway(t, testKey(5))
	cancelled(6)
	in.write(t, testKey(0), requestOf("again"))
	in.write(t, testKey(0), &events.ExportCancelled{})
	in.caughtUpTo(t)

	s := in.sweeper()
	s.maxAge = 10_000 * time.Hour
	passes(t, s, 3)
	require.EqualValues(t, 3, in.log(t).First, "only a round that was superseded is old enough")

	s.now = func() time.Time { return now.Add(s.keepHistory + time.Minute) }
	passes(t, s, 1)
	// The callback of key 3 holds the log.
	for n := range 7 {
		require.Equal(t, n != 1 && n != 2, in.knows(t, n), "key %d", n)
	}
	require.Equal(t, in.rebuilt(t), in.digest(t))

	in.write(t, testKey(3), &events.CallbackDelivered{Attempt: 2, Status: 200})
	passes(t, s, 1)
	// Now it is the export under way.
	for n := range 7 {
		require.Equal(t, n == 0 || n >= 5, in.knows(t, n), "key %d", n)
	}
	require.Equal(t, running.RequestedSeq, in.log(t).First)
	require.Equal(t, in.rebuilt(t), in.digest(t))

	// Another ingress learns of it in its next pass.
	other.caughtUpTo(t)
	require.NotEqual(t, in.digest(t), other.digest(t))
	passes(t, other.sweeper(), 1)
	require.Equal(t, in.digest(t), other.digest(t))

	// A crash between purge and projection: any ingress goes on, at its start
	// or in its next pass.
	in.write(t, testKey(5), &events.ExportCancelled{})
	l := in.caughtUpTo(t)
	require.NoError(t, in.streams.TrimLog(t.Context(), l, running.RequestedSeq+1))
	passes(t, in.sweeper(), 1)
	require.False(t, in.knows(t, 5))
	passes(t, other.sweeper(), 1)
	require.Equal(t, in.digest(t), other.digest(t))
	require.Equal(t, in.rebuilt(t), in.digest(t))

	// In the end the newest event alone is left, of whatever export.
	passes(t, s, 2)
	l = in.log(t)
	require.Equal(t, l.Last, l.First)
	passes(t, s, 2)
	require.Equal(t, l, in.log(t))
	require.Equal(t, in.rebuilt(t), in.digest(t))
	require.Equal(t, 404, in.get(t, "/v1/export/detail?key="+testKey(0)).Status)

	// A key that was forgotten can be had anew.
	in.write(t, testKey(0), requestOf("a"))
	in.caughtUpTo(t)
	require.True(t, in.knows(t, 0))
}

func TestSweeperKeepsAtMostSoManyExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	due := time.Now().Add(time.Hour)
	for n := range 6 {
		in.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	s := in.sweeper()
	s.maxHistory = 4
	first := in.read(t, events.DefaultTenant, testKey(0))
	link := events.DownloadURL(in.streams.Keys(), in.url, &first)
	response, err := http.Get(link)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)

	passes(t, s, 1)
	require.True(t, in.knows(t, 0), "the first pass trims nothing")
	passes(t, s, 1)
	in.caughtUpTo(t)
	for n := range 6 {
		require.Equal(t, n >= 2, in.knows(t, n), "key %d", n)
	}
	require.False(t, in.has(t, first.Files[0].Store), "a file goes before its event")
	require.Equal(t, in.rebuilt(t), in.digest(t))
	for n := range 4 {
		x := in.read(t, events.DefaultTenant, testKey(2+n))
		require.True(t, in.has(t, x.Files[0].Store))
	}
	require.Equal(t, http.StatusNotFound, in.get(t, strings.TrimPrefix(link, in.url)).Status)

	// What is under way counts and stays.
	for n := range 5 {
		in.underway(t, testKey(100+n))
	}
	passes(t, s, 2)
	for n := range 6 {
		require.False(t, in.knows(t, n), "key %d", n)
	}
	for n := range 5 {
		require.True(t, in.knows(t, 100+n))
	}
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

func TestSweepersTrimAtOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	other := start(t, srv, Config{})
	due := time.Now().Add(time.Hour)
	for n := range 40 {
		in.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	var wg sync.WaitGroup
	for _, s := range []*sweeper{in.sweeper(), other.sweeper()} {
		s.files, s.maxHistory = in.files, 5
		wg.Go(func() {
			for range 3 {
				if err := s.pass(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, i := range []*ingress{in, other} {
		passes(t, i.sweeper(), 1)
		i.caughtUpTo(t)
	}
	for n := range 40 {
		require.Equal(t, n >= 35, in.knows(t, n), "key %d", n)
	}
	require.Equal(t, in.digest(t), other.digest(t))
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

func TestSweeperFailsWhatStaysUnfinished(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{MaxAge: time.Hour})
	in.underway(t, testKey(0))
	x := in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2})
	in.caughtUpTo(t)
	now := time.Now()
	s := in.sweeper()
	passes(t, s, 2)
	require.Equal(t, events.StateRequested, in.read(t, events.DefaultTenant, testKey(0)).State)
	s.now = func() time.Time { return now.Add(2 * time.Hour) }
	passes(t, s, 1)
	for n, phase := range []string{events.PhaseCrawling, events.PhaseAssembling} {
		x := in.read(t, events.DefaultTenant, testKey(n))
		require.Equal(t, events.StateFailed, x.State)
		require.Equal(t, events.ExportFailed{Code: events.CodeLimitTime, Reason: "not finished within 1h0m0s", Phase: phase}, x.Failure)
		_, resumable := x.Resumable()
		require.True(t, resumable)
	}
	var detail struct {
		ErrorCode string `json:"error_code"`
		Status    int    `json:"status"`
	}
	require.NoError(t, json.Unmarshal(in.get(t, "/v1/export/detail?key="+testKey(0)).Data, &detail))
	require.Equal(t, "LIMIT_TIME", detail.ErrorCode)
	require.Equal(t, events.StatusFailed, detail.Status)
}

func TestSweeperGivesUpACallbackThatNobodyDelivers(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	in.write(t, testKey(0), withCallback("a"))
	in.write(t, testKey(0), &events.ExportCancelled{})
	in.underway(t, testKey(1))
	in.caughtUpTo(t)
	now := time.Now()
	s := in.sweeper()
	s.maxAge = 10_000 * time.Hour
	s.now = func() time.Time { return now.Add(s.keepHistory + callbackGrace/2) }
	passes(t, s, 3)
	require.Equal(t, events.CallbackPending, in.read(t, events.DefaultTenant, testKey(0)).Callback.State)
	s.now = func() time.Time { return now.Add(s.keepHistory + callbackGrace + time.Minute) }
	passes(t, s, 1)
	in.caughtUpTo(t)
	require.False(t, in.knows(t, 0))
	require.True(t, in.knows(t, 1))
}

// A log that takes no event is the end of everything, so its head must move
// whatever stands there.
func TestSweeperMakesRoomInTheLog(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
	in := startOn(t, streams, Config{})
	in.underway(t, testKey(0))
	in.write(t, testKey(1), withCallback("a"))
	in.write(t, testKey(1), &events.ExportCancelled{})
	x := in.complete(t, testKey(2), "a", []byte("zip"), time.Now().Add(time.Hour))
	n := 3
	for ; in.log(t).Full < crowded; n++ {
		in.write(t, testKey(n), requestOf(strings.Repeat("long ", 2000)))
		in.write(t, testKey(n), &events.ExportCancelled{})
	}
	in.caughtUpTo(t)
	s := in.sweeper()
	for range 20 {
		passes(t, s, 1)
	}
	require.Less(t, in.log(t).Full, crowded)
	for k := range 3 {
		require.False(t, in.knows(t, k))
	}
	require.False(t, in.has(t, x.Files[0].Store))
	require.True(t, in.knows(t, n-1), "no more goes than must")
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

func TestSweeperPurgesStrays(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	x := in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportCancelled{})
	running := in.underway(t, testKey(2))
	in.caughtUpTo(t)
	s := in.sweeper()
	passes(t, s, 2)
	require.Empty(t, in.pages(t, testKey(1), x.RequestedSeq))

	// A crawler that was cut off, and an ingress that died before its event.
	in.page(t, testKey(1), x.RequestedSeq, 57, []byte(`[{"a":1}]`))
	_, err := in.streams.CountStart(t.Context(), events.DefaultTenant, testKey(1), "m")
	require.NoError(t, err)
	in.page(t, testKey(3), events.RawRun, 2, []byte(`[{"a":1}]`))
	require.NoError(t, in.streams.SaveHeaders(t.Context(), events.DefaultTenant, testKey(3), map[string]string{"Token": "s3cret"}))
	passes(t, s, 2)
	require.True(t, in.sealed(t, testKey(3)), "the search is rare")

	hourLater := func() { s.strayMark.At = s.strayMark.At.Add(-2 * sweepFilesEvery) }
	hourLater()
	passes(t, s, 1)
	require.Equal(t, []int{57}, in.pages(t, testKey(1), x.RequestedSeq), "it came after the search before")
	hourLater()
	in.page(t, testKey(3), events.RawRun, 3, []byte(`[{"a":1}]`))
	passes(t, s, 1)
	require.Empty(t, in.pages(t, testKey(1), x.RequestedSeq))
	require.Equal(t, []int{3}, in.pages(t, testKey(3), events.RawRun), "what is newer may yet be named")
	require.False(t, in.sealed(t, testKey(3)))
	require.Len(t, in.pages(t, testKey(2), running.RequestedSeq), 2)
	require.True(t, in.sealed(t, testKey(2)))
	holders, err := in.streams.Holders(t.Context())
	require.NoError(t, err)
	require.Len(t, holders, 2)
}

func TestOrphansOfForgottenExportsGo(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	log := events.LogState{Created: created, First: 50, Trimmed: 50, FirstTime: created.Add(100 * time.Hour)}
	made := func(after time.Duration) string {
		return fmt.Sprintf("%012x", created.Add(after).UnixMilli()) + "7000800000000000000000"[:20] + ".zip"
	}
	id := func(after time.Duration) string {
		h := made(after)
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
	require.True(t, forgotten(log, id(time.Hour)))
	require.True(t, forgotten(log, id(98*time.Hour)))
	require.False(t, forgotten(log, id(99*time.Hour+time.Minute)), "its export may be there")
	require.False(t, forgotten(log, id(-time.Hour)), "of a log before this one")
	require.False(t, forgotten(log, "a.zip"))
	lost := log
	lost.First = 60
	require.False(t, forgotten(lost, id(time.Hour)), "the log lost its head")
}

// TestNoFileGoesBeforeItsTime takes exports through random lives, with sweepers
// that do single steps in any order, die between an event and its deletion, and
// live in the future.
func TestNoFileGoesBeforeItsTime(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	other := start(t, srv, Config{})
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		base := time.Now()
		key := func(n int) string { return testKey(round*100 + n) }
		sweepers := []*sweeper{in.sweeper(), other.sweeper()}
		offset := time.Duration(0)
		for _, s := range sweepers {
			s.files, s.maxAge = in.files, 10_000*time.Hour
			s.now = func() time.Time { return base.Add(offset) }
		}
		stores := map[string]time.Time{} // files that some completed event names, and their time
		try := func(k string, p events.Payload) (events.Export, bool) {
			x := in.read(t, events.DefaultTenant, k)
			x, err := in.streams.Append(bg, x, "", func(*events.Export) (events.Payload, error) { return p, nil })
			if errors.Is(err, events.ErrNotAllowed) {
				return x, false
			}
			require.NoError(rt, err)
			return x, true
		}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			k := key(rapid.IntRange(0, 3).Draw(rt, "key"))
			s := sweepers[rapid.IntRange(0, 1).Draw(rt, "sweeper")]
			_, err := s.upToDate(bg)
			require.NoError(rt, err)
			switch rapid.IntRange(0, 13).Draw(rt, "do") {
			case 0, 1:
				try(k, requestOf("a"))
			case 2, 3:
				try(k, &events.ExportCrawled{Run: 1, Pages: 1})
			case 4, 5: // an assembler, or one that dies before its event
				store := fmt.Sprintf("default/%s/%s.zip", k, events.NewID())
				in.commit(t, store, []byte("zip"))
				if rapid.Bool().Draw(rt, "dies") {
					continue
				}
				expires := base.Add(time.Duration(rapid.IntRange(-5, 300).Draw(rt, "hours")) * time.Hour)
				if _, ok := try(k, &events.ExportCompleted{Run: 1, Pages: 1, ExpiresAt: expires, Files: []events.File{{Name: "a", Store: store, Size: 3}}}); ok {
					stores[store] = expires
				}
			case 6:
				try(k, &events.ExportCancelled{})
			case 7: // a sweeper that died before it deleted
				x := in.read(t, events.DefaultTenant, k)
				if x.State == events.StateCompleted && !s.now().Before(x.ExpiresAt) {
					try(k, &events.ExportExpired{})
				}
			case 8:
				require.NoError(rt, s.expire(bg))
			case 9:
				s.filesSwept = time.Time{}
				require.NoError(rt, s.sweepFiles(bg))
			case 10:
				offset += time.Duration(rapid.IntRange(1, 60).Draw(rt, "later")) * time.Hour
			case 11:
				require.NoError(rt, s.pass(bg))
			case 13: // as if it were in the way of others
				if x := in.read(t, events.DefaultTenant, k); x.State.Terminal() {
					try(k, &events.ExportCarried{Export: x})
				}
			case 12: // one that dies before its projection learns
				log, err := s.upToDate(bg)
				require.NoError(rt, err)
				s.mark.At = time.Now()
				below, _, err := s.trimPoint(bg, log)
				require.NoError(rt, err)
				require.NoError(rt, in.streams.TrimLog(bg, log, below))
			}
			for n := range 4 {
				x := in.read(t, events.DefaultTenant, key(n))
				if x.State == events.StateCompleted {
					require.True(rt, in.has(t, x.Files[0].Store), "state completed, expires in %v", x.ExpiresAt.Sub(s.now()))
				}
			}
			for store, expires := range stores {
				if base.Add(offset).Before(expires) {
					require.True(rt, in.has(t, store), "removed %v early", expires.Sub(base.Add(offset)))
				}
			}
		}
		// In the end nothing is left of what is over.
		for _, s := range sweepers {
			s.filesSwept = time.Time{}
			require.NoError(rt, s.pass(bg))
			require.NoError(rt, s.pass(bg))
		}
		offset += 1000 * time.Hour
		for n := range 4 {
			try(key(n), &events.ExportCancelled{})
		}
		for range 3 {
			for _, s := range sweepers {
				s.filesSwept = time.Time{}
				require.NoError(rt, s.pass(bg))
			}
		}
		for store := range stores {
			require.False(rt, in.has(t, store))
		}
		in.caughtUpTo(rt)
		other.caughtUpTo(rt)
		require.Equal(rt, in.digest(rt), other.digest(rt))
	})
	require.Equal(t, in.rebuilt(t), in.digest(t))
}
