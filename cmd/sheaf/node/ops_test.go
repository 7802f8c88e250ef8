package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(data)
}

// A process that waits for its cluster is alive, and reports the reason for its wait.
func TestOperatorsAreAnsweredWhileAStartWaits(t *testing.T) {
	t.Parallel()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	cfg := OneShot(t.TempDir())
	cfg.Roles, cfg.Ops = []string{roleCrawler}, fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	cfg.NATS, cfg.SecretKey = []string{fmt.Sprintf("nats://127.0.0.1:%d", eventstest.FreePort())}, strings.Repeat("0f", 32)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, func(Info) { t.Error("there is no cluster") }) }()
	require.Eventually(t, func() bool {
		resp, err := http.Get("http://" + cfg.Ops + "/readyz")
		if err != nil {
			return false // it does not listen yet
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusServiceUnavailable &&
			strings.Contains(string(body), "not ready: waiting for NATS, while connecting to NATS")
	}, 10*time.Second, 10*time.Millisecond)
	status, _ := get(t, "http://"+cfg.Ops+"/healthz")
	require.Equal(t, http.StatusOK, status)
	status, metrics := get(t, "http://"+cfg.Ops+"/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, metrics, "sheaf_ready 0\n")
	require.Contains(t, metrics, "sheaf_nats_connected 0\n")
	status, _ = get(t, "http://"+cfg.Ops+"/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, status)
	status, _ = get(t, "http://"+cfg.Ops+"/debug/pprof/cmdline")
	require.Equal(t, http.StatusNotFound, status, "flags can hold secrets")
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
	_, err := net.Dial("tcp", cfg.Ops)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// A draining process is alive and not ready, and its last metrics can be read.
func TestOperatorsAreAnsweredDuringADrain(t *testing.T) {
	t.Parallel()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	cfg := OneShot(t.TempDir())
	cfg.Roles, cfg.Ops = []string{roleCrawler}, "127.0.0.1:0"
	n, err := open(t.Context(), cfg)
	require.NoError(t, err)
	drained := make(chan struct{})
	n.roles = map[string]role{roleCrawler: roleFunc(func(context.Context) error { <-drained; return nil })}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := n.run(ctx)
		ended <- err
	}()
	url := "http://" + n.ops.listener.Addr().String()
	require.Eventually(t, func() bool {
		status, _ := get(t, url+"/readyz")
		return status == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
	stop()
	require.Eventually(t, func() bool {
		status, body := get(t, url+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "not ready: shutting down")
	}, 10*time.Second, 10*time.Millisecond)
	status, _ := get(t, url+"/healthz")
	require.Equal(t, http.StatusOK, status)
	status, metrics := get(t, url+"/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, metrics, "sheaf_ready 0\n")
	close(drained)
	require.NoError(t, <-ended)
	n.close()
	_, err = net.Dial("tcp", n.ops.listener.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestAnOpenOpsAddressIsWarnedOf(t *testing.T) {
	t.Parallel()
	for address, warnings := range map[string]int{"127.0.0.1:0": 0, "localhost:0": 0, "0.0.0.0:0": 1, ":0": 1} {
		var lines eventstest.Log
		n := &node{log: lines.Logger(), cfg: Config{Ops: address, NATSListen: "none"}, roles: map[string]role{}}
		require.NoError(t, n.listen(), address)
		n.close()
		require.Len(t, lines.With("without authentication"), warnings, address)
	}
}

// A name of another site that resolves to this machine is refused, but not on an address for other machines.
func TestOpsAnswersUnderLoopbackNames(t *testing.T) {
	t.Parallel()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, c := range []struct {
		listen, host string
		status       int
	}{
		{"127.0.0.1", "127.0.0.1:9091", 200}, {"127.0.0.1", "localhost:9091", 200}, {"127.0.0.1", "[::1]:9091", 200},
		{"127.0.0.1", "evil.example:9091", 421}, {"::1", "evil.example", 421}, {"127.0.0.1", "10.0.0.1", 421},
		{"10.0.0.1", "sheaf-1.internal:9091", 200},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "http://"+c.host+"/metrics", nil)
		onlyOwnHosts(&net.TCPAddr{IP: net.ParseIP(c.listen), Port: 9091}, next).ServeHTTP(w, r)
		require.Equal(t, c.status, w.Code, "%+v", c)
	}
}
