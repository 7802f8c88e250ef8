package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

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

func TestOnlyAFullDiskIsWaitedFor(t *testing.T) {
	t.Parallel()
	var none *disk
	require.NoError(t, none.lacked(errors.New("no space left on device")), "a cluster's disks are not ours to watch")
	_, err := open(t.Context(), Config{HTTP: "127.0.0.1:0", NATSListen: "none", Roles: AllRoles, KeyConfig: KeyConfig{Data: filepath.Join(os.DevNull, "x")}})
	require.Error(t, err)
}
