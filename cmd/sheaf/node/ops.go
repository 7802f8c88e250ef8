package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sheaf/services/ingress"
)

// newRegistry returns the registry of a process, with the metrics that belong to no service.
func (n *node) newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	version := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	gauge := func(name, help string, labels prometheus.Labels, value func() bool) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			if value() {
				return 1
			}
			return 0
		})
	}
	r.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("sheaf_build_info", "The build; always 1.", prometheus.Labels{"version": version, "goversion": runtime.Version()}, func() bool { return true }),
		gauge("sheaf_nats_connected", "Whether the connection to NATS is up.", nil, func() bool {
			return n.phase.Load() != phaseStarting && n.conn.IsConnected()
		}),
		gauge("sheaf_ready", "Whether this process can work.", nil, func() bool { return n.ready() == nil }),
	)
	return r
}

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

// opsServer serves operators from the first moment of a start until the process closes: metrics, liveness and
// readiness. It has its own listener, because callers must not see them.
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
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
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
	}}
	go func() {
		o.err = o.server.Serve(listener)
		close(o.ended)
	}()
	return o
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
