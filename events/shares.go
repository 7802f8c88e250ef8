package events

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Shares keeps one tenant from taking all the slots of a process: however many messages
// it has queued, only so many are handled at once. Further ones stay with the server,
// which offers them again; an idle process takes them. It is safe for concurrent use.
type Shares struct {
	most   int // of one tenant, 0 for all
	offers int

	mu      sync.Mutex
	running map[string]int       // by tenant
	next    map[string]time.Time // by tenant, when the last one that was sent away is offered again
}

// NewShares gives each tenant at most that many slots, 0 for all. About offers of its
// waiting messages are offered again in a second: enough for a slot that becomes free to
// be taken soon, and few enough to cost little.
func NewShares(most, offers int) *Shares {
	return &Shares{most: most, offers: offers, running: map[string]int{}, next: map[string]time.Time{}}
}

var errShareTaken = errors.New("as many messages of the tenant as may be are being handled")

// A message that waits alone is offered again after soonest, and none later than latest,
// however many wait or have waited and were cancelled.
const (
	soonest = 200 * time.Millisecond
	latest  = 30 * time.Second
)

// Enter takes a slot of the tenant's share until leave is called. Its error has the
// message offered again later.
func (s *Shares) Enter(tenant string) (leave func(), err error) {
	if s.most <= 0 {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] >= s.most {
		return nil, RetryAfter(errShareTaken, s.pause(tenant))
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
func (s *Shares) pause(tenant string) time.Duration {
	now := time.Now()
	at := s.next[tenant]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(time.Second / time.Duration(s.offers)); at.Sub(now) > latest {
		at = now.Add(latest/2 + rand.N(latest/2)) // and those after it from there on
	}
	s.next[tenant] = at
	return max(at.Sub(now), soonest)
}
