package crawler

import (
	"time"

	"sheaf/events/leases"
	"sheaf/services/crawler/source"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the crawler. No label holds a key, tenant, host, user or path.
type metrics struct {
	pages       *prometheus.CounterVec // outcome: stored or failed
	retries     *prometheus.CounterVec // reason, see source.Failure.Reason
	rows, bytes prometheus.Counter
	seconds     prometheus.Histogram
	inFlight    prometheus.Gauge
	busy        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, exports int, leases *leases.Exchange) *metrics {
	auto := promauto.With(r)
	role := prometheus.Labels{"role": "crawler"}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_workers", Help: "Tasks that a role of this process works on at once, at most.", ConstLabels: role,
	}, func() float64 { return float64(exports) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_crawler_leases_held", Help: "Requests to sources that this process may have in flight, over all limits that processes share.",
	}, func() float64 {
		held, _ := leases.Sums()
		return float64(held)
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_crawler_leases_wanted", Help: "Leases of limits that processes share that this process would use.",
	}, func() float64 {
		_, wanted := leases.Sums()
		return float64(wanted)
	})
	m := &metrics{
		pages: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_crawler_pages_total", Help: "Pages of sources, by outcome.",
		}, []string{"outcome"}),
		retries: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_crawler_page_retries_total", Help: "Requests to sources that were repeated, by reason.",
		}, []string{"reason"}),
		rows: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_crawler_rows_total", Help: "Rows of stored pages.",
		}),
		bytes: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_crawler_page_bytes_total", Help: "Bytes of the rows of stored pages, as JSON.",
		}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "sheaf_crawler_page_duration_seconds", Help: "Time of a request that brought a page, up to the last byte.",
			Buckets: []float64{.005, .02, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		inFlight: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_crawler_requests_in_flight", Help: "Requests to sources that are under way.",
		}),
		busy: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_workers_busy", Help: "Tasks that a role of this process works on now.", ConstLabels: role,
		}),
	}
	for _, outcome := range []string{"stored", "failed"} {
		m.pages.WithLabelValues(outcome)
	}
	for _, reason := range source.Reasons {
		m.retries.WithLabelValues(reason)
	}
	return m
}

// request counts a request to a source, which ends with the call of ended.
func (m *metrics) request() (ended func(*source.Failure)) {
	m.inFlight.Inc()
	begin := time.Now()
	return func(f *source.Failure) {
		m.inFlight.Dec()
		if f == nil {
			m.seconds.Observe(time.Since(begin).Seconds())
		}
	}
}
