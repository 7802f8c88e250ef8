package notifier

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the notifier. No label holds a key, tenant, host, user or path.
type metrics struct {
	attempts *prometheus.CounterVec // outcome: delivered, failed or given_up; transport: http or nats
	seconds  prometheus.Histogram
	pending  prometheus.Gauge
	givenUp  *prometheus.CounterVec // reason, see givenUpReasons
	busy     prometheus.Gauge
}

// Reasons why a callback is given up.
const (
	givenUpExhausted = "exhausted" // the last attempt of the schedule failed
	givenUpGone      = "gone"      // the receiver answered 410
	givenUpLate      = "late"      // the host had no place for it in time
	givenUpInvalid   = "invalid"   // it cannot be sent
)

var givenUpReasons = []string{givenUpExhausted, givenUpGone, givenUpLate, givenUpInvalid}

func newMetrics(r prometheus.Registerer) *metrics {
	auto := promauto.With(r)
	role := prometheus.Labels{"role": "notifier"}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sheaf_workers", Help: "Tasks that a role of this process works on at once, at most.", ConstLabels: role,
	}, func() float64 { return (maxWeight + maxSilent) / callbackWeight })
	m := &metrics{
		attempts: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_callback_attempts_total", Help: "Attempts at callbacks, by outcome and transport.",
		}, []string{"outcome", "transport"}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "sheaf_callback_attempt_duration_seconds", Help: "Time of one attempt at a callback.",
			Buckets: []float64{.005, .025, .1, .5, 1, 2.5, 5, 10, 15},
		}),
		pending: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_callbacks_pending", Help: "Callbacks that this process sends now, or that wait for a place at their host.",
		}),
		givenUp: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_callbacks_given_up_total", Help: "Callbacks that were given up, by reason.",
		}, []string{"reason"}),
		busy: auto.NewGauge(prometheus.GaugeOpts{
			Name: "sheaf_workers_busy", Help: "Tasks that a role of this process works on now.", ConstLabels: role,
		}),
	}
	for _, transport := range []string{"http", "nats"} {
		for _, outcome := range []string{"delivered", "failed", "given_up"} {
			m.attempts.WithLabelValues(outcome, transport)
		}
	}
	for _, reason := range givenUpReasons {
		m.givenUp.WithLabelValues(reason)
	}
	return m
}

// givenUpReason classifies the last attempt of a callback that was given up.
func givenUpReason(o outcome) string {
	switch {
	case o.reason == reasonBusy:
		return givenUpLate
	case o.status == http.StatusGone:
		return givenUpGone
	case o.final:
		return givenUpInvalid
	}
	return givenUpExhausted
}
