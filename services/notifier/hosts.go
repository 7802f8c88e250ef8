package notifier

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"sheaf/events"

	"golang.org/x/sync/semaphore"
)

// Bounds of one process. The weight of a callback is its memory while it runs: goroutines, socket and buffers
// (45 KB, measured), and four times its request, which the body repeats with escapes.
const (
	callbackWeight = 48 << 10
	maxWeight      = 64 << 20 // of running callbacks: 1,365 small ones
	maxSilent      = 24 << 20 // callbacks to silent hosts, in addition: 512 small ones
	maxHostWaiting = 256      // callbacks that wait for one host
	maxWaiting     = 2048     // callbacks that wait for all hosts; each holds names only
	maxHosts       = 16_384   // silent hosts in memory
)

// The breaker of a host opens after maxFailures timeouts without an answer. Its pause begins with an
// attempt's timeout and doubles up to maxPause.
const (
	maxFailures             = 3
	maxPause                = 5 * time.Minute
	minPutOff, putOffSpread = 10 * time.Second, 50 * time.Second
)

// errPutOff postpones a callback.
var errPutOff = errors.New("the callback has to come later")

// hosts bounds the callbacks of this process: perHost for each host, and in all by memory. A host is silent
// from a timeout until its next answer.
//
// Silent hosts have memory of their own, and a breaker. After maxFailures timeouts without an answer their
// callbacks are postponed for a pause. The first callback after the pause is the probe: an answer closes the
// breaker, and a timeout doubles the pause. After any other outcome, such as a host name that is not found,
// another probe follows.
type hosts struct {
	perHost      int64
	timeout      time.Duration       // of an attempt
	room, silent *semaphore.Weighted // maxWeight, maxSilent

	mu      sync.Mutex
	byName  map[string]*host
	waiting int
}

// host is a host and port that is silent or has callbacks.
type host struct {
	turns       *semaphore.Weighted // of perHost, first come, first served
	callbacks   int                 // running and waiting
	waiting     int
	failures    int // timeouts since the last answer
	pausedUntil time.Time
}

// turn is one callback at its host. It must leave.
type turn struct {
	name   string
	host   *host
	weight int64
	room   *semaphore.Weighted // the semaphore it holds weight of; nil while it does not run
	waits  bool
}

func newHosts(perHost int, timeout time.Duration) *hosts {
	return &hosts{
		perHost: int64(perHost), timeout: timeout, byName: map[string]*host{},
		room: semaphore.NewWeighted(maxWeight), silent: semaphore.NewWeighted(maxSilent),
	}
}

// hostOf names the host of a callback. It is "" for a callback without a host.
func hostOf(x *events.Export) string {
	u, err := url.Parse(x.Request.Callback)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// weigh returns the weight of a callback about x.
func weigh(x *events.Export) int64 {
	n := len(x.Request.Title) + len(x.Request.UserID) + len(x.Request.Callback) + len(x.Failure.Reason)
	if h := x.Request.HTTP; h != nil {
		n += len(h.URL) + len(h.Param)
	}
	return min(callbackWeight+4*int64(n), maxSilent)
}

// enter gives a callback its turn, or a place in the queue of its host. Its only error is errPutOff.
func (hs *hosts) enter(name string, weight int64) (*turn, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byName[name]
	if h == nil {
		h = &host{turns: semaphore.NewWeighted(hs.perHost)}
	}
	t := &turn{name: name, host: h, weight: weight}
	switch {
	case h.turns.TryAcquire(1):
		if err := hs.begin(t); err != nil {
			return nil, err
		}
	case h.waiting < maxHostWaiting && hs.waiting < maxWaiting:
		t.waits = true
		h.waiting++
		hs.waiting++
	default:
		return nil, errPutOff
	}
	h.callbacks++
	hs.byName[name] = h
	return t, nil
}

// wait waits for the turn of a callback. It fails with errPutOff or the error of ctx.
func (hs *hosts) wait(ctx context.Context, t *turn) error {
	err := t.host.turns.Acquire(ctx, 1)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	t.waits = false
	t.host.waiting--
	hs.waiting--
	if err != nil {
		return err
	}
	return hs.begin(t)
}

// begin reserves memory for a callback that has its turn, or returns the turn.
func (hs *hosts) begin(t *turn) error {
	h, room, now := t.host, hs.room, time.Now()
	if h.failures > 0 {
		room = hs.silent
	}
	if now.Before(h.pausedUntil) || !room.TryAcquire(t.weight) {
		h.turns.Release(1)
		return errPutOff
	}
	if h.failures >= maxFailures { // the probe: no other one before it ends
		h.pausedUntil = now.Add(2 * hs.timeout)
	}
	t.room = room
	return nil
}

// leave ends a callback. A timeout counts as a failure of its host, and an answer resets the count.
func (hs *hosts) leave(t *turn, o outcome) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := t.host
	h.callbacks--
	if t.room != nil {
		t.room.Release(t.weight)
		h.turns.Release(1)
		switch {
		case o.silent:
			h.failures++
			if n := h.failures - maxFailures; n >= 0 {
				h.pausedUntil = time.Now().Add(min(hs.timeout<<min(n, 10), maxPause))
			}
		case o.answered(): // other outcomes say nothing about the host
			h.failures, h.pausedUntil = 0, time.Time{}
		}
	}
	if h.callbacks == 0 && h.failures == 0 {
		delete(hs.byName, t.name)
	}
	for name, other := range hs.byName {
		if len(hs.byName) <= maxHosts {
			break
		}
		if other.callbacks == 0 {
			delete(hs.byName, name)
		}
	}
}

// putOff returns the time for a postponed callback: after the pause of its host, spread over as long again,
// so that callbacks do not return in a burst.
func (hs *hosts) putOff(name string) time.Time {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	wait, spread := minPutOff, putOffSpread
	if h := hs.byName[name]; h != nil {
		pause := time.Until(h.pausedUntil)
		wait, spread = max(wait, pause), max(spread, pause)
	}
	return time.Now().Add(wait + rand.N(spread))
}
