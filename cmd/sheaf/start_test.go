package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
)

func natsOptions(t testing.TB) *server.Options {
	return &server.Options{
		Host: "127.0.0.1", Port: eventstest.FreePort(), NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30, MaxPayload: 8 << 20,
	}
}

func startNATS(t testing.TB, o *server.Options) (end func()) {
	srv, err := server.NewServer(o)
	require.NoError(t, err)
	srv.Start()
	end = func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	t.Cleanup(end)
	require.True(t, srv.ReadyForConnections(10*time.Second))
	return end
}

// A process that starts before its cluster, or while the cluster has no leader, is alive and not ready, and
// reports why. It serves when there is a leader.
func TestAStartWaitsForItsCluster(t *testing.T) {
	t.Parallel()
	alone := natsOptions(t) // of a cluster whose other servers are away
	alone.ServerName = "alone"
	alone.Cluster = server.ClusterOpts{Name: "sheaf", Host: "127.0.0.1", Port: eventstest.FreePort()}
	alone.Routes = []*url.URL{{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())}}
	whole := natsOptions(t)
	whole.Port = alone.Port
	address := fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	p := beginServe(t, "--nats", fmt.Sprintf("127.0.0.1:%d", alone.Port), "--replicas", "1", "--http", address, "--data", t.TempDir(),
		"--secret-key", strings.Repeat("5e", 32), "--shutdown-delay", "0s")
	answers := func(path string, status int, text string) {
		t.Helper()
		require.Eventually(t, func() bool {
			res, err := http.Get("http://" + address + path)
			if err != nil {
				return false
			}
			defer func() { _ = res.Body.Close() }()
			body, _ := io.ReadAll(res.Body)
			return res.StatusCode == status && strings.Contains(string(body), text)
		}, 30*time.Second, 20*time.Millisecond, "%s %d %s", path, status, text)
	}
	answers("/readyz", http.StatusServiceUnavailable, "waiting for NATS, while connecting")
	end := startNATS(t, alone)
	answers("/readyz", http.StatusServiceUnavailable, "waiting for NATS, while asking JetStream")
	answers("/healthz", http.StatusOK, "")
	end()
	startNATS(t, whole)
	answers("/readyz", http.StatusOK, "")
	p.drain(t)
}

// A process that waits for its cluster stops on request.
func TestAStartThatWaitsStopsInOrder(t *testing.T) {
	t.Parallel()
	p := beginServe(t, "--roles", "assembler", "--nats", fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort()), "--data", t.TempDir(), "--secret-key", strings.Repeat("5e", 32))
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "trying again") }, 30*time.Second, 5*time.Millisecond)
	p.drain(t)
}

// A permanent error ends a start at once, with the reason.
func TestAStartEndsWhereWaitingIsInVain(t *testing.T) {
	t.Parallel()
	serve := func(t *testing.T, address string) string {
		p := beginServe(t, "--roles", "crawler", "--nats", address, "--replicas", "1", "--data", t.TempDir(), "--secret-key", strings.Repeat("5e", 32))
		select {
		case code := <-p.ended:
			require.Equal(t, exitFailed, code, p.err.String())
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		return p.err.String()
	}
	connect := func(t *testing.T, o *server.Options, opts ...nats.Option) jetstream.JetStream {
		nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", o.Port), opts...)
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		return js
	}
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		o.Username, o.Password = "sheaf", "right"
		startNATS(t, o)
		require.Contains(t, serve(t, fmt.Sprintf("nats://sheaf:wrong@127.0.0.1:%d", o.Port)), "Authorization Violation")
	})
	t.Run("no JetStream", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		o.JetStream = false
		startNATS(t, o)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "enable JetStream")
	})
	t.Run("too little storage", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		o.JetStreamMaxStore = 1 << 30
		startNATS(t, o)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "lower --max-pages-bytes")
	})
	t.Run("a malformed address", func(t *testing.T) {
		t.Parallel()
		require.Contains(t, serve(t, "127.0.0.1:port"), "invalid port")
	})
	t.Run("another secret key", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		startNATS(t, o)
		_, err := journal.Provision(t.Context(), connect(t, o).Conn(), journal.Config{SecretKey: []byte(strings.Repeat("k", 32)), FilesURL: "nats://sheaf-files"})
		require.NoError(t, err)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "another secret key")
	})
	t.Run("another kind of stream", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		startNATS(t, o)
		_, err := connect(t, o).CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamTimers, Subjects: []string{"sheaf.timer.>"}, Storage: jetstream.MemoryStorage})
		require.NoError(t, err)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "stream "+events.StreamTimers)
	})
	for _, denied := range []string{"$JS.API.INFO", "$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.CREATE.>"} {
		t.Run("no permission for "+denied, func(t *testing.T) {
			t.Parallel()
			o := natsOptions(t)
			o.Users = []*server.User{{Username: "sheaf", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{denied}}}}}
			startNATS(t, o)
			require.Contains(t, strings.ToLower(serve(t, fmt.Sprintf("nats://sheaf:p@127.0.0.1:%d", o.Port))), "permissions violation")
		})
	}
}

// A process without enough disk space to start, on its first start or any other, answers and waits. It stops
// in order, and starts when there is space.
func TestAStartWaitsForRoom(t *testing.T) {
	t.Parallel()
	for _, claim := range []string{"first start", "later start"} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64m"); err != nil {
				t.Skipf("a small disk needs root: %v", err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(data, syscall.MNT_DETACH) })
			address := fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
			args := []string{"--http", address, "--nats-listen", "none", "--data", data}
			if claim == "later start" {
				startServe(t, args...).drain(t)
			}
			filler := filepath.Join(data, "filler")
			block := make([]byte, 64<<10)
			f, err := os.Create(filler)
			require.NoError(t, err)
			for err == nil {
				_, err = f.Write(block)
			}
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.NoError(t, f.Close())

			begin := func() (stop func() int) {
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan int, 1)
				out := &output{}
				go func() { ended <- run(ctx, append([]string{"serve"}, args...), stdio{out: out, err: out}, noLog) }()
				stopped := false
				stop = func() int {
					cancel()
					if stopped {
						return 0
					}
					stopped = true
					return <-ended
				}
				t.Cleanup(func() { stop() })
				return stop
			}
			answers := func(path string, want int) (header http.Header) {
				require.Eventually(t, func() bool {
					res, err := http.Get("http://" + address + path)
					if err != nil {
						return false
					}
					_ = res.Body.Close()
					header = res.Header
					return res.StatusCode == want
				}, 20*time.Second, 5*time.Millisecond, path)
				return header
			}
			stop := begin()
			require.NotEmpty(t, answers("/readyz", http.StatusServiceUnavailable).Get("Retry-After"))
			answers("/healthz", http.StatusOK)
			begun := time.Now()
			require.Zero(t, stop(), "an orderly stop")
			require.Less(t, time.Since(begun), 5*time.Second)

			stop = begin()
			answers("/readyz", http.StatusServiceUnavailable)
			res, err := http.Post("http://"+address+"/v1/export/http", "application/json", strings.NewReader("{}"))
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
			require.NoError(t, os.Remove(filler))
			answers("/readyz", http.StatusOK)
			require.Zero(t, stop())
		})
	}
}
