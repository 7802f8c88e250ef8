package eventstest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// Stored returns every message of a stream whose subject matches a filter, in order.
func Stored(t testing.TB, log *journal.Log, stream, filter string) []*jetstream.RawStreamMsg {
	t.Helper()
	st, err := log.JetStream().Stream(t.Context(), stream)
	require.NoError(t, err)
	var all []*jetstream.RawStreamMsg
	for next := uint64(1); ; {
		m, err := st.GetMsg(t.Context(), next, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all
		}
		require.NoError(t, err)
		all = append(all, m)
		next = m.Sequence + 1
	}
}

// At returns a fixed time plus n seconds.
func At(n uint64) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

// Payload returns a payload of a type; its content depends on n.
func Payload(t events.Type, n uint64, callback string) events.Payload {
	switch t {
	case events.TypeRequested:
		return &events.ExportRequested{CreatedAt: At(n),
			Request: events.Request{Title: fmt.Sprint(n), SourceType: events.SourceHTTP, Callback: callback}}
	case events.TypeCrawled:
		return &events.ExportCrawled{Run: n, Pages: int(n)}
	case events.TypeCompleted:
		return &events.ExportCompleted{Run: n, Pages: int(n), Rows: int64(n),
			Files: []events.File{{Store: fmt.Sprint(n)}}, ExpiresAt: At(n + 100)}
	case events.TypeFailed:
		return &events.ExportFailed{Code: events.CodeInternal, Reason: fmt.Sprint(n), Run: n,
			RunSpoiled: n%3 == 0}
	case events.TypeCancelled:
		return &events.ExportCancelled{Reason: fmt.Sprint(n)}
	case events.TypeExpired:
		return &events.ExportExpired{Files: []string{fmt.Sprint(n)}}
	case events.TypeRejected:
		return &events.SubmissionRejected{Submission: events.Submission{Sequence: n}, Reason: fmt.Sprint(n)}
	case events.TypeCallbackAttempted:
		return &events.CallbackAttempted{Attempt: int(n), Status: 500, NextAt: At(n + 5)}
	case events.TypeCallbackDelivered:
		return &events.CallbackDelivered{Attempt: int(n), Status: 204}
	case events.TypeCallbackFailed:
		return &events.CallbackFailed{Attempt: int(n), Status: 410}
	case events.TypeCallbackRequested:
		return &events.CallbackRequested{Terminal: n}
	}
	return nil
}

// Purge deletes the messages of a stream whose subject matches a filter.
func Purge(t testing.TB, log *journal.Log, stream, filter string) {
	t.Helper()
	st, err := log.JetStream().Stream(t.Context(), stream)
	require.NoError(t, err)
	require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSubject(filter)))
}
