package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sheaf/services/ingress"
)

// Phases of a process. Before phaseWorking other goroutines may set the fields of the node, and in
// phaseStopping they may close them, so the operators' handlers read neither.
const (
	phaseStarting int32 = iota
	phaseWorking
	phaseStopping
)

// ready returns why this process cannot work, for operators.
func (n *node) ready() error {
	switch n.phase.Load() {
	case phaseStarting:
		return n.startup.reason()
	case phaseStopping:
		return errors.New("shutting down")
	}
	if !n.conn.IsConnected() {
		return errors.New("no connection to NATS")
	}
	return n.health()
}

// opsServer serves operators from the first moment of a start until the process closes: metrics, liveness,
// readiness and profiles. It has its own listener, because callers must not see them.
type opsServer struct {
	listener net.Listener
	server   *http.Server
	ended    chan struct{} // closed when it no longer serves, because of err
	err      error
}

func (n *node) serveOps(listener net.Listener) *opsServer {
	if !loopbackAddress(n.cfg.Ops) {
		n.log.Warn("metrics and health can be read from other machines without authentication: keep the address of --ops private", "ops", n.cfg.Ops)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // without cmdline: a flag can hold the secret key
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("verbose") {
			n.serveChecks(w, r)
			return
		}
		if n.phase.Load() == phaseWorking {
			if in, ok := n.roles[roleIngress].(*ingress.Service); ok {
				in.Ready(w, r) // it knows more, such as the lag of the projection
				return
			}
		}
		if err := n.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	o := &opsServer{listener: listener, ended: make(chan struct{}), server: &http.Server{
		Handler: onlyOwnHosts(listener.Addr(), mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}}
	go func() {
		o.err = o.server.Serve(listener)
		close(o.ended)
	}()
	return o
}

// onlyOwnHosts refuses other names than those of this machine while the address is a loopback one. A page of a
// site whose name resolves to 127.0.0.1 could otherwise read profiles and metrics.
func onlyOwnHosts(listen net.Addr, next http.Handler) http.Handler {
	if tcp, ok := listen.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return next
	}
	own := ingress.OwnHosts(listen)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !own(r.Host) {
			http.Error(w, "call this address as 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// watch returns an error if the server fails before ctx ends.
func (o *opsServer) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-o.ended:
		return fmt.Errorf("serving --ops: %w", o.err)
	}
}

func (o *opsServer) close() {
	_ = o.server.Close()
	<-o.ended
}
