package source_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
)

// got is a request as a server received it.
type got struct {
	method, query, body string
	host                string
	header              http.Header
}

// recorder is a server that answers by a function and records its requests.
type recorder struct {
	*httptest.Server
	mu       sync.Mutex
	requests []got
}

func record(t *testing.T, answer http.HandlerFunc) *recorder {
	rec := &recorder{}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rec.mu.Lock()
		rec.requests = append(rec.requests, got{r.Method, r.URL.RawQuery, string(body), r.Host, r.Header})
		rec.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		answer(w, r)
	}))
	t.Cleanup(rec.Close)
	return rec
}

func (r *recorder) all() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got(nil), r.requests...)
}

// text answers with a body and header fields, given by name and value.
func text(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			_, _ = io.WriteString(w, body)
		}
	}
}

// form is a request for a declared source. Its client follows no redirect.
func form(url string, from events.HTTPRequest) source.Request {
	return source.Request{
		URL: url, Method: from.Method, Param: from.Param, SecretParam: from.SecretParam, Limit: from.Limit, TaskID: key, From: &from,
	}
}

func fetcher(t *testing.T, req source.Request) *source.Fetcher {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	f, err := source.New(client, req, quick)
	require.NoError(t, err)
	return f
}

func raw(v string) json.RawMessage { return json.RawMessage(v) }

// Each style writes its values where the request says, and nothing else changes.
func TestDeclaredSourcesWriteTheirPlaces(t *testing.T) {
	t.Parallel()
	page := events.Paging{Type: events.PagingPage, PageParam: "page", LimitParam: "limit", Start: 1}
	offset := events.Paging{Type: events.PagingOffset, OffsetParam: "$skip", LimitParam: "$limit"}
	cursor := events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "next", LimitParam: "first"}
	with := func(p events.Paging, change func(*events.Paging)) *events.Paging { change(&p); return &p }
	for _, c := range []struct {
		name  string
		query string // of the URL
		from  events.HTTPRequest
		at    source.Position
		want  got
	}{
		{"page", "", events.HTTPRequest{Limit: 50, Paging: &page}, source.Position{Page: 3, Size: 20}, got{query: "limit=50&page=3"}},
		{"page from 0, replaced wherever it stands", "?p%61ge=7&q=%e6;x&limit=1", events.HTTPRequest{Limit: 5, Param: raw(`{"page":9,"a":1.50,"n":null,"limit":"3"}`),
			Paging: with(page, func(p *events.Paging) { p.Start = 0 })}, source.Position{Page: 1}, got{query: "q=%e6;x&a=1.50&limit=5&page=0"}},
		{"no limit", "", events.HTTPRequest{Param: raw(`{"page_size":100}`), Paging: with(page, func(p *events.Paging) { p.LimitParam = "" })},
			source.Position{Page: 2, Size: 9}, got{query: "page_size=100&page=2"}},
		{"offset", "", events.HTTPRequest{Limit: 500, Paging: &offset}, source.Position{Page: 3, Size: 100}, got{query: "%24limit=500&%24skip=200"}},
		{"offset, page 1", "", events.HTTPRequest{Limit: 500, Paging: with(offset, func(p *events.Paging) { p.Start = 1 })}, source.Position{Page: 1}, got{query: "%24limit=500&%24skip=1"}},
		{"offset from 1", "", events.HTTPRequest{Limit: 500, Paging: with(offset, func(p *events.Paging) { p.Start = 1 })}, source.Position{Page: 2, Size: 7}, got{query: "%24limit=500&%24skip=8"}},
		{"page in the body, as the parameters", "?x=1", events.HTTPRequest{Method: "POST", Limit: 50, Param: raw(`{"b":1.0, "page":3,"a":{"z":1e6}}`), Paging: &page},
			source.Position{Page: 2, Size: 9}, got{method: "POST", query: "x=1", body: `{"b":1.0,"page":2,"a":{"z":1e6},"limit":50}`}},
		{"page in the query, beside a body", "", events.HTTPRequest{Method: "POST", Limit: 50, Param: raw(`{"a":1}`), Body: raw(` {"q":[ 1]}`), Paging: &page},
			source.Position{Page: 2, Size: 9}, got{method: "POST", query: "a=1&limit=50&page=2", body: `{"q":[ 1]}`}},
		{"page in a body of its own, deep", "", events.HTTPRequest{Method: "POST", Limit: 50, Body: raw(`{"q":"x","v":{"y":1.50}}`),
			Paging: with(page, func(p *events.Paging) { p.PageParam, p.LimitParam = "body:v.page.no", "body:v.size" })},
			source.Position{Page: 2, Size: 9}, got{method: "POST", body: `{"q":"x","v":{"y":1.50,"size":50,"page":{"no":2}}}`}},
		{"page in the query, always", "", events.HTTPRequest{Method: "POST", Limit: 50, Param: raw(`{"a":1}`),
			Paging: with(page, func(p *events.Paging) { p.PageParam = "query:page" })}, source.Position{Page: 2, Size: 9},
			got{method: "POST", query: "page=2", body: `{"a":1,"limit":50}`}},
		{"page in a header", "", events.HTTPRequest{Limit: 50, Paging: with(page, func(p *events.Paging) { p.PageParam, p.LimitParam = "header:x-page", "header:Prefer" })},
			source.Position{Page: 2, Size: 9}, got{header: http.Header{"X-Page": {"2"}, "Prefer": {"50"}}}},
		{"a form", "", events.HTTPRequest{Method: "POST", Limit: 50, BodyType: events.BodyForm, Body: raw(`{"a b":"x&y","page":7,"n":1.0}`),
			Paging: with(page, func(p *events.Paging) { p.PageParam, p.LimitParam = "body:page", "body:size" })}, source.Position{Page: 2, Size: 9},
			got{method: "POST", body: "a+b=x%26y&n=1.0&size=50&page=2", header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}},
		{"no cursor yet", "", events.HTTPRequest{Limit: 5, Param: raw(`{"after":"from here"}`), Paging: &cursor}, source.Position{Page: 1}, got{query: "after=from+here&first=5"}},
		{"a first cursor", "", events.HTTPRequest{Limit: 5, Paging: with(cursor, func(p *events.Paging) { p.CursorStart = raw(`"*"`) })}, source.Position{Page: 1}, got{query: "first=5&after=%2A"}},
		{"a cursor of text", "", events.HTTPRequest{Limit: 5, Paging: with(cursor, func(p *events.Paging) { p.CursorStart = raw(`"*"`) })},
			source.Position{Page: 2, Size: 5, Token: `"a\u0062c+/="`}, got{query: "first=5&after=abc%2B%2F%3D"}},
		{"a number in a query keeps its text", "", events.HTTPRequest{Limit: 5, Paging: &cursor}, source.Position{Page: 2, Size: 5, Token: `1.50`}, got{query: "first=5&after=1.50"}},
		{"a number in a body stays one", "", events.HTTPRequest{Method: "POST", Limit: 5, Body: raw(`{}`), Paging: with(cursor, func(p *events.Paging) { p.CursorParam = "body:v.after" })},
			source.Position{Page: 2, Size: 5, Token: `12345678901234567890`}, got{method: "POST", query: "first=5", body: `{"v":{"after":12345678901234567890}}`}},
		{"a text in a body stays one", "", events.HTTPRequest{Method: "POST", Limit: 5, Body: raw(`{"v":{"after":null}}`), Paging: with(cursor, func(p *events.Paging) { p.CursorParam = "body:v.after" })},
			source.Position{Page: 2, Size: 5, Token: `"5"`}, got{method: "POST", query: "first=5", body: `{"v":{"after":"5"}}`}},
		{"a cursor in a header", "", events.HTTPRequest{Limit: 5, Paging: with(cursor, func(p *events.Paging) { p.CursorParam = "header:X-Next" })},
			source.Position{Page: 2, Size: 5, Token: `"abc"`}, got{query: "first=5", header: http.Header{"X-Next": {"abc"}}}},
		{"one page", "?a=1", events.HTTPRequest{Param: raw(`{"size":1000}`), Paging: &events.Paging{Type: events.PagingNone}}, source.Position{Page: 1}, got{query: "a=1&size=1000"}},
		{"a body that is null", "", events.HTTPRequest{Method: "POST", Body: raw(`null`), Param: raw(`{"a":1}`), Limit: 5, Paging: &page}, source.Position{Page: 1},
			got{method: "POST", body: `{"a":1,"limit":5,"page":1}`}},
		{"a link, page 1", "?a=1", events.HTTPRequest{Param: raw(`{"per_page":100}`), Paging: &events.Paging{Type: events.PagingLink}}, source.Position{Page: 1}, got{query: "a=1&per_page=100"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := record(t, text(200, `[{"id":1}]`))
			page, err := fetcher(t, form(server.URL+c.query, c.from)).Fetch(t.Context(), c.at)
			require.NoError(t, err)
			page.Release()
			require.Len(t, server.all(), 1)
			r := server.all()[0]
			require.Equal(t, cmp.Or(c.want.method, "GET"), r.method)
			require.Equal(t, c.want.query, r.query)
			require.Equal(t, c.want.body, r.body)
			for name, value := range c.want.header {
				require.Equal(t, value, r.header[name])
			}
		})
	}
}

// The server of a list of n rows, in pages of at most most rows, in every style.
type list struct{ n, most int }

func (l list) rows(from, size int) (string, int) {
	var b strings.Builder
	to := min(l.n, from+min(size, l.most))
	for i := max(from, 0); i < to; i++ {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"客户 %d"}`, i, i)
	}
	return "[" + b.String() + "]", to
}

func (l list) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var in struct {
		Variables struct {
			First int
			After *int
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			return n
		}
		return otherwise
	}
	size := number("size", 10)
	switch r.URL.Path {
	case "/page":
		rows, _ := l.rows((number("page", 1)-1)*min(size, l.most), size)
		fmt.Fprintf(w, `{"total":"%d","data":{"list":%s},"pages":%d}`, l.n, rows, (l.n+min(size, l.most)-1)/min(size, l.most))
	case "/offset":
		rows, to := l.rows(number("offset", 0), size)
		w.Header().Set("Content-Range", fmt.Sprintf("items 0-%d/%d", to-1, l.n))
		w.WriteHeader(http.StatusPartialContent)
		fmt.Fprint(w, rows)
	case "/graphql":
		from := 0
		if in.Variables.After != nil {
			from = *in.Variables.After
		}
		rows, to := l.rows(from, in.Variables.First)
		rows = strings.ReplaceAll(strings.ReplaceAll(rows, `{"id"`, `{"node":{"id"`), `"}`, `"}}`)
		fmt.Fprintf(w, `{"data":{"orders":{"edges":%s,"pageInfo":{"endCursor":%d,"hasNextPage":%t}}}}`, rows, to, to < l.n)
	case "/keyset":
		rows, _ := l.rows(number("starting_after", -1)+1, size)
		fmt.Fprintf(w, `{"data":%s}`, rows)
	case "/next":
		rows, to := l.rows(number("from", 0), size)
		next := "null"
		if to < l.n {
			next = fmt.Sprintf(`"next?from=%d&size=%d"`, to, size)
		}
		fmt.Fprintf(w, `{"results":%s,"next":%s}`, rows, next)
	case "/link":
		rows, to := l.rows(number("from", 0), size)
		if to < l.n {
			w.Header().Add("Link", `<?from=0>; rel=first`)
			w.Header().Add("Link", fmt.Sprintf(`<?from=%d&size=%d>; rel="last next"`, to, size))
		}
		fmt.Fprint(w, rows)
	case "/none":
		rows, _ := l.rows(0, l.n)
		fmt.Fprint(w, rows)
	}
}

// Every style reads all rows, also where the server cuts the size that is asked for.
func TestDeclaredSourcesReadWholeLists(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1000, 4} {
		server := httptest.NewServer(list{25, most})
		t.Cleanup(server.Close)
		for path, from := range map[string]events.HTTPRequest{
			"/page":   {Rows: "data.list", Limit: 10, Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", LimitParam: "size", Start: 1, Total: "total", TotalPages: "pages"}},
			"/offset": {Limit: 10, Paging: &events.Paging{Type: events.PagingOffset, OffsetParam: "offset", LimitParam: "size", Total: "header:content-range"}},
			"/graphql": {Method: "POST", Rows: "data.orders.edges[*].node", Limit: 10, Body: raw(`{"query":"{}"}`),
				Paging: &events.Paging{Type: events.PagingCursor, CursorParam: "body:variables.after", LimitParam: "body:variables.first", Cursor: "data.orders.pageInfo.endCursor", More: "data.orders.pageInfo.hasNextPage"}},
			"/keyset": {Rows: "data", Limit: 10, Paging: &events.Paging{Type: events.PagingCursor, CursorParam: "starting_after", LimitParam: "size", Cursor: "row:id"}},
			"/next":   {Rows: "results", Param: raw(`{"size":10}`), Paging: &events.Paging{Type: events.PagingNextURL, NextURL: "next"}},
			"/link":   {Param: raw(`{"size":10}`), Paging: &events.Paging{Type: events.PagingLink, Rel: "next"}},
			"/none":   {Paging: &events.Paging{Type: events.PagingNone}},
		} {
			if path == "/none" && most < 25 {
				continue
			}
			t.Run(fmt.Sprint(path, most), func(t *testing.T) {
				t.Parallel()
				f := fetcher(t, form(server.URL+path, from))
				var ids []int
				at := source.Position{Page: 1}
				for {
					got, err := f.Fetch(t.Context(), at)
					require.NoError(t, err)
					var page []struct{ ID int }
					require.NoError(t, json.Unmarshal(got.Rows, &page))
					require.Len(t, page, got.RowCount)
					for _, row := range page {
						ids = append(ids, row.ID)
					}
					require.EqualValues(t, at.Page, got.Page)
					require.Nil(t, got.Header)
					if got.RowCount > 0 {
						require.Equal(t, []string{"id", "name"}, got.Names)
					}
					if at.Page == 1 {
						at.Size = got.RowCount
					}
					at.Page, at.Token = at.Page+1, got.Next
					done := got.Last || got.Total >= 0 && len(ids) >= int(got.Total)
					got.Release()
					if done {
						break
					}
					require.Less(t, at.Page, 30)
				}
				require.Len(t, ids, 25)
				for i, id := range ids {
					require.Equal(t, i, id)
				}
			})
		}
	}
}

func parse(t *testing.T, from events.HTTPRequest, body string, header http.Header, at source.Position) (source.Answer, error) {
	t.Helper()
	if header == nil {
		header = http.Header{}
	}
	return fetcher(t, form("https://api.example/v1/orders?x=1", from)).Shape.Parse([]byte(body), header, at)
}

// What a response says about the list.
func TestDeclaredAnswers(t *testing.T) {
	t.Parallel()
	page := func(p events.Paging) events.HTTPRequest {
		p.Type, p.PageParam, p.Start = events.PagingPage, "page", 1
		return events.HTTPRequest{Rows: "rows", Paging: &p}
	}
	cursor := func(p events.Paging) events.HTTPRequest {
		p.Type, p.CursorParam = events.PagingCursor, "after"
		return events.HTTPRequest{Rows: "rows", Paging: &p}
	}
	total, pages := events.Paging{Total: "total"}, events.Paging{TotalPages: "pages"}
	more, last := events.Paging{More: "more"}, events.Paging{More: "!last"}
	next := events.Paging{Cursor: "next"}
	for _, c := range []struct {
		name   string
		from   events.HTTPRequest
		body   string
		header http.Header
		at     int // page, default 1
		want   source.Answer
	}{
		{"nothing said", page(events.Paging{}), `{"rows":[{"a":1}]}`, nil, 1, source.Answer{Total: -1}},
		{"total", page(total), `{"rows":[{"a":1}],"total":5000}`, nil, 1, source.Answer{Total: 5000}},
		{"total before the rows", page(total), `{"total":5000,"rows":[{"a":1}]}`, nil, 1, source.Answer{Total: 5000}},
		{"total in a string", page(total), `{"rows":[{"a":1}],"total":"5000"}`, nil, 1, source.Answer{Total: 5000}},
		{"total 5e3", page(total), `{"rows":[{"a":1}],"total":5e3}`, nil, 1, source.Answer{Total: 5000}},
		{"total 0", page(total), `{"rows":[],"total":0}`, nil, 1, source.Answer{Total: 0}},
		{"total null", page(total), `{"rows":[{"a":1}],"total":null}`, nil, 1, source.Answer{Total: -1}},
		{"total empty", page(total), `{"rows":[{"a":1}],"total":""}`, nil, 1, source.Answer{Total: -1}},
		{"total below 0", page(total), `{"rows":[{"a":1}],"total":-1}`, nil, 1, source.Answer{Total: -1}},
		{"total on page 1 only", page(total), `{"rows":[{"a":1}]}`, nil, 2, source.Answer{Total: -1}},
		{"total of another kind on page 2", page(total), `{"rows":[{"a":1}],"total":{}}`, nil, 2, source.Answer{Total: -1}},
		{"total in a header", page(events.Paging{Total: "header:x-total-count"}), `{"rows":[{"a":1}]}`, http.Header{"X-Total-Count": {"5000"}}, 1, source.Answer{Total: 5000}},
		{"a range", page(events.Paging{Total: "header:Content-Range"}), `{"rows":[{"a":1}]}`, http.Header{"Content-Range": {"0-24/0500"}}, 1, source.Answer{Total: 500}},
		{"a range without a total", page(events.Paging{Total: "header:Content-Range"}), `{"rows":[{"a":1}]}`, http.Header{"Content-Range": {"items 0-24/*"}}, 1, source.Answer{Total: -1}},
		{"pages", page(pages), `{"rows":[{"a":1}],"pages":"10"}`, nil, 1, source.Answer{Total: -1, Pages: 10}},
		{"pages null", page(pages), `{"rows":[{"a":1}],"pages":null}`, nil, 1, source.Answer{Total: -1}},
		{"more", page(more), `{"rows":[{"a":1}],"more":true}`, nil, 1, source.Answer{Total: -1}},
		{"no more", page(more), `{"rows":[{"a":1}],"more":false}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"no more, as text", page(more), `{"rows":[{"a":1}],"more":"False"}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"no more, as a number", page(more), `{"rows":[{"a":1}],"more":0}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"more not said", page(more), `{"rows":[{"a":1}],"more":null}`, nil, 1, source.Answer{Total: -1}},
		{"last", page(last), `{"rows":[{"a":1}],"last":true}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"not last", page(last), `{"rows":[{"a":1}],"last":false}`, nil, 1, source.Answer{Total: -1}},
		{"rows null", page(total), `{"rows":null,"total":0}`, nil, 1, source.Answer{Total: 0}},
		{"a cursor", cursor(next), `{"rows":[{"a":1}],"next":"a\/b\u0062"}`, nil, 1, source.Answer{Total: -1, Next: `"a\/b\u0062"`}},
		{"a number as cursor", cursor(next), `{"rows":[{"a":1}],"next":1.50}`, nil, 1, source.Answer{Total: -1, Next: `1.50`}},
		{"cursor null", cursor(next), `{"rows":[{"a":1}],"next":null}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"cursor empty", cursor(next), `{"rows":[{"a":1}],"next":""}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"cursor false", cursor(next), `{"rows":[{"a":1}],"next":false}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"cursor absent", cursor(next), `{"rows":[{"a":1}]}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"cursor absent, later", cursor(events.Paging{Cursor: "meta.next"}), `{"rows":[{"a":1}]}`, nil, 2, source.Answer{Total: -1, Last: true}},
		{"cursor absent, but the total is there", cursor(events.Paging{Cursor: "meta.next", Total: "total"}), `{"rows":[{"a":1}],"total":1}`, nil, 1, source.Answer{Total: 1, Last: true}},
		{"a last cursor", cursor(events.Paging{Cursor: "next", More: "more"}), `{"rows":[{"a":1}],"next":"z","more":false}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"a cursor in a header", cursor(events.Paging{Cursor: "header:X-Next"}), `{"rows":[{"a":1}]}`, http.Header{"X-Next": {` a"b `}}, 1, source.Answer{Total: -1, Next: `"a\"b"`}},
		{"no cursor in a header", cursor(events.Paging{Cursor: "header:X-Next"}), `{"rows":[{"a":1}]}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"of the last row", cursor(events.Paging{Cursor: "row:k.id"}), `{"rows":[{"k":{"id":7}},{"k":{"id":"8"}}]}`, nil, 1, source.Answer{Total: -1, Next: `"8"`}},
		{"no row", cursor(events.Paging{Cursor: "row:id"}), `{"rows":[]}`, nil, 1, source.Answer{Total: -1, Last: true}},
		{"one page", events.HTTPRequest{Rows: "rows", Paging: &events.Paging{Type: events.PagingNone, Total: "total"}}, `{"rows":[{"a":1}],"total":1}`, nil, 1, source.Answer{Total: 1, Last: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(t, c.from, c.body, c.header, source.Position{Page: c.at, Size: 1})
			require.NoError(t, err)
			require.EqualValues(t, c.at, got.Page)
			require.Equal(t, []any{c.want.Total, c.want.Pages, c.want.Next, c.want.Last}, []any{got.Total, got.Pages, got.Next, got.Last})
			n, err := rows.Check(got.Rows, rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, n, got.RowCount)
		})
	}
}

// A place that finds nothing, or another kind of value, is named with the value that is there.
func TestDeclaredPathsThatDoNotFit(t *testing.T) {
	t.Parallel()
	page := func(rows string, p events.Paging) events.HTTPRequest {
		p.Type, p.PageParam, p.LimitParam = events.PagingPage, "page", "limit"
		return events.HTTPRequest{Rows: rows, Limit: 2, Paging: &p}
	}
	cursor := func(p events.Paging) events.HTTPRequest {
		p.Type, p.CursorParam = events.PagingCursor, "after"
		return events.HTTPRequest{Rows: "rows", Limit: 1, Paging: &p}
	}
	next := events.HTTPRequest{Rows: "rows", Paging: &events.Paging{Type: events.PagingNextURL, NextURL: "next"}}
	for _, c := range []struct {
		name string
		from events.HTTPRequest
		body string
		at   int
		code string
		want string
	}{
		{"rows", page("data.list", events.Paging{}), `{"data":{"items":[{"a":1}]}}`, 1, events.CodeSourcePath, `source_http.rows "data.list" finds nothing`},
		{"rows on page 7", page("data.list", events.Paging{}), `{"message":"later"}`, 7, events.CodeSourcePath, `source_http.rows "data.list" finds nothing`},
		{"rows of another kind", page("data", events.Paging{}), `{"data":{"list":[{"a":1}]}}`, 1, events.CodeSourcePath, `source_http.rows "data" is an object`},
		{"total", page("rows", events.Paging{Total: "meta.total"}), `{"rows":[],"meta":{"count":1,"page":2}}`, 1, events.CodeSourcePath,
			`source_http.paging.total "meta.total" finds nothing; "meta" has the keys "count", "page"`},
		{"total, nothing around it", page("rows", events.Paging{Total: "meta.total"}), `{"rows":[]}`, 1, events.CodeSourcePath,
			`source_http.paging.total "meta.total" finds nothing; the answer has the keys "rows"`},
		{"total in a header", page("rows", events.Paging{Total: "header:X-Total"}), `{"rows":[]}`, 1, events.CodeSourcePath, `source_http.paging.total "header:X-Total" finds nothing`},
		{"total of another kind", page("rows", events.Paging{Total: "total"}), `{"rows":[],"total":{"value":3}}`, 1, events.CodeSourcePath,
			`source_http.paging.total "total" must be a whole number, but is an object`},
		{"total as text", page("rows", events.Paging{Total: "total"}), `{"rows":[],"total":"many"}`, 1, events.CodeSourcePath, `source_http.paging.total "total" must be a whole number, but is a text that is none`},
		{"total with a fraction", page("rows", events.Paging{Total: "total"}), `{"rows":[],"total":1.5}`, 1, events.CodeSourcePath, `source_http.paging.total "total" must be a whole number, but is a number`},
		{"pages", page("rows", events.Paging{TotalPages: "pages"}), `{"rows":[]}`, 1, events.CodeSourcePath, `source_http.paging.total_pages "pages" finds nothing; the answer has the keys "rows"`},
		{"more", page("rows", events.Paging{More: "!last"}), `{"rows":[]}`, 1, events.CodeSourcePath, `source_http.paging.more "last" finds nothing; the answer has the keys "rows"`},
		{"more of another kind", page("rows", events.Paging{More: "more"}), `{"rows":[],"more":"maybe"}`, 2, events.CodeSourcePath, `source_http.paging.more "more" must be true or false, but is a text that is none`},
		{"a cursor that is an object", cursor(events.Paging{Cursor: "next"}), `{"rows":[],"next":{"id":1}}`, 1, events.CodeSourcePaging, `source_http.paging.cursor "next" must be a text or a number, but is an object`},
		{"a cursor that is an array", cursor(events.Paging{Cursor: "next"}), `{"rows":[],"next":[1]}`, 3, events.CodeSourcePaging, `source_http.paging.cursor "next" must be a text or a number, but is an array`},
		{"a cursor that is true", cursor(events.Paging{Cursor: "next"}), `{"rows":[],"next":true}`, 3, events.CodeSourcePaging, `source_http.paging.cursor "next" must be a text or a number, but is true`},
		{"a long cursor", cursor(events.Paging{Cursor: "next"}), `{"rows":[],"next":"` + strings.Repeat("x", 16383) + `"}`, 3, events.CodeSourcePaging, `source_http.paging.cursor "next" has 16385 bytes, at most 16384 are allowed`},
		{"more without a cursor", cursor(events.Paging{Cursor: "next", More: "more"}), `{"rows":[{"a":1}],"next":null,"more":true}`, 2, events.CodeSourcePaging,
			`source_http.paging.more "more" says that more rows follow, but the answer names no next page`},
		{"more than one page", events.HTTPRequest{Rows: "rows", Paging: &events.Paging{Type: events.PagingNone, More: "more"}}, `{"rows":[{"a":1}],"more":true}`, 1, events.CodeSourcePaging,
			`source_http.paging.more "more" says that more rows follow, but paging.type none reads one page`},
		{"a cursor that a full page 1 lacks", cursor(events.Paging{Cursor: "next", LimitParam: "limit"}), `{"rows":[{"a":1}],"nxt":"x"}`, 1, events.CodeSourcePath,
			`source_http.paging.cursor "next" finds nothing; the answer has the keys "rows", "nxt"`},
		{"a cursor without anything around it", cursor(events.Paging{Cursor: "meta.next"}), `{"rows":[{"a":1}]}`, 1, events.CodeSourcePath, `source_http.paging.cursor "meta.next" finds nothing; the answer has the keys "rows"`},
		{"a cursor beside an estimate", cursor(events.Paging{Cursor: "meta.next", Total: "total", Estimate: true}), `{"rows":[{"a":1}],"total":1}`, 1, events.CodeSourcePath,
			`source_http.paging.cursor "meta.next" finds nothing; the answer has the keys "rows", "total"`},
		{"a cursor that the last row lacks", cursor(events.Paging{Cursor: "row:id"}), `{"rows":[{"id":1},{"a":2}]}`, 2, events.CodeSourcePath, `source_http.paging.cursor "row:id" finds nothing`},
		{"a cursor that is null in the last row", cursor(events.Paging{Cursor: "row:id"}), `{"rows":[{"id":1},{"id":null}]}`, 2, events.CodeSourcePath, `source_http.paging.cursor "row:id" must be a text or a number, but is null`},
		{"a cursor that is empty in the last row", cursor(events.Paging{Cursor: "row:id"}), `{"rows":[{"id":1},{"id":""}]}`, 2, events.CodeSourcePath, "but is an empty text"},
		{"a cursor that rows lack", cursor(events.Paging{Cursor: "row:id"}), `{"rows":[{"a":1},{"ID":2}]}`, 1, events.CodeSourcePath, `source_http.paging.cursor "row:id" finds nothing; the last row has the keys "ID"`},
		{"a number as address", next, `{"rows":[],"next":2}`, 1, events.CodeSourcePaging, `source_http.paging.next_url "next" must be an address, but is a number`},
		{"no JSON", next, `<html>`, 1, events.CodeSourceFormat, `the body is HTML or XML, not JSON`},
		{"a row that is no object", next, `{"rows":[{"a":1},2]}`, 1, events.CodeSourcePath, `row 2 is a number, not an object`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, c.from, c.body, nil, source.Position{Page: c.at, Size: 1})
			f := failure(t, err)
			require.Equal(t, c.code, f.Code)
			require.Contains(t, f.Error(), c.want)
		})
	}
}

// Addresses of next pages are resolved, and stay where the header may be sent.
func TestNextURL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, base, next string
		hosts           []string
		want            string // token, or the beginning of the failure
		rewritten       bool
	}{
		{url: "https://api.example/v1/orders?a=1", next: "https://api.example/v1/orders?page=2", want: "https://api.example/v1/orders?page=2"},
		{url: "https://api.example/v1/orders?a=1", next: `https:\/\/api.example\/x?q=%E6#part`, want: "https://api.example/x?q=%E6"},
		{url: "https://api.example/v1/orders?a=1", next: "orders?$skiptoken=100", want: "https://api.example/v1/orders?$skiptoken=100"},
		{url: "https://api.example/v1/orders?a=1", next: "/x", want: "https://api.example/x"},
		{url: "https://api.example/v1/orders?a=1", next: "?page=2", want: "https://api.example/v1/orders?page=2"},
		{url: "https://api.example/v1/orders?a=1", next: "//API.example/x", want: "https://API.example/x"},
		{url: "https://api.example/v1/orders?a=1", base: "https://api.example/v2/list?page=2", next: "../x?page=3", want: "https://api.example/x?page=3"},
		{url: "https://api.example/v1/", next: "https://api.example:443/x", want: "https://api.example:443/x"},
		{url: "https://api.example/v1/", next: "http://api.example/x?page=2", want: "https://api.example/x?page=2", rewritten: true},
		{url: "https://api.example:8443/v1/", next: "http://api.example:8000/x", want: "https://api.example:8443/x", rewritten: true},
		{url: "http://api.example:8080/v1/", next: "http://api.example/x", want: "http://api.example:8080/x", rewritten: true},
		{url: "http://api.example/v1/", next: "https://api.example/x", want: "https://api.example/x"},
		{url: "https://user:pa55@api.example/v1/", next: "https://evil:x@api.example/x", want: "https://api.example/x"},
		{url: "https://bücher.example/v1/", next: "https://xn--bcher-kva.example/x", want: "https://xn--bcher-kva.example/x"},
		{url: "https://api.example/v1/", next: "https://evil.example/x?token=s3cret", want: `the address of the next page names the host "evil.example"; add it to source_http.paging.hosts`},
		{url: "https://api.example/v1/", next: "https://api.example.evil.example/", want: "the address of the next page names the host"},
		{url: "https://api.example/v1/", next: "https://api.example@evil.example/", want: `the address of the next page names the host "evil.example"`},
		{url: "https://api.example/v1/", next: "//evil.example/x", want: "the address of the next page names the host"},
		{url: "https://api.example/v1/", next: "https://cdn.example:444/x", hosts: []string{"cdn.example"}, want: "https://cdn.example:444/x"},
		{url: "https://api.example/v1/", next: "http://cdn.example/x", hosts: []string{"cdn.example"}, want: `the address of the next page on the host "cdn.example" is http`},
		{url: "http://api.example/v1/", next: "http://cdn.example/x", hosts: []string{"cdn.example"}, want: "http://cdn.example/x"},
		{url: "https://api.example/v1/", next: "file:///etc/passwd", want: "the address of the next page is not one of http or https"},
		{url: "https://api.example/v1/", next: "javascript:1", want: "the address of the next page is not one of http or https"},
		{url: "https://api.example/v1/", next: "https://api.example/%zz", want: "the address of the next page cannot be read"},
		{url: "https://api.example/v1/", next: "x?" + strings.Repeat("a", 17000), want: "the address of the next page has 17025 bytes, at most 16384 are allowed"},
		{url: "https://api.example/v1/", next: "", want: ""},
	} {
		t.Run(c.next, func(t *testing.T) {
			t.Parallel()
			from := events.HTTPRequest{Rows: "rows", Paging: &events.Paging{Type: events.PagingNextURL, NextURL: "next", Hosts: c.hosts}}
			at := source.Position{Page: 1}
			if c.base != "" {
				at = source.Position{Page: 2, Size: 1, Token: c.base}
			}
			got, err := fetcher(t, form(c.url, from)).Shape.Parse([]byte(`{"rows":[{"a":1}],"next":"`+c.next+`"}`), http.Header{}, at)
			if err != nil {
				require.Equal(t, events.CodeSourcePaging, failure(t, err).Code)
				require.True(t, strings.HasPrefix(err.Error(), c.want) && c.want != "", err)
				require.NotContains(t, err.Error(), "s3cret")
				return
			}
			require.Equal(t, c.want, got.Next)
			require.Equal(t, c.rewritten, got.Rewritten)
			require.Equal(t, c.want == "", got.Last)
		})
	}
}

// The request for a next page has its address, the header, and secret parameters that the address lacks. Other
// parameters are not repeated.
func TestNextURLIsAsked(t *testing.T) {
	t.Parallel()
	server := record(t, text(200, `[{"id":1}]`))
	other := record(t, text(200, `[{"id":1}]`))
	at := func(address string) source.Position { return source.Position{Page: 2, Size: 1, Token: address} }
	paging := &events.Paging{Type: events.PagingLink, Hosts: []string{"localhost"}}
	req := form(strings.Replace(server.URL, "://", "://shop:pa55word@", 1)+"/x?key=1", events.HTTPRequest{
		Param: raw(`{"size":10,"token":"S3cret&","sid":"abc123"}`), SecretParam: []string{"token", "sid"}, Paging: paging,
	})
	req.Header = secrets.Values{"X-Api": "v", "Host": "shop.example"}
	req.Auth = raw(`{"type":"api_key","name":"api key","value":"k&y","in":"query"}`)
	f := fetcher(t, req)
	for _, address := range []string{server.URL + "/y?page=2&q=%e6;x", server.URL + "/y?sid=other&api+key=mine", strings.Replace(other.URL, "127.0.0.1", "localhost", 1) + "/z"} {
		page, err := f.Fetch(t.Context(), at(address))
		require.NoError(t, err)
		page.Release()
	}
	asked := append(server.all(), other.all()...)
	require.Len(t, asked, 3)
	require.Equal(t, "page=2&q=%e6;x&token=S3cret%26&sid=abc123&api+key=k%26y", asked[0].query)
	require.Equal(t, "sid=other&api+key=mine&token=S3cret%26", asked[1].query)
	require.Equal(t, "token=S3cret%26&sid=abc123&api+key=k%26y", asked[2].query)
	for i, r := range asked {
		require.Equal(t, "v", r.header.Get("X-Api"))
		require.Equal(t, "Basic c2hvcDpwYTU1d29yZA==", r.header.Get("Authorization"))
		require.Equal(t, i < 2, r.host == "shop.example", "Host belongs to the host of url")
	}
}

// A page without its token is never asked for: it would be page 1.
func TestPagesWithoutATokenAreNotAsked(t *testing.T) {
	t.Parallel()
	server := record(t, text(200, `[{"id":1}]`))
	for _, paging := range []events.Paging{
		{Type: events.PagingCursor, CursorParam: "after", Cursor: "next"}, {Type: events.PagingNextURL, NextURL: "next"}, {Type: events.PagingLink},
	} {
		_, err := fetcher(t, form(server.URL, events.HTTPRequest{Paging: &paging})).Fetch(t.Context(), source.Position{Page: 2, Size: 1})
		require.EqualError(t, err, "page 2: the page before names no next one")
		require.Equal(t, events.CodeInternal, failure(t, err).Code)
	}
	_, err := fetcher(t, form(server.URL, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingOffset, OffsetParam: "skip"}})).Fetch(t.Context(), source.Position{Page: 2})
	require.EqualError(t, err, "page 2: the size of page 1 is not known")
	require.Empty(t, server.all())
}

// A next page of a POST has its body again.
func TestNextURLOfAPOST(t *testing.T) {
	t.Parallel()
	server := record(t, text(200, `[{"id":1}]`))
	f := fetcher(t, form(server.URL+"/search", events.HTTPRequest{Method: "POST", Body: raw(`{"q":"x"}`), Param: raw(`{"size":10}`), Paging: &events.Paging{Type: events.PagingLink}}))
	page, err := f.Fetch(t.Context(), source.Position{Page: 2, Size: 1, Token: server.URL + "/search?page=2"})
	require.NoError(t, err)
	page.Release()
	require.Equal(t, got{"POST", "page=2", `{"q":"x"}`, server.Listener.Addr().String(), server.all()[0].header}, server.all()[0])
}

func TestErrorMapping(t *testing.T) {
	t.Parallel()
	list := func(texts ...string) (values []json.RawMessage) {
		for _, text := range texts {
			values = append(values, raw(text))
		}
		return values
	}
	graphql := events.ErrorMapping{Path: "errors", Message: "errors[0].message"}
	code := events.ErrorMapping{Path: "code", OK: list(`0`, `"200"`), Message: "msg", Retry: list(`429`)}
	for _, c := range []struct {
		name string
		m    events.ErrorMapping
		body string
		want string // "" for a page
	}{
		{"no errors", graphql, `{"rows":[{"a":1}]}`, ""},
		{"errors null", graphql, `{"rows":[],"errors":null}`, ""},
		{"errors false", graphql, `{"rows":[],"errors":false}`, ""},
		{"errors 0", graphql, `{"rows":[],"errors":0.0}`, ""},
		{`errors "0"`, graphql, `{"rows":[],"errors":"0"}`, ""},
		{"errors empty", graphql, `{"rows":[],"errors":""}`, ""},
		{"errors []", graphql, `{"rows":[],"errors":[ ]}`, ""},
		{"errors [{}]", graphql, `{"rows":[],"errors":[{}]}`, `page 1: source_http.error.path "errors" is an array, which means a failure`},
		{"errors {}", graphql, `{"rows":[],"errors":{ }}`, ""},
		{"errors beside rows", graphql, `{"rows":[{"a":1}],"errors":[{"message":"Cannot query"}]}`, "page 1: Cannot query"},
		{"errors beside null", graphql, `{"data":null,"errors":[{"message":"Cannot query"}]}`, "page 1: Cannot query"},
		{"errors without a message", graphql, `{"data":null,"errors":[{"code":5}]}`, `page 1: source_http.error.path "errors" is an array, which means a failure`},
		{"errors true", graphql, `{"rows":[],"errors":true}`, "page 1: errcode true"},
		{"code 0", code, `{"rows":[],"code":0}`, ""},
		{`code "0"`, code, `{"rows":[],"code":"0"}`, ""},
		{"code 200", code, `{"code":200,"rows":[]}`, ""},
		{"code 401", code, `{"code":401,"msg":"认证失败","rows":[{"a":1}]}`, "page 1: errcode 401: 认证失败"},
		{"code E", code, `{"code":"E\u0031","msg":7}`, `page 1: errcode "E1": 7`},
		{"code absent", code, `{"rows":[]}`, `page 1: source_http.error.path "code" finds nothing; the answer has the keys "rows"`},
		{"code null", code, `{"rows":[],"code":null}`, `page 1: source_http.error.path "code" is null, which means a failure`},
		{"code to be retried", code, `{"code":"429","msg":"slow down"}`, `page 1: errcode "429" after 6 attempts: slow down`},
		{"ok true", events.ErrorMapping{Path: "ok", OK: list(`true`), Message: "error"}, `{"ok":true,"rows":[]}`, ""},
		{"ok false", events.ErrorMapping{Path: "ok", OK: list(`true`), Message: "error"}, `{"ok":false,"error":"not_authed"}`, "page 1: errcode false: not_authed"},
		{"a long message", events.ErrorMapping{Path: "e", Message: "m"}, `{"e":1,"m":"` + strings.Repeat("客", 600) + `"}`, "page 1: errcode 1: " + strings.Repeat("客", 500)},
		{"secrets", events.ErrorMapping{Path: "e", Message: "m"}, `{"e":"S3cretToken","m":"the token S3cretToken\u0007 ended"}`, `page 1: errcode "***": the token ***  ended`},
		{"control characters", events.ErrorMapping{Path: "e", Message: "m"}, `{"e":1,"m":"a\u001b[2Jb\u202e"}`, "page 1: errcode 1: a [2Jb "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := record(t, text(200, c.body))
			req := form(server.URL, events.HTTPRequest{Rows: "rows", Error: &c.m, Paging: &events.Paging{Type: events.PagingNone}})
			req.Auth = raw(`{"type":"bearer","token":"S3cretToken"}`)
			page, err := fetcher(t, req).Fetch(t.Context(), source.Position{Page: 1})
			if c.want == "" {
				require.NoError(t, err)
				page.Release()
				return
			}
			require.EqualError(t, err, c.want)
			require.Equal(t, events.CodeSourceErrcode, failure(t, err).Code)
		})
	}
}

// Statuses of declared sources.
func TestDeclaredStatuses(t *testing.T) {
	t.Parallel()
	from := events.HTTPRequest{
		Rows: "rows", Limit: 2, Error: &events.ErrorMapping{Path: "code", Retry: []json.RawMessage{raw(`7`)}, RetryStatus: []int{418, 302}},
		Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", LimitParam: "limit", Total: "total"},
	}
	for _, c := range []struct {
		name     string
		answer   http.HandlerFunc
		attempts int
		code     string
		want     string
	}{
		{"206", text(206, `{"rows":[{"a":1}],"total":1}`), 1, "", ""},
		{"204", text(204, ""), 1, "", ""},
		{"401", text(401, `{"code":"secret"}`), 1, events.CodeSourceAuth, "page 1: HTTP 401"},
		{"403", text(403, `{"code":17}`), 1, events.CodeSourceAuth, "page 1: HTTP 403, errcode 17"},
		{"403 with Retry-After", text(403, "", "Retry-After", "0"), 6, events.CodeSourceHTTP, "page 1: HTTP 403 after 6 attempts"},
		{"403 without a request left", text(403, "", "X-RateLimit-Remaining", "0"), 6, events.CodeSourceHTTP, "page 1: HTTP 403 after 6 attempts"},
		{"404", text(404, "secret"), 1, events.CodeSourceHTTP, "page 1: HTTP 404"},
		{"418", text(418, "secret"), 6, events.CodeSourceHTTP, "page 1: HTTP 418 after 6 attempts"},
		{"302", text(302, "secret", "Location", "/"), 6, events.CodeSourceHTTP, "page 1: HTTP 302 after 6 attempts"},
		{"303", text(303, "secret", "Location", "/"), 1, events.CodeSourceHTTP, "page 1: HTTP 303: redirects are not followed; give the address it leads to"},
		{"400 with a code that is retried", text(400, `{"code":7}`), 6, events.CodeSourceHTTP, "page 1: HTTP 400, errcode 7 after 6 attempts"},
		{"200 without a body", text(200, ""), 2, events.CodeSourceFormat, "page 1: the body is empty after 2 attempts"},
		{"cut JSON", text(200, `{"rows":[`), 2, events.CodeSourceFormat, "page 1: row 1: the JSON is truncated at byte 9 after 2 attempts"},
		{"429 for long", text(429, "", "Retry-After", "3600"), 6, events.CodeSourceHTTP, "page 1: HTTP 429 after 6 attempts: the source asks to wait 1h0m0s, at most 5ms is waited (source_http.max_wait)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := record(t, c.answer)
			page, err := fetcher(t, form(server.URL, from)).Fetch(t.Context(), source.Position{Page: 1})
			require.Len(t, server.all(), c.attempts)
			if c.want == "" {
				require.NoError(t, err)
				n, err := rows.Check(page.Rows, rows.Limits{})
				require.NoError(t, err)
				require.Equal(t, page.RowCount, n)
				page.Release()
				return
			}
			require.EqualError(t, err, c.want)
			require.Equal(t, c.code, failure(t, err).Code)
		})
	}
}

func TestNewRefusesDeclaredForms(t *testing.T) {
	t.Parallel()
	page := func(p events.Paging) *events.Paging {
		p.Type = cmp.Or(p.Type, events.PagingPage)
		p.PageParam = cmp.Or(p.PageParam, "page")
		return &p
	}
	for _, c := range []struct {
		from events.HTTPRequest
		auth string
		want string
	}{
		{events.HTTPRequest{Paging: page(events.Paging{Type: "auto"})}, "", `source paging.type "auto" is not known; page, offset, cursor, next_url, link, none`},
		{events.HTTPRequest{Rows: "a..b", Paging: page(events.Paging{})}, "", `source rows: at 3: ".." is not supported; write each step`},
		{events.HTTPRequest{Paging: page(events.Paging{Total: "a["})}, "", `source paging.total: `},
		{events.HTTPRequest{Paging: page(events.Paging{PageParam: "body:a"})}, "", `source paging.page_param: body: needs method POST`},
		{events.HTTPRequest{Paging: page(events.Paging{PageParam: "header:Host"})}, "", `source paging.page_param: the header Host cannot be set`},
		{events.HTTPRequest{Paging: page(events.Paging{PageParam: "header:a b"})}, "", `source paging.page_param: "a b" is not a header name`},
		{events.HTTPRequest{Body: raw(`{}`), Paging: page(events.Paging{})}, "", "source body needs method POST"},
		{events.HTTPRequest{Method: "POST", Body: raw(`{`), Paging: page(events.Paging{})}, "", "source body is not JSON"},
		{events.HTTPRequest{Method: "POST", BodyType: events.BodyForm, Body: raw(`[]`), Paging: page(events.Paging{})}, "", "source body must be a JSON object"},
		{events.HTTPRequest{Method: "POST", Body: raw(`{"v":"x"}`), Paging: page(events.Paging{PageParam: "body:v.page"})}, "", `source paging.page_param: "page" goes through a value that is a string, not an object`},
		{events.HTTPRequest{Format: events.FormatCSV, Paging: page(events.Paging{Total: "total"})}, "", "source paging.total: csv has no such place; use header:"},
		{events.HTTPRequest{Param: raw(`[]`), Paging: page(events.Paging{})}, "", "source param must be a JSON object"},
		{events.HTTPRequest{Paging: page(events.Paging{LimitParam: "limit"})}, "", "source limit is 0; it must be at least 1"},
		{events.HTTPRequest{Paging: page(events.Paging{Type: events.PagingCursor, CursorParam: "after"})}, "", "source paging: the place of the next page is missing with type cursor"},
		{events.HTTPRequest{Paging: page(events.Paging{Type: events.PagingCursor, Cursor: "next"})}, "", "source paging: the place that changes from page to page is missing with type cursor"},
		{events.HTTPRequest{Paging: page(events.Paging{Type: events.PagingOffset})}, "", "source paging: the place that changes from page to page is missing with type offset"},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":"digest"}`, `source auth.type "digest" is not known; bearer, basic, api_key, oauth2`},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":"bearer","token":"s3cret\r\nEvil: 1"}`, "source auth holds a line break or another control character"},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":"api_key","name":"Transfer-Encoding","value":"s3cret","in":"header"}`, "source auth.name: the header Transfer-Encoding cannot be set"},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":"api_key","name":"x","value":"s3cret"}`, "source auth.in must be header or query, with auth.name"},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":"oauth2","token_url":"file:///s3cret"}`, "source auth.token_url must be absolute and begin with http:// or https://"},
		{events.HTTPRequest{Paging: page(events.Paging{})}, `{"type":7,"token":"s3cret"}`, "source auth must be a JSON object of strings"},
	} {
		req := form("https://api.example/", c.from)
		req.Auth = raw(c.auth)
		_, err := source.New(http.DefaultClient, req, quick)
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

// Each form of a body has its Accept, unless the caller sets another.
func TestDeclaredAccept(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		"": "application/json", events.FormatNDJSON: "application/x-ndjson, application/json;q=0.9, */*;q=0.1",
		events.FormatCSV: "text/csv, */*;q=0.1", events.FormatTSV: "text/tab-separated-values, */*;q=0.1",
	} {
		server := record(t, text(500, ""))
		req := form(server.URL, events.HTTPRequest{Format: format, Paging: &events.Paging{Type: events.PagingNone}})
		_, err := fetcher(t, req).Fetch(t.Context(), source.Position{Page: 1})
		require.Error(t, err)
		req.Header = secrets.Values{"Accept": "application/vnd.api+json"}
		_, err = fetcher(t, req).Fetch(t.Context(), source.Position{Page: 1})
		require.Error(t, err)
		asked := server.all()
		require.Equal(t, []string{want}, asked[0].header["Accept"])
		require.Equal(t, []string{"application/vnd.api+json"}, asked[len(asked)-1].header["Accept"])
	}
}

// No failure shows a value of auth, a cursor or the address of a page.
func TestDeclaredFailuresHoldNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "S3cret+Token/Of&Shop"
	cursor := events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "next"}
	next := events.Paging{Type: events.PagingNextURL, NextURL: "next"}
	quoted, err := json.Marshal(secret)
	require.NoError(t, err)
	echo := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"%s","token_type":"bearer"}`, url.QueryEscape(secret))
			return
		}
		user, password, _ := r.BasicAuth()
		all, _ := json.Marshal([]string{secret, url.QueryEscape(secret), r.URL.RequestURI(), r.Header.Get("Authorization"), user, password, "http://" + r.Host + r.URL.RequestURI()})
		message, _ := json.Marshal(string(all))
		fmt.Fprintf(w, `{"code":%s,"message":%s,%s:1,"rows":7}`, message, message, quoted)
	}
	for name, c := range map[string]struct {
		auth   string
		paging events.Paging
		token  func(server string) string
		param  string
	}{
		"bearer":           {auth: `{"type":"bearer","token":` + string(quoted) + `}`, paging: cursor},
		"basic":            {auth: `{"type":"basic","username":"` + "shop-of-" + `x","password":` + string(quoted) + `}`, paging: cursor},
		"api key":          {auth: `{"type":"api_key","in":"header","name":"X-Key","value":` + string(quoted) + `}`, paging: cursor},
		"api key in query": {auth: `{"type":"api_key","in":"query","name":"key","value":` + string(quoted) + `}`, paging: cursor},
		"oauth2":           {auth: "oauth2", paging: cursor},
		"cursor":           {paging: cursor, token: func(string) string { return string(quoted) }},
		"next url":         {paging: next, token: func(server string) string { return server + "/x?token=" + url.QueryEscape(secret) + "&page=2" }},
		"secret param":     {paging: next, param: `{"token":` + string(quoted) + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := record(t, echo)
			for _, mapping := range []*events.ErrorMapping{nil, {Path: "code", Message: "message"}} {
				req := form(server.URL, events.HTTPRequest{Rows: "rows", Paging: &c.paging, Error: mapping, Param: raw(c.param), SecretParam: []string{"token"}})
				req.Auth = raw(c.auth)
				if c.auth == "oauth2" {
					req.Auth = raw(`{"type":"oauth2","token_url":"` + server.URL + `/token","client_id":"shop-of-x","client_secret":` + string(quoted) + `}`)
				}
				at := source.Position{Page: 1}
				if c.token != nil {
					at = source.Position{Page: 2, Size: 1, Token: c.token(server.URL)}
				}
				_, err := fetcher(t, req).Fetch(t.Context(), at)
				text := failure(t, err).Error() + failure(t, err).Errcode + failure(t, err).Hint
				for _, leak := range []string{secret, url.QueryEscape(secret), "S3cret", "Token/Of", "shop-of-x"} {
					require.NotContains(t, text, leak)
				}
				require.Equal(t, mapping != nil, strings.Contains(text, "***"), text)
			}
		})
	}
}

// A declared form never panics, and an answer's rows are rows.
func FuzzDeclared(f *testing.F) {
	f.Add(byte(0), []byte(`{"rows":[{"a":1}],"total":"5","pages":2,"more":true,"next":"x","code":0}`), "next")
	f.Add(byte(1), []byte(`{"rows":null,"next":{"a":[1]}}`), `<x>; rel="next"`)
	f.Add(byte(2), []byte(`{"code":7,"message":"\u0007","rows":[]}`), `<http://other/>; rel=next`)
	f.Add(byte(3), []byte("\xef\xbb\xbf{\"rows\":[{\"a\":{\"b\":1}}]}"), "0-1/2")
	f.Add(byte(4), []byte(`[{"a":1},{"b":"\ud800"}]`), "*/*")
	forms := []events.HTTPRequest{
		{Rows: "rows", Error: &events.ErrorMapping{Path: "code", Message: "message"}, Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", Total: "total", TotalPages: "pages", More: "more"}},
		{Rows: "rows", Paging: &events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "next", More: "!last", Total: "header:X"}},
		{Rows: "rows", Paging: &events.Paging{Type: events.PagingNextURL, NextURL: "next", Total: "header:Content-Range"}},
		{Rows: "rows[*].a", Paging: &events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "row:b"}},
		{Paging: &events.Paging{Type: events.PagingLink, Total: "header:Content-Range"}},
	}
	f.Fuzz(func(t *testing.T, form byte, body []byte, field string) {
		from := forms[int(form)%len(forms)]
		s, err := source.New(http.DefaultClient, source.Request{URL: "https://api.example/x?y=1", From: &from, Options: &events.Options{Flatten: int(form) / len(forms) % 3}}, quick)
		require.NoError(t, err)
		for _, at := range []source.Position{{Page: 1}, {Page: 2, Size: 1, Token: "https://api.example/x?page=2"}} {
			got, err := s.Shape.Parse(body, http.Header{"Link": {field}, "Content-Range": {field}, "X": {field}}, at)
			if err != nil {
				require.NotEmpty(t, failure(t, err).Code)
				continue
			}
			n, err := rows.Check(got.Rows, rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, n, got.RowCount)
			if got.Next != "" && from.Paging.Type != events.PagingCursor {
				u, err := url.Parse(got.Next)
				require.NoError(t, err)
				require.Equal(t, "https://api.example", u.Scheme+"://"+strings.ToLower(u.Hostname()))
			}
		}
	})
}
