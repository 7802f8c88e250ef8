// Package sourcetest serves a paginated HTTP source for tests: the standard
// page format over a real socket, with faults that a test chooses for each
// request. A List is a source in the form that a preset describes.
package sourcetest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
)

// Source is a running source of Rows generated rows. Its answers are the same
// for the same page and limit. Change its fields only before the first request.
type Source struct {
	URL    string                        // of the endpoint, without a query
	Client *http.Client                  // with connections of its own, closed with the source
	Rows   int                           // data rows, without the header rows
	Row    func(n int) string            // data row n, from 0, as a JSON object
	Header string                        // the first row of every page
	Fault  func(page, attempt int) Fault // nil, or what goes wrong; attempt counts the page's requests from 1

	mu       sync.Mutex
	requests []Request
	attempts map[int]int
}

// Request is one request as the source received it.
type Request struct {
	Method, Host string
	Page, Limit  int
	Attempt      int
	Query        url.Values
	RawQuery     string
	Header       http.Header
	Body         string
}

// Fault answers a request in place of the source. page is the response that the source would have sent.
type Fault func(w http.ResponseWriter, r *http.Request, page []byte)

// New starts a source of n rows. It is closed when the test ends.
func New(t testing.TB, n int) *Source {
	s := &Source{
		Rows:     n,
		Header:   `{"id":"ID","name":"Name","amount":"Amount"}`,
		Row:      func(n int) string { return fmt.Sprintf(`{"id":%d,"name":"客户 %d","amount":%d.50}`, n, n, n*3) },
		attempts: map[int]int{},
	}
	server := httptest.NewServer(s)
	s.URL = server.URL + "/demo/page"
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	s.Client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

// Pages is the number of pages at a limit.
func (s *Source) Pages(limit int) int { return (s.Rows + limit - 1) / limit }

// Page is the correct response to a request.
func (s *Source) Page(page, limit int) []byte {
	var rows bytes.Buffer
	rows.WriteString("[" + s.Header)
	for n := (page - 1) * limit; n >= 0 && n < min(page*limit, s.Rows); n++ {
		rows.WriteString("," + s.Row(n))
	}
	rows.WriteString("]")
	return fmt.Appendf(nil, `{"errcode":0,"msg":"","data":{"data":%s,"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}},"request_id":"r"}`,
		rows.String(), page, limit, s.Rows, s.Pages(limit))
}

// Requests returns the requests so far, in the order of their arrival.
func (s *Source) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// ServeHTTP answers one request.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	got := Request{
		Method: r.Method, Host: r.Host, Query: r.URL.Query(), RawQuery: r.URL.RawQuery,
		Header: r.Header.Clone(), Body: string(body),
	}
	var param struct{ Page, Limit json.Number }
	if r.Method == http.MethodPost {
		_ = json.Unmarshal(body, &param)
	} else {
		param.Page, param.Limit = json.Number(got.Query.Get("page")), json.Number(got.Query.Get("limit"))
	}
	got.Page, _ = strconv.Atoi(param.Page.String())
	got.Limit, _ = strconv.Atoi(param.Limit.String())
	if got.Page < 1 || got.Limit < 1 {
		http.Error(w, "page and limit are needed", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.attempts[got.Page]++
	got.Attempt = s.attempts[got.Page]
	s.requests = append(s.requests, got)
	s.mu.Unlock()

	page := s.Page(got.Page, got.Limit)
	if s.Fault != nil {
		if fault := s.Fault(got.Page, got.Attempt); fault != nil {
			fault(w, r, page)
			return
		}
	}
	Body(string(page))(w, r, page)
}

// First makes a fault of the first n attempts at every page.
func First(n int, f Fault) func(page, attempt int) Fault {
	return func(_, attempt int) Fault {
		if attempt <= n {
			return f
		}
		return nil
	}
}

// Always makes a fault of every request.
func Always(f Fault) func(page, attempt int) Fault {
	return func(int, int) Fault { return f }
}

// Status answers with a status, a body and header fields given as name, value.
func Status(status int, body string, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Body answers 200 with another body.
func Body(body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, body)
	}
}

// Reset closes the connection without an answer.
func Reset(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }

// Short announces the whole answer and closes the connection after n bytes of it.
func Short(n int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, page []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		_, _ = w.Write(page[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// ShortChunked begins a chunked answer and closes the connection after n bytes.
func ShortChunked(n int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, page []byte) {
		_, _ = w.Write(page[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Cut sends the first n bytes of the answer as if they were all.
func Cut(n int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, page []byte) { _, _ = w.Write(page[:n]) }
}

// Hang sends no answer until the client gives up.
func Hang(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }

// Stall sends n bytes of the response, then nothing until the client gives up.
func Stall(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, page []byte) {
		_, _ = w.Write(page[:n])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// Gzip sends the right answer compressed.
func Gzip(w http.ResponseWriter, _ *http.Request, page []byte) {
	w.Header().Set("Content-Encoding", "gzip")
	_, _ = w.Write(Compress(page))
}

// GzipOf sends compressed bytes as they are.
func GzipOf(compressed []byte) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(compressed)
	}
}

// Compress returns b as one gzip member.
func Compress(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}
