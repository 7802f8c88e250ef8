package ingress

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// calls is a listener with connections from any address.
type calls struct {
	net.Listener
	from []string
}

type callFrom struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (c *callFrom) RemoteAddr() net.Addr { return c.addr }
func (c *callFrom) Close() error         { c.closed = true; return nil }

func (c *calls) Accept() (net.Conn, error) {
	if len(c.from) == 0 {
		return nil, errors.New("no more")
	}
	next := c.from[0]
	c.from = c.from[1:]
	return &callFrom{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(next))}, nil
}

func TestConnectionsOfOneAddress(t *testing.T) {
	t.Parallel()
	l := limitPerAddress(&calls{from: []string{
		"192.0.2.1:1", "[::ffff:192.0.2.1]:2", "192.0.2.1:3", "192.0.2.2:1", // the third: too many
		"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8:0:1::1]:1", // one /64 network
		"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "[::1]:1",
		"192.0.2.1:4",
	}}, 2)
	var in []string
	var first net.Conn
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		in = append(in, conn.RemoteAddr().String())
		if first == nil {
			first = conn
		}
		if len(in) == 10 { // close one twice: it frees one place
			require.NoError(t, first.Close())
			require.NoError(t, first.Close())
		}
	}
	require.Equal(t, []string{
		"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1",
		"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1",
		"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "[::1]:1",
		"192.0.2.1:4",
	}, in)
}

// An address that opens all its connections does not block other addresses.
func TestOneAddressLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{HeaderTimeout: time.Minute}) // none closes early
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	address := strings.TrimPrefix(in.url, "http://")
	for range maxConnectionsOfOne {
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		defer conn.Close()
	}
	more, err := dialer.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer more.Close()
	require.NoError(t, more.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err = more.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is closed at once")
	require.Equal(t, http.StatusOK, in.get(t, "/readyz").Status)
}
