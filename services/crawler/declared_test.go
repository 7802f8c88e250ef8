package crawler

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// api is a source that speaks every style of paging: {"items": [...], "next": ...}. Row n has the names id, and
// one of "a", "b" and "c", so that pages differ in their names.
type api struct {
	url   string
	total int // rows
	size  int // rows of a page, whatever was asked for
	// before is called with the number of a page, from 1, before its answer is sent. It may send another.
	before func(w http.ResponseWriter, r *http.Request, page, attempt int) (sent bool)
	says   func(page, last int, answer map[string]any) // adds announcements

	mu    sync.Mutex
	asked map[int]int // requests by page
}

func newAPI(t testing.TB, total, size int) *api {
	a := &api{total: total, size: size, asked: map[int]int{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL + "/list"
	return a
}

func (a *api) row(n int) string { return fmt.Sprintf(`{"id":%d,"%c":"x"}`, n, 'a'+n/7%3) }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	page := 1
	switch {
	case q.Has("page"):
		page, _ = strconv.Atoi(q.Get("page"))
	case q.Has("offset"):
		n, _ := strconv.Atoi(q.Get("offset"))
		page = n/a.size + 1
	case q.Has("after"):
		page, _ = strconv.Atoi(strings.TrimPrefix(q.Get("after"), "secret-"))
	}
	a.mu.Lock()
	a.asked[page]++
	attempt := a.asked[page]
	a.mu.Unlock()
	if a.before != nil && a.before(w, r, page, attempt) {
		return
	}
	items := []json.RawMessage{}
	for n := (page - 1) * a.size; n < min(page*a.size, a.total); n++ {
		items = append(items, json.RawMessage(a.row(n)))
	}
	last := max((a.total-1)/a.size+1, 1)
	answer := map[string]any{"items": items}
	if page < last {
		next := fmt.Sprintf("secret-%d", page+1)
		answer["next"], answer["url"] = next, "/list?after="+next
		w.Header().Set("Link", `<?after=`+next+`>; rel="next"`)
	}
	if a.says != nil {
		a.says(page, last, answer)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// requests returns how often a page was asked for, and all does so for every page.
func (a *api) requests(page int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[page]
}

func (a *api) all() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, count := range a.asked {
		n += count
	}
	return n
}

// styles are the ways to page through an api, without announcements.
func styles() map[string]*events.Paging {
	return map[string]*events.Paging{
		"page":     {Type: events.PagingPage, PageParam: "page", Start: 1, LimitParam: "limit", End: []string{events.EndEmpty}},
		"offset":   {Type: events.PagingOffset, OffsetParam: "offset", LimitParam: "limit", End: []string{events.EndEmpty}},
		"cursor":   {Type: events.PagingCursor, CursorParam: "after", Cursor: "next", LimitParam: "limit"},
		"next_url": {Type: events.PagingNextURL, NextURL: "url"},
		"link":     {Type: events.PagingLink, Rel: "next"},
	}
}

// requestDeclared appends a requested event for an api.
func requestDeclared(t testing.TB, s *journal.Log, known events.Export, url string, paging *events.Paging, conn int, continues uint64) events.Export {
	t.Helper()
	known.Tenant, known.Key = "default", key
	limit := 0
	if paging.LimitParam != "" {
		limit = 10
	}
	x, err := s.Append(t.Context(), known, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), ContinuesRun: continues, Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP, Needs: []string{events.NeedSource},
			HTTP: &events.HTTPRequest{URL: url, Method: http.MethodGet, Limit: limit, Conn: conn, Rows: "items", Paging: paging},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// columnsOf reads page 0 of a run.
func columnsOf(t *testing.T, s *journal.Log, run uint64) string {
	t.Helper()
	p, err := s.Pages().Get(t.Context(), pages.ID{Tenant: "default", Key: key, Run: run})
	require.NoError(t, err)
	return string(p.Rows)
}

func ended(t testing.TB, s *journal.Log, x events.Export) *events.ExportCrawled {
	t.Helper()
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	crawled, ok := ev.Payload.(*events.ExportCrawled)
	require.True(t, ok, "%+v", ev.Payload)
	return crawled
}

func failure(t *testing.T, s *journal.Log, x events.Export) *events.ExportFailed {
	t.Helper()
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	failed, ok := ev.Payload.(*events.ExportFailed)
	require.True(t, ok, "%+v", ev.Payload)
	require.NotContains(t, failed.Reason, "secret")
	return failed
}

// Every style gives all rows with every announcement, from one and from eight connections: the same pages, the
// same columns, the same manifest.
func TestDeclaredSources(t *testing.T) {
	t.Parallel()
	announcements := map[string]struct {
		says   func(page, last int, answer map[string]any)
		change func(*events.Paging)
		proof  events.Proof
		only   string // style
	}{
		"nothing": {nil, func(*events.Paging) {}, events.Proof{Kind: events.ProofEnd}, ""},
		"total": {func(_, _ int, a map[string]any) { a["total"] = 47 }, func(p *events.Paging) { p.Total = "total" },
			events.Proof{Kind: events.ProofTotal, Announced: 47}, ""},
		"pages": {func(_, last int, a map[string]any) { a["pages"] = last }, func(p *events.Paging) { p.TotalPages = "pages" },
			events.Proof{Kind: events.ProofPages, Announced: 10}, "page"},
		"more": {func(page, last int, a map[string]any) { a["more"] = page < last }, func(p *events.Paging) { p.More = "more" },
			events.Proof{Kind: events.ProofEnd}, ""},
		"estimate": {func(_, _ int, a map[string]any) { a["total"] = 9 }, func(p *events.Paging) { p.Total, p.Estimate = "total", true },
			events.Proof{Kind: events.ProofEnd}, ""},
	}
	for style, paging := range styles() {
		for name, announced := range announcements {
			if announced.only != "" && announced.only != style {
				continue
			}
			t.Run(style+" with "+name, func(t *testing.T) {
				t.Parallel()
				p := *paging
				announced.change(&p)
				want := announced.proof
				want.Rows, want.Pages = 47, 10
				var manifests []string
				for _, conn := range []int{1, 8} {
					s := eventstest.Journal(t)
					a := newAPI(t, 47, 5)
					a.says = announced.says
					start(t, s, http.DefaultClient, Config{})
					x := requestDeclared(t, s, events.Export{}, a.url, &p, conn, 0)
					crawled := ended(t, s, x)
					require.Equal(t, &want, crawled.Proof)
					require.Equal(t, wantRows(47), dataRows(t, s, crawled.Run, crawled.Pages))
					require.Equal(t, `[{"id":"id","a":"a","b":"b","c":"c"}]`, columnsOf(t, s, crawled.Run))
					manifests = append(manifests, crawled.Manifest)
					for n := 1; n <= 10; n++ {
						require.Equal(t, 1, a.requests(n), "page %d", n)
					}
					if isChained(&p) || name == "total" || name == "pages" {
						require.Equal(t, 10, a.all(), "nothing is asked for beyond the end")
					}
					require.LessOrEqual(t, a.all(), 10+max(conn, 2))
					var codes []string
					for _, w := range crawled.Warnings {
						codes = append(codes, w.Code)
					}
					if p.LimitParam != "" {
						require.Equal(t, []string{"LIMIT_CAPPED"}, codes)
					} else {
						require.Empty(t, codes)
					}
				}
				require.Equal(t, manifests[0], manifests[1])
			})
		}
	}
}

// A list without rows has an empty page 0.
func TestDeclaredListOfNothing(t *testing.T) {
	t.Parallel()
	for style, paging := range styles() {
		t.Run(style, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			a := newAPI(t, 0, 5)
			start(t, s, http.DefaultClient, Config{})
			crawled := ended(t, s, requestDeclared(t, s, events.Export{}, a.url, paging, 4, 0))
			require.Equal(t, 1, crawled.Pages)
			require.Equal(t, &events.Proof{Kind: events.ProofEnd, Pages: 1}, crawled.Proof)
			require.Equal(t, `[]`, columnsOf(t, s, crawled.Run))
		})
	}
}

// A crawler that finds pages asks for none of them again, wherever the one before it stopped. Of a chain it asks
// at most for one page twice. The result is that of a crawl without a stop.
func TestDeclaredCrawlGoesOnAfterAStop(t *testing.T) {
	t.Parallel()
	for style, paging := range styles() {
		t.Run(style, func(t *testing.T) {
			t.Parallel()
			var want string
			for stopAt := 0; stopAt <= 6; stopAt++ {
				s := eventstest.Journal(t)
				a := newAPI(t, 28, 5) // six pages
				reached := make(chan struct{})
				var first atomic.Bool
				a.before = func(_ http.ResponseWriter, r *http.Request, page, _ int) bool {
					if page != stopAt || !first.CompareAndSwap(false, true) {
						return false
					}
					close(reached)
					<-r.Context().Done() // until the crawler is stopped
					return true
				}
				stop := start(t, s, http.DefaultClient, Config{DrainFor: 50 * time.Millisecond})
				x := requestDeclared(t, s, events.Export{}, a.url, paging, 1, 0)
				var kept []int
				if stopAt > 0 {
					<-reached
					stop()
					var err error
					kept, err = s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
					require.NoError(t, err)
					require.Len(t, kept, stopAt-1)
					start(t, s, http.DefaultClient, Config{})
				}
				crawled := ended(t, s, x)
				require.Equal(t, wantRows(28), dataRows(t, s, crawled.Run, crawled.Pages))
				if stopAt == 0 {
					want = crawled.Manifest
				}
				require.Equal(t, want, crawled.Manifest)
				for n := 1; n <= 6; n++ {
					require.Equal(t, map[bool]int{true: 2, false: 1}[n == stopAt], a.requests(n), "page %d, stopped at %d", n, stopAt)
				}
			}
		})
	}
}

// A retry of a failed export asks for page 1 again and continues if it has the same rows.
func TestDeclaredRetry(t *testing.T) {
	t.Parallel()
	for style, paging := range styles() {
		for _, changed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, changed %v", style, changed), func(t *testing.T) {
				t.Parallel()
				s := eventstest.Journal(t)
				a := newAPI(t, 28, 5)
				var guess atomic.Int64
				a.says = func(_, _ int, answer map[string]any) { answer["total"] = guess.Add(1) } // an estimate may differ
				estimated := *paging
				estimated.Total, estimated.Estimate = "total", true
				paging := &estimated
				var broken atomic.Bool
				broken.Store(true)
				a.before = func(w http.ResponseWriter, _ *http.Request, page, _ int) bool {
					if page == 4 && broken.Load() {
						w.WriteHeader(http.StatusTeapot)
						return true
					}
					return false
				}
				start(t, s, http.DefaultClient, Config{})
				x := requestDeclared(t, s, events.Export{}, a.url, paging, 1, 0)
				require.Equal(t, events.CodeSourceHTTP, failure(t, s, x).Code)
				broken.Store(false)
				if changed {
					a.total = 27
					a.before = func(w http.ResponseWriter, _ *http.Request, page, _ int) bool {
						if page == 1 {
							w.Header().Set("Link", `<?after=secret-2>; rel="next"`)
							_, _ = fmt.Fprintf(w, `{"items":[{"id":0},{"id":1},{"id":2},{"id":3},{"id":"4"}],"total":9,"next":"secret-2","url":"/list?after=secret-2"}`)
							return true
						}
						return false
					}
				}
				end, err := s.Read(t.Context(), "default", key)
				require.NoError(t, err)
				run, ok := end.Resumable()
				require.True(t, ok)
				again := requestDeclared(t, s, end, a.url, paging, 1, run)
				crawled := ended(t, s, again)
				if changed {
					require.Equal(t, again.RequestedSeq, crawled.Run)
					require.Equal(t, 2, a.requests(2))
					return
				}
				require.Equal(t, x.RequestedSeq, crawled.Run)
				require.Equal(t, wantRows(28), dataRows(t, s, crawled.Run, crawled.Pages))
				for n, want := range map[int]int{1: 2, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1} {
					require.Equal(t, want, a.requests(n), "page %d", n)
				}
			})
		}
	}
}

// A source may refuse the token of a stored page after a pause. The crawl then begins again, once.
func TestKeptTokenIsRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim   string
		status  int
		stops   int // how often the crawler is stopped while it asks for page 4
		code    string
		refuses bool
	}{
		{"a new run, from page 1", 410, 1, "", true},
		{"not with another status", 402, 1, events.CodeSourceHTTP, true},
		{"not a second time", 404, 2, events.CodeSourceCursor, true},
		{"not if it is accepted", 0, 2, "", false},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			a := newAPI(t, 28, 5)
			reached := make(chan struct{}, 1)
			var stopped atomic.Int32
			var lost atomic.Bool // the source has forgotten its tokens
			a.before = func(w http.ResponseWriter, r *http.Request, page, _ int) bool {
				switch {
				case page == 1:
					lost.Store(false)
				case lost.Load():
					w.WriteHeader(tc.status)
					return true
				case page == 4 && int(stopped.Load()) < tc.stops:
					stopped.Add(1)
					lost.Store(tc.refuses)
					reached <- struct{}{}
					<-r.Context().Done()
					return true
				}
				return false
			}
			x := requestDeclared(t, s, events.Export{}, a.url, styles()["cursor"], 1, 0)
			for range tc.stops {
				stop := start(t, s, http.DefaultClient, Config{DrainFor: 50 * time.Millisecond})
				<-reached
				stop()
			}
			start(t, s, http.DefaultClient, Config{})
			if tc.code != "" {
				f := failure(t, s, x)
				require.Equal(t, tc.code, f.Code)
				require.Equal(t, tc.status, f.Status)
				require.Equal(t, 4, f.Page)
				require.Equal(t, tc.code == events.CodeSourceCursor, f.RunSpoiled)
				return
			}
			crawled := ended(t, s, x)
			require.Equal(t, wantRows(28), dataRows(t, s, crawled.Run, crawled.Pages))
			if tc.refuses {
				require.NotEqual(t, x.RequestedSeq, crawled.Run)
				left, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
				require.NoError(t, err)
				require.Empty(t, left, "the pages of the run before are purged")
			}
		})
	}
}

// If another crawler stored a page first, its token counts, and the page asked for ahead is discarded.
func TestChainFollowsTheFirstWriter(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 28, 5)
	x := requestDeclared(t, s, events.Export{}, a.url, styles()["cursor"], 1, 0)
	var once sync.Once
	a.before = func(_ http.ResponseWriter, _ *http.Request, page, _ int) bool {
		if page == 3 {
			once.Do(func() { // another page 3 leads to page 5
				sealed, err := s.Keys().Seal("default", key, []byte(`"secret-5"`))
				if err != nil {
					panic(err)
				}
				p := pages.Page{Rows: []byte(`[{"id":777,"z":1}]`), RowCount: 1, Total: -1, Next: base64.StdEncoding.EncodeToString(sealed)}
				p.ID = pages.ID{Tenant: "default", Key: key, Run: x.RequestedSeq, Number: 3}
				if _, err := s.Pages().Publish(t.Context(), p); err != nil {
					panic(err)
				}
			})
		}
		return false
	}
	start(t, s, http.DefaultClient, Config{})
	crawled := ended(t, s, x)
	want := slices.Concat(wantRows(10), []string{"777"}, wantRows(28)[20:])
	require.Equal(t, want, dataRows(t, s, crawled.Run, crawled.Pages))
	require.Equal(t, 5, crawled.Pages)
	require.Equal(t, `[{"id":"id","a":"a","b":"b","z":"z","c":"c"}]`, columnsOf(t, s, crawled.Run))
	require.LessOrEqual(t, a.requests(4), 1, "asked ahead, and discarded")
}

// The request for a page leaves before the page before it is durable, but no further.
func TestChainAsksOnePageAhead(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 200, 5)
	x := requestDeclared(t, s, events.Export{}, a.url, styles()["next_url"], 1, 0)
	var furthest atomic.Int64
	second := make(chan struct{})
	a.before = func(_ http.ResponseWriter, _ *http.Request, page, _ int) bool {
		kept, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
		if err != nil {
			panic(err)
		}
		if page == 2 {
			close(second)
		}
		furthest.Store(max(furthest.Load(), int64(page-1-len(kept))))
		return false
	}
	// Page 1 is not stored before page 2 is asked for.
	room := func(int64) error {
		if a.requests(1) > 0 {
			<-second
		}
		return nil
	}
	start(t, s, http.DefaultClient, Config{Room: room})
	require.Equal(t, 40, ended(t, s, x).Pages)
	require.EqualValues(t, 1, furthest.Load())
}

// BenchmarkChain compares the time of a chain of 1,000 pages with the time that its source takes.
func BenchmarkChain(b *testing.B) {
	const n, latency = 1000, 5 * time.Millisecond
	for b.Loop() {
		s := eventstest.Journal(b)
		a := newAPI(b, n*5, 5)
		var slept atomic.Int64
		a.before = func(http.ResponseWriter, *http.Request, int, int) bool {
			begun := time.Now()
			time.Sleep(latency)
			slept.Add(int64(time.Since(begun)))
			return false
		}
		start(b, s, http.DefaultClient, Config{})
		begun := time.Now()
		require.Equal(b, n, ended(b, s, requestDeclared(b, s, events.Export{}, a.url, styles()["cursor"], 1, 0)).Pages)
		b.ReportMetric(float64(time.Since(begun))/float64(slept.Load()), "x-source")
	}
}

// The columns wait for space as pages do.
func TestColumnsWaitForSpace(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 28, 5)
	x := requestDeclared(t, s, events.Export{}, a.url, styles()["cursor"], 1, 0)
	var refused atomic.Int64
	room := func(int64) error {
		kept, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
		if err == nil && len(kept) == 6 && refused.Add(1) <= 3 {
			return errors.New("the disk is full")
		}
		return nil
	}
	start(t, s, http.DefaultClient, Config{Room: room, SpaceWait: 150 * time.Millisecond})
	crawled := ended(t, s, x)
	require.Greater(t, refused.Load(), int64(3))
	require.Equal(t, 6, a.all())
	require.Equal(t, `[{"id":"id","a":"a","b":"b","c":"c"}]`, columnsOf(t, s, crawled.Run))
}

// The columns that an earlier crawler stored count. Others than those of the rows fail the export.
func TestColumnsAreStoredOnce(t *testing.T) {
	t.Parallel()
	for names, code := range map[string]string{`[{"id":"id","a":"a","b":"b","c":"c"}]`: "", `[{"id":"id"}]`: events.CodeStore} {
		s := eventstest.Journal(t)
		a := newAPI(t, 28, 5)
		x := requestDeclared(t, s, events.Export{}, a.url, styles()["page"], 1, 0)
		_, err := s.Pages().Publish(t.Context(), pages.Page{ID: pages.ID{Tenant: "default", Key: key, Run: x.RequestedSeq}, Rows: []byte(names), RowCount: 1, HeaderRow: true, Total: -1})
		require.NoError(t, err)
		start(t, s, http.DefaultClient, Config{})
		if code == "" {
			ended(t, s, x)
			continue
		}
		f := failure(t, s, x)
		require.Equal(t, code, f.Code)
		require.True(t, f.RunSpoiled)
	}
}

// The markers of the end over HTTP, for both numbered styles and for any number of connections.
func TestMarkersOfTheEnd(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter) { return func(w http.ResponseWriter) { w.WriteHeader(code) } }
	items := func(ids ...int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			rows := []map[string]int{}
			for _, id := range ids {
				rows = append(rows, map[string]int{"id": id})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"items": rows})
		}
	}
	for _, tc := range []struct {
		claim string
		end   []string
		past  func(http.ResponseWriter) // answers all pages after the sixth
		other func(http.ResponseWriter) // answers page 3; nil for its rows
		code  string                    // of the failure
		rows  int
	}{
		{"empty", []string{"empty"}, items(), nil, "", 28},
		{"empty, a gap", []string{"empty"}, items(), items(), "", 23},
		{"empty, but 404", []string{"empty"}, status(404), nil, events.CodeSourceHTTP, 0},
		{"empty, but the last page again", []string{"empty"}, items(25, 26, 27), nil, events.CodePagingStuck, 0},
		{"short, then empty", []string{"short"}, items(), nil, "", 28},
		{"short, then 404", []string{"short"}, status(404), nil, "", 28},
		{"short, then 400", []string{"short"}, status(400), nil, "", 28},
		{"short, then the last page again", []string{"short"}, items(25, 26, 27), nil, "", 28},
		{"short, in the middle", []string{"short"}, items(), items(10, 11), events.CodeSourceIncomplete, 0},
		{"missing, 404", []string{"missing"}, status(404), nil, "", 28},
		{"missing, 410", []string{"missing"}, status(410), nil, "", 28},
		{"missing, but empty", []string{"missing"}, items(), nil, events.CodeSourceIncomplete, 0},
		{"missing, but 403", []string{"missing"}, status(403), nil, events.CodeSourceAuth, 0},
		{"repeat", []string{"repeat"}, items(25, 26, 27), nil, "", 28},
		{"repeat, and pages that are equal", []string{"repeat"}, items(25, 26, 27), items(5, 6, 7, 8, 9), "", 28},
	} {
		for _, style := range []string{"page", "offset"} {
			t.Run(tc.claim+", "+style, func(t *testing.T) {
				t.Parallel()
				var results []string
				for _, conn := range []int{1, 8} {
					s := eventstest.Journal(t)
					a := newAPI(t, 28, 5)
					a.before = func(w http.ResponseWriter, _ *http.Request, page, _ int) bool {
						switch {
						case page > 6:
							tc.past(w)
						case page == 3 && tc.other != nil:
							tc.other(w)
						case page == 6 || page == 2 && tc.other != nil: // without their second name
							n := min(page*5, 28)
							var ids []int
							for id := (page - 1) * 5; id < n; id++ {
								ids = append(ids, id)
							}
							items(ids...)(w)
						default:
							return false
						}
						return true
					}
					paging := *styles()[style]
					paging.End = tc.end
					start(t, s, http.DefaultClient, Config{})
					x := requestDeclared(t, s, events.Export{}, a.url, &paging, conn, 0)
					switch p := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(type) {
					case *events.ExportFailed:
						require.Equal(t, tc.code, p.Code, p.Reason)
						results = append(results, p.Reason)
					case *events.ExportCrawled:
						require.Empty(t, tc.code)
						require.Len(t, dataRows(t, s, p.Run, p.Pages), tc.rows)
						results = append(results, fmt.Sprintf("%s %+v %v", p.Manifest, *p.Proof, p.Warnings))
					}
				}
				require.Equal(t, results[0], results[1])
			})
		}
	}
}

// A source that asks for a pause is shown with the time.
func TestWaitingForTheSourceIsShown(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 28, 5)
	a.before = func(w http.ResponseWriter, _ *http.Request, page, attempt int) bool {
		if page != 2 || attempt > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	told := make(chan events.Progress, 1000)
	stop, err := s.OnProgress(func(_, _ string, p events.Progress) { told <- p })
	require.NoError(t, err)
	defer stop()
	begun := time.Now()
	start(t, s, http.DefaultClient, Config{})
	ended(t, s, requestDeclared(t, s, events.Export{}, a.url, styles()["cursor"], 1, 0))
	var waited, after bool
	for !after { // the last reports may come after the event
		select {
		case p := <-told:
			switch {
			case p.Phase == events.PhaseWaitingForSource:
				waited = true
				require.WithinDuration(t, begun.Add(time.Second), p.Until, 10*time.Second)
				require.LessOrEqual(t, p.PagesDone, 1) // page 1 may still be on its way to the stream
			case waited:
				after = true
				require.Equal(t, events.PhaseCrawling, p.Phase)
				require.Zero(t, p.Until)
			}
		case <-time.After(10 * time.Second):
			require.FailNow(t, "no report of a wait and of its end", "waited: %t", waited)
		}
	}
}

// Names of rows without end are refused.
func TestTooManyNames(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 28, 5)
	policy := quick
	policy.Rows.MaxFields = 3
	start(t, s, http.DefaultClient, Config{Policy: policy})
	f := failure(t, s, requestDeclared(t, s, events.Export{}, a.url, styles()["page"], 1, 0))
	require.Equal(t, events.CodeLimitColumns, f.Code)
	require.Contains(t, f.Reason, "more than 3 different names")
}

// Equal names of many pages are held once.
func TestNamesAreHeldOnce(t *testing.T) {
	t.Parallel()
	c := newColumns(10, "--max-columns")
	first := c.intern([]string{"a", "b"})
	again := c.intern([]string{"a", "b"})
	require.Same(t, &first[0], &again[0])
	require.True(t, c.add(first) && c.add([]string{"b", "c", `"\` + "\u2028<&>"}))
	require.Equal(t, []string{"a", "b", "c", "\"\\\u2028<&>"}, c.names)
	var row []map[string]string
	require.NoError(t, json.Unmarshal(c.page().Rows, &row))
	require.Len(t, row[0], 4)
	for name, title := range row[0] {
		require.Equal(t, name, title)
	}
}
