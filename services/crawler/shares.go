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
	running map[string]int                 // by tenant
	waiting map[string]map[string]struct{} // by tenant, the keys that were sent away
}

func newShares(most int) *shares {
	return &shares{most: most, running: map[string]int{}, waiting: map[string]map[string]struct{}{}}
}

var errShareTaken = errors.New("as many exports of the tenant as may be are being crawled")

// offers is how many of a tenant's waiting exports are offered again in a second, by
// and large: enough for a slot that becomes free to be taken at once, and few enough
// to cost nothing.
const offers = 100

// enter takes a slot of the tenant's share until leave is called, or has the export
// offered again later.
func (s *shares) enter(tenant, key string) (leave func(), err error) {
	if s.most <= 0 {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] >= s.most {
		waiting := s.waiting[tenant]
		if waiting == nil {
			waiting = map[string]struct{}{}
			s.waiting[tenant] = waiting
		}
		waiting[key] = struct{}{}
		pause := max(time.Duration(len(waiting))*time.Second/offers, 200*time.Millisecond)
		return nil, events.RetryAfter(errShareTaken, pause/2+rand.N(pause))
	}
	if delete(s.waiting[tenant], key); len(s.waiting[tenant]) == 0 {
		delete(s.waiting, tenant)
	}
	s.running[tenant]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[tenant]--; s.running[tenant] == 0 {
			delete(s.running, tenant)
		}
	}, nil
}
