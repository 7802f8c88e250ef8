package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	time.Local = time.FixedZone("CST", 8*60*60) // golden files contain local times
	if !testing.Verbose() {
		slog.SetDefault(slog.New(slog.DiscardHandler)) // of package events
	}
	checkTraffic()
	eventstest.Main(m)
}

// quiet is a service that logs nothing, for handlers that need only a log.
var quiet = &Service{cfg: Config{Log: slog.New(slog.DiscardHandler)}, metrics: newMetrics(nil)}

// ingress is a running service of a test.
type ingress struct {
	*Service
	url  string
	stop func() error // drains; the test's cleanup calls it too
}

// operator returns a principal of a tenant with the scope of most keys.
func operator(tenant string) Principal {
	return Principal{ID: tenant, Tenant: tenant, Scope: ScopeOperate}
}

// byTenant authenticates every key as that of the tenant of its name.
func byTenant(key string) (Principal, bool) { return operator(key), true }

// start runs an ingress on srv with its own connection and projection, as in another process.
func start(t testing.TB, srv *embedded.Server, cfg Config) *ingress {
	t.Helper()
	return startOn(t, eventstest.JournalOn(t, srv, journal.Config{}), cfg)
}

func startOn(t testing.TB, streams *journal.Log, cfg Config) *ingress {
	t.Helper()
	tasks, err := storage.OpenTasks(filepath.Join(t.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tasks.Close()) })
	files, err := storage.OpenFiles(t.Context(), "file://"+storeOf(t), storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, err := New(cfg, disguise(listener), streams, tasks, files)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	in := &ingress{Service: s, url: "http://" + listener.Addr().String()}
	in.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		require.NoError(t, in.stop())
		http.DefaultClient.CloseIdleConnections()
	})
	require.Eventually(t, func() bool { return in.caughtUp.Load() && in.onNATS.Load() }, 10*time.Second, time.Millisecond)
	return in
}

var stores sync.Map // folder of finished files by test

// storeOf returns the file store that all ingresses of a test share, as in a cluster.
func storeOf(t testing.TB) string {
	if folder, ok := stores.Load(t); ok {
		return folder.(string)
	}
	folder := t.TempDir()
	stores.Store(t, folder)
	t.Cleanup(func() { stores.Delete(t) })
	return folder
}

// elsewhere replaces the address of callers from 127.0.0.9, because a test has no second machine.
var elsewhere = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 1}

type disguised struct{ *net.TCPListener }

func disguise(l net.Listener) net.Listener { return disguised{l.(*net.TCPListener)} }

func (l disguised) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err == nil && conn.RemoteAddr().(*net.TCPAddr).IP.Equal(net.IPv4(127, 0, 0, 9)) {
		return disguisedConn{conn}, nil
	}
	return conn, err
}

type disguisedConn struct{ net.Conn }

func (disguisedConn) RemoteAddr() net.Addr { return elsewhere }

// answer is an envelope as the caller decodes it.
type answer struct {
	Status    int             `json:"-"`
	Header    http.Header     `json:"-"`
	Raw       string          `json:"-"`
	Errcode   int             `json:"errcode"`
	Msg       string          `json:"msg"`
	Data      json.RawMessage `json:"data"`
	RequestID string          `json:"request_id"`
}

func (a answer) key(t testing.TB) string {
	t.Helper()
	var d accepted
	require.NoError(t, json.Unmarshal(a.Data, &d), a.Raw)
	return d.HashKey
}

func (a answer) detail(t testing.TB) detailView {
	t.Helper()
	require.Zero(t, a.Errcode, a.Msg)
	var d detailView
	require.NoError(t, json.Unmarshal(a.Data, &d), a.Raw)
	return d
}

func send(t testing.TB, method, url, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	return decode(t, resp)
}

func decode(t testing.TB, resp *http.Response) answer {
	t.Helper()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	a := answer{Status: resp.StatusCode, Header: resp.Header, Raw: string(raw)}
	require.NoError(t, json.Unmarshal(raw, &a), a.Raw)
	require.Equal(t, "application/json; charset=utf-8", resp.Header.Get("Content-Type"))
	return a
}

func (in *ingress) post(t testing.TB, path, body string) answer {
	t.Helper()
	return send(t, http.MethodPost, in.url+path, body)
}

func (in *ingress) get(t testing.TB, path string) answer {
	t.Helper()
	return send(t, http.MethodGet, in.url+path, "")
}

// write appends an event to an export, as another part of Sheaf would.
func (in *ingress) write(t testing.TB, key string, p events.Payload) events.Export {
	t.Helper()
	x, err := in.journal.Read(t.Context(), events.DefaultTenant, key)
	require.NoError(t, err)
	x, err = in.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(t, err)
	return x
}

func (in *ingress) read(t testing.TB, tenant, key string) events.Export {
	t.Helper()
	x, err := in.journal.Read(t.Context(), tenant, key)
	require.NoError(t, err)
	return x
}

// bg is a context for rapid.T, which has none.
var bg = context.Background()

func (in *ingress) log(t require.TestingT) journal.LogState {
	l, err := in.journal.LogState(bg)
	require.NoError(t, err)
	return l
}

// caughtUpTo waits until the projection has applied the log.
func (in *ingress) caughtUpTo(t require.TestingT) journal.LogState {
	l := in.log(t)
	require.NoError(t, in.tasks.WaitApplied(bg, l.Last))
	return l
}

func (in *ingress) digest(t require.TestingT) string {
	_, sum, err := in.tasks.Digest()
	require.NoError(t, err)
	return sum
}

// rebuilt returns the digest of a projection rebuilt from the remaining events.
func (in *ingress) rebuilt(t testing.TB) string {
	other := startOn(t, in.journal, Config{})
	other.caughtUpTo(t)
	sum := other.digest(t)
	require.NoError(t, other.stop())
	return sum
}

func withCallback(title string) *events.ExportRequested {
	r := requestOf(title)
	r.Request.Callback = "http://127.0.0.1/done"
	return r
}

// golden compares got with a file of testdata.
func golden(t testing.TB, name string, got []byte) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, json.Indent(&b, got, "", "  "))
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}

// as appends an event to an export of any tenant.
func (in *ingress) as(t testing.TB, tenant, key string, p events.Payload) events.Export {
	t.Helper()
	x, err := in.journal.Append(t.Context(), in.read(t, tenant, key), "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(t, err)
	return x
}

// bind ties a projection to the log without reading more of it.
func bind(t testing.TB, streams *journal.Log, tasks *storage.Tasks) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tasks.Follow(ctx, streams, func([]events.Event) {}) }()
	<-tasks.BoundToLog()
	cancel()
	require.NoError(t, <-done)
}
