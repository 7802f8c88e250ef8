// Package notifier sends callbacks: it reports to callers how their exports ended.
//
// # What it promises
//
//   - Every completed, failed or cancelled export that asked for a callback gets it at least once. Otherwise
//     the callback is given up and the log holds the reason. Neither a crash nor a restart loses an attempt.
//   - Each attempt leaves exactly one event: callback_delivered (2xx), callback_attempted (with the time of
//     the next one) or callback_failed.
//   - The webhook-id is the same for all attempts of one ending, and differs between endings, so that
//     receivers can ignore repeats. A crash between an answer and its event repeats a callback, and so do two
//     notifiers that get the same event.
//   - A dead or slow receiver delays only its own callbacks.
//
// If an export is requested again before its callback arrived, the callback reports only the new ending.
package notifier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/tracing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"
)

// Config bounds the deliveries.
type Config struct {
	PublicURL   string                // base of the download links; required
	Schedule    []time.Duration       // pauses between attempts, end to start; default DefaultSchedule
	Timeout     time.Duration         // of one attempt, from the connection to the status; default 15s
	Slots       int                   // events handled concurrently, see DESIGN.md; default 64
	PerHost     int                   // concurrent attempts at one host and port; default 4
	KeepHistory time.Duration         // from the ending to the last attempt; default 168h
	Log         *slog.Logger          // default: nothing is logged
	Metrics     prometheus.Registerer // default: none
}

const (
	// timerEarly is the tolerance for schedules that fire early: the server works in whole seconds
	// (measured), and clocks differ.
	timerEarly = 1500 * time.Millisecond
	// drainFor bounds the attempts under way after the drain began. recordFor bounds each write of a result:
	// its event, then the schedule of the next attempt. A write usually takes milliseconds.
	drainFor, recordFor = 5 * time.Second, 8 * time.Second
)

var (
	errEarly      = errors.New("the timer fired early")
	errHandedBack = errors.New("attempt given up to drain")
	errOvertaken  = errors.New("another notifier recorded this attempt first")
	errNothing    = errors.New("nothing is due")
	errBusy       = errors.New("an attempt at this callback is under way")
	errMoved      = errors.New("the export has moved on since it was read")
)

// Service delivers callbacks. Several may run on the same streams.
type Service struct {
	cfg      Config
	journal  *journal.Log
	client   Client
	bodies   bodies
	hosts    *hosts
	metrics  *metrics
	claimed  sync.Map // tenant.key of the exports in progress
	drainFor time.Duration
}

// Client sends callbacks. It decides which addresses are allowed, follows no redirect and keeps no cookie. A
// context must end its requests and the reading of their answers.
type Client interface {
	Do(req *http.Request) (*http.Response, error)
}

// New checks cfg and returns a notifier.
func New(cfg Config, log *journal.Log, client Client) (*Service, error) {
	if log == nil || client == nil {
		return nil, errors.New("notifier: a log and client are required")
	}
	u, err := url.Parse(cfg.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("notifier: public URL %q: want http://host or https://host", cfg.PublicURL)
	}
	if cfg.Schedule == nil {
		cfg.Schedule = DefaultSchedule()
	}
	for i, d := range cfg.Schedule {
		if d <= 0 {
			return nil, fmt.Errorf("notifier: pause %d of the callback schedule is %v, want more than 0", i+1, d)
		}
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 15*time.Second)
	cfg.KeepHistory = cmp.Or(cfg.KeepHistory, 168*time.Hour)
	cfg.Slots, cfg.PerHost = cmp.Or(cfg.Slots, 64), cmp.Or(cfg.PerHost, 4)
	if cfg.Timeout < 0 || cfg.KeepHistory < 0 || cfg.Slots < 0 || cfg.PerHost < 0 {
		return nil, errors.New("notifier: timeout, keep-history, slots and per-host must be more than 0")
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)).With("service", "notifier")
	return &Service{
		cfg: cfg, journal: log, client: client,
		bodies:   bodies{keys: log.Keys(), publicURL: cfg.PublicURL},
		hosts:    newHosts(cfg.PerHost, cfg.Timeout),
		metrics:  newMetrics(cfg.Metrics),
		drainFor: drainFor,
	}, nil
}

// Run delivers callbacks until ctx ends. Then it takes no more work, lets attempts finish for at most 5 s,
// returns the others to the stream, and returns nil. An error means that the streams could not be consumed.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// Attempts outlive ctx by drainFor.
	posting, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.drainFor, cut) })()

	group.Go(func() error {
		return s.journal.Consume(ctx, events.StreamEvents, events.ConsumerNotifier, s.cfg.Slots, func(ctx context.Context, d journal.Delivery) error {
			return s.onEnded(ctx, posting, d)
		})
	})
	group.Go(func() error {
		return s.journal.Consume(ctx, events.StreamTimers, events.ConsumerDueCallback, s.cfg.Slots, func(ctx context.Context, d journal.Delivery) error {
			return s.onDue(ctx, posting, d)
		})
	})
	return group.Wait()
}

// onEnded handles a terminal event, or a request to deliver its callback again. The event may be a repeat, so
// the leader's state of the export decides.
func (s *Service) onEnded(ctx, posting context.Context, d journal.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	return s.look(ctx, posting, d, ev, func(x *events.Export) error {
		d.Concerns(x)
		if !ends(ev, x) {
			return errNothing
		}
		if wait := untilDue(x); wait > 0 {
			// A process died between the event of an attempt and its schedule.
			return cmp.Or(s.schedule(ctx, x, x.Callback.NextAt), errNothing)
		}
		return nil
	})
}

// ends reports whether an event is about the newest ending of an export.
func ends(ev events.Event, x *events.Export) bool {
	if again, ok := ev.Payload.(*events.CallbackRequested); ok {
		return again.Terminal == x.TerminalSeq
	}
	return ev.Sequence == x.TerminalSeq
}

// onDue handles a schedule that fired. A schedule names only a key; onDue makes the attempt that is due for
// that key.
func (s *Service) onDue(ctx, posting context.Context, d journal.Delivery) error {
	tenant, key, err := journal.DueCallback(d.Subject)
	if err != nil {
		return journal.Permanent(err)
	}
	return s.look(ctx, posting, d, events.Event{Tenant: tenant, Key: key}, func(x *events.Export) error {
		d.Concerns(x)
		switch wait := untilDue(x); {
		case wait > time.Minute:
			// The message belongs to an earlier schedule.
			return cmp.Or(s.schedule(ctx, x, x.Callback.NextAt), errNothing)
		case wait > 0:
			// A delay, not a time of day: with a server clock ahead of ours, a schedule would fire at once,
			// over and over.
			return journal.RetryAfter(errEarly, wait)
		}
		return nil
	})
}

// look reads the export of an event and makes an attempt, if one is pending and due agrees. One goroutine
// handles a key until its outcome is in the log, so each sees the outcome of the previous one.
func (s *Service) look(ctx, posting context.Context, d journal.Delivery, ev events.Event, due func(*events.Export) error) error {
	if !events.ValidTenant(ev.Tenant) || !events.ValidKey(ev.Key) {
		return journal.Permanent(fmt.Errorf("tenant %q, key %q: not an export", ev.Tenant, ev.Key))
	}
	name := ev.Tenant + "." + ev.Key
	if _, taken := s.claimed.LoadOrStore(name, true); taken {
		// Not acknowledged: the attempt under way may need this message again.
		return journal.RetryAfter(errBusy, time.Second)
	}
	attempt, err := s.plan(ctx, posting, d, ev, due)
	if attempt == nil {
		s.claimed.Delete(name)
		return err
	}
	s.metrics.pending.Inc()
	return journal.Beside(func() error {
		defer s.claimed.Delete(name)
		defer s.metrics.pending.Dec()
		return attempt()
	})
}

// plan applies the decision of look, and returns the attempt, which needs no slot.
func (s *Service) plan(ctx, posting context.Context, d journal.Delivery, ev events.Event, due func(*events.Export) error) (attempt func() error, err error) {
	x, err := s.journal.ReadDelivered(ctx, d, ev)
	if err != nil || !pending(&x) {
		return nil, err
	}
	if err := due(&x); errors.Is(err, errNothing) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c := callback{trace: ev.TraceParent, tenant: x.Tenant, key: x.Key, host: hostOf(&x), seq: x.LastSeq, latest: x.FinishedAt.Add(s.cfg.KeepHistory)}
	t, err := s.hosts.enter(c.host, weigh(&x))
	switch {
	case err != nil:
		return nil, s.putOff(ctx, c)
	case t.waits:
		return func() error { return s.attemptInTurn(ctx, posting, t, c) }, nil
	}
	return func() error { return s.attempt(ctx, posting, t, x, c.trace) }, nil
}

// pending reports whether x still needs a callback.
func pending(x *events.Export) bool {
	return x.State.Terminal() && x.Callback.State == events.CallbackPending
}

// untilDue is the time until the next attempt; 0 or less means now.
func untilDue(x *events.Export) time.Duration {
	if x.Callback.Attempts == 0 {
		return 0
	}
	wait := time.Until(x.Callback.NextAt)
	if wait <= timerEarly {
		return 0
	}
	return wait
}

func (s *Service) schedule(ctx context.Context, x *events.Export, at time.Time) error {
	return s.journal.ScheduleCallback(ctx, x.Tenant, x.Key, at)
}

// callback identifies an attempt while it waits, possibly for minutes.
type callback struct {
	trace             string // trace context of the event that ended the export; "" if a schedule fired
	tenant, key, host string
	seq               uint64    // of the export's newest event when the export was read
	latest            time.Time // deadline of the attempt
}

// attemptInTurn waits for the turn at the host and makes the attempt. The export may have changed meanwhile,
// so it reads it again.
func (s *Service) attemptInTurn(ctx, posting context.Context, t *turn, c callback) error {
	err := s.hosts.wait(ctx, t)
	var x events.Export
	if err == nil {
		x, err = s.journal.Read(ctx, c.tenant, c.key)
	}
	if err == nil && x.LastSeq != c.seq {
		err = journal.RetryAfter(errMoved, time.Second)
	}
	if err == nil {
		return s.attempt(ctx, posting, t, x, c.trace)
	}
	s.hosts.leave(t, outcome{aborted: true})
	if errors.Is(err, errPutOff) {
		return s.putOff(ctx, c)
	}
	return err
}

// attempt makes an attempt that has its turn, and records it. The turn ends after the record, so that few
// receivers are called while the log is unavailable.
func (s *Service) attempt(ctx, posting context.Context, t *turn, x events.Export, trace string) error {
	s.metrics.busy.Inc()
	posting, span := s.span(posting, &x, trace)
	o := s.deliver(posting, &x)
	if o.status != 0 {
		span.Set(tracing.HTTPStatus.Int(o.status))
	}
	span.End(spanError(o))
	s.metrics.busy.Dec()
	if !o.aborted {
		s.metrics.seconds.Observe(o.elapsed.Seconds())
	}
	defer s.hosts.leave(t, o)
	if o.aborted {
		return errHandedBack
	}
	return s.record(tracing.Adopt(ctx, posting), x, o)
}

// span begins the span of an attempt. The first attempt is a child of the event that ended the export. Later
// ones, which may come days later, have traces of their own with a link to the begin of the export.
func (s *Service) span(ctx context.Context, x *events.Export, trace string) (context.Context, *tracing.Span) {
	tracer := s.journal.Tracer()
	u, err := url.Parse(x.Request.Callback)
	if tracer == nil || err != nil {
		return ctx, nil
	}
	from := tracing.From{Parent: trace}
	if trace == "" || x.Callback.Attempts > 0 {
		from = tracing.From{Earlier: x.TraceParent}
	}
	attributes := []attribute.KeyValue{
		tracing.Attempt.Int(x.Callback.Attempts + 1), tracing.ExportKey.String(x.Key), tracing.Tenant.String(x.Tenant),
	}
	if u.Scheme == "nats" {
		return tracer.PublishFrom(ctx, from, tracing.Message{
			Stream: events.StreamCallbacks, Template: events.SubjectCallback + "{tenant}.{name}", ID: x.WebhookID(),
			ConversationID: x.CorrelationID,
		}, attributes...)
	}
	return tracer.RequestFrom(ctx, from, http.MethodPost, u.Hostname(), attributes...)
}

// spanError classifies a failed attempt, "" for a delivery.
func spanError(o outcome) string {
	switch {
	case o.delivered():
		return ""
	case o.status != 0:
		return strconv.Itoa(o.status)
	case o.silent:
		return "timeout"
	}
	return "failed"
}

// putOff postpones a callback, or gives it up if that would be too late.
func (s *Service) putOff(ctx context.Context, c callback) error {
	at := s.hosts.putOff(c.host)
	if at.Before(c.latest) {
		// A delayed redelivery would stay in the consumer's pending set, and a full set stops all deliveries.
		return s.journal.ScheduleCallback(ctx, c.tenant, c.key, at)
	}
	x, err := s.journal.Read(ctx, c.tenant, c.key)
	if err != nil || x.LastSeq != c.seq {
		return cmp.Or(err, journal.RetryAfter(errMoved, time.Second))
	}
	return s.record(ctx, x, outcome{attempt: x.Callback.Attempts + 1, reason: reasonBusy, final: true})
}

// record writes the one event of an attempt, then the schedule of the next. It retries until ctx ends,
// because a lost record would repeat the callback.
func (s *Service) record(ctx context.Context, x events.Export, o outcome) error {
	verdict := s.verdict(&x, o)
	after, err := s.append(ctx, x, o, verdict)
	for pause := time.Second; err != nil && ctx.Err() == nil; pause = min(2*pause, 30*time.Second) {
		x.With(s.cfg.Log).Warn("outcome of a callback not recorded; trying again", "attempt", o.attempt, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		after, err = s.append(ctx, x, o, verdict)
	}
	if err != nil {
		return err
	}
	if pending(&after) && after.Callback.Attempts > 0 {
		// A drain ends ctx before this write; the drain waits for the schedule as for the event.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
		defer cancel()
		return s.schedule(ctx, &after, after.Callback.NextAt)
	}
	return nil
}

// append writes the event of an attempt, unless another notifier has made that attempt, and returns the
// export afterwards.
func (s *Service) append(ctx context.Context, x events.Export, o outcome, verdict events.Payload) (events.Export, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	after, err := s.journal.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
		if now.TerminalSeq != x.TerminalSeq || !pending(now) {
			return nil, errOvertaken
		}
		// Two failures of one attempt count once, but a success always counts.
		if now.Callback.Attempts >= o.attempt && !o.delivered() {
			return nil, errOvertaken
		}
		return verdict, nil
	})
	if errors.Is(err, errOvertaken) || errors.Is(err, events.ErrNotAllowed) {
		return after, nil
	}
	if err == nil {
		s.report(&x, o, verdict)
	}
	return after, err
}

// report logs and counts a recorded attempt.
func (s *Service) report(x *events.Export, o outcome, verdict events.Payload) {
	transport := "http"
	if strings.HasPrefix(x.Request.Callback, "nats:") {
		transport = "nats"
	}
	count := func(outcome string) { s.metrics.attempts.WithLabelValues(outcome, transport).Inc() }
	log := x.With(s.cfg.Log).With("webhook_id", x.WebhookID())
	switch p := verdict.(type) {
	case *events.CallbackDelivered:
		count("delivered")
		log.Debug("callback delivered", "attempt", p.Attempt, "status", p.Status, "elapsed_ms", p.Millis)
	case *events.CallbackAttempted:
		count("failed")
		log.Info("callback will be tried again", "attempt", p.Attempt, "reason", p.Reason, "next_at", p.NextAt)
	case *events.CallbackFailed:
		count("given_up")
		s.metrics.givenUp.WithLabelValues(givenUpReason(o)).Inc()
		log.Warn("callback given up", "attempt", p.Attempt, "reason", p.Reason)
	}
}
