package crawler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the crawler, all with the label service. No label holds a key, tenant, host, user or path.
type metrics struct {
	ended              *prometheus.CounterVec // outcome, error_code
	pages              *prometheus.CounterVec // outcome: stored or failed
	rows, bytes, again prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"service": "crawler"}, r))
	return &metrics{
		ended: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_exports_finished_total", Help: "Exports that ended, by outcome and error code.",
		}, []string{"outcome", "error_code"}),
		pages: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_crawler_pages_total", Help: "Pages of sources, by outcome.",
		}, []string{"outcome"}),
		rows: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_crawler_rows_total", Help: "Rows of stored pages.",
		}),
		bytes: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_crawler_page_bytes_total", Help: "Bytes of the rows of stored pages, as JSON.",
		}),
		again: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_crawler_page_retries_total", Help: "Requests to sources after the first one for a page.",
		}),
	}
}
