package notifier

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"sheaf/events"
)

const (
	// hostQueue is how many attempts at one host wait in memory. What is more
	// waits in SHEAF_TIMERS.
	hostQueue = 256
	// mostInside bounds the attempts of the process, waiting ones included. At
	// some 10 KB each (a goroutine, a body) that is 20 MB.
	mostInside = 2048
	// mostRemembered bounds the outcomes that could not be written yet.
	mostRemembered = 4096
)

// hosts keeps count of the attempts of this process: no two at one callback at
// the same time, and only so many at one host.
type hosts struct {
	perHost int

	mu       sync.Mutex
	byName   map[string]*host
	inside   map[string]struct{} // webhook ids
	outcomes map[string]outcome  // by webhook id, not yet in the log
}

// host is a host and port with attempts that run or wait.
type host struct {
	name   string
	places chan struct{}
	inside int         // guarded by hosts.mu
	slow   atomic.Bool // its last answer took longer than patience
}

// admission is the answer to an attempt that wants to begin.
type admission int

const (
	admitted admission = iota
	busy               // one at the same callback is under way
	full               // too many wait, for this host or in all
)

func newHosts(perHost int) *hosts {
	return &hosts{
		perHost: perHost,
		byName:  map[string]*host{}, inside: map[string]struct{}{}, outcomes: map[string]outcome{},
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

// enter counts an attempt in. An admitted one must leave.
func (hs *hosts) enter(name, id string) (*host, admission) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if _, ok := hs.inside[id]; ok {
		return nil, busy
	}
	h := hs.byName[name]
	if len(hs.inside) >= mostInside || h != nil && h.inside >= hs.perHost+hostQueue {
		return nil, full
	}
	if h == nil {
		h = &host{name: name, places: make(chan struct{}, hs.perHost)}
		hs.byName[name] = h
	}
	h.inside++
	hs.inside[id] = struct{}{}
	return h, admitted
}

// place waits for one of the places at a host, in order of arrival; waited
// says whether it had to. Its release gives the place back.
func (h *host) place(ctx context.Context) (release func(), waited bool, err error) {
	release = func() { <-h.places }
	select {
	case h.places <- struct{}{}:
		return release, false, nil
	default:
	}
	select {
	case h.places <- struct{}{}:
		return release, true, nil
	case <-ctx.Done():
		return nil, true, ctx.Err()
	}
}

// leave counts an attempt out. A host without attempts is forgotten.
func (hs *hosts) leave(h *host, id string, o outcome) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	delete(hs.inside, id)
	if h.inside--; h.inside == 0 {
		delete(hs.byName, h.name)
	}
	if o.delivered() && o.elapsed < patience {
		h.slow.Store(false)
	}
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
