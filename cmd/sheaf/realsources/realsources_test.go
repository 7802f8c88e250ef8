package realsources

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

const orders = 5000

// realSource is a server with the requests that are made of it.
type realSource struct {
	server server
	// rows asks the server itself, with a page size that no request uses.
	rows  func(t *testing.T, url string) []json.RawMessage
	cases map[string]demand
}

// demand is a source_http, with %s for the URL of the server, and the outcome of its export.
type demand struct {
	source  string
	proof   string
	warning string // a code that is expected, "" for any
	fails   string // the error code, "" for a workbook with all rows
	reason  string // a part of the reason
}

const yogaBody = `{"query":"query($first:Int,$after:String){orders(first:$first,after:$after){totalCount pageInfo{hasNextPage endCursor} edges{node{` +
	`id no user{name city} amount big status state paid created created_unix note tags}}}}","variables":{"first":%d}}`

func yoga(size int, extra string) string {
	return fmt.Sprintf(`{"url":"%%s/graphql","preset":"graphql-relay","method":"POST","body":`+yogaBody+`,"rows":"data.orders.edges[*].node",
		"paging":{"cursor":"data.orders.pageInfo.endCursor"%s}}`, size, extra)
}

var realSources = []realSource{
	{pocketbase, func(t *testing.T, url string) []json.RawMessage {
		return rowsOf(t, orders, get(t, url+"/api/collections/orders/records?sort=n&page=%d&perPage=%d", from(1), 250), "items")
	}, map[string]demand{
		"pages of 500": {source: `{"url":"%s/api/collections/orders/records","preset":"pocketbase","param":{"perPage":500,"sort":"n"}}`, proof: "total"},
		"pages of 4000 are cut to 1000": {source: `{"url":"%s/api/collections/orders/records","preset":"pocketbase","param":{"perPage":4000,"sort":"n"}}`,
			proof: "total", warning: "LIMIT_CAPPED"},
		"one request at a time": {source: `{"url":"%s/api/collections/orders/records","preset":"pocketbase","conn":1,"param":{"perPage":500,"sort":"n"}}`, proof: "total"},
		"the total is -1":       {source: `{"url":"%s/api/collections/orders/records","preset":"pocketbase","param":{"perPage":500,"sort":"n","skipTotal":1}}`, proof: "end"},
		"the total is -1 and pages are cut": {source: `{"url":"%s/api/collections/orders/records","preset":"pocketbase","param":{"perPage":4000,"sort":"n","skipTotal":1}}`,
			proof: "end"},
	}},
	{jsonServer0, func(t *testing.T, url string) []json.RawMessage {
		return rowsOf(t, orders, get(t, url+"/orders?_page=%d&_limit=%d", from(1), 250))
	}, map[string]demand{
		"Link and a total": {source: `{"url":"%s/orders","preset":"link","param":{"_page":1,"_limit":500},"paging":{"total":"header:X-Total-Count"}}`, proof: "total"},
		"Link":             {source: `{"url":"%s/orders","preset":"link","param":{"_page":1,"_limit":500}}`, proof: "end", warning: "TOTAL_MISSING"},
		"pages and a total": {source: `{"url":"%s/orders","param":{"_limit":500},
			"paging":{"type":"page","page_param":"_page","limit_param":"_limit","total":"header:X-Total-Count"}}`, proof: "total"},
		"pages, nothing announced": {source: `{"url":"%s/orders","param":{"_limit":500},"paging":{"type":"page","page_param":"_page","limit_param":"_limit"}}`,
			proof: "end", warning: "TOTAL_MISSING"},
		"an offset, nothing announced": {source: `{"url":"%s/orders","param":{"_limit":500},"paging":{"type":"offset","offset_param":"_start","limit_param":"_limit"}}`, proof: "end"},
		"the whole list is one response": {source: `{"url":"%s/orders","paging":{"type":"none"}}`,
			proof: "single", warning: "TOTAL_MISSING"},
		"the page parameter has another name": {source: `{"url":"%s/orders","param":{"_page":1,"_limit":500},
			"paging":{"type":"page","page_param":"p","limit_param":"_limit","total":"header:X-Total-Count"}}`, fails: "PAGING_STUCK", reason: `"p"`},
	}},
	{jsonServer1, func(t *testing.T, url string) []json.RawMessage {
		return rowsOf(t, orders, get(t, url+"/orders?_page=%d&_per_page=%d", from(1), 250), "data")
	}, map[string]demand{
		"items is the total": {source: `{"url":"%s/orders","rows":"data","param":{"_per_page":500},
			"paging":{"type":"page","page_param":"_page","limit_param":"_per_page","total":"items","total_pages":"pages"}}`, proof: "total"},
		"the last page is repeated for ever": {source: `{"url":"%s/orders","rows":"data","param":{"_per_page":500},
			"paging":{"type":"page","page_param":"_page","limit_param":"_per_page"}}`, fails: "PAGING_STUCK"},
		"the last page is repeated, which ends the list": {source: `{"url":"%s/orders","rows":"data","param":{"_per_page":500},
			"paging":{"type":"page","page_param":"_page","limit_param":"_per_page","end":["empty","repeat"]}}`, proof: "end", warning: "PAGE_REPEATED"},
		"next is no URL": {source: `{"url":"%s/orders","rows":"data","param":{"_page":1,"_per_page":500},
			"paging":{"type":"next_url","next_url":"next"}}`, fails: "SOURCE_PAGING", reason: "a number"},
		"items is no array": {source: `{"url":"%s/orders","rows":"items","param":{"_per_page":500},
			"paging":{"type":"page","page_param":"_page","limit_param":"_per_page"}}`, fails: "SOURCE_PATH", reason: "a number"},
	}},
	{graphqlYoga, func(t *testing.T, url string) []json.RawMessage {
		var edges []struct{ Node json.RawMessage }
		for i := range orders / 1000 {
			// Names of positions are those of graphql-relay: base64 of "arrayconnection:4999".
			after := ""
			if i > 0 {
				after = fmt.Sprintf(`"after":%q,`, base64Of(fmt.Sprintf("arrayconnection:%d", i*1000-1)))
			}
			body := strings.Replace(fmt.Sprintf(yogaBody, 1000), `"variables":{`, `"variables":{`+after, 1)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/graphql", strings.NewReader(body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json")
			for _, row := range rowsOf(t, 1000, func(int) *http.Request { return req }, "data", "orders", "edges") {
				var edge struct{ Node json.RawMessage }
				require.NoError(t, json.Unmarshal(row, &edge))
				edges = append(edges, edge)
			}
		}
		rows := make([]json.RawMessage, len(edges))
		for i, e := range edges {
			rows[i] = e.Node
		}
		return rows
	}, map[string]demand{
		"more and a total": {source: yoga(500, `,"more":"data.orders.pageInfo.hasNextPage","total":"data.orders.totalCount"`), proof: "total"},
		"more":             {source: yoga(500, `,"more":"data.orders.pageInfo.hasNextPage"`), proof: "end", warning: "TOTAL_MISSING"},
		"a failure with status 200": {source: yoga(5000, `,"more":"data.orders.pageInfo.hasNextPage","total":"data.orders.totalCount"`),
			fails: "SOURCE_ERRCODE", reason: "first is at most 1000"},
	}},
	{feathers, func(t *testing.T, url string) []json.RawMessage {
		return rowsOf(t, orders, get(t, url+"/orders?$skip=%d&$limit=%d", func(i int) int { return i * 250 }, 250), "data")
	}, map[string]demand{
		"pages of 500":                  {source: `{"url":"%s/orders","preset":"feathers","param":{"$limit":500}}`, proof: "total"},
		"pages of 4000 are cut to 1000": {source: `{"url":"%s/orders","preset":"feathers","param":{"$limit":4000}}`, proof: "total", warning: "LIMIT_CAPPED"},
		"nothing announced":             {source: `{"url":"%s/orders","preset":"feathers","param":{"$limit":500},"paging":{"total":null}}`, proof: "end"},
		"nothing announced, pages are cut": {source: `{"url":"%s/orders","preset":"feathers","param":{"$limit":4000},"paging":{"total":null}}`,
			proof: "end"},
	}},
	{drf, func(t *testing.T, url string) []json.RawMessage {
		return rowsOf(t, orders, get(t, url+"/page/?page=%d&page_size=%d", from(1), 250), "results")
	}, map[string]demand{
		"pages of 500":                          {source: `{"url":"%s/page/","preset":"drf","param":{"page_size":500}}`, proof: "total"},
		"pages of 4000 are cut to 1000":         {source: `{"url":"%s/page/","preset":"drf","param":{"page_size":4000}}`, proof: "total", warning: "LIMIT_CAPPED"},
		"404 past the end":                      {source: `{"url":"%s/page/","preset":"drf","param":{"page_size":500},"paging":{"total":null}}`, proof: "end"},
		"an offset":                             {source: `{"url":"%s/offset/","preset":"drf-offset","param":{"limit":500}}`, proof: "total"},
		"an offset, pages are cut":              {source: `{"url":"%s/offset/","preset":"drf-offset","param":{"limit":4000}}`, proof: "total", warning: "LIMIT_CAPPED"},
		"an offset, nothing announced":          {source: `{"url":"%s/offset/","preset":"drf-offset","param":{"limit":4000},"paging":{"total":null}}`, proof: "end"},
		"a next URL":                            {source: `{"url":"%s/cursor/","preset":"drf-cursor","param":{"page_size":500}}`, proof: "end", warning: "TOTAL_MISSING"},
		"a next URL, pages are cut":             {source: `{"url":"%s/cursor/","preset":"drf-cursor","param":{"page_size":4000}}`, proof: "end"},
		"a next URL and a total":                {source: `{"url":"%s/page/","rows":"results","param":{"page_size":500},"paging":{"type":"next_url","next_url":"next","total":"count"}}`, proof: "total"},
		"a page past the end is no end by 404":  {source: `{"url":"%s/page/","rows":"results","param":{"page_size":500},"paging":{"type":"page","limit_param":"page_size"}}`, fails: "SOURCE_HTTP"},
		"a path that finds nothing is reported": {source: `{"url":"%s/page/","rows":"items","paging":{"type":"page"}}`, fails: "SOURCE_PATH", reason: "results"},
	}},
}

// Every server of another project is exported whole, whatever describes it, and also as its preview proposes.
func TestRealServersAreExportedWhole(t *testing.T) {
	eventstest.LongRunning(t)
	t.Parallel()
	sheaf := startSheaf(t)
	for _, source := range realSources {
		t.Run(source.server.folder, func(t *testing.T) {
			url := source.server.start(t)
			rows := source.rows(t, url)
			require.Len(t, rows, orders)
			for _, c := range previews[source.server.folder] {
				t.Run("preview of "+c.source, func(t *testing.T) {
					t.Parallel()
					c.requireWhole(t, sheaf, url, rows)
				})
			}
			for name, c := range source.cases {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					o := sheaf.export(t, []byte(strings.Replace(c.source, "%s", url, 1)))
					if c.fails != "" {
						require.Equal(t, failed, o.Status)
						require.Equal(t, c.fails, o.ErrorCode, o.FailReason)
						require.Contains(t, o.FailReason, c.reason)
						return
					}
					require.Equal(t, completed, o.Status, "%s: %s", o.ErrorCode, o.FailReason)
					require.Equal(t, c.proof, o.Proof.Kind)
					require.True(t, c.warning == "" || o.warned(c.warning), "no warning %s in %v", c.warning, o.Warnings)
					requireRows(t, rows, sheaf.cells(t, o))
				})
			}
		})
	}
}
