package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func byName(key string) (string, bool) { return key, true }

// The limits of callers multiply to the memory that all of them can use together.
func TestCallersFitTheMemory(t *testing.T) {
	t.Parallel()
	const budget = 128 << 20
	require.LessOrEqual(t, callerConnections*(callerPayload+callerPending), budget, "bytes of all tenants")
	require.LessOrEqual(t, tenantConnections*(callerPayload+callerPending), budget/4, "bytes of one tenant")
	require.LessOrEqual(t, tenantConnections*callerSubscriptions, 1024, "deliveries of one event")
}

// rawCaller returns a connection that was admitted. It reads nothing by itself.
func rawCaller(t *testing.T, c net.Conn, connect string) (net.Conn, *bufio.Reader) {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() })
	r := bufio.NewReaderSize(c, 16)
	_, err := r.ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Fprintf(c, "CONNECT {\"verbose\":false,%s}\r\nPING\r\n", connect)
	require.NoError(t, err)
	for line := ""; !strings.HasPrefix(line, "PONG"); {
		line, err = r.ReadString('\n')
		require.NoError(t, err)
		require.False(t, strings.HasPrefix(line, "-ERR"), line)
	}
	return c, r
}

// pending returns the largest number of pending bytes of a user's connections.
func pending(t *testing.T, srv *Server, user string) (most int) {
	t.Helper()
	conns, err := srv.ns.Connz(&server.ConnzOptions{Username: true})
	require.NoError(t, err)
	for _, c := range conns.Conns {
		if c.AuthorizedUser == user {
			most = max(most, c.Pending)
		}
	}
	return most
}

// A tenant that does not read uses little memory, delays no publisher, and is disconnected. Sheaf's own
// connections have a higher limit.
func TestASlowReaderIsCutOff(t *testing.T) {
	t.Parallel()
	var own net.Conn
	var nc *nats.Conn
	srv, err := Start(Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Authenticate: byName,
		Own: func(s *Server) (err error) {
			if nc, err = s.Connect(); err != nil {
				return err
			}
			c, err := s.ns.InProcessConn()
			if err != nil {
				return err
			}
			own, _ = rawCaller(t, c, fmt.Sprintf(`"user":%q,"pass":%q`, ownUser, s.tenants.own))
			s.opts.WriteDeadline = time.Second // of callers, shortened
			return nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	defer nc.Close()
	_, err = io.WriteString(own, "SUB sheaf.event.> 1\r\n")
	require.NoError(t, err)
	c, err := net.Dial("tcp", strings.TrimPrefix(srv.URL(), "nats://"))
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4<<10))
	slow, r := rawCaller(t, c, `"auth_token":"shop"`)
	for n := range callerSubscriptions {
		_, err := fmt.Fprintf(slow, "SUB sheaf.event.shop.> %d\r\n", n+1)
		require.NoError(t, err)
	}
	_, err = io.WriteString(slow, "PING\r\n")
	require.NoError(t, err)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "PONG\r\n", line)

	event, begin := make([]byte, 100<<10), time.Now()
	for range 100 {
		require.NoError(t, nc.Publish("sheaf.event.shop.x", event))
		require.LessOrEqual(t, pending(t, srv, "shop"), callerPending)
	}
	require.NoError(t, nc.Flush())
	require.Less(t, time.Since(begin), 5*time.Second, "a publisher that is made to wait")
	require.Greater(t, pending(t, srv, ownUser), callerPending, "of Sheaf's own")
	require.NoError(t, own.Close()) // Stop would wait for it
	require.Eventually(t, func() bool {
		conns, err := srv.ns.Connz(&server.ConnzOptions{})
		return err == nil && conns.NumConns < 3
	}, 20*time.Second, 5*time.Millisecond, "the deadline of writes")
}

// Each new tenant can connect, however many others use all their connections.
func TestTenantsLeaveConnectionsForOthers(t *testing.T) {
	t.Parallel()
	srv := keyed(t, byName)
	connect := func(tenant string) error {
		nc, err := nats.Connect(srv.URL(), nats.Token(tenant), nats.NoReconnect())
		if err == nil {
			t.Cleanup(nc.Close)
		}
		return err
	}
	all := 0
	for n := range 6 {
		tenant := fmt.Sprint("greedy", n)
		own := 0
		for connect(tenant) == nil {
			own++
		}
		require.NotZero(t, own, tenant)
		require.LessOrEqual(t, own, tenantConnections)
		all += own
	}
	require.LessOrEqual(t, all, callerConnections)
}

// The server announces and enforces a maximum message size for tenants.
func TestACallersMessageIsBounded(t *testing.T) {
	t.Parallel()
	srv := keyed(t, byName)
	nc, err := nats.Connect(srv.URL(), nats.Token("shop"), nats.NoReconnect())
	require.NoError(t, err)
	defer nc.Close()
	require.Eventually(t, func() bool { return nc.MaxPayload() == callerPayload }, 10*time.Second,
		time.Millisecond)
	require.ErrorIs(t, nc.Publish("sheaf.submit.shop.raw", make([]byte, callerPayload+1)), nats.ErrMaxPayload)
	own, err := srv.Connect()
	require.NoError(t, err)
	defer own.Close()
	require.EqualValues(t, 8<<20, own.MaxPayload())
}

// A tenant that sends without pause is disconnected for a while. Others stay connected.
func TestAFloodIsCutOff(t *testing.T) {
	t.Parallel()
	srv := keyed(t, byName)
	connect := func(tenant string) *nats.Conn {
		nc, err := nats.Connect(srv.URL(), nats.Token(tenant), nats.NoReconnect())
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	shop, mallory := connect("shop"), connect("mallory")
	for range 100 { // a burst is not a flood
		require.NoError(t, shop.Publish("sheaf.api.shop.history", nil))
	}
	for n := 0; n < 50*tenantBurst; n++ {
		if mallory.Publish("sheaf.api.mallory.history", nil) != nil {
			break
		}
	}
	require.Eventually(t, mallory.IsClosed, 10*time.Second, time.Millisecond)
	require.NoError(t, shop.Flush())
	_, err := nats.Connect(srv.URL(), nats.Token("mallory"), nats.NoReconnect())
	require.ErrorIs(t, err, nats.ErrAuthorization)

	srv.tenants.mu.Lock()
	paused := srv.tenants.traffic["mallory"]
	require.WithinDuration(t, time.Now().Add(floodPause), paused.pausedUntil, 30*time.Second)
	paused.pausedUntil = time.Now()
	srv.tenants.mu.Unlock()
	require.NoError(t, connect("mallory").Flush())
}

// An unfinished message ends the connection, even if bytes of it trickle in.
func TestAnUnfinishedMessageEndsTheConnection(t *testing.T) {
	t.Parallel()
	srv, err := Start(Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Authenticate: byName,
		Own: func(s *Server) error {
			s.opts.PingInterval = 300 * time.Millisecond
			return nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	connect := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(srv.URL(), "nats://"))
		require.NoError(t, err)
		c, _ = rawCaller(t, c, `"auth_token":"shop"`)
		return c
	}
	whole, err := nats.Connect(srv.URL(), nats.Token("shop"), nats.NoReconnect())
	require.NoError(t, err)
	defer whole.Close()
	for _, begun := range []string{"PUB sheaf.submit.shop.raw 1000000\r\nx", "PUB sheaf.submit"} {
		c := connect()
		_, err := io.WriteString(c, begun)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := io.WriteString(c, "x")
			return err != nil
		}, 10*time.Second, 10*time.Millisecond, begun)
	}
	require.NoError(t, whole.Flush(), "one that answers")
}

// A tenant can submit only on the two existing subjects, because the queue limit applies per subject.
func TestATenantSubmitsOnTwoSubjects(t *testing.T) {
	t.Parallel()
	srv := keyed(t, byName)
	own, err := srv.Connect()
	require.NoError(t, err)
	defer own.Close()
	got, err := own.SubscribeSync("sheaf.submit.>")
	require.NoError(t, err)
	require.NoError(t, own.Flush())
	shop, err := nats.Connect(srv.URL(), nats.Token("shop"), nats.NoReconnect())
	require.NoError(t, err)
	defer shop.Close()
	for _, kind := range []string{"1", "http", "raw"} {
		require.NoError(t, shop.Publish("sheaf.submit.shop."+kind, nil))
	}
	for _, kind := range []string{"http", "raw"} {
		m, err := got.NextMsg(10 * time.Second)
		require.NoError(t, err)
		require.Equal(t, "sheaf.submit.shop."+kind, m.Subject)
	}
}

// Failing own connections abort the start.
func TestStartEndsWithItsOwnConnections(t *testing.T) {
	t.Parallel()
	failure := errors.New("no connection")
	dir := t.TempDir()
	_, err := Start(Options{Dir: dir, Own: func(*Server) error { return failure }})
	require.ErrorIs(t, err, failure)
	srv, err := Start(Options{Dir: dir})
	require.NoError(t, err, "the folder is free")
	srv.Stop()
}
