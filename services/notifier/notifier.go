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
	"sync"
	"time"

	"sheaf/events"
)

// Config bounds the deliveries.
type Config struct {
	PublicURL   string          // base of the download links; required
	Schedule    []time.Duration // pause before each further attempt, counted from the end of the last; default DefaultSchedule
	Timeout     time.Duration   // of one attempt, from the connection to the status; default 15s
	Slots       int             // endings that are looked at at once, see DESIGN.md; default 64
	PerHost     int             // attempts at one host and port at once; default 4
	KeepHistory time.Duration   // no attempt is made later than this after the export ended, for the log forgets it then; default 168h
	Log         *slog.Logger    // default: nothing is logged
}

const (
	// timerEarly is how early a schedule may fire: the server works in whole
	// seconds (measured), and clocks differ.
	timerEarly = 1500 * time.Millisecond
	// drainFor is how long attempts under way may go on after the drain began,
	// recordFor how long writing down a result may take. Together they stay
	// below the 15 s that a process has to stop.
	drainFor, recordFor = 5 * time.Second, 8 * time.Second
)

var (
	errEarly      = errors.New("the timer fired early")
	errHandedBack = errors.New("attempt given up to drain")
	errOvertaken  = errors.New("another notifier recorded this attempt first")
	errNothing    = errors.New("nothing is due")
	errMoved      = errors.New("the export has moved on since it was read")
)

// Service delivers callbacks. Any number of them may run on the same streams.
type Service struct {
	cfg      Config
	streams  *events.Streams
	client   Client
	bodies   bodies
	hosts    *hosts
	drainFor time.Duration
}

// Client sends callbacks. It decides which addresses may be reached, follows no redirect and keeps no cookie. A
// context has to end its requests and the reading of their answers.
type Client interface {
	Do(req *http.Request) (*http.Response, error)
}

// New checks cfg and returns a notifier.
func New(cfg Config, streams *events.Streams, client Client) (*Service, error) {
	if streams == nil || client == nil {
		return nil, errors.New("notifier: streams and client are required")
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
	for _, v := range []struct {
		name  string
		value *time.Duration
		or    time.Duration
	}{{"timeout", &cfg.Timeout, 15 * time.Second}, {"keep-history", &cfg.KeepHistory, 168 * time.Hour}} {
		if *v.value == 0 {
			*v.value = v.or
		}
		if *v.value < 0 {
			return nil, fmt.Errorf("notifier: %s is %v, want more than 0", v.name, *v.value)
		}
	}
	if cfg.Slots == 0 {
		cfg.Slots = 64
	}
	if cfg.PerHost == 0 {
		cfg.PerHost = 4
	}
	if cfg.Slots < 0 || cfg.PerHost < 0 {
		return nil, fmt.Errorf("notifier: %d slots and %d attempts per host, want more than 0", cfg.Slots, cfg.PerHost)
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)).With("service", "notifier")
	return &Service{
		cfg: cfg, streams: streams, client: client,
		bodies:   bodies{keys: streams.Keys(), publicURL: cfg.PublicURL},
		hosts:    newHosts(cfg.PerHost, cfg.Timeout),
		drainFor: drainFor,
	}, nil
}

// Run delivers callbacks until ctx ends. Then it takes no more work, lets
// attempts under way finish for at most 5 s, hands the others back, and
// returns nil. An error means that the streams could not be consumed.
func (s *Service) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Attempts outlive ctx by drainFor.
	posting, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()

	var consumers sync.WaitGroup
	results := make(chan error, 2)
	consume := func(stream, consumer string, h events.Handler) {
		consumers.Go(func() {
			err := s.streams.Consume(ctx, stream, consumer, s.cfg.Slots, h)
			if err != nil {
				stop()
			}
			results <- err
		})
	}
	consume(events.StreamEvents, events.ConsumerNotifier, func(ctx context.Context, d events.Delivery) error {
		return s.onEnded(ctx, posting, d)
	})
	consume(events.StreamTimers, events.ConsumerDueCallback, func(ctx context.Context, d events.Delivery) error {
		return s.onDue(ctx, posting, d)
	})

	finished := make(chan struct{})
	go func() {
		consumers.Wait()
		close(finished)
	}()
	<-ctx.Done()
	grace := time.NewTimer(s.drainFor)
	defer grace.Stop()
	select {
	case <-finished:
	case <-grace.C:
		cut()
		<-finished
	}
	return errors.Join(<-results, <-results)
}

// onEnded handles a terminal event. The export as the leader knows it decides, not the
// event: the event may be a repeat.
func (s *Service) onEnded(ctx, posting context.Context, d events.Delivery) error {
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
func (s *Service) onDue(ctx, posting context.Context, d events.Delivery) error {
	tenant, key, err := events.DueCallback(d.Subject)
	if err != nil {
		return events.Permanent(err)
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
			return events.RetryAfter(errEarly, wait)
		}
		return nil
	})
}

// look reads the export of an event and makes an attempt, if something is to be
// told and due does not say otherwise. A key is looked at by one goroutine at a
// time, from the reading until the outcome is in the log: so each sees the
// outcome of the one before.
func (s *Service) look(ctx, posting context.Context, ev events.Event, due func(*events.Export) error) error {
	if !events.ValidTenant(ev.Tenant) || !events.ValidKey(ev.Key) {
		return events.Permanent(fmt.Errorf("tenant %q, key %q: not an export", ev.Tenant, ev.Key))
	}
	name := ev.Tenant + "." + ev.Key
	if !s.hosts.claim(name) {
		// Not acknowledged: it may be the very message that the attempt under
		// way will want to have delivered again.
		return events.RetryAfter(errBusy, time.Second)
	}
	goesOn, err := s.lookClaimed(ctx, posting, ev, due)
	if goesOn == nil {
		s.hosts.unclaim(name)
		return err
	}
	return events.Beside(func() error {
		defer s.hosts.unclaim(name)
		return goesOn()
	})
}

// lookClaimed does what look says; goesOn is nil or what is done beside the
// slots.
func (s *Service) lookClaimed(ctx, posting context.Context, ev events.Event, due func(*events.Export) error) (goesOn func() error, err error) {
	x, err := s.streams.ReadSince(ctx, ev)
	if err != nil || !pending(&x) {
		return nil, err
	}
	if err := due(&x); err != nil {
		if errors.Is(err, errNothing) {
			err = nil
		}
		return nil, err
	}
	if o, ok := s.hosts.unrecorded(x.WebhookID(), x.Callback.Attempts+1); ok {
		return nil, s.record(ctx, x, o)
	}
	return s.attempt(ctx, posting, x)
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
	return s.streams.ScheduleCallback(ctx, x.Tenant, x.Key, at)
}

// attempt sees to one attempt at telling x, and returns what has to wait for
// others. In the slot it only finds a place for it. What finds no room yet keeps
// its slot, so that what comes behind stays with the server.
func (s *Service) attempt(ctx, posting context.Context, x events.Export) (goesOn func() error, err error) {
	c := callback{tenant: x.Tenant, key: x.Key, host: hostOf(&x), seq: x.LastSeq}
	a, err := s.hosts.enter(c.host, weigh(&x))
	if err != nil {
		return nil, s.refused(ctx, c, err)
	}
	if s.hosts.queued(a) {
		return func() error { return s.attemptInTurn(ctx, posting, a, c) }, nil
	}
	running, err := s.hosts.begin(ctx, posting, a)
	if err != nil {
		s.hosts.leave(a, outcome{})
		return nil, s.refused(ctx, c, err)
	}
	return func() error { return s.carryOut(ctx, running, a, x) }, nil
}

// callback names what an attempt is to tell, for one that may wait for long.
type callback struct {
	tenant, key, host string
	seq               uint64 // of the export's newest event when it was read
}

// attemptInTurn makes an attempt when its turn at the host has come. Much may
// have happened by then, so the export is read again.
func (s *Service) attemptInTurn(ctx, posting context.Context, a *attempt, c callback) error {
	err := s.hosts.awaitTurn(ctx, a)
	var running context.Context
	if err == nil {
		running, err = s.hosts.begin(ctx, posting, a)
	}
	var x events.Export
	if err == nil {
		x, err = s.streams.Read(ctx, c.tenant, c.key)
	}
	if err == nil && x.LastSeq != c.seq {
		err = events.RetryAfter(errMoved, time.Second)
	}
	if err != nil {
		s.hosts.leave(a, outcome{})
		return s.refused(ctx, c, err)
	}
	return s.carryOut(ctx, running, a, x)
}

// carryOut makes an attempt that has begun, and records it.
func (s *Service) carryOut(ctx, running context.Context, a *attempt, x events.Export) error {
	o := s.deliver(running, a, x)
	s.hosts.leave(a, o)
	return s.record(ctx, x, o)
}

// refused says what becomes of a callback that no attempt is made at now.
func (s *Service) refused(ctx context.Context, c callback, err error) error {
	if !errors.Is(err, errPutOff) {
		return err
	}
	// Not a delayed repeat: it would stay in the consumer's pending set, and a
	// full set stops all deliveries.
	return s.streams.ScheduleCallback(ctx, c.tenant, c.key, s.hosts.putOff(c.host))
}

// record writes the one event of an attempt, then the schedule of the next. An
// error leaves the attempt to a repeat of the message; what came out of it is
// remembered, so that the repeat only writes.
func (s *Service) record(ctx context.Context, x events.Export, o outcome) error {
	switch {
	case o.aborted:
		return errHandedBack
	case o.gaveWay:
		c := callback{tenant: x.Tenant, key: x.Key, host: hostOf(&x)}
		return s.refused(ctx, c, fmt.Errorf("%w: no answer in time to keep its room", errPutOff))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	verdict := s.verdict(&x, o)
	after, err := s.streams.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
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
	switch {
	case errors.Is(err, errOvertaken), errors.Is(err, events.ErrNotAllowed):
	case err != nil:
		s.hosts.remember(x.WebhookID(), o)
		return err
	default:
		s.logVerdict(&x, verdict)
	}
	if pending(&after) && after.Callback.Attempts > 0 {
		return s.schedule(ctx, &after, after.Callback.NextAt)
	}
	return nil
}

func (s *Service) logVerdict(x *events.Export, verdict events.Payload) {
	log := x.With(s.cfg.Log).With("webhook_id", x.WebhookID())
	switch p := verdict.(type) {
	case *events.CallbackDelivered:
		log.Debug("callback delivered", "attempt", p.Attempt, "status", p.Status, "elapsed_ms", p.Millis)
	case *events.CallbackAttempted:
		log.Info("callback will be tried again", "attempt", p.Attempt, "reason", p.Reason, "next_at", p.NextAt)
	case *events.CallbackFailed:
		log.Warn("callback given up", "attempt", p.Attempt, "reason", p.Reason)
	}
}
