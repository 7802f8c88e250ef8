package embedded

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func keyed(t *testing.T, authenticate func(string) (string, bool)) *Server {
	t.Helper()
	srv, err := Start(Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Authenticate: authenticate})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	return srv
}

func TestAConnectionEndsWhenItsKeyIsAnothers(t *testing.T) {
	var tenant atomic.Value
	tenant.Store("shop")
	srv := keyed(t, func(key string) (string, bool) {
		if key == "stays" {
			return "shop", true
		}
		return tenant.Load().(string), key == "moves"
	})
	closed := make(chan struct{})
	moves, err := nats.Connect(srv.URL(), nats.Token("moves"), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(t, err)
	defer moves.Close()
	stays, err := nats.Connect(srv.URL(), nats.Token("stays"), nats.NoReconnect())
	require.NoError(t, err)
	defer stays.Close()

	srv.Recheck()
	require.NoError(t, moves.Flush())
	tenant.Store("bank")
	srv.Recheck()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a connection is still the tenant's that its key was of")
	}
	require.NoError(t, stays.Flush())
}

func TestConnectionsThatHaveGoneAreForgotten(t *testing.T) {
	srv := keyed(t, func(key string) (string, bool) { return "shop", strings.HasPrefix(key, "key") })
	for range 3 * leastPruned {
		nc, err := nats.Connect(srv.URL(), nats.Token("key"), nats.NoReconnect())
		require.NoError(t, err)
		nc.Close()
	}
	srv.tenants.mu.Lock()
	defer srv.tenants.mu.Unlock()
	require.Less(t, len(srv.tenants.let), 2*leastPruned)
}
