//go:build chaos && linux

// Orderly restarts. Real processes get SIGTERM in the middle of their work; their successors run already or
// are started afterwards on the same data. A source counts the requests for each page, a receiver the
// callbacks. The promises:
//
//   - A process exits with 0 within 15 s.
//   - No page is requested twice: requests in flight are finished and their pages kept.
//   - The successor continues at once. Work that is not handed back would be redelivered only after its
//     acknowledgement timed out, after 7 to 10 s.
//   - Every export completes, and its callback has one id. Attempts in flight are finished or repeated, never
//     lost.
//   - No request to an ingress fails, if its sender avoids ingresses that are not ready. A download in flight
//     is finished.
//   - A second signal ends the process at once.
package chaostest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

const (
	// exitWithin is the promised time.
	exitWithin = 15 * time.Second
	// resumesWithin is far above the time to resume work that was handed back, and below the 7 s after which
	// other work is redelivered.
	resumesWithin = 5 * time.Second
	// longConn is the number of concurrent requests of the long export.
	longConn = 4
	// longPages last longer than all restarts.
	longPages = 2500
)

// calmSource serves paced exports without faults, and counts requests.
type calmSource struct {
	server *httptest.Server
	pace   atomic.Int64 // per page of the long export, in nanoseconds

	mu    sync.Mutex
	asked map[string]map[int][]time.Time // request times, by export and page
}

func newCalmSource(t testing.TB) *calmSource {
	s := &calmSource{asked: map[string]map[int][]time.Time{}}
	s.pace.Store(int64(20 * time.Millisecond))
	s.server = quietServer(s)
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// ServeHTTP serves /NAME/PAGES/LIMIT[/wide]. A NAME that begins with hangs- gets no response.
func (s *calmSource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	o := &order{wide: len(part) > 3}
	if len(part) > 2 {
		o.pages, _ = strconv.Atoi(part[1])
		o.limit, _ = strconv.Atoi(part[2])
	}
	if o.last = o.limit; o.rowsOf(page) == 0 {
		http.NotFound(w, r)
		return
	}
	name := part[0]
	s.mu.Lock()
	if s.asked[name] == nil {
		s.asked[name] = map[int][]time.Time{}
	}
	s.asked[name][page] = append(s.asked[name][page], time.Now())
	s.mu.Unlock()
	switch {
	case strings.HasPrefix(name, "hangs-"):
		<-r.Context().Done()
		return
	case name == "long":
		time.Sleep(time.Duration(s.pace.Load())) // simulated latency of the source
	}
	w.Header().Set("Content-Type", "application/json")
	b := append([]byte(nil), `{"errcode":0,"msg":"","data":{"data":`...)
	b = o.appendRows(b, 1, page)
	_, _ = w.Write(fmt.Appendf(b, `,"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, page,
		o.limit, o.total(), o.pages))
}

// pagesOf returns how many pages of an export were requested.
func (s *calmSource) pagesOf(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked[name])
}

// twice lists the pages that were requested more than once.
func (s *calmSource) twice() (pages []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, asked := range s.asked {
		for page, times := range asked {
			if len(times) > 1 {
				pages = append(pages, fmt.Sprintf("%s/%d", name, page))
			}
		}
	}
	slices.Sort(pages)
	return pages
}

// gap returns the longest time without a request for an export, among gaps that end after since.
func (s *calmSource) gap(name string, since time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []time.Time
	for _, times := range s.asked[name] {
		all = append(all, times...)
	}
	slices.SortFunc(all, time.Time.Compare)
	for i := 1; i < len(all); i++ {
		if all[i].After(since) {
			longest = max(longest, all[i].Sub(all[i-1]))
		}
	}
	return longest
}

// listener records callbacks. For /NAME/slow the first attempt waits until it is released, for /NAME/hangs it
// gets no response, and for /NAME/refuses it gets 500. Plain /NAME succeeds.
type listener struct {
	server *httptest.Server
	letGo  chan struct{}
	ending chan struct{}

	mu    sync.Mutex
	calls map[string][]delivery
}

func newListener(t testing.TB) *listener {
	l := &listener{letGo: make(chan struct{}), ending: make(chan struct{}), calls: map[string][]delivery{}}
	l.server = quietServer(l)
	t.Cleanup(func() {
		close(l.ending)
		l.server.Close()
	})
	return l
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	name, how, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	status := http.StatusOK
	l.mu.Lock()
	first := len(l.calls[name]) == 0
	switch {
	case how == "refuses" && first:
		status = http.StatusInternalServerError
	case how == "hangs" && first:
		status = 0
	}
	l.calls[name] = append(l.calls[name],
		delivery{id: r.Header.Get("webhook-id"), status: status, at: time.Now()})
	l.mu.Unlock()
	switch {
	case how == "slow" && first:
		select {
		case <-l.letGo:
		case <-l.ending:
		}
	case status == 0:
		select {
		case <-r.Context().Done():
		case <-l.ending:
		}
		return
	}
	w.WriteHeader(status)
}

func (l *listener) callsOf(name string) []delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls[name])
}

// slowLink is a TCP proxy that pauses after each chunk from a NATS server while it is slow.
type slowLink struct {
	listener net.Listener
	pause    atomic.Int64 // nanoseconds
}

func newSlowLink(t testing.TB, target string) *slowLink {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &slowLink{listener: l}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
			pump := func(to, from net.Conn, pause *atomic.Int64) {
				defer stop()
				defer func() { _, _ = to.Close(), from.Close() }()
				buf := make([]byte, 32<<10)
				for {
					n, err := from.Read(buf)
					if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
						return
					}
					time.Sleep(time.Duration(pause.Load())) // the simulated slowness
				}
			}
			wg.Go(func() { pump(server, client, new(atomic.Int64)) })
			wg.Go(func() { pump(client, server, &s.pause) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	return s
}

// backend is an ingress as a load balancer sees it.
type backend struct {
	url      string
	ready    bool
	notReady time.Time // when it first reported that it is not ready
	refused  time.Time // when it first refused a connection
}

// balancer sends each request to a ready ingress, and to another one if the connection is refused. It reuses
// its connections.
type balancer struct {
	client *http.Client

	mu       sync.Mutex
	backends []*backend
	next     int
	answers  int
	retried  int
	broken   []string
}

func newBalancer(ctx context.Context, wg *sync.WaitGroup, backends ...*backend) *balancer {
	b := &balancer{backends: backends,
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	for _, at := range backends {
		wg.Go(func() { b.check(ctx, at) })
	}
	return b
}

// check polls a backend's readiness every 50 ms over separate connections. Real balancers are more patient.
func (b *balancer) check(ctx context.Context, at *backend) {
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(ctx, time.Hour, 50*time.Millisecond, func() bool {
		said, refused := 0, false
		res, err := probe.Get(at.url + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			said = res.StatusCode
		} else {
			refused = errors.Is(err, syscall.ECONNREFUSED)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if at.ready && said == http.StatusServiceUnavailable && at.notReady.IsZero() {
			at.notReady = time.Now()
		}
		if refused && at.refused.IsZero() && !at.notReady.IsZero() {
			at.refused = time.Now()
		}
		at.ready = said == http.StatusOK
		return false
	})
}

func (b *balancer) pick(not *backend) *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.backends {
		b.next++
		if at := b.backends[b.next%len(b.backends)]; at.ready && at != not {
			return at
		}
	}
	return nil
}

func (b *balancer) is(at *backend, state func(*backend) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return state(at)
}

// post sends one request. ok is false if no ingress was ready or the response was broken, which is recorded.
func (b *balancer) post(ctx context.Context, path string, body []byte) (a answer, ok bool) {
	var not *backend
	for range 3 {
		at := b.pick(not)
		if at == nil {
			return a, false
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.url+path, bytes.NewReader(body))
		if err != nil {
			return a, false
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := b.client.Do(req)
		if errors.Is(err, syscall.ECONNREFUSED) {
			not = at
			b.mu.Lock()
			b.retried++
			b.mu.Unlock()
			continue
		}
		if err == nil {
			err = json.NewDecoder(res.Body).Decode(&a)
			_ = res.Body.Close()
			if err == nil && res.StatusCode != http.StatusOK {
				err = fmt.Errorf("%d %s", res.StatusCode, a.Msg)
			}
		}
		if ctx.Err() != nil {
			return a, false
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.answers++
		if err != nil {
			b.broken = append(b.broken, err.Error())
		}
		return a, err == nil
	}
	return a, false
}

// exporting is a world with a calm source and a listener.
type exporting struct {
	*world
	source   *calmSource
	listener *listener

	mu   sync.Mutex
	keys map[string]string // hash_key by name
}

func newExporting(t testing.TB) *exporting {
	e := &exporting{source: newCalmSource(t), listener: newListener(t), keys: map[string]string{}}
	e.world = newWorld(t, 1, nil)
	return e
}

func (e *exporting) request(name string, pages, limit int, more, callback string) []byte {
	body, _ := json.Marshal(map[string]any{
		"timestamp": 1_700_000_000, "ext_type": "xlsx", "title": name, "user_id": "drain",
		"callback": e.listener.server.URL + "/" + name + callback,
		"source_http": map[string]any{"url": fmt.Sprintf("%s/%s/%d/%d%s", e.source.server.URL, name, pages,
			limit, more), "method": "GET", "conn": longConn, "param": map[string]any{"limit": limit}},
	})
	return body
}

func (e *exporting) accepted(name string, a answer) {
	var data struct {
		HashKey string `json:"hash_key"`
	}
	_ = json.Unmarshal(a.Data, &data)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[name] = data.HashKey
}

// begin retries the submission of an export until it is accepted.
func (e *exporting) begin(ctx context.Context, name string, pages, limit int, more, callback string) {
	status, a, err := e.insist(ctx, http.MethodPost, "/v1/export/http",
		e.request(name, pages, limit, more, callback))
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusOK, status, a.Msg)
	e.accepted(name, a)
}

func (e *exporting) key(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys[name]
}

// completed waits until an export has ended.
func (e *exporting) completed(ctx context.Context, name string, within time.Duration) (d detail) {
	ok := eventually(ctx, within, 20*time.Millisecond, func() bool {
		var err error
		d, err = e.detail(ctx, e.key(name))
		return err == nil && d.Status != events.StatusProcessing
	})
	require.True(e.t, ok, "%s does not end", name)
	require.Equal(e.t, events.StatusSucceeded, d.Status, "%s: %s", name, d.Reason)
	return d
}

// everyExport checks that all exports completed, each with callbacks of one id. It returns the number of
// duplicate callbacks.
func (e *exporting) everyExport(ctx context.Context) (exports, repeats int) {
	e.mu.Lock()
	names := make([]string, 0, len(e.keys))
	for name := range e.keys {
		names = append(names, name)
	}
	e.mu.Unlock()
	for _, name := range names {
		e.completed(ctx, name, time.Minute)
		ok := eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
			d, err := e.detail(ctx, e.key(name))
			return err == nil && d.Callback.State == events.CallbackDone
		})
		require.True(e.t, ok, "the callback of %s is not delivered", name)
		calls := e.listener.callsOf(name)
		require.NotEmpty(e.t, calls, name)
		good := 0
		for _, c := range calls {
			require.Equal(e.t, calls[0].id, c.id, "%s has one webhook-id", name)
			if c.status == http.StatusOK {
				good++
			}
		}
		repeats += good - 1
	}
	return len(names), repeats
}

// up starts a process and waits until it reports that its roles run.
func (e *exporting) up(ctx context.Context, p *process) {
	p.start("")
	e.saysReady(ctx, p, 1)
}

func (e *exporting) saysReady(ctx context.Context, p *process, starts int) {
	ok := eventually(ctx, 30*time.Second, 10*time.Millisecond, func() bool {
		text, _ := os.ReadFile(p.log)
		return bytes.Count(text, []byte("\nroles  ")) >= starts
	})
	require.True(e.t, ok, "%s does not start:\n%s", p.name, p.tail(20))
}

// drained sends SIGTERM and waits for the exit.
func (e *exporting) drained(p *process) (took time.Duration) {
	began := time.Now()
	p.shutdown(syscall.SIGTERM)
	took = time.Since(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Zero(e.t, p.last.ExitCode(), "%s: %v", p.name, p.last)
	require.Less(e.t, took, exitWithin, p.name)
	return took
}

func TestDrain(t *testing.T) {
	if testing.Short() {
		t.Skip("restarts processes for half a minute")
	}
	build(t) // once for all subtests
	t.Run("rolling restart", testRollingRestart)
	t.Run("restart in place", testRestartInPlace)
	t.Run("second signal", testSecondSignal)
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// testRollingRestart replaces every role, one after another, during a long export and many small ones.
func testRollingRestart(t *testing.T) {
	e := newExporting(t)
	_, natsServer := build(t)
	address := freeAddress()
	e.externalServer(natsServer, address)
	e.server.start("")
	e.connect()
	link := newSlowLink(t, address)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()

	urls := []string{"http://" + freeAddress(), "http://" + freeAddress()}
	role := func(role string, n int, nats string) *process {
		args := []string{"--roles", role, "--nats", nats, "--replicas", "1", "--secret-key", chaosSecret,
			"--public-url", urls[0]}
		if role == "ingress" {
			args = append(args, "--http", strings.TrimPrefix(urls[n-1], "http://"))
		}
		return e.serve(fmt.Sprintf("%s-%d", role, n), args...)
	}
	old := map[string]*process{}
	for _, name := range []string{"ingress", "crawler", "assembler", "notifier"} {
		at := e.natsURL
		if name == "assembler" {
			at = "nats://" + link.listener.Addr().String()
		}
		old[name] = role(name, 1, at)
		old[name].start("")
	}
	e.ingresses = urls[:1]

	var running sync.WaitGroup
	probing, stopProbing := context.WithCancel(ctx)
	defer running.Wait()
	defer stopProbing()
	first, second := &backend{url: urls[0]}, &backend{url: urls[1]}
	through := newBalancer(probing, &running, first, second)
	defer through.client.CloseIdleConnections()
	isReady := func(at *backend, p *process) {
		ok := eventually(ctx, 30*time.Second, 10*time.Millisecond, func() bool {
			return through.is(at, func(b *backend) bool { return b.ready })
		})
		require.True(t, ok, "%s is not ready:\n%s", p.name, p.tail(20))
	}
	isReady(first, old["ingress"])

	e.begin(ctx, "file", 8, 1000, "/wide", "")
	file := e.completed(ctx, "file", time.Minute)
	e.begin(ctx, "long", longPages, 5, "", "")
	flowing, stopFlow := context.WithCancel(ctx)
	defer stopFlow()
	var flow sync.WaitGroup
	for i := range 2 {
		flow.Go(func() {
			for n := 0; flowing.Err() == nil; n++ {
				name := fmt.Sprintf("small-%d-%d", i, n)
				if a, ok := through.post(ctx, "/v1/export/http", e.request(name, 1+n%3, 10, "", "")); ok {
					e.accepted(name, a)
				}
				eventually(flowing, 150*time.Millisecond, 150*time.Millisecond, func() bool { return false })
			}
		})
	}

	t.Run("ingress", func(t *testing.T) {
		next := role("ingress", 2, e.natsURL)
		next.start("")
		isReady(second, next)
		link, err := url.Parse(file.DownURL)
		require.NoError(t, err)
		down := beginDownload(t, urls[0]+link.RequestURI())
		defer down.body.Close()
		exited := make(chan time.Duration, 1)
		go func() { exited <- e.drained(old["ingress"]) }()
		e.ingresses = urls[1:]
		require.True(t, eventually(ctx, 30*time.Second, 10*time.Millisecond, func() bool {
			return through.is(first, func(b *backend) bool { return !b.refused.IsZero() })
		}), "the listener is not closed after it was said")
		require.Equal(t, file.Files[0].SHA256, down.finish(t), "the download under way")
		t.Logf("ingress: exit after %s; not ready %s before the listener was closed; a download of %d bytes was finished after that",
			ms(<-exited), ms(first.refused.Sub(first.notReady)), file.Files[0].Size)
	})

	t.Run("crawler", func(t *testing.T) {
		next := role("crawler", 2, e.natsURL)
		e.up(ctx, next)
		began := time.Now()
		took := e.drained(old["crawler"])
		before := e.source.pagesOf("long")
		require.True(t, eventually(ctx, time.Minute, 10*time.Millisecond,
			func() bool { return e.source.pagesOf("long") > before+50 }), "no process continues")
		gap := e.source.gap("long", began)
		t.Logf("crawler: exit after %s; at most %s between two requests of the long export; %d pages asked for twice", ms(took), ms(gap), len(e.source.twice()))
		require.Less(t, gap, resumesWithin)
		e.source.pace.Store(int64(100 * time.Millisecond)) // so that it outlasts the others
	})

	t.Run("assembler", func(t *testing.T) {
		assembling := make(chan struct{}, 100)
		e.begin(ctx, "bound", 400, 5, "", "")
		sub, err := e.nc.Subscribe("sheaf.progress.*."+e.key("bound"), func(m *nats.Msg) {
			if bytes.Contains(m.Data, []byte(events.PhaseAssembling)) {
				select {
				case assembling <- struct{}{}:
				default:
				}
			}
		})
		require.NoError(t, err)
		defer func() { _ = sub.Unsubscribe() }()
		require.True(t, eventually(ctx, time.Minute, time.Millisecond, func() bool {
			return e.source.pagesOf("bound") > 200
		}))
		link.pause.Store(int64(100 * time.Millisecond))
		select {
		case <-assembling:
		case <-time.After(time.Minute):
			require.Fail(t, "no process assembles")
		}
		next := role("assembler", 2, e.natsURL)
		e.up(ctx, next)
		began := time.Now()
		exited := make(chan time.Duration, 1)
		go func() { exited <- e.drained(old["assembler"]) }()
		e.completed(ctx, "bound", time.Minute)
		done := time.Since(began)
		t.Logf("assembler: exit after %s; a workbook in its middle was complete %s after SIGTERM",
			ms(<-exited), ms(done))
		require.Less(t, done, resumesWithin)
		log, err := os.ReadFile(next.log)
		require.NoError(t, err)
		require.Regexp(t, `export ended.*`+e.key("bound"), string(log), "the successor made it")
	})

	t.Run("notifier", func(t *testing.T) {
		for _, how := range []string{"slow", "hangs", "refuses"} {
			e.begin(ctx, how, 1, 10, "", "/"+how)
		}
		require.True(t, eventually(ctx, time.Minute, 10*time.Millisecond, func() bool {
			return len(e.listener.callsOf("slow")) == 1 && len(e.listener.callsOf("hangs")) == 1 &&
				len(e.listener.callsOf("refuses")) > 0
		}), "no attempts")
		next := role("notifier", 2, e.natsURL)
		e.up(ctx, next)
		began := time.Now()
		exited := make(chan time.Duration, 1)
		go func() { exited <- e.drained(old["notifier"]) }()
		require.True(t, eventually(ctx, 10*time.Second, 10*time.Millisecond, func() bool {
			return strings.Contains(old["notifier"].tail(50), "stopping")
		}))
		close(e.listener.letGo)
		took := <-exited
		require.True(t, eventually(ctx, time.Minute, 10*time.Millisecond, func() bool {
			return len(e.listener.callsOf("hangs")) > 1 && len(e.listener.callsOf("refuses")) > 1
		}), "a callback is lost")
		again := e.listener.callsOf("hangs")[1].at.Sub(began)
		t.Logf("notifier: exit after %s; an attempt without a response was repeated %s after SIGTERM",
			ms(took), ms(again))
		require.Less(t, again, exitWithin)
	})

	require.Less(t, e.source.pagesOf("long"), longPages, "the long export must outlast the restarts")
	stopFlow()
	flow.Wait()
	e.source.pace.Store(0)
	exports, repeats := e.everyExport(ctx)
	require.Len(t, e.listener.callsOf("slow"), 1, "an attempt under way is finished")
	t.Logf("all: %d exports; %d callbacks came twice; %d requests, %d went to the other ingress, %d broken; pages asked for twice: %v",
		exports, repeats, through.answers, through.retried, len(through.broken), e.source.twice())
	require.Empty(t, through.broken)
	require.Empty(t, e.source.twice())
	stopProbing()
	running.Wait()
	e.report()
}

// download is a download in flight whose buffers are all full.
type download struct {
	body io.ReadCloser
	sum  []byte
}

// beginDownload reads only the first bytes. Small buffers keep the rest on the server.
func beginDownload(t testing.TB, url string) *download {
	small := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10)
		})
	}}
	client := &http.Client{Transport: &http.Transport{DialContext: small.DialContext,
		DisableKeepAlives: true}}
	res, err := client.Get(url) //nolint:bodyclose // the caller does, when it has finished
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	d := &download{body: res.Body, sum: make([]byte, 4096)}
	_, err = io.ReadFull(d.body, d.sum)
	require.NoError(t, err)
	return d
}

// finish reads the rest and returns the SHA-256 of the whole file.
func (d *download) finish(t testing.TB) string {
	hash := sha256.New()
	_, _ = hash.Write(d.sum)
	_, err := io.Copy(hash, d.body)
	require.NoError(t, err)
	return hex.EncodeToString(hash.Sum(nil))
}

// testRestartInPlace stops the only process of a small installation and restarts it on the same data.
func testRestartInPlace(t *testing.T) {
	e := newExporting(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	at, natsAt := freeAddress(), freeAddress()
	e.ingresses, e.natsURL = []string{"http://" + at}, "nats://"+natsAt
	p := e.serve("sheaf", "--http", at, "--nats-listen", natsAt)
	e.up(ctx, p)
	e.begin(ctx, "long", longPages, 5, "", "")
	for i := range 10 {
		e.begin(ctx, fmt.Sprintf("small-%d", i), 1+i%3, 10, "", "")
	}
	require.True(t, eventually(ctx, time.Minute, 10*time.Millisecond, func() bool {
		return e.source.pagesOf("long") > 100
	}))
	began := time.Now()
	exit := e.drained(p)
	stopped := time.Now()
	before := e.source.pagesOf("long")
	p.start("")
	e.saysReady(ctx, p, 2)
	started := time.Since(stopped)
	require.True(t, eventually(ctx, time.Minute, 5*time.Millisecond,
		func() bool { return e.source.pagesOf("long") > before+50 }), "no process continues")
	gap := e.source.gap("long", began)
	require.Less(t, before, longPages-100, "the long export must outlast the restart")
	e.source.pace.Store(0)
	exports, repeats := e.everyExport(ctx)
	t.Logf("one process: exit after %s; up again after %s; at most %s between two requests of the long export; %d exports, %d callbacks came twice; pages asked for twice: %v",
		ms(exit), ms(started), ms(gap), exports, repeats, e.source.twice())
	require.Less(t, gap-exit-started, resumesWithin)
	require.Empty(t, e.source.twice())
	e.report()
}

// testSecondSignal ends a draining process, like a user who presses Ctrl-C twice.
func testSecondSignal(t *testing.T) {
	e := newExporting(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	at, natsAt := freeAddress(), freeAddress()
	e.ingresses, e.natsURL = []string{"http://" + at}, "nats://"+natsAt
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		log := filepath.Join(e.dir, signal.String()+".log")
		out, err := os.Create(log)
		require.NoError(t, err)
		cmd := exec.CommandContext(ctx, e.sheaf, "serve", "--data", filepath.Join(e.dir, "sheaf"), "--http",
			at, "--nats-listen", natsAt, "--log-format", "text")
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		_ = out.Close()
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		// A page that never arrives delays the drain.
		name := "hangs-" + strconv.Itoa(int(signal))
		e.begin(ctx, name, 1, 10, "", "")
		require.True(t, eventually(ctx, time.Minute, 10*time.Millisecond, func() bool {
			return e.source.pagesOf(name) > 0
		}))
		require.NoError(t, cmd.Process.Signal(signal))
		require.True(t, eventually(ctx, 10*time.Second, 10*time.Millisecond, func() bool {
			text, _ := os.ReadFile(log)
			return bytes.Contains(text, []byte("stopping"))
		}), "the process does not drain")
		select {
		case <-ended:
			require.Fail(t, "nothing was left to drain")
		default:
		}
		began := time.Now()
		require.NoError(t, cmd.Process.Signal(signal))
		<-ended
		took := time.Since(began)
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		t.Logf("%v twice: ended %s after the second, %v", signal, ms(took), cmd.ProcessState)
		require.True(t, status.Signaled() && status.Signal() == signal, "%v", cmd.ProcessState)
		require.Less(t, took, 3*time.Second, "a drain would take 5 s")
	}
}
