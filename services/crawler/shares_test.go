package crawler

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// However many exports a tenant has queued, it crawls only its share at once. The exports of others start
// beside them, and all get their turn.
func TestATenantHasItsShare(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	var at, most atomic.Int32
	hold := make(chan struct{})
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/crowd" {
			n := at.Add(1)
			defer at.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-hold
		}
		_, _ = fmt.Fprint(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":1,"total":1,"total_page":1}}}`)
	}))
	t.Cleanup(source.Close)
	ask := func(tenant, path string, n int) string {
		key := fmt.Sprintf("%032x", n)
		_, err := s.Append(t.Context(), events.Export{Tenant: tenant, Key: key}, "", func(*events.Export) (events.Payload, error) {
			return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
				ExtType: "XLSX", SourceType: events.SourceHTTP,
				HTTP: &events.HTTPRequest{URL: source.URL + path, Method: http.MethodGet, Limit: 1, Conn: 1, Param: json.RawMessage(`{}`)},
			}}, nil
		})
		require.NoError(t, err)
		return key
	}
	crawled := func(tenant, key string) bool {
		x, err := s.Read(t.Context(), tenant, key)
		return err == nil && x.State == events.StateCrawled
	}
	var crowd []string
	for n := range 40 {
		crowd = append(crowd, ask("crowd", "/crowd", n+1))
	}
	one := ask("other", "/other", 100)
	start(t, s, source.Client(), Config{Exports: 8, Running: 4})
	require.Eventually(t, func() bool { return crawled("other", one) }, 20*time.Second, 5*time.Millisecond, "behind 40 of another tenant, in 8 slots")
	close(hold)
	for _, key := range crowd {
		require.Eventually(t, func() bool { return crawled("crowd", key) }, 20*time.Second, 5*time.Millisecond)
	}
	require.LessOrEqual(t, most.Load(), int32(4))
}
