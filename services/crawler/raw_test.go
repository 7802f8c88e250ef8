package crawler

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// submitRaw appends a requested event for rows that came with it, as n pages of one row.
func submitRaw(t *testing.T, s *journal.Log, n int) events.Export {
	t.Helper()
	for i := 1; i <= n; i++ {
		_, err := s.Pages().Publish(t.Context(), pages.Page{
			ID:   pages.ID{Tenant: "default", Key: key, Run: events.RawRun, Number: i},
			Rows: fmt.Appendf(nil, `[{"id":%d}]`, i), RowCount: 1, Total: int64(n), TotalPages: n, Attempts: 1,
		})
		require.NoError(t, err)
	}
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceRaw, Raw: &events.RawRows{Pages: n, Rows: int64(n)},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// A stop does not wait for the remaining rows of a request that contained them: another crawler reads them.
func TestAStopEndsTheReadingOfRawRows(t *testing.T) {
	t.Parallel()
	proxy, behind, direct := eventstest.Proxied(t)
	service, err := New(Config{}, behind, http.DefaultClient)
	require.NoError(t, err)
	x := submitRaw(t, direct, 3)
	drain, stop := context.WithCancel(t.Context())
	defer stop()
	hold := make(chan struct{})
	defer close(hold)
	eventstest.LoseOnce(&proxy.OnReply, `{"id":2}`, func() {
		stop()
		<-hold // the response with page 2 does not arrive
	})
	late, cut := context.WithTimeout(t.Context(), 30*time.Second)
	defer cut()
	_, err = service.newCrawl(drain, x, true).run(late)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, late.Err(), "the crawler still reads after the stop")

	start(t, direct, http.DefaultClient, Config{})
	ev := await(t, direct, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	crawled, ok := ev.Payload.(*events.ExportCrawled)
	require.True(t, ok, "%+v", ev.Payload)
	require.Equal(t, 3, crawled.Pages)
}
