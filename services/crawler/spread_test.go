package crawler

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// brisk deals out lists that take longer than some hundred milliseconds.
var brisk = tempo{beat: 5 * time.Millisecond, after: 50 * time.Millisecond, worth: 100 * time.Millisecond,
	span: 200 * time.Millisecond, ask: time.Second, silence: 30 * time.Second, linger: 100 * time.Millisecond}

// latency is how long a source of these tests takes for a page.
const latency = 10 * time.Millisecond

// counted counts the requests of one process.
type counted struct {
	http.RoundTripper
	n    atomic.Int64
	dead atomic.Bool
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.dead.Load() {
		return nil, errors.New("the process is dead")
	}
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

// crew is some crawlers that share a server, like processes.
type crew struct {
	t    *testing.T
	srv  *embedded.Server
	cfg  journal.Config
	log  *journal.Log // the test's own
	asks []*counted   // by crawler
	logs []*journal.Log
}

func newCrew(t *testing.T, ackWait time.Duration) *crew {
	srv, cfg := eventstest.Server(t, ""), journal.Config{Shared: true, AckWait: ackWait}
	return &crew{t: t, srv: srv, cfg: cfg, log: eventstest.JournalOn(t, srv, cfg)}
}

// join starts a crawler.
func (c *crew) join(client *http.Client, cfg Config, change func(*Service)) (stop func()) {
	c.t.Helper()
	log := eventstest.JournalOn(c.t, c.srv, c.cfg)
	asks := &counted{RoundTripper: client.Transport}
	c.asks, c.logs = append(c.asks, asks), append(c.logs, log)
	cfg.Spread, cfg.Fetches = true, 2
	return startWith(c.t, log, &http.Client{Transport: asks, CheckRedirect: client.CheckRedirect}, cfg, func(s *Service) {
		s.tempo = brisk
		change(s)
	})
}

func unchanged(*Service) {}

// slow makes a source of n rows that takes some time for each page.
func slow(t *testing.T, n int) *sourcetest.Source {
	src := sourcetest.New(t, n)
	src.Fault = func(int, int) sourcetest.Fault {
		<-time.After(latency) // the source takes so long
		return nil
	}
	return src
}

func askLarge(t *testing.T, s *journal.Log, http events.HTTPRequest) events.Export {
	t.Helper()
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP, HTTP: &http,
		}}, nil
	})
	require.NoError(t, err)
	return x
}

func standard(url string) events.HTTPRequest {
	return events.HTTPRequest{URL: url, Method: http.MethodGet, Limit: 2, Conn: 16, Param: json.RawMessage(`{}`)}
}

// endOf is the event that ends the crawl, without what differs between two equal crawls.
func endOf(t *testing.T, ev events.Event) events.Payload {
	t.Helper()
	switch p := ev.Payload.(type) {
	case *events.ExportCrawled:
		p.Crawl, p.Run = nil, 0
		return p
	case *events.ExportFailed:
		p.Run = 0
		return p
	}
	t.Fatalf("%T", ev.Payload)
	return nil
}

// alone returns how one crawler ends the export.
func alone(t *testing.T, client *http.Client, req events.HTTPRequest) events.Payload {
	t.Helper()
	s := eventstest.Journal(t)
	start(t, s, client, Config{})
	x := askLarge(t, s, req)
	return endOf(t, await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed))
}

func requireOnce(t *testing.T, requests []sourcetest.Request) {
	t.Helper()
	asked := map[int]int{}
	for _, r := range requests {
		asked[r.Page]++
		require.Equal(t, 1, asked[r.Page], "page %d", r.Page)
	}
}

// Several crawlers fetch the pages of a large export together, each page once. The result is that of one crawler.
func TestCrawlersShareALargeExport(t *testing.T) {
	t.Parallel()
	src := slow(t, 1001)
	want := alone(t, src.Client, standard(src.URL))
	before := len(src.Requests())
	crew := newCrew(t, 0)
	for range 3 {
		crew.join(src.Client, Config{}, unchanged)
	}
	x := askLarge(t, crew.log, standard(src.URL))
	require.Equal(t, want, endOf(t, await(t, crew.log, x.LastSeq, events.TypeCrawled, events.TypeFailed)))
	require.Equal(t, wantRows(1001), dataRows(t, crew.log, x.RequestedSeq, 501))
	requireOnce(t, src.Requests()[before:])
	for i, asks := range crew.asks {
		require.Greater(t, asks.n.Load(), int64(75), "of crawler %d", i)
	}
}

// Lists of numbered pages and of offsets are shared, whether their size is known or not. Their pages have no header,
// and different names.
func TestCrawlersShareDeclaredSources(t *testing.T) {
	t.Parallel()
	for style, pages := range map[string]int{"page": 301, "offset": 301, "cursor": 31} {
		for _, total := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, total %v", style, total), func(t *testing.T) {
				t.Parallel()
				a := newAPI(t, 5*pages, 5)
				a.before = func(http.ResponseWriter, *http.Request, int, int) bool {
					<-time.After(latency) // the source takes so long
					return false
				}
				paging := *styles()[style]
				if total {
					a.says = func(_, _ int, answer map[string]any) { answer["total"] = 5 * pages }
					paging.Total = "total"
				}
				req := events.HTTPRequest{URL: a.url, Method: http.MethodGet, Limit: 5, Conn: 32, Rows: "items", Paging: &paging}
				want := alone(t, http.DefaultClient, req)
				crew := newCrew(t, 0)
				for range 3 {
					crew.join(&http.Client{Transport: http.DefaultTransport}, Config{}, unchanged)
				}
				x := askLarge(t, crew.log, req)
				require.Equal(t, want, endOf(t, await(t, crew.log, x.LastSeq, events.TypeCrawled, events.TypeFailed)))
				for n := 1; n <= pages; n++ {
					require.Equal(t, 2, a.requests(n), "page %d, by both crawls", n)
				}
				idle := 0
				for _, asks := range crew.asks {
					if asks.n.Load() < int64(pages/10) {
						idle++
					}
				}
				if style == "cursor" {
					require.Equal(t, 2, idle, "each page names the next one")
				} else {
					require.Zero(t, idle)
				}
			})
		}
	}
}

// Reports may get lost, come twice, or come after the end of their span.
func TestReportsOfSpansMayBeLost(t *testing.T) {
	t.Parallel()
	type send = func(string, []byte) error
	for _, tc := range []struct {
		claim  string
		change func(next send) send
	}{
		{"lost", func(next send) send {
			return func(owner string, data []byte) error {
				var r report
				if json.Unmarshal(data, &r) == nil && r.Page != nil && r.Page.Page%3 == 0 {
					return nil
				}
				return next(owner, data)
			}
		}},
		{"all lost", func(send) send { return func(string, []byte) error { return nil } }},
		{"twice", func(next send) send {
			return func(owner string, data []byte) error {
				_ = next(owner, data)
				return next(owner, data)
			}
		}},
		{"late", func(next send) send {
			var mu sync.Mutex
			var held [][]byte
			return func(owner string, data []byte) error {
				mu.Lock()
				defer mu.Unlock()
				var r report
				if json.Unmarshal(data, &r) == nil && r.Page != nil {
					held = append(held, data)
					return nil
				}
				err := next(owner, data)
				for _, late := range held {
					_ = next(owner, late)
				}
				held = nil
				return err
			}
		}},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			src := slow(t, 801)
			want := alone(t, src.Client, standard(src.URL))
			before := len(src.Requests())
			crew := newCrew(t, 0)
			for range 2 {
				crew.join(src.Client, Config{}, func(s *Service) {
					s.send, s.tempo.silence = tc.change(s.send), 3*time.Second
				})
			}
			x := askLarge(t, crew.log, standard(src.URL))
			require.Equal(t, want, endOf(t, await(t, crew.log, x.LastSeq, events.TypeCrawled, events.TypeFailed)))
			require.Equal(t, wantRows(801), dataRows(t, crew.log, x.RequestedSeq, 401))
			requireOnce(t, src.Requests()[before:])
			for i, asks := range crew.asks {
				require.Greater(t, asks.n.Load(), int64(20), "of crawler %d", i)
			}
		})
	}
}

// A process dies: it hears and says nothing any more. The others fetch what is missing, and no more.
func TestTheOwnerOrAHelperDies(t *testing.T) {
	t.Parallel()
	for _, owner := range []bool{true, false} {
		t.Run(fmt.Sprintf("owner %v", owner), func(t *testing.T) {
			t.Parallel()
			src := slow(t, 801)
			want := alone(t, src.Client, standard(src.URL))
			before := len(src.Requests())
			crew := newCrew(t, 2*time.Second)
			var services []*Service
			for range 3 {
				crew.join(src.Client, Config{}, func(s *Service) {
					s.tempo.silence = 3 * time.Second
					services = append(services, s)
				})
			}
			reports := make(chan *nats.Msg, 10_000)
			_, err := eventstest.Connect(t, crew.srv).ChanSubscribe(events.SubjectSpan+">", reports)
			require.NoError(t, err)
			x := askLarge(t, crew.log, standard(src.URL))
			for found := false; !found; {
				var r report
				require.NoError(t, json.Unmarshal((<-reports).Data, &r))
				at := slices.IndexFunc(services, func(s *Service) bool {
					return owner && s.running.Len() > 0 || !owner && s.running.Len() == 0 && s.id == r.Helper
				})
				if found = at >= 0 && r.Page != nil; found {
					crew.asks[at].dead.Store(true)
					crew.logs[at].Conn().Close()
				}
			}
			require.Equal(t, want, endOf(t, await(t, crew.log, x.LastSeq, events.TypeCrawled, events.TypeFailed)))
			require.Equal(t, wantRows(801), dataRows(t, crew.log, x.RequestedSeq, 401))
			require.LessOrEqual(t, len(src.Requests())-before, 401+16, "at most those in flight are asked for again")
		})
	}
}

// After a cancellation no helper asks for anything.
func TestACancellationStopsHelpers(t *testing.T) {
	t.Parallel()
	src := slow(t, 100_001)
	crew := newCrew(t, 0)
	for range 3 {
		crew.join(src.Client, Config{}, unchanged)
	}
	x := askLarge(t, crew.log, standard(src.URL))
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(crew.asks, func(c *counted) bool { return c.n.Load() < 20 })
	}, 20*time.Second, 5*time.Millisecond)
	_, err := crew.log.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)
	last := -1
	require.Eventually(t, func() bool {
		now := len(src.Requests())
		defer func() { last = now }()
		return now == last
	}, 10*time.Second, 3*brisk.ask/2, "requests go on")
	info, err := crew.log.JetStream().Stream(t.Context(), events.StreamWork)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := info.Info(t.Context())
		return err == nil && info.CachedInfo().State.Msgs == 0
	}, 10*time.Second, 10*time.Millisecond, "spans of an ended export are dropped")
}

// A page that the source does not return fails the export as it does with one crawler, whichever crawler asked for it.
func TestAFailureInASpan(t *testing.T) {
	t.Parallel()
	src := slow(t, 1001)
	src.Fault = func(page, _ int) sourcetest.Fault {
		<-time.After(latency) // the source takes so long
		if page == 333 {
			return sourcetest.Status(503, "busy")
		}
		return nil
	}
	want := alone(t, src.Client, standard(src.URL))
	require.Equal(t, 333, want.(*events.ExportFailed).Page)
	crew := newCrew(t, 0)
	for range 3 {
		crew.join(src.Client, Config{}, unchanged)
	}
	x := askLarge(t, crew.log, standard(src.URL))
	require.Equal(t, want, endOf(t, await(t, crew.log, x.LastSeq, events.TypeCrawled, events.TypeFailed)))
}

// A small export makes no span, and its crawler sends as many messages as one that shares nothing.
func TestASmallExportMakesNoSpan(t *testing.T) {
	t.Parallel()
	sent := func(spread bool) uint64 {
		src := sourcetest.New(t, 40)
		srv := eventstest.Server(t, "")
		s := eventstest.JournalOn(t, srv, journal.Config{Shared: true})
		spans := make(chan *nats.Msg, 100)
		watch := eventstest.Connect(t, srv)
		for _, subject := range []string{events.SubjectWork, events.SubjectSpan} {
			_, err := watch.ChanSubscribe(subject+">", spans)
			require.NoError(t, err)
		}
		require.NoError(t, watch.Flush())
		crawler := eventstest.JournalOn(t, srv, journal.Config{Shared: true})
		startWith(t, crawler, src.Client, Config{Spread: spread, Exports: 1}, unchanged)
		waiting := func(stream, name string, n int) {
			require.Eventually(t, func() bool {
				cons, err := s.JetStream().Consumer(t.Context(), stream, name)
				return err == nil && cons.CachedInfo().NumWaiting >= n
			}, 10*time.Second, 10*time.Millisecond)
		}
		waiting(events.StreamEvents, events.ConsumerCrawler, 1)
		if spread {
			waiting(events.StreamWork, events.ConsumerSpans, 1)
		}
		before := crawler.Conn().Stats().OutMsgs
		x := request(t, s, events.Export{}, src.URL, 10, 0)
		await(t, s, x.LastSeq, events.TypeCrawled)
		waiting(events.StreamEvents, events.ConsumerCrawler, 1)
		require.Empty(t, spans)
		require.Len(t, src.Requests(), 4)
		return crawler.Conn().Stats().OutMsgs - before
	}
	require.Equal(t, sent(false), sent(true))
}

// Spans take every missing page once, in order, and nothing else.
func TestSpansTakeTheMissingPages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		total := rapid.IntRange(2, 3000).Draw(rt, "pages")
		lead := rapid.IntRange(1, 4096).Draw(rt, "lead")
		perSecond := rapid.Float64Range(0.1, 2000).Draw(rt, "perSecond")
		l := newLedger(1, 1_000_000, 1<<40, 1<<40)
		inv := newInventory(l)
		have := map[int]bool{1: true}
		for range rapid.IntRange(0, 50).Draw(rt, "stored") {
			have[rapid.IntRange(1, total).Draw(rt, "page")] = true
		}
		store := func(n int) {
			require.Nil(rt, inv.record(record{Page: n, Rows: 1, Data: uint64(n), Total: int64(total), Pages: total}))
		}
		l.plan = &plan{size: 1, rows: 1}
		for _, n := range slices.Sorted(maps.Keys(have)) {
			store(n)
		}
		next := 1
		for len(have) < total {
			numbers, ahead := inv.missing(next, maxSpan, 4, lead)
			numbers = numbers[:min(len(numbers), spanSize(ahead, perSecond, usualTempo))]
			require.NotEmpty(rt, numbers, "%d of %d", len(have), total)
			require.True(rt, slices.IsSorted(numbers))
			require.LessOrEqual(rt, numbers[len(numbers)-1], inv.sum().read+lead)
			for _, n := range numbers {
				require.False(rt, have[n], "page %d", n)
				require.GreaterOrEqual(rt, n, next)
				have[n] = true
				store(n)
			}
			next = numbers[len(numbers)-1] + 1
		}
	})
}

func TestSpanSize(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		ahead     int
		perSecond float64
		want      int
	}{
		{4096, 20, 60},   // 3 s of work
		{4096, 640, 256}, // a message has no more
		{100, 20, 12},    // an eighth of what is left
		{20, 20, 5},      // at least a quarter of a second
		{16, 0.2, 1},
	} {
		require.Equal(t, tc.want, spanSize(tc.ahead, tc.perSecond, usualTempo), "%+v", tc)
	}
}
