package sourcetest

import (
	"crypto/x509"
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

	"sheaf/events"
)

// Quirks are the ways in which a list behaves differently from its documentation. A quirk that a shape cannot
// have does nothing.
type Quirks struct {
	Cap         int    // larger page sizes are cut to it, without a word; 0 for none
	TotalOff    int    // is added to the total that is announced, and the number of pages follows it
	TotalNull   bool   // totals are null
	TotalOnce   bool   // totals are null except on page 1
	Clamp       bool   // past the end there is the last page again
	Missing     bool   // past the end there is 404
	IgnorePlace bool   // every page is page 1
	RepeatNext  bool   // from page 2 on, the next page is page 2 again
	Hidden      bool   // the last row of page 2 is missing, although the total counts it
	Short       bool   // page 2 has one row less and page 3 begins with it; only if each page names the next
	FailAt      int    // the page, from 1, that is answered with a failure and status 200; 0 for none
	EmptyLast   bool   // the last page with rows announces one more, which is empty; only if each page names the next
	NextOrigin  string // replaces scheme, host and port in the address of a next page
}

// List is a running source in the form of a Shape. Its rows are {"id","n","name","amount"}, equal in each
// shape.
type List struct {
	URL    string // of the endpoint, without a query
	Shape  Shape
	Count  int
	Quirks Quirks
	Client *http.Client // trusts the list, and has connections of its own
	// Before is called with each request, after Requests has it and before its response. The response waits
	// for it. Change it only before the first request.
	Before func(r Request)
	// Certificate is that of a list with HTTPS.
	Certificate *x509.Certificate

	mu       sync.Mutex
	requests []Request
}

// NewList starts a list of n rows. It is closed when the test ends.
func NewList(t testing.TB, shape Shape, n int, quirks Quirks) *List {
	return newList(t, shape, n, quirks, httptest.NewServer)
}

// NewTLSList is NewList with HTTPS and the certificate of package httptest.
func NewTLSList(t testing.TB, shape Shape, n int, quirks Quirks) *List {
	return newList(t, shape, n, quirks, httptest.NewTLSServer)
}

func newList(t testing.TB, shape Shape, n int, quirks Quirks, start func(http.Handler) *httptest.Server) *List {
	if shape.Name == "" {
		t.Fatal("the list has no shape")
	}
	l := &List{Shape: shape, Count: n, Quirks: quirks}
	server := start(l)
	l.Certificate = server.Certificate()
	l.URL = server.URL + "/api/orders"
	l.Client = server.Client()
	t.Cleanup(func() {
		l.Client.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	})
	return l
}

// SourceHTTP returns the member source_http of a request for the list, with a page size.
func (l *List) SourceHTTP(size int) json.RawMessage { return l.Shape.SourceHTTP(l.URL, size) }

// Row returns data row n, from 0, as a JSON object.
func (l *List) Row(n int) string {
	return fmt.Sprintf(`{"id":"r%05d","n":%d,"name":"客户 %d","amount":%d.5}`, n, n, n, n*3)
}

// Columns are the names in a row, in their order.
func (l *List) Columns() []string { return []string{"id", "n", "name", "amount"} }

// Cells returns the values of row n as text.
func (l *List) Cells(n int) []string {
	return []string{fmt.Sprintf("r%05d", n), strconv.Itoa(n), fmt.Sprintf("客户 %d", n), fmt.Sprintf("%d.5", n*3)}
}

// Numbers returns the numbers of all rows that the list shows at a page size, in their order.
func (l *List) Numbers(size int) []int {
	if l.Quirks.Cap > 0 {
		size = min(size, l.Quirks.Cap)
	}
	numbers := make([]int, 0, l.Count)
	for n := range l.Count {
		if !l.Quirks.Hidden || n != 2*size-1 {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// Requests returns the requests so far, in the order of their arrival. Page counts from 1 in every shape.
func (l *List) Requests() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Request(nil), l.requests...)
}

// Chained reports whether each page of the shape names the next one.
func (s Shape) Chained() bool {
	return s.Paging == events.PagingCursor || s.Paging == events.PagingNextURL || s.Paging == events.PagingLink
}

// ServeHTTP answers one request.
func (l *List) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	size, first, err := l.asked(r, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p := l.page(r, size, first)
	got := Request{
		Method: r.Method, Host: r.Host, Page: p.first/p.size + 1, Limit: size,
		Query: r.URL.Query(), RawQuery: r.URL.RawQuery, Header: r.Header.Clone(), Body: string(body),
	}
	l.mu.Lock()
	l.requests = append(l.requests, got)
	l.mu.Unlock()
	if l.Before != nil {
		l.Before(got)
	}
	if l.Quirks.FailAt > 0 && p.first/p.size+1 == l.Quirks.FailAt {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, l.Shape.failure())
		return
	}
	if l.Quirks.Missing && first >= l.Count && first > 0 {
		http.Error(w, `{"detail":"Invalid page."}`, http.StatusNotFound)
		return
	}
	p.header = w.Header()
	p.header.Set("X-Own-Origin", origin(r)) // for shapes that shorten their own addresses
	answer := l.Shape.answer(p)
	p.header.Del("X-Own-Origin")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if l.Shape.Name == "postgrest" && len(p.rows) < l.Count {
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = io.WriteString(w, answer)
}

// failure is the body of a response to a lost login.
func (s Shape) failure() string {
	switch s.Name {
	case "sheaf":
		return `{"errcode":401,"msg":"the login has expired","data":null}`
	case "ant-design":
		return `{"success":false,"errorCode":"401","errorMessage":"the login has expired","showType":2}`
	case "slack":
		return `{"ok":false,"error":"the login has expired"}`
	case "graphql-relay":
		return `{"errors":[{"message":"the login has expired"}],"data":null}`
	case "json-api":
		return `{"errors":[{"status":"401","title":"the login has expired"}]}`
	}
	return `{"code":401,"msg":"the login has expired"}`
}

// asked reads the page size and the number of rows before the page.
func (l *List) asked(r *http.Request, body []byte) (size, first int, err error) {
	s := l.Shape
	if (r.Method == http.MethodPost) != s.postsIt {
		return 0, 0, fmt.Errorf("method %s is not that of %s", r.Method, s.Name)
	}
	size = 10
	text := func(place string) string {
		path, inBody := strings.CutPrefix(place, "body:")
		switch {
		case inBody:
			var at any
			_ = json.Unmarshal(body, &at)
			for step := range strings.SplitSeq(path, ".") {
				members, _ := at.(map[string]any)
				at = members[step]
			}
			if at != nil {
				return fmt.Sprint(at)
			}
			return ""
		case place == "header:Prefer":
			return strings.TrimPrefix(r.Header.Get("Prefer"), "odata.maxpagesize=")
		}
		return r.URL.Query().Get(place)
	}
	if given := text(s.size); given != "" {
		if size, err = strconv.Atoi(given); err != nil || size < 1 {
			return 0, 0, fmt.Errorf("page size %q", given)
		}
	}
	if l.Quirks.Cap > 0 {
		size = min(size, l.Quirks.Cap)
	}
	place := text(s.place)
	switch {
	case place == "" && s.Paging == events.PagingPage:
		return 0, 0, fmt.Errorf("%s is missing", s.place)
	case place == "":
		return size, 0, nil
	case s.Name == "stripe":
		_, err = fmt.Sscanf(place, "r%d", &first)
		first++
	case s.Paging == events.PagingPage || s.Paging == events.PagingLink:
		first, err = strconv.Atoi(place)
		first = (first - s.base) * size
	case s.Paging == events.PagingOffset:
		first, err = strconv.Atoi(place)
	default:
		_, err = fmt.Sscanf(place, "c%d", &first)
	}
	if err != nil || first < 0 {
		return 0, 0, fmt.Errorf("%s %q", s.place, place)
	}
	return size, first, nil
}

// page is the response to a request, with the quirks of the list.
func (l *List) page(r *http.Request, size, first int) *page {
	q := l.Quirks
	pages := max(1, (l.Count+size-1)/size)
	if q.IgnorePlace {
		first = 0
	}
	if q.Clamp && first >= l.Count {
		first = (pages - 1) * size
	}
	p := &page{first: first, size: size, number: first/size + l.Shape.base, total: "null", pages: "null"}
	if !q.TotalNull && (!q.TotalOnce || first == 0) {
		total := l.Count + q.TotalOff
		p.total, p.pages = strconv.Itoa(total), strconv.Itoa((total+size-1)/size)
	}
	end := min(first+size, l.Count)
	second := first == size
	if q.Short && l.Shape.Paging == events.PagingCursor && second && end > first {
		end--
	}
	for n := first; n < end; n++ {
		if !q.Hidden || n != 2*size-1 {
			p.rows = append(p.rows, l.Row(n))
		}
	}
	p.more = end < l.Count || q.EmptyLast && l.Shape.Chained() && first < l.Count
	if !p.more {
		return p
	}
	follows := end
	if q.RepeatNext && first >= size {
		follows = size
	}
	p.next = fmt.Sprintf("c%d", follows)
	query := r.URL.Query()
	switch l.Shape.Paging {
	case events.PagingPage, events.PagingLink:
		query.Set(l.Shape.place, strconv.Itoa(follows/size+l.Shape.base))
		if follows%size != 0 { // an empty page behind the last one
			query.Set(l.Shape.place, strconv.Itoa(follows/size+1+l.Shape.base))
		}
	case events.PagingOffset:
		query.Set(l.Shape.place, strconv.Itoa(follows))
	default:
		query.Set(l.Shape.place, p.next)
	}
	from := origin(r)
	if q.NextOrigin != "" {
		from = q.NextOrigin
	}
	p.url = from + (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String()
	return p
}

// origin is the scheme, host and port of a request.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
