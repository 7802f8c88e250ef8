package assembler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the assembler, all with the label service. No label holds a key, tenant, host, user or path.
type metrics struct {
	ended       *prometheus.CounterVec // outcome, error_code
	rows, bytes prometheus.Counter
	seconds     prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"service": "assembler"}, r))
	return &metrics{
		ended: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_exports_finished_total", Help: "Exports that ended, by outcome and error code.",
		}, []string{"outcome", "error_code"}),
		rows: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_assembler_rows_total", Help: "Rows of finished workbooks.",
		}),
		bytes: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_assembler_workbook_bytes_total", Help: "Bytes of finished workbooks.",
		}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "sheaf_assembler_workbook_duration_seconds", Help: "Time from the first page to the durable file.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10), // to 22 minutes
		}),
	}
}
