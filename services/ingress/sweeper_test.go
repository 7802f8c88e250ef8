package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// sweeper makes one of the test's own on the parts of an ingress, which keeps
// nothing longer than it must.
func (in *ingress) sweeper() *sweeper {
	s := in.newSweeper()
	s.settle, s.keepPages = 0, 0
	return s
}

func (in *ingress) page(t testing.TB, key string, run uint64, number int, rows []byte) {
	t.Helper()
	id := events.PageID{Tenant: events.DefaultTenant, Key: key, Run: run, Number: number}
	_, err := in.streams.PublishPage(t.Context(), events.Page{PageID: id, Rows: rows, RowCount: 1, Total: -1})
	require.NoError(t, err)
}

func (in *ingress) pages(t testing.TB, key string, run uint64) []int {
	t.Helper()
	list, err := in.streams.ListPages(t.Context(), events.DefaultTenant, key, run)
	require.NoError(t, err)
	return list
}

func (in *ingress) sealed(t testing.TB, key string) bool {
	t.Helper()
	_, err := in.streams.Headers(t.Context(), events.DefaultTenant, key)
	if !errors.Is(err, events.ErrNoHeaders) {
		require.NoError(t, err)
	}
	return err == nil
}

// underway starts an export that has pages and sealed headers.
func (in *ingress) underway(t testing.TB, key string) events.Export {
	t.Helper()
	require.NoError(t, in.streams.SaveHeaders(t.Context(), events.DefaultTenant, key, map[string]string{"Token": "s3cret"}))
	x := in.write(t, key, requestOf("a"))
	in.page(t, key, x.RequestedSeq, 1, []byte(`[{"a":1}]`))
	in.page(t, key, x.RequestedSeq, 2, []byte(`[{"a":2}]`))
	return x
}

func passes(t testing.TB, s *sweeper, n int) {
	t.Helper()
	for range n {
		require.NoError(t, s.pass(t.Context()))
	}
}

func TestSweeperPurgesWhatEndedExportsLeft(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	crawled := func(x events.Export) events.Payload { return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2} }
	completed := &events.ExportCompleted{Pages: 2, ExpiresAt: time.Now().Add(time.Hour)}
	failed := &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503"}
	cases := []struct {
		name              string
		then              func(x events.Export) []events.Payload
		atOnce, keepPages bool // what is left by a sweeper that keeps nothing, and by one that keeps pages for an hour
	}{
		{"requested", func(events.Export) []events.Payload { return nil }, true, true},
		{"crawled", func(x events.Export) []events.Payload { return []events.Payload{crawled(x)} }, true, true},
		{"completed", func(x events.Export) []events.Payload { return []events.Payload{crawled(x), completed} }, false, false},
		{"failed", func(events.Export) []events.Payload { return []events.Payload{failed} }, false, true},
		{"cancelled", func(events.Export) []events.Payload { return []events.Payload{&events.ExportCancelled{}} }, false, true},
		{"expired", func(x events.Export) []events.Payload {
			return []events.Payload{crawled(x), completed, &events.ExportExpired{}}
		}, false, false},
		{"retried", func(x events.Export) []events.Payload {
			again := requestOf("a")
			again.ContinuesRun = x.RequestedSeq
			return []events.Payload{failed, again}
		}, true, true},
		{"retried and failed", func(x events.Export) []events.Payload {
			return []events.Payload{failed, requestOf("a"), failed}
		}, false, true},
	}
	begun := make([]events.Export, len(cases))
	for i, c := range cases {
		begun[i] = in.underway(t, testKey(i))
		for _, p := range c.then(begun[i]) {
			in.write(t, testKey(i), p)
		}
	}
	left := func(i int) bool {
		pages, sealed := in.pages(t, testKey(i), begun[i].RequestedSeq), in.sealed(t, testKey(i))
		require.Equal(t, sealed, len(pages) == 2, "%s: pages %v, sealed headers %v", cases[i].name, pages, sealed)
		require.Contains(t, []int{0, 2}, len(pages))
		return sealed
	}

	patient := in.sweeper()
	patient.keepPages = time.Hour
	passes(t, patient, 1)
	for i, c := range cases {
		require.True(t, left(i), "%s: the first pass has no mark", c.name)
	}
	passes(t, patient, 1)
	for i, c := range cases {
		require.Equal(t, c.keepPages, left(i), c.name)
	}
	hasty := in.sweeper()
	passes(t, hasty, 2)
	for i, c := range cases {
		require.Equal(t, c.atOnce, left(i), c.name)
	}

	// What was done is off the list: the next pass has nothing to do.
	for _, kind := range []storage.Leftover{storage.LeftoverDone, storage.LeftoverStopped} {
		list, err := in.tasks.Ended(kind, time.Now().Add(time.Hour), 100)
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

// A request that begins an ended export anew saves its headers and rows before
// its event. A pass that falls between the two must not take them.
func TestSweeperLeavesWhatARequestIsAboutToUse(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportCancelled{})
	s := in.sweeper()
	passes(t, s, 1)
	require.NoError(t, in.streams.SaveHeaders(t.Context(), events.DefaultTenant, testKey(1), map[string]string{"Token": "new"}))
	in.page(t, testKey(1), events.RawRun, 1, []byte(`[{"a":1}]`))

	passes(t, s, 1)
	require.True(t, in.sealed(t, testKey(1)))
	require.Equal(t, []int{1}, in.pages(t, testKey(1), events.RawRun))

	in.write(t, testKey(1), requestOf("a"))
	passes(t, s, 3)
	require.True(t, in.sealed(t, testKey(1)))
	require.Equal(t, []int{1}, in.pages(t, testKey(1), events.RawRun))
}

func TestSweepersExpireFilesOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	due := time.Now().Add(time.Hour)
	var exports []events.Export
	for n := range sweepBatch + 10 {
		exports = append(exports, in.complete(t, testKey(n), "a", []byte("zip"), due))
	}
	stays := in.complete(t, testKey(1000), "a", []byte("zip"), due.Add(time.Hour))
	require.NoError(t, in.streams.SaveHeaders(t.Context(), events.DefaultTenant, testKey(0), map[string]string{"Token": "late"}))

	early := in.sweeper()
	early.now = func() time.Time { return due.Add(-2 * time.Second) }
	passes(t, early, 2)
	require.True(t, in.has(t, exports[0].Files[0].Store))

	other := start(t, srv, Config{}).sweeper()
	other.files = in.files
	var wg sync.WaitGroup
	for _, s := range []*sweeper{in.sweeper(), other} {
		s.now = func() time.Time { return due }
		wg.Go(func() {
			for range 2 {
				if err := s.pass(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, x := range exports {
		now := in.read(t, x.Tenant, x.Key)
		require.Equal(t, events.StateExpired, now.State)
		require.Equal(t, x.LastSeq, now.TerminalSeq)
		require.False(t, in.has(t, x.Files[0].Store))
	}
	require.False(t, in.sealed(t, testKey(0)))
	require.Equal(t, events.StateCompleted, in.read(t, stays.Tenant, stays.Key).State)
	require.True(t, in.has(t, stays.Files[0].Store))

	last, err := in.streams.LastSequence(t.Context())
	require.NoError(t, err)
	expired := map[string]int{}
	all := errors.New("all read")
	err = in.streams.Follow(t.Context(), 1, func(batch []events.Event) error {
		for _, ev := range batch {
			if p, ok := ev.Payload.(*events.ExportExpired); ok {
				expired[ev.Key]++
				require.Len(t, p.Files, 1)
			}
			if ev.Sequence == last {
				return all
			}
		}
		return nil
	})
	require.ErrorIs(t, err, all)
	require.Len(t, expired, len(exports))
	for key, n := range expired {
		require.Equal(t, 1, n, key)
	}
}

func TestSweeperRemovesOrphans(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	named := in.complete(t, testKey(1), "a", []byte("zip"), time.Now().Add(100*time.Hour))
	in.underway(t, testKey(2))
	in.underway(t, testKey(3))
	in.write(t, testKey(3), &events.ExportCancelled{})
	expired := in.complete(t, testKey(4), "a", []byte("zip"), time.Now())
	in.write(t, testKey(4), &events.ExportExpired{Files: []string{expired.Files[0].Store}}) // and then it crashed

	keeps := []string{
		named.Files[0].Store,
		"default/" + testKey(2) + "-a.zip",
		"default/" + testKey(2) + "/a.zip",  // the event that names it may be under way
		"default/" + testKey(99) + "/a.zip", // the log knows nothing of it
		"elsewhere.zip",
	}
	goes := []string{
		"default/" + testKey(1) + "/lost.zip", // a second assembler's, of an older version
		"default/" + testKey(1) + "-lost.zip",
		"default/" + testKey(3) + "/a.zip",
		expired.Files[0].Store,
	}
	for _, name := range append(keeps[1:], goes[:3]...) {
		in.commit(t, name, []byte("zip"))
	}
	s := in.sweeper()
	passes(t, s, 1)
	for _, name := range append(keeps, goes...) {
		require.True(t, in.has(t, name), "%s is too young", name)
	}
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	passes(t, s, 1)
	for _, name := range keeps {
		require.True(t, in.has(t, name), name)
	}
	for _, name := range goes {
		require.False(t, in.has(t, name), name)
	}
}

func TestSweeperMakesRoom(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxPagesBytes: 2 << 20})
	in := startOn(t, streams, Config{})
	noise := make([]byte, 250<<10)
	var begun []events.Export
	for n := range 7 {
		x := in.write(t, testKey(n), requestOf("a"))
		rand.New(rand.NewSource(int64(n))).Read(noise)
		in.page(t, testKey(n), x.RequestedSeq, 1, noise)
		if n > 0 {
			in.write(t, testKey(n), &events.ExportCancelled{})
		}
		begun = append(begun, x)
	}
	s := in.sweeper()
	s.keepPages = time.Hour
	roomy, err := s.roomy(t.Context())
	require.NoError(t, err)
	require.False(t, roomy)
	passes(t, s, 2)
	roomy, err = s.roomy(t.Context())
	require.NoError(t, err)
	require.True(t, roomy)
	require.Equal(t, []int{1}, in.pages(t, testKey(0), begun[0].RequestedSeq), "what is under way stays")
	require.Empty(t, in.pages(t, testKey(1), begun[1].RequestedSeq), "the oldest went")
}

// While the disk has no room, what ended leaves it at once, not at its time. What
// is under way stays, and so do rows that came with a request, for whoever repeats
// it counts on them.
func TestSweeperRelievesTheDisk(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	var full atomic.Bool
	s := in.sweeper()
	s.every, s.relief, s.settle = time.Hour, 5*time.Millisecond, time.Hour
	s.room = func() error {
		if full.Load() {
			return errors.New("the disk is almost full")
		}
		return nil
	}
	done := in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportCrawled{Run: done.RequestedSeq, Pages: 2})
	in.write(t, testKey(1), &events.ExportCompleted{Run: done.RequestedSeq, Pages: 2, Rows: 1, ExpiresAt: time.Now().Add(time.Hour)})
	running := in.underway(t, testKey(2))
	stopped := in.underway(t, testKey(3))
	in.write(t, testKey(3), &events.ExportCancelled{})
	in.caughtUpTo(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	left := func(x events.Export) int { return len(in.pages(t, x.Key, x.RequestedSeq)) }
	require.NoError(t, s.relieve(t.Context()))
	require.Positive(t, left(done), "there is room")
	full.Store(true)
	require.Eventually(t, func() bool { return left(done) == 0 && left(stopped) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Positive(t, left(running))
	cancel()
	require.NoError(t, <-ended)
}

// While the page stream is crowded, pages of completed exports go first, then those of
// stopped ones, oldest first, until it no longer is.
func TestSweeperRelievesThePageStream(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxPagesBytes: 2 << 20})
	in := startOn(t, streams, Config{})
	noise := make([]byte, 250<<10)
	var begun []events.Export
	for n := range 7 {
		x := in.write(t, testKey(n), requestOf("a"))
		rand.New(rand.NewSource(int64(n))).Read(noise)
		in.page(t, testKey(n), x.RequestedSeq, 1, noise)
		switch {
		case n == 6:
			in.write(t, testKey(n), &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1})
			in.write(t, testKey(n), &events.ExportCompleted{Run: x.RequestedSeq, Pages: 1, Rows: 1, ExpiresAt: time.Now().Add(time.Hour)})
		case n > 0:
			in.write(t, testKey(n), &events.ExportCancelled{})
		}
		begun = append(begun, x)
	}
	in.caughtUpTo(t)
	s := in.sweeper()
	require.NoError(t, s.relieve(t.Context()))
	for n, stays := range []bool{true, false, false, true, true, true, false} {
		require.Equal(t, stays, len(in.pages(t, testKey(n), begun[n].RequestedSeq)) > 0, n)
	}
}

// bind ties a projection to the log and reads nothing more of it.
func bind(t testing.TB, streams *events.Streams, tasks *storage.Tasks) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tasks.Follow(ctx, streams, func([]events.Event) {}) }()
	<-tasks.BoundToLog()
	cancel()
	require.NoError(t, <-done)
}

func TestSweeperRunsUntilTheEnd(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	x := in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportCancelled{})
	s := in.sweeper()
	s.every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	require.Eventually(t, func() bool { return len(in.pages(t, testKey(1), x.RequestedSeq)) == 0 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)

	unbound := in.sweeper()
	fresh, err := storage.OpenTasks(t.TempDir() + "/tasks.db")
	require.NoError(t, err)
	defer func() { require.NoError(t, fresh.Close()) }()
	unbound.tasks = fresh
	require.NoError(t, unbound.run(ctx), "without a projection it only waits")

	broken := in.sweeper()
	closed, err := storage.OpenTasks(t.TempDir() + "/tasks.db")
	require.NoError(t, err)
	bind(t, in.streams, closed)
	require.NoError(t, closed.Close())
	broken.tasks = closed
	require.ErrorIs(t, broken.run(t.Context()), storage.ErrTasksClosed)
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
		forgot := false                  // an export, before its time
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
			case 12: // keys are purged, by one that keeps nothing longer than it must
				s.mark.At = time.Now()
				require.NoError(rt, s.purgeEvents(bg))
			case 13: // a tenant has too many
				s.mark.At = time.Now()
				s.maxHistory = rapid.IntRange(0, 3).Draw(rt, "most")
				require.NoError(rt, s.forget(bg))
				s.maxHistory = 1000
				forgot = true
			}
			for n := range 4 {
				x := in.read(t, events.DefaultTenant, key(n))
				if x.State == events.StateCompleted {
					require.True(rt, in.has(t, x.Files[0].Store), "state completed, expires in %v", x.ExpiresAt.Sub(s.now()))
				}
			}
			for store, expires := range stores {
				if !forgot && base.Add(offset).Before(expires) {
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
		offset += 20_000 * time.Hour
		for n := range 4 {
			try(key(n), &events.ExportCancelled{})
		}
		in.other(t, round)
		for range 3 {
			for _, s := range sweepers {
				s.filesSwept, s.maxHistory = time.Time{}, 0 // all is forgotten, which one of them has begun with
				other.caughtUpTo(rt)
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
