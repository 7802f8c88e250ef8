package keeper

import (
	"errors"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// kept completes an export whose pages are kept until a time.
func (node *node) kept(t testing.TB, key string, until time.Time) events.Export {
	t.Helper()
	x := node.underway(t, key)
	node.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2})
	done := node.write(t, key, &events.ExportCompleted{Run: x.RequestedSeq, Pages: 2, ExpiresAt: until.Add(-time.Hour), PagesUntil: until.UTC()})
	node.caughtUpTo(t)
	return done
}

// user starts an export that is made of the pages of another.
func (node *node) user(t testing.TB, key string, of *events.Export) {
	t.Helper()
	r := requestOf("b")
	r.Request.From = &events.Origin{Key: of.Key, Sheets: []events.SheetPages{of.CrawledSheet(0)}}
	node.write(t, key, r)
	node.caughtUpTo(t)
}

// Pages that are kept go when they are due, also after the file, and not before. Everything else of the export
// goes as without them.
func TestPagesAreKeptUntilTheyAreDue(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	until := time.Now().Add(48 * time.Hour)
	x := node.kept(t, testKey(1), until)
	left := func() int { return len(node.pages(t, x.Key, x.Run)) }
	s := node.keeper()
	s.leftovers.settle = 0
	passes(t, s, 2)
	require.False(t, node.sealed(t, x.Key), "headers go as without kept pages")
	require.Equal(t, 2, left())
	cleared, err := node.tasks.IsCleared(&x)
	require.NoError(t, err)
	require.False(t, cleared, "the search for strays leaves them")

	s.now = func() time.Time { return until.Add(-time.Second) }
	passes(t, s, 1)
	require.Equal(t, events.StateExpired, node.read(t, x.Tenant, x.Key).State, "the file expires before")
	require.Equal(t, 2, left())
	s.leftovers.settle = time.Minute
	s.now = func() time.Time { return until.Add(time.Minute) }
	passes(t, s, 1)
	require.Equal(t, 2, left(), "a request that came in time is safe")
	s.now = func() time.Time { return until.Add(time.Minute + time.Second) }
	passes(t, s, 1)
	require.Zero(t, left())
	x = node.read(t, x.Tenant, x.Key)
	cleared, err = node.tasks.IsCleared(&x)
	require.NoError(t, err)
	require.True(t, cleared)
}

// The keeper leaves pages that an unfinished export uses, in a pass, when space is short and when it forgets
// exports. Others that are due go meanwhile, however many are in use.
func TestPagesInUseStay(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	until := time.Now()
	var used []events.Export
	for n := range 3 {
		used = append(used, node.kept(t, testKey(n), until.Add(-time.Hour)))
		node.user(t, testKey(100+n), &used[n])
	}
	free := node.kept(t, testKey(9), until)
	left := func(x *events.Export) int { return len(node.pages(t, x.Key, x.Run)) }
	s := node.keeper()
	s.now = func() time.Time { return until.Add(time.Hour) }
	s.leftovers.room = func(int64) error { return errors.New("the disk is almost full") }
	s.history.maxExports = 1
	passes(t, s, 2)
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	for i := range used {
		require.Equal(t, 2, left(&used[i]))
		require.True(t, node.knows(t, i))
	}
	require.Zero(t, left(&free))

	for n := range used {
		node.write(t, testKey(100+n), &events.ExportCancelled{})
	}
	node.caughtUpTo(t)
	passes(t, s, 1)
	for i := range used {
		require.Zero(t, left(&used[i]))
	}
}

// When space is short, kept pages go before those that a retry may use, the ones that are due first before the
// others, until there is space. Rows that came with a request go too, unless they are new.
func TestKeptPagesMakeRoom(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	later := node.kept(t, testKey(1), time.Now().Add(48*time.Hour))
	sooner := node.kept(t, testKey(2), time.Now().Add(24*time.Hour))
	stopped := node.underway(t, testKey(3))
	node.write(t, testKey(3), &events.ExportCancelled{})
	r := requestOf("a")
	r.Request.HTTP, r.Request.Sheets = nil, []events.Sheet{{Title: "a", Raw: &events.RawRows{Pages: 1, Rows: 1}}}
	raw := node.write(t, testKey(4), r)
	node.page(t, testKey(4), events.RawRun, 1, []byte(`[{"a":1}]`))
	node.write(t, testKey(4), &events.ExportCrawled{Pages: 1})
	node.write(t, testKey(4), &events.ExportCompleted{Pages: 1, PagesUntil: time.Now().Add(time.Hour).UTC()})
	node.caughtUpTo(t)
	left := func(x *events.Export, run uint64) int { return len(node.pages(t, x.Key, run)) }

	s := node.keeper()
	full := 2 // looks that find no space
	s.leftovers.room = func(int64) error {
		if full--; full >= 0 {
			return errors.New("the disk is almost full")
		}
		return nil
	}
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	require.Equal(t, 1, left(&raw, events.RawRun), "no pass has seen it")
	require.Zero(t, left(&sooner, sooner.Run))
	require.Equal(t, 2, left(&later, later.Run))
	require.Equal(t, 2, left(&stopped, stopped.RequestedSeq))

	passes(t, s, 1)
	full = 2
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	require.Zero(t, left(&raw, events.RawRun))
	require.Equal(t, 2, left(&later, later.Run))
	full = 100
	require.NoError(t, s.leftovers.relieve(t.Context(), s.mark))
	require.Zero(t, left(&later, later.Run))
	require.Zero(t, left(&stopped, stopped.RequestedSeq))
}

// Pages of all sheets go with their export.
func TestPagesOfSheetsGo(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	x := node.underway(t, testKey(1))
	for sheet := range 3 {
		_, err := node.journal.Pages().Publish(t.Context(), pages.Page{
			ID:   pages.ID{Tenant: x.Tenant, Key: x.Key, Run: x.RequestedSeq, Sheet: sheet, Number: 7},
			Rows: []byte(`[]`), Total: -1,
		})
		require.NoError(t, err)
	}
	node.write(t, testKey(1), &events.ExportCancelled{})
	node.caughtUpTo(t)
	passes(t, node.keeper(), 2)
	n, err := node.journal.Pages().Count(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Zero(t, n)
}
