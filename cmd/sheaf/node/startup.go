package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"sheaf/services/ingress"
)

const (
	// doorAfter is how long a start may take before callers are told to come
	// again. Those that came before are kept waiting: most starts take a
	// fraction of that.
	doorAfter = time.Second
	// doorWait is how long answers of a closed door may take to leave.
	doorWait = time.Second
)

// door answers on the ingress's listener while the process cannot: it has not
// started yet. The zero value, and one without a listener, keeps callers waiting.
type door struct {
	listener net.Listener // nil without the ingress role

	mu     sync.Mutex
	why    ingress.NotReady
	handed bool
	server *http.Server // nil while it is open
	served chan error
}

// close has callers answered with why, from now on or instead of another reason.
func (d *door) close(why ingress.NotReady) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why = why
	if d.listener == nil || d.server != nil || d.handed {
		return
	}
	d.server = &http.Server{
		Handler:           ingress.Closed(slog.Default(), d.reason),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	// A caller's next request is for whoever has the listener then.
	d.server.SetKeepAlivesEnabled(false)
	d.served = make(chan error, 1)
	go func() { d.served <- d.server.Serve(lentListener{d.listener}) }()
}

// say sets the reason, and leaves the door as it is.
func (d *door) say(why ingress.NotReady) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why = why
}

func (d *door) reason() ingress.NotReady {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why
}

// hand gives the listener back, open and with whoever has not been let in yet.
func (d *door) hand() {
	d.mu.Lock()
	server := d.server
	d.handed = true
	d.mu.Unlock()
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), doorWait)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
	if err := <-d.served; !errors.Is(err, http.ErrServerClosed) {
		slog.Warn("answering during the start", "error", err)
	}
	_ = deadline(d.listener, time.Time{})
}

// lentListener is a listener that its server cannot close: it only stops to
// accept.
type lentListener struct{ net.Listener }

func (l lentListener) Close() error { return deadline(l.Listener, time.Now()) }

// deadline bounds how long a listener waits for the next connection.
func deadline(l net.Listener, t time.Time) error {
	if l, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
		return l.SetDeadline(t)
	}
	return errors.New("the listener knows no deadline")
}
