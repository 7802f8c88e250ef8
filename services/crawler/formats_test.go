package crawler

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// What a format cannot hold ends a crawl with the page that shows it, not after the last one.
func TestFormatsLimitACrawl(t *testing.T) {
	t.Parallel()
	paging := styles()["page"]
	paging.Total = "total"
	wide := func(w http.ResponseWriter, _ *http.Request) { // the columns are the names of the rows
		row := strings.Builder{}
		for i := range 4097 {
			fmt.Fprintf(&row, `,"c%d":%[1]d`, i)
		}
		fmt.Fprintf(w, `{"total":3,"items":[{%s}]}`, row.String()[1:])
	}
	titled := func(w http.ResponseWriter, _ *http.Request) { // the header is the first row
		row := strings.Builder{}
		for i := range 4097 {
			fmt.Fprintf(&row, `,"c%d":"C%[1]d"`, i)
		}
		fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"data":[{%s},{"c1":1}],"pagetag":{"page":1,"limit":1,"total":3,"total_page":3}}}`, row.String()[1:])
	}
	long := func(announced string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			items := make([]string, 300)
			for i := range items {
				items[i] = fmt.Sprintf(`{"id":"%s-%d"}`, r.URL.Query().Get("page"), i)
			}
			fmt.Fprintf(w, `{%s"items":[%s]}`, announced, strings.Join(items, ","))
		}
	}
	declared := &events.HTTPRequest{Method: http.MethodGet, Limit: 10, Conn: 1, Rows: "items", Paging: paging}
	untotalled := &events.HTTPRequest{Method: http.MethodGet, Limit: 10, Conn: 1, Rows: "items", Paging: styles()["page"]}
	standard := &events.HTTPRequest{Method: http.MethodGet, Limit: 10, Conn: 1}
	for name, c := range map[string]struct {
		source  http.HandlerFunc
		http    *events.HTTPRequest
		request events.Request
		code    string
		reason  string
		asked   int
	}{
		"names of rows": {wide, declared, events.Request{ExtType: "CSV,Parquet"}, events.CodeLimitColumns,
			"the rows up to here have more than 4096 different names (the most that PARQUET holds; choose fewer in columns)", 1},
		"a header": {titled, standard, events.Request{ExtType: "parquet"}, events.CodeLimitColumns,
			"there are 4097 columns, but PARQUET holds at most 4096; choose fewer in columns", 1},
		"a total": {long(`"total":5000,`), declared, events.Request{ExtType: "CSV,XLSX", Options: &events.Options{MaxRows: 9}},
			events.CodeLimitRows, "options.max_rows is too low for 5000 rows: an export may have 1000 files", 1},
		"no total": {long(``), untotalled, events.Request{ExtType: "CSV", Options: &events.Options{MaxRows: 1}},
			events.CodeLimitRows, "options.max_rows is too low for 1200 rows: an export may have 1000 files", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				c.source(w, r)
			}))
			t.Cleanup(server.Close)
			from := *c.http
			from.URL = server.URL
			c.request.SourceType, c.request.HTTP = events.SourceHTTP, &from
			x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
				return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: c.request}, nil
			})
			require.NoError(t, err)
			start(t, s, http.DefaultClient, Config{})
			f := failure(t, s, x)
			require.Equal(t, c.code, f.Code)
			require.Contains(t, f.Reason, c.reason)
			require.Equal(t, c.asked, f.Page)
			server.Close() // waits for the last answer
			require.LessOrEqual(t, asked, c.asked+1)
		})
	}
}

// Columns that are chosen are few, whatever the names of the rows.
func TestChosenColumnsFitAFormat(t *testing.T) {
	t.Parallel()
	require.Equal(t, 4096, fewestColumns(&events.Request{ExtType: "xlsx,csv,parquet"}).MaxColumns)
	require.Equal(t, 16_384, fewestColumns(&events.Request{ExtType: "CSV,XLSX"}).MaxColumns)
	require.Zero(t, fewestColumns(&events.Request{ExtType: "CSV"}).MaxColumns)
	require.Zero(t, fewestColumns(&events.Request{ExtType: "PARQUET", Columns: []events.Column{{Key: "a"}}}).MaxColumns)
}
