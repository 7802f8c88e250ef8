//go:build chaos && linux

package chaostest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

const courtesyLatency = 150 * time.Millisecond // of a page

// counted is a source that counts its own requests in flight.
type counted struct {
	pages  int
	full   int // a number of requests in flight that matters
	server *httptest.Server

	mu          sync.Mutex
	now, peak   int
	answers     int
	first, last time.Time // requests
	fullAt      time.Time // when full requests were last in flight
	longest     time.Duration
}

func newCounted(t testing.TB, pages, full int) *counted {
	s := &counted{pages: pages, full: full}
	s.server = quietServer(s)
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// change counts a request that begins or ends. It ends before its response is sent, which is small.
func (s *counted) change(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.first.IsZero() {
		s.first = now
	}
	if n < 0 {
		s.answers++
		s.last = now
	}
	if s.now >= s.full {
		s.fullAt = now
	}
	s.now += n
	s.peak = max(s.peak, s.now)
	if s.now >= s.full && !s.fullAt.IsZero() {
		s.longest = max(s.longest, now.Sub(s.fullAt))
		s.fullAt = now
	}
}

// mark begins a phase.
func (s *counted) mark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest, s.fullAt = 0, time.Now()
}

// isFull reports whether full requests are in flight, and the longest time in this phase without.
func (s *counted) isFull() (full bool, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now >= s.full, max(s.longest, time.Since(s.fullAt))
}

func (s *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || page < 1 || page > s.pages {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	s.change(1)
	defer s.change(-1)
	select {
	case <-time.After(courtesyLatency):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"data":[{"id":"ID"},{"id":%d}],"pagetag":{"page":%d,"limit":1,"total":%d,"total_page":%d}}}`,
		page, page, s.pages, s.pages)
}

// crowd is a world of one NATS server, an ingress, assemblers and crawlers.
type crowd struct {
	*world
	t        testing.TB
	flags    []string // of crawlers
	crawlers []*process
	workers  []*process // assemblers
}

func newCrowd(t testing.TB, crawlers, assemblers int, flags ...string) *crowd {
	c := &crowd{world: newWorld(t, 1, nil), t: t, flags: flags}
	_, natsServer := build(t)
	c.externalServer(natsServer, freeAddress())
	c.server.start("")
	c.connect()
	at := freeAddress()
	c.ingresses = []string{"http://" + at}
	c.role("ingress", 1, "--http", at, "--max-running-per-tenant", "0")
	for i := range assemblers {
		c.workers = append(c.workers, c.role("assembler", i+1, "--ops", freeAddress()))
	}
	for range crawlers {
		c.crawler()
	}
	return c
}

func (c *crowd) role(role string, n int, more ...string) *process {
	p := c.serve(fmt.Sprintf("%s-%d", role, n), append([]string{"--roles", role, "--nats", c.natsURL, "--replicas", "1",
		"--secret-key", chaosSecret, "--public-url", c.ingresses[0]}, more...)...)
	p.start("")
	c.running(p)
	return p
}

// running waits until a process works.
func (c *crowd) running(p *process) {
	require.True(c.t, eventually(c.t.Context(), time.Minute, 20*time.Millisecond, func() bool {
		return strings.Contains(p.tail(100), "roles  ")
	}), "%s does not start:\n%s", p.name, p.tail(20))
}

func (c *crowd) crawler() *process {
	p := c.role("crawler", len(c.crawlers)+1, c.flags...)
	c.crawlers = append(c.crawlers, p)
	return p
}

// completed returns how many files an assembler has finished.
func (c *crowd) completed(p *process) (files int) {
	ops := p.args[slices.Index(p.args, "--ops")+1]
	res, err := c.client.Get("http://" + ops + "/metrics")
	require.NoError(c.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	_, rest, found := strings.Cut(string(text), "\nsheaf_assembler_workbook_duration_seconds_count ")
	require.True(c.t, found)
	_, err = fmt.Sscan(rest, &files)
	require.NoError(c.t, err)
	return files
}

// submitAll submits exports of a source, and returns their keys.
func (c *crowd) submitAll(s *counted, exports int) (keys []string) {
	for n := range exports {
		body, err := json.Marshal(map[string]any{"ext_type": "xlsx", "title": fmt.Sprint("list ", n), "user_id": "courtesy",
			"source_http": map[string]any{"url": s.server.URL + "/list", "conn": 8, "param": map[string]any{"limit": 1, "n": n}}})
		require.NoError(c.t, err)
		status, a, err := c.insist(c.t.Context(), http.MethodPost, "/v1/export/http", body)
		require.NoError(c.t, err)
		require.Equal(c.t, http.StatusOK, status, a.Msg)
		var accepted struct {
			HashKey string `json:"hash_key"`
		}
		require.NoError(c.t, json.Unmarshal(a.Data, &accepted))
		keys = append(keys, accepted.HashKey)
	}
	return keys
}

// lasts is a phase that takes some time, whatever happens.
func (c *crowd) lasts(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// The limit of a host or tenant holds for all crawlers together: the source never sees more requests in flight,
// while crawlers start, die and pause. It is used up again within 6 s of a change (3 s on a quiet machine), or of
// the expiry of the leases of a process that is gone.
func TestCourtesyOfAllCrawlers(t *testing.T) {
	eventstest.LongRunning(t)
	const limit, expiry = 16, 10 * time.Second
	again := 6 * time.Second
	if quiet(t) {
		again = 3 * time.Second
	}
	for _, flags := range [][]string{
		{"--conns-per-host", "16"},
		{"--conns-per-host", "0", "--conns-per-tenant", "16"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			s := newCounted(t, 1000, limit)
			c := newCrowd(t, 2, 1, flags...)
			c.submitAll(s, 24)
			phase := func(what string, within, lasts time.Duration) {
				t.Helper()
				var samples []int // of requests in flight
				for end := time.Now().Add(lasts); time.Now().Before(end); c.lasts(time.Second) {
					s.mu.Lock()
					samples = append(samples, s.now)
					s.mu.Unlock()
				}
				full, longest := s.isFull()
				s.mu.Lock()
				t.Logf("%-32s peak %d, longest time below %d: %.2f s; each second %v", what, s.peak, limit, longest.Seconds(), samples)
				require.Equal(t, limit, s.peak)
				s.mu.Unlock()
				require.LessOrEqual(t, longest, within, "%s: full at the end: %v", what, full)
				s.mark()
			}
			require.True(t, eventually(t.Context(), 20*time.Second, time.Millisecond, func() bool {
				full, _ := s.isFull()
				return full
			}), "the limit is not used up")
			s.mark()
			phase("two crawlers", again, 3*time.Second)
			c.crawler()
			c.crawler()
			phase("two more start", again, 7*time.Second)
			c.crawlers[0].hit(syscall.SIGKILL, "")
			phase("one is killed and starts again", expiry+again, expiry+5*time.Second)
			c.crawlers[1].signal(syscall.SIGSTOP)
			phase("one stops for 30 s", expiry+again, 30*time.Second)
			c.crawlers[1].signal(syscall.SIGCONT)
			phase("it resumes", again, 8*time.Second)
			c.crawlers[2].shutdown(syscall.SIGTERM)
			phase("one drains", again, 7*time.Second)
			for _, p := range c.crawlers {
				require.Empty(t, p.complaints())
			}
		})
	}
}

// Few exports spread over all processes, and so do the pages per second.
func TestFewExportsSpread(t *testing.T) {
	eventstest.LongRunning(t)
	const exports = 16
	flags := []string{"--fetches", "16", "--conns-per-host", "0"}
	rates := map[int]float64{}
	for _, crawlers := range []int{1, 3} {
		s := newCounted(t, 100, 1)
		c := newCrowd(t, crawlers, 2, flags...)
		keys := c.submitAll(s, exports)
		require.True(t, eventually(t.Context(), 3*time.Minute, 100*time.Millisecond, func() bool {
			for _, key := range keys {
				if d, err := c.detail(t.Context(), key); err != nil || d.Status == events.StatusProcessing {
					return false
				}
			}
			return true
		}), "the exports do not end")
		s.mu.Lock()
		rates[crawlers] = float64(s.answers) / s.last.Sub(s.first).Seconds()
		s.mu.Unlock()
		share := func(p *process, n, most int) {
			t.Logf("%d crawlers: %s did %d of %d", crawlers, p.name, n, exports)
			require.LessOrEqual(t, n, most, "%s did more than its share", p.name)
		}
		most := exports
		if crawlers > 1 {
			most = exports / 2
		}
		for _, p := range c.crawlers {
			text, err := os.ReadFile(p.log)
			require.NoError(t, err)
			share(p, strings.Count(string(text), "export crawled"), most)
		}
		total := 0
		for _, p := range c.workers {
			n := c.completed(p)
			total += n
			share(p, n, exports*3/4) // two of them, and a file is made within milliseconds
		}
		require.Equal(t, exports, total)
		t.Logf("%d crawlers: %.0f pages/s", crawlers, rates[crawlers])
		c.close()
	}
	least := 1.8
	if quiet(t) {
		least = 2.5
	}
	require.GreaterOrEqual(t, rates[3]/rates[1], least)
}
