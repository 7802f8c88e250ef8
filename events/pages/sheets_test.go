package pages_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// Each sheet of a run has pages of its own. A run is listed once, and a purge of one sheet leaves the
// others.
func TestPagesOfSheets(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	store := s.Pages()
	put := func(run uint64, sheet int, numbers ...int) {
		for _, n := range numbers {
			stored, err := store.Publish(t.Context(), pages.Page{
				ID:   pages.ID{Tenant: "default", Key: testKey, Run: run, Sheet: sheet, Number: n},
				Rows: []byte(`[]`), Total: -1, Attempts: 1,
			})
			require.NoError(t, err)
			require.True(t, stored)
		}
	}
	list := func(run uint64, sheet int) []int {
		numbers, err := store.List(t.Context(), "default", testKey, run, sheet)
		require.NoError(t, err)
		return numbers
	}
	put(events.RawRun, 2, 1)
	put(7, 0, 1, 2)
	put(7, 1, 0, 1)
	put(7, 11, 1)
	put(9, 1, 2, 1)

	require.Equal(t, []int{1, 2}, list(7, 0))
	require.Equal(t, []int{1}, list(7, 1))
	require.Equal(t, []int{1}, list(events.RawRun, 2))
	require.Empty(t, list(events.RawRun, 0))
	n, err := store.Count(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	runs, err := store.Runs(t.Context())
	require.NoError(t, err)
	id := func(run uint64) pages.RunID { return pages.RunID{Tenant: "default", Key: testKey, Run: run} }
	require.ElementsMatch(t, []pages.RunID{id(events.RawRun), id(7), id(9)}, runs)
	for sheet, want := range map[int]uint64{0: 7, 1: 9, 11: 7, 2: 3} {
		newest, err := store.NewestRun(t.Context(), "default", testKey, sheet, 3)
		require.NoError(t, err)
		require.Equal(t, want, newest, "sheet %d", sheet)
	}

	require.NoError(t, store.PurgeEarlierRuns(t.Context(), "default", testKey, 1, 9))
	require.Empty(t, list(7, 1))
	require.Equal(t, []int{1, 2}, list(7, 0))
	require.Equal(t, []int{1}, list(7, 11), "sheet 11 is not sheet 1")
	require.Equal(t, []int{1, 2}, list(9, 1))
	require.NoError(t, store.PurgeRuns(t.Context(), "default", testKey, 9))
	require.Empty(t, list(7, 0))
	require.Empty(t, list(7, 11))
	require.Equal(t, []int{1, 2}, list(9, 1))
	require.NoError(t, store.PurgeRuns(t.Context(), "default", testKey, 10))
	n, err = store.Count(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, []int{1}, list(events.RawRun, 2), "rows that came with the request stay")
}

func TestManifestOfSheets(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("aabb"))
	require.Equal(t, hex.EncodeToString(sum[:]), pages.SumSheets([]events.SheetPages{{Manifest: "aa"}, {Manifest: "bb"}}))
}
