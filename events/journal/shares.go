package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"sheaf/events/internal/streams"
)

// Shares keeps one tenant from taking all the slots of a process: however many messages
// it has queued, only so many are handled at once. Further ones stay with the server,
// which offers them again; an idle process takes them. It is safe for concurrent use.
type Shares struct {
	most   int // of one tenant, 0 for all
	offers int
	all    chan struct{} // holds the work of Run

	mu      sync.Mutex
	company streams.Company
	running map[string]int       // by tenant
	waiting map[string]*waiting  // by tenant, see Run
	next    map[string]time.Time // by tenant, when the last one that was sent away is offered again
}

// NewShares gives each tenant at most that many slots, 0 for all, and does the work of Run
// for all tenants in as many at once as all says; a tenant that is alone may have all of
// these. About offers of a tenant's
// waiting messages are offered again in a second: enough for a slot that becomes free to
// be taken soon, and few enough to cost little.
func NewShares(most, all, offers int) *Shares {
	return &Shares{most: most, offers: offers, all: make(chan struct{}, all), running: map[string]int{}, waiting: map[string]*waiting{}, next: map[string]time.Time{}}
}

// ErrShareTaken is why a message is offered again later.
var ErrShareTaken = errors.New("as many messages of the tenant as may be are being handled")

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
		return nil, RetryAfter(ErrShareTaken, s.pause(tenant))
	}
	s.running[tenant]++
	return func() { s.leave(tenant) }, nil
}

// leave gives the slot to the tenant's next message that waits in this process, if any.
func (s *Shares) leave(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[tenant]--
	if w := s.waiting[tenant]; w != nil {
		for most := s.mostOf(tenant); len(w.queue) > 0 && s.running[tenant] < most; {
			s.running[tenant]++
			w.take(0)
		}
		if len(w.queue) == 0 {
			delete(s.waiting, tenant)
		}
	}
	if s.running[tenant] == 0 {
		delete(s.running, tenant)
		delete(s.next, tenant)
	}
}

// mostOf is how many messages of a tenant may be worked on now.
func (s *Shares) mostOf(tenant string) int {
	if s.company.Alone(tenant) {
		return max(s.most, cap(s.all))
	}
	return s.most
}

// waiting are the messages of a tenant that wait in this process, in order.
type waiting struct {
	queue []*waiter
	bytes int
}

type waiter struct {
	turn  chan struct{} // closed when it has a slot
	bytes int
}

// take removes a waiter, which has its turn then.
func (w *waiting) take(i int) {
	next := w.queue[i]
	w.queue = slices.Delete(w.queue, i, i+1)
	w.bytes -= next.bytes
	close(next.turn)
}

// So many messages of one tenant wait in a process, of so many bytes. Each has a goroutine.
const (
	maxWaitingHere      = 512
	maxWaitingHereBytes = 4 << 20
)

// Run does the work of a message of a tenant in its share of the slots. While the share
// is taken the message waits without a slot, in order, so that those of other tenants
// come by. Beyond some hundred it is offered again later. What Run returns is for a
// [Handler] to return.
func (s *Shares) Run(ctx context.Context, tenant string, bytes int, work func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] < s.mostOf(tenant) {
		s.running[tenant]++
		s.mu.Unlock()
		defer s.mu.Lock() // which the return unlocks
		return s.work(ctx, tenant, work)
	}
	w := s.waiting[tenant]
	if w == nil {
		w = &waiting{}
		s.waiting[tenant] = w
	}
	if len(w.queue) >= maxWaitingHere || len(w.queue) > 0 && w.bytes+bytes > maxWaitingHereBytes {
		return RetryAfter(ErrShareTaken, s.pause(tenant))
	}
	own := &waiter{turn: make(chan struct{}), bytes: bytes}
	w.queue = append(w.queue, own)
	w.bytes += bytes
	return Beside(func() error {
		select {
		case <-own.turn:
		case <-ctx.Done():
			s.mu.Lock()
			i := slices.Index(w.queue, own)
			if i >= 0 {
				w.take(i)
				if len(w.queue) == 0 {
					delete(s.waiting, tenant)
				}
			}
			s.mu.Unlock()
			if i < 0 { // it had its turn at the same moment
				s.leave(tenant)
			}
			return ctx.Err()
		}
		err := s.work(ctx, tenant, work)
		var he *handlingError
		if errors.As(err, &he) && he.work != nil {
			return he.work()
		}
		return err
	})
}

// work does the work of a message that has its turn.
func (s *Shares) work(ctx context.Context, tenant string, work func() error) error {
	defer s.leave(tenant)
	select {
	case s.all <- struct{}{}:
		defer func() { <-s.all }()
		return work()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Taken reports whether no slot of the tenant's share is left.
func (s *Shares) Taken(tenant string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most > 0 && s.running[tenant] >= s.most
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
