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

func TestAConnectionClosesWhenItsKeyChangesTenant(t *testing.T) {
	t.Parallel()
	var tenant atomic.Value
	tenant.Store("shop")
	srv := keyed(t, func(key string) (string, bool) {
		if key == "stays" {
			return "shop", true
		}
		return tenant.Load().(string), key == "moves"
	})
	closed := make(chan struct{})
	moves, err := nats.Connect(srv.URL(), nats.Token("moves"), nats.NoReconnect(),
		nats.ClosedHandler(func(*nats.Conn) {
			close(closed)
		}))
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
	t.Parallel()
	srv := keyed(t, func(key string) (string, bool) { return "shop", strings.HasPrefix(key, "key") })
	for range 3 * minPruneAt {
		nc, err := nats.Connect(srv.URL(), nats.Token("key"), nats.NoReconnect())
		require.NoError(t, err)
		nc.Close()
	}
	srv.tenants.mu.Lock()
	defer srv.tenants.mu.Unlock()
	require.Less(t, len(srv.tenants.admitted), 2*minPruneAt)
}

// A key revoked while its connection is being admitted does not keep the connection open.
func TestAKeyRevokedMeanwhileIsRefused(t *testing.T) {
	t.Parallel()
	var srv *Server
	var revoked atomic.Bool
	srv = keyed(t, func(string) (string, bool) {
		if !revoked.CompareAndSwap(false, true) {
			return "", false
		}
		srv.Recheck() // before the connection is recorded
		return "shop", true
	})
	_, err := nats.Connect(srv.URL(), nats.Token("key"), nats.NoReconnect())
	require.ErrorIs(t, err, nats.ErrAuthorization)
}

// One tenant leaves connections for others, and regains its own once they are closed.
func TestATenantHasOnlyItsConnections(t *testing.T) {
	t.Parallel()
	srv := keyed(t, func(key string) (string, bool) { return key, true })
	connect := func(tenant string) (*nats.Conn, error) {
		return nats.Connect(srv.URL(), nats.Token(tenant), nats.NoReconnect())
	}
	for range 2 {
		var all []*nats.Conn
		for range tenantConnections {
			nc, err := connect("shop")
			require.NoError(t, err)
			all = append(all, nc)
		}
		_, err := connect("shop")
		require.ErrorIs(t, err, nats.ErrAuthorization)
		other, err := connect("bank")
		require.NoError(t, err)
		other.Close()
		for _, nc := range all {
			nc.Close()
		}
		require.Eventually(t, func() bool { return srv.ns.NumClients() == 0 }, 10*time.Second,
			time.Millisecond)
	}
}

func TestAConnectionHasLimitedSubscriptions(t *testing.T) {
	t.Parallel()
	srv := keyed(t, func(string) (string, bool) { return "shop", true })
	failed := make(chan error, 10)
	nc, err := nats.Connect(srv.URL(), nats.Token("key"), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case failed <- err:
			default:
			}
		}))
	require.NoError(t, err)
	defer nc.Close()
	for range maxSubscriptions + 1 {
		_, err := nc.SubscribeSync(nats.NewInbox())
		require.NoError(t, err)
	}
	require.ErrorContains(t, <-failed, "maximum subscriptions exceeded")
}

// A key that allows few operations can publish to no other subject, and changing what it allows closes its
// connections.
func TestKeysAllowOnlyTheirOperations(t *testing.T) {
	t.Parallel()
	var allowed atomic.Value
	allowed.Store([]string{"detail", "raw"})
	srv, err := Start(Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Authenticate: byName,
		Operations: func(string) []string { return allowed.Load().([]string) },
	})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	own, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(own.Close)
	heard := make(chan *nats.Msg, 16)
	_, err = own.ChanSubscribe("sheaf.>", heard)
	require.NoError(t, err)
	require.NoError(t, own.Flush())
	refused, closed := make(chan error, 16), make(chan struct{})
	reader, err := nats.Connect(srv.URL(), nats.Token("shop"), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(t, err)
	t.Cleanup(reader.Close)
	for _, subject := range []string{"sheaf.api.shop.cancel", "sheaf.submit.shop.http", "sheaf.api.shop.detail", "sheaf.submit.shop.raw"} {
		require.NoError(t, reader.PublishRequest(subject, "_INBOX.x", nil))
	}
	require.NoError(t, reader.Flush())
	for range 2 {
		require.ErrorIs(t, <-refused, nats.ErrPermissionViolation)
	}
	require.Equal(t, "sheaf.api.shop.detail", (<-heard).Subject)
	require.Equal(t, "sheaf.submit.shop.raw", (<-heard).Subject)
	require.Empty(t, heard)
	srv.Recheck()
	require.NoError(t, reader.Flush())
	allowed.Store([]string{"detail"})
	srv.Recheck()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a connection still has what its key allowed")
	}
}
