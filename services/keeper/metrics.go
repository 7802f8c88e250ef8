package keeper

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the keeper. No label holds a key, tenant, host, user or path.
type metrics struct {
	removed *prometheus.CounterVec // what: expired, history, pages, strays or orphans
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		removed: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_sweeper_removed_total", Help: "Exports or files that were removed because their time was over.",
		}, []string{"what"}),
	}
	for _, what := range []string{"expired", "history", "pages", "strays", "orphans"} {
		m.removed.WithLabelValues(what)
	}
	return m
}
