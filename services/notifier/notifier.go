// Package notifier tells the callers of exports how they ended.
//
// # What it promises
//
//   - Every completed, failed or cancelled export that asked for a callback is
//     told at least once, or given up for a reason that stands in the log.
//     Neither a crash nor a restart loses an attempt.
//   - Each attempt leaves exactly one event: callback_delivered (2xx),
//     callback_attempted (with the time of the next one) or callback_failed.
//   - The webhook-id is constant over the attempts of one ending and differs
//     between endings. A receiver that has seen it may ignore the repeat: a
//     crash between an answer and its event, or two notifiers that are given the
//     same work, make the same callback arrive twice.
//   - A receiver that is dead or slow holds up nobody but itself.
//
// An export that is requested again before its callback arrived is told only of
// its new ending.
package notifier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/journal"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Config bounds the deliveries.
type Config struct {
	PublicURL   string                // base of the download links; required
	Schedule    []time.Duration       // pause before each further attempt, counted from the end of the last; default DefaultSchedule
	Timeout     time.Duration         // of one attempt, from the connection to the status; default 15s
	Slots       int                   // endings that are looked at at once, see DESIGN.md; default 64
	PerHost     int                   // attempts at one host and port at once; default 4
	KeepHistory time.Duration         // no attempt is made later than this after the export ended, for the log forgets it then; default 168h
	Log         *slog.Logger          // default: nothing is logged
	Metrics     prometheus.Registerer // default: none
}

const (
	// timerEarly is how early a schedule may fire: the server works in whole
	// seconds (measured), and clocks differ.
	timerEarly = 1500 * time.Millisecond
	// drainFor is how long attempts under way may go on after the drain began,
	// recordFor how long each write of a result may take: its event, then the
	// schedule of the next attempt. Each write usually takes milliseconds.
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

// Service delivers callbacks. Any number of them may run on the same streams.
type Service struct {
	cfg      Config
	journal  *journal.Log
	client   Client
	bodies   bodies
	hosts    *hosts
	metrics  *metrics
	claimed  sync.Map // tenant.key of the exports that are looked at
	drainFor time.Duration
}

// Client sends callbacks. It decides which addresses may be reached, follows no redirect and keeps no cookie. A
// context has to end its requests and the reading of their answers.
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

// Run delivers callbacks until ctx ends. Then it takes no more work, lets
// attempts under way finish for at most 5 s, hands the others back, and
// returns nil. An error means that the streams could not be consumed.
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

// onEnded handles a terminal event. The export as the leader knows it decides, not the
// event: the event may be a repeat.
func (s *Service) onEnded(ctx, posting context.Context, d journal.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	return s.look(ctx, posting, ev, func(x *events.Export) error {
		d.Concerns(x)
		if ev.Sequence != x.TerminalSeq {
			return errNothing
		}
		if wait := untilDue(x); wait > 0 {
			// Here a process died between the event of an attempt and its schedule.
			return cmp.Or(s.schedule(ctx, x, x.Callback.NextAt), errNothing)
		}
		return nil
	})
}

// onDue handles a schedule that fired. It names only a key; whatever is due of
// that key by now is done.
func (s *Service) onDue(ctx, posting context.Context, d journal.Delivery) error {
	tenant, key, err := journal.DueCallback(d.Subject)
	if err != nil {
		return journal.Permanent(err)
	}
	return s.look(ctx, posting, events.Event{Tenant: tenant, Key: key}, func(x *events.Export) error {
		d.Concerns(x)
		switch wait := untilDue(x); {
		case wait > time.Minute:
			// A left-over of an earlier plan.
			return cmp.Or(s.schedule(ctx, x, x.Callback.NextAt), errNothing)
		case wait > 0:
			// A span instead of a time of day: if the server's clock is ahead, a
			// schedule would fire again at once, and again.
			return journal.RetryAfter(errEarly, wait)
		}
		return nil
	})
}

// look reads the export of an event and makes an attempt, if one is pending and due
// does not object. Only one goroutine looks at a key at a time, until the outcome is
// in the log, so each sees the outcome of the one before.
func (s *Service) look(ctx, posting context.Context, ev events.Event, due func(*events.Export) error) error {
	if !events.ValidTenant(ev.Tenant) || !events.ValidKey(ev.Key) {
		return journal.Permanent(fmt.Errorf("tenant %q, key %q: not an export", ev.Tenant, ev.Key))
	}
	name := ev.Tenant + "." + ev.Key
	if _, taken := s.claimed.LoadOrStore(name, true); taken {
		// Not acknowledged: the attempt under way may need this very message again.
		return journal.RetryAfter(errBusy, time.Second)
	}
	attempt, err := s.plan(ctx, posting, ev, due)
	if attempt == nil {
		s.claimed.Delete(name)
		return err
	}
	return journal.Beside(func() error {
		defer s.claimed.Delete(name)
		return attempt()
	})
}

// plan does what look says, and returns the attempt, which needs no slot.
func (s *Service) plan(ctx, posting context.Context, ev events.Event, due func(*events.Export) error) (attempt func() error, err error) {
	x, err := s.journal.ReadSince(ctx, ev)
	if err != nil || !pending(&x) {
		return nil, err
	}
	if err := due(&x); errors.Is(err, errNothing) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c := callback{tenant: x.Tenant, key: x.Key, host: hostOf(&x), seq: x.LastSeq, latest: x.FinishedAt.Add(s.cfg.KeepHistory)}
	t, err := s.hosts.enter(c.host, weigh(&x))
	switch {
	case err != nil:
		return nil, s.putOff(ctx, c)
	case t.waits:
		return func() error { return s.attemptInTurn(ctx, posting, t, c) }, nil
	}
	return func() error { return s.attempt(ctx, posting, t, x) }, nil
}

// pending reports whether there is something to tell about x.
func pending(x *events.Export) bool {
	return x.State.Terminal() && x.Callback.State == events.CallbackPending
}

// untilDue is how long the next attempt has to wait; not above 0: it is due.
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

// callback names what an attempt is about while it waits, possibly for minutes.
type callback struct {
	tenant, key, host string
	seq               uint64    // of the export's newest event when it was read
	latest            time.Time // no attempt is made after this
}

// attemptInTurn makes an attempt when it has its turn at the host. By then the
// export may have changed, so it reads it again.
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
		return s.attempt(ctx, posting, t, x)
	}
	s.hosts.leave(t, outcome{aborted: true})
	if errors.Is(err, errPutOff) {
		return s.putOff(ctx, c)
	}
	return err
}

// attempt makes an attempt that has its turn, and records it. The turn ends with the
// record: while the log cannot be written, few receivers are called.
func (s *Service) attempt(ctx, posting context.Context, t *turn, x events.Export) error {
	o := s.deliver(posting, &x)
	defer s.hosts.leave(t, o)
	if o.aborted {
		return errHandedBack
	}
	return s.record(ctx, x, o)
}

// putOff has a callback come back later, or gives it up if that is too late.
func (s *Service) putOff(ctx context.Context, c callback) error {
	at := s.hosts.putOff(c.host)
	if at.Before(c.latest) {
		// Not a delayed repeat: that would stay in the consumer's pending set, and a
		// full set stops all deliveries.
		return s.journal.ScheduleCallback(ctx, c.tenant, c.key, at)
	}
	x, err := s.journal.Read(ctx, c.tenant, c.key)
	if err != nil || x.LastSeq != c.seq {
		return cmp.Or(err, journal.RetryAfter(errMoved, time.Second))
	}
	return s.record(ctx, x, outcome{attempt: x.Callback.Attempts + 1, reason: reasonBusy, final: true})
}

// record writes the one event of an attempt, then the schedule of the next. It tries
// until ctx ends: if it gave up, the receiver would get the same callback again.
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
		// A drain has ended ctx; it waits for this write as for the one of the event.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
		defer cancel()
		return s.schedule(ctx, &after, after.Callback.NextAt)
	}
	return nil
}

// append writes the event of an attempt, unless another notifier made the attempt
// meanwhile, and returns the export as it is then.
func (s *Service) append(ctx context.Context, x events.Export, o outcome, verdict events.Payload) (events.Export, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	after, err := s.journal.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
		if now.TerminalSeq != x.TerminalSeq || !pending(now) {
			return nil, errOvertaken
		}
		// Of two notifiers that failed in the same attempt only one counts,
		// but a success is a success.
		if now.Callback.Attempts >= o.attempt && !o.delivered() {
			return nil, errOvertaken
		}
		return verdict, nil
	})
	if errors.Is(err, errOvertaken) || errors.Is(err, events.ErrNotAllowed) {
		return after, nil
	}
	if err == nil {
		s.report(&x, verdict)
	}
	return after, err
}

// report logs and counts an attempt that was recorded.
func (s *Service) report(x *events.Export, verdict events.Payload) {
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
		log.Warn("callback given up", "attempt", p.Attempt, "reason", p.Reason)
	}
}
