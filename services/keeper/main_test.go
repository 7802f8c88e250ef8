package keeper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/storage"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	eventstest.Main(m)
}

// node is a keeper that does not run, with a projection that is kept up to date.
type node struct {
	*Service
	cfg  Config
	stop func() // ends the projection; the test's cleanup calls it too
}

// start makes a keeper on srv with its own connection and projection, as in another process.
func start(t testing.TB, srv *embedded.Server, cfg Config) *node {
	t.Helper()
	return startOn(t, eventstest.JournalOn(t, srv, journal.Config{}), cfg)
}

func startOn(t testing.TB, streams *journal.Log, cfg Config) *node {
	t.Helper()
	tasks := openTasks(t)
	files, err := storage.OpenFiles(t.Context(), "file://"+storeOf(t), storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	s, err := New(cfg, streams, tasks, files)
	require.NoError(t, err)
	stop := follow(t, streams, tasks)
	t.Cleanup(stop)
	node := &node{Service: s, cfg: cfg, stop: stop}
	node.caughtUpTo(t)
	return node
}

// another makes a keeper with the same parts and a fresh state.
func (node *node) another() *Service {
	s, _ := New(node.cfg, node.journal, node.tasks, node.files) // the defaults
	return s
}

func openTasks(t testing.TB) *storage.Tasks {
	t.Helper()
	tasks, err := storage.OpenTasks(filepath.Join(t.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tasks.Close()) })
	return tasks
}

// follow keeps a projection up to date until stop, as an ingress does. It returns when the projection is
// bound to the log.
func follow(t testing.TB, streams *journal.Log, tasks *storage.Tasks) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tasks.Follow(ctx, streams, func([]events.Event) {}) }()
	select {
	case <-tasks.BoundToLog():
	case err := <-done:
		require.NoError(t, err)
	}
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

var stores sync.Map // folder of finished files by test

// storeOf returns the file store that all keepers of a test share, as in a cluster.
func storeOf(t testing.TB) string {
	if folder, ok := stores.Load(t); ok {
		return folder.(string)
	}
	folder := t.TempDir()
	stores.Store(t, folder)
	t.Cleanup(func() { stores.Delete(t) })
	return folder
}

func testKey(n int) string { return fmt.Sprintf("%032x", n) }

// requestOf returns a request with sealed source headers.
func requestOf(title string) *events.ExportRequested {
	return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		ExtType: "XLSX", Title: title, UserID: "u", SourceType: events.SourceHTTP,
		HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/p", Method: "GET", Limit: 10, Conn: 1, Header: []string{"Token"}},
	}}
}

func withCallback(title string) *events.ExportRequested {
	r := requestOf(title)
	r.Request.Callback = "http://127.0.0.1/done"
	return r
}

func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func (node *node) read(t testing.TB, tenant, key string) events.Export {
	t.Helper()
	x, err := node.journal.Read(t.Context(), tenant, key)
	require.NoError(t, err)
	return x
}

// write appends an event to an export, as another part of Sheaf would.
func (node *node) write(t testing.TB, key string, p events.Payload) events.Export {
	t.Helper()
	return node.as(t, events.DefaultTenant, key, p)
}

// as appends an event to an export of any tenant.
func (node *node) as(t testing.TB, tenant, key string, p events.Payload) events.Export {
	t.Helper()
	x, err := node.journal.Append(t.Context(), node.read(t, tenant, key), "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(t, err)
	return x
}

// other writes an event of another tenant, which becomes the newest of the log.
func (node *node) other(t testing.TB, n int) {
	t.Helper()
	node.as(t, fmt.Sprint("somebody-", n), testKey(10_000+n), &events.SubmissionRejected{Reason: "no"})
	node.caughtUpTo(t)
}

func (node *node) cancelled(t testing.TB, n int) {
	t.Helper()
	node.write(t, testKey(n), requestOf("a"))
	node.write(t, testKey(n), &events.ExportCancelled{})
}

// commit puts a file into the store.
func (node *node) commit(t testing.TB, store string, content []byte) {
	t.Helper()
	draft, err := node.files.Create(t.Context())
	require.NoError(t, err)
	defer draft.Discard()
	_, err = draft.File().Write(content)
	require.NoError(t, err)
	require.NoError(t, node.files.Commit(t.Context(), draft, store))
}

func (node *node) has(t testing.TB, store string) bool {
	t.Helper()
	f, err := node.files.Open(t.Context(), store)
	if err != nil {
		return false
	}
	require.NoError(t, f.Close())
	return true
}

// complete writes all events of an export with a file.
func (node *node) complete(t testing.TB, key, title string, content []byte, expires time.Time) events.Export {
	t.Helper()
	node.write(t, key, requestOf(title))
	return node.finishUntil(t, key, content, expires)
}

// finish completes an export that is under way, with a file that expires in an hour.
func (node *node) finish(t testing.TB, key string, content []byte) events.Export {
	t.Helper()
	return node.finishUntil(t, key, content, time.Now().Add(time.Hour))
}

func (node *node) finishUntil(t testing.TB, key string, content []byte, expires time.Time) events.Export {
	t.Helper()
	run := node.read(t, events.DefaultTenant, key).RequestedSeq
	node.write(t, key, &events.ExportCrawled{Run: run, Pages: 1})
	store := fmt.Sprintf("default/%s-%s.zip", key, events.NewID())
	node.commit(t, store, content)
	sum := sha256.Sum256(content)
	x := node.write(t, key, &events.ExportCompleted{Run: run, Pages: 1, Rows: 1, ExpiresAt: expires.UTC(),
		Files: []events.File{{Name: "a.zip", Store: store, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Rows: 1}}})
	require.NoError(t, node.tasks.WaitApplied(t.Context(), x.LastSeq))
	return x
}

// bg is a context for rapid.T, which has none.
var bg = context.Background()

func (node *node) log(t require.TestingT) journal.LogState {
	l, err := node.journal.LogState(bg)
	require.NoError(t, err)
	return l
}

// caughtUpTo waits until the projection has applied the log.
func (node *node) caughtUpTo(t require.TestingT) journal.LogState {
	l := node.log(t)
	require.NoError(t, node.tasks.WaitApplied(bg, l.Last))
	return l
}

func (node *node) digest(t require.TestingT) string {
	_, sum, err := node.tasks.Digest()
	require.NoError(t, err)
	return sum
}

// rebuilt returns the digest of a projection rebuilt from the remaining events.
func (node *node) rebuilt(t testing.TB) string {
	other := startOn(t, node.journal, Config{})
	sum := other.digest(t)
	other.stop()
	return sum
}

func (node *node) knows(t testing.TB, n int) bool {
	t.Helper()
	_, err := node.tasks.Get(testKey(n))
	if !errors.Is(err, storage.ErrUnknownKey) {
		require.NoError(t, err)
	}
	leader := node.read(t, events.DefaultTenant, testKey(n)).State != events.StateNone
	require.Equal(t, leader, err == nil, "the log and the projection disagree on key %d", n)
	return leader
}

// eventsOf returns how many events of a key the log holds.
func (node *node) eventsOf(t testing.TB, key string) int {
	t.Helper()
	stream, err := node.journal.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("sheaf.event.*.*."+key))
	require.NoError(t, err)
	n := 0
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n
}
