package ingress

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"
)

// submitted returns how many submissions wait in their stream.
func submitted(t testing.TB, in *ingress) uint64 {
	t.Helper()
	stream, err := in.journal.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	return stream.CachedInfo().State.Msgs
}

// While the disk is full, no transport writes anything of a new export, and callers get a Retry-After.
// Everything else works. With space again, new exports continue without help.
func TestNewExportsWaitForRoomOnTheDisk(t *testing.T) {
	t.Parallel()
	streams := eventstest.Journal(t)
	var full atomic.Bool
	in := startOn(t, streams, Config{Room: func(int64) error {
		if full.Load() {
			return NotReady("the disk of the data folder is almost full: 1 B free, 2 B needed")
		}
		return nil
	}})
	failed := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	in.write(t, failed, &events.ExportFailed{Code: events.CodeInternal, Reason: "x", Phase: events.PhaseCrawling})
	running := in.post(t, "/v1/export/raw", eventstest.SpecRaw).key(t)
	before, err := streams.LastSequence(t.Context())
	require.NoError(t, err)
	pages, err := streams.Pages().Space(t.Context())
	require.NoError(t, err)

	full.Store(true)
	for _, a := range []answer{
		in.post(t, "/v1/export/http", eventstest.HTTPBody("")),
		in.post(t, "/v1/export/http", eventstest.HTTPBody(`,"header":{"A":"b"}`)),
		in.post(t, "/v1/export/raw", eventstest.RawBody(`[{"a":"A"},{"a":1}]`)),
		in.post(t, "/v1/export/retry", `{"key":"`+failed+`"}`),
	} {
		require.Equal(t, http.StatusServiceUnavailable, a.Status, a.Raw)
		require.Equal(t, "10", a.Header.Get("Retry-After"))
		require.Contains(t, a.Msg, "1 B free, 2 B needed; nothing was accepted")
	}
	require.Equal(t, http.StatusBadRequest, in.post(t, "/v1/export/http", `{}`).Status, "what is wrong is said anyway")
	nc := streams.Conn()
	m, err := nc.Request(events.APISubject("default", "http"), []byte(eventstest.HTTPBody("")), 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "503", m.Header.Get(micro.ErrorCodeHeader))
	require.Equal(t, "10", m.Header.Get("Retry-After"))
	_, err = streams.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: events.SubmitSubject("default", "http"), Data: []byte(eventstest.HTTPBody(`,"method":"POST"`))})
	require.NoError(t, err)
	after, err := streams.LastSequence(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after, "nothing was written")
	now, err := streams.Pages().Space(t.Context())
	require.NoError(t, err)
	require.Equal(t, pages, now)
	require.Equal(t, uint64(1), submitted(t, in))

	require.Equal(t, http.StatusOK, in.get(t, "/v1/export/detail?key="+failed).Status)
	require.Equal(t, http.StatusOK, in.get(t, "/v1/export/history?user_id=123").Status)
	require.Equal(t, http.StatusOK, in.post(t, "/v1/export/cancel", `{"key":"`+running+`"}`).Status)

	full.Store(false)
	emptied(t, in)
	require.Equal(t, http.StatusOK, in.post(t, "/v1/export/retry", `{"key":"`+failed+`"}`).Status)
}

// The last tenth of the log is for existing exports: they end, and are cancelled, expired and swept, while
// new ones are refused.
func TestTheLogKeepsRoomForEnds(t *testing.T) {
	t.Parallel()
	const limit = 256 << 10
	streams := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxEventsBytes: limit})
	in := startOn(t, streams, Config{Authenticate: byTenant})
	// No tenant gets more than half of it.
	tenant := func(n int) string { return fmt.Sprint("tenant-", n%4) }
	ask := func(n int, path, body string) answer {
		return send(t, http.MethodPost, in.url+path, body, "X-API-Key", tenant(n))
	}
	look := func() { // the log's size replaces the estimates
		space, err := streams.LogSpace(t.Context())
		require.NoError(t, err)
		in.admission.look(space)
	}
	var keys []string
	var a answer
	for refused := 0; refused < 2; look() {
		require.Less(t, len(keys), limit/1000, "the log is refused before it is full")
		a = ask(len(keys), "/v1/export/http", eventstest.HTTPBody("", `"title":"`+strings.Repeat("x", 255)+`"`, fmt.Sprintf(`"timestamp":%d`, len(keys)+1)))
		if a.Status == http.StatusOK {
			keys, refused = append(keys, a.key(t)), 0
			continue
		}
		refused++
	}
	require.Equal(t, http.StatusServiceUnavailable, a.Status, a.Raw)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	require.Contains(t, a.Msg, "the event log holds")
	space, err := streams.LogSpace(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, space.Used, int64(limit/10*9+limit%10))
	require.Greater(t, space.Used, int64(limit/2))
	for n, key := range keys {
		if n >= 10 && in.admission.closed() != nil {
			break
		}
		require.Equal(t, http.StatusOK, ask(n, "/v1/export/cancel", `{"key":"`+key+`"}`).Status)
		look()
	}
	_, err = streams.JetStream().Publish(t.Context(), events.SubmitSubject("default", "http"), []byte(`{}`))
	require.NoError(t, err)
	log, err := streams.LogState(t.Context())
	require.NoError(t, err)
	for range 4 { // checks of the submissions' consumer
		<-time.After(roomEvery)
		require.Error(t, in.admission.closed())
	}
	require.Equal(t, uint64(1), submitted(t, in), "not even refused: that would be an event")
	after, err := streams.LogState(t.Context())
	require.NoError(t, err)
	require.Equal(t, log.Last, after.Last)
}

// A submission does not wait for a server that disconnects meanwhile.
func TestASubmissionIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	const operationWait = 500 * time.Millisecond
	srv := eventstest.Server(t, "127.0.0.1:0")
	link := newLink(t, srv.URL())
	nc, err := nats.Connect(link.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	streams, err := journal.Provision(t.Context(), nc, journal.Config{SecretKey: eventstest.SecretKey})
	require.NoError(t, err)
	in := startOn(t, streams, Config{OperationWait: operationWait})

	for _, cut := range []struct {
		claim string
		cut   func()
	}{
		{"silent", link.freeze},
		{"gone", link.close},
	} {
		cut.cut()
		begun := time.Now()
		a := in.post(t, "/v1/export/http", eventstest.HTTPBody(`,"header":{"A":"b"}`))
		require.Equal(t, http.StatusServiceUnavailable, a.Status, a.Raw)
		require.NotEmpty(t, a.Header.Get("Retry-After"))
		require.Less(t, time.Since(begun), operationWait+2*time.Second, cut.claim)
		t.Logf("%s: answered after %s", cut.claim, time.Since(begun).Round(time.Millisecond))
	}
}

// link is a connection to a server that can stop.
type link struct {
	url      string
	listener net.Listener
	frozen   chan struct{}
	conns    chan net.Conn
}

func newLink(t testing.TB, url string) *link {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{url: "nats://" + listener.Addr().String(), listener: listener, frozen: make(chan struct{}), conns: make(chan net.Conn, 100)}
	t.Cleanup(l.close)
	target := strings.TrimPrefix(url, "nats://")
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", target)
			if err != nil {
				_ = here.Close()
				continue
			}
			l.conns <- here
			l.conns <- there
			go l.pass(here, there)
			go l.pass(there, here)
		}
	}()
	return l
}

func (l *link) pass(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			_ = to.Close()
			return
		}
		select {
		case <-l.frozen:
		default:
			_, _ = to.Write(buf[:n])
		}
	}
}

func (l *link) freeze() { close(l.frozen) }

func (l *link) close() {
	_ = l.listener.Close()
	for {
		select {
		case c := <-l.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

// A process that is still starting answers that it lives, and when to try again.
func TestClosed(t *testing.T) {
	t.Parallel()
	h := Closed(quiet.cfg.Log, func() NotReady { return "no room" })
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/healthz", 200},
		{"GET", "/readyz", 503},
		{"POST", "/v1/export/http", 503},
		{"DELETE", "/healthz", 503},
		{"GET", "/", 503},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, strings.NewReader("{}")))
		a := decode(t, w.Result())
		require.Equal(t, tc.status, a.Status)
		require.Equal(t, tc.status == 503, a.Header.Get("Retry-After") == "2")
		if tc.status == 503 {
			require.Equal(t, "not ready: no room", a.Msg)
		}
	}
}
