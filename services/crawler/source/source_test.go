package source_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"
	"sheaf/services/crawler/source/sourcetest"
)

const key = "5ad5f7b92a816b76e70a21e4154c2485"

// quick is the default policy with waits that a test can afford.
var quick = source.Policy{BaseBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, MaxRetryAfter: 5 * time.Millisecond}

func open(t *testing.T, src *sourcetest.Source, req source.Request, policy source.Policy) *source.Fetcher {
	t.Helper()
	if req.URL == "" {
		req.URL = src.URL
	}
	if req.Limit == 0 {
		req.Limit = 10
	}
	if req.TaskID == "" {
		req.TaskID = key
	}
	s, err := source.New(src.Client, req, policy)
	require.NoError(t, err)
	return s
}

func failure(t *testing.T, err error) *source.Failure {
	t.Helper()
	var f *source.Failure
	require.ErrorAs(t, err, &f)
	return f
}

func TestFetchReturnsThePage(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 25)
	s := open(t, src, source.Request{}, quick)
	for page, want := range map[int]int{1: 11, 2: 11, 3: 6, 4: 1} {
		f, err := s.Fetch(t.Context(), source.Position{Page: page})
		require.NoError(t, err)
		require.Equal(t, string(src.Page(page, 10)), string(f.Body))
		require.Equal(t, want, f.RowCount)
		require.Equal(t, int64(page), f.Page)
		require.Equal(t, 1, f.Attempts)
		f.Release()
		require.Nil(t, f.Body)
	}
}

// Pages fetched at once never share memory, also when buffers are recycled.
func TestConcurrentFetchesKeepTheirPages(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 2000)
	src.Fault = func(page, _ int) sourcetest.Fault {
		if page%2 == 0 {
			return sourcetest.Gzip
		}
		return nil
	}
	s := open(t, src, source.Request{}, quick)
	var wg sync.WaitGroup
	wrong := make(chan string, 200)
	for range 8 {
		wg.Go(func() {
			for page := 1; page <= 25; page++ {
				f, err := s.Fetch(t.Context(), source.Position{Page: page})
				if err != nil || !bytes.Equal(f.Body, src.Page(page, 10)) || !bytes.Contains(f.Body, f.Rows) {
					wrong <- fmt.Sprintf("page %d: %v", page, err)
					return
				}
				f.Release()
			}
		})
	}
	wg.Wait()
	close(wrong)
	for w := range wrong {
		t.Error(w)
	}
}

func TestGETCarriesParamInTheQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, query, param, want string }{
		{"nothing", "", ``, "page=2&limit=10"},
		{"null", "", `null`, "page=2&limit=10"},
		{"an empty object", "", ` {} `, "page=2&limit=10"},
		{"the url's query stays as it is", "?shop=1&q=%e6%97%a5+x;y&empty&a=1&a=2", ``, "shop=1&q=%e6%97%a5+x;y&empty&a=1&a=2&page=2&limit=10"},
		{"page and limit are replaced wherever they stand", "?page=9&limit=3&x=1&p%61ge=4", `{"page":7,"limit":5000,"\u0070age":8}`, "x=1&page=2&limit=10"},
		{"numbers keep their text", "", `{"a":12345678,"b":1.50,"c":1e6,"d":-0,"e":123456789012345678901234567890}`,
			"a=12345678&b=1.50&c=1e6&d=-0&e=123456789012345678901234567890&page=2&limit=10"},
		{"strings", "", `{"a":"x y&z=1","b":"\u65e5","":"","c":"+"}`, "a=x+y%26z%3D1&b=%E6%97%A5&=&c=%2B&page=2&limit=10"},
		{"booleans, null and nested", "", `{"t":true,"f":false,"n":null,"o":{ "k" : [1.0, "x"] },"l":[ ]}`,
			"t=true&f=false&o=%7B%22k%22%3A%5B1.0%2C%22x%22%5D%7D&l=%5B%5D&page=2&limit=10"},
		{"param replaces the url's", "?a=1&b=2&a=3", `{"a":"x"}`, "b=2&a=x&page=2&limit=10"},
		{"the last of two counts", "", `{"a":1,"ab":2,"a":3}`, "ab=2&a=3&page=2&limit=10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := sourcetest.New(t, 25)
			for _, method := range []string{"", "get", "GET"} {
				s := open(t, src, source.Request{URL: src.URL + c.query + "#part", Method: method, Param: json.RawMessage(c.param)}, quick)
				_, err := s.Fetch(t.Context(), source.Position{Page: 2})
				require.NoError(t, err)
			}
			for _, r := range src.Requests() {
				require.Equal(t, "GET", r.Method)
				require.Equal(t, c.want, r.RawQuery)
				require.Empty(t, r.Body)
				require.Empty(t, r.Header.Get("Content-Type"))
			}
		})
	}
}

// The source reads exactly the string that a caller sends.
func TestGETStringsArriveUnchanged(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 1)
	rapid.Check(t, func(r *rapid.T) {
		param := rapid.MapOf(rapid.String().Filter(func(s string) bool { return s != "page" && s != "limit" }), rapid.String()).Draw(r, "param")
		raw, err := json.Marshal(param)
		require.NoError(r, err)
		s, err := source.New(src.Client, source.Request{URL: src.URL, Param: raw, Limit: 10}, quick)
		require.NoError(r, err)
		_, err = s.Fetch(t.Context(), source.Position{Page: 1})
		require.NoError(r, err)
		requests := src.Requests()
		want := url.Values{"page": {"1"}, "limit": {"10"}}
		for name, value := range param {
			want[name] = []string{value}
		}
		require.Equal(r, want, requests[len(requests)-1].Query)
	})
}

func TestPOSTCarriesParamInTheBody(t *testing.T) {
	t.Parallel()
	for param, want := range map[string]string{
		``:     `{"page":2,"limit":10}`,
		`null`: `{"page":2,"limit":10}`,
		`{"page":7,"a":12345678,"limit":"x","b":{"c":[1.0,1e6]},"d":null,"\u65e5":"\u65e5"}`: `{"a":12345678,"b":{"c":[1.0,1e6]},"d":null,"\u65e5":"\u65e5","page":2,"limit":10}`,
	} {
		src := sourcetest.New(t, 25)
		src.Fault = sourcetest.First(1, sourcetest.Status(503, ""))
		s := open(t, src, source.Request{URL: src.URL + "?shop=1", Method: "pOsT", Param: json.RawMessage(param)}, quick)
		f, err := s.Fetch(t.Context(), source.Position{Page: 2})
		require.NoError(t, err)
		require.Equal(t, 2, f.Attempts)
		for _, r := range src.Requests() { // the second attempt has the whole body again
			require.Equal(t, "POST", r.Method)
			require.Equal(t, want, r.Body)
			require.Equal(t, "shop=1", r.RawQuery)
			require.Equal(t, "application/json", r.Header.Get("Content-Type"))
			require.Equal(t, fmt.Sprint(len(want)), r.Header.Get("Content-Length"))
		}
	}
}

func TestHeadersReachTheSource(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 1)
	s := open(t, src, source.Request{Method: "POST", Header: map[string]string{
		"authorization": "Bearer s3cret-token", "Content-type": "application/vnd.x+json", "Host": "shop.example:81",
		"X-Export-Empty": "", "XT-EXPORT-TASKID": "forged", "User-Agent": "mine",
	}}, quick)
	_, err := s.Fetch(t.Context(), source.Position{Page: 1})
	require.NoError(t, err)
	r := src.Requests()[0]
	require.Equal(t, "Bearer s3cret-token", r.Header.Get("Authorization"))
	require.Equal(t, []string{"application/vnd.x+json"}, r.Header["Content-Type"])
	require.Equal(t, []string{key}, r.Header.Values("xt-export-taskId"))
	require.Equal(t, []string{""}, r.Header["X-Export-Empty"])
	require.Equal(t, "mine", r.Header.Get("User-Agent"))
	require.Equal(t, "gzip", r.Header.Get("Accept-Encoding"))
	require.Equal(t, "shop.example:81", r.Host)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		req  source.Request
		want string
	}{
		{"no limit", source.Request{URL: "http://a/", Limit: -1}, "source limit is -1; it must be at least 1"},
		{"PUT", source.Request{URL: "http://a/", Method: "put"}, `source method "put" is not supported; use GET or POST`},
		{"no url", source.Request{}, "source url must be absolute and begin with http:// or https://"},
		{"relative", source.Request{URL: "/demo/page"}, "source url must be absolute and begin with http:// or https://"},
		{"no host", source.Request{URL: "http:///x"}, "source url must be absolute and begin with http:// or https://"},
		{"only a port", source.Request{URL: "http://:80/x"}, "source url must be absolute and begin with http:// or https://"},
		{"file", source.Request{URL: "file:///etc/passwd"}, "source url must be absolute and begin with http:// or https://"},
		{"broken url", source.Request{URL: "http://u:pa55word@h/%zz"}, `source url is not a URL: invalid URL escape "%zz"`},
		{"param array", source.Request{URL: "http://a/", Param: json.RawMessage(`[1]`)}, "source param must be a JSON object"},
		{"param two", source.Request{URL: "http://a/", Param: json.RawMessage(`{},{}`)}, "source param must be a JSON object"},
		{"param string", source.Request{URL: "http://a/", Param: json.RawMessage(`"a"`)}, "source param must be a JSON object"},
		{"param broken", source.Request{URL: "http://a/", Param: json.RawMessage(`{"a":`)}, "source param must be a JSON object"},
		{"param tricky", source.Request{URL: "http://a/", Param: json.RawMessage(`{}],[{}`)}, "source param must be a JSON object"},
		{"header name", source.Request{URL: "http://a/", Header: map[string]string{"a b": "v"}}, `source header "a b" is not a header name`},
		{"header name CRLF", source.Request{URL: "http://a/", Header: map[string]string{"a\r\nb": "v"}}, `source header "a\r\nb" is not a header name`},
		{"header value CRLF", source.Request{URL: "http://a/", Header: map[string]string{"x-a": "s3cret\r\nEvil: 1"}},
			"the value of source header X-A holds a line break or another control character"},
		{"twice", source.Request{URL: "http://a/", Header: map[string]string{"x-a": "1", "X-A": "2"}}, "source header X-A is given twice"},
		{"bad host", source.Request{URL: "http://a/", Header: map[string]string{"host": "a/b c"}}, "the value of source header Host is not a host"},
		{"key", source.Request{URL: "http://a/", TaskID: "a\nb"}, "the key of the export is not a header value"},
	} {
		if c.req.Limit == 0 {
			c.req.Limit = 1
		}
		_, err := source.New(http.DefaultClient, c.req, quick)
		require.EqualError(t, err, c.want, c.name)
	}
	for _, name := range []string{"content-length", "Transfer-Encoding", "connection", "Proxy-Authorization", "Proxy-X", "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect"} {
		_, err := source.New(http.DefaultClient, source.Request{URL: "http://a/", Limit: 1, Header: map[string]string{name: "s3cret-value"}}, quick)
		require.EqualError(t, err, "source header "+http.CanonicalHeaderKey(name)+" cannot be set; leave it out")
	}
	_, err := source.New(nil, source.Request{URL: "http://a/", Limit: 1}, quick)
	require.Error(t, err)
}

// The first two attempts at the page meet the fault, the third one succeeds.
func TestFetchAsksAgainAfter(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]sourcetest.Fault{
		"408":                sourcetest.Status(408, ""),
		"429":                sourcetest.Status(429, "slow down"),
		"500":                sourcetest.Status(500, `{"errcode":500,"msg":"x"}`),
		"502 with HTML":      sourcetest.Status(502, "<html>"),
		"503 with a retry":   sourcetest.Status(503, "", "Retry-After", "1"),
		"a reset":            sourcetest.Reset,
		"a short body":       sourcetest.Short(20),
		"a short chunk":      sourcetest.ShortChunked(20),
		"no headers in time": sourcetest.Hang,
		"no body in time":    sourcetest.Stall(20),
		"a short gzip body": func(w http.ResponseWriter, r *http.Request, page []byte) {
			z := sourcetest.Compress(page)
			sourcetest.GzipOf(z[:len(z)/2])(w, r, page)
		},
		"a short gzip header": sourcetest.GzipOf([]byte{0x1f, 0x8b, 8}),
		"a 503 without an end": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			w.WriteHeader(503)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := sourcetest.New(t, 25)
			src.Fault = sourcetest.First(2, fault)
			policy := quick
			if name == "no headers in time" {
				policy.HeaderTimeout = time.Second
			}
			if name == "no body in time" || name == "a 503 without an end" {
				policy.PageTimeout = time.Second
			}
			f, err := open(t, src, source.Request{}, policy).Fetch(t.Context(), source.Position{Page: 1})
			require.NoError(t, err)
			require.Equal(t, 3, f.Attempts)
			require.Equal(t, string(src.Page(1, 10)), string(f.Body))
			require.Len(t, src.Requests(), 3)
		})
	}
}

func TestFetchFails(t *testing.T) {
	t.Parallel()
	const reads = `; Sheaf reads {"errcode":0,"data":{"data":[…],"pagetag":{…}}}`
	page := string(sourcetest.New(t, 1).Page(1, 10))
	for _, c := range []struct {
		name     string
		fault    sourcetest.Fault
		code     string
		attempts int
		want     string
	}{
		{"503", sourcetest.Status(503, "secret body"), events.CodeSourceHTTP, 3, "page 7: HTTP 503 after 3 attempts"},
		{"500 with an envelope", sourcetest.Status(500, `{"errcode":500,"msg":"数据库"}`), events.CodeSourceHTTP, 3, "page 7: HTTP 500, errcode 500 after 3 attempts"},
		{"404", sourcetest.Status(404, "secret body"), events.CodeSourceHTTP, 1, "page 7: HTTP 404"},
		{"401 with an envelope", sourcetest.Status(401, `{"errcode":"E401","msg":"token expired","data":null}`), events.CodeSourceHTTP, 1, "page 7: HTTP 401"},
		{"a part", sourcetest.Status(206, page), events.CodeSourceHTTP, 1, "page 7: HTTP 206: the source sent a part of the answer"},
		{"a redirect", sourcetest.Status(302, "", "Location", "http://127.0.0.1:1/secret"), events.CodeSourceHTTP, 1, "page 7: HTTP 302: redirects are not followed; give the address it leads to"},
		{"no content", func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(204) }, events.CodeSourceFormat, 2, "page 7: the body is empty after 2 attempts" + reads},
		{"an errcode", sourcetest.Body(`{"errcode":1001,"msg":"无权限","data":null}`), events.CodeSourceErrcode, 1, "page 7: errcode 1001: 无权限"},
		{"an errcode without msg", sourcetest.Body(`{"errcode":1001}`), events.CodeSourceErrcode, 1, "page 7: errcode 1001"},
		{"HTML", sourcetest.Body("<html>secret body</html>"), events.CodeSourceFormat, 1, "page 7: the body is HTML or XML, not JSON" + reads},
		{"an empty body", sourcetest.Body(""), events.CodeSourceFormat, 2, "page 7: the body is empty after 2 attempts" + reads},
		{"bad JSON", sourcetest.Body(`{"errcode":0,}`), events.CodeSourceFormat, 1, "page 7: '}' at byte 13 where a name in quotes should be"},
		{"JSON cut by the source", sourcetest.Cut(20), events.CodeSourceFormat, 2, "page 7: the JSON is truncated at byte 20 after 2 attempts"},
		{"another form", sourcetest.Body(`{"errcode":0,"data":[]}`), events.CodeSourceFormat, 1, `page 7: data is an array, not an object; the answer has the keys "errcode", "data"` + reads},
		{"a wide row", sourcetest.Body(`{"data":{"data":[{` + strings.Repeat(`"a":1,`, 16384) + `"b":1}]}}`), events.CodeLimitColumns, 1, "page 7: row 1: more than 16384 fields (--max-columns)"},
		{"too large", sourcetest.Body(page + strings.Repeat(" ", 1<<20)), events.CodeLimitBytes, 1, "page 7: the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"too large, chunked", func(w http.ResponseWriter, _ *http.Request, page []byte) {
			for range 1 << 8 {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<13))
			}
		}, events.CodeLimitBytes, 1, "page 7: the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"too large when announced", func(w http.ResponseWriter, r *http.Request, _ []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<60))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, events.CodeLimitBytes, 1, "page 7: the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"too large when decompressed", sourcetest.GzipOf(sourcetest.Compress([]byte(page + strings.Repeat(" ", 2<<20)))), events.CodeLimitBytes, 1, "page 7: the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"gzip that is none", sourcetest.GzipOf([]byte("<html>0123456789</html>")), events.CodeSourceFormat, 1, "page 7: the answer's gzip encoding is broken"},
		{"gzip with a wrong checksum", sourcetest.GzipOf(spoil(sourcetest.Compress([]byte(page)), -6)), events.CodeSourceFormat, 1, "page 7: the answer's gzip encoding is broken"},
		{"gzip with rubbish after it", sourcetest.GzipOf(append(sourcetest.Compress([]byte(page)), "rubbish, rubbish"...)), events.CodeSourceFormat, 1, "page 7: the answer has data after its gzip encoding, other than zeros and white space"},
		{"an empty gzip body", sourcetest.GzipOf(nil), events.CodeSourceFormat, 2, "page 7: the body is empty after 2 attempts" + reads},
		{"an encoding not asked for", sourcetest.Status(200, "x", "Content-Encoding", "br"), events.CodeSourceFormat, 1, "page 7: the answer's Content-Encoding br is not supported; gzip and deflate are"},
		{"a reset", sourcetest.Reset, events.CodeSourceUnreachable, 3, "page 7: the connection broke after 3 attempts"},
		{"a short body", sourcetest.Short(20), events.CodeSourceUnreachable, 3, "page 7: the answer broke off at byte 20 after 3 attempts"},
		{"no headers", sourcetest.Hang, events.CodeSourceTimeout, 3, "page 7: no answer within 1s after 3 attempts"},
		{"no body", sourcetest.Stall(20), events.CodeSourceTimeout, 3, "page 7: the answer was not complete within 1s after 3 attempts"},
		{"a drip", func(w http.ResponseWriter, r *http.Request, page []byte) {
			for r.Context().Err() == nil { // a byte now and then
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		}, events.CodeSourceTimeout, 3, "page 7: the answer brought less than 1000000 bytes a second over 50ms (--min-throughput) after 3 attempts"},
		{"a long row", sourcetest.Body(`{"data":{"data":[{"a":"` + strings.Repeat("x", 70_000) + `"}],"pagetag":{}}}`), events.CodeLimitBytes, 1, "page 7: row 1: has 70008 bytes, at most 65536 are allowed (--max-row-bytes)"},
		{"deep nesting", sourcetest.Body(`{"data":{"data":[{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}],"pagetag":{}}}`), events.CodeSourceFormat, 1, "page 7: row 1: nested deeper than 64 levels at byte 84 (--max-json-depth)"},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			conn, buf, _ := http.NewResponseController(w).Hijack()
			_, _ = buf.WriteString("220 secret greeting\r\n")
			_ = buf.Flush()
			_ = conn.Close()
		}, events.CodeSourceUnreachable, 3, "page 7: the connection broke after 3 attempts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src := sourcetest.New(t, 25)
			src.Fault = sourcetest.Always(c.fault)
			policy := quick
			policy.Attempts, policy.MaxBodyBytes = 3, 1<<20
			switch c.name {
			case "a drip":
				policy.MinRate, policy.RateOver = 1_000_000, 50*time.Millisecond
			case "a long row":
				policy.Rows.MaxRowBytes = 64 << 10
			case "no headers":
				policy.HeaderTimeout = time.Second
			case "no body":
				policy.PageTimeout = time.Second
			}
			got, err := open(t, src, source.Request{}, policy).Fetch(t.Context(), source.Position{Page: 7})
			f := failure(t, err)
			require.Equal(t, c.want, f.Error())
			require.Equal(t, c.code, f.Code)
			require.Equal(t, c.attempts, f.Attempts)
			require.Equal(t, 7, f.Page)
			require.Equal(t, source.Page{}, got)
			require.Len(t, src.Requests(), c.attempts)
			require.NotContains(t, f.Error()+f.Msg, "secret")
		})
	}
}

// spoil flips the byte at i, from the end when i is negative.
func spoil(b []byte, i int) []byte {
	b[(i+len(b))%len(b)] ^= 0xff
	return b
}

func TestRowsOfAPageAreBounded(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 1)
	src.Fault = sourcetest.Always(sourcetest.Body(`{"data":{"data":[` + strings.Repeat("{},", 1_000_000) + `{}]}}`))
	_, err := open(t, src, source.Request{}, quick).Fetch(t.Context(), source.Position{Page: 1})
	require.Equal(t, events.CodeLimitRows, failure(t, err).Code)
	require.EqualError(t, err, "page 1: the page has more than 1000000 rows")
}

// A bomb ends at the ratio, long before the limit on bytes.
func TestCompressionRatioIsBounded(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z, err := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	require.NoError(t, err)
	for range 48 << 4 {
		_, _ = z.Write(make([]byte, 64<<10))
	}
	require.NoError(t, z.Close())
	src := sourcetest.New(t, 1)
	src.Fault = sourcetest.Always(sourcetest.GzipOf(bomb.Bytes()))
	_, err = open(t, src, source.Request{}, quick).Fetch(t.Context(), source.Position{Page: 1})
	f := failure(t, err)
	require.Equal(t, events.CodeLimitBytes, f.Code)
	require.EqualError(t, f, "page 1: the answer grows to more than 400 times its compressed size (--max-compression-ratio)")

	// Repeated rows are no bomb.
	src = sourcetest.New(t, 20_000)
	src.Row = func(int) string { return `{"id":null,"name":"","amount":0}` }
	src.Fault = sourcetest.Always(sourcetest.Gzip)
	got, err := open(t, src, source.Request{Limit: 50_000}, quick).Fetch(t.Context(), source.Position{Page: 1})
	require.NoError(t, err)
	require.Equal(t, 20_001, got.RowCount)
}

func TestGzipOfSeveralMembersIsOneBody(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 25)
	src.Fault = sourcetest.Always(func(w http.ResponseWriter, r *http.Request, page []byte) {
		w.Header().Set("Content-Encoding", "X-GZip")
		_, _ = w.Write(sourcetest.Compress(page[:50]))
		_, _ = w.Write(sourcetest.Compress(page[50:]))
	})
	f, err := open(t, src, source.Request{}, quick).Fetch(t.Context(), source.Position{Page: 1})
	require.NoError(t, err)
	require.Equal(t, string(src.Page(1, 10)), string(f.Body))
}

func TestFailuresNeverShowSecrets(t *testing.T) {
	t.Parallel()
	echo := sourcetest.Body(`{"errcode":"bad top-s3cret","msg":"invalid token top-s3cret of key 0123456789 (Basic dXNlcg==, pa55word)"}`)
	for _, fault := range []sourcetest.Fault{echo, sourcetest.Status(403, `{"errcode":1,"msg":"top-s3cret"}`), sourcetest.Reset, sourcetest.Cut(30)} {
		src := sourcetest.New(t, 1)
		src.Fault = sourcetest.Always(fault)
		u, err := url.Parse(src.URL)
		require.NoError(t, err)
		u.User = url.UserPassword("user", "pa55word")
		s := open(t, src, source.Request{URL: u.String() + "?sign=top-s3cret", Header: map[string]string{
			"Authorization": "Bearer top-s3cret", "X-Key": "0123456789",
		}}, quick)
		_, err = s.Fetch(t.Context(), source.Position{Page: 1})
		f := failure(t, err)
		all := fmt.Sprint(f.Error(), f.Msg, f.Errcode, f.Err)
		for _, secret := range []string{"top-s3cret", "0123456789", "pa55word"} {
			require.NotContains(t, all, secret)
		}
	}
}

func TestUserInfoBecomesBasicAuthorization(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 1)
	_, err := open(t, src, source.Request{URL: strings.Replace(src.URL, "://", "://user:pa55word@", 1)}, quick).Fetch(t.Context(), source.Position{Page: 1})
	require.NoError(t, err)
	require.Equal(t, "Basic dXNlcjpwYTU1d29yZA==", src.Requests()[0].Header.Get("Authorization"))
}

func TestUnreachableSources(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refused := "http://" + closed.Addr().String()
	require.NoError(t, closed.Close())
	plain := sourcetest.New(t, 1)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the refused handshake
	secure.StartTLS()
	defer secure.Close()

	dialer := &net.Dialer{Control: ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("192.0.2.0/24"))).Safe}
	guarded := &http.Transport{DialContext: dialer.DialContext}
	nowhere := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "internal.example", IsNotFound: true}}
	}}
	slow := &http.Transport{DialContext: (&net.Dialer{Deadline: time.Now().Add(-time.Second)}).DialContext}
	open := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	defer open.CloseIdleConnections()
	for _, c := range []struct {
		name, url string
		transport *http.Transport
		code      string
		want      string
	}{
		{"refused", refused, open, events.CodeSourceUnreachable, "page 1: connection refused after 2 attempts"},
		{"an unknown host", "http://internal.example/", nowhere, events.CodeSourceUnreachable, "page 1: the source's host name could not be resolved after 2 attempts"},
		{"a dial timeout", plain.URL, slow, events.CodeSourceTimeout, "page 1: the connection timed out after 2 attempts"},
		{"an address that is not allowed", plain.URL, guarded, events.CodeSourceUnreachable, "page 1: the source's address may not be asked: sheaf serve opens private ranges with --allow-cidr, nothing opens those of cloud metadata"},
		{"a wrong certificate", secure.URL, open, events.CodeSourceUnreachable, "page 1: the source's TLS certificate is not valid"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), open, events.CodeSourceUnreachable, "page 1: the source does not speak TLS; use http:// in its url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := quick
			policy.Attempts = 2
			s, err := source.New(&http.Client{Transport: c.transport}, source.Request{URL: c.url, Limit: 1}, policy)
			require.NoError(t, err)
			_, err = s.Fetch(t.Context(), source.Position{Page: 1})
			f := failure(t, err)
			require.EqualError(t, f, c.want)
			require.Equal(t, c.code, f.Code)
			require.NotNil(t, f.Err)
			if c.name == "refused" {
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
			}
		})
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	stop := errors.New("the export was cancelled")
	for name, fault := range map[string]sourcetest.Fault{
		"before an answer": sourcetest.Hang,
		"within an answer": sourcetest.Stall(10),
		"within a backoff": sourcetest.Status(503, "", "Retry-After", "3600"),
		"within a refusal": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			w.WriteHeader(500)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			src := sourcetest.New(t, 1)
			src.Fault = sourcetest.Always(func(w http.ResponseWriter, r *http.Request, page []byte) {
				asked <- struct{}{}
				fault(w, r, page)
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-asked
				cancel(stop)
			}()
			start := time.Now()
			_, err := open(t, src, source.Request{}, source.Policy{}).Fetch(ctx, source.Position{Page: 1}) // default waits
			f := failure(t, err)
			require.Empty(t, f.Code)
			require.ErrorIs(t, err, stop)
			require.EqualError(t, err, "page 1: the fetch was stopped")
			require.Less(t, time.Since(start), 2*time.Second)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := open(t, sourcetest.New(t, 1), source.Request{}, quick).Fetch(ctx, source.Position{Page: 1})
	require.ErrorIs(t, err, context.Canceled)
}

// A connection is reused, also after an answer that was not a success.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	src := sourcetest.New(t, 25)
	src.Fault = sourcetest.First(1, sourcetest.Status(503, strings.Repeat("x", 10_000)))
	var mu sync.Mutex
	dials := 0
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	src.Client = &http.Client{Transport: transport}
	s := open(t, src, source.Request{}, quick)
	for page := range 3 {
		_, err := s.Fetch(t.Context(), source.Position{Page: page + 1})
		require.NoError(t, err)
	}
	require.Equal(t, 1, dials)
}

// Any body ends in a page or in a failure with a sentence.
func FuzzFetch(f *testing.F) {
	f.Add(200, "", []byte(`{"errcode":0,"data":{"data":[{"a":1}]}}`))
	f.Add(200, "gzip", sourcetest.Compress([]byte(`{"errcode":0,"data":{"data":[{"a":1}]}}`)))
	f.Add(200, "gzip, UTF-8", append(sourcetest.Compress([]byte(`{"errcode":0,"data":{"data":[{"a":1}]}}`)), 0, '\n'))
	f.Add(200, "deflate", []byte("\x78\x9c\xab\xae\x05\x00\x01\x75\x00\xf9\n"))
	f.Add(200, "lz4", []byte("\x04\x22\x4d\x18"))
	f.Add(101, "", []byte("x"))
	f.Add(503, "identity", []byte(`{"errcode":1,"msg":"x"}`))
	f.Fuzz(func(t *testing.T, status int, encoding string, body []byte) {
		client := &http.Client{Transport: answer(func(r *http.Request) *http.Response {
			rec := httptest.NewRecorder()
			rec.Header().Set("Content-Encoding", encoding)
			rec.Code = status
			rec.Body.Write(body)
			resp := rec.Result()
			resp.Request = r
			return resp
		})}
		policy := quick
		policy.Attempts = 2
		s, err := source.New(client, source.Request{URL: "http://source.example/", Limit: 1}, policy)
		require.NoError(t, err)
		got, err := s.Fetch(t.Context(), source.Position{Page: 1})
		if err == nil {
			n, err := rows.Check(got.Rows, rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, got.RowCount, n)
			return
		}
		require.NotEmpty(t, failure(t, err).Code)
		require.LessOrEqual(t, len(err.Error()), 3000)
	})
}

type answer func(*http.Request) *http.Response

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// A message of the source that repeats a secret, or the secret part of a header, is redacted.
func TestMessagesHoldNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "S3cretTokenOfShop"
	for name, tc := range map[string]struct {
		req    source.Request
		secret string
	}{
		"bearer":          {source.Request{Header: map[string]string{"Authorization": "Bearer " + secret}}, secret},
		"cookie":          {source.Request{Header: map[string]string{"Cookie": "lang=en; sid=" + secret + "; x=1"}}, secret},
		"quoted":          {source.Request{Header: map[string]string{"Authorization": `Token token="` + secret + `"`}}, secret},
		"basic, password": {source.Request{Header: map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("shop:"+secret))}}, secret},
		"basic, user":     {source.Request{Header: map[string]string{"Authorization": "basic " + base64.StdEncoding.EncodeToString([]byte(secret+":x"))}}, secret},
		"short":           {source.Request{Header: map[string]string{"X-Pin": "12345"}}, "12345"},
		"secret param":    {source.Request{Param: json.RawMessage(`{"auth":"` + secret + `"}`), SecretParam: []string{"auth"}}, secret},
		"in an object":    {source.Request{Method: "POST", Param: json.RawMessage(`{"auth":{"a":["x",{"token":"` + secret + `"}]}}`), SecretParam: []string{"auth"}}, secret},
		"escaped":         {source.Request{Method: "POST", Param: json.RawMessage(`{"auth":{"token":"S3cret\u0020TokenOfShop"}}`), SecretParam: []string{"auth"}}, "S3cret TokenOfShop"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprintf(w, `{"errcode":7,"msg":"session %s has expired","data":null}`, tc.secret)
			}))
			defer server.Close()
			tc.req.URL, tc.req.Limit = server.URL, 1
			s, err := source.New(server.Client(), tc.req, source.Policy{Attempts: 1})
			require.NoError(t, err)
			_, err = s.Fetch(t.Context(), source.Position{Page: 1})
			require.ErrorContains(t, err, "session *** has expired")
			require.NotContains(t, err.Error(), tc.secret)
		})
	}
}
