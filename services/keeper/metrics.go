package keeper

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics holds the metrics of the keeper, all with the label service. No label holds a key, tenant, host,
// user or path.
type metrics struct {
	ended   *prometheus.CounterVec // outcome, error_code
	removed *prometheus.CounterVec // what: expired, history, pages, strays or orphans
}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"service": "keeper"}, r))
	return &metrics{
		ended: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_exports_finished_total", Help: "Exports that ended, by outcome and error code.",
		}, []string{"outcome", "error_code"}),
		removed: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_keeper_removed_total", Help: "What was removed because its time was over, in exports or files.",
		}, []string{"what"}),
	}
}
