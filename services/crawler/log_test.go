package crawler

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The line of a failure can be found by the export, its tenant, and the id that a
// producer gave its submission.
func TestFailureIsLoggedWithItsExport(t *testing.T) {
	var log logged
	eventstest.SetLog(t, slog.NewTextHandler(&log, nil))
	s := eventstest.Streams(t)
	src := sourcetest.New(t, 10)
	src.Fault = func(int, int) sourcetest.Fault { return sourcetest.Status(404, "no such page") }
	start(t, s, src.Client, Config{})
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "order-17", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: src.URL, Method: http.MethodGet, Limit: 10, Conn: 1, Param: []byte(`{}`)},
		}}, nil
	})
	require.NoError(t, err)
	await(t, s, x.LastSeq, events.TypeFailed)
	var line string
	require.Eventually(t, func() bool {
		_, line, _ = strings.Cut(log.String(), `msg="export failed" `)
		return strings.Contains(line, "\n")
	}, 5*time.Second, time.Millisecond)
	for _, attr := range []string{"service=crawler ", "tenant=default ", "hash_key=" + key + " ", "request_id=order-17 ", "error_code="} {
		require.Contains(t, line, attr)
	}
}
