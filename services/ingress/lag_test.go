package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

func TestLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l lag
		is := func(applied, count uint64, age time.Duration) {
			t.Helper()
			gotCount, gotAge := l.of(applied)
			require.Equal(t, count, gotCount)
			require.Equal(t, age, gotAge)
		}
		is(0, 0, 0)
		l.look(10, time.Now(), 10)
		time.Sleep(time.Minute)
		is(10, 0, 0)
		l.look(12, time.Now(), 10)
		time.Sleep(time.Second)
		l.look(12, time.Now(), 10)
		is(10, 2, time.Second)
		l.look(15, time.Now(), 10)
		time.Sleep(time.Second)
		l.look(14, time.Now(), 10) // from a former leader
		is(10, 5, 2*time.Second)
		is(12, 3, time.Second)
		is(15, 0, 0)
		for n := range uint64(10 * maxSeen) {
			l.look(100+n, time.Now(), 15)
			time.Sleep(time.Second)
		}
		is(15, 100+10*maxSeen-1-15, 10*maxSeen*time.Second)
		is(1000, 0, 0)
	})
}

// An ingress whose projection gets no events is not ready and reports its lag. It is ready again after it has
// caught up.
func TestReadyzNamesTheLag(t *testing.T) {
	t.Parallel()
	streams := eventstest.Journal(t)
	tasks, err := storage.OpenTasks(filepath.Join(t.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tasks.Close()) })
	files, err := storage.OpenFiles(t.Context(), "file://"+storeOf(t), storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	s, err := New(Config{MaxLag: 50 * time.Millisecond}, listener, streams, tasks, files)
	require.NoError(t, err)
	ready := func() (int, string) {
		w := httptest.NewRecorder()
		s.Ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	bind(t, streams, tasks)
	s.onNATS.Store(true)
	wg.Go(func() { _ = s.watchLag(ctx) })
	require.Eventually(t, func() bool { code, _ := ready(); return code == http.StatusOK }, 5*time.Second, 5*time.Millisecond)

	for n := range 7 {
		_, err := streams.Append(ctx, events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "", func(*events.Export) (events.Payload, error) {
			return &events.ExportRequested{CreatedAt: time.Now(), Request: events.Request{SourceType: events.SourceHTTP, ExtType: "XLSX"}}, nil
		})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		code, body := ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "the projection is 7 events and ")
	}, 5*time.Second, 5*time.Millisecond)

	wg.Go(func() { _ = streams.Follow(ctx, 1, tasks.Apply) })
	require.Eventually(t, func() bool { code, _ := ready(); return code == http.StatusOK }, 5*time.Second, 5*time.Millisecond)
}
