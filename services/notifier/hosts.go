package notifier

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"sheaf/events"
)

// Bounds of one process. An attempt weighs what it holds in memory: its
// goroutines, socket and buffers (45 KB, measured), and four times its request,
// which the body repeats with escapes.
const (
	attemptWeight = 48 << 10
	// mostWeight bounds the attempts that run: 1,365 of small requests.
	mostWeight = 64 << 20
	// mostSilentWeight bounds those at silent hosts, which run beside the
	// others: 512 of small requests.
	mostSilentWeight = 24 << 20
	// hostQueue and mostWaiting are how many callbacks wait in memory because
	// their host has as many attempts as it may: of one host, and in all. What
	// is more waits in SHEAF_TIMERS. One holds no request, only names.
	hostQueue, mostWaiting = 256, 2048
	// mostSilentHosts bounds the hosts that are remembered as silent.
	mostSilentHosts = 16_384
	// mostRemembered bounds the outcomes that could not be written yet.
	mostRemembered = 4096
)

const (
	// patience is how long an attempt runs before it may be cut off because a
	// newer one has no room.
	patience = time.Second
	// postponeLeast and postponeMost bound how long a callback is put off. They
	// are spread so that they do not return at once.
	postponeLeast, postponeMost = 10 * time.Second, 60 * time.Second
	// postponeSilent bounds how long one is put off because many others wait for
	// the same silent host.
	postponeSilent = 15 * time.Minute
)

var (
	// errBusy refuses to look at a key that is being looked at.
	errBusy = errors.New("an attempt at this callback is under way")
	// errPutOff refuses an attempt that would wait in memory for too long.
	errPutOff = errors.New("the callback's host has more waiting than may wait in memory")
)

// hosts decides which attempts of this process run: no two at one callback at
// the same time, only so many at one host, and no more than memory and sockets
// allow. A host that is silent, or that has many callbacks, takes nothing from
// the others:
//
//   - Hosts that let their last attempt go unanswered are silent. They have room
//     of their own, and one attempt each.
//   - If the room of all others is taken, the oldest attempt that has gone
//     unanswered for patience gives way, and its host is silent. So however many
//     hosts nothing is known of yet, that room is free again after patience.
//   - If too many wait for their turn at a host, the longest queue gives way.
type hosts struct {
	perHost  int
	timeout  time.Duration // of an attempt
	most     int           // mostWeight
	silently int           // mostSilentWeight
	patience time.Duration

	mu       sync.Mutex
	byName   map[string]*host
	silent   map[string]time.Time // when the last one that was put off comes back
	claimed  map[string]struct{}  // keys that are looked at, by tenant and key
	running  *list.List           // of *attempt, the oldest first; without those at silent hosts
	weight   int                  // of running
	quiet    int                  // weight of the attempts at silent hosts
	waiting  int                  // in the queues of all hosts
	freed    chan struct{}        // closed when room was freed, and made anew
	outcomes map[string]outcome   // by webhook id, not yet in the log
}

// host is a host and port with attempts that run or wait.
type host struct {
	name  string
	turns int        // attempts that have their turn
	queue []*attempt // in order of arrival
}

// attempt is one attempt that was counted in, and has to leave.
type attempt struct {
	weight int
	host   *host
	turn   chan error // gets one value when it has its turn, or is put off

	// Guarded by hosts.mu.
	hasTurn bool
	element *list.Element // in hosts.running
	begun   time.Time
	quiet   bool // runs in the room of silent hosts
	cut     bool
	cancel  context.CancelFunc
}

func newHosts(perHost int, timeout time.Duration) *hosts {
	return &hosts{
		perHost: perHost, timeout: timeout, most: mostWeight, silently: mostSilentWeight, patience: patience,
		byName: map[string]*host{}, silent: map[string]time.Time{}, claimed: map[string]struct{}{},
		running: list.New(), freed: make(chan struct{}), outcomes: map[string]outcome{},
	}
}

// hostOf names the host of a callback, "" when it has none.
func hostOf(x *events.Export) string {
	u, err := url.Parse(x.Request.Callback)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// weigh returns what an attempt at telling x takes.
func weigh(x *events.Export) int {
	n := len(x.Request.Title) + len(x.Request.UserID) + len(x.Request.Callback) + len(x.Failure.Reason)
	if h := x.Request.HTTP; h != nil {
		n += len(h.URL) + len(h.Param)
	}
	return attemptWeight + 4*n
}

// limit is how many attempts may have their turn at a host.
func (hs *hosts) limit(h *host) int {
	if _, silent := hs.silent[h.name]; silent {
		return 1
	}
	return hs.perHost
}

// claim takes a key, and reports whether nobody had it. It must be unclaimed.
func (hs *hosts) claim(key string) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	_, taken := hs.claimed[key]
	hs.claimed[key] = struct{}{}
	return !taken
}

func (hs *hosts) unclaim(key string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	delete(hs.claimed, key)
}

// enter counts an attempt in, with its turn or in its host's queue. The error is
// errPutOff; without one the attempt must leave.
func (hs *hosts) enter(name string, weight int) (*attempt, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byName[name]
	if h == nil {
		h = &host{name: name}
	}
	a := &attempt{weight: min(weight, hs.most, hs.silently), host: h, turn: make(chan error, 1)}
	switch {
	case h.turns < hs.limit(h) && len(h.queue) == 0:
		h.turns++
		a.hasTurn = true
	case len(h.queue) >= hostQueue, hs.waiting >= mostWaiting && !hs.shorten(len(h.queue)+1):
		return nil, errPutOff
	default:
		h.queue = append(h.queue, a)
		hs.waiting++
	}
	hs.byName[name] = h
	return a, nil
}

// shorten puts off the newest of the longest queue, if that is longer than n.
func (hs *hosts) shorten(n int) bool {
	var longest *host
	for _, h := range hs.byName {
		if len(h.queue) > n {
			longest, n = h, len(h.queue)
		}
	}
	if longest == nil {
		return false
	}
	a := longest.queue[n-1]
	longest.queue = longest.queue[:n-1]
	hs.waiting--
	a.turn <- errPutOff
	return true
}

// queued reports whether the attempt has to wait for its turn.
func (hs *hosts) queued(a *attempt) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return !a.hasTurn
}

// awaitTurn waits for the turn at the host. The error is errPutOff or that of
// ctx.
func (hs *hosts) awaitTurn(ctx context.Context, a *attempt) error {
	select {
	case err := <-a.turn:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin waits until there is room for an attempt that has its turn. Then it may
// run for as long as the context that is returned, a child of posting, lasts.
// The error is errPutOff or that of ctx.
func (hs *hosts) begin(ctx, posting context.Context, a *attempt) (context.Context, error) {
	for {
		running, freed, again, err := hs.tryBegin(posting, a)
		if running != nil || err != nil {
			return running, err
		}
		timer := time.NewTimer(again)
		select {
		case <-freed:
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		timer.Stop()
		if err != nil {
			return nil, err
		}
	}
}

// tryBegin begins the attempt, refuses it, or says when to try again: when room
// is freed, and after what time at the latest.
func (hs *hosts) tryBegin(posting context.Context, a *attempt) (running context.Context, freed chan struct{}, again time.Duration, err error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := time.Now()
	if _, silent := hs.silent[a.host.name]; silent {
		if hs.quiet+a.weight > hs.silently {
			return nil, nil, 0, errPutOff
		}
		hs.quiet += a.weight
		a.quiet = true
	} else {
		for hs.weight+a.weight > hs.most {
			oldest := hs.running.Front().Value.(*attempt)
			if wait := oldest.begun.Add(hs.patience).Sub(now); wait > 0 {
				return nil, hs.freed, wait, nil
			}
			hs.release(oldest)
			oldest.cut = true
			oldest.cancel()
		}
		hs.weight += a.weight
		a.element = hs.running.PushBack(a)
	}
	a.begun = now
	running, a.cancel = context.WithCancel(posting)
	return running, nil, 0, nil
}

// release gives the room of an attempt back.
func (hs *hosts) release(a *attempt) {
	switch {
	case a.quiet:
		hs.quiet -= a.weight
		a.quiet = false
	case a.element != nil:
		hs.running.Remove(a.element)
		a.element = nil
		hs.weight -= a.weight
		close(hs.freed)
		hs.freed = make(chan struct{})
	}
}

// wasCut reports whether the attempt had to give way.
func (hs *hosts) wasCut(a *attempt) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return a.cut
}

// leave counts an attempt out, in whatever state it is, and remembers of its
// host whether it answers. A host without attempts is forgotten.
func (hs *hosts) leave(a *attempt, o outcome) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if a.cancel != nil {
		a.cancel()
	}
	hs.release(a)
	h := a.host
	switch {
	case o.silent || o.gaveWay:
		hs.markSilent(h.name)
	case o.attempt > 0 && !o.aborted:
		delete(hs.silent, h.name)
	}
	if a.hasTurn {
		h.turns--
	} else if i := slices.Index(h.queue, a); i >= 0 {
		h.queue = slices.Delete(h.queue, i, i+1)
		hs.waiting--
	}
	for len(h.queue) > 0 && h.turns < hs.limit(h) {
		next := h.queue[0]
		h.queue = slices.Delete(h.queue, 0, 1)
		hs.waiting--
		h.turns++
		next.hasTurn = true
		next.turn <- nil
	}
	if h.turns == 0 && len(h.queue) == 0 {
		delete(hs.byName, h.name)
	}
}

func (hs *hosts) markSilent(name string) {
	if _, ok := hs.silent[name]; ok {
		return
	}
	for other := range hs.silent {
		if len(hs.silent) < mostSilentHosts {
			break
		}
		delete(hs.silent, other)
	}
	hs.silent[name] = time.Time{}
}

// putOff returns when a callback shall come back that was refused. Those of a
// silent host are given times one after the other, as far apart as an attempt
// takes, so that a thousand of them do not come back again and again.
func (hs *hosts) putOff(name string) time.Time {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := time.Now()
	spread := postponeMost - postponeLeast
	at := now.Add(postponeLeast)
	if next, silent := hs.silent[name]; silent {
		switch {
		case next.Sub(at) > postponeSilent:
			spread = postponeSilent
		case next.After(at):
			at = next
			fallthrough
		default:
			hs.silent[name] = at.Add(hs.timeout)
		}
	}
	return at.Add(rand.N(spread))
}

// remember keeps an outcome whose event could not be written, so that the
// receiver is not told again only because the log could not be reached.
func (hs *hosts) remember(id string, o outcome) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if len(hs.outcomes) < mostRemembered {
		hs.outcomes[id] = o
	}
}

// unrecorded takes back the outcome of an attempt that was remembered. One of
// an earlier attempt is dropped: another notifier went on.
func (hs *hosts) unrecorded(id string, attempt int) (outcome, bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	o, ok := hs.outcomes[id]
	delete(hs.outcomes, id)
	return o, ok && (o.attempt == attempt || o.delivered())
}
