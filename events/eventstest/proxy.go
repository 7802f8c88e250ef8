package eventstest

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Proxy is a TCP proxy in front of a NATS server that can lose data of either side.
type Proxy struct {
	listener net.Listener
	target   string
	// OnReply and OnRequest receive each chunk from and to the server. If one returns true, the chunk is lost
	// and its connection closed.
	OnReply, OnRequest atomic.Pointer[func(chunk []byte) bool]

	mu    sync.Mutex
	conns []net.Conn
}

// Proxied returns one handle that is connected through a proxy, and one that is connected directly.
func Proxied(t testing.TB) (p *Proxy, behind, direct *journal.Log) {
	t.Helper()
	srv := Server(t, "127.0.0.1:0")
	direct = JournalOn(t, srv, journal.Config{})
	p = newProxy(t, strings.TrimPrefix(srv.URL(), "nats://"))
	nc, err := nats.Connect(p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond),
		nats.ReconnectJitter(0, 0))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	behind, err = journal.Provision(t.Context(), nc,
		journal.Config{SecretKey: SecretKey, PublishTimeout: time.Second})
	require.NoError(t, err)
	return p, behind, direct
}

func newProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{listener: l, target: target}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			wg.Go(func() { pump(client, server, &p.OnRequest) })
			wg.Go(func() { pump(server, client, &p.OnReply) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *Proxy) url() string { return "nats://" + p.listener.Addr().String() }

func pump(from, to net.Conn, hook *atomic.Pointer[func([]byte) bool]) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if f := hook.Load(); f != nil && (*f)(buf[:n]) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// LoseOnce loses the first chunk that contains what, and calls then before it closes the connection.
func LoseOnce(hook *atomic.Pointer[func([]byte) bool], what string, then func()) {
	f := func(chunk []byte) bool {
		if !bytes.Contains(chunk, []byte(what)) {
			return false
		}
		hook.Store(nil)
		if then != nil {
			then()
		}
		return true
	}
	hook.Store(&f)
}
