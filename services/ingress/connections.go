package ingress

import (
	"net"
	"net/netip"
	"sync"
)

// perAddress is a listener that closes what one address, of IPv6 one network of 64
// bits, opens beyond a number of connections. Loopback is not counted: there a proxy
// stands for all callers.
type perAddress struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[netip.Prefix]int
}

func limitPerAddress(l net.Listener, most int) net.Listener {
	return &perAddress{Listener: l, most: most, open: map[netip.Prefix]int{}}
}

func (l *perAddress) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, ok := networkOf(conn.RemoteAddr())
		if !ok {
			return conn, nil
		}
		if l.enter(from) {
			return &countedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		_ = conn.Close()
	}
}

func (l *perAddress) enter(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= l.most {
		return false
	}
	l.open[from]++
	return true
}

func (l *perAddress) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

// networkOf is whom an address is counted for; ok is false of who is not counted.
func networkOf(addr net.Addr) (from netip.Prefix, ok bool) {
	tcp, isTCP := addr.(*net.TCPAddr)
	if !isTCP {
		return from, false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.IsLoopback() {
		return from, false
	}
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	from, err := ip.Prefix(bits)
	return from, err == nil
}

type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
