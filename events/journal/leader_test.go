package journal_test

import (
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// An event may be delivered before the log's leader has it: the leader's answers prove nothing then.
func TestNothingIsDecidedBehindAnEvent(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	x := request(t, s, "0000000000000000000000000000000a")
	crawled, err := s.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1}, nil
	})
	require.NoError(t, err)

	now, err := s.ReadSince(t.Context(),
		events.Event{Tenant: x.Tenant, Key: x.Key, Sequence: crawled.LastSeq})
	require.NoError(t, err)
	require.Equal(t, crawled, now)

	_, err = s.ReadSince(t.Context(),
		events.Event{Tenant: x.Tenant, Key: x.Key, Sequence: crawled.LastSeq + 1})
	require.ErrorIs(t, err, events.ErrUnavailable)

	// A caller that has seen the end of the export must not be answered that it is in progress.
	ahead := crawled
	ahead.LastSeq++
	asked := 0
	_, err = s.Append(t.Context(), ahead, "", func(x *events.Export) (events.Payload, error) {
		asked++
		require.Equal(t, ahead.LastSeq, x.LastSeq)
		return &events.ExportCancelled{}, nil
	})
	require.ErrorIs(t, err, events.ErrUnavailable)
	require.Equal(t, 1, asked)
}

// A purged key is gone, not lagging, even for a caller that saw its events.
func TestAPurgedExportIsNotBehind(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	old := request(t, s, "0000000000000000000000000000000a")
	request(t, s, "0000000000000000000000000000000b")
	require.NoError(t, s.Forget(t.Context(), old))

	x, err := s.ReadSince(t.Context(), events.Event{Tenant: old.Tenant, Key: old.Key, Sequence: old.LastSeq})
	require.NoError(t, err)
	require.Equal(t, events.StateNone, x.State)
	require.NoError(t, s.Quorum(t.Context()))
	_, err = s.Append(t.Context(), old, "", always(&events.ExportCancelled{}))
	require.ErrorIs(t, err, events.ErrNotAllowed)
	x, err = s.Append(t.Context(), old, "", always(requested()))
	require.NoError(t, err)
	require.Equal(t, x.LastSeq, x.ID, "it is a new one")
}

func request(t *testing.T, s *journal.Log, key string) events.Export {
	t.Helper()
	x, err := s.Append(t.Context(), events.Export{Tenant: events.DefaultTenant, Key: key}, "",
		func(*events.Export) (events.Payload, error) {
			return &events.ExportRequested{CreatedAt: time.Now().UTC(),
				Request: events.Request{SourceType: events.SourceHTTP, ExtType: "XLSX"}}, nil
		})
	require.NoError(t, err)
	return x
}
