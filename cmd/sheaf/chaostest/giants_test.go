//go:build chaos && linux

package chaostest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const (
	giantLatency = 200 * time.Millisecond // of a page
	giantRows    = 5                      // of a page
)

// giant is a source of many pages that answers each after giantLatency.
type giant struct {
	pages  int
	server *httptest.Server

	mu    sync.Mutex
	asked map[int][]time.Time
	now   int // requests in flight
	peak  int
}

func newGiant(t testing.TB, pages int) *giant {
	g := &giant{pages: pages, asked: map[int][]time.Time{}}
	g.server = quietServer(g)
	t.Cleanup(func() {
		g.server.CloseClientConnections()
		g.server.Close()
	})
	return g
}

func (g *giant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || page < 1 || page > g.pages {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	g.mu.Lock()
	g.asked[page] = append(g.asked[page], time.Now())
	g.now++
	g.peak = max(g.peak, g.now)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	}()
	select {
	case <-time.After(giantLatency):
	case <-r.Context().Done():
		return
	}
	rows := make([]map[string]any, giantRows)
	for i := range rows {
		n := (page-1)*giantRows + i
		rows[i] = map[string]any{"id": n, "name": fmt.Sprintf("客户 %d", n)}
	}
	data, _ := json.Marshal(append([]map[string]any{{"id": "ID", "name": "Name"}}, rows...))
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"data":%s,"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`,
		data, page, giantRows, g.pages*giantRows, g.pages)
}

// took returns the time from the first request to the end of the last one.
func (g *giant) took() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	first, last := time.Now(), time.Time{}
	for _, at := range g.asked {
		if at[0].Before(first) {
			first = at[0]
		}
		if end := at[len(at)-1]; end.After(last) {
			last = end
		}
	}
	return last.Add(giantLatency).Sub(first)
}

// giants is a world of one NATS server, an ingress, an assembler, and crawlers with four requests in flight each.
type giants struct {
	*world
	t        testing.TB
	crawlers []*process
}

func newGiants(t testing.TB, crawlers int) *giants {
	w := &giants{world: newWorld(t, 1, nil), t: t}
	_, natsServer := build(t)
	w.externalServer(natsServer, freeAddress())
	w.server.start("")
	w.connect()
	at := freeAddress()
	w.ingresses = []string{"http://" + at}
	role := func(role string, n int, more ...string) *process {
		p := w.serve(fmt.Sprintf("%s-%d", role, n), append([]string{"--roles", role, "--nats", w.natsURL, "--replicas", "1",
			"--secret-key", chaosSecret, "--public-url", w.ingresses[0]}, more...)...)
		p.start("")
		return p
	}
	role("ingress", 1, "--http", at)
	role("assembler", 1)
	for i := range crawlers {
		w.crawlers = append(w.crawlers, role("crawler", i+1, "--fetches", "4", "--conns-per-host", "0"))
	}
	require.True(t, eventually(t.Context(), time.Minute, 50*time.Millisecond, func() bool {
		for _, p := range w.processes {
			if !strings.Contains(p.tail(100), "roles  ") {
				return false
			}
		}
		return true
	}), "the processes do not start")
	return w
}

// export exports the source and returns the outcome. The request is the same in every world.
func (w *giants) export(ctx context.Context, g *giant, during func()) (d detail, pages map[int]time.Time) {
	body, err := json.Marshal(map[string]any{
		"timestamp": 1_700_000_000, "ext_type": "xlsx", "title": "giant", "user_id": "giants",
		"source_http": map[string]any{"url": g.server.URL + "/list", "conn": 64, "param": map[string]any{"limit": giantRows}},
	})
	require.NoError(w.t, err)
	pages, stop := w.stored(ctx)
	status, a, err := w.insist(ctx, http.MethodPost, "/v1/export/http", body)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, status, a.Msg)
	var accepted struct {
		HashKey string `json:"hash_key"`
	}
	require.NoError(w.t, json.Unmarshal(a.Data, &accepted))
	if during != nil {
		during()
	}
	require.True(w.t, eventually(ctx, 4*time.Minute, 100*time.Millisecond, func() bool {
		d, err = w.detail(ctx, accepted.HashKey)
		return err == nil && d.Status != events.StatusProcessing
	}), "the export does not end")
	stop()
	require.Equal(w.t, events.StatusSucceeded, d.Status, d.Reason)
	return d, pages
}

// stored notes when each page was stored, until stop is called. The map must not be read before.
func (w *giants) stored(ctx context.Context) (at map[int]time.Time, stop func()) {
	at = map[int]time.Time{}
	st, err := w.js.Stream(ctx, events.StreamPages)
	require.NoError(w.t, err)
	cons, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	require.NoError(w.t, err)
	iter, err := cons.Messages()
	require.NoError(w.t, err)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			m, err := iter.Next()
			if err != nil {
				return
			}
			tokens, err := events.SplitSubject(m.Subject(), events.SubjectPage, 5)
			meta, metaErr := m.Metadata()
			if n, atoi := strconv.Atoi(tokens[3]); err == nil && metaErr == nil && atoi == nil {
				at[n] = meta.Timestamp
			}
		}
	})
	return at, func() {
		iter.Stop()
		done.Wait()
	}
}

// quiet reports whether the machine does nothing else (CHAOS_QUIET=1). Then the bounds on time are those that users
// are promised; otherwise they allow for neighbours on few cores.
func quiet(t testing.TB) bool { return setting(t, "CHAOS_QUIET", 0) == 1 }

// Twice as many crawlers fetch twice as many pages a second of one export, and the workbook is the same.
func TestGiantsAreFasterWithMoreCrawlers(t *testing.T) {
	eventstest.LongRunning(t)
	var workbook string
	for _, crawlers := range []int{1, 2, 4} {
		g := newGiant(t, setting(t, "CHAOS_GIANT_PAGES", 800))
		w := newGiants(t, crawlers)
		d, _ := w.export(t.Context(), g, nil)
		rate := float64(g.pages) / g.took().Seconds()
		t.Logf("%d crawlers: %.1f pages/s, at most %d requests in flight, workbook %s", crawlers, rate, g.peak, d.Files[0].SHA256)
		least := 0.6
		if quiet(t) {
			least = 0.9
		}
		require.GreaterOrEqual(t, rate, least*20*float64(crawlers))
		require.LessOrEqual(t, g.peak, 64)
		for n, at := range g.asked {
			require.Len(t, at, 1, "page %d", n)
		}
		if workbook == "" {
			workbook = d.Files[0].SHA256
		}
		require.Equal(t, workbook, d.Files[0].SHA256)
		w.close()
	}
}

// Crawlers are killed every five seconds, the owner too. No page is asked for once it is stored, and the workbook is
// that of crawlers that live.
func TestGiantsUnderKills(t *testing.T) {
	eventstest.LongRunning(t)
	pages := setting(t, "CHAOS_GIANT_PAGES", 400)
	undisturbed := newGiants(t, 4)
	want, _ := undisturbed.export(t.Context(), newGiant(t, pages), nil)
	undisturbed.close()

	g := newGiant(t, pages)
	w := newGiants(t, 4)
	killing, cancel := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	kills := 0
	d, stored := w.export(t.Context(), g, func() {
		killer.Go(func() {
			tick := time.NewTicker(5 * time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					w.crawlers[kills%len(w.crawlers)].hit(syscall.SIGKILL, "")
					kills++
				case <-killing.Done():
					return
				}
			}
		})
	})
	cancel()
	killer.Wait()
	require.Len(t, stored, pages)
	again, wrong := 0, 0
	for n, at := range g.asked {
		again += len(at) - 1
		for _, asked := range at {
			if asked.After(stored[n]) {
				wrong++
				t.Errorf("page %d was stored at %s and asked for %s later", n, stored[n], asked.Sub(stored[n]))
			}
		}
	}
	t.Logf("%d kills, %.1f pages/s, %d requests that were repeated, %d of stored pages", kills,
		float64(pages)/g.took().Seconds(), again, wrong)
	require.Equal(t, want.Files[0].SHA256, d.Files[0].SHA256)
	require.GreaterOrEqual(t, kills, 2)
}
