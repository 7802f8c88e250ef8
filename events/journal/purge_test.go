package journal_test

import (
	"fmt"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

func TestPurgeEndedStopsAtTheMark(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx := t.Context()
	publish := func(run uint64, number int) {
		id := pages.ID{Tenant: "default", Key: testKey, Run: run, Number: number}
		_, err := s.Pages().Publish(ctx,
			pages.Page{ID: id, Rows: []byte(`[{"a":1}]`), RowCount: 1, Total: -1})
		require.NoError(t, err)
	}
	pages := func(run uint64) []int {
		list, err := s.Pages().List(ctx, "default", testKey, run, 0)
		require.NoError(t, err)
		return list
	}
	x, err := s.Append(ctx, events.Export{Tenant: "default", Key: testKey}, "", always(requested()))
	require.NoError(t, err)
	require.NoError(t, s.SaveHeaders(ctx, "default", testKey, map[string]string{"A": "b"}))
	publish(1, 1)
	publish(1, 2)
	publish(7, 1)

	mark, err := s.PurgeMark(ctx)
	require.NoError(t, err)
	require.ErrorIs(t, s.PurgeEnded(ctx, x, mark), events.ErrNotAllowed, "under way")
	require.Equal(t, []int{1, 2}, pages(1))

	ended, err := s.Append(ctx, x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	publish(1, 3)
	require.NoError(t, s.PurgeEnded(ctx, ended, journal.PurgeMark{}))
	require.Equal(t, []int{1, 2, 3}, pages(1), "a mark at the beginning")

	for range 2 {
		require.NoError(t, s.PurgeEnded(ctx, ended, mark))
		require.Equal(t, []int{3}, pages(1), "a page behind the mark stays")
		require.Empty(t, pages(7), "other runs go as well")
		_, err = s.Headers(ctx, "default", testKey)
		require.ErrorIs(t, err, events.ErrNoHeaders)
	}

	// Restarted: the new request's data, and the old one's leftovers, stay.
	require.NoError(t, s.SaveHeaders(ctx, "default", testKey, map[string]string{"A": "c"}))
	require.NoError(t, s.PurgeEnded(ctx, ended, mark))
	header, err := s.Headers(ctx, "default", testKey)
	require.NoError(t, err)
	require.Equal(t, "c", header["A"])
	mark, err = s.PurgeMark(ctx)
	require.NoError(t, err)
	again, err := s.Append(ctx, ended, "", always(requested()))
	require.NoError(t, err)
	require.ErrorIs(t, s.PurgeEnded(ctx, ended, mark), events.ErrNotAllowed)
	_, err = s.Append(ctx, again, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	require.ErrorIs(t, s.PurgeEnded(ctx, ended, mark), events.ErrNotAllowed, "it has ended again since it was read")
	require.Equal(t, []int{3}, pages(1))
}

// The newest event of a key survives its other events, and one export survives the deletion of others.
func TestKeepLast(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	write := func(tenant, key string, types ...events.Type) (x events.Export) {
		x = events.Export{Tenant: tenant, Key: key}
		for n, typ := range types {
			var err error
			x, err = s.Append(t.Context(), x, "", always(eventstest.Payload(typ, uint64(n+1), "")))
			require.NoError(t, err)
		}
		return x
	}
	round := []events.Type{events.TypeRequested, events.TypeCrawled, events.TypeCompleted, events.TypeExpired}
	x := write("default", testKey, append(round, round...)...)
	other := write("default", otherKey, round...)
	another := write("other", testKey, round...)
	for range 2 {
		require.NoError(t, s.KeepLast(t.Context(), x.Tenant, x.Key))
		for _, want := range []events.Export{x, other, another} {
			got, err := s.Read(t.Context(), want.Tenant, want.Key)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Len(t, eventstest.Stored(t, s, events.StreamEvents, ">"), 1+4+4)
	}
	require.Len(t, x.Timeline, 8, "the timeline includes purged events")

	// The export continues from there.
	x, err := s.Append(t.Context(), x, "", always(eventstest.Payload(events.TypeRequested, 9, "")))
	require.NoError(t, err)
	got, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, x, got)
	for _, name := range [][2]string{{"default", "*"}, {"*", testKey}, {"default", ">"}} {
		require.Error(t, s.KeepLast(t.Context(), name[0], name[1]))
		require.Error(t, s.Forget(t.Context(), events.Export{Tenant: name[0], Key: name[1], LastSeq: 99}))
	}
	require.Len(t, eventstest.Stored(t, s, events.StreamEvents, ">"), 2+4+4)
}

// An export that was restarted meanwhile is not forgotten.
func TestForget(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	x := request(t, s, testKey)
	other := request(t, s, otherKey)
	x, err := s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	again, err := s.Append(t.Context(), x, "", always(requested()))
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), x))
	got, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, again, got)
	for range 2 {
		require.NoError(t, s.Forget(t.Context(), again))
		got, err = s.Read(t.Context(), x.Tenant, x.Key)
		require.NoError(t, err)
		require.Equal(t, fresh(), got)
	}
	got, err = s.Read(t.Context(), other.Tenant, other.Key)
	require.NoError(t, err)
	require.Equal(t, other, got)
}

// Leftovers of a key are purged only if the log has no event of it.
func TestPurgeUnknown(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	require.NoError(t, s.SaveHeaders(t.Context(), "default", testKey, map[string]string{"A": "b"}))
	_, err := s.Pages().Publish(t.Context(),
		pages.Page{ID: pages.ID{Tenant: "default", Key: testKey, Run: 7, Number: 1}, Rows: []byte(`[]`)})
	require.NoError(t, err)
	mark, err := s.PurgeMark(t.Context())
	require.NoError(t, err)
	x := request(t, s, testKey)
	h := journal.Leftover{Tenant: "default", Key: testKey}
	require.ErrorIs(t, s.PurgeUnknown(t.Context(), h, mark), events.ErrNotAllowed)
	_, err = s.Headers(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), x))
	require.NoError(t, s.PurgeUnknown(t.Context(), h, mark))
	_, err = s.Headers(t.Context(), "default", testKey)
	require.ErrorIs(t, err, events.ErrNoHeaders)
	require.Empty(t, eventstest.Stored(t, s, events.StreamPages, ">"))
}

// BenchmarkPurgeEnded measures a sweep per ended export.
func BenchmarkPurgeEnded(b *testing.B) {
	s := eventstest.Journal(b)
	ctx := b.Context()
	var ended []events.Export
	for n := range b.N {
		x, err := s.Append(ctx, events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "",
			always(requested()))
		require.NoError(b, err)
		for p := range 5 {
			_, err = s.Pages().Publish(ctx,
				pages.Page{ID: pages.ID{Tenant: x.Tenant, Key: x.Key, Run: x.RequestedSeq, Number: p + 1},
					Rows: []byte(`[{"a":1}]`), RowCount: 1})
			require.NoError(b, err)
		}
		x, err = s.Append(ctx, x, "", always(&events.ExportCancelled{}))
		require.NoError(b, err)
		ended = append(ended, x)
	}
	mark, err := s.PurgeMark(ctx)
	require.NoError(b, err)
	b.ResetTimer()
	for _, x := range ended {
		require.NoError(b, s.PurgeEnded(ctx, x, mark))
	}
}
