package crawler

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"sheaf/events"
)

// shares keeps one tenant from taking all the slots of a process: however many
// exports it has queued, only so many are crawled at once. Those that are not its
// turn stay with the server, which offers them again; an idle process takes them.
type shares struct {
	most int // of one tenant, 0 for all

	mu      sync.Mutex
	running map[string]int       // by tenant
	next    map[string]time.Time // by tenant, when the last one that was sent away is offered again
}

func newShares(most int) *shares {
	return &shares{most: most, running: map[string]int{}, next: map[string]time.Time{}}
}

var errShareTaken = errors.New("as many exports of the tenant as may be are being crawled")

// offers is how many of a tenant's waiting exports are offered again in a second, by
// and large: enough for a slot that becomes free to be taken at once, and few enough
// to cost nothing. One alone is offered again after soonest, and none later than
// latest, however many wait or have waited and were cancelled.
const (
	offers  = 100
	soonest = 200 * time.Millisecond
	latest  = 30 * time.Second
)

// enter takes a slot of the tenant's share until leave is called, or has the export
// offered again later.
func (s *shares) enter(tenant string) (leave func(), err error) {
	if s.most <= 0 {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] >= s.most {
		return nil, events.RetryAfter(errShareTaken, s.pause(tenant))
	}
	s.running[tenant]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[tenant]--; s.running[tenant] == 0 {
			delete(s.running, tenant)
			delete(s.next, tenant)
		}
	}, nil
}

// pause gives each that is sent away a place in time after the one before, so that
// all who wait come by in turn. Nothing is kept of them: one that was cancelled
// meanwhile, or that another process took, leaves its place empty.
func (s *shares) pause(tenant string) time.Duration {
	now := time.Now()
	at := s.next[tenant]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(time.Second / offers); at.Sub(now) > latest {
		at = now.Add(latest/2 + rand.N(latest/2)) // and those after it from there on
	}
	s.next[tenant] = at
	return max(at.Sub(now), soonest)
}
