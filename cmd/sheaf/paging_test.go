package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/assembler"
	"sheaf/services/crawler"
	"sheaf/storage"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// listSource is a source of rows of one column id. A test chooses the announced totals, and the answers after
// the last page.
type listSource struct {
	rows   []string                // values of id as JSON
	cap    int                     // maximum rows per page, 0 for as many as requested
	counts func(l *listing) string // members of pagetag besides page
	page   func(l *listing) string // of the pagetag; nil for the true one, "" for none
	after  func(l *listing)        // answers a page after the last one; nil for the header alone
	change func(l *listing)        // changes an answer
	bare   bool                    // only page 1 begins with the header
	header string                  // of the column; "ID" when empty

	mu    sync.Mutex
	asked []int
}

// listing is one answer of a listSource.
type listing struct {
	w                        http.ResponseWriter
	src                      *listSource
	page, limit, size, pages int
	rows                     []string
	noHeader                 bool
	status                   int
	raw                      string // replaces the whole body
	tag                      string
	done                     <-chan struct{} // the client gave up
}

func (s *listSource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	s.mu.Lock()
	s.asked = append(s.asked, page)
	s.mu.Unlock()
	l := &listing{w: w, done: r.Context().Done(), src: s, page: page, limit: limit, size: limit, noHeader: s.bare && page > 1}
	if s.cap > 0 {
		l.size = min(l.size, s.cap)
	}
	l.pages = max((len(s.rows)+l.size-1)/l.size, 1)
	l.take(page)
	l.tag = strconv.Itoa(page)
	if page > l.pages && s.after != nil {
		s.after(l)
	}
	if s.change != nil {
		s.change(l)
	}
	if s.page != nil {
		l.tag = s.page(l)
	}
	if l.status > 0 {
		w.WriteHeader(l.status)
	}
	if l.raw != "" {
		_, _ = io.WriteString(w, l.raw)
		return
	}
	head := s.header
	if head == "" {
		head = `"ID"`
	}
	all := []string{}
	if !l.noHeader {
		all = append(all, `{"id":`+head+`}`)
	}
	for _, v := range l.rows {
		all = append(all, `{"id":`+v+`}`)
	}
	var tags []string
	if l.tag != "" {
		tags = append(tags, `"page":`+l.tag)
	}
	if s.counts != nil {
		if c := s.counts(l); c != "" {
			tags = append(tags, c)
		}
	}
	_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"data":[%s],"pagetag":{%s}}}`, strings.Join(all, ","), strings.Join(tags, ","))
}

// take replaces the rows of the answer with those of a page.
func (l *listing) take(page int) {
	from := min((page-1)*l.size, len(l.src.rows))
	l.rows = l.src.rows[from:min(from+l.size, len(l.src.rows))]
}

func repeatLast(l *listing)         { l.take(l.pages) }
func repeatLastAndSaySo(l *listing) { l.take(l.pages); l.tag = strconv.Itoa(l.pages) }
func firstAgain(l *listing)         { l.take(1) }
func firstAgainAndSaySo(l *listing) { l.take(1); l.tag = "1" }
func noRowsAtAll(l *listing)        { l.noHeader = true }
func answerStatus(status int) func(*listing) {
	return func(l *listing) { l.status, l.raw = status, "no" }
}
func answerErrcode(l *listing) { l.raw = `{"errcode":7,"msg":"no such page"}` }

// honest counts rows and pages correctly.
func honest(l *listing) string {
	return fmt.Sprintf(`"limit":%d,"total":%d,"total_page":%d`, l.size, len(l.src.rows), l.pages)
}

func says(text string) func(*listing) string { return func(*listing) string { return text } }

func ids(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(1000 + i)
	}
	return all
}

// pagingStage exports lists from source to workbook: a JetStream server, crawlers,
// an assembler, files.
type pagingStage struct {
	journal *journal.Log
	files   storage.Files
	url     string
	client  *http.Client

	mu      sync.Mutex
	sources map[string]*listSource
}

func newPagingStage(t *testing.T) *pagingStage {
	t.Helper()
	st := &pagingStage{journal: eventstest.Journal(t), sources: map[string]*listSource{}}
	var err error
	st.files, err = storage.OpenFiles(t.Context(), "file://"+t.TempDir(), storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.files.Close()) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st.mu.Lock()
		src := st.sources[r.URL.Path[1:]]
		st.mu.Unlock()
		src.ServeHTTP(w, r)
	}))
	st.url = server.URL + "/"
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	st.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	a, err := assembler.New(assembler.Config{}, st.journal, st.files)
	require.NoError(t, err)
	runs(t, a)
	return st
}

// runs runs a service until the test ends or stop is called.
func runs(t testing.TB, s interface{ Run(context.Context) error }) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// crawl starts a crawler.
func (st *pagingStage) crawl(t testing.TB, cfg crawler.Config) (stop func()) {
	t.Helper()
	cfg.Policy.Attempts, cfg.Policy.BaseBackoff, cfg.Policy.MaxBackoff = 2, time.Microsecond, time.Microsecond
	c, err := crawler.New(cfg, st.journal, st.client)
	require.NoError(t, err)
	return runs(t, c)
}

// request starts the export of a source.
func (st *pagingStage) request(t testing.TB, src *listSource, limit, conn int) events.Export {
	t.Helper()
	st.mu.Lock()
	key := fmt.Sprintf("%032x", len(st.sources)+1)
	st.sources[key] = src
	st.mu.Unlock()
	x, err := st.journal.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			Timestamp: 1625106204, ExtType: "XLSX", Title: "list", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: st.url + key, Method: http.MethodGet, Limit: limit, Conn: conn},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// outcome is how an export ended.
type outcome struct {
	code     string // of the failure, "" for a success
	reason   string
	rows     []string // of the workbook, as JSON numbers or as text
	warnings []string // codes
	texts    string   // of the warnings
	sha256   string
	run      uint64
}

func (st *pagingStage) await(t testing.TB, x events.Export) outcome {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		x, err = st.journal.Read(t.Context(), x.Tenant, x.Key)
		return err == nil && x.State.Terminal()
	}, 30*time.Second, 2*time.Millisecond)
	o := outcome{code: x.Failure.Code, reason: x.Failure.Reason, run: x.Run}
	if x.State != events.StateCompleted {
		return o
	}
	for _, w := range x.Warnings {
		o.warnings = append(o.warnings, w.Code)
		o.texts += w.Message + "\n"
	}
	f, err := st.files.Open(t.Context(), x.Files[0].Store)
	require.NoError(t, err)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	o.sha256 = x.Files[0].SHA256
	for i, row := range workbookIn(t, data) {
		if i > 0 {
			o.rows = append(o.rows, row[0])
		}
	}
	require.EqualValues(t, x.Rows, len(o.rows))
	return o
}

func (st *pagingStage) export(t testing.TB, src *listSource, limit, conn int) outcome {
	t.Helper()
	return st.await(t, st.request(t, src, limit, conn))
}

// Whatever totals a source announces, the file has its rows or the export fails with the cause.
func TestEndOfAList(t *testing.T) {
	t.Parallel()
	st := newPagingStage(t)
	st.crawl(t, crawler.Config{MaxPages: 100})
	equal := func(n int) []string { return slices.Repeat([]string{"7"}, n) }
	rowsOf := func(page, n int) func(*listing) { // page has so many of its rows
		return func(l *listing) {
			if l.page == page {
				l.rows = l.rows[:n]
			}
		}
	}
	type test struct {
		claim    string
		src      *listSource
		limit    int // 50 when 0
		conn     int // 4 when 0
		code     string
		reason   string
		rows     []string // nil for all
		warnings []string
		text     string // in a warning
		asked    int    // the highest page that may be requested, 0 for any
	}
	var tests []test
	missing := []string{"TOTAL_MISSING"}

	// 1: a count of zero rows means unknown.
	for _, counts := range []string{
		``, `"total":0,"total_page":0`, `"limit":50`, `"total":null,"total_page":null`, `"total":"","total_page":""`,
		`"total":"many","total_page":"some"`, `"total":0,"total_page":1`, `"total":"0","total_page":"1"`, `"total":-1,"total_page":-1`,
		`"total":-1,"total_page":1`, `"total":false,"total_page":1`, `"total":{},"total_page":[]`, `"total":1.5,"total_page":0.5`,
		`"total":0`, `"total_page":0`, `"total":0.0,"total_page":1.0,"limit":"x"`, `"limit":-1`, `"limit":{},"total":true`, `"limit":9e99`,
	} {
		tests = append(tests, test{claim: "nothing is counted: " + counts, src: &listSource{rows: ids(250), counts: says(counts)}, warnings: missing})
	}
	unknown := says(`"total":0,"total_page":0`)
	tests = append(tests, []test{
		{claim: "a count may be a string", src: &listSource{rows: ids(250), counts: says(`"limit":"50","total":"250","total_page":"5"`)}, asked: 5},
		{claim: "or a float", src: &listSource{rows: ids(250), counts: says(`"total":250.0`)}, asked: 5},
		{claim: "a huge total fails", src: &listSource{rows: ids(250), counts: says(`"total":9223372036854775807`)}, code: events.CodeLimitPages},
		{claim: "a total that no number holds fails", src: &listSource{rows: ids(250), counts: says(`"total":1e30`)}, code: events.CodeSourceFormat, reason: "total"},
		{claim: "a huge total_page fails", src: &listSource{rows: ids(250), counts: says(`"total_page":9223372036854775807`)}, code: events.CodeLimitPages},
		{claim: "a list that never ends fails", src: &listSource{rows: ids(250), counts: unknown}, limit: 2, code: events.CodeLimitPages, reason: "--max-pages"},
		{claim: "unknown, one page", src: &listSource{rows: ids(3), counts: unknown}, warnings: missing},
		{claim: "unknown, one request at a time", src: &listSource{rows: ids(250), counts: unknown}, conn: 1, warnings: missing, asked: 7},
		{claim: "unknown, sixteen at once", src: &listSource{rows: ids(250), counts: unknown}, conn: 16, warnings: missing},
		{claim: "unknown, no header on later pages", src: &listSource{rows: ids(250), counts: unknown, bare: true}, warnings: []string{"TOTAL_MISSING", "HEADER_MISSING"}},
		{claim: "unknown, [] at the end", src: &listSource{rows: ids(250), counts: unknown, after: noRowsAtAll}, warnings: missing},
		{claim: "unknown, a short page in the middle", src: &listSource{rows: ids(250), counts: unknown, change: rowsOf(3, 20)},
			rows: slices.Concat(ids(250)[:120], ids(250)[150:]), warnings: missing},
		{claim: "unknown, a short first page", src: &listSource{rows: ids(250), counts: says(`"limit":50`), change: rowsOf(1, 20)},
			rows: slices.Concat(ids(250)[:20], ids(250)[50:]), warnings: missing},
		{claim: "unknown, an empty page in the middle", src: &listSource{rows: ids(250), counts: unknown, change: rowsOf(3, 0)},
			rows: slices.Concat(ids(250)[:100], ids(250)[150:]), warnings: missing},
		{claim: "unknown, the last page comes again", src: &listSource{rows: ids(250), counts: unknown, after: repeatLast}, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING"}, text: "page 5"},
		{claim: "unknown, a short last page comes again", src: &listSource{rows: ids(251), counts: unknown, after: repeatLast}, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING"}},
		{claim: "unknown, it comes again under its number", src: &listSource{rows: ids(251), counts: unknown, after: repeatLastAndSaySo}, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING"}},
		{claim: "unknown, it comes again without header", src: &listSource{rows: ids(60), counts: unknown, after: repeatLast, bare: true}, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING", "HEADER_MISSING"}},
		{claim: "unknown, page 2 is page 1", src: &listSource{rows: ids(40), counts: unknown, after: repeatLast}, code: events.CodePagingStuck, reason: "does the source know the parameter page?"},
		{claim: "unknown, page 2 is page 1 and says so", src: &listSource{rows: ids(40), counts: unknown, after: repeatLastAndSaySo}, code: events.CodePagingStuck, reason: "does the source know the parameter page?"},
		{claim: "unknown, another page under an earlier number", src: &listSource{rows: ids(250), counts: unknown, page: says("1")}, code: events.CodeSourceChanged, reason: "asked for page 2"},
		{claim: "unknown, two equal pages in the middle are data", src: &listSource{rows: slices.Concat(ids(4), equal(4), ids(2)), counts: unknown}, limit: 2, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING"}},
		{claim: "unknown, two equal pages at the end are data", src: &listSource{rows: slices.Concat(ids(4), equal(4)), counts: unknown}, limit: 2, warnings: []string{"PAGE_REPEATED", "TOTAL_MISSING"}},
		{claim: "unknown, one row a page is too little to tell", src: &listSource{rows: []string{"1", "2", "2", "2", "3"}, counts: unknown}, limit: 1, code: events.CodePagingStuck, reason: "ask for more rows a page"},
		{claim: "unknown, 404 is no end", src: &listSource{rows: ids(250), counts: unknown, after: answerStatus(404)}, code: events.CodeSourceHTTP, reason: "an empty page must end its list"},
		{claim: "unknown, nor is 503", src: &listSource{rows: ids(250), counts: unknown, after: answerStatus(503)}, code: events.CodeSourceHTTP, reason: "page 6"},
		{claim: "unknown, nor an errcode", src: &listSource{rows: ids(250), counts: unknown, after: answerErrcode}, code: events.CodeSourceErrcode, reason: "no such page"},
		{claim: "unknown, an error after the empty page matters to nobody", src: &listSource{rows: ids(250), counts: unknown, after: func(l *listing) {
			if l.page > 6 {
				l.status, l.raw = 500, "no"
			}
		}}, warnings: missing},
		{claim: "unknown, an error on a page of the list", src: &listSource{rows: ids(250), counts: unknown, change: func(l *listing) {
			if l.page == 3 {
				l.status = 500
			}
		}}, code: events.CodeSourceHTTP, reason: "page 3"},
		{claim: "unknown until page 3 counts", src: &listSource{rows: ids(250), counts: func(l *listing) string {
			if l.page < 3 {
				return `"total":0`
			}
			return `"total":250`
		}}},
		{claim: "nothing at all", src: &listSource{counts: unknown}, rows: []string{}, asked: 1},

		// 2: the source cuts the limit.
		{claim: "capped, with its limit and a total", src: &listSource{rows: ids(250), cap: 20, counts: says(`"limit":20,"total":250`)}, warnings: []string{"LIMIT_CAPPED"}, text: "20 rows a page where 50", asked: 13},
		{claim: "capped, with a total alone", src: &listSource{rows: ids(250), cap: 20, counts: says(`"total":250`)}, warnings: []string{"LIMIT_CAPPED"}, asked: 13},
		{claim: "capped, and total_page is of the limit asked for", src: &listSource{rows: ids(250), cap: 20, counts: says(`"limit":50,"total":250,"total_page":5`)}, warnings: []string{"LIMIT_CAPPED", "TOTAL_PAGE_LOW"}},
		{claim: "capped, without a total", src: &listSource{rows: ids(250), cap: 20, counts: says(`"total_page":5`)}, warnings: []string{"LIMIT_CAPPED", "TOTAL_PAGE_LOW", "TOTAL_MISSING"}},
		{claim: "capped, without a total, the limit repeated", src: &listSource{rows: ids(250), cap: 20, counts: says(`"limit":50,"total_page":5`)}, warnings: []string{"LIMIT_CAPPED", "TOTAL_PAGE_LOW", "TOTAL_MISSING"}},
		{claim: "capped, one page announced", src: &listSource{rows: ids(45), cap: 20, counts: says(`"total_page":1`)}, warnings: []string{"LIMIT_CAPPED", "TOTAL_PAGE_LOW", "TOTAL_MISSING"}},
		{claim: "capped, nothing announced", src: &listSource{rows: ids(250), cap: 20, counts: unknown}, warnings: []string{"LIMIT_CAPPED", "TOTAL_MISSING"}},
		{claim: "capped, and an error beyond total_page", src: &listSource{rows: ids(250), cap: 20, counts: says(`"total_page":5`), change: func(l *listing) {
			if l.page == 6 {
				l.status = 503
			}
		}}, code: events.CodeSourceHTTP, reason: "page 6"},
		{claim: "capped honestly", src: &listSource{rows: ids(250), cap: 20, counts: honest}, warnings: []string{"LIMIT_CAPPED"}, asked: 13},
		{claim: "capped, and one page is all", src: &listSource{rows: ids(20), cap: 20, counts: honest}, asked: 1},
		{claim: "more rows than were asked for", src: &listSource{rows: ids(250), counts: says(`"limit":50,"total":250`)}, limit: 50},
		{claim: "a full page under another header", src: &listSource{rows: ids(250), cap: 20, counts: honest, change: func(l *listing) {
			if l.page == 3 {
				l.noHeader, l.rows = true, append([]string{`"Nr"`}, l.rows...)
			}
		}}, code: events.CodeSourceChanged, reason: "page 3"},
		{claim: "the same without pagetag.limit", src: &listSource{rows: ids(250), cap: 20, counts: says(`"total":250`), change: func(l *listing) {
			if l.page == 3 {
				l.noHeader, l.rows = true, append([]string{`"Nr"`}, l.rows...)
			}
		}}, code: events.CodeSourceChanged, reason: "page 3"},
		{claim: "the header counts as a row of page 1", src: &listSource{rows: ids(149), counts: says(`"total":149,"total_page":3`), change: func(l *listing) {
			l.noHeader = l.page > 1
			all := append([]string{"0"}, l.src.rows...)
			l.rows = all[(l.page-1)*50 : min(l.page*50, len(all))]
			if l.page == 1 {
				l.rows = l.rows[1:]
			}
		}}, warnings: []string{"HEADER_MISSING"}},

		// total_page without a total.
		{claim: "total_page alone", src: &listSource{rows: ids(240), counts: says(`"total_page":5`)}, warnings: missing, asked: 5},
		{claim: "total_page alone, of full pages", src: &listSource{rows: ids(250), counts: says(`"total_page":5`)}, warnings: missing, asked: 6},
		{claim: "total_page alone, rounded down", src: &listSource{rows: ids(249), counts: says(`"total_page":4`)}, warnings: []string{"TOTAL_PAGE_LOW", "TOTAL_MISSING"}},
		{claim: "total_page alone, 404 after it", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: answerStatus(404)}, warnings: missing},
		{claim: "total_page alone, 500 after it", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: answerStatus(500)}, warnings: missing},
		{claim: "total_page alone, an errcode after it", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: answerErrcode}, warnings: missing},
		{claim: "total_page alone, the last page again after it", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: repeatLast}, warnings: missing},
		{claim: "total_page alone, the same under its number", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: repeatLastAndSaySo}, warnings: missing},
		{claim: "total_page alone, one page", src: &listSource{rows: ids(3), counts: says(`"total_page":1`), after: answerStatus(400)}, warnings: missing},
		{claim: "total_page alone, an empty page before it", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), change: rowsOf(3, 0)}, code: events.CodeSourceIncomplete, reason: "page 3"},
		{claim: "total_page alone, too high by a page that repeats", src: &listSource{rows: ids(250), counts: says(`"total_page":6`), after: repeatLast}, code: events.CodePagingStuck, reason: "pages 5 to 7"},

		// 3: the first and the last total.
		{claim: "a stray total warns", src: &listSource{rows: ids(250), counts: func(l *listing) string {
			if l.page == 3 {
				return `"total":1,"total_page":1`
			}
			return honest(l)
		}}, warnings: []string{"TOTAL_MOVED"}, text: "between 1 and 250"},
		{claim: "and lets no other count pass", src: &listSource{rows: ids(250), change: rowsOf(4, 10), counts: func(l *listing) string {
			if l.page == 3 {
				return `"total":1`
			}
			return honest(l)
		}}, code: events.CodeSourceIncomplete, reason: "210 rows were read, but the source announced 250"},
		{claim: "nor does a stray large one", src: &listSource{rows: ids(250), counts: func(l *listing) string {
			if l.page == 3 {
				return `"total":500`
			}
			return `"total":240`
		}}, code: events.CodeSourceIncomplete, reason: "250 rows were read, but the source announced 240"},
		{claim: "a total that grew", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d,"total_page":5`, 245+l.page) }}, warnings: []string{"TOTAL_MOVED"}},
		{claim: "a total that shrank", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d,"total_page":5`, 255-l.page) }}, warnings: []string{"TOTAL_MOVED"}},
		{claim: "what an empty page counts does not matter", src: &listSource{rows: ids(250), counts: func(l *listing) string {
			if l.page > 5 {
				return `"total":999,"total_page":99`
			}
			return `"total":250,"total_page":6`
		}}},

		// 4: the source ignores page.
		{claim: "ignored, with counts", src: &listSource{rows: ids(250), counts: honest, change: func(l *listing) { l.take(1) }}, limit: 10, code: events.CodePagingStuck, reason: "does the source know the parameter page?", asked: 25},
		{claim: "ignored, pagetag repeated", src: &listSource{rows: ids(250), counts: honest, change: func(l *listing) { l.take(1) }, page: says("1")}, limit: 10, code: events.CodeSourceChanged},
		{claim: "ignored, with total_page", src: &listSource{rows: ids(250), counts: says(`"total_page":25`), change: func(l *listing) { l.take(1) }}, limit: 10, code: events.CodePagingStuck},
		{claim: "ignored, two pages", src: &listSource{rows: ids(20), counts: honest, change: func(l *listing) { l.take(1) }}, limit: 10, code: events.CodePagingStuck},
		{claim: "ignored, total_page low", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":2`), change: func(l *listing) { l.take(1) }}, limit: 10, code: events.CodePagingStuck},
		{claim: "equal pages that are no neighbours", src: &listSource{rows: slices.Concat(ids(10), ids(20), ids(10)), counts: honest}, limit: 10, warnings: []string{"PAGE_REPEATED"}, text: "2 pages have the same rows as a page before them; the first is page 2, equal to page 1"},
		{claim: "equal neighbours", src: &listSource{rows: slices.Concat(ids(20), equal(20), ids(5)), counts: honest}, limit: 10, warnings: []string{"PAGE_REPEATED"}},
		{claim: "equal pages at the end", src: &listSource{rows: slices.Concat(ids(20), equal(20)), counts: honest}, limit: 10, warnings: []string{"PAGE_REPEATED"}},
		{claim: "one row a page, all equal, and the source knows page", src: &listSource{rows: equal(5), counts: honest}, limit: 1, warnings: []string{"PAGE_REPEATED"}},
		{claim: "one row a page, all equal, and it does not", src: &listSource{rows: ids(5), counts: honest, change: func(l *listing) { l.take(1) }}, limit: 1, code: events.CodePagingStuck},
		{claim: "one row a page, some equal", src: &listSource{rows: []string{"1", "1", "2", "1", "1"}, counts: honest}, limit: 1, warnings: []string{"PAGE_REPEATED"}},

		// 5: total_page is too high.
		{claim: "empty pages after all rows", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`)}},
		{claim: "404 after all rows", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: answerStatus(404)}},
		{claim: "500 after all rows", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: answerStatus(500)}},
		{claim: "the last page again after all rows", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: repeatLast}, warnings: []string{"PAGE_REPEATED"}},
		{claim: "the only page again after all rows", src: &listSource{rows: ids(10), counts: says(`"total":10,"total_page":9`), after: repeatLast}, warnings: []string{"PAGE_REPEATED"}},
		{claim: "the last page again under its number", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: repeatLastAndSaySo}, warnings: []string{"PAGE_REPEATED"}},
		{claim: "page 1 again after all rows", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: firstAgain}, warnings: []string{"PAGE_REPEATED"}, text: "after page 5 the source answers page 1 again"},
		{claim: "page 1 again under its number", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":9`), after: firstAgainAndSaySo}, warnings: []string{"PAGE_REPEATED"}},
		{claim: "page 1 again after one page too many", src: &listSource{rows: ids(250), counts: says(`"total":250,"total_page":6`), after: firstAgain}, warnings: []string{"PAGE_REPEATED"}},
		{claim: "page 1 again after the pages announced", src: &listSource{rows: ids(250), counts: says(`"total_page":5`), after: firstAgain}, warnings: []string{"TOTAL_MISSING"}, asked: 6},
		{claim: "page 1 again after a total that grew", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d`, min(50*l.page, 250)) }, after: firstAgain}, warnings: []string{"TOTAL_MOVED"}},
		{claim: "page 1 again before all rows fails", src: &listSource{rows: ids(250), counts: says(`"total":290,"total_page":6`), after: firstAgain}, code: events.CodeSourceIncomplete},
		{claim: "a total that is too high fails", src: &listSource{rows: ids(250), counts: says(`"total":300,"total_page":6`)}, code: events.CodeSourceIncomplete, reason: "300"},
		{claim: "so it does when the last page comes again", src: &listSource{rows: ids(250), counts: says(`"total":300,"total_page":6`), after: repeatLast}, code: events.CodeSourceIncomplete, reason: "250 rows were read, but the source announced 300"},
		{claim: "or under its number", src: &listSource{rows: ids(250), counts: says(`"total":300,"total_page":6`), after: repeatLastAndSaySo}, code: events.CodeSourceChanged},
		{claim: "or with a low total_page", src: &listSource{rows: ids(250), counts: says(`"total":300,"total_page":5`), after: repeatLast}, code: events.CodeSourceIncomplete},
		{claim: "a total of the page alone fails", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d`, len(l.rows)) }}, code: events.CodeSourceIncomplete, reason: "100 rows were read, but the source announced 50"},
		{claim: "with total_page too", src: &listSource{rows: ids(250), counts: says(`"total":50,"total_page":1`)}, code: events.CodeSourceIncomplete, asked: 2},
		{claim: "a total of the rows so far", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d`, min(50*l.page, 250)) }}, warnings: []string{"TOTAL_MOVED"}, asked: 6},
		{claim: "a total of the rows so far, then the last page under its number", src: &listSource{rows: ids(250), counts: func(l *listing) string { return fmt.Sprintf(`"total":%d`, min(50*l.page, 250)) }, after: repeatLastAndSaySo}, warnings: []string{"TOTAL_MOVED"}, asked: 6},
		{claim: "a full page that is all", src: &listSource{rows: ids(50), counts: honest}, asked: 2},
		{claim: "a full page that is all, then 404", src: &listSource{rows: ids(50), counts: honest, after: answerStatus(404)}, asked: 2},
		{claim: "a full page that is all, then itself under its number", src: &listSource{rows: ids(50), counts: honest, after: repeatLastAndSaySo}, asked: 2},
		{claim: "a page that is all and is not full", src: &listSource{rows: ids(49), counts: honest}, asked: 1},
		{claim: "a total that is too low fails", src: &listSource{rows: ids(250), counts: says(`"total":200,"total_page":5`)}, code: events.CodeSourceIncomplete},
		{claim: "an empty page in the middle of a list with a total", src: &listSource{rows: ids(250), counts: honest, change: rowsOf(3, 0)}, code: events.CodeSourceIncomplete, reason: "page 3"},
		{claim: "unless the total counts without it", src: &listSource{rows: ids(250), counts: says(`"total":200,"total_page":5`), change: rowsOf(3, 0)}, rows: slices.Concat(ids(250)[:100], ids(250)[150:])},
		{claim: "total_page rounded down", src: &listSource{rows: ids(249), counts: says(`"total":249,"total_page":4`)}, warnings: []string{"TOTAL_PAGE_LOW"}, asked: 5},
		{claim: "total_page far too low", src: &listSource{rows: ids(249), counts: says(`"total":249,"total_page":1`)}, warnings: []string{"TOTAL_PAGE_LOW"}, asked: 5},

		// 6: no header row.
		{claim: "row 1 is a record of numbers", src: &listSource{rows: ids(6), header: "999", counts: honest}, code: events.CodeSourceFormat, reason: "must hold the titles"},
		{claim: "all text cannot be recognised, but the total can", src: &listSource{rows: []string{`"b"`, `"c"`}, header: `"a"`, counts: says(`"total":3,"total_page":1`)}, code: events.CodeSourceIncomplete, reason: "is the first row the header?"},
		{claim: "a title that is null", src: &listSource{rows: ids(6), header: "null", counts: honest}},
	}...)

	for i, tc := range tests {
		if tc.limit == 0 {
			tc.limit = 50
		}
		if tc.conn == 0 {
			tc.conn = 4
		}
		if strings.HasPrefix(tc.claim, "a list that never ends") {
			tc.src.rows = ids(1000)
		}
		if tc.claim == "more rows than were asked for" {
			tc.limit, tc.src.counts = 20, says(`"limit":50,"total":250,"total_page":5`)
			tc.src.change = func(l *listing) { l.size = 50; l.take(l.page) }
		}
		t.Run(strconv.Itoa(i)+" "+tc.claim, func(t *testing.T) {
			t.Parallel()
			got := st.export(t, tc.src, tc.limit, tc.conn)
			require.Equal(t, tc.code, got.code, got.reason)
			require.Contains(t, got.reason, tc.reason)
			if tc.asked > 0 {
				require.LessOrEqual(t, slices.Max(tc.src.asked), tc.asked)
			}
			if tc.code != "" {
				return
			}
			want := tc.rows
			if want == nil {
				want = tc.src.rows
			}
			require.Equal(t, len(want), len(got.rows))
			require.Empty(t, cmpRows(want, got.rows))
			require.Equal(t, tc.warnings, got.warnings)
			require.Contains(t, got.texts, tc.text)
		})
	}
}

// cmpRows describes the first difference.
func cmpRows(want, got []string) string {
	for i := range min(len(want), len(got)) {
		if strings.Trim(want[i], `"`) != got[i] {
			return fmt.Sprintf("row %d is %s, not %s", i+1, got[i], want[i])
		}
	}
	return ""
}

// Whatever totals a source announces and however it ends, its export has exactly its rows, or fails with a
// code. The same holds when a crawler finds some of the pages stored, as after a crash.
func TestRowsOfAnyListAreExactOrFail(t *testing.T) {
	t.Parallel()
	st := newPagingStage(t)
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(2, 7).Draw(rt, "limit")
		src := &listSource{
			rows: ids(rapid.IntRange(0, 40).Draw(rt, "rows")),
			cap:  rapid.IntRange(0, 8).Draw(rt, "cap"),
			bare: rapid.Bool().Draw(rt, "bare"),
		}
		if src.cap == 1 {
			src.cap = 0
		}
		n := len(src.rows)
		count := rapid.SampledFrom([]string{"honest", "total", "pages", "nothing", "zero", "one page of 0", "high total", "high pages", "low pages", "limit asked for"}).Draw(rt, "counts")
		high := rapid.IntRange(1, 9).Draw(rt, "too high by")
		low := rapid.IntRange(1, 3).Draw(rt, "too low by")
		withTotal := rapid.Bool().Draw(rt, "with a total")
		src.counts = func(l *listing) string {
			pages := l.pages
			total := fmt.Sprintf(`"total":%d,`, n)
			if !withTotal {
				total = ""
			}
			switch count {
			case "total":
				return fmt.Sprintf(`"total":%d`, n)
			case "pages":
				return fmt.Sprintf(`"total_page":%d`, pages)
			case "nothing":
				return ""
			case "zero":
				return `"total":0,"total_page":0`
			case "one page of 0":
				return `"total":0,"total_page":1`
			case "high total":
				return fmt.Sprintf(`"total":%d,"total_page":%d`, n+high, (n+high+l.size-1)/l.size)
			case "high pages":
				return fmt.Sprintf(`%s"total_page":%d`, total, pages+high)
			case "low pages":
				return fmt.Sprintf(`%s"total_page":%d`, total, max(pages-low, 1))
			case "limit asked for":
				return fmt.Sprintf(`%s"limit":%d,"total_page":%d`, total, limit, max((n+limit-1)/limit, 1))
			}
			return honest(l)
		}
		ending := rapid.SampledFrom([]string{"header", "nothing", "repeats", "repeats and says so", "begins again", "404", "500", "errcode"}).Draw(rt, "ending")
		if ending == "begins again" && !slices.Contains([]string{"honest", "total", "pages"}, count) && !(count == "high pages" && withTotal) {
			ending = "repeats" // nothing shows that all rows were there before
		}
		src.after = map[string]func(*listing){
			"nothing": noRowsAtAll, "begins again": firstAgain, "repeats": repeatLast, "repeats and says so": repeatLastAndSaySo,
			"404": answerStatus(404), "500": answerStatus(500), "errcode": answerErrcode,
		}[ending]
		conn := rapid.IntRange(1, 8).Draw(rt, "conn")

		stop := st.crawl(t, crawler.Config{})
		x := st.request(t, src, limit, conn)
		got := st.await(t, x)
		stored := map[int]pages.Page{}
		have, err := st.journal.Pages().List(t.Context(), "default", x.Key, x.RequestedSeq, 0)
		require.NoError(t, err)
		for _, page := range have {
			stored[page], err = st.journal.Pages().Get(t.Context(), pages.ID{Tenant: "default", Key: x.Key, Run: x.RequestedSeq, Number: page})
			require.NoError(t, err)
		}
		stop()
		check := func(o outcome) {
			if o.code != "" {
				require.Contains(rt, []string{events.CodePagingStuck, events.CodeSourceHTTP, events.CodeSourceErrcode, events.CodeSourceIncomplete, events.CodeSourceChanged}, o.code, o.reason)
				return
			}
			require.Empty(rt, cmpRows(src.rows, o.rows))
			require.Len(rt, o.rows, n)
		}
		check(got)
		// With a limit that was cut, total_page alone needs a clear answer beyond it.
		unsure := count == "pages" && ending == "500" && src.cap > 0 && src.cap < limit
		counted := count == "honest" || count == "total" || count == "pages" && !unsure
		if counted || ending == "header" || ending == "nothing" {
			if n > 0 && count != "high total" && !(count == "high pages" && !withTotal) {
				require.Empty(rt, got.code, got.reason)
			}
		}

		// Another export of the same source finds some of the pages stored.
		x = st.request(t, src, limit, rapid.IntRange(1, 8).Draw(rt, "conn after the crash"))
		for _, page := range slices.Sorted(maps.Keys(stored)) {
			p := stored[page]
			if rapid.Bool().Draw(rt, "kept") {
				p.Key, p.Run = x.Key, x.RequestedSeq
				_, err := st.journal.Pages().Publish(t.Context(), p)
				require.NoError(rt, err)
			}
		}
		stop = st.crawl(t, crawler.Config{})
		after := st.await(t, x)
		stop()
		require.Equal(rt, got.code, after.code, after.reason)
		require.Equal(rt, got.rows, after.rows)
		require.Equal(rt, got.warnings, after.warnings)
		require.Equal(rt, got.sha256, after.sha256)
	})
}

// A crawler that stops in the middle of an uncounted list leaves it to another. The file is the same as
// without a stop.
func TestUncountedListGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	st := newPagingStage(t)
	list := func() *listSource { return &listSource{rows: ids(250), after: repeatLast} }
	stop := st.crawl(t, crawler.Config{})
	want := st.export(t, list(), 10, 4)
	require.Empty(t, want.code, want.reason)

	reached, release := make(chan struct{}, 100), make(chan struct{})
	src := list()
	src.change = func(l *listing) {
		if l.page >= 12 {
			reached <- struct{}{}
			select {
			case <-release:
			case <-l.done:
			}
		}
	}
	x := st.request(t, src, 10, 4)
	<-reached
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(release) // responses in flight are kept
	<-stopped
	st.crawl(t, crawler.Config{})
	got := st.await(t, x)
	require.Empty(t, got.code, got.reason)
	require.Equal(t, want.rows, got.rows)
	require.Equal(t, want.sha256, got.sha256)
	require.Equal(t, want.warnings, got.warnings)
	asked := map[int]int{}
	for _, page := range src.asked {
		asked[page]++
	}
	for page := 1; page < 12; page++ {
		require.Equal(t, 1, asked[page], "page %d is kept over the restart", page)
	}
}
