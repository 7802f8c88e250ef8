package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source/sourcetest"
	"sheaf/services/ingress/request"
)

// previewed previews a submission in this process.
func previewed(t *testing.T, submission []byte) map[string]any {
	cfg := OneShot(t.TempDir())
	cfg.AllowCIDR = []string{"0.0.0.0/0", "::/0"}
	answer, err := Preview(t.Context(), cfg, submission)
	require.NoError(t, err)
	raw, err := json.Marshal(answer)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(raw, &fields))
	return fields
}

func TestPreviewFindsTheUsualAPIs(t *testing.T) {
	t.Parallel()
	for _, api := range sourcetest.APIs() {
		t.Run(api.Name, func(t *testing.T) {
			t.Parallel()
			answer := previewed(t, api.Submission(api.Serve(t, 730).URL))
			text, _ := json.Marshal(answer)
			require.NotNil(t, answer["request"], string(text))
			require.LessOrEqual(t, answer["requests"], 3.0)
			preset, _ := answer["preset"].(string)
			require.Equal(t, api.Preset, preset, string(text))
			if api.Name == "page tokens" { // a list without its token says nothing
				return
			}
			// A short list is one page, or two of the default size: page 2 is empty or short.
			for _, n := range []int{3, 25} {
				answer := previewed(t, api.Submission(api.Serve(t, n).URL))
				text, _ := json.Marshal(answer)
				if api.Name == "HubSpot" && n == 3 {
					require.NotEmpty(t, answer["needed"], string(text))
					continue
				}
				require.NotNil(t, answer["request"], string(text))
				require.LessOrEqual(t, answer["requests"], 3.0)
			}
		})
	}
}

// answers serves a fixed answer for every request, and counts them.
func answers(t *testing.T, handler http.HandlerFunc) (address string, count func() int) {
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		w.Header().Set("Content-Type", "application/json")
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/list", func() int { return int(n.Load()) }
}

// orders returns the rows from one to another as a JSON array.
func orders(from, to int) string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, sourcetest.Row(i))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// A preview proposes no request that rests on an assumption: it names the field to set, or the failure.
func TestPreviewAssumesNothing(t *testing.T) {
	t.Parallel()
	always := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	status := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	page := func(r *http.Request, names ...string) int {
		for _, name := range names {
			if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
				return n
			}
		}
		return 1
	}
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		source string // further members of source_http
		needed string // field
		why    string
		code   string
	}{
		"one page without a total, its parameter unknown": {serve: always(`{"data":` + orders(0, 20) + `}`), needed: "source_http.paging", why: `{"type":"none"} if this is the whole list`},
		"the page parameter is ignored":                   {serve: always(`{"items":` + orders(0, 20) + `,"total":5000,"page":1}`), needed: "source_http.paging", why: "says 5000 rows, page 1 has 20"},
		"the preset's parameter is ignored":               {serve: always(`{"total":5000,"rows":` + orders(0, 10) + `,"code":200,"msg":"ok"}`), needed: "source_http.paging", why: "says 5000 rows, page 1 has 10"},
		"a cursor under a name that nothing takes":        {serve: always(`{"items":` + orders(0, 20) + `,"next_cursor":"abc"}`), needed: "source_http.paging.cursor_param", why: "none of the parameters"},
		"a larger page is no page 2": {serve: func(w http.ResponseWriter, r *http.Request) {
			p, size := 0, 50
			if r.URL.Query().Has("page") {
				p = page(r, "page")
			}
			if r.URL.Query().Has("limit") {
				size = page(r, "limit")
			}
			fmt.Fprintf(w, `{"items":%s,"total":230}`, orders(min(p*size, 230), min((p+1)*size, 230)))
		}, needed: "source_http.paging", why: "page 1 has 50"},
		"an array that a larger size makes longer": {serve: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, orders(0, min(page(r, "limit")+19, 700)))
		}, needed: "source_http.paging", why: "a larger page size showed more rows"},
		"an array of a source that refuses parameters": {serve: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "" {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = io.WriteString(w, orders(0, 20))
		}, needed: "source_http.paging", why: "refused"},
		"an empty array":        {serve: always(`[]`), needed: "source_http.paging", why: "no rows"},
		"an empty list":         {serve: always(`{"items":[]}`), needed: "source_http.paging", why: "no rows"},
		"no list":               {serve: always(`{"id":1,"links":[{"url":"x"}],"errors":[{"a":1}],"included":[{"b":1}]}`), needed: "source_http.rows", why: "no array of objects"},
		"an array of numbers":   {serve: always(`[1,2,3]`), needed: "source_http.rows"},
		"a text":                {serve: always(`"x"`), needed: "source_http.rows"},
		"HTML":                  {serve: always(`<!DOCTYPE html><html><body>Sign in</body></html>`), code: events.CodeSourceFormat},
		"nothing":               {serve: status(204), needed: "source_http.paging"},
		"401":                   {serve: status(401), code: events.CodeSourceAuth},
		"404":                   {serve: status(404), code: events.CodeSourceHTTP},
		"a redirect":            {serve: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, code: events.CodeSourceHTTP},
		"a failure with 200":    {serve: always(`{"errcode":7,"msg":"no such shop","data":null}`), code: events.CodeSourceErrcode},
		"a lost login with 200": {serve: always(`{"code":401,"msg":"sign in"}`), needed: "source_http.rows", why: `code 401, msg "sign in"`},
		"GraphQL errors":        {serve: always(`{"data":null,"errors":[{"message":"field orders does not exist"}]}`), source: `"method":"POST","body":{"query":"{orders{id}}"}`, code: events.CodeSourceErrcode},
		"GraphQL without pageInfo": {serve: always(`{"data":{"orders":{"edges":[{"node":{"id":1}}]}}}`), source: `"method":"POST","body":{"query":"{orders{edges{node{id}}}}"}`,
			needed: "source_http.body", why: "pageInfo"},
		"rows at a path that finds none": {serve: always(`{"items":` + orders(0, 3) + `,"total":3}`), source: `"rows":"data.list"`, code: events.CodeSourcePath},
		"the given paging ignores its place": {serve: always(`{"items":` + orders(0, 20) + `,"total":5000}`), source: `"rows":"items","paging":{"type":"page","total":"total"}`,
			needed: "source_http.paging", why: "the rows of page 1 again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, count := answers(t, c.serve)
			if c.source != "" {
				c.source = "," + c.source
			}
			answer := previewed(t, fmt.Appendf(nil, `{"source_http":{"url":%q%s}}`, address, c.source))
			text, _ := json.Marshal(answer)
			require.Nil(t, answer["request"], string(text))
			require.LessOrEqual(t, count(), 3)
			require.EqualValues(t, count(), answer["requests"])
			if c.code != "" {
				require.Equal(t, c.code, answer["error_code"], string(text))
				require.NotEmpty(t, answer["fail_reason"])
				return
			}
			require.Nil(t, answer["error_code"], string(text))
			needed := answer["needed"].([]any)[0].(map[string]any)
			require.Equal(t, c.needed, needed["field"], string(text))
			require.Contains(t, needed["why"], c.why)
		})
	}
}

// What looks like one thing and is another.
func TestPreviewIsNotMisled(t *testing.T) {
	t.Parallel()
	number := func(r *http.Request, name string, absent int) int {
		if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
			return n
		}
		return absent
	}
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		want   string // source_http without url
		proof  string
		others string
	}{
		"a count of the rows of a page is no total": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "page", 1)
			fmt.Fprintf(w, `{"items":%s,"count":20,"page":%d}`, orders(20*n-20, 20*n), n)
		}, `{"rows":"items","paging":{"type":"page","page_param":"page","limit_param":null}}`, "end", ""},
		"a total of the rows of a page, where a cursor follows, is none": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "cursor", 0)
			fmt.Fprintf(w, `{"items":%s,"total":20,"next_cursor":"%d"}`, orders(n, n+20), n+20)
		}, `{"rows":"items","paging":{"type":"cursor","cursor":"next_cursor","cursor_param":"cursor","limit_param":null}}`, "end", ""},
		"a total of the rows of a page, where an address follows, is none": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "from", 0)
			fmt.Fprintf(w, `{"items":%s,"total":20,"next":"/list?from=%d"}`, orders(n, n+20), n+20)
		}, `{"rows":"items","paging":{"type":"next_url","next_url":"next"}}`, "end", ""},
		"a total of the rows of a page, where more follow, is none": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "page", 1)
			fmt.Fprintf(w, `{"items":%s,"total":20,"has_more":true,"page":%d}`, orders(20*n-20, 20*n), n)
		}, `{"rows":"items","paging":{"type":"page","page_param":"page","limit_param":null,"more":"has_more"}}`, "end", ""},
		"a clock in each row makes no other rows": {func(w http.ResponseWriter, _ *http.Request) {
			now := time.Now().UnixNano()
			fmt.Fprintf(w, `[{"id":1,"at":%d},{"id":2,"at":%[1]d}]`, now)
		}, `{"paging":{"type":"none"}}`, "single", ""},
		"items is a number and next is a page": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "_page", 1)
			fmt.Fprintf(w, `{"first":1,"prev":null,"next":%d,"last":250,"pages":250,"items":5000,"data":%s}`, n+1, orders(20*n-20, 20*n))
		}, `{"rows":"data","paging":{"type":"page","page_param":"_page","limit_param":null,"total":"items","total_pages":"pages"}}`, "total", ""},
		"links is an array of objects beside the rows": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "page", 1)
			fmt.Fprintf(w, `{"links":[{"url":"a"},{"url":"b"}],"shops":[{"id":1}],"orders":%s,"total":5000}`, orders(20*n-20, 20*n))
		}, `{"rows":"orders","paging":{"type":"page","page_param":"page","limit_param":null,"total":"total"}}`, "total", "shops"},
		"an offset, whose place only a shift shows": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "skip", 0)
			fmt.Fprintf(w, `{"result":%s,"total":"5000"}`, orders(n, n+20))
		}, `{"rows":"result","paging":{"type":"offset","offset_param":"skip","limit_param":null,"total":"total"}}`, "total", ""},
		"another page parameter, which numbered rows show": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "current", 1)
			fmt.Fprintf(w, `{"result":%s,"total":5000}`, orders(20*n-20, 20*n))
		}, `{"rows":"result","paging":{"type":"page","page_param":"current","limit_param":null,"total":"total"}}`, "total", ""},
		"a flag that page 2 contradicts": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "page", 1)
			fmt.Fprintf(w, `{"list":%s,"last":true}`, orders(20*n-20, 20*n))
		}, `{"rows":"list","paging":{"type":"page","page_param":"page","limit_param":null}}`, "end", ""},
		"a total that page 2 contradicts": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "pageNo", 1)
			fmt.Fprintf(w, `{"list":%s,"total":20,"pageNo":%d}`, orders(20*n-20, 20*n), n)
		}, `{"rows":"list","paging":{"type":"page","page_param":"pageNo","limit_param":null}}`, "end", ""},
		"one page of pages": {func(w http.ResponseWriter, r *http.Request) {
			n := number(r, "page", 1)
			fmt.Fprintf(w, `{"list":%s,"pages":1}`, orders(20*n-20, min(20*n, 20)))
		}, `{"rows":"list","paging":{"type":"page","page_param":"page","limit_param":null,"total_pages":"pages"}}`, "pages", ""},
		"a total of no rows": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"items":[],"total":0}`) },
			`{"rows":"items","paging":{"type":"none","total":"total"}}`, "total", ""},
		"a flag that says that page 1 is all": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"things":`+orders(0, 3)+`,"has_more":false}`)
		}, `{"rows":"things","paging":{"type":"none","more":"has_more"}}`, "single", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, count := answers(t, c.serve)
			answer := previewed(t, fmt.Appendf(nil, `{"source_http":{"url":%q}}`, address))
			text, _ := json.Marshal(answer)
			request, _ := answer["request"].(map[string]any)
			require.NotNil(t, request, string(text))
			source := request["source_http"].(map[string]any)
			delete(source, "url")
			got, err := json.Marshal(source)
			require.NoError(t, err)
			require.JSONEq(t, c.want, string(got), string(text))
			require.Equal(t, c.proof, answer["proof"], string(text))
			require.LessOrEqual(t, count(), 3)
			if c.others != "" {
				require.Contains(t, string(text), `{"field":"source_http.rows","value":"`+c.others+`"}`)
			}
		})
	}
}

// A source in the standard format gets the request of today, after one request.
func TestPreviewKnowsTheStandardFormat(t *testing.T) {
	t.Parallel()
	address, count := answers(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errcode":0,"msg":"","data":{"data":[{"id":"编号"},{"id":1}],"pagetag":{"page":1,"limit":50,"total":1,"total_page":1}}}`)
	})
	answer := previewed(t, fmt.Appendf(nil, `{"title":"t","source_http":{"url":%q,"param":{"shop":7}}}`, address))
	require.Equal(t, "sheaf", answer["preset"])
	require.Equal(t, map[string]any{"url": address, "param": map[string]any{"shop": 7.0}}, answer["request"].(map[string]any)["source_http"])
	require.Equal(t, []any{"编号"}, answer["columns"])
	require.Equal(t, 1, count())

	answer = previewed(t, fmt.Appendf(nil, `{"source_http":{"url":%q,"header":{"X-Key":"hush"}}}`, address))
	proposal, err := json.Marshal(answer["request"])
	require.NoError(t, err)
	cfg := OneShot(t.TempDir())
	cfg.AllowCIDR = []string{"0.0.0.0/0", "::/0"}
	_, err = Preview(t.Context(), cfg, proposal)
	require.ErrorContains(t, err, `source_http.header["X-Key"]: is "…", which stands for a secret`)

	strict := sourcetest.New(t, 120) // 400 without page and limit
	answer = previewed(t, fmt.Appendf(nil, `{"source_http":{"url":%q}}`, strict.URL))
	require.Equal(t, "sheaf", answer["preset"])
	require.Equal(t, 2.0, answer["requests"])
}

// No secret of a submission is in the answer, also if the source repeats it.
// Types that page 1 shows are in the request, with all columns, and a service accepts it.
func TestPreviewProposesTypesOfColumns(t *testing.T) {
	t.Parallel()
	address, _ := answers(t, func(w http.ResponseWriter, r *http.Request) {
		var list []string
		for i := range 20 {
			list = append(list, fmt.Sprintf(`{"id":%d,"order-no":"NO-%d","at":"2026-01-05T08:%02d:00Z","day":"2026-01-%02d"}`, i, i, i, i+1))
		}
		fmt.Fprintf(w, `[%s]`, strings.Join(list, ","))
	})
	submission := fmt.Appendf(nil, `{"source_http":{"url":%q,"paging":{"type":"none"}}}`, address)
	answer := previewed(t, submission)
	text, _ := json.Marshal(answer)
	require.NotNil(t, answer["request"], string(text))
	columns, err := json.Marshal(answer["request"].(map[string]any)["columns"])
	require.NoError(t, err)
	require.JSONEq(t, `[{"key":"id"},{"key":"['order-no']","title":"order-no"},{"key":"at","type":"datetime"},{"key":"day","type":"date"}]`,
		string(columns), string(text))
	require.Contains(t, string(text), `"why":"20 of 20 values are ISO 8601 with Z"`)
}

func TestPreviewHidesSecrets(t *testing.T) {
	t.Parallel()
	address, _ := answers(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"items":[{"id":1,"echo":%q,"%s":1}],"total":1,"%s":[{"a":1}]}`, r.Header.Get("X-Key")+r.Header.Get("Authorization")+r.URL.Query().Get("sig"), "hush-1", "hush-3")
	})
	answer := previewed(t, fmt.Appendf(nil, `{"source_http":{"url":%q,"header":{"X-Key":"hush-1"},"auth":{"type":"bearer","token":"hush-2"},"param":{"sig":"hush-3","a":1},"secret_param":["sig"]}}`, address))
	text, err := json.Marshal(answer)
	require.NoError(t, err)
	require.NotContains(t, string(text), "hush")
	source := answer["request"].(map[string]any)["source_http"].(map[string]any)
	require.Equal(t, map[string]any{"X-Key": "…"}, source["header"])
	require.Equal(t, map[string]any{"type": "bearer", "token": "…"}, source["auth"])
	require.Equal(t, map[string]any{"sig": "…", "a": 1.0}, source["param"])
}

// Whatever a source answers, no request rests on an assumption, and every request is valid.
func FuzzPreview(f *testing.F) {
	for _, seed := range []string{
		`{"items":[{"id":1}],"total":5}`, `[{"id":1}]`, `{"results":[{"id":1}],"count":2,"next":"?page=2"}`, `{"data":[{"id":1}],"has_more":true,"next_cursor":"x"}`,
		`{"data":[{"id":1}],"current_page":1,"last_page":2,"total":2,"links":[{"url":null}]}`, `{"d":{"results":[{"a":1}],"__next":"x?y=z","__count":"7"}}`,
		"{\"a\":1}\n{\"a\":2}", "a,b\n1,2", `{"errcode":0,"data":{"data":[],"pagetag":{}}}`, `{"object":"list","data":[{"id":"a"}],"has_more":true}`, `<html>`, ``, `{"":[{"":1}]}`,
	} {
		f.Add([]byte(seed), []byte(seed), "application/json", "")
	}
	f.Add([]byte(`[{"id":1}]`), []byte(`[{"id":2}]`), "text/csv", `<?page=2>; rel="next"`)
	cfg := OneShot(f.TempDir())
	if err := cfg.Complete(); err != nil {
		f.Fatal(err)
	}
	keys, err := secrets.NewKeyring(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, later []byte, kind, link string) {
		client := &scripted{first: first, later: later, kind: kind, link: link}
		check := func(body []byte) (*events.Request, secrets.Values, error) {
			return request.ParseOpened(keys, events.DefaultTenant, []events.Format{events.XLSX}, body)
		}
		answer, err := newPreviewer(cfg.policy(), client).Previewer.Preview(t.Context(), []byte(`{"source_http":{"url":"http://h/list"}}`), check)
		if err != nil {
			t.Fatal(err)
		}
		if client.asked > 3 || client.asked != answer.Requests {
			t.Fatalf("%d requests, %d in the answer", client.asked, answer.Requests)
		}
		text, err := json.Marshal(answer)
		if err != nil || !utf8.Valid(text) {
			t.Fatal(err)
		}
		if answer.Request == nil {
			if len(answer.Needed) == 0 && answer.ErrorCode == "" {
				t.Fatalf("no reason: %s", text)
			}
			return
		}
		for _, found := range answer.Findings {
			if found.How == "assumed" {
				t.Fatalf("assumed: %s", text)
			}
		}
		proposal, err := answer.Request.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := check(proposal); err != nil {
			t.Fatalf("%v: %s", err, proposal)
		}
	})
}

// scripted answers its first request with one body, and all others with another.
type scripted struct {
	first, later []byte
	kind, link   string
	asked        int
}

func (s *scripted) Do(*http.Request) (*http.Response, error) {
	s.asked++
	body := s.first
	if s.asked > 1 {
		body = s.later
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {s.kind}, "Link": {s.link}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil
}

// The requests of a preview pass the guards of an export.
func TestPreviewIsGuarded(t *testing.T) {
	t.Parallel()
	cfg := OneShot(t.TempDir())
	for _, address := range []string{"http://169.254.169.254/latest", "http://10.0.0.1/", "http://[fd00::1]/"} {
		answer, err := Preview(t.Context(), cfg, fmt.Appendf(nil, `{"source_http":{"url":%q}}`, address))
		require.NoError(t, err)
		require.Equal(t, events.CodeSourceUnreachable, answer.ErrorCode, answer.FailReason)
		require.Nil(t, answer.Request)
	}
}

// A server's previews hold a bounded part of large responses, and end.
func TestPreviewsOfLargeResponsesEnd(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(make([]byte, 32))
	require.NoError(t, err)
	check := func(body []byte) (*events.Request, secrets.Values, error) {
		return request.ParseOpened(keys, events.DefaultTenant, []events.Format{events.XLSX}, body)
	}
	page := func(first, size int) []byte {
		b := []byte(`[`)
		for i := first; len(b) < size; i++ {
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = fmt.Appendf(b, `{"id":%d,"text":%q}`, i, strings.Repeat("x", 1000))
		}
		return append(b, ']')
	}
	p := serverPreviewer(SourceLimits{}, &scripted{first: page(0, maxPreviewPage+1)})
	answer, err := p.Previewer.Preview(t.Context(), []byte(`{"source_http":{"url":"http://h/list"}}`), check)
	require.NoError(t, err)
	require.Equal(t, events.CodeLimitBytes, answer.ErrorCode, answer.FailReason)

	p = serverPreviewer(SourceLimits{}, &byHost{first: page(0, maxPreviewPage-2000), later: page(1<<20, maxPreviewPage-2000), seen: map[string]int{}})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			answer, err := p.Previewer.Preview(t.Context(), fmt.Appendf(nil, `{"source_http":{"url":"http://h%d/list"}}`, i), check)
			if assert.NoError(t, err) {
				assert.Empty(t, answer.ErrorCode, answer.FailReason)
				assert.Equal(t, 3, answer.Requests)
			}
		})
	}
	group.Wait()
}

// byHost answers the first request for a host with one body, and all others with another.
type byHost struct {
	first, later []byte

	mu   sync.Mutex
	seen map[string]int
}

func (s *byHost) Do(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[req.Host+req.URL.Host]++
	body := s.later
	if s.seen[req.Host+req.URL.Host] == 1 {
		body = s.first
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil
}
