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
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	Slots       int             // endings that are looked at at once; default 64
	PerHost     int             // attempts at one host and port at once; default 4
	KeepHistory time.Duration   // no attempt is made later than this after the export ended, for the log forgets it then; default 168h
}

const (
	// patience is how long an attempt may occupy a slot. A slower one goes on
	// beside the slots, so that 200 silent receivers hold up a healthy one for
	// less than a second.
	patience = 100 * time.Millisecond
	// lease is after what time another notifier takes up an attempt that goes
	// on beside the slots of a process which died. It is renewed at half.
	lease = 60 * time.Second
	// timerEarly is how early a schedule may fire: the server works in whole
	// seconds (measured), and clocks differ.
	timerEarly = 1500 * time.Millisecond
	// postponeLeast and postponeMost bound how long a callback is put off whose
	// host has a full queue. They are spread so that they do not return at once.
	postponeLeast, postponeMost = 10 * time.Second, 60 * time.Second
	// drainFor is how long attempts under way may go on after the drain began,
	// recordFor how long writing down a result may take. Together they stay
	// below the 15 s that a process has to stop.
	drainFor, recordFor = 5 * time.Second, 8 * time.Second
)

var (
	errBusy       = errors.New("an attempt at this callback is under way")
	errEarly      = errors.New("the timer fired early")
	errHandedBack = errors.New("attempt given up to drain")
	errOvertaken  = errors.New("another notifier recorded this attempt first")
)

// Service delivers callbacks. Any number of them may run on the same streams.
type Service struct {
	cfg      Config
	streams  *events.Streams
	client   *http.Client
	bodies   bodies
	hosts    *hosts
	patience time.Duration
	lease    time.Duration
	drainFor time.Duration

	attempts sync.WaitGroup // posts, and what waits for them beside the slots
}

// New checks cfg and returns a notifier. The client decides which addresses
// may be reached; redirects are never followed and cookies never kept,
// whatever it says.
func New(cfg Config, streams *events.Streams, client *http.Client) (*Service, error) {
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
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil
	own.Timeout = 0 // each attempt has a deadline of its own
	return &Service{
		cfg: cfg, streams: streams, client: &own,
		bodies:   bodies{keys: streams.Keys(), publicURL: cfg.PublicURL},
		hosts:    newHosts(cfg.PerHost),
		patience: patience, lease: lease, drainFor: drainFor,
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
		consumers.Wait() // first, for a handler may still begin an attempt
		s.attempts.Wait()
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

// onEnded handles a terminal event. The export as the leader knows it decides,
// not the event: the event may be a repeat.
func (s *Service) onEnded(ctx, posting context.Context, d events.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	x, err := s.read(ctx, ev.Tenant, ev.Key)
	if err != nil {
		return err
	}
	if x.TerminalSeq != ev.Sequence || !pending(&x) {
		return nil
	}
	if wait := untilDue(&x); wait > 0 {
		// Here a process died between the event of an attempt and its schedule.
		return s.schedule(ctx, &x, x.Callback.NextAt)
	}
	return s.attempt(ctx, posting, x)
}

// onDue handles a schedule that fired. It names only a key; whatever is due of
// that key by now is done.
func (s *Service) onDue(ctx, posting context.Context, d events.Delivery) error {
	tenant, key, err := events.DueCallback(d.Subject)
	if err != nil {
		return events.Permanent(err)
	}
	x, err := s.read(ctx, tenant, key)
	if err != nil {
		return err
	}
	if !pending(&x) {
		return nil
	}
	switch wait := untilDue(&x); {
	case wait > time.Minute:
		// A left-over of an earlier plan.
		return s.schedule(ctx, &x, x.Callback.NextAt)
	case wait > 0:
		// A span instead of a time of day: if the server's clock is ahead, a
		// schedule would fire again at once, and again.
		return events.RetryAfter(errEarly, wait)
	}
	return s.attempt(ctx, posting, x)
}

func (s *Service) read(ctx context.Context, tenant, key string) (events.Export, error) {
	if !events.ValidTenant(tenant) || !events.ValidKey(key) {
		return events.Export{}, events.Permanent(fmt.Errorf("tenant %q, key %q: not an export", tenant, key))
	}
	return s.streams.Read(ctx, tenant, key)
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

// attempt makes one attempt and records it. It returns nil when that is done,
// or when a schedule makes sure that it will be.
func (s *Service) attempt(ctx, posting context.Context, x events.Export) error {
	id := x.WebhookID()
	if o, ok := s.hosts.unrecorded(id, x.Callback.Attempts+1); ok {
		return s.record(ctx, x, o)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h, admission := s.hosts.enter(hostOf(&x), id)
	switch admission {
	case busy:
		// Not acknowledged: it may be the very message that the attempt under
		// way will want to have delivered again.
		return events.RetryAfter(errBusy, time.Second)
	case full:
		return s.schedule(ctx, &x, time.Now().Add(postponeLeast+rand.N(postponeMost-postponeLeast)))
	}

	// Counted out only when its outcome is in the log, so whoever is counted in
	// after it and then reads the export sees that outcome.
	record := func(o outcome) error {
		defer s.hosts.leave(h, id, o)
		return s.record(ctx, x, o)
	}
	now, err := s.read(ctx, x.Tenant, x.Key)
	if err != nil || now.LastSeq != x.LastSeq {
		s.hosts.leave(h, id, outcome{})
		if err == nil {
			err = events.RetryAfter(errBusy, time.Second)
		}
		return err
	}

	result := make(chan outcome, 1)
	s.attempts.Go(func() { result <- s.deliver(posting, h, x) })
	if !h.slow.Load() {
		timer := time.NewTimer(s.patience)
		defer timer.Stop()
		select {
		case o := <-result:
			return record(o)
		case <-timer.C:
			h.slow.Store(true)
		}
	}
	hold := func() error { return s.schedule(context.WithoutCancel(ctx), &x, time.Now().Add(s.lease)) }
	if err := hold(); err != nil {
		return record(<-result) // without a lease the message itself has to wait
	}
	s.attempts.Go(func() { s.await(ctx, x, result, hold, record) })
	return nil
}

// await records an attempt that goes on beside the slots.
func (s *Service) await(ctx context.Context, x events.Export, result <-chan outcome, hold func() error, record func(outcome) error) {
	renew := time.NewTicker(s.lease / 2)
	defer renew.Stop()
	for {
		select {
		case <-renew.C:
			if err := hold(); err != nil {
				slog.Warn("callback lease not renewed", "tenant", x.Tenant, "hash_key", x.Key, "error", err)
			}
		case o := <-result:
			err := record(o)
			if err == nil {
				return
			}
			// The lease would bring it back, this only sooner.
			level := slog.LevelWarn
			if errors.Is(err, errHandedBack) {
				level = slog.LevelDebug
			}
			slog.Log(ctx, level, "callback will be taken up again", "tenant", x.Tenant, "hash_key", x.Key, "error", err)
			wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
			defer cancel()
			if err := s.schedule(wctx, &x, time.Now()); err != nil {
				slog.Warn("callback waits for its lease", "tenant", x.Tenant, "hash_key", x.Key, "error", err)
			}
			return
		}
	}
}

// record writes the one event of an attempt, then the schedule of the next. An
// error leaves the attempt to a repeat of the message; what came out of it is
// remembered, so that the repeat only writes.
func (s *Service) record(ctx context.Context, x events.Export, o outcome) error {
	switch {
	case o.overtaken:
		return nil
	case o.aborted:
		return errHandedBack
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
		logVerdict(&x, verdict)
	}
	if pending(&after) && after.Callback.Attempts > 0 {
		return s.schedule(ctx, &after, after.Callback.NextAt)
	}
	return nil
}

func logVerdict(x *events.Export, verdict events.Payload) {
	log := slog.With("tenant", x.Tenant, "hash_key", x.Key, "webhook_id", x.WebhookID())
	switch p := verdict.(type) {
	case *events.CallbackDelivered:
		log.Debug("callback delivered", "attempt", p.Attempt, "status", p.Status, "elapsed_ms", p.Millis)
	case *events.CallbackAttempted:
		log.Info("callback will be tried again", "attempt", p.Attempt, "reason", p.Reason, "next_at", p.NextAt)
	case *events.CallbackFailed:
		log.Warn("callback given up", "attempt", p.Attempt, "reason", p.Reason)
	}
}
