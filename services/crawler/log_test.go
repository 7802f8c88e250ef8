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

// The line of a failure can be found by the export, its tenant, and the id that a
// producer gave its submission.
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
