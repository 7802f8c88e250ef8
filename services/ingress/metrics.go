package ingress

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics holds the metrics of the ingress. No label holds a key, tenant, host, user or path.
type metrics struct {
	requests    *prometheus.CounterVec   // route, method, code
	seconds     *prometheus.HistogramVec // route, method
	inFlight    prometheus.Gauge
	streams     *prometheus.GaugeVec   // kind: watch, console or share
	operations  *prometheus.CounterVec // operation, errcode
	submissions *prometheus.CounterVec // source_type, via, outcome
	append      prometheus.Histogram
	refused     *prometheus.CounterVec // reason, see refusals
	downloads   *prometheus.CounterVec // outcome
	sent        prometheus.Counter
	busy        prometheus.Gauge
}

// refusals names why a caller was not let in, by the errcode of the answer.
var refusals = map[int]string{
	errcodeUnauthorized: "key", errcodeScope: "scope", errcodeForbidden: "origin", errcodeMisdirected: "host",
}

// Outcomes of downloads.
const (
	downloadSent       = "sent"
	downloadRedirected = "redirected" // to the server of the file store
	downloadCut        = "cut"        // the caller went away, or the file became unreadable meanwhile
	downloadExpired    = "expired"    // the link or its file
	downloadUnknown    = "unknown"    // the link was never handed out
	downloadFailed     = "failed"     // the file cannot be read
)

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(r)
	role := prometheus.Labels{"role": "ingress"}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_workers", Help: "Tasks that a role of this process works on at once, at most.", ConstLabels: role,
	}, func() float64 { return maxCalls })
	m := &metrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_http_requests_total", Help: "Requests by REST.",
		}, []string{"route", "method", "code"}),
		seconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sheaf_http_request_duration_seconds", Help: "Time from the headers of a request to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 10},
		}, []string{"route", "method"}),
		inFlight: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_http_requests_in_flight", Help: "Requests by REST that are being answered, streams included.",
		}),
		streams: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sheaf_http_streams", Help: "Open streams of server-sent events.",
		}, []string{"kind"}),
		operations: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_api_requests_total", Help: "Operations by REST, NATS and submission, by the errcode of the answer.",
		}, []string{"operation", "errcode"}),
		submissions: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_submissions_total", Help: "Submissions: begun, or known for an equal one, or the reason of the refusal.",
		}, []string{"source_type", "via", "outcome"}),
		append: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "sheaf_submission_append_duration_seconds", Help: "Time to write the event that begins an export.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .1, .5, 1, 5},
		}),
		refused: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_auth_failures_total", Help: "Requests by REST that were not let in, by reason.",
		}, []string{"reason"}),
		downloads: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_downloads_total", Help: "Downloads of finished files, by outcome.",
		}, []string{"outcome"}),
		sent: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_download_bytes_total", Help: "Bytes of finished files that were sent.",
		}),
		busy: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_workers_busy", Help: "Tasks that a role of this process works on now.", ConstLabels: role,
		}),
	}
	for _, kind := range []string{streamWatch, streamConsole, streamShare} {
		m.streams.WithLabelValues(kind)
	}
	for _, reason := range refusals {
		m.refused.WithLabelValues(reason)
	}
	for _, outcome := range []string{downloadSent, downloadRedirected, downloadCut, downloadExpired, downloadUnknown, downloadFailed} {
		m.downloads.WithLabelValues(outcome)
	}
	return m
}

// routeOf returns the pattern and the method of an answered request. Their number is bounded.
func routeOf(r *http.Request) (route, method string) {
	route = "(none)"
	if c := chi.RouteContext(r.Context()); c != nil && c.RoutePattern() != "" {
		route = c.RoutePattern()
	}
	method = "other" // callers can send any method
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost {
		method = r.Method
	}
	return route, method
}

// request counts an answered request. errcode is that of its envelope, 0 for none.
func (m *metrics) request(r *http.Request, status, errcode int, elapsed time.Duration) {
	route, method := routeOf(r)
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route, method).Observe(elapsed.Seconds())
	if reason, ok := refusals[errcode]; ok {
		m.refused.WithLabelValues(reason).Inc()
	}
}

// operation counts an operation that has ended.
func (m *metrics) operation(c *call, data any, err error) {
	errcode := 0
	if err != nil {
		errcode = asAPIError(err).Errcode
	}
	m.operations.WithLabelValues(c.operation, strconv.Itoa(errcode)).Inc()
	if !submits(c.operation) && c.operation != "convert" {
		return
	}
	via := "rest"
	switch {
	case c.submission != nil:
		via = "stream"
	case c.onNATS:
		via = "nats"
	}
	outcome := "known"
	if a, ok := data.(accepted); ok && a.begun {
		outcome = "begun"
	}
	if err != nil {
		outcome = refusal(asAPIError(err).Status)
	}
	m.submissions.WithLabelValues(c.operation, via, outcome).Inc()
}

// refusal classifies a refused submission by the status of its answer.
func refusal(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "quota"
	case status == http.StatusServiceUnavailable:
		return "unavailable"
	case status >= http.StatusInternalServerError:
		return "internal"
	}
	return "invalid"
}
