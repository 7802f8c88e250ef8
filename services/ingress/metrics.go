package ingress

import (
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics holds the metrics of the ingress, all with the label service. No label holds a key, tenant, host,
// user or path.
type metrics struct {
	requests   *prometheus.CounterVec // route, method, code
	operations *prometheus.CounterVec // operation, errcode
	ended      *prometheus.CounterVec // outcome, error_code
}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"service": "ingress"}, r))
	return &metrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_http_requests_total", Help: "Requests by REST.",
		}, []string{"route", "method", "code"}),
		operations: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_api_requests_total", Help: "Operations by REST, NATS and submission, by the errcode of the answer.",
		}, []string{"operation", "errcode"}),
		ended: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_exports_finished_total", Help: "Exports that ended, by outcome and error code.",
		}, []string{"outcome", "error_code"}),
	}
}

// request counts an answered request.
func (m *metrics) request(r *http.Request, status int) {
	route := "(none)"
	if c := chi.RouteContext(r.Context()); c != nil && c.RoutePattern() != "" {
		route = c.RoutePattern()
	}
	method := "other" // callers can send any method
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost {
		method = r.Method
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
}
