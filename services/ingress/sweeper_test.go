package ingress

import (
	"context"
	"errors"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
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
	mark, err := streams.PurgeMark(t.Context())
	require.NoError(t, err)
	require.Greater(t, mark.Full, crowded)
	passes(t, s, 2)
	mark, err = streams.PurgeMark(t.Context())
	require.NoError(t, err)
	require.Less(t, mark.Full, crowded)
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
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	left := func(x events.Export) int { return len(in.pages(t, x.Key, x.RequestedSeq)) }
	require.Positive(t, left(done))
	full.Store(true)
	require.Eventually(t, func() bool { return left(done) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Positive(t, left(running))
	require.Positive(t, left(stopped), "it has not settled")
	cancel()
	require.NoError(t, <-ended)
	s.settle = 0
	require.NoError(t, s.relieve(t.Context()))
	require.Zero(t, left(stopped))
	require.Positive(t, left(running))
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
	unbound.bound = make(chan struct{})
	require.NoError(t, unbound.run(ctx), "without a projection it only waits")

	broken := in.sweeper()
	closed, err := storage.OpenTasks(t.TempDir() + "/tasks.db")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	broken.tasks = closed
	require.ErrorIs(t, broken.run(t.Context()), storage.ErrTasksClosed)
}
