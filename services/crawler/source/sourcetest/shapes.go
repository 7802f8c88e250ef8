package sourcetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"sheaf/events"
)

// Shape is the form of a list API: how a request names a page, and how the response holds its rows and what
// it announces. Each is as the servers of its kind answer.
type Shape struct {
	Name   string // of the preset that describes it
	Paging string // one of the Paging constants of package events
	Total  bool   // announces the number of rows
	Pages  bool   // announces the number of pages
	More   bool   // announces whether a page follows
	Errors bool   // reports failures in the body, with status 200

	fields  string // members of source_http besides url and the size
	size    string // place of the page size: a query parameter, "body:path" or "header:Prefer"
	place   string // place of the page: a query parameter or "body:path"
	base    int    // the number of the first page, with PagingPage
	postsIt bool
	answer  func(p *page) string
}

// SourceHTTP returns the member source_http of a request for a list of this form, with a page size.
func (s Shape) SourceHTTP(url string, size int) json.RawMessage {
	fields := map[string]any{}
	_ = json.Unmarshal([]byte(s.fields), &fields)
	fields["url"] = url
	in := "param"
	switch {
	case s.size == "header:Prefer":
		fields["header"] = map[string]any{"Prefer": fmt.Sprintf("odata.maxpagesize=%d", size)}
	case strings.HasPrefix(s.size, "body:"):
		in = "body"
		fallthrough
	default:
		at, ok := fields[in].(map[string]any)
		if !ok {
			at = map[string]any{}
			fields[in] = at
		}
		steps := strings.Split(strings.TrimPrefix(s.size, "body:"), ".")
		for _, step := range steps[:len(steps)-1] {
			inner, ok := at[step].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[step] = inner
			}
			at = inner
		}
		at[steps[len(steps)-1]] = size
	}
	b, _ := json.Marshal(fields)
	return b
}

// page is what a response holds, before it has its form. Numbers are JSON.
type page struct {
	rows         []string // JSON objects
	first        int      // rows of the list before the page
	number, size int
	total, pages string
	more         bool
	next         string // token of the next page, "" for none
	url          string // of the next page, "" for none
	header       http.Header
}

func (p *page) array() string { return "[" + strings.Join(p.rows, ",") + "]" }

// orNull returns a JSON string, null for "".
func orNull(s string) string {
	if s == "" {
		return "null"
	}
	b, _ := json.Marshal(s)
	return string(b)
}

// slashed is a JSON string as PHP writes it.
func slashed(s string) string { return strings.ReplaceAll(orNull(s), "/", `\/`) }

// ShapeOf returns the shape of a preset. Without one it has no name, and NewList fails the test.
func ShapeOf(preset string) Shape {
	for _, s := range Shapes() {
		if s.Name == preset {
			return s
		}
	}
	return Shape{}
}

// Shapes returns a shape for each preset.
func Shapes() []Shape {
	const (
		number = events.PagingPage
		offset = events.PagingOffset
		cursor = events.PagingCursor
		next   = events.PagingNextURL
		link   = events.PagingLink
	)
	return []Shape{
		{Name: "sheaf", Paging: number, Total: true, Pages: true, Errors: true, fields: `{}`, size: "limit", place: "page", base: 1,
			answer: func(p *page) string {
				rows := append([]string{`{"id":"id","n":"n","name":"name","amount":"amount"}`}, p.rows...)
				return fmt.Sprintf(`{"errcode":0,"msg":"","data":{"data":[%s],"pagetag":{"page":%d,"limit":%d,"total":%s,"total_page":%s}},"request_id":"r"}`,
					strings.Join(rows, ","), p.number, p.size, p.total, p.pages)
			}},
		{Name: "pocketbase", Paging: number, Total: true, Pages: true, fields: `{"preset":"pocketbase"}`, size: "perPage", place: "page", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"items":%s,"page":%d,"perPage":%d,"totalItems":%s,"totalPages":%s}`, p.array(), p.number, p.size, p.total, p.pages)
			}},
		{Name: "drf", Paging: number, Total: true, fields: `{"preset":"drf"}`, size: "page_size", place: "page", base: 1, answer: drf},
		{Name: "drf-offset", Paging: offset, Total: true, fields: `{"preset":"drf-offset"}`, size: "limit", place: "offset", answer: drf},
		{Name: "drf-cursor", Paging: next, fields: `{"preset":"drf-cursor"}`, size: "page_size", place: "cursor",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"next":%s,"previous":null,"results":%s}`, orNull(p.url), p.array())
			}},
		{Name: "laravel", Paging: number, Total: true, Pages: true, fields: `{"preset":"laravel"}`, size: "per_page", place: "page", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"current_page":%d,"data":%s,"from":%d,"last_page":%s,"links":[{"url":null,"label":"&laquo; Previous","active":false},`+
					`{"url":%s,"label":"Next &raquo;","active":false}],"next_page_url":%s,"per_page":%d,"prev_page_url":null,"to":%d,"total":%s}`,
					p.number, p.array(), p.first+1, p.pages, slashed(p.url), slashed(p.url), p.size, p.first+len(p.rows), p.total)
			}},
		{Name: "laravel-resource", Paging: number, Total: true, Pages: true, fields: `{"preset":"laravel-resource"}`, size: "per_page", place: "page", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"data":%s,"links":{"first":null,"next":%s},"meta":{"current_page":%d,"last_page":%s,"links":[{"url":null,"label":"1","active":true}],"per_page":%d,"total":%s}}`,
					p.array(), slashed(p.url), p.number, p.pages, p.size, p.total)
			}},
		{Name: "spring", Paging: number, Total: true, Pages: true, More: true, fields: `{"preset":"spring","param":{"sort":"id"}}`, size: "size", place: "page",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"content":%s,"pageable":{"pageNumber":%d,"pageSize":%d,"sort":{"sorted":true},"offset":%d,"paged":true},"last":%t,"totalElements":%s,"totalPages":%s,`+
					`"size":%d,"number":%d,"numberOfElements":%d,"first":%t,"empty":%t}`,
					p.array(), p.number, p.size, p.first, !p.more, p.total, p.pages, p.size, p.number, len(p.rows), p.first == 0, len(p.rows) == 0)
			}},
		{Name: "spring-paged", Paging: number, Total: true, Pages: true, fields: `{"preset":"spring-paged"}`, size: "size", place: "page",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"content":%s,"page":{"size":%d,"number":%d,"totalElements":%s,"totalPages":%s}}`, p.array(), p.size, p.number, p.total, p.pages)
			}},
		{Name: "mybatis-plus", Paging: number, Total: true, Pages: true, Errors: true, fields: `{"preset":"mybatis-plus"}`, size: "size", place: "current", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"code":200,"msg":"操作成功","data":{"records":%s,"total":%s,"size":%d,"current":%d,"orders":[],"optimizeCountSql":true,"searchCount":true,"pages":%s}}`,
					p.array(), p.total, p.size, p.number, p.pages)
			}},
		{Name: "ruoyi", Paging: number, Total: true, Errors: true, fields: `{"preset":"ruoyi"}`, size: "pageSize", place: "pageNum", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"total":%s,"rows":%s,"code":200,"msg":"查询成功"}`, p.total, p.array())
			}},
		{Name: "pagehelper", Paging: number, Total: true, Pages: true, Errors: true, fields: `{"preset":"pagehelper"}`, size: "pageSize", place: "pageNum", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"code":0,"msg":"ok","data":{"total":%s,"list":%s,"pageNum":%d,"pageSize":%d,"size":%d,"startRow":%d,"pages":%s,"isLastPage":%t,"hasNextPage":%t,"navigatepageNums":[1,2,3]}}`,
					p.total, p.array(), p.number, p.size, len(p.rows), p.first+1, p.pages, !p.more, p.more)
			}},
		{Name: "ant-design", Paging: number, Total: true, Errors: true, fields: `{"preset":"ant-design"}`, size: "pageSize", place: "current", base: 1,
			answer: func(p *page) string {
				return fmt.Sprintf(`{"data":%s,"success":true,"total":%s}`, p.array(), p.total)
			}},
		{Name: "odata", Paging: next, Total: true, fields: `{"preset":"odata","param":{"$count":"true"}}`, size: "header:Prefer", place: "$skiptoken",
			answer: func(p *page) string {
				if p.url == "" {
					return fmt.Sprintf(`{"@odata.context":"$metadata#Orders","@odata.count":%s,"value":%s}`, p.total, p.array())
				}
				// CAP answers a relative address without a slash before it.
				relative := p.url
				if i := strings.LastIndex(p.url, "/orders?"); i >= 0 && strings.HasPrefix(p.url, p.header.Get("X-Own-Origin")) {
					relative = p.url[i+1:]
				}
				return fmt.Sprintf(`{"@odata.context":"$metadata#Orders","@odata.count":%s,"value":%s,"@odata.nextLink":%s}`, p.total, p.array(), orNull(relative))
			}},
		{Name: "odata2", Paging: next, Total: true, fields: `{"preset":"odata2","param":{"$inlinecount":"allpages"}}`, size: "header:Prefer", place: "$skiptoken",
			answer: func(p *page) string {
				total := p.total
				if total != "null" {
					total = `"` + total + `"` // a text
				}
				if p.url == "" {
					return fmt.Sprintf(`{"d":{"__count":%s,"results":%s}}`, total, p.array())
				}
				return fmt.Sprintf(`{"d":{"__count":%s,"results":%s,"__next":%s}}`, total, p.array(), orNull(p.url))
			}},
		{Name: "json-api", Paging: next, Errors: true, fields: `{"preset":"json-api"}`, size: "page[size]", place: "page[after]",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"jsonapi":{"version":"1.1"},"data":%s,"included":[{"type":"users","id":"1"}],"links":{"self":"/orders","next":%s}}`, p.array(), orNull(p.url))
			}},
		{Name: "graphql-relay", Paging: cursor, Total: true, More: true, Errors: true, postsIt: true, size: "body:variables.first", place: "body:variables.after",
			fields: `{"preset":"graphql-relay","method":"POST","body":{"query":"query($first:Int,$after:String){orders(first:$first,after:$after){totalCount pageInfo{hasNextPage endCursor} edges{node{id n name amount}}}}"},
				"rows":"data.orders.edges[*].node","paging":{"cursor":"data.orders.pageInfo.endCursor","more":"data.orders.pageInfo.hasNextPage","total":"data.orders.totalCount"}}`,
			answer: func(p *page) string {
				edges := make([]string, len(p.rows))
				for i, row := range p.rows {
					edges[i] = fmt.Sprintf(`{"cursor":"c%d","node":%s}`, p.first+i, row)
				}
				end := p.next
				if end == "" && len(p.rows) > 0 {
					end = fmt.Sprintf("c%d", p.first+len(p.rows)) // relay names the end of the last page too
				}
				return fmt.Sprintf(`{"data":{"orders":{"totalCount":%s,"pageInfo":{"hasNextPage":%t,"endCursor":%s},"edges":[%s]}}}`, p.total, p.more, orNull(end), strings.Join(edges, ","))
			}},
		{Name: "link", Paging: link, fields: `{"preset":"link"}`, size: "_limit", place: "_page", base: 1, answer: linked},
		{Name: "github", Paging: link, fields: `{"preset":"github"}`, size: "per_page", place: "page", base: 1, answer: linked},
		{Name: "stripe", Paging: cursor, More: true, fields: `{"preset":"stripe","auth":{"type":"bearer","token":"sk_test_1"}}`, size: "limit", place: "starting_after",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"object":"list","data":%s,"has_more":%t,"url":"/v1/charges"}`, p.array(), p.more)
			}},
		{Name: "notion", Paging: cursor, More: true, postsIt: true, fields: `{"preset":"notion","body":{"filter":{"property":"n"}}}`, size: "body:page_size", place: "body:start_cursor",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"object":"list","results":%s,"next_cursor":%s,"has_more":%t,"type":"page"}`, p.array(), orNull(p.next), p.more)
			}},
		{Name: "hubspot", Paging: cursor, fields: `{"preset":"hubspot"}`, size: "limit", place: "after",
			answer: func(p *page) string {
				if p.next == "" {
					return fmt.Sprintf(`{"results":%s}`, p.array())
				}
				return fmt.Sprintf(`{"results":%s,"paging":{"next":{"after":%s,"link":%s}}}`, p.array(), orNull(p.next), orNull(p.url))
			}},
		{Name: "slack", Paging: cursor, Errors: true, fields: `{"preset":"slack","rows":"channels"}`, size: "limit", place: "cursor",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"ok":true,"channels":%s,"response_metadata":{"next_cursor":%q}}`, p.array(), p.next)
			}},
		{Name: "feathers", Paging: offset, Total: true, fields: `{"preset":"feathers"}`, size: "$limit", place: "$skip",
			answer: func(p *page) string {
				return fmt.Sprintf(`{"total":%s,"limit":%d,"skip":%d,"data":%s}`, p.total, p.size, p.first, p.array())
			}},
		{Name: "couchdb", Paging: offset, Total: true, fields: `{"preset":"couchdb","param":{"include_docs":"true"}}`, size: "limit", place: "skip",
			answer: func(p *page) string {
				rows := make([]string, len(p.rows))
				for i, row := range p.rows {
					rows[i] = fmt.Sprintf(`{"id":"%d","key":"%[1]d","value":{"rev":"1-a"},"doc":%s}`, p.first+i, row)
				}
				return fmt.Sprintf(`{"total_rows":%s,"offset":%d,"rows":[%s]}`, p.total, p.first, strings.Join(rows, ","))
			}},
		{Name: "postgrest", Paging: offset, Total: true, fields: `{"preset":"postgrest"}`, size: "limit", place: "offset",
			answer: func(p *page) string {
				total := p.total
				if total == "null" {
					total = "*"
				}
				span := "*"
				if len(p.rows) > 0 {
					span = fmt.Sprintf("%d-%d", p.first, p.first+len(p.rows)-1)
				}
				p.header.Set("Content-Range", span+"/"+total)
				return p.array()
			}},
	}
}

func drf(p *page) string {
	return fmt.Sprintf(`{"count":%s,"next":%s,"previous":null,"results":%s}`, p.total, orNull(p.url), p.array())
}

func linked(p *page) string {
	if p.url != "" {
		p.header.Add("Link", fmt.Sprintf(`<%s>; rel="next", <%[1]s>; rel="last"`, p.url))
	}
	return p.array()
}
