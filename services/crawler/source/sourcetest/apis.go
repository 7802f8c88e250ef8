package sourcetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// API is an HTTP API in one of the usual forms. Its responses have exactly the members that servers of that form
// send, and its page size has the default and the maximum of that form.
type API struct {
	Name string
	// Source is source_http without url: what a caller has to know besides the address.
	Source string
	// Preset is the name of the form, "" if it has none.
	Preset string
	// Paging is the type of paging.
	Paging string
	serve  func(l apiList, w http.ResponseWriter, r *http.Request)
}

// Serve starts the API with n rows. It is closed when the test ends.
func (a API) Serve(t testing.TB, n int) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		a.serve(apiList(n), w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// Submission is the submission of a caller who knows nothing of the paging.
func (a API) Submission(address string) []byte {
	source := map[string]any{}
	if a.Source != "" {
		_ = json.Unmarshal([]byte(a.Source), &source) // a constant
	}
	source["url"] = address + "/orders"
	body, _ := json.Marshal(map[string]any{"source_http": source})
	return body
}

// apiList is a list of so many rows.
type apiList int

// Row is row i of every API, from 0.
func Row(i int) string {
	return fmt.Sprintf(`{"id":%d,"no":"NO-%06d","amount":%d.5}`, i+1, i+1, i)
}

// rows returns at most size rows, from the one at offset on.
func (l apiList) rows(offset, size int) []json.RawMessage {
	list := []json.RawMessage{}
	for i := max(offset, 0); i < min(offset+size, int(l)); i++ {
		list = append(list, json.RawMessage(Row(i)))
	}
	return list
}

func (l apiList) pages(size int) int { return (int(l) + size - 1) / size }

// number returns a number of the query; absent ones are the default.
func number(q url.Values, name string, absent int) int {
	n, err := strconv.Atoi(q.Get(name))
	if err != nil {
		return absent
	}
	return n
}

// sizeOf returns a page size of the query, cut at its maximum without a word.
func sizeOf(q url.Values, name string, absent, most int) int {
	return max(min(number(q, name, absent), most), 1)
}

type m = map[string]any

func send(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// self returns the address of a request with another parameter.
func self(r *http.Request, name string, value any) string {
	q := r.URL.Query()
	q.Set(name, fmt.Sprint(value))
	return "http://" + r.Host + r.URL.Path + "?" + q.Encode()
}

// APIs returns all forms.
func APIs() []API {
	pageOf := func(param, size string, absent, most, first int, answer func(rows []json.RawMessage, page, size int, l apiList, r *http.Request) any) func(apiList, http.ResponseWriter, *http.Request) {
		return func(l apiList, w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			page, n := number(q, param, first), sizeOf(q, size, absent, most)
			send(w, answer(l.rows((page-first)*n, n), page, n, l, r))
		}
	}
	return []API{
		{Name: "PocketBase", Preset: "pocketbase", Paging: "page", serve: pageOf("page", "perPage", 30, 500, 1,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				return m{"items": rows, "page": page, "perPage": size, "totalItems": int(l), "totalPages": l.pages(size)}
			})},
		{Name: "json-server 1", Source: `{"param":{"_page":1}}`, Paging: "page", serve: pageOf("_page", "_per_page", 10, 1000, 1,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				a := m{"first": 1, "prev": nil, "next": nil, "last": l.pages(size), "pages": l.pages(size), "items": int(l), "data": rows}
				if page > 1 {
					a["prev"] = page - 1
				}
				if page < l.pages(size) {
					a["next"] = page + 1
				}
				return a
			})},
		{Name: "json-server 0.17", Source: `{"param":{"_page":1,"_limit":40}}`, Paging: "link", serve: linkedPages("_page", "_limit", 10, 1000, true)},
		{Name: "GitHub", Preset: "github", Paging: "link", serve: func(l apiList, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-GitHub-Media-Type", "github.v3; format=json")
			linkedPages("page", "per_page", 30, 100, false)(l, w, r)
		}},
		{Name: "Link header", Preset: "link", Paging: "link", serve: linkedPages("page", "per_page", 30, 100, false)},
		{Name: "GraphQL relay", Preset: "graphql-relay", Paging: "cursor",
			Source: `{"method":"POST","body":{"query":"query($first:Int,$after:String){orders(first:$first,after:$after){totalCount pageInfo{hasNextPage endCursor} edges{node{id no amount}}}}","variables":{"first":40}}}`,
			serve:  graphQL},
		{Name: "Django REST framework", Preset: "drf", Paging: "page", serve: djangoPage},
		{Name: "Django REST framework, offset", Preset: "drf-offset", Paging: "offset", serve: djangoOffset},
		{Name: "Django REST framework, cursor", Preset: "drf-cursor", Paging: "next_url", serve: djangoCursor},
		{Name: "Laravel", Preset: "laravel", Paging: "page", serve: pageOf("page", "per_page", 15, 1000, 1,
			func(rows []json.RawMessage, page, size int, l apiList, r *http.Request) any {
				next := any(nil)
				if page < l.pages(size) {
					next = self(r, "page", page+1)
				}
				return m{"current_page": page, "data": rows, "last_page": l.pages(size), "next_page_url": next, "per_page": size, "total": int(l),
					"links": []m{{"url": nil, "label": "previous", "active": false}, {"url": self(r, "page", 1), "label": "1", "active": true}}}
			})},
		{Name: "Laravel resources", Preset: "laravel-resource", Paging: "page", serve: pageOf("page", "per_page", 15, 1000, 1,
			func(rows []json.RawMessage, page, size int, l apiList, r *http.Request) any {
				return m{"data": rows, "links": m{"first": self(r, "page", 1), "next": self(r, "page", page+1)},
					"meta": m{"current_page": page, "last_page": l.pages(size), "per_page": size, "total": int(l), "links": []m{{"url": nil}}}}
			})},
		{Name: "OData", Preset: "odata", Paging: "next_url", serve: odata},
		{Name: "RuoYi", Preset: "ruoyi", Paging: "page", serve: pageOf("pageNum", "pageSize", 10, 1000, 1,
			func(rows []json.RawMessage, _, _ int, l apiList, _ *http.Request) any {
				return m{"total": int(l), "rows": rows, "code": 200, "msg": "查询成功"}
			})},
		{Name: "Spring Data", Preset: "spring", Paging: "page", serve: pageOf("page", "size", 20, 2000, 0,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				return m{"content": rows, "totalElements": int(l), "totalPages": l.pages(size), "last": page >= l.pages(size)-1,
					"number": page, "size": size, "first": page == 0, "empty": len(rows) == 0, "numberOfElements": len(rows),
					"sort": m{"sorted": true}, "pageable": m{"offset": page * size, "pageNumber": page, "pageSize": size}}
			})},
		{Name: "Spring Data, PagedModel", Preset: "spring-paged", Paging: "page", serve: pageOf("page", "size", 20, 2000, 0,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				return m{"content": rows, "page": m{"size": size, "number": page, "totalElements": int(l), "totalPages": l.pages(size)}}
			})},
		{Name: "Stripe", Preset: "stripe", Paging: "cursor", serve: stripe},
		{Name: "FeathersJS", Preset: "feathers", Paging: "offset", serve: offsetOf("$skip", "$limit", 10, 500,
			func(rows []json.RawMessage, offset, size int, l apiList) any {
				return m{"total": int(l), "limit": size, "skip": offset, "data": rows}
			})},
		{Name: "CouchDB", Preset: "couchdb", Source: `{"param":{"include_docs":true,"limit":40}}`, Paging: "offset", serve: offsetOf("skip", "limit", 1<<30, 1<<30,
			func(rows []json.RawMessage, offset, _ int, l apiList) any {
				list := []m{}
				for _, row := range rows {
					list = append(list, m{"id": "x", "key": "x", "value": m{"rev": "1"}, "doc": row})
				}
				return m{"total_rows": int(l), "offset": offset, "rows": list}
			})},
		{Name: "search engine", Paging: "offset", serve: offsetOf("from", "size", 10, 10_000,
			func(rows []json.RawMessage, _, _ int, l apiList) any {
				hits := []m{}
				for i, row := range rows {
					hits = append(hits, m{"_index": "orders", "_id": fmt.Sprint(i), "_source": row})
				}
				return m{"took": 3, "timed_out": false, "hits": m{"total": m{"value": int(l), "relation": "eq"}, "max_score": 1.0, "hits": hits}}
			})},
		{Name: "MyBatis-Plus", Preset: "mybatis-plus", Paging: "page", serve: pageOf("current", "size", 10, 500, 1,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				return m{"code": 0, "msg": "ok", "data": m{"records": rows, "total": int(l), "size": size, "current": page, "pages": l.pages(size)}}
			})},
		{Name: "PageHelper", Preset: "pagehelper", Paging: "page", serve: pageOf("pageNum", "pageSize", 10, 500, 1,
			func(rows []json.RawMessage, page, size int, l apiList, _ *http.Request) any {
				return m{"code": 200, "msg": "", "data": m{"total": int(l), "list": rows, "pageNum": page, "pageSize": size, "pages": l.pages(size)}}
			})},
		{Name: "Ant Design", Preset: "ant-design", Paging: "page", serve: pageOf("current", "pageSize", 20, 1000, 1,
			func(rows []json.RawMessage, _, _ int, l apiList, _ *http.Request) any {
				return m{"success": true, "data": rows, "total": int(l)}
			})},
		{Name: "JSON:API", Preset: "json-api", Paging: "next_url", serve: jsonAPI},
		{Name: "Notion", Preset: "notion", Source: `{"method":"POST"}`, Paging: "cursor", serve: notion},
		{Name: "HubSpot", Preset: "hubspot", Paging: "cursor", serve: cursorOf("after", "limit", 10, 100,
			func(rows []json.RawMessage, next string, _ apiList) any {
				if next == "" {
					return m{"results": rows}
				}
				return m{"results": rows, "paging": m{"next": m{"after": next, "link": "?after=" + next}}}
			})},
		{Name: "Slack", Preset: "slack", Paging: "cursor", serve: cursorOf("cursor", "limit", 20, 200,
			func(rows []json.RawMessage, next string, _ apiList) any {
				return m{"ok": true, "members": rows, "response_metadata": m{"next_cursor": next}}
			})},
		{Name: "PostgREST", Preset: "postgrest", Source: `{"header":{"Prefer":"count=exact"}}`, Paging: "offset", serve: postgrest},
		{Name: "page tokens", Paging: "cursor", serve: cursorOf("pageToken", "maxResults", 25, 100,
			func(rows []json.RawMessage, next string, _ apiList) any {
				a := m{"kind": "list", "items": rows}
				if next != "" {
					a["nextPageToken"] = next
				}
				return a
			})},
		{Name: "items and total", Paging: "page", serve: pageOf("page", "limit", 20, 200, 1,
			func(rows []json.RawMessage, _, _ int, l apiList, _ *http.Request) any {
				return m{"items": rows, "total": int(l)}
			})},
		{Name: "items and total, offset", Paging: "offset", serve: offsetOf("offset", "limit", 20, 200,
			func(rows []json.RawMessage, _, _ int, l apiList) any { return m{"items": rows, "total": int(l)} })},
		{Name: "total as text", Paging: "page", serve: pageOf("pageNo", "pageSize", 20, 200, 1,
			func(rows []json.RawMessage, page, _ int, l apiList, _ *http.Request) any {
				return m{"code": 0, "message": "success", "result": m{"list": rows, "totalCount": fmt.Sprint(int(l)), "pageNo": page}}
			})},
		{Name: "pages without a total", Paging: "page", serve: pageOf("page", "limit", 20, 200, 1,
			func(rows []json.RawMessage, _, _ int, _ apiList, _ *http.Request) any { return rows })},
		{Name: "one array", Paging: "none", serve: func(l apiList, w http.ResponseWriter, _ *http.Request) { send(w, l.rows(0, int(l))) }},
		{Name: "NDJSON", Paging: "none", serve: func(l apiList, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			for i := range int(l) {
				fmt.Fprintln(w, Row(i))
			}
		}},
		{Name: "CSV", Paging: "none", serve: func(l apiList, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/csv; charset=utf-8")
			fmt.Fprint(w, "id,no,amount\r\n")
			for i := range int(l) {
				fmt.Fprintf(w, "%d,NO-%06d,%d.5\r\n", i+1, i+1, i)
			}
		}},
	}
}

func offsetOf(param, size string, absent, most int, answer func(rows []json.RawMessage, offset, size int, l apiList) any) func(apiList, http.ResponseWriter, *http.Request) {
	return func(l apiList, w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		offset, n := number(q, param, 0), sizeOf(q, size, absent, most)
		send(w, answer(l.rows(offset, n), offset, n, l))
	}
}

// cursorOf serves pages whose token is the offset of the next one, written so that no client computes with it.
func cursorOf(param, size string, absent, most int, answer func(rows []json.RawMessage, next string, l apiList) any) func(apiList, http.ResponseWriter, *http.Request) {
	return func(l apiList, w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		offset, _ := strconv.Atoi(strings.TrimPrefix(q.Get(param), "tok-"))
		n := sizeOf(q, size, absent, most)
		next := ""
		if offset+n < int(l) {
			next = fmt.Sprintf("tok-%d", offset+n)
		}
		send(w, answer(l.rows(offset, n), next, l))
	}
}

func linkedPages(param, size string, absent, most int, counted bool) func(apiList, http.ResponseWriter, *http.Request) {
	return func(l apiList, w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		page, n := number(q, param, 1), sizeOf(q, size, absent, most)
		if page < l.pages(n) {
			w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next", <%s>; rel="last"`, self(r, param, page+1), self(r, param, l.pages(n))))
		}
		if counted {
			w.Header().Set("X-Total-Count", strconv.Itoa(int(l)))
		}
		send(w, l.rows((page-1)*n, n))
	}
}

func graphQL(l apiList, w http.ResponseWriter, r *http.Request) {
	var body struct {
		Query     string
		Variables struct {
			First *int
			After string
		}
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || body.Variables.First == nil || !strings.Contains(body.Query, "orders") {
		send(w, m{"data": nil, "errors": []m{{"message": "variable first is required"}}})
		return
	}
	offset, _ := strconv.Atoi(strings.TrimPrefix(body.Variables.After, "cur-"))
	rows := l.rows(offset, *body.Variables.First)
	edges := []m{}
	for _, row := range rows {
		edges = append(edges, m{"node": row})
	}
	end := any(nil)
	if len(rows) > 0 {
		end = fmt.Sprintf("cur-%d", offset+len(rows)) // also on the last page
	}
	send(w, m{"data": m{"orders": m{"totalCount": int(l), "pageInfo": m{"hasNextPage": offset+len(rows) < int(l), "endCursor": end}, "edges": edges}}})
}

func djangoPage(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	page, n := number(q, "page", 1), sizeOf(q, "page_size", 20, 100)
	if page > 1 && page > l.pages(n) {
		w.WriteHeader(http.StatusNotFound)
		send(w, m{"detail": "Invalid page."})
		return
	}
	a := m{"count": int(l), "next": nil, "previous": nil, "results": l.rows((page-1)*n, n)}
	if page < l.pages(n) {
		a["next"] = self(r, "page", page+1)
	}
	send(w, a)
}

func djangoOffset(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	offset, n := number(q, "offset", 0), sizeOf(q, "limit", 20, 100)
	a := m{"count": int(l), "next": nil, "previous": nil, "results": l.rows(offset, n)}
	if offset+n < int(l) {
		next := self(r, "offset", offset+n)
		a["next"] = next + "&limit=" + strconv.Itoa(n)
	}
	send(w, a)
}

func djangoCursor(l apiList, w http.ResponseWriter, r *http.Request) {
	cursorOf("cursor", "page_size", 20, 100, func(rows []json.RawMessage, next string, _ apiList) any {
		a := m{"next": nil, "previous": nil, "results": rows}
		if next != "" {
			a["next"] = self(r, "cursor", next)
		}
		return a
	})(l, w, r)
}

func odata(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	offset := number(q, "$skiptoken", 0)
	n := 100
	a := m{"@odata.context": "$metadata#Orders", "value": l.rows(offset, n)}
	if q.Get("$count") == "true" {
		a["@odata.count"] = int(l)
	}
	if offset+n < int(l) {
		q.Set("$skiptoken", strconv.Itoa(offset+n))
		a["@odata.nextLink"] = "orders?" + q.Encode()
	}
	send(w, a)
}

func stripe(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n := number(q, "limit", 10)
	if n > 100 {
		w.WriteHeader(http.StatusBadRequest)
		send(w, m{"error": m{"message": "limit must be at most 100"}})
		return
	}
	offset := number(q, "starting_after", 0)
	send(w, m{"object": "list", "url": "/v1/orders", "has_more": offset+n < int(l), "data": l.rows(offset, n)})
}

func jsonAPI(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	page, n := number(q, "page[number]", 1), sizeOf(q, "page[size]", 20, 100)
	list := []m{}
	for i := range l.rows((page-1)*n, n) {
		id := (page-1)*n + i
		list = append(list, m{"type": "orders", "id": strconv.Itoa(id + 1), "attributes": json.RawMessage(Row(id))})
	}
	next := any(nil)
	if page < l.pages(n) {
		next = self(r, "page[number]", page+1)
	}
	send(w, m{"data": list, "included": []m{{"type": "shops", "id": "1"}}, "links": m{"self": self(r, "page[number]", page), "next": next}})
}

func notion(l apiList, w http.ResponseWriter, r *http.Request) {
	var body struct {
		Start string `json:"start_cursor"`
		Size  int    `json:"page_size"`
	}
	if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&body) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	offset, _ := strconv.Atoi(strings.TrimPrefix(body.Start, "tok-"))
	n := min(body.Size, 100)
	if n == 0 {
		n = 100
	}
	next := any(nil)
	if offset+n < int(l) {
		next = fmt.Sprintf("tok-%d", offset+n)
	}
	send(w, m{"object": "list", "results": l.rows(offset, n), "next_cursor": next, "has_more": next != nil})
}

func postgrest(l apiList, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name := range q {
		if name != "offset" && name != "limit" { // it would filter by that column
			w.WriteHeader(http.StatusBadRequest)
			send(w, m{"code": "42703", "message": "column " + name + " does not exist"})
			return
		}
	}
	offset, n := number(q, "offset", 0), sizeOf(q, "limit", 1000, 1000)
	rows := l.rows(offset, n)
	if strings.Contains(r.Header.Get("Prefer"), "count=exact") {
		w.Header().Set("Content-Range", fmt.Sprintf("%d-%d/%d", offset, offset+len(rows)-1, int(l)))
		if len(rows) < int(l) {
			w.WriteHeader(http.StatusPartialContent)
		}
	} else {
		w.Header().Set("Content-Range", fmt.Sprintf("%d-%d/*", offset, offset+len(rows)-1))
	}
	send(w, rows)
}
