package source_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding/simplifiedchinese"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"
)

// Every format becomes rows of JSON, with what the header says about the list.
func TestFormats(t *testing.T) {
	t.Parallel()
	gbk, err := simplifiedchinese.GBK.NewEncoder().String("名称,数量\r\n客户,2\r\n")
	require.NoError(t, err)
	row := events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "row:id"}
	for _, c := range []struct {
		name    string
		from    events.HTTPRequest
		options *events.Options
		header  []string
		body    string
		rows    string
		names   []string
		want    source.Answer // its Header, Total and Next
	}{
		{name: "ndjson", from: events.HTTPRequest{Format: events.FormatNDJSON, Paging: &row}, body: "{\"id\":1}\n{\"id\":2.50,\"b\":null}\r\n\n", rows: `[{"id":1},{"id":2.50,"b":null}]`,
			names: []string{"id", "b"}, want: source.Answer{Total: -1, Next: "2.50"}},
		{name: "ndjson with a header row", from: events.HTTPRequest{Format: events.FormatNDJSON, HeaderRow: true}, body: "{\"id\":\"ID\"}\n{\"id\":2}\n", rows: `[{"id":"ID"},{"id":2}]`,
			want: source.Answer{Total: -1, Header: []byte(`{"id":"ID"}`)}},
		{name: "csv", from: events.HTTPRequest{Format: events.FormatCSV, Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", Total: "header:X-Total"}}, header: []string{"X-Total", "5"},
			body: "\xef\xbb\xbfid,\"a \"\"b\"\"\"\r\n1,\"x\r\ny\"\r\n007,\r\n", rows: `[{"id":1,"a \"b\"":"x\ny"},{"id":"007","a \"b\"":""}]`, names: []string{"id", `a "b"`}, want: source.Answer{Total: 5}},
		{name: "csv, the last row's cursor", from: events.HTTPRequest{Format: events.FormatCSV, Paging: &row}, body: "id\n1\n2\n", rows: `[{"id":1},{"id":2}]`, names: []string{"id"}, want: source.Answer{Total: -1, Next: "2"}},
		{name: "csv without rows", from: events.HTTPRequest{Format: events.FormatCSV}, body: "id,b\n", rows: `[]`, names: []string{"id", "b"}, want: source.Answer{Total: -1}},
		{name: "tsv", from: events.HTTPRequest{Format: events.FormatTSV}, body: "a,b\tc\n1\tx,y\n", rows: `[{"a,b":1,"c":"x,y"}]`, names: []string{"a,b", "c"}, want: source.Answer{Total: -1}},
		{name: "csv in GBK by Content-Type", from: events.HTTPRequest{Format: events.FormatCSV}, header: []string{"Content-Type", `text/csv; charset="GBK"`}, body: gbk,
			rows: `[{"名称":"客户","数量":2}]`, names: []string{"名称", "数量"}, want: source.Answer{Total: -1}},
		{name: "csv in GBK by options", from: events.HTTPRequest{Format: events.FormatCSV}, options: &events.Options{SourceCharset: "gb18030"}, header: []string{"Content-Type", `text/csv; charset=utf-8`}, body: gbk,
			rows: `[{"名称":"客户","数量":2}]`, names: []string{"名称", "数量"}, want: source.Answer{Total: -1}},
		{name: "flattened", from: events.HTTPRequest{}, options: &events.Options{Flatten: 1}, body: `[{"id":1,"u":{"n":"x","o":{"p":1}}},{"v":{"w":2}}]`,
			rows: `[{"id":1,"u.n":"x","u.o":{"p":1}},{"v.w":2}]`, names: []string{"id", "u.n", "u.o", "v.w"}, want: source.Answer{Total: -1}},
		{name: "flattened, with a header row", from: events.HTTPRequest{HeaderRow: true}, options: &events.Options{Flatten: 5}, body: `[{"u":{"n":"Name"}},{"u":{"n":1}}]`,
			rows: `[{"u.n":"Name"},{"u.n":1}]`, want: source.Answer{Total: -1, Header: []byte(`{"u.n":"Name"}`)}},
		{name: "flattened after the cursor is read", from: events.HTTPRequest{Paging: &events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "row:u.id"}}, options: &events.Options{Flatten: 1},
			body: `[{"u":{"id":"x7"}}]`, rows: `[{"u.id":"x7"}]`, names: []string{"u.id"}, want: source.Answer{Total: -1, Next: `"x7"`}},
		{name: "flattened nothing", from: events.HTTPRequest{}, options: &events.Options{Flatten: 1}, body: `[ ]`, rows: `[ ]`, want: source.Answer{Total: -1}},
		{name: "flattened ndjson", from: events.HTTPRequest{Format: events.FormatNDJSON}, options: &events.Options{Flatten: 1}, body: `{"u":{"n":1}}`, rows: `[{"u.n":1}]`, names: []string{"u.n"}, want: source.Answer{Total: -1}},
		{name: "rows in elements", from: events.HTTPRequest{Rows: "edges[*].node"}, body: `{"edges":[{"node":{"a":1}},{"node":{"b":2}}]}`, rows: `[{"a":1},{"b":2}]`, names: []string{"a", "b"}, want: source.Answer{Total: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := record(t, text(200, c.body, c.header...))
			if c.from.Paging == nil {
				c.from.Paging = &events.Paging{Type: events.PagingPage, PageParam: "page"}
			}
			req := form(server.URL, c.from)
			req.Options = c.options
			got, err := fetcher(t, req).Fetch(t.Context(), source.Position{Page: 1})
			require.NoError(t, err)
			defer got.Release()
			require.Equal(t, c.rows, string(got.Rows))
			require.Equal(t, c.names, got.Names)
			require.Equal(t, []any{string(c.want.Header), c.want.Total, c.want.Next}, []any{string(got.Header), got.Total, got.Next})
			n, err := rows.Check(got.Rows, rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, n, got.RowCount)
		})
	}
}

func TestFormatsThatDoNotFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, format, contentType, body, want string
		attempts                              int
	}{
		{"ndjson", events.FormatNDJSON, "", "{\"a\":1}\n{\"a\":", "truncated", 2},
		{"csv", events.FormatCSV, "", "a,b\n1\n", "line 2", 1},
		{"an unknown charset", events.FormatCSV, "text/csv; charset=latin1", "a\n1\n", `charset "latin1" is not supported; supported: utf-8, gbk, gb18030`, 1},
		{"not GBK", events.FormatCSV, "text/csv; charset=gbk", "a\n\xff\xff\n", "line 2 is not gbk", 1},
		{"HTML", events.FormatCSV, "", "<html>", "the body is HTML or XML", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := record(t, text(200, c.body, "Content-Type", c.contentType))
			_, err := fetcher(t, form(server.URL, events.HTTPRequest{Format: c.format, Paging: &events.Paging{Type: events.PagingNone}})).Fetch(t.Context(), source.Position{Page: 1})
			require.ErrorContains(t, err, c.want)
			require.Equal(t, events.CodeSourceFormat, failure(t, err).Code)
			require.Equal(t, c.attempts, failure(t, err).Attempts)
		})
	}
}

// Rows that a format copies out of the body count against the limit of a page and the memory of all.
func TestCopiedRowsCount(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 1000)
	body := name + "\n" + strings.Repeat("1\n", 2000)
	server := record(t, text(200, body))
	req := form(server.URL, events.HTTPRequest{Format: events.FormatCSV, Paging: &events.Paging{Type: events.PagingNone}})
	policy := quick
	policy.MaxBodyBytes = 1 << 20
	f, err := source.New(server.Client(), req, policy)
	require.NoError(t, err)
	_, err = f.Fetch(t.Context(), source.Position{Page: 1})
	require.EqualError(t, err, "page 1: line 1043: the rows have more than 1048576 bytes (--max-page-bytes)")
	require.Equal(t, events.CodeLimitBytes, failure(t, err).Code)

	f, err = source.New(server.Client(), req, quick)
	require.NoError(t, err)
	f.Memory = source.NewMemory(4 << 20)
	for range 3 { // the first one is asked for again with enough memory
		got, err := f.Fetch(t.Context(), source.Position{Page: 1})
		require.NoError(t, err)
		require.Equal(t, 2000, got.RowCount)
		got.Release()
	}
}

// Pages whose rows are copied never share memory, also when buffers are recycled.
func TestConcurrentCopiesKeepTheirRows(t *testing.T) {
	t.Parallel()
	want := func(page string) string {
		return `[{"a.page":"p` + page + `"}` + strings.Repeat(`,{"a.page":"p`+page+`"}`, 199) + `]`
	}
	server := record(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, strings.Repeat(`{"a":{"page":"p`+r.URL.Query().Get("page")+`"}}`+"\n", 200))
	})
	req := form(server.URL, events.HTTPRequest{Format: events.FormatNDJSON, Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", Start: 1}})
	req.Options = &events.Options{Flatten: 1}
	f := fetcher(t, req)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for page := 1; page <= 25; page++ {
				got, err := f.Fetch(t.Context(), source.Position{Page: page, Size: 200})
				if err != nil || string(got.Rows) != want(fmt.Sprint(page)) {
					t.Errorf("page %d: %v", page, err)
					return
				}
				got.Release()
			}
		})
	}
	wg.Wait()
}
