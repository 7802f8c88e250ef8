package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sheaf/services/ingress"
)

// newRegistry returns the registry of a process, with what no service counts.
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
		gauge("sheaf_nats_connected", "Whether the connection to NATS is up.", nil, n.conn.IsConnected),
		gauge("sheaf_ready", "Whether this process can work.", nil, func() bool { return n.ready() == nil }),
	)
	return r
}

// ready returns why this process cannot work, for operators.
func (n *node) ready() error {
	if !n.conn.IsConnected() {
		return errors.New("no connection to NATS")
	}
	return n.health()
}

// serveOps serves operators until ctx ends: metrics, and whether the process is alive and
// ready. It has a listener of its own, because none of that is for callers.
func (n *node) serveOps(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "alive") })
	ready := func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	}
	if in, ok := n.roles[roleIngress].(*ingress.Service); ok {
		ready = in.Ready // it knows more, such as how far the projection is
	}
	mux.HandleFunc("GET /readyz", ready)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(n.ops); ctx.Err() == nil {
		return fmt.Errorf("serving --ops: %w", err)
	}
	return nil
}
