package journal_test

import (
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

func TestSealedHeaders(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	_, err := s.Headers(t.Context(), "default", testKey)
	require.ErrorIs(t, err, events.ErrNoHeaders)
	want := secrets.Values{"Authorization": "Bearer canary-7c1f", "X-中文": "值"}
	require.NoError(t, s.SaveHeaders(t.Context(), "default", testKey, want))
	require.NoError(t, s.SaveHeaders(t.Context(), "default", testKey, want))
	got, err := s.Headers(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, want, got)
	msgs := eventstest.Stored(t, s, events.StreamPrivate, "sheaf.private.headers.>")
	require.Len(t, msgs, 1, "the last one alone is kept")
	require.NotContains(t, string(msgs[0].Data), "canary")

	foreign(t, s, "sheaf.private.headers.default."+otherKey, nil, string(msgs[0].Data))
	_, err = s.Headers(t.Context(), "default", otherKey)
	require.ErrorIs(t, err, events.ErrSealed, "moved to another export")

	eventstest.Purge(t, s, events.StreamPrivate, "sheaf.private.*.default."+testKey)
	_, err = s.Headers(t.Context(), "default", testKey)
	require.ErrorIs(t, err, events.ErrNoHeaders)
}

func TestStartsAreCountedByMark(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	a, b := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	count := func(s *journal.Log, mark string) int {
		n, err := s.CountStart(t.Context(), "default", testKey, mark)
		require.NoError(t, err)
		return n
	}
	require.Equal(t, []int{1, 2, 3}, []int{count(a, "5/0"), count(b, "5/0"), count(a, "5/0")})
	require.Equal(t, []int{1, 2}, []int{count(b, "5/40"), count(a, "5/40")}, "further than before")
	foreign(t, a, "sheaf.private.starts.default."+testKey, nil, `{`)
	require.Equal(t, 1, count(a, "5/40"), "unreadable counts as none")
	eventstest.Purge(t, a, events.StreamPrivate, "sheaf.private.*.default."+testKey)
	require.Equal(t, 1, count(a, "5/40"))
}
