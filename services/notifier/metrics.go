package notifier

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics holds the metrics of the notifier, all with the label service. No label holds a key, tenant, host,
// user or path.
type metrics struct {
	attempts *prometheus.CounterVec // outcome: delivered, failed or given_up; transport: http or nats
}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"service": "notifier"}, r))
	return &metrics{
		attempts: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_callback_attempts_total", Help: "Attempts at callbacks, by what came of them.",
		}, []string{"outcome", "transport"}),
	}
}
