package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/services/crawler/source"
	"sheaf/services/notifier"
)

const page = `{"errcode":0,"data":{"data":[{"a":"A"},{"a":1}],"pagetag":{"page":1,"limit":1,"total":1,"total_page":1}}}`

// answer is how a server treats a connection after reading a request.
type answer struct {
	serve    func(conn net.Conn)
	fetch    string // error that the crawler reports; "" for a page
	callback string // outcome that the notifier records, as "status reason"
}

const noFetch, slow, noPage = "no answer within 1s", "the answer was not complete within 1.5s",
	"the connection broke"

// waits reports whether only a time-out ends the request.
func (a answer) waits() bool { return a.fetch == noFetch || a.fetch == slow }

func say(s string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, s) }
}

// then also keeps the connection open until the client closes it.
func then(serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		serve(c)
		_, _ = io.Copy(io.Discard, c)
	}
}

// forever writes first, then repeated over and over until the client closes the connection.
func forever(first, repeated string, pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, c)
		}()
		for s := first + repeated; ; s = repeated {
			if _, err := io.WriteString(c, s); err != nil {
				break
			}
			if pause > 0 {
				select {
				case <-gone:
				case <-time.After(pause):
				}
			}
		}
		<-gone
	}
}

// overHTTP2 serves one HTTP/2 stream.
func overHTTP2(serve func(f *http2.Framer, stream uint32,
	headers func(fields ...string) []byte)) func(net.Conn) {
	return func(c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		stream := make(chan uint32, 100)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for {
				frame, err := f.ReadFrame()
				if err != nil && !errors.As(err, new(http2.StreamError)) {
					return
				}
				if h, ok := frame.(*http2.HeadersFrame); ok {
					stream <- h.StreamID
				}
			}
		}()
		select {
		case id := <-stream:
			serve(f, id, func(fields ...string) []byte {
				var b bytes.Buffer
				e := hpack.NewEncoder(&b)
				for i := 0; i < len(fields); i += 2 {
					_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
				}
				return b.Bytes()
			})
			<-gone
		case <-gone:
		}
	}
}

func hostileAnswers() (http1, http2s map[string]answer) {
	long := "X-Long: " + strings.Repeat("y", 1000) + "\r\n"
	whole := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(page), page)
	http1 = map[string]answer{
		"101 and silence": {then(say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")), "HTTP 101", "101 HTTP 101"},
		"101 and a drip":  {forever("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "x", time.Millisecond), "HTTP 101", "101 HTTP 101"},
		"101 and a flood": {forever("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", long, 0), "HTTP 101", "101 HTTP 101"},
		"101 without an upgrade": {then(say("HTTP/1.1 101 Switching Protocols\r\n\r\n" +
			whole)), "HTTP 101", "101 HTTP 101"},
		"100 that was not asked for, and an answer": {then(say("HTTP/1.1 100 Continue\r\n\r\n" + whole)), "",
			"200 "},
		"103 and an answer": {then(say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + whole)), "",
			"200 "},
		"a flood of 103": {forever("", "HTTP/1.1 103 Early Hints\r\n"+long+"\r\n",
			0), noPage, "0 no valid HTTP answer"},
		"a drip of 103": {forever("", "HTTP/1.1 103 Early Hints\r\n\r\n",
			10*time.Millisecond), noFetch, "0 timeout"},
		"headers that drip": {forever("HTTP/1.1 200 OK\r\n", "x",
			10*time.Millisecond), noFetch, "0 timeout"},
		"a header without an end": {forever("HTTP/1.1 200 OK\r\nX: ", long[8:1000], 0),
			noPage, "0 no valid HTTP answer"},
		"headers without an end": {forever("HTTP/1.1 200 OK\r\n", long, 0), noPage,
			"0 no valid HTTP answer"},
		"silence":            {then(say("")), noFetch, "0 timeout"},
		"half a status line": {then(say("HTTP/1.1 2")), noFetch, "0 timeout"},
		"half closed": {func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}, noPage, "0 connection closed"},
		"HTTP/0.9":            {say(page), noPage, "0 no valid HTTP answer"},
		"a status of letters": {say("HTTP/1.1 2xx OK\r\n\r\n"), noPage, "0 no valid HTTP answer"},
		"status 999": {say("HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"), "HTTP 999",
			"999 HTTP 999"},
		"204 with a body": {then(say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nxxxxx")),
			"the body is empty", "204 "},
		"an answer without an end": {forever("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(long, 50), 0),
			"the answer is larger than 65536 bytes (--max-page-bytes)", "200 "},
		"an error without an end": {forever("HTTP/1.1 500 Error\r\n\r\n", long, 0), "HTTP 500",
			"500 HTTP 500"},
		"a redirect without an end": {forever("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", long, 0),
			"HTTP 302: redirects are not followed; give the address it leads to",
			"302 HTTP 302; redirects are not followed"},
		"an answer that stalls": {then(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")), slow,
			"200 "},
		"an error that stalls": {then(say("HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\n{")),
			"HTTP 503", "503 HTTP 503"},
		"an answer that drips": {forever("HTTP/1.1 200 OK\r\n\r\n", " ", 10*time.Millisecond), slow,
			"200 "},
		"less than announced": {say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
			"the answer broke off at byte 1", "200 "},
		"more than announced": {forever(whole, "HTTP/1.1 200 OK\r\n\r\n", 0), "", "200 "},
		"two lengths": {say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
			noPage, "0 no valid HTTP answer"},
		"a negative length": {say("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"), noPage,
			"0 no valid HTTP answer"},
		"a length above all": {forever("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
			strings.Repeat(long, 50), 0), "the answer is larger than 65536 bytes (--max-page-bytes)", "200 "},
		"chunks without an end": {forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			strings.Repeat("1\r\n \r\n", 1000), 0),
			"the answer is larger than 65536 bytes (--max-page-bytes)", "200 "},
		"a chunk extension": {forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
			long[8:1000], 0), "the answer broke off at byte 0", "200 "},
		"many chunk extensions": {forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"1;"+long[8:1000]+"\r\n \r\n", 0), "the answer broke off at byte", "200 "},
		"a trailer without an end": {forever("HTTP/1.1 200 OK\r\nTrailer: X-Long\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", long, 0), "the answer broke off at byte 1", "200 "},
		"gzip without an end": {forever("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
			strings.Repeat(emptyMember, 1000), 0),
			"the answer is larger than 65536 bytes (--max-page-bytes)", "200 "},
		"zeros behind gzip, forever": {forever("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"+
			emptyMember, strings.Repeat("\x00", 20_000), 0),
			"the answer is larger than 65536 bytes (--max-page-bytes)", "200 "},
	}
	http2s = map[string]answer{
		"101": {overHTTP2(func(f *http2.Framer, id uint32, headers func(...string) []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers(":status", "101"),
				EndHeaders: true})
		}), noFetch, "0 timeout"},
		"a flood of 103": {overHTTP2(func(f *http2.Framer, id uint32, headers func(...string) []byte) {
			for f.WriteHeaders(http2.HeadersFrameParam{StreamID: id,
				BlockFragment: headers(":status", "103", "x-long", strings.Repeat("y", 1000)),
				EndHeaders:    true}) == nil {
			}
		}), noPage, "0 no valid HTTP answer"},
		"headers without an end": {overHTTP2(func(f *http2.Framer, id uint32,
			headers func(...string) []byte) {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id,
				BlockFragment: headers(":status", "200")})
			for err == nil {
				err = f.WriteContinuation(id, false, headers("x-long", strings.Repeat("y", 1000)))
			}
		}), noPage, "0 no valid HTTP answer"},
		"silence": {overHTTP2(func(*http2.Framer, uint32, func(...string) []byte) {}), noFetch, "0 timeout"},
		"a stall": {overHTTP2(func(f *http2.Framer, id uint32, headers func(...string) []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers(":status", "200"),
				EndHeaders: true})
			_ = f.WriteData(id, false, []byte("{"))
		}), slow, "200 "},
		"data of no bytes": {overHTTP2(func(f *http2.Framer, id uint32, headers func(...string) []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers(":status", "200"),
				EndHeaders: true})
			for f.WriteData(id, false, nil) == nil {
			}
		}), slow, "200 "},
		"trailers without an end": {overHTTP2(func(f *http2.Framer, id uint32,
			headers func(...string) []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers(":status", "200"),
				EndHeaders: true})
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers("x-a", "b"),
				EndStream: true})
			for err == nil {
				err = f.WriteContinuation(id, false, headers("x-long", strings.Repeat("y", 1000)))
			}
		}), "the answer broke off at byte 0", "200 "},
	}
	return http1, http2s
}

// emptyMember is an empty gzip member.
const emptyMember = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// stranger sends one hostile response on each connection.
type stranger struct {
	url   string
	conns sync.WaitGroup
}

func listen(t *testing.T, serve func(net.Conn), secure *tls.Config) *stranger {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &stranger{url: "http://" + l.Addr().String()}
	if secure != nil {
		l = tls.NewListener(l, secure)
		s.url = "https://" + l.Addr().String()
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				defer conn.Close()
				if secure == nil {
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
						return
					}
				}
				serve(conn)
			})
		}
	}()
	return s
}

// No hostile response harms the crawler or the notifier: the request ends in time, with a reason, and
// releases its connection. Afterwards the notifier stops at once.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	certified := httptest.NewTLSServer(nil)
	certificate := certified.TLS.Certificates[0]
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	certified.Close()
	client := New(Config{Allowed: loopback})
	client.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}

	streams := eventstest.Journal(t)
	service, err := notifier.New(notifier.Config{PublicURL: "http://127.0.0.1",
		Schedule: []time.Duration{time.Hour}, Timeout: 4 * time.Second}, streams, client)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- service.Run(ctx) }()

	type result struct{ fetch, callback string }
	var (
		strangers []*stranger
		wait      sync.WaitGroup
		waits     []func()
		floods    = make(chan struct{}, 2) // concurrent floods; each uses all of the machine
		mu        sync.Mutex
		results   = map[string]result{}
		wants     = map[string]answer{}
	)
	http1, http2s := hostileAnswers()
	for version, answers := range map[string]map[string]answer{"HTTP/1.1": http1, "HTTP/2": http2s} {
		for name, a := range answers {
			config := secure
			if version == "HTTP/1.1" {
				config = nil
			}
			// Two listeners, because both services would share one HTTP/2 connection.
			source, receiver := listen(t, a.serve, config), listen(t, a.serve, config)
			strangers = append(strangers, source, receiver)
			name = version + ", " + name
			wants[name] = a
			key := fmt.Sprintf("%032x", len(wants))
			ask := func() {
				var r result
				r.fetch = fetch(t, client, source.url, a.waits())
				endedExport(t, streams, key, receiver.url)
				r.callback = callback(t, streams, key)
				mu.Lock()
				defer mu.Unlock()
				results[name] = r
			}
			if a.waits() {
				waits = append(waits, ask)
				continue
			}
			wait.Go(func() {
				floods <- struct{}{}
				defer func() { <-floods }()
				ask()
			})
		}
	}
	within(t, 60*time.Second, "a request to a stranger does not end", wait.Wait)
	for _, ask := range waits {
		wait.Go(ask)
	}
	within(t, 30*time.Second, "a request to a silent stranger does not end", wait.Wait)
	for name, want := range wants {
		got := results[name]
		assert.Contains(t, got.fetch, want.fetch, name)
		assert.Equal(t, want.fetch == "", got.fetch == "", name)
		assert.Equal(t, want.callback, got.callback, name)
	}

	stop()
	within(t, 5*time.Second, "the notifier does not stop", func() { assert.NoError(t, <-stopped) })
	client.CloseIdleConnections()
	within(t, 10*time.Second, "connections to strangers are still open", func() {
		for _, s := range strangers {
			s.conns.Wait()
		}
	})
}

func within(t *testing.T, d time.Duration, otherwise string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		require.FailNow(t, otherwise)
	}
}

// fetch returns the error of fetching one page, "" if there is none.
func fetch(t *testing.T, client *Client, url string, waits bool) string {
	policy := source.Policy{Attempts: 1, HeaderTimeout: time.Second, PageTimeout: 1500 * time.Millisecond,
		MaxBodyBytes: 1 << 16}
	maxTime := 10 * time.Second
	if !waits { // the request ends without a time-out
		policy.HeaderTimeout, policy.PageTimeout = time.Minute, time.Minute
	}
	src, err := source.New(client, source.Request{URL: url, Limit: 1}, policy)
	if !assert.NoError(t, err) {
		return ""
	}
	begin := time.Now()
	got, err := src.Fetch(t.Context(), source.Position{Page: 1})
	assert.Less(t, time.Since(begin), maxTime, url)
	if err != nil {
		return err.Error()
	}
	assert.Equal(t, page, string(got.Body))
	got.Release()
	return ""
}

// callback waits for the first attempt at a callback and returns its status and reason.
func callback(t *testing.T, s *journal.Log, key string) string {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		x, err := s.Read(t.Context(), "default", key)
		if assert.NoError(t, err) && x.Callback.Attempts > 0 {
			return fmt.Sprintf("%d %s", x.Callback.LastStatus, x.Callback.LastReason)
		}
		<-time.After(20 * time.Millisecond)
	}
	return "no attempt"
}

// endedExport writes a failed export that has a callback.
func endedExport(t *testing.T, s *journal.Log, key, callback string) {
	t.Helper()
	x := events.Export{Tenant: "default", Key: key}
	for _, p := range []events.Payload{
		&events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			Timestamp: 1, ExtType: "XLSX", Callback: callback, SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/p", Method: "GET", Limit: 50, Conn: 1},
		}},
		&events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "HTTP 503", Phase: events.PhaseCrawling},
	} {
		var err error
		x, err = s.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
		assert.NoError(t, err)
	}
}
