package eventstest

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Link is a TCP proxy in front of a server. While cut, it holds all data, as TCP does during a network
// failure: the peer receives nothing, sees no end of its connection, and receives everything once the link is
// restored.
type Link struct {
	gate     sync.RWMutex // write-locked while the link is cut
	listener net.Listener
	target   string

	mu    sync.Mutex
	conns []net.Conn
}

// NewLink listens until the end of the test. An empty address means any free one.
func NewLink(t testing.TB, listen, target string) *Link {
	t.Helper()
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listen)
	require.NoError(t, err)
	link := &Link{listener: l, target: target}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", target)
			if err != nil {
				_ = from.Close()
				continue
			}
			link.mu.Lock()
			link.conns = append(link.conns, from, to)
			link.mu.Unlock()
			pumps.Go(func() { link.pump(from, to) })
			pumps.Go(func() { link.pump(to, from) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		link.mu.Lock()
		for _, c := range link.conns {
			_ = c.Close()
		}
		link.mu.Unlock()
		pumps.Wait()
	})
	return link
}

// Address returns the link's address.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Cut cuts the link until Mend.
func (l *Link) Cut() { l.gate.Lock() }

// Mend restores the link.
func (l *Link) Mend() { l.gate.Unlock() }

func (l *Link) pump(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		l.gate.RLock()
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		l.gate.RUnlock()
		if err != nil {
			return
		}
	}
}
