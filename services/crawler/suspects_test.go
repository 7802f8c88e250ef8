package crawler

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// Exports whose process crashed twice while they ran are crawled one at a time, whatever their sources do:
// one answers 503 first, one hangs, and one holds all the memory for responses. Other exports run beside
// them.
func TestSuspectsGoOneAtATime(t *testing.T) {
	t.Parallel()
	server := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, server, journal.Config{})
	var suspects, most, hangs atomic.Int32
	unhang := make(chan struct{})
	release := sync.OnceFunc(func() { close(unhang) })
	failed := make(map[string]bool) // by the one suspect at a time
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := strings.Trim(r.URL.Path, "/")
		page := r.URL.Query().Get("page")
		pages, pad := 1, 10
		if strings.HasPrefix(who, "suspect") {
			if page == "1" {
				n := suspects.Add(1)
				defer suspects.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if !failed[who] {
					failed[who] = true
					http.Error(w, "later", http.StatusServiceUnavailable)
					return
				}
			}
			pages, pad = 6, 1<<20
		}
		if who == "hangs" {
			hangs.Add(1)
			<-unhang
		}
		fmt.Fprintf(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":"%s%s"}],"pagetag":{"page":%s,"limit":1,"total":%d,"total_page":%d}}}`,
			page, strings.Repeat("x", pad), page, pages, pages)
	}))
	t.Cleanup(source.Close)
	t.Cleanup(release) // before the source is closed, which waits for its responses
	ask := func(who string, starts int) string {
		key := fmt.Sprintf("%032x", who)[:32]
		x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
			return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
				ExtType: "XLSX", SourceType: events.SourceHTTP,
				HTTP: &events.HTTPRequest{URL: source.URL + "/" + who, Method: http.MethodGet, Limit: 1, Conn: 8, Param: json.RawMessage(`{}`)},
			}}, nil
		})
		require.NoError(t, err)
		for range starts {
			_, err := s.CountStart(t.Context(), "default", key, fmt.Sprintf("%d:0", x.RequestedSeq))
			require.NoError(t, err)
		}
		return key
	}
	crawled := func(key string) bool {
		x, err := s.Read(t.Context(), "default", key)
		return err == nil && x.State == events.StateCrawled
	}
	hanging := ask("hangs", journal.SuspectAfter)
	var keys []string
	for n := range 4 {
		keys = append(keys, ask(fmt.Sprintf("suspect%d", n), journal.SuspectAfter))
	}
	innocent := ask("innocent", 0)
	start(t, eventstest.JournalOn(t, server, journal.Config{SuspectPause: 50 * time.Millisecond}), source.Client(), Config{BodyBytes: 4 << 20}) // started before this process

	require.Eventually(t, func() bool { return crawled(innocent) }, 20*time.Second, 5*time.Millisecond)
	for _, key := range keys {
		require.Eventually(t, func() bool { return crawled(key) }, 60*time.Second, 20*time.Millisecond)
	}
	require.EqualValues(t, 1, most.Load(), "suspects at work at once")
	require.EqualValues(t, 1, hangs.Load())
	require.False(t, crawled(hanging))
	release()
	require.Eventually(t, func() bool { return crawled(hanging) }, 20*time.Second, 5*time.Millisecond)
}

// A suspect lets other suspects go first, for longer the more often it started. So a process that crashes
// within moments of each start does not always run the same one.
func TestASuspectPausesBeforeItIsAtWork(t *testing.T) {
	t.Parallel()
	server := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, server, journal.Config{})
	asked := make(chan time.Time, 10)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- time.Now()
		_, _ = w.Write([]byte(`{"errcode":0,"data":{"data":[{"id":"ID"}],"pagetag":{"page":1,"limit":1,"total":0,"total_page":1}}}`))
	}))
	t.Cleanup(source.Close)
	x := requestKey(t, s, spaceKey(1), source.URL)
	const starts = 3
	for range starts - 1 { // the first start is not recorded
		_, err := s.CountStart(t.Context(), "default", x.Key, fmt.Sprintf("%d:0", x.RequestedSeq))
		require.NoError(t, err)
	}
	begun := time.Now()
	start(t, eventstest.JournalOn(t, server, journal.Config{}), source.Client(), Config{}) // started before this process
	require.GreaterOrEqual(t, (<-asked).Sub(begun), s.SuspectPause(starts))
}
