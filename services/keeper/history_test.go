package keeper

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

// After a minute a settled export has one event left, and a projection rebuilt from it is the same.
func TestSettledKeysArePurgedToOneEvent(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	delivered, failed, pending, running, expired := testKey(1), testKey(2), testKey(3), testKey(4), testKey(5)
	all := []string{delivered, failed, pending, running, expired}
	for i, key := range all {
		if i%2 == 0 && key != expired {
			node.write(t, key, withCallback("a"))
		} else {
			node.write(t, key, requestOf("a"))
		}
	}
	x := node.finish(t, delivered, noise(1, 1000))
	node.write(t, delivered, &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Status: 500, Reason: "answered 500", NextAt: time.Now().UTC()})
	node.write(t, delivered, &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: 2, Status: 200})
	node.write(t, failed, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503", Phase: events.PhaseCrawling, Page: 7})
	node.write(t, pending, &events.ExportCancelled{})
	node.write(t, pending, &events.CallbackAttempted{Attempt: 1, Status: 500, Reason: "answered 500", NextAt: time.Now().UTC()})
	node.write(t, running, &events.ExportCrawled{Run: 1, Pages: 1})
	node.finish(t, expired, noise(2, 1000))
	node.caughtUpTo(t)
	counts := func() (list []int) {
		for _, key := range all {
			list = append(list, node.eventsOf(t, key))
		}
		return list
	}
	sum := node.digest(t)

	patient := node.keeper()
	patient.history.settle = time.Hour
	passes(t, patient, 2)
	require.Equal(t, []int{5, 2, 3, 2, 3}, counts(), "not before its time")
	s := node.keeper()
	passes(t, s, 2)
	require.Equal(t, []int{1, 1, 3, 2, 1}, counts())
	require.Equal(t, sum, node.digest(t))
	require.Equal(t, sum, node.rebuilt(t))

	// The same holds after more events.
	node.write(t, failed, requestOf("a"))
	node.write(t, expired, &events.ExportExpired{})
	node.write(t, pending, &events.CallbackDelivered{Attempt: 2, Status: 200})
	node.caughtUpTo(t)
	passes(t, s, 2)
	require.Equal(t, []int{1, 2, 1, 2, 1}, counts())
	require.Equal(t, node.rebuilt(t), node.digest(t))
}

// A tenant with too many exports forgets its oldest settled ones and all their leftovers. Exports under way
// or with a callback pending stay, whatever their age, and other tenants' exports stay too.
func TestATenantForgetsItsOldestSettledExports(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	running := node.underway(t, testKey(0))
	node.write(t, testKey(1), withCallback("a"))
	node.write(t, testKey(1), &events.ExportCancelled{})
	old := map[int]events.Export{}
	for n := 2; n < 8; n++ {
		x := node.underway(t, testKey(n))
		old[n] = x
		if n == 3 { // which keeps its pages for a retry
			node.write(t, testKey(n), &events.ExportCancelled{})
			continue
		}
		node.finish(t, testKey(n), []byte("zip"))
	}
	for n := range 4 {
		node.as(t, "other", testKey(100+n), requestOf("a"))
		node.as(t, "other", testKey(100+n), &events.ExportCancelled{})
	}
	node.caughtUpTo(t)
	first := node.read(t, events.DefaultTenant, testKey(2))

	s := node.keeper()
	s.history.maxExports, s.leftovers.keepPages = 4, time.Hour
	require.NoError(t, s.history.forget(t.Context(), s.mark))
	require.True(t, node.knows(t, 2), "there is no mark yet")
	passes(t, s, 2)
	node.caughtUpTo(t)
	require.True(t, node.knows(t, 5), "the newest event of the log stays")
	require.False(t, node.has(t, node.read(t, events.DefaultTenant, testKey(5)).Files[0].Store))
	require.Equal(t, node.rebuilt(t), node.digest(t))
	node.other(t, 1)
	passes(t, s, 1)
	for n := range 8 {
		require.Equal(t, n < 2 || n >= 6, node.knows(t, n), "key %d", n)
	}
	for n, x := range old {
		gone := n < 6
		require.Equal(t, gone, node.eventsOf(t, testKey(n)) == 0)
		require.False(t, node.sealed(t, testKey(n)))
		require.Empty(t, node.pages(t, testKey(n), x.RequestedSeq))
		if !gone {
			x := node.read(t, x.Tenant, x.Key)
			require.True(t, node.has(t, x.Files[0].Store))
		}
	}
	require.False(t, node.has(t, first.Files[0].Store))
	require.Len(t, node.pages(t, testKey(0), running.RequestedSeq), 2)
	require.True(t, node.sealed(t, testKey(0)))
	u, err := node.tasks.Usage("other")
	require.NoError(t, err)
	require.Equal(t, 4, u.Exports)
	require.Equal(t, node.rebuilt(t), node.digest(t))

	// An export that cannot be forgotten still counts.
	s.history.maxExports = 1
	passes(t, s, 1)
	node.other(t, 2)
	passes(t, s, 1)
	require.True(t, node.knows(t, 0))
	require.True(t, node.knows(t, 1))
	require.False(t, node.knows(t, 7))
	node.write(t, testKey(1), &events.CallbackFailed{Attempt: 10, Reason: "answered 500"})
	node.other(t, 3)
	passes(t, s, 2)
	require.False(t, node.knows(t, 1))
	require.Equal(t, node.rebuilt(t), node.digest(t))

	// A forgotten key becomes a new export when it is requested again.
	x := node.write(t, testKey(2), requestOf("a"))
	require.Equal(t, x.RequestedSeq, x.ID)
	require.Len(t, x.Timeline, 1)
	node.caughtUpTo(t)
	require.True(t, node.knows(t, 2))
}

// One tenant gets at most half of the log.
func TestATenantForgetsWhatTakesMoreThanHalfOfTheLog(t *testing.T) {
	t.Parallel()
	const limit = 512 << 10
	node := startOn(t, eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxEventsBytes: limit}), Config{})
	node.as(t, "other", testKey(1000), requestOf("a"))
	node.as(t, "other", testKey(1000), &events.ExportCancelled{})
	long := requestOf(strings.Repeat("long ", 1000))
	n := 0
	s := node.keeper()
	passes(t, s, 1)
	for node.log(t).Space.Used < limit/10*7 {
		node.write(t, testKey(n), long)
		node.write(t, testKey(n), &events.ExportCancelled{})
		node.caughtUpTo(t)
		passes(t, s, 2) // purges the events before the newest
		n++
		if n > 40 {
			u, err := node.tasks.Usage(events.DefaultTenant)
			require.NoError(t, err)
			require.Less(t, u.Exports, n, "%d bytes of the log are used", node.log(t).Space.Used)
			break
		}
	}
	log := node.caughtUpTo(t)
	u, err := node.tasks.Usage(events.DefaultTenant)
	require.NoError(t, err)
	require.False(t, u.TooMuch(log.Space, s.history.maxExports))
	require.Greater(t, u.Bytes, int64(limit)*2/5, "no more goes than must")
	require.InDelta(t, log.Space.Used, u.Bytes, limit/10, "what is counted is about what the log holds")
	require.False(t, node.knows(t, 0))
	require.True(t, node.knows(t, n-1))
	other, err := node.tasks.Usage("other")
	require.NoError(t, err)
	require.Equal(t, 1, other.Exports)
	require.Equal(t, node.rebuilt(t), node.digest(t))
}

// Several ingresses may forget concurrently, in any order, with different views of the log. In the end they
// and the log have the same exports.
func TestForgettingIsTheSameOnTwoIngresses(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	node, other := start(t, srv, Config{}), start(t, srv, Config{})
	due := time.Now().Add(time.Hour)
	a, b := node.keeper(), other.keeper()
	b.files = node.files
	for _, s := range []*Service{a, b} {
		s.history.maxExports = 5
		passes(t, s, 1)
	}
	marks := 0
	same := func(known ...int) {
		t.Helper()
		for _, s := range []*Service{a, b, a} { // and the newest event
			node.other(t, marks)
			marks++
			other.caughtUpTo(t)
			passes(t, s, 1)
		}
		node.caughtUpTo(t)
		other.caughtUpTo(t)
		require.Equal(t, node.digest(t), other.digest(t))
		require.Equal(t, node.rebuilt(t), node.digest(t))
		for n := range 60 {
			node.knows(t, n)
		}
		u, err := node.tasks.Usage(events.DefaultTenant)
		require.NoError(t, err)
		require.Equal(t, len(known), u.Exports)
		for _, n := range known {
			require.True(t, node.knows(t, n), "key %d", n)
		}
	}
	for n := range 10 {
		node.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	passes(t, a, 2)
	passes(t, b, 2)
	same(5, 6, 7, 8, 9)

	var wg sync.WaitGroup
	for n := 10; n < 50; n++ {
		node.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	for _, s := range []*Service{a, b} {
		wg.Go(func() {
			for range 3 {
				if err := s.pass(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	passes(t, a, 1)
	passes(t, b, 1)
	same(45, 46, 47, 48, 49)

	// The oldest export cannot be forgotten when the first keeper runs, but can when the second does.
	node.write(t, testKey(50), withCallback("a"))
	node.write(t, testKey(50), &events.ExportCancelled{})
	for n := 51; n < 56; n++ {
		node.cancelled(t, n)
	}
	node.caughtUpTo(t)
	passes(t, a, 2)
	node.write(t, testKey(50), &events.CallbackDelivered{Attempt: 1, Status: 200})
	other.caughtUpTo(t)
	passes(t, b, 2)
	same(50, 52, 53, 54, 55)
}

// A process dies after its projection has forgotten an export and before the log has. The next projection
// knows that export, and the next keeper forgets it.
func TestACrashWhileForgetting(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	node.cancelled(t, 0)
	last := node.read(t, events.DefaultTenant, testKey(0))
	node.other(t, 1)
	require.NoError(t, node.tasks.Forget([]events.Export{last}))
	again := startOn(t, node.journal, Config{})
	_, err := again.tasks.Get(last.Key)
	require.NoError(t, err, "a projection that is made from the log knows it")
	s := again.keeper()
	s.history.maxExports = 0
	passes(t, s, 2)
	require.Equal(t, events.StateNone, again.read(t, last.Tenant, last.Key).State)
	require.Equal(t, node.digest(t), again.digest(t))
}

// Rejections count as ended exports of their tenant. They push out its own exports and no others.
func TestRejectionsPushOutOnlyTheTenantsOwn(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	node.cancelled(t, 0)
	for n := range 100 {
		node.as(t, "shop", testKey(100+n), &events.SubmissionRejected{Reason: "no"})
	}
	node.other(t, 1)
	s := node.keeper()
	s.history.maxExports = 10
	passes(t, s, 2)
	u, err := node.tasks.Usage("shop")
	require.NoError(t, err)
	require.Equal(t, 10, u.Exports)
	require.True(t, node.knows(t, 0))
	require.Equal(t, node.rebuilt(t), node.digest(t))
}

// An export that the log dropped by age leaves the projection too.
func TestWhatIsTooOldForTheLogIsForgotten(t *testing.T) {
	t.Parallel()
	node := startOn(t, eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{KeepLog: 2 * time.Second}), Config{})
	node.cancelled(t, 0)
	node.write(t, testKey(1), &events.SubmissionRejected{Reason: "no"})
	last := node.caughtUpTo(t).Last
	s := node.keeper()
	passes(t, s, 2)
	require.True(t, node.knows(t, 0))
	require.Eventually(t, func() bool { return node.log(t).First > last }, 20*time.Second, 10*time.Millisecond)
	node.cancelled(t, 2)
	node.caughtUpTo(t)
	passes(t, s, 1)
	for n := range 3 {
		_, err := node.tasks.Get(testKey(n))
		if n < 2 {
			require.ErrorIs(t, err, storage.ErrUnknownKey)
		} else {
			require.NoError(t, err)
		}
	}
}

// An export with an undelivered callback stays while the log holds its events, and is forgotten with them. It
// then no longer counts for its tenant. The same holds for an unfinished export.
func TestACallbackThatNobodyDeliversGoesWithItsEvents(t *testing.T) {
	t.Parallel()
	node := startOn(t, eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{KeepLog: 2 * time.Second}), Config{})
	node.write(t, testKey(0), withCallback("a"))
	node.write(t, testKey(0), &events.ExportCancelled{})
	node.write(t, testKey(1), requestOf("a"))
	last := node.caughtUpTo(t).Last
	s := node.keeper()
	passes(t, s, 2)
	require.Equal(t, events.CallbackPending, node.read(t, events.DefaultTenant, testKey(0)).Callback.State)
	require.True(t, node.knows(t, 0))
	require.True(t, node.knows(t, 1))
	require.Eventually(t, func() bool { return node.log(t).First > last }, 20*time.Second, 10*time.Millisecond)
	node.write(t, testKey(2), withCallback("a"))
	node.caughtUpTo(t)
	passes(t, s, 1)
	require.False(t, node.knows(t, 0))
	require.False(t, node.knows(t, 1))
	require.True(t, node.knows(t, 2))
	u, err := node.tasks.Usage(events.DefaultTenant)
	require.NoError(t, err)
	require.Equal(t, 1, u.Exports)
}

// A file of an export that the log does not know stays until it is older than any file may become. The log
// itself may be lost.
func TestFilesOfUnknownExports(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	id := events.NewID()
	made, ok := events.IDTime(id)
	require.True(t, ok)
	stores := []string{
		"default/" + testKey(9) + "-" + id + ".zip",
		"default/" + testKey(8) + "/" + id + ".zip",                           // of an older version
		"default/" + testKey(9) + "-01900000-0000-7000-8000-000000000000.zip", // of a log before this one
		"default/" + testKey(9) + "-a.zip",
	}
	for _, store := range stores {
		node.commit(t, store, []byte("zip"))
	}
	s := node.keeper()
	left := func(at time.Time) (list []bool) {
		s.now, s.orphans.searched = func() time.Time { return at }, time.Time{}
		require.NoError(t, s.orphans.remove(t.Context()))
		for _, store := range stores {
			list = append(list, node.has(t, store))
		}
		return list
	}
	ancient := made.Add(s.orphans.maxAge)
	require.Equal(t, []bool{true, true, true, true}, left(ancient))
	require.Equal(t, []bool{false, false, true, true}, left(ancient.Add(time.Second)))
}

// An export that was unfinished in a snapshot, and was forgotten before this projection began, leaves it.
func TestWhatWasForgottenBeforeTheStartIsForgotten(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	for n := range 3 {
		node.write(t, testKey(n), requestOf("a"))
	}
	node.write(t, testKey(3), withCallback("a"))
	node.write(t, testKey(3), &events.ExportCancelled{})
	node.caughtUpTo(t)
	files, err := storage.OpenSnapshotFiles(t.Context(), "file://"+storeOf(t), storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	snapshots := storage.NewSnapshots(files, t.TempDir(), slog.New(slog.DiscardHandler))
	snapshots.Min = 1
	require.NoError(t, snapshots.Save(t.Context(), node.tasks, node.journal))
	node.other(t, 100)
	for _, n := range []int{0, 3} {
		x := node.read(t, events.DefaultTenant, testKey(n))
		require.NoError(t, node.tasks.Forget([]events.Export{x}))
		require.NoError(t, node.journal.Forget(t.Context(), x))
	}

	tasks, err := snapshots.Restore(t.Context(), openTasks(t), node.journal)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tasks.Close()) })
	require.NotZero(t, tasks.Applied())
	later, err := New(Config{}, node.journal, tasks, node.files)
	require.NoError(t, err)
	t.Cleanup(follow(t, node.journal, tasks))
	passes(t, later, 1)
	_, ours, err := tasks.Digest()
	require.NoError(t, err)
	require.Equal(t, node.digest(t), ours)
	require.Equal(t, node.rebuilt(t), ours)
	for n, known := range []bool{false, true, true, false} {
		_, err := tasks.Get(testKey(n))
		require.Equal(t, known, err == nil, n)
	}
}
