package crawler

import (
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

// The log line of a failure can be found by the export, its tenant, and the id that a producer gave its
// submission.
func TestFailureIsLoggedWithItsExport(t *testing.T) {
	t.Parallel()
	var log eventstest.Log
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 10)
	src.Fault = func(int, int) sourcetest.Fault { return sourcetest.Status(404, "no such page") }
	start(t, s, src.Client, Config{Log: log.Logger()})
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "order-17", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: src.URL, Method: http.MethodGet, Limit: 10, Conn: 1, Param: []byte(`{}`)},
		}}, nil
	})
	require.NoError(t, err)
	await(t, s, x.LastSeq, events.TypeFailed)
	var lines []string
	require.Eventually(t, func() bool {
		lines = log.With(`msg="export failed" `)
		return len(lines) > 0
	}, 5*time.Second, time.Millisecond)
	for _, attr := range []string{"service=crawler ", "tenant=default ", "hash_key=" + key + " ", "request_id=order-17 ", "error_code="} {
		require.Contains(t, lines[0], attr)
	}
}

// The log line of a crawled export counts the rows of its list, without those of pages that were stored
// beyond its end.
func TestCrawledRowsAreThoseOfTheList(t *testing.T) {
	t.Parallel()
	var log eventstest.Log
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 20)
	src.Fault = func(page, _ int) sourcetest.Fault { // repeats its last page, and announces nothing
		first := 10 * (min(page, 2) - 1)
		body := `{"errcode":0,"data":{"data":[` + src.Header
		for n := first; n < first+10; n++ {
			body += "," + src.Row(n)
		}
		return sourcetest.Body(body + `],"pagetag":{}}}`)
	}
	start(t, s, src.Client, Config{Log: log.Logger()})
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	stored, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
	require.NoError(t, err)
	require.Greater(t, len(stored), 2)
	var lines []string
	require.Eventually(t, func() bool {
		lines = log.With(`msg="export crawled" `)
		return len(lines) > 0
	}, 5*time.Second, time.Millisecond)
	require.Contains(t, lines[0], " pages=2 rows=20 ")
}
