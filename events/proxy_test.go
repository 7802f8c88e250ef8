package events_test

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy is a TCP proxy before a NATS server that can lose what either side
// says.
type proxy struct {
	listener net.Listener
	target   string
	// onReply, onRequest see each chunk from and to the server. When one
	// returns true the chunk is lost and the connection with it.
	onReply, onRequest atomic.Pointer[func(chunk []byte) bool]

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, target: target}
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
			wg.Go(func() { pump(client, server, &p.onRequest) })
			wg.Go(func() { pump(server, client, &p.onReply) })
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

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

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

// loseOnce loses the first chunk that contains what, and calls then before the
// connection is cut.
func loseOnce(hook *atomic.Pointer[func([]byte) bool], what string, then func()) {
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
