package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func get(t *testing.T, client *Client, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return client.Do(req)
}

func TestGuard(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd12::/16")}
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, c := range []struct {
		address string
		allowed []netip.Prefix
		want    bool
	}{
		{"93.184.216.34:80", nil, true},
		{"93.184.216.34:8443", nil, true},
		{"93.184.216.34:22", nil, false}, // ports of other protocols, unless the range is allowed
		{"93.184.216.34:6379", nil, true},
		{"93.184.216.34:25", nil, false},
		{"[2606:2800:220:1::1]:6667", nil, false},
		{"10.1.2.3:22", private, true},
		{"[2606:2800:220:1::1]:443", nil, true},

		{"127.0.0.1:80", nil, false},
		{"127.0.0.1:80", loopback, true},
		{"127.8.9.1:8090", loopback, true},
		{"[::1]:80", nil, false},
		{"[::1]:80", loopback, true},
		{"[::ffff:127.0.0.1]:80", nil, false},
		{"[::ffff:127.0.0.1]:80", loopback, true},
		{"10.1.2.3:80", loopback, false},
		{"10.1.2.3:80", private, true},
		{"[::ffff:10.1.2.3]:80", private, true},
		{"192.168.1.1:80", private, false},
		{"[fd12::1]:80", private, true},
		{"[fd13::1]:80", private, false},
		{"0.0.0.0:80", loopback, false},
		{"[::]:80", loopback, false},
		{"100.64.0.1:80", nil, false},
		{"224.0.0.1:80", nil, false},
		{"[2002:7f00:1::]:80", nil, false}, // 6to4 of 127.0.0.1
		{"[64:ff9b::7f00:1]:80", nil, false},
		{"[64:ff9b:1::7f00:1]:80", nil, false}, // NAT64 of local use, RFC 8215
		{"[2001:0:7f00:1::]:80", nil, false},   // Teredo
		{"[::127.0.0.1]:80", nil, false},       // IPv4-compatible
		{"[fec0::1]:80", nil, false},           // site-local
		{"255.255.255.255:80", nil, false},
		{"198.18.0.1:80", nil, false},
		{"192.0.2.1:80", nil, false},
		{"[ff02::1]:80", nil, false},

		// No setting allows these addresses.
		{"169.254.169.254:80", everything, false},
		{"[::ffff:169.254.169.254]:80", everything, false},
		{"[64:ff9b::a9fe:a9fe]:80", everything, false},
		{"169.254.170.2:80", everything, false},
		{"[fe80::a9fe:a9fe%eth0]:80", everything, false},
		{"[2002:a9fe:a9fe::]:80", everything, false},         // 6to4 of the metadata address
		{"[64:ff9b:1::a9fe:a9fe]:80", everything, false},     // NAT64 of local use
		{"[::169.254.169.254]:80", everything, false},        // IPv4-compatible
		{"[2001:0:1:1::5601:5601]:80", everything, false},    // Teredo, whose client address is inverted
		{"[::ffff:0:169.254.169.254]:80", everything, false}, // SIIT, RFC 7915
		{"[fd00:ec2::254]:80", everything, false},
		{"[fd20:ce::254]:80", everything, false},
		{"[fd00:c1::a9fe:a9fe]:80", everything, false},
		{"[fd00:42::42]:80", everything, false},
		{"100.100.100.200:80", everything, false},
		{"168.63.129.16:80", everything, false},
		{"168.63.129.16:80", nil, false},
		{"192.0.0.192:80", everything, false},
		{"10.1.2.3:80", everything, true},
		{"127.0.0.1:80", everything, true},
	} {
		network := "tcp4"
		if strings.HasPrefix(c.address, "[") {
			network = "tcp6"
		}
		err := guard(c.allowed)(network, c.address, nil)
		if c.want {
			require.NoError(t, err, c.address)
		} else {
			require.ErrorIs(t, err, ssrf.ErrProhibitedIP, "%s with %v", c.address, c.allowed)
			require.ErrorContains(t, err, "address not allowed (see --allow-cidr)")
		}
	}
	require.Error(t, guard(everything)("udp4", "10.1.2.3:80", nil))
	require.Error(t, guard(everything)("tcp4", "no address", nil))
}

func TestEgressChecksResolvedAddresses(t *testing.T) {
	asked := atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	client := New(Config{})
	defer client.CloseIdleConnections()
	res, err := get(t, client, strings.Replace(server.URL, "127.0.0.1", "localhost", 1))
	if err == nil {
		_ = res.Body.Close()
	}
	require.ErrorContains(t, err, "address not allowed (see --allow-cidr)")
	require.Zero(t, asked.Load())
}

func TestEgressFollowsNoRedirectAndUsesNoProxy(t *testing.T) {
	paths := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.Path
		if r.URL.Path != "/secret" {
			http.Redirect(w, r, "/secret", http.StatusFound)
		}
	}))
	defer server.Close()
	client := New(Config{Allowed: loopback})
	defer client.CloseIdleConnections()
	// checked here, because a proxy of the environment never applies to loopback
	require.Nil(t, client.transport.Proxy)
	res, err := get(t, client, server.URL+"/page")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusFound, res.StatusCode)
	require.Equal(t, "/page", <-paths)
	require.Empty(t, paths)
}

func TestEgressBoundsHeaders(t *testing.T) {
	for _, c := range []struct {
		limit int64
		sent  int
		fits  bool
	}{{0, 100 << 10, false}, {0, 50 << 10, true}, {128 << 10, 100 << 10, true}, {8 << 10, 50 << 10, false}} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d of %d, HTTP/2 %t", c.sent, c.limit, http2), func(t *testing.T) {
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter,
					_ *http.Request) {
					w.Header().Set("X-Long", strings.Repeat("x", c.sent))
				}))
				server.EnableHTTP2 = http2
				server.StartTLS()
				defer server.Close()
				client := New(Config{Allowed: loopback, MaxHeaderBytes: c.limit})
				roots := x509.NewCertPool()
				roots.AddCert(server.Certificate())
				client.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
				defer client.CloseIdleConnections()
				res, err := get(t, client, server.URL)
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				require.Equal(t, c.fits, err == nil, "%v", err)
			})
		}
	}
}

// An unread HTTP/2 response takes little memory: the server has to wait. Other limits count only bytes that
// were read.
func TestEgressTakesLittleOfAnUnreadAnswer(t *testing.T) {
	var sent atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for junk := make([]byte, 16<<10); ; {
			n, err := w.Write(junk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	client := New(Config{Allowed: loopback})
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	client.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	resp, err := get(t, client, server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	before := int64(-1)
	require.Eventually(t, func() bool { // until the server stops sending
		now := sent.Load()
		defer func() { before = now }()
		return now == before
	}, 20*time.Second, 200*time.Millisecond)
	require.Less(t, before, int64(1<<20))
	_, err = io.CopyN(io.Discard, resp.Body, 4<<20) // all of it arrives
	require.NoError(t, err)
}

// The client bounds responses whatever its caller does.
func TestEgressBoundsAnswers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/silence" {
			_, _ = io.WriteString(w, "0123456789")
			_ = http.NewResponseController(w).Flush()
		}
		if r.URL.Path != "/whole" {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	for _, c := range []struct {
		path  string
		bytes int64
		time  time.Duration
		want  error
		read  int
	}{
		{"/whole", 10, time.Minute, nil, 10},
		{"/whole", 9, time.Minute, ErrTooLarge, 9},
		{"/silence", 0, 100 * time.Millisecond, errTimeout, 0},
		{"/stall", 0, time.Second, errTimeout, 10},
	} {
		client := New(Config{Allowed: loopback, MaxBytes: c.bytes, MaxTime: c.time})
		defer client.CloseIdleConnections()
		resp, err := get(t, client, server.URL+c.path)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(resp.Body)
			require.NoError(t, resp.Body.Close())
		}
		require.ErrorIs(t, err, c.want, c.path)
		require.Len(t, body, c.read, c.path)
	}
}

// Nothing is decompressed outside the limits, even if the request did not ask for an encoding.
func TestEgressDecompressesNothing(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Asked", r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, emptyMember)
	}))
	defer server.Close()
	client := New(Config{Allowed: loopback})
	defer client.CloseIdleConnections()
	resp, err := get(t, client, server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, emptyMember, string(body))
	require.Empty(t, resp.Header.Get("X-Asked"))
}

// An HTTP/2 connection whose peer vanished is closed. Pings detect it; without them every next request would
// wait on it.
func TestEgressLeavesDeadConnections(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, page)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	client := New(Config{Allowed: loopback})
	defer client.CloseIdleConnections()
	require.Positive(t, client.transport.HTTP2.SendPingTimeout)
	require.Positive(t, client.transport.HTTP2.PingTimeout)
	client.transport.HTTP2.SendPingTimeout,
		client.transport.HTTP2.PingTimeout = 100*time.Millisecond, time.Second
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	client.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	dial := client.transport.DialContext
	var dials atomic.Int64
	silent := make(chan struct{})
	client.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil && dials.Add(1) == 1 {
			conn = mute{conn, silent}
		}
		return conn, err
	}
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		require.Equal(t, 2, resp.ProtoMajor)
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	require.NoError(t, ask())
	close(silent)
	begin := time.Now()
	_ = ask() // may use the dead connection
	require.NoError(t, ask())
	require.Less(t, time.Since(begin), 5*time.Second)
	require.EqualValues(t, 2, dials.Load())
}

// mute is a connection that drops all writes once silent is closed.
type mute struct {
	net.Conn
	silent <-chan struct{}
}

func (m mute) Write(p []byte) (int, error) {
	select {
	case <-m.silent:
		return len(p), nil
	default:
		return m.Conn.Write(p)
	}
}
