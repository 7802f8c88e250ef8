package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Callers during a slow start get a response. Callers after it reach the next server, on the same listener.
func TestStartupServerHandsItsListenerOver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	url := "http://" + listener.Addr().String()
	n := &node{cfg: Config{Log: noLog}, log: noLog}
	s := n.serveStartup(listener, listener.(*net.TCPListener))
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
	s.say("no room")
	_, body = status("/readyz")
	require.Contains(t, body, "not ready: no room")
	code, _ = status("/healthz")
	require.Equal(t, http.StatusOK, code)

	s.stop()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "served") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	code, body = status("/")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "served", body)
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}

// A start that fails to bind writes nothing.
func TestAStartThatCannotListenWritesNothing(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	for flag, change := range map[string]func(*Config){
		"--http":        func(c *Config) { c.HTTP = taken.Addr().String() },
		"--nats-listen": func(c *Config) { c.NATSListen = taken.Addr().String() },
	} {
		cfg := OneShot(filepath.Join(t.TempDir(), "data"))
		change(&cfg)
		_, err := open(t.Context(), cfg)
		require.ErrorContains(t, err, flag)
		require.NoDirExists(t, cfg.Data)
	}
}
