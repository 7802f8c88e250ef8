package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// Callers that come while the door is closed are answered; those that come after
// it was handed over are served by the next, on the same listener.
func TestDoorHandsItsListenerOver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	url := "http://" + listener.Addr().String()
	d := &door{listener: listener}
	d.close("starting")
	status := func(path string) (int, string) {
		res, err := http.Get(url + path)
		require.NoError(t, err)
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(body)
	}
	code, body := status("/v1/export/detail")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "not ready: starting")
	d.close("no room")
	_, body = status("/readyz")
	require.Contains(t, body, "not ready: no room")
	code, _ = status("/healthz")
	require.Equal(t, http.StatusOK, code)

	d.hand()
	d.close("too late")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "served") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	code, body = status("/")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "served", body)
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}

// A process that finds no room to start, on its first start as on any other,
// answers and waits; it stops in order, and starts when there is room.
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
				go func() { ended <- run(ctx, append([]string{"serve"}, args...), stdio{nil, out, out}, noLog) }()
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

func TestOnlyAFullDiskIsWaitedFor(t *testing.T) {
	t.Parallel()
	var none *disk
	require.NoError(t, none.lacked(errors.New("no space left on device")), "a cluster's disks are not ours to watch")
	_, err := open(t.Context(), Config{HTTP: "127.0.0.1:0", NATSListen: "none", Roles: allRoles, KeyConfig: KeyConfig{Data: filepath.Join(os.DevNull, "x")}})
	require.Error(t, err)
}
