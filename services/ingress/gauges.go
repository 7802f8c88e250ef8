package ingress

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sheaf/events"
	"sheaf/storage"
)

// gauges computes, at each scrape, what the projection knows. All ingresses with one log report the same.
type gauges struct{ *Service }

var (
	unfinishedDesc = prometheus.NewDesc("sheaf_exports_unfinished", "Exports that have not ended, by phase.", []string{"phase"}, nil)
	oldestDesc     = prometheus.NewDesc("sheaf_oldest_unfinished_export_age_seconds", "Age of the oldest export that has not ended, by phase; 0 without one.", []string{"phase"}, nil)
	storedDesc     = prometheus.NewDesc("sheaf_exports_stored", "Exports in the history, by state.", []string{"state"}, nil)
	filesDesc      = prometheus.NewDesc("sheaf_files_stored_bytes", "Bytes of finished files that have not expired.", nil, nil)
	lagDesc        = prometheus.NewDesc("sheaf_projection_lag_events", "Events of the log that this ingress has not applied yet.", nil, nil)
)

// Metrics of the tenants of Config.MetricsTenants.
var (
	tenantExportsDesc    = prometheus.NewDesc("sheaf_tenant_exports", "Exports in the history of a tenant.", []string{"tenant"}, nil)
	tenantUnfinishedDesc = prometheus.NewDesc("sheaf_tenant_exports_unfinished", "Exports of a tenant that have not ended.", []string{"tenant"}, nil)
	tenantFilesDesc      = prometheus.NewDesc("sheaf_tenant_files_bytes", "Bytes of a tenant's finished files that have not expired.", []string{"tenant"}, nil)
	tenantLogDesc        = prometheus.NewDesc("sheaf_tenant_log_bytes", "Bytes that a tenant's exports take in the log, about.", []string{"tenant"}, nil)
)

// otherTenants is the label of all tenants beyond Config.MetricsTenants. A tenant of that name is one of them.
const otherTenants = "other"

// phases are the phases of exports that have not ended.
var phases = []string{
	events.PhaseQueued, events.PhaseCrawling, events.PhaseWaitingForSource, events.PhaseWaitingForSpace, events.PhaseAssembling,
}

// maxPhases is how many exports, the oldest first, a scrape reads to know their phases. Others count as
// queued.
const maxPhases = 10_000

// Describe implements [prometheus.Collector].
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{unfinishedDesc, oldestDesc, storedDesc, filesDesc, lagDesc,
		tenantExportsDesc, tenantUnfinishedDesc, tenantFilesDesc, tenantLogDesc} {
		out <- d
	}
}

// Collect implements [prometheus.Collector]. Before the projection is open, and after it is closed, there are
// no values.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	behind, _ := g.lag.of(g.tasks.Applied())
	gauge(lagDesc, float64(behind))

	counts, oldest, now := map[string]int{}, map[string]time.Duration{}, time.Now()
	others, err := g.tasks.Unfinished(maxPhases, func(x *events.Export) error {
		phase := g.progress.of(x).Phase
		counts[phase]++
		oldest[phase] = max(oldest[phase], now.Sub(x.RequestedAt))
		return nil
	})
	if err != nil {
		return
	}
	counts[events.PhaseQueued] += others
	for _, phase := range phases {
		gauge(unfinishedDesc, float64(counts[phase]), phase)
		gauge(oldestDesc, oldest[phase].Seconds(), phase)
	}
	usages, err := g.tasks.Usages()
	if err != nil {
		return
	}
	for name, u := range largest(usages, g.cfg.MetricsTenants) {
		gauge(tenantExportsDesc, float64(u.Exports), name)
		gauge(tenantUnfinishedDesc, float64(u.Unfinished), name)
		gauge(tenantFilesDesc, float64(u.FileBytes), name)
		gauge(tenantLogDesc, float64(u.Bytes), name)
	}
	var all storage.Usage
	for _, u := range usages {
		all.Unfinished, all.FileBytes = all.Unfinished+u.Unfinished, all.FileBytes+u.FileBytes
		all.Succeeded, all.Failed, all.Cancelled = all.Succeeded+u.Succeeded, all.Failed+u.Failed, all.Cancelled+u.Cancelled
	}
	for state, n := range map[string]int{
		"unfinished": all.Unfinished, "succeeded": all.Succeeded, "failed": all.Failed, "cancelled": all.Cancelled,
	} {
		gauge(storedDesc, float64(n), state)
	}
	gauge(filesDesc, float64(all.FileBytes))
}

// largest returns the usage of the n tenants with most exports, and the sum of the others; nil for n 0.
func largest(usages map[string]storage.Usage, n int) map[string]storage.Usage {
	if n <= 0 {
		return nil
	}
	names := slices.SortedFunc(maps.Keys(usages), func(a, b string) int {
		return cmp.Or(cmp.Compare(usages[b].Exports, usages[a].Exports), cmp.Compare(a, b))
	})
	shown := map[string]storage.Usage{}
	for i, name := range names {
		u := usages[name]
		if i >= n {
			name = otherTenants
		}
		sum := shown[name]
		sum.Exports, sum.Unfinished = sum.Exports+u.Exports, sum.Unfinished+u.Unfinished
		sum.FileBytes, sum.Bytes = sum.FileBytes+u.FileBytes, sum.Bytes+u.Bytes
		shown[name] = sum
	}
	return shown
}
