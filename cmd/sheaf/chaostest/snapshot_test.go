//go:build chaos && linux

package chaostest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// A new ingress of a cluster with HISTORY (default 100,000) finished exports begins with the snapshot that
// another one stored. Its projection and its answers equal those of an ingress that read the whole log.
func TestANewIngressBeginsWithASnapshot(t *testing.T) {
	eventstest.LongRunning(t)
	exports := setting(t, "HISTORY", 100_000)
	w := newWorld(t, 1, nil)
	_, natsServer := build(t)
	w.externalServer(natsServer, freeAddress())
	config := filepath.Join(w.dir, "nats.conf")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	// The history is written without a sync for each event.
	require.NoError(t, os.WriteFile(config, []byte(strings.Replace(string(text), "sync_interval: always, ", "", 1)), 0o600))
	w.server.start("")
	nc, err := nats.Connect(w.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	require.NoError(t, err)

	urls := map[*process]string{}
	ingress := func(name string) *process {
		address := freeAddress()
		p := w.serve(name, "--roles", "ingress", "--nats", w.natsURL, "--replicas", "1", "--secret-key", chaosSecret,
			"--http", address, "--max-history", "1000000", "--public-url", "http://127.0.0.1:8080")
		urls[p] = "http://" + address
		return p
	}
	started := func(p *process) time.Duration {
		began := time.Now()
		p.start("")
		require.True(t, eventually(t.Context(), 5*time.Minute, 5*time.Millisecond, func() bool {
			status, _, err := w.ask(t.Context(), http.MethodGet, urls[p]+"/readyz", nil)
			return err == nil && status == http.StatusOK
		}), p.tail(20))
		return time.Since(began)
	}
	said := func(p *process, what string) bool {
		text, err := os.ReadFile(p.log)
		return err == nil && strings.Contains(string(text), what)
	}
	const begins = "the projection begins with a snapshot"

	first := ingress("first")
	started(first)
	first.shutdown(syscall.SIGTERM)
	last := appendHistory(t, js, exports, &events.ExportExpired{}) // no file is missed
	started(first)
	require.True(t, eventually(t.Context(), 5*time.Minute, 100*time.Millisecond, func() bool {
		return said(first, "snapshot of the projection stored")
	}), "no snapshot; %s", first.tail(20))

	second := ingress("second")
	fromSnapshot := started(second)
	require.True(t, said(second, begins), second.tail(20))
	require.NoError(t, js.DeleteStream(t.Context(), "OBJ_sheaf-files-projection"))
	third := ingress("third")
	fromLog := started(third)
	require.False(t, said(third, begins))
	t.Logf("%d exports, %d events: ready after %s from the snapshot, %s from the log", exports, last,
		fromSnapshot.Round(10*time.Millisecond), fromLog.Round(10*time.Millisecond))
	require.Less(t, fromSnapshot, fromLog)

	list := func(p *process) (pages []string) {
		for before := ""; ; {
			status, a, err := w.ask(t.Context(), http.MethodGet, urls[p]+"/v1/export/list?limit=100"+before, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, status, a.Msg)
			pages = append(pages, string(a.Data))
			var data struct {
				Next uint64 `json:"next"`
			}
			require.NoError(t, json.Unmarshal(a.Data, &data))
			if data.Next == 0 || len(pages) == 50 {
				return pages
			}
			before = fmt.Sprintf("&before=%d", data.Next)
		}
	}
	require.Equal(t, list(third), list(second))
	for n := range 200 {
		path := fmt.Sprintf("/v1/export/detail?key=%032x", n*(exports/200)*7919)
		_, a, err := w.ask(t.Context(), http.MethodGet, urls[second]+path, nil)
		require.NoError(t, err)
		require.Zero(t, a.Errcode, a.Msg)
		_, b, err := w.ask(t.Context(), http.MethodGet, urls[third]+path, nil)
		require.NoError(t, err)
		require.Equal(t, string(b.Data), string(a.Data))
	}
	digest := func(p *process) string {
		p.shutdown(syscall.SIGTERM)
		tasks, err := storage.OpenTasks(filepath.Join(w.dir, p.name, "tasks.db"), slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		defer func() { require.NoError(t, tasks.Close()) }()
		_, sum, err := tasks.Digest()
		require.NoError(t, err)
		return sum
	}
	require.Equal(t, digest(third), digest(second))
}
