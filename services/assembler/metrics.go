package assembler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the assembler. No label holds a key, tenant, host, user or path.
type metrics struct {
	rows, bytes prometheus.Counter
	seconds     prometheus.Histogram
	busy        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, workbooks int) *metrics {
	auto := promauto.With(r)
	role := prometheus.Labels{"role": "assembler"}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_workers", Help: "Tasks that a role of this process works on at once, at most.", ConstLabels: role,
	}, func() float64 { return float64(workbooks) })
	return &metrics{
		rows: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_assembler_rows_total", Help: "Rows of finished files.",
		}),
		bytes: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_assembler_workbook_bytes_total", Help: "Bytes of finished files.",
		}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "sheaf_assembler_workbook_duration_seconds", Help: "Time from the first page to the durable file.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10), // to 22 minutes
		}),
		busy: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_workers_busy", Help: "Tasks that a role of this process works on now.", ConstLabels: role,
		}),
	}
}
