package request

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

// parse checks a request whose source_http has these members beside a URL.
func parse(t *testing.T, source string) (*Checked, error) {
	t.Helper()
	return parseBody(t, `{"ext_type":"XLSX","source_http":{"url":"http://h/p",`+source+`}}`)
}

func parseBody(t *testing.T, body string) (*Checked, error) {
	t.Helper()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	return Parse(keys, events.DefaultTenant, events.SourceHTTP, xlsx, []byte(body))
}

// The event has every field that the crawler needs, so a default that changes later changes no export.
func TestFieldsInAnEventAreComplete(t *testing.T) {
	t.Parallel()
	for claim, c := range map[string]struct{ source, want string }{
		"page by defaults": {
			`"paging":{"type":"page"}`,
			`{"limit":50,"paging":{"type":"page","page_param":"page","start":1,"limit_param":"limit","end":["empty"]}}`,
		},
		"page from 0 with all fields": {
			`"method":"post","param":{"p":1},"body":{"filter":{"size":"7"}},"format":"json","rows":"$.data.list[*].doc","header_row":true,
			 "paging":{"type":"page","page_param":"query:p","start":0,"limit_param":"body:filter.size","total":"header:X-Total","total_pages":"meta['last-page']",
			 "more":"!last","end":["short","missing","repeat","short"],"estimate":true,"repeats":true},
			 "error":{"path":"code","ok":[0,"0",true,null],"message":"errors[0].msg","retry":[429],"retry_status":[409]},"max_wait":3600`,
			`{"method":"POST","param":{"p":1},"limit":7,"body":{"filter":{"size":"7"}},"rows":"$.data.list[*].doc","header_row":true,
			 "paging":{"type":"page","page_param":"query:p","limit_param":"body:filter.size","total":"header:X-Total","total_pages":"meta['last-page']",
			 "more":"!last","end":["short","missing","repeat"],"estimate":true,"repeats":true},
			 "error":{"path":"code","ok":[0,"0",true,null],"message":"errors[0].msg","retry":[429],"retry_status":[409]},"max_wait":3600}`,
		},
		"offset by defaults": {
			`"rows":"$","paging":{"type":"offset","total":"count"}`,
			`{"limit":50,"paging":{"type":"offset","offset_param":"offset","limit_param":"limit","total":"count","end":["empty"]}}`,
		},
		"offset without a size": {
			`"param":{"limit":7},"paging":{"type":"offset","offset_param":"$skip","start":20,"limit_param":null,"total":"count","end":[]}`,
			`{"param":{"limit":7},"limit":0,"paging":{"type":"offset","offset_param":"$skip","start":20,"total":"count"}}`,
		},
		"a cursor, and the first one is a number": {
			`"param":{"limit":"20"},"paging":{"type":"cursor","cursor":"row:id","cursor_param":"after","cursor_start":0}`,
			`{"param":{"limit":"20"},"limit":20,"paging":{"type":"cursor","cursor_param":"after","cursor":"row:id","cursor_start":0,"limit_param":"limit"}}`,
		},
		"a cursor in headers": {
			`"header":{"X-Size":"30"},"paging":{"type":"cursor","cursor":"header:X-Next","cursor_param":"header:X-After","limit_param":"header:x-size"}`,
			`{"header":["X-Size"],"limit":30,"paging":{"type":"cursor","cursor_param":"header:X-After","cursor":"header:X-Next","limit_param":"header:x-size"}}`,
		},
		"a POST without body sends its parameters as one": {
			`"method":"POST","param":{"page_size":9},"paging":{"type":"cursor","cursor":"next","cursor_param":"body:start","limit_param":"body:page_size"}`,
			`{"method":"POST","param":{"page_size":9},"limit":9,"paging":{"type":"cursor","cursor_param":"body:start","cursor":"next","limit_param":"body:page_size"}}`,
		},
		"next_url": {
			`"param":{"limit":5},"paging":{"type":"next_url","next_url":"['@odata.nextLink']","hosts":["API.example","北京.example","::1","[::2]","10.0.0.1","my_host"]}`,
			`{"param":{"limit":5},"limit":0,"paging":{"type":"next_url","next_url":"['@odata.nextLink']","hosts":["api.example","xn--1lq90i.example","::1","::2","10.0.0.1","my_host"]}}`,
		},
		"link":   {`"paging":{"type":"link"}`, `{"limit":0,"paging":{"type":"link","rel":"next"}}`},
		"none":   {`"paging":{"type":"none","total":"n"}`, `{"limit":0,"paging":{"type":"none","total":"n"}}`},
		"CSV":    {`"format":"csv","paging":{"type":"none"}`, `{"limit":0,"format":"csv","paging":{"type":"none"}}`},
		"json":   {`"format":"json","body_type":"json","paging":{"type":"none"}`, `{"limit":0,"paging":{"type":"none"}}`},
		"a form": {`"method":"POST","body":{"a":"b","c":1},"body_type":"form","paging":{"type":"none"}`, `{"method":"POST","limit":0,"body":{"a":"b","c":1},"body_type":"form","paging":{"type":"none"}}`},
		"null is absent": {
			`"preset":null,"body":null,"rows":null,"error":null,"auth":null,"max_wait":null,"paging":{"type":"page","total":null,"end":null,"page_param":null,"start":null}`,
			`{"limit":50,"paging":{"type":"page","page_param":"page","start":1,"limit_param":"limit","end":["empty"]}}`,
		},
		"a preset": {
			`"preset":"pocketbase","param":{"perPage":500}`,
			`{"param":{"perPage":500},"limit":500,"preset":"pocketbase","rows":"items",
			 "paging":{"type":"page","page_param":"page","start":1,"limit_param":"perPage","total":"totalItems","total_pages":"totalPages","end":["empty"]}}`,
		},
		"a field beside a preset replaces that field, and null removes it": {
			`"preset":"mybatis-plus","rows":"list","paging":{"total":"count","total_pages":null,"limit_param":null},"error":{"message":null,"ok":[1]}`,
			`{"limit":0,"preset":"mybatis-plus","rows":"list","paging":{"type":"page","page_param":"current","start":1,"total":"count","end":["empty"]},
			 "error":{"path":"code","ok":[1]}}`,
		},
		"null removes error of a preset": {
			`"preset":"ruoyi","error":null`,
			`{"limit":50,"preset":"ruoyi","rows":"rows","paging":{"type":"page","page_param":"pageNum","start":1,"limit_param":"pageSize","total":"total","end":["empty"]}}`,
		},
		"another type leaves out what it has no use for": {
			`"preset":"github","param":{"per_page":100},"paging":{"type":"page","limit_param":"per_page","end":["empty"]}`,
			`{"param":{"per_page":100},"limit":100,"preset":"github","paging":{"type":"page","page_param":"page","start":1,"limit_param":"per_page","end":["empty"]}}`,
		},
		"the standard format by name":  {`"preset":"sheaf","param":{"limit":7}`, `{"param":{"limit":7},"limit":7,"preset":"sheaf"}`},
		"the standard format may wait": {`"max_wait":5`, `{"limit":50,"max_wait":5}`},
		"the standard format with another body": {
			`"method":"POST","param":{"shop":7},"body":{"filter":{}}`,
			`{"method":"POST","param":{"shop":7},"limit":50,"body":{"filter":{}},"rows":"data.data","header_row":true,
			 "paging":{"type":"page","page_param":"page","start":1,"limit_param":"limit","total":"data.pagetag.total","total_pages":"data.pagetag.total_page","end":["empty","repeat"]},
			 "error":{"path":"errcode","ok":[0],"message":"msg"}}`,
		},
		"a preset with a method and a header": {
			`"preset":"notion"`,
			`{"method":"POST","limit":50,"preset":"notion","rows":"results",
			 "paging":{"type":"cursor","cursor":"next_cursor","cursor_param":"body:start_cursor","limit_param":"body:page_size","more":"has_more"}}`,
		},
		"a preset's header does not replace the caller's": {
			`"preset":"postgrest","header":{"prefer":"count=planned","A":"b"}`,
			`{"header":["A","prefer"],"limit":50,"preset":"postgrest",
			 "paging":{"type":"offset","offset_param":"offset","limit_param":"limit","total":"header:Content-Range","end":["empty"]}}`,
		},
		"GraphQL": {
			`"preset":"graphql-relay","method":"POST","body":{"query":"q","variables":{"first":500}},"rows":"data.orders.edges[*].node",
			 "paging":{"cursor":"data.orders.pageInfo.endCursor","more":"data.orders.pageInfo.hasNextPage","total":"data.orders.totalCount"}`,
			`{"method":"POST","limit":500,"preset":"graphql-relay","body":{"query":"q","variables":{"first":500}},"rows":"data.orders.edges[*].node",
			 "paging":{"type":"cursor","cursor_param":"body:variables.after","limit_param":"body:variables.first","cursor":"data.orders.pageInfo.endCursor",
			 "more":"data.orders.pageInfo.hasNextPage","total":"data.orders.totalCount"},"error":{"path":"errors","message":"errors[0].message"}}`,
		},
	} {
		s, err := parse(t, c.source)
		require.NoError(t, err, claim)
		want := map[string]any{"url": "http://h/p", "method": "GET", "conn": 8.0}
		require.NoError(t, json.Unmarshal([]byte(c.want), &want), claim)
		wanted, err := json.Marshal(want)
		require.NoError(t, err)
		got, err := json.Marshal(s.Request.HTTP)
		require.NoError(t, err)
		require.JSONEq(t, string(wanted), string(got), claim)
		require.Equal(t, []string{events.NeedSource}, s.Request.Needs, claim)
		require.Empty(t, s.Request.Warnings, claim)
	}
}

// Every message begins with the field and says what would be right.
func TestDeclaredSourcesThatAreRefused(t *testing.T) {
	t.Parallel()
	page := `"paging":{"type":"page",`
	cursor := `"paging":{"type":"cursor","cursor":"next",`
	for source, want := range map[string]string{
		// Names.
		`"paging":{"typ":"page"}`:                     `source_http.paging.typ is not known; known: type, page_param, offset_param, start, limit_param, cursor_param, cursor, cursor_start, next_url, rel, total, total_pages, more, end, estimate, hosts, repeats`,
		`"paging":{"typ":null}`:                       `source_http.paging.typ is not known; known: type, `,
		`"preset":"larvel"`:                           `source_http.preset: "larvel" is not known; laravel?`,
		`"preset":"xxxxxxxx"`:                         `source_http.preset: "xxxxxxxx" is not known; known: sheaf, pocketbase, drf, `,
		`"preset":7`:                                  `source_http.preset: must be a string, not a number`,
		`"paging":{"type":"curser"}`:                  `source_http.paging.type: "curser" is not known; cursor?`,
		`"paging":{"type":"auto"}`:                    `source_http.paging.type: "auto" is not known; known: page, offset, cursor, next_url, link, none`,
		`"paging":{"type":7}`:                         `source_http.paging.type: must be a string, not a number`,
		`"paging":{}`:                                 `source_http.paging.type is required; one of page, offset, cursor, next_url, link, none`,
		`"paging":"page"`:                             `source_http.paging: must be a JSON object, not a string`,
		`"preset":"drf","paging":"page"`:              `source_http.paging: must be a JSON object, not a string`,
		`"error":{"pfad":"code"},"preset":"ruoyi"`:    `source_http.error.pfad is not known; known: path, ok, message, retry, retry_status`,
		`"error":{"pfad":"code"}`:                     `source_http.error.pfad is not known; known: path, ok, message, retry, retry_status`,
		`"error":[]`:                                  `source_http.error: must be a JSON object, not an array`,
		`"format":"xml","paging":{"type":"none"}`:     `source_http.format: "xml" is not known; known: json, ndjson, csv, tsv`,
		`"body_type":"from","paging":{"type":"none"}`: `source_http.body_type: "from" is not known; form?`,
		page + `"end":["emtpy"]}`:                     `source_http.paging.end: "emtpy" is not known; empty?`,
		page + `"end":"empty"}`:                       `source_http.paging.end: must be an array, not a string`,
		`"header_row":"yes","paging":{"type":"none"}`: `source_http.header_row: must be true or false, not a string`,
		page + `"estimate":1,"total":"n"}`:            `source_http.paging.estimate: must be true or false, not a number`,
		// Paths.
		`"rows":"data..list","paging":{"type":"none"}`:       `source_http.rows: "data..list" at 6: ".." is not supported; write each step`,
		`"rows":"","paging":{"type":"none"}`:                 `source_http.rows: is empty; $ is the whole answer`,
		`"rows":["data"],"paging":{"type":"none"}`:           `source_http.rows: must be a string, not an array`,
		`"rows":"a[*].b[*]","paging":{"type":"none"}`:        `source_http.rows: "a[*].b[*]" at `,
		page + `"total":"a[*]"}`:                             `source_http.paging.total: "a[*]" at `,
		page + `"total":"a[-1]"}`:                            `source_http.paging.total: "a[-1]" at `,
		page + `"total":"$"}`:                                `source_http.paging.total: $ is the whole answer and cannot be a total`,
		page + `"total":""}`:                                 `source_http.paging.total: "" at `,
		page + `"more":"!"}`:                                 `source_http.paging.more: "" at `,
		page + `"total":"` + strings.Repeat("a", 513) + `"}`: `source_http.paging.total: `,
		`"error":{"path":"a..b"}`:                            `source_http.error.path: "a..b" at 3`,
		`"error":{"path":"a","message":"b[1:2]"}`:            `source_http.error.message: "b[1:2]" at `,
		// Missing or useless.
		`"paging":{"type":"cursor","cursor_param":"c"}`:            `source_http.paging.cursor is required with type cursor`,
		`"paging":{"type":"cursor","cursor":"c"}`:                  `source_http.paging.cursor_param is required with type cursor`,
		`"paging":{"type":"next_url"}`:                             `source_http.paging.next_url is required with type next_url`,
		cursor + `"cursor_param":"c","page_param":"p"}`:            `source_http.paging.page_param has no meaning with type cursor`,
		cursor + `"cursor_param":"c","start":0}`:                   `source_http.paging.start has no meaning with type cursor`,
		cursor + `"cursor_param":"c","total_pages":"n"}`:           `source_http.paging.total_pages has no meaning with type cursor`,
		`"paging":{"type":"link","next_url":"n"}`:                  `source_http.paging.next_url has no meaning with type link`,
		`"paging":{"type":"link","limit_param":"n"}`:               `source_http.paging.limit_param has no meaning with type link`,
		`"paging":{"type":"next_url","next_url":"n","rel":"next"}`: `source_http.paging.rel has no meaning with type next_url`,
		page + `"hosts":["h"]}`:                                    `source_http.paging.hosts has no meaning with type page`,
		page + `"offset_param":"o"}`:                               `source_http.paging.offset_param has no meaning with type page`,
		`"paging":{"type":"none","end":["empty"]}`:                 `source_http.paging.end has no meaning with type none`,
		page + `"estimate":true}`:                                  `source_http.paging.estimate needs total`,
		`"rows":"data"`:                                            `source_http.paging is required with source_http.rows; or give a preset`,
		`"format":"csv"`:                                           `source_http.paging is required with source_http.format; or give a preset`,
		`"preset":"drf","paging":null`:                             `source_http.paging is required`,
		`"preset":"sheaf","paging":null`:                           `source_http.paging is required`,
		`"preset":"graphql-relay","body":{}`:                       `source_http.rows is required with preset graphql-relay; a preview finds it`,
		`"preset":"graphql-relay","rows":"d"`:                      `source_http.body is required with preset graphql-relay`,
		`"preset":"graphql-relay","rows":"d","body":{}`:            `source_http.paging.cursor is required with type cursor`,
		`"preset":"slack"`:                                         `source_http.rows is required with preset slack; a preview finds it`,
		// Places.
		page + `"total":"row:id"}`:                                             `source_http.paging.total: row: cannot hold a total`,
		page + `"total_pages":"row:id"}`:                                       `source_http.paging.total_pages: row: cannot hold a number of pages`,
		page + `"more":"row:id"}`:                                              `source_http.paging.more: row: cannot hold a boolean`,
		page + `"more":"!row:id"}`:                                             `source_http.paging.more: row: cannot hold a boolean`,
		`"paging":{"type":"next_url","next_url":"row:id"}`:                     `source_http.paging.next_url: row: cannot hold a next URL`,
		`"paging":{"type":"cursor","cursor":"row:a..b","cursor_param":"c"}`:    `source_http.paging.cursor: "a..b" at 3`,
		page + `"total":"body:n"}`:                                             `source_http.paging.total: body: is only written; in an answer give the path alone, or header:Name`,
		page + `"total":"query:n"}`:                                            `source_http.paging.total: query: is only written; `,
		page + `"total":"header:a b"}`:                                         `source_http.paging.total: "a b" is not a header name; want letters, digits and -`,
		page + `"page_param":"row:id"}`:                                        `source_http.paging.page_param: row: is only read; give the name of a parameter, header:Name, body:path or query:name`,
		page + `"page_param":""}`:                                              `source_http.paging.page_param: names no parameter`,
		page + `"page_param":"query:"}`:                                        `source_http.paging.page_param: names no parameter`,
		page + `"page_param":"header:Content-Length"}`:                         `source_http.paging.page_param: the header content-length is set by the crawler and cannot be a place`,
		page + `"page_param":"p","limit_param":"p"}`:                           `source_http.paging.limit_param: "p" is written by another field of paging already`,
		page + `"page_param":"p","limit_param":"query:p"}`:                     `source_http.paging.limit_param: "query:p" is written by another field of paging already`,
		page + `"page_param":"limit"}`:                                         `source_http.paging.limit_param: "limit" is written by another field of paging already`,
		`"method":"POST",` + page + `"page_param":"p","limit_param":"body:p"}`: `source_http.paging.limit_param: "body:p" is written by another field of paging already`,
		cursor + `"cursor_param":"body:after"}`:                                `source_http.paging.cursor_param: body: needs method POST`,
		`"method":"POST","body":{"variables":"x"},` + cursor + `"cursor_param":"body:variables.after"}`: `source_http.paging.cursor_param: body:variables.after goes through variables, which is text`,
		`"method":"POST","body":{"v":{"w":null}},` + cursor + `"cursor_param":"body:v.w.after"}`:        `source_http.paging.cursor_param: body:v.w.after goes through w, which is null`,
		`"method":"POST","param":{"v":[1]},` + cursor + `"cursor_param":"body:v.after"}`:                `source_http.paging.cursor_param: body:v.after goes through v, which is an array`,
		`"method":"POST","body":[1],` + cursor + `"cursor_param":"body:after"}`:                         `source_http.paging.cursor_param: body:after goes through the body, which is an array`,
		`"method":"POST","body":{},` + cursor + `"cursor_param":"body:a[0].b"}`:                         `source_http.paging.cursor_param: body:a[0].b has an index; only names can be written`,
		`"method":"POST","body":{},` + cursor + `"cursor_param":"body:$"}`:                              `source_http.paging.cursor_param: body:$ is the whole body; give the path of a value in it`,
		`"method":"POST","body":{},` + cursor + `"cursor_param":"body:a..b"}`:                           `source_http.paging.cursor_param: "a..b" at 3`,
		`"method":"POST","body":{"a":"b"},"body_type":"form",` + cursor + `"cursor_param":"body:c.d"}`:  `source_http.paging.cursor_param: body:c.d has 2 steps; a form is flat`,
		// Values.
		page + `"start":-1}`:                                                          `source_http.paging.start: is -1; want an integer from 0 to `,
		page + `"start":"1"}`:                                                         `source_http.paging.start: must be an integer from 0 to `,
		`"param":{"limit":10001},` + page + `"total":"n"}`:                            `source_http.param.limit: is 10001; want an integer from 1 to 10000`,
		`"param":{"size":0},` + page + `"limit_param":"size"}`:                        `source_http.param.size: is 0; want an integer from 1 to 10000`,
		`"param":{"size":"many"},` + page + `"limit_param":"query:size"}`:             `source_http.param.size: must be an integer from 1 to 10000`,
		`"method":"POST","body":{"a":{"n":{}}},` + page + `"limit_param":"body:a.n"}`: `source_http.body.a.n: must be an integer from 1 to 10000, not an object`,
		`"header":{"X-Size":"x"},` + page + `"limit_param":"header:X-Size"}`:          `source_http.header["X-Size"]: must be an integer from 1 to 10000`,
		cursor + `"cursor_param":"c","cursor_start":{}}`:                              `source_http.paging.cursor_start: must be text or a number, not an object`,
		`"paging":{"type":"link","rel":"a b"}`:                                        `source_http.paging.rel: "a b" is no relation type; want one such as next`,
		`"paging":{"type":"link","hosts":["https://h"]}`:                              `source_http.paging.hosts[0]: "https://h" is no host name; want one such as api.example, without scheme and port`,
		`"paging":{"type":"link","hosts":["h","h:80"]}`:                               `source_http.paging.hosts[1]: "h:80" is no host name`,
		`"paging":{"type":"link","hosts":["*.h"]}`:                                    `source_http.paging.hosts[0]: "*.h" is no host name`,
		`"paging":{"type":"link","hosts":[""]}`:                                       `source_http.paging.hosts[0]: "" is no host name`,
		`"paging":{"type":"link","hosts":"h"}`:                                        `source_http.paging.hosts: must be an array, not a string`,
		`"max_wait":0`:                                                                `source_http.max_wait: is 0; want an integer from 1 to 3600`,
		`"max_wait":3601`:                                                             `source_http.max_wait: is 3601; want an integer from 1 to 3600`,
		`"max_wait":"60"`:                                                             `source_http.max_wait: must be an integer from 1 to 3600, not a string`,
		// The end.
		page + `"end":[]}`: `source_http.paging: end [] and nothing announced: the list would have no end`,
		page + `"end":[],"total":"n","estimate":true}`:    `source_http.paging: end [] and nothing announced: the list would have no end`,
		`"paging":{"type":"offset","end":[]}`:             `source_http.paging: end [] and nothing announced: the list would have no end`,
		`"preset":"drf","paging":{"total":null,"end":[]}`: `source_http.paging: end [] and nothing announced: the list would have no end`,
		// Bodies and formats.
		`"body":{},"paging":{"type":"none"}`:                                            `source_http.body needs method POST`,
		`"body":{},"preset":"drf"`:                                                      `source_http.body needs method POST`,
		`"method":"POST","body_type":"form","paging":{"type":"none"}`:                   `source_http.body is required with body_type form`,
		`"method":"POST","body":{"a":{}},"body_type":"form","paging":{"type":"none"}`:   `source_http.body.a: is an object; with body_type form, it must be text, a number or a boolean`,
		`"method":"POST","body":{"a":null},"body_type":"form","paging":{"type":"none"}`: `source_http.body.a: is null; with body_type form, it must be text, a number or a boolean`,
		`"method":"POST","body":[],"body_type":"form","paging":{"type":"none"}`:         `source_http.body: is an array; with body_type form, it must be an object of text, numbers and booleans`,
		`"format":"csv","rows":"data","paging":{"type":"none"}`:                         `source_http.rows has no meaning with format csv: each line is a row`,
		`"format":"ndjson","rows":"data","paging":{"type":"none"}`:                      `source_http.rows has no meaning with format ndjson: each line is a row`,
		`"format":"csv","paging":{"type":"none","total":"n"}`:                           `source_http.paging.total: "n" is a path, and an answer in csv has none; give header:Name`,
		`"format":"tsv",` + cursor + `"cursor_param":"c"}`:                              `source_http.paging.cursor: "next" is a path, and an answer in tsv has none; give header:Name`,
		`"format":"csv","header_row":true,"paging":{"type":"none"}`:                     `source_http.header_row has no meaning with format csv: the first line is always the header`,
		`"format":"csv","error":{"path":"code"},"paging":{"type":"none"}`:               `source_http.error.path has no meaning with format csv`,
		// Errors of the source.
		`"error":{"ok":[0]},` + page + `"total":"n"}`:        `source_http.error.path is required with ok`,
		`"error":{"retry":[0]},` + page + `"total":"n"}`:     `source_http.error.path is required with retry`,
		`"error":{"message":"msg"},` + page + `"total":"n"}`: `source_http.error.path is required with message`,
		`"error":{"path":"c","ok":[]}`:                       `source_http.error.ok: is empty: every answer would be a failure`,
		`"error":{"path":"c","ok":0}`:                        `source_http.error.ok: must be an array, not a number`,
		`"error":{"path":"c","ok":[{}]}`:                     `source_http.error.ok[0]: is an object; want text, a number, a boolean or null`,
		`"error":{"retry_status":[200]}`:                     `source_http.error.retry_status[0]: is 200; want an integer from 400 to 599`,
		// Secrets.
		`"param":{"p":1},"secret_param":["p"],` + page + `"page_param":"p"}`:                                  `source_http.secret_param: "p" is the crawler's and no secret`,
		`"method":"POST","param":{"v":{"a":1}},"secret_param":["v"],` + cursor + `"cursor_param":"body:v.a"}`: `source_http.secret_param: "v" is the crawler's and no secret`,
		`"header":{"X-Token":"…"},` + page + `"total":"n"}`:                                                   `source_http.header["X-Token"]: is "…", which stands for a secret that is not shown; give the secret`,
		`"param":{"token":"…"},"secret_param":["token"],` + page + `"total":"n"}`:                             `source_http.param.token: is "…", which stands for a secret that is not shown; give the secret`,
	} {
		_, err := parse(t, source)
		var e *Error
		require.ErrorAs(t, err, &e, source)
		require.True(t, strings.HasPrefix(e.Msg, want), "%s\n got %s\nwant %s", source, e.Msg, want)
		require.True(t, strings.HasPrefix(e.Msg, e.Field), "%s: %s", source, e.Field)
		require.False(t, e.TooLarge)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	body := func(source, options string) string {
		return `{"ext_type":"XLSX","source_http":{"url":"http://h/p"` + source + `},"options":` + options + `}`
	}
	declared, csv := `,"paging":{"type":"none"}`, `,"format":"csv","paging":{"type":"none"}`
	for _, c := range []struct {
		source, options string
		want            *events.Options
		refused         string
	}{
		{declared, `{}`, nil, ""},
		{declared, `null`, nil, ""},
		{"", `{"flatten":0}`, nil, ""},
		{declared, `{"flatten":5}`, &events.Options{Flatten: 5}, ""},
		{csv, `{"source_charset":"gbk"}`, &events.Options{SourceCharset: "gbk"}, ""},
		{declared, `{"flatten":6}`, nil, "options.flatten: is 6; want an integer from 0 to 5"},
		{declared, `{"flaten":1}`, nil, "options.flaten is not known; known: flatten, source_charset, timezone, source_timezone, max_rows, zip, manifest, keep_pages, csv, json, reproducible; did you mean flatten?"},
		{declared, `[]`, nil, "options: must be a JSON object, not an array"},
		{"", `{"flatten":1}`, nil, "options.flatten has no meaning with a header row, which names the columns"},
		{declared + `,"header_row":true`, `{"flatten":1}`, nil, "options.flatten has no meaning with a header row, which names the columns"},
		{csv, `{"source_charset":"utf8"}`, nil, `options.source_charset: "utf8" is not known; utf-8?`},
		{declared, `{"source_charset":"gbk"}`, nil, "options.source_charset needs source_http.format csv or tsv"},
	} {
		s, err := parseBody(t, body(c.source, c.options))
		if c.refused != "" {
			require.EqualError(t, err, c.refused, "%s %s", c.source, c.options)
			continue
		}
		require.NoError(t, err, "%s %s", c.source, c.options)
		require.Equal(t, c.want, s.Request.Options, "%s %s", c.source, c.options)
		require.Empty(t, s.Request.Warnings)
	}
}

// A request that has none of the fields that describe a form is what it was before they existed.
func TestRequestsInTheStandardFormatAreAsBefore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ source, event string }{
		{`"param":{"limit":"7","a":1.0},"header":{"B":"c"},"conn":3,"method":"post"`,
			`{"url":"http://h/p","method":"POST","param":{"limit":"7","a":1.0},"limit":7,"conn":3,"header":["B"]}`},
		{`"param":{"token":"x","perPage":99999,"size":{}},"secret_param":["token"]`,
			`{"url":"http://h/p","method":"GET","param":{"perPage":99999,"size":{}},"limit":50,"conn":8,"secret_param":["token"]}`},
		{`"param":null,"header":{"Authorization":"…"}`, `{"url":"http://h/p","method":"GET","limit":50,"conn":8,"header":["Authorization"]}`},
	} {
		s, err := parse(t, c.source)
		require.NoError(t, err)
		got, err := json.Marshal(s.Request)
		require.NoError(t, err)
		require.Equal(t, `{"timestamp":0,"ext_type":"XLSX","title":"","user_id":"","source_type":"http","source_http":`+c.event+`}`, string(got))
	}
	for source, want := range map[string]string{
		`"param":{"limit":0}`:                        `source_http.param.limit: is 0; want an integer from 1 to 10000`,
		`"param":{"page":1},"secret_param":["page"]`: `source_http.secret_param: "page" is the crawler's and no secret`,
	} {
		_, err := parse(t, source)
		require.EqualError(t, err, want)
	}
	// Keys made by the release before.
	for body, key := range map[string]string{
		`{"ext_type":"XLSX","title":"t","source_http":{"url":"http://h/p","param":{"limit":7},"header":{"A":"b"},"x":1},"columns":[]}`:                         "3463634b748e4b44cf28594f961d3e62",
		`{"ext_type":"XLSX","source_http":{"url":"http://h/p","method":"POST","param":{"a":1.50},"secret_param":["a"],"conn":2},"row_key":"id","timestamp":1}`: "962c612d87649be0f5aae1e072235a00",
	} {
		s, err := parseBody(t, body)
		require.NoError(t, err)
		require.Equal(t, key, s.Key)
		require.Nil(t, s.Request.Needs)
	}
	s, err := parseBody(t, `{"ext_type":"XLSX","source_http":{"url":"http://h/p","pagin":{}},"option":1}`)
	require.NoError(t, err)
	require.Equal(t, []string{`unknown field "option" was ignored`, `unknown field "source_http.pagin" was ignored`}, s.Request.Warnings)
}

// The key is of the request as it was received, so a preset that changes changes no key.
func TestKeyIsOfTheRequestAsReceived(t *testing.T) {
	t.Parallel()
	key := func(source string) string {
		s, err := parse(t, source)
		require.NoError(t, err)
		return s.Key
	}
	require.Equal(t, key(`"preset":"pocketbase","param":{}`), key(`"param":{}, "preset":"pocket\u0062ase"`))
	require.NotEqual(t, key(`"preset":"pocketbase"`), key(`"rows":"items","paging":{"type":"page","limit_param":"perPage","total":"totalItems","total_pages":"totalPages"}`))
	require.NotEqual(t, key(`"preset":"sheaf"`), key(`"conn":null`))
	require.NotEqual(t, key(`"auth":{"type":"bearer","token":"a"}`), key(`"auth":{"type":"bearer","token":"b"}`))
}

func TestPresetsExpand(t *testing.T) {
	t.Parallel()
	given := map[string]string{
		"graphql-relay": `,"body":{"query":"q"},"rows":"data.a.edges[*].node","paging":{"cursor":"data.a.pageInfo.endCursor"}`,
		"slack":         `,"rows":"members"`,
	}
	names := map[string]bool{}
	for _, p := range Presets() {
		require.False(t, names[p.Name], p.Name)
		names[p.Name] = true
		require.NotEmpty(t, p.About, p.Name)
		require.True(t, json.Valid(p.Source), p.Name)
		require.Equal(t, given[p.Name] != "", len(p.Given) > 0, p.Name)
		named, err := parse(t, `"preset":"`+p.Name+`"`+given[p.Name])
		require.NoError(t, err, p.Name)
		require.Equal(t, p.Name, named.Request.HTTP.Preset)
		// The fields that a preset stands for are a request of their own.
		if given[p.Name] != "" {
			_, err := parse(t, `"preset":"`+p.Name+`"`)
			require.Error(t, err, p.Name)
			continue
		}
		spelled, err := parse(t, strings.TrimSuffix(strings.TrimSpace(string(p.Source))[1:], "}"))
		require.NoError(t, err, p.Name)
		spelled.Request.HTTP.Preset = p.Name
		if p.Name == PresetStandard {
			require.Nil(t, named.Request.HTTP.Paging, "the standard format itself")
			continue
		}
		require.Equal(t, spelled.Request, named.Request, p.Name)
	}
	require.Equal(t, strings.Fields(`sheaf pocketbase drf drf-offset drf-cursor laravel laravel-resource spring spring-paged mybatis-plus ruoyi pagehelper
		ant-design odata odata2 json-api graphql-relay link github stripe notion hubspot slack feathers couchdb postgrest`), func() (list []string) {
		for _, p := range Presets() {
			list = append(list, p.Name)
		}
		return list
	}())
}

func TestAuthIsSealed(t *testing.T) {
	t.Parallel()
	for auth, want := range map[string]string{
		`{"type":"bearer","token":"k1"}`:                                                                                                     `{"token":"k1","type":"bearer"}`,
		`{"type":"basic","username":"名","password":""}`:                                                                                      `{"password":"","type":"basic","username":"名"}`,
		`{"type":"api_key","name":"X-Key","value":"k1","in":"header"}`:                                                                       `{"in":"header","name":"X-Key","type":"api_key","value":"k1"}`,
		`{"type":"api_key","name":"key","value":"k1","in":"query"}`:                                                                          `{"in":"query","name":"key","type":"api_key","value":"k1"}`,
		`{"type":"oauth2","token_url":"https://h/t","client_id":"i","client_secret":"k1"}`:                                                   `{"client_auth":"basic","client_id":"i","client_secret":"k1","token_url":"https://h/t","type":"oauth2"}`,
		`{"type":"oauth2","token_url":"https://h/t","client_id":"i","client_secret":"k1","scope":"a b","audience":"c","client_auth":"body"}`: `{"audience":"c","client_auth":"body","client_id":"i","client_secret":"k1","scope":"a b","token_url":"https://h/t","type":"oauth2"}`,
	} {
		s, err := parse(t, `"header":{"A":"b"},"auth":`+auth)
		require.NoError(t, err, auth)
		_, _, sealed := secrets.Split(s.Secrets)
		require.Equal(t, want, string(sealed))
		event, err := json.Marshal(s.Request)
		require.NoError(t, err)
		require.NotContains(t, string(event), "k1")
		require.Equal(t, []string{"A"}, s.Request.HTTP.Header)
		require.Contains(t, auth, `"type":"`+s.Request.HTTP.Auth+`"`)
		require.Nil(t, s.Request.HTTP.Paging, "the standard format")
		require.Equal(t, []string{events.NeedSource}, s.Request.Needs)
	}
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	sealed, err := secrets.SealValue(keys.SealKey(), events.DefaultTenant, "name:word")
	require.NoError(t, err)
	_, err = parse(t, `"auth":{"type":"basic","username":"`+sealed+`","password":"`+sealed+`"}`)
	require.NoError(t, err)

	for source, want := range map[string]string{
		`"auth":{}`:                                                                                                  `source_http.auth.type is required; one of bearer, basic, api_key, oauth2`,
		`"auth":"k1"`:                                                                                                `source_http.auth: must be a JSON object, not a string`,
		`"auth":{"type":"baerer"}`:                                                                                   `source_http.auth.type: "baerer" is not known; bearer?`,
		`"auth":{"type":"bearer"}`:                                                                                   `source_http.auth.token is required with type bearer`,
		`"auth":{"type":"bearer","token":""}`:                                                                        `source_http.auth.token: is empty`,
		`"auth":{"type":"bearer","token":7}`:                                                                         `source_http.auth.token: must be a string, not a number`,
		`"auth":{"type":"bearer","token":"…"}`:                                                                       `source_http.auth.token: is "…", which stands for a secret that is not shown; give the secret`,
		`"auth":{"type":"bearer","token":"k1\n"}`:                                                                    `source_http.auth.token: holds a control character, such as a line break`,
		`"auth":{"type":"bearer","token":"sealed:v1:k1"}`:                                                            `source_http.auth.token: begins like a sealed value and is none; see sheaf seal`,
		`"auth":{"type":"bearer","tokn":"k1"}`:                                                                       `source_http.auth.tokn is not known; known: type, token, username, password, name, value, in, token_url, client_id, client_secret, scope, audience, client_auth`,
		`"auth":{"type":"bearer","token":"k1","username":"u"}`:                                                       `source_http.auth.username has no meaning with type bearer`,
		`"auth":{"type":"basic","username":"u"}`:                                                                     `source_http.auth.password is required with type basic`,
		`"auth":{"type":"basic","username":"u:v","password":"k1"}`:                                                   `source_http.auth.username: must not hold a colon (RFC 7617)`,
		`"auth":{"type":"api_key","name":"X-Key","value":"k1"}`:                                                      `source_http.auth.in is required with type api_key: header or query`,
		`"auth":{"type":"api_key","name":"X-Key","value":"k1","in":"cookie"}`:                                        `source_http.auth.in: "cookie" is not known; known: header, query`,
		`"auth":{"type":"api_key","name":"X Key","value":"k1","in":"header"}`:                                        `source_http.auth.name: is not a header name; want letters, digits and -`,
		`"auth":{"type":"api_key","name":"Host","value":"k1","in":"header"}`:                                         `source_http.auth.name: is set by the crawler and cannot be given`,
		`"header":{"x-key":"a"},"auth":{"type":"api_key","name":"X-Key","value":"k1","in":"header"}`:                 `source_http.auth.name: source_http.header["x-key"] is given too; give one of them`,
		`"param":{"key":"a"},"auth":{"type":"api_key","name":"key","value":"k1","in":"query"}`:                       `source_http.auth.name: source_http.param has "key" too; give one of them`,
		`"paging":{"type":"page"},"auth":{"type":"api_key","name":"page","value":"k1","in":"query"}`:                 `source_http.auth.name: "page" is written by a field of paging already`,
		`"header":{"authorization":"a"},"auth":{"type":"bearer","token":"k1"}`:                                       `source_http.auth: source_http.header["authorization"] is given too; give one of them`,
		`"auth":{"type":"oauth2","token_url":"http://u:k1@h/","client_id":"i","client_secret":"k1"}`:                 `source_http.auth.token_url: must not hold a user name or password; give client_id and client_secret`,
		`"auth":{"type":"oauth2","client_id":"i","client_secret":"k1"}`:                                              `source_http.auth.token_url is required with type oauth2`,
		`"auth":{"type":"oauth2","token_url":"ftp://h/","client_id":"i","client_secret":"k1"}`:                       `source_http.auth.token_url: must begin with http:// or https://`,
		`"auth":{"type":"oauth2","token_url":"http://h/","client_id":"i","client_secret":"k1","client_auth":"both"}`: `source_http.auth.client_auth: "both" is not known; body?`,
	} {
		_, err := parse(t, source)
		var e *Error
		require.ErrorAs(t, err, &e, source)
		require.True(t, strings.HasPrefix(e.Msg, want), "%s\n got %s\nwant %s", source, e.Msg, want)
		require.NotContains(t, e.Msg, "k1", "no error repeats a secret")
	}
}

// The reference names each field, each of their values, and what a caller may see of an export.
func TestTheReferenceIsComplete(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../REFERENCE.md")
	require.NoError(t, err)
	values := slices.Concat(newFields, pagingNames(), errorNames, authNames(), authTypes, pagingTypes, endMarkers)
	values = append(values, "flatten", "source_charset", "ndjson", "csv", "tsv", "form", "gbk", "gb18030", PresetStandard)
	values = append(values,
		events.CodeSourceHTTP, events.CodeSourceErrcode, events.CodeSourceFormat, events.CodeSourceTimeout, events.CodeSourceUnreachable,
		events.CodeSourceIncomplete, events.CodePagingStuck, events.CodePagingLoop, events.CodeSourcePath, events.CodeSourcePaging,
		events.CodeSourceCursor, events.CodeSourceAuth, events.CodeSourceChanged, events.CodeLimitBytes, events.CodeLimitRows,
		events.CodeLimitColumns, events.CodeLimitPages, events.CodeLimitTime, events.CodeSealed, events.CodeCrashedWorker, events.CodeStore,
		events.CodeInternal, events.CodeRejected)
	for _, value := range values {
		require.Contains(t, string(text), "`"+value+"`")
	}
}

// The requests of the reference are accepted.
func TestRequestsOfTheReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../REFERENCE.md")
	require.NoError(t, err)
	_, section, _ := strings.Cut(string(text), "## Other APIs")
	section, _, _ = strings.Cut(section, "## REST")
	_, examples, _ := strings.Cut(section, "```json\n")
	examples, tables, _ := strings.Cut(examples, "```")
	bodies := strings.Split(examples, "\n\n")
	require.Len(t, bodies, 2)
	for _, body := range bodies {
		_, err := parseBody(t, strings.ReplaceAll(body, "…", "x"))
		require.NoError(t, err, body)
	}
	require.Contains(t, tables, "| `max_wait` | `600` |")
}
