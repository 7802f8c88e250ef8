package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// keeper makes another keeper on the node's parts, with the shortest retention.
func (node *node) keeper() *Service {
	s := node.another()
	s.leftovers.settle, s.leftovers.keepPages, s.history.settle = 0, 0, 0
	return s
}

func (node *node) page(t testing.TB, key string, run uint64, number int, rows []byte) {
	t.Helper()
	id := pages.ID{Tenant: events.DefaultTenant, Key: key, Run: run, Number: number}
	_, err := node.journal.Pages().Publish(t.Context(), pages.Page{ID: id, Rows: rows, RowCount: 1, Total: -1})
	require.NoError(t, err)
}

func (node *node) pages(t testing.TB, key string, run uint64) []int {
	t.Helper()
	list, err := node.journal.Pages().List(t.Context(), events.DefaultTenant, key, run, 0)
	require.NoError(t, err)
	return list
}

func (node *node) sealed(t testing.TB, key string) bool {
	t.Helper()
	_, err := node.journal.Headers(t.Context(), events.DefaultTenant, key)
	if !errors.Is(err, events.ErrNoHeaders) {
		require.NoError(t, err)
	}
	return err == nil
}

// underway starts an export that has pages and sealed headers.
func (node *node) underway(t testing.TB, key string) events.Export {
	t.Helper()
	require.NoError(t, node.journal.SaveHeaders(t.Context(), events.DefaultTenant, key, map[string]string{"Token": "s3cret"}))
	x := node.write(t, key, requestOf("a"))
	node.page(t, key, x.RequestedSeq, 1, []byte(`[{"a":1}]`))
	node.page(t, key, x.RequestedSeq, 2, []byte(`[{"a":2}]`))
	return x
}

func passes(t testing.TB, s *Service, n int) {
	t.Helper()
	for range n {
		require.NoError(t, s.pass(t.Context()))
	}
}

func TestKeeperPurgesWhatEndedExportsLeft(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	crawled := func(x events.Export) events.Payload { return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2} }
	completed := &events.ExportCompleted{Pages: 2, ExpiresAt: time.Now().Add(time.Hour)}
	failed := &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503"}
	cases := []struct {
		name              string
		then              func(x events.Export) []events.Payload
		atOnce, keepPages bool // leftovers with the shortest retention, and with an hour
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
		begun[i] = node.underway(t, testKey(i))
		for _, p := range c.then(begun[i]) {
			node.write(t, testKey(i), p)
		}
	}
	left := func(i int) bool {
		pages, sealed := node.pages(t, testKey(i), begun[i].RequestedSeq), node.sealed(t, testKey(i))
		require.Equal(t, sealed, len(pages) == 2, "%s: pages %v, sealed headers %v", cases[i].name, pages, sealed)
		require.Contains(t, []int{0, 2}, len(pages))
		return sealed
	}

	patient := node.keeper()
	patient.leftovers.keepPages = time.Hour
	passes(t, patient, 1)
	for i, c := range cases {
		require.True(t, left(i), "%s: the first pass has no mark", c.name)
	}
	passes(t, patient, 1)
	for i, c := range cases {
		require.Equal(t, c.keepPages, left(i), c.name)
	}
	hasty := node.keeper()
	passes(t, hasty, 2)
	for i, c := range cases {
		require.Equal(t, c.atOnce, left(i), c.name)
	}

	// Finished work is off the list, so the next pass has nothing to do.
	for _, kind := range []storage.Leftover{storage.LeftoverDone, storage.LeftoverStopped} {
		list, err := node.tasks.Ended(kind, time.Now().Add(time.Hour), 100)
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

// A request that restarts an ended export saves its headers and rows before its event. A pass between the two
// must leave them.
func TestKeeperLeavesWhatARequestIsAboutToUse(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	node.underway(t, testKey(1))
	node.write(t, testKey(1), &events.ExportCancelled{})
	s := node.keeper()
	passes(t, s, 1)
	require.NoError(t, node.journal.SaveHeaders(t.Context(), events.DefaultTenant, testKey(1), map[string]string{"Token": "new"}))
	node.page(t, testKey(1), events.RawRun, 1, []byte(`[{"a":1}]`))

	passes(t, s, 1)
	require.True(t, node.sealed(t, testKey(1)))
	require.Equal(t, []int{1}, node.pages(t, testKey(1), events.RawRun))

	node.write(t, testKey(1), requestOf("a"))
	passes(t, s, 3)
	require.True(t, node.sealed(t, testKey(1)))
	require.Equal(t, []int{1}, node.pages(t, testKey(1), events.RawRun))
}

func TestKeepersExpireFilesOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	node := start(t, srv, Config{})
	due := time.Now().Add(time.Hour)
	var exports []events.Export
	for n := range batch + 10 {
		exports = append(exports, node.complete(t, testKey(n), "a", []byte("zip"), due))
	}
	stays := node.complete(t, testKey(1000), "a", []byte("zip"), due.Add(time.Hour))
	require.NoError(t, node.journal.SaveHeaders(t.Context(), events.DefaultTenant, testKey(0), map[string]string{"Token": "late"}))

	early := node.keeper()
	early.now = func() time.Time { return due.Add(-2 * time.Second) }
	passes(t, early, 2)
	require.True(t, node.has(t, exports[0].Files[0].Store))

	other := start(t, srv, Config{}).keeper()
	other.files = node.files
	var wg sync.WaitGroup
	for _, s := range []*Service{node.keeper(), other} {
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
		now := node.read(t, x.Tenant, x.Key)
		require.Equal(t, events.StateExpired, now.State)
		require.Equal(t, x.LastSeq, now.TerminalSeq)
		require.False(t, node.has(t, x.Files[0].Store))
	}
	require.False(t, node.sealed(t, testKey(0)))
	require.Equal(t, events.StateCompleted, node.read(t, stays.Tenant, stays.Key).State)
	require.True(t, node.has(t, stays.Files[0].Store))

	last, err := node.journal.LastSequence(t.Context())
	require.NoError(t, err)
	expired := map[string]int{}
	all := errors.New("all read")
	err = node.journal.Follow(t.Context(), 1, func(batch []events.Event) error {
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

func TestKeeperRemovesOrphans(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	named := node.complete(t, testKey(1), "a", []byte("zip"), time.Now().Add(100*time.Hour))
	node.underway(t, testKey(2))
	node.underway(t, testKey(3))
	node.write(t, testKey(3), &events.ExportCancelled{})
	expired := node.complete(t, testKey(4), "a", []byte("zip"), time.Now())
	node.write(t, testKey(4), &events.ExportExpired{Files: []string{expired.Files[0].Store}}) // a crash follows

	keeps := []string{
		named.Files[0].Store,
		"default/" + testKey(2) + "-a.zip",
		"default/" + testKey(2) + "/a.zip",  // its event may be on its way
		"default/" + testKey(99) + "/a.zip", // unknown to the log
		"elsewhere.zip",
	}
	goes := []string{
		"default/" + testKey(1) + "/lost.zip", // from a second assembler of an older version
		"default/" + testKey(1) + "-lost.zip",
		"default/" + testKey(3) + "/a.zip",
		expired.Files[0].Store,
	}
	for _, name := range append(keeps[1:], goes[:3]...) {
		node.commit(t, name, []byte("zip"))
	}
	s := node.keeper()
	passes(t, s, 1)
	for _, name := range append(keeps, goes...) {
		require.True(t, node.has(t, name), "%s is too young", name)
	}
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	passes(t, s, 1)
	for _, name := range keeps {
		require.True(t, node.has(t, name), name)
	}
	for _, name := range goes {
		require.False(t, node.has(t, name), name)
	}
}

func TestKeeperMakesRoom(t *testing.T) {
	t.Parallel()
	streams := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxPagesBytes: 2 << 20})
	node := startOn(t, streams, Config{})
	noise := make([]byte, 250<<10)
	var begun []events.Export
	for n := range 7 {
		x := node.write(t, testKey(n), requestOf("a"))
		rand.New(rand.NewSource(int64(n))).Read(noise)
		node.page(t, testKey(n), x.RequestedSeq, 1, noise)
		if n > 0 {
			node.write(t, testKey(n), &events.ExportCancelled{})
		}
		begun = append(begun, x)
	}
	s := node.keeper()
	s.leftovers.keepPages = time.Hour
	roomy, err := s.leftovers.roomy(t.Context())
	require.NoError(t, err)
	require.False(t, roomy)
	passes(t, s, 2)
	roomy, err = s.leftovers.roomy(t.Context())
	require.NoError(t, err)
	require.True(t, roomy)
	require.Equal(t, []int{1}, node.pages(t, testKey(0), begun[0].RequestedSeq), "what is under way stays")
	require.Empty(t, node.pages(t, testKey(1), begun[1].RequestedSeq), "the oldest went")
}

// While the disk is full, ended exports lose their pages at once. Exports under way keep theirs, and so do
// rows of raw requests, which a repeated request needs.
func TestKeeperRelievesTheDisk(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	var full atomic.Bool
	s := node.keeper()
	s.passEvery, s.lookEvery, s.leftovers.settle = time.Hour, 5*time.Millisecond, time.Hour
	s.leftovers.room = func(int64) error {
		if full.Load() {
			return errors.New("the disk is almost full")
		}
		return nil
	}
	done := node.underway(t, testKey(1))
	node.write(t, testKey(1), &events.ExportCrawled{Run: done.RequestedSeq, Pages: 2})
	node.write(t, testKey(1), &events.ExportCompleted{Run: done.RequestedSeq, Pages: 2, Rows: 1, ExpiresAt: time.Now().Add(time.Hour)})
	running := node.underway(t, testKey(2))
	stopped := node.underway(t, testKey(3))
	node.write(t, testKey(3), &events.ExportCancelled{})
	node.caughtUpTo(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	left := func(x events.Export) int { return len(node.pages(t, x.Key, x.RequestedSeq)) }
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	require.Positive(t, left(done), "there is room")
	full.Store(true)
	require.Eventually(t, func() bool { return left(done) == 0 && left(stopped) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Positive(t, left(running))
	cancel()
	require.NoError(t, <-ended)
}

// While the page stream is crowded, pages of completed exports go first, then those of failed and cancelled
// ones, oldest first, until there is space.
func TestKeeperRelievesThePageStream(t *testing.T) {
	t.Parallel()
	streams := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxPagesBytes: 2 << 20})
	node := startOn(t, streams, Config{})
	noise := make([]byte, 250<<10)
	var begun []events.Export
	for n := range 7 {
		x := node.write(t, testKey(n), requestOf("a"))
		rand.New(rand.NewSource(int64(n))).Read(noise)
		node.page(t, testKey(n), x.RequestedSeq, 1, noise)
		switch {
		case n == 6:
			node.write(t, testKey(n), &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1})
			node.write(t, testKey(n), &events.ExportCompleted{Run: x.RequestedSeq, Pages: 1, Rows: 1, ExpiresAt: time.Now().Add(time.Hour)})
		case n > 0:
			node.write(t, testKey(n), &events.ExportCancelled{})
		}
		begun = append(begun, x)
	}
	node.caughtUpTo(t)
	s := node.keeper()
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	for n, stays := range []bool{true, false, false, true, true, true, false} {
		require.Equal(t, stays, len(node.pages(t, testKey(n), begun[n].RequestedSeq)) > 0, n)
	}
}

// No crawl begins while pages fill more than 70 % of the stream. Pages of ended exports go below that limit,
// in the stream and on its disk, or they would block all new crawls.
func TestPagesGoBeforeTheyKeepCrawlsWaiting(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, largestPage, roomBeside(0))
	const gate = 0.7 // of package crawler
	require.Less(t, crowded, gate)
	for _, used := range []int64{1 << 20, 1 << 30, 4 << 30} {
		require.Greater(t, float64(roomBeside(used)), float64(used)*(1-gate)/gate, used)
	}

	node := start(t, eventstest.Server(t, ""), Config{})
	l := node.keeper().leftovers
	for _, free := range []int64{largestPage, largestPage - 1} {
		l.room = func(bytes int64) error {
			if bytes > free {
				return errors.New("full")
			}
			return nil
		}
		roomy, err := l.roomy(t.Context())
		require.NoError(t, err)
		require.Equal(t, free >= largestPage, roomy)
	}
}

func TestKeeperRunsUntilTheEnd(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	x := node.underway(t, testKey(1))
	node.write(t, testKey(1), &events.ExportCancelled{})
	s := node.keeper()
	s.passEvery = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	require.Eventually(t, func() bool { return len(node.pages(t, testKey(1), x.RequestedSeq)) == 0 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)

	unbound := node.keeper()
	unbound.tasks = openTasks(t)
	require.NoError(t, unbound.Run(ctx), "without a projection it only waits")

	broken := node.keeper()
	closed, err := storage.OpenTasks(t.TempDir()+"/tasks.db", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	follow(t, node.journal, closed)()
	require.NoError(t, closed.Close())
	broken.tasks = closed
	require.ErrorIs(t, broken.Run(t.Context()), storage.ErrTasksClosed)
}

func TestKeeperFailsWhatStaysUnfinished(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	node := start(t, srv, Config{MaxAge: time.Hour})
	node.underway(t, testKey(0))
	x := node.underway(t, testKey(1))
	node.write(t, testKey(1), &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2})
	node.caughtUpTo(t)
	now := time.Now()
	s := node.keeper()
	passes(t, s, 2)
	require.Equal(t, events.StateRequested, node.read(t, events.DefaultTenant, testKey(0)).State)
	s.now = func() time.Time { return now.Add(2 * time.Hour) }
	passes(t, s, 1)
	for n, phase := range []string{events.PhaseCrawling, events.PhaseAssembling} {
		x := node.read(t, events.DefaultTenant, testKey(n))
		require.Equal(t, events.StateFailed, x.State)
		require.Equal(t, events.ExportFailed{Code: events.CodeLimitTime, Reason: "not finished within 1h0m0s", Phase: phase}, x.Failure)
		_, resumable := x.Resumable()
		require.True(t, resumable)
	}
}

func TestKeeperPurgesStrays(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	x := node.underway(t, testKey(1))
	node.write(t, testKey(1), &events.ExportCancelled{})
	running := node.underway(t, testKey(2))
	node.caughtUpTo(t)
	s := node.keeper()
	passes(t, s, 2)
	require.Empty(t, node.pages(t, testKey(1), x.RequestedSeq))

	// A crawler lost its connection, and an ingress died before its event.
	node.page(t, testKey(1), x.RequestedSeq, 57, []byte(`[{"a":1}]`))
	_, err := node.journal.CountStart(t.Context(), events.DefaultTenant, testKey(1), "m")
	require.NoError(t, err)
	node.page(t, testKey(3), events.RawRun, 2, []byte(`[{"a":1}]`))
	require.NoError(t, node.journal.SaveHeaders(t.Context(), events.DefaultTenant, testKey(3), map[string]string{"Token": "s3cret"}))
	passes(t, s, 2)
	require.True(t, node.sealed(t, testKey(3)), "the search is rare")

	hourLater := func() { s.strays.mark.At = s.strays.mark.At.Add(-2 * searchEvery) }
	hourLater()
	passes(t, s, 1)
	require.Equal(t, []int{57}, node.pages(t, testKey(1), x.RequestedSeq), "it came after the search before")
	hourLater()
	node.page(t, testKey(3), events.RawRun, 3, []byte(`[{"a":1}]`))
	passes(t, s, 1)
	require.Empty(t, node.pages(t, testKey(1), x.RequestedSeq))
	require.Equal(t, []int{3}, node.pages(t, testKey(3), events.RawRun), "what is newer may yet be named")
	require.False(t, node.sealed(t, testKey(3)))
	require.Len(t, node.pages(t, testKey(2), running.RequestedSeq), 2)
	require.True(t, node.sealed(t, testKey(2)))
	found, err := node.journal.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 2)
}

// TestNoFileGoesBeforeItsTime runs exports through random lives. Keepers do single steps in any order, die
// between an event and its deletion, and run with clocks in the future.
func TestNoFileGoesBeforeItsTime(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	node := start(t, srv, Config{})
	other := start(t, srv, Config{})
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		base := time.Now()
		key := func(n int) string { return testKey(round*100 + n) }
		keepers := []*Service{node.keeper(), other.keeper()}
		offset := time.Duration(0)
		for _, s := range keepers {
			s.files, s.deadlines.maxAge = node.files, 10_000*time.Hour
			s.now = func() time.Time { return base.Add(offset) }
		}
		forgot := false                  // an export was forgotten before its time
		stores := map[string]time.Time{} // files that a completed event names, and their expiry
		try := func(k string, p events.Payload) (events.Export, bool) {
			x := node.read(t, events.DefaultTenant, k)
			x, err := node.journal.Append(bg, x, "", func(*events.Export) (events.Payload, error) { return p, nil })
			if errors.Is(err, events.ErrNotAllowed) {
				return x, false
			}
			require.NoError(rt, err)
			return x, true
		}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			k := key(rapid.IntRange(0, 3).Draw(rt, "key"))
			s := keepers[rapid.IntRange(0, 1).Draw(rt, "keeper")]
			_, err := s.upToDate(bg)
			require.NoError(rt, err)
			switch rapid.IntRange(0, 13).Draw(rt, "do") {
			case 0, 1:
				try(k, requestOf("a"))
			case 2, 3:
				try(k, &events.ExportCrawled{Run: 1, Pages: 1})
			case 4, 5: // an assembler, which may die before its event
				store := fmt.Sprintf("default/%s/%s.zip", k, events.NewID())
				node.commit(t, store, []byte("zip"))
				if rapid.Bool().Draw(rt, "dies") {
					continue
				}
				expires := base.Add(time.Duration(rapid.IntRange(-5, 300).Draw(rt, "hours")) * time.Hour)
				if _, ok := try(k, &events.ExportCompleted{Run: 1, Pages: 1, ExpiresAt: expires, Files: []events.File{{Name: "a", Store: store, Size: 3}}}); ok {
					stores[store] = expires
				}
			case 6:
				try(k, &events.ExportCancelled{})
			case 7: // a keeper that died before the deletion
				x := node.read(t, events.DefaultTenant, k)
				if x.State == events.StateCompleted && !s.now().Before(x.ExpiresAt) {
					try(k, &events.ExportExpired{})
				}
			case 8:
				require.NoError(rt, s.deadlines.expire(bg))
			case 9:
				s.orphans.searched = time.Time{}
				require.NoError(rt, s.orphans.remove(bg))
			case 10:
				offset += time.Duration(rapid.IntRange(1, 60).Draw(rt, "later")) * time.Hour
			case 11:
				require.NoError(rt, s.pass(bg))
			case 12: // a keeper with the shortest retention purges keys
				s.mark.At = time.Now()
				require.NoError(rt, s.history.purgeEvents(bg, s.mark))
			case 13: // a tenant over its limit
				s.mark.At = time.Now()
				s.history.maxExports = rapid.IntRange(0, 3).Draw(rt, "most")
				require.NoError(rt, s.history.forget(bg, s.mark))
				s.history.maxExports = 1000
				forgot = true
			}
			for n := range 4 {
				x := node.read(t, events.DefaultTenant, key(n))
				if x.State == events.StateCompleted {
					require.True(rt, node.has(t, x.Files[0].Store), "state completed, expires in %v", x.ExpiresAt.Sub(s.now()))
				}
			}
			for store, expires := range stores {
				if !forgot && base.Add(offset).Before(expires) {
					require.True(rt, node.has(t, store), "removed %v early", expires.Sub(base.Add(offset)))
				}
			}
		}
		// In the end nothing expired is left.
		for _, s := range keepers {
			s.orphans.searched = time.Time{}
			require.NoError(rt, s.pass(bg))
			require.NoError(rt, s.pass(bg))
		}
		offset += 20_000 * time.Hour
		for n := range 4 {
			try(key(n), &events.ExportCancelled{})
		}
		node.other(t, round)
		for range 3 {
			for _, s := range keepers {
				s.orphans.searched, s.history.maxExports = time.Time{}, 0 // forget all
				other.caughtUpTo(rt)
				require.NoError(rt, s.pass(bg))
			}
		}
		for store := range stores {
			require.False(rt, node.has(t, store))
		}
		node.caughtUpTo(rt)
		other.caughtUpTo(rt)
		require.Equal(rt, node.digest(rt), other.digest(rt))
	})
	require.Equal(t, node.rebuilt(t), node.digest(t))
}
