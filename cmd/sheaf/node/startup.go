package node

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sheaf/services/ingress"
)

const (
	// startupAfter is how long a start may take before callers get 503. Earlier callers wait: most starts
	// take a fraction of that.
	startupAfter = 200 * time.Millisecond
	// startupWait is how long the last responses may take to be sent.
	startupWait = time.Second
)

// startupServer answers on the ingress's listener while the process starts: 503 with the reason, and 200 to
// /healthz.
type startupServer struct {
	why  atomic.Value // ingress.NotReady
	stop func()       // returns the listener, open and with its pending connections
}

// say sets the reason.
func (s *startupServer) say(why string) { s.why.Store(ingress.NotReady(why)) }

func (s *startupServer) reason() ingress.NotReady { return s.why.Load().(ingress.NotReady) }

// serveStartup starts to answer after startupAfter. Without a listener it only stores the reason. listener
// accepts from tcp.
func (n *node) serveStartup(listener net.Listener, tcp *net.TCPListener) *startupServer {
	s := &startupServer{stop: func() {}}
	s.say("starting; try again")
	if listener == nil {
		return s
	}
	handler := ingress.Closed(n.cfg.Log, s.reason)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}
	server.SetKeepAlivesEnabled(false) // a caller's next request must reach the ingress
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		select {
		case <-ctx.Done():
		case <-time.After(startupAfter):
			_ = server.Serve(lentListener{listener, tcp}) // stop ends it, or the ingress meets the same error
		}
	}()
	s.stop = func() {
		cancel()
		within, done := context.WithTimeout(context.Background(), startupWait)
		defer done()
		if server.Shutdown(within) != nil {
			_ = server.Close()
		}
		<-served
		_ = tcp.SetDeadline(time.Time{})
	}
	return s
}

// lentListener is a listener that its server cannot close: the server only stops accepting.
type lentListener struct {
	net.Listener
	tcp *net.TCPListener
}

func (l lentListener) Close() error { return l.tcp.SetDeadline(time.Now()) }
