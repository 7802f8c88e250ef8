package node

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sheaf/events"
	"sheaf/events/journal"
)

// processMetrics holds the metrics of a process that belong to no service. No label holds a key, tenant,
// host, user or path.
type processMetrics struct {
	registry   *prometheus.Registry
	outcomes   *prometheus.CounterVec   // outcome, error_code
	seconds    *prometheus.HistogramVec // outcome
	reconnects prometheus.Counter
}

// newProcessMetrics returns the registry of a process, with the metrics that belong to no service.
func (n *node) newProcessMetrics() *processMetrics {
	r := prometheus.NewRegistry()
	auto := promauto.With(r)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		processGauges{n}, &n.streams)
	m := &processMetrics{
		registry: r,
		outcomes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "sheaf_exports_finished_total", Help: "Exports that this process ended, by outcome and error code.",
		}, []string{"outcome", "error_code"}),
		seconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sheaf_export_duration_seconds", Help: "Time from the request of an export to its end, by outcome.",
			Buckets: []float64{.05, .25, 1, 5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600},
		}, []string{"outcome"}),
		reconnects: auto.NewCounter(prometheus.CounterOpts{
			Name: "sheaf_nats_reconnects_total", Help: "Connections to NATS that were lost and are back.",
		}),
	}
	for _, outcome := range []events.Type{events.TypeCompleted, events.TypeFailed, events.TypeCancelled} {
		m.seconds.WithLabelValues(string(outcome))
		if outcome != events.TypeFailed {
			m.outcomes.WithLabelValues(string(outcome), "")
		}
	}
	return m
}

// ended counts the event that ended an export. There is one for each, so two processes do not count the same
// end.
func (m *processMetrics) ended(ev events.Event) {
	outcome, x := string(ev.Type()), ev.Export
	m.outcomes.WithLabelValues(outcome, x.Failure.Code).Inc()
	m.seconds.WithLabelValues(outcome).Observe(x.FinishedAt.Sub(x.RequestedAt).Seconds())
}

// processGauges computes the state of the process at each scrape.
type processGauges struct{ *node }

var (
	buildDesc = prometheus.NewDesc("sheaf_build_info", "The build; always 1.", []string{"version", "revision", "goversion"}, nil)
	readyDesc = prometheus.NewDesc("sheaf_ready", "Whether this process can work.", nil, nil)
	roleDesc  = prometheus.NewDesc("sheaf_role_up", "Whether a role of this process is running.", []string{"role"}, nil)
	lossDesc  = prometheus.NewDesc("sheaf_losses", "Losses listed in LOSSES.txt, which a person has to read and move away.", nil, nil)
	natsDesc  = prometheus.NewDesc("sheaf_nats_connected", "Whether the connection to NATS is up.", nil, nil)
	freeDesc  = prometheus.NewDesc("sheaf_disk_free_bytes", "Free bytes on the disk of --data.", nil, nil)
	keptDesc  = prometheus.NewDesc("sheaf_disk_reserve_bytes", "Bytes of the disk of --data that new exports leave free.", nil, nil)
	certDesc  = prometheus.NewDesc("sheaf_tls_certificate_not_after_timestamp_seconds", "When the certificate of --tls-cert expires.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (g processGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildDesc, readyDesc, roleDesc, lossDesc, natsDesc, freeDesc, keptDesc, certDesc} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (g processGauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	version, revision := build()
	gauge(buildDesc, 1, version, revision, runtime.Version())
	gauge(readyDesc, number(g.ready() == nil))
	gauge(natsDesc, number(g.phase.Load() != phaseStarting && g.conn.IsConnected()))
	gauge(lossDesc, float64(countLosses(g.cfg.Data)))
	for _, name := range g.roleNames() {
		_, up := g.running.Load(name)
		gauge(roleDesc, number(up), name)
	}
	if d := newDisk(g.cfg.Data); g.cfg.embedded() {
		if size, free, known := d.measure(d.folder); known {
			gauge(freeDesc, float64(free))
			gauge(keptDesc, float64(reserveOf(size)))
		}
	}
	if g.cert != nil {
		if leaf := g.cert.current.Load().Leaf; leaf != nil {
			gauge(certDesc, float64(leaf.NotAfter.Unix()))
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// build returns the version and the commit of this binary.
func build() (version, revision string) {
	version = "(devel)"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if info.Main.Version != "" {
		version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}

// countLosses returns the number of losses that LOSSES.txt lists: its indented lines.
func countLosses(data string) (n int) {
	f, err := os.Open(filepath.Join(data, lossesName))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "  ") {
			n++
		}
	}
	return max(n, 1)
}

// streamsEvery is the interval between two looks at the streams, and streamsWait how long one may take.
const (
	streamsEvery = 15 * time.Second
	streamsWait  = 5 * time.Second
)

// streamGauges reports the streams and consumers as they were at the last look. With a cluster every process
// with an ingress looks, and all see the same.
type streamGauges struct {
	last atomic.Pointer[streamLook]
}

type streamLook struct {
	sizes        []journal.StreamStats
	consumers    []journal.ConsumerStats
	redeliveries func() map[string]uint64
	at           time.Time
}

var (
	streamBytesDesc    = prometheus.NewDesc("sheaf_stream_bytes", "Bytes in a stream.", []string{"stream"}, nil)
	streamLimitDesc    = prometheus.NewDesc("sheaf_stream_limit_bytes", "Bytes that a stream may hold; 0 for no limit.", []string{"stream"}, nil)
	streamMessagesDesc = prometheus.NewDesc("sheaf_stream_messages", "Messages in a stream.", []string{"stream"}, nil)
	pendingDesc        = prometheus.NewDesc("sheaf_consumer_pending_messages", "Messages that no process has received yet.", []string{"consumer"}, nil)
	unackedDesc        = prometheus.NewDesc("sheaf_consumer_unacknowledged_messages", "Messages in work, or waiting for redelivery.", []string{"consumer"}, nil)
	redeliveredDesc    = prometheus.NewDesc("sheaf_consumer_redeliveries_total", "Messages that this process received and that had been delivered before.", []string{"consumer"}, nil)
	pendingAgeDesc     = prometheus.NewDesc("sheaf_consumer_oldest_pending_age_seconds", "Age of the oldest message that no process has received yet; 0 without one.", []string{"consumer"}, nil)
)

// Describe implements [prometheus.Collector].
func (g *streamGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{streamBytesDesc, streamLimitDesc, streamMessagesDesc, pendingDesc, unackedDesc, redeliveredDesc, pendingAgeDesc} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (g *streamGauges) Collect(out chan<- prometheus.Metric) {
	l := g.last.Load()
	if l == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, label string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, label)
	}
	for _, s := range l.sizes {
		gauge(streamBytesDesc, float64(s.Space.Used), s.Name)
		gauge(streamLimitDesc, float64(max(s.Space.Limit, 0)), s.Name)
		gauge(streamMessagesDesc, float64(s.Messages), s.Name)
	}
	redelivered := l.redeliveries()
	for _, c := range l.consumers {
		gauge(pendingDesc, float64(c.Pending), c.Name)
		gauge(unackedDesc, float64(c.Unacknowledged), c.Name)
		age := time.Duration(0)
		if !c.OldestPending.IsZero() {
			age = max(l.at.Sub(c.OldestPending), 0)
		}
		gauge(pendingAgeDesc, age.Seconds(), c.Name)
		out <- prometheus.MustNewConstMetric(redeliveredDesc, prometheus.CounterValue, float64(redelivered[c.Name]), c.Name)
	}
}

// watchStreams looks at the streams until ctx ends. After a failed look there are no values, because old ones
// would hide an outage.
func (n *node) watchStreams(ctx context.Context) {
	if n.ops == nil || !n.cfg.has(roleIngress) && n.server == nil {
		return
	}
	tick := time.NewTicker(streamsEvery)
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, streamsWait)
		sizes, consumers, err := n.journal.Stats(asked)
		cancel()
		if err == nil {
			n.streams.last.Store(&streamLook{sizes, consumers, n.journal.Redeliveries, time.Now()})
		} else {
			n.streams.last.Store(nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// roleNames returns the roles of this process.
func (n *node) roleNames() []string {
	names := n.cfg.Roles
	if n.cfg.has(roleIngress) {
		names = append(names[:len(names):len(names)], roleKeeper)
	}
	return names
}
