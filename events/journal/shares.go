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

// Shares keeps one tenant from using all slots of a process: however many messages it has queued, only a
// limited number is handled at once. The others stay on the server, which redelivers them; an idle process
// handles them. It is safe for concurrent use.
type Shares struct {
	maxPerTenant int // slots per tenant, 0 for all
	offers       int
	all          chan struct{}                     // one token per running work of Run
	pauseOf      func(tenant string) time.Duration // see Pause; nil for none

	mu      sync.Mutex
	company streams.Company
	running map[string]int       // by tenant
	waiting map[string]*waiting  // by tenant, see Run
	next    map[string]time.Time // by tenant: when the last refused message is redelivered
}

// NewShares limits each tenant to maxPerTenant slots, 0 for all. Run uses at most all slots for all tenants
// together; a tenant that is alone may use all of them. About offers messages of a waiting tenant are
// redelivered per second: enough for a free slot to be used soon, and few enough to cost little.
func NewShares(maxPerTenant, all, offers int) *Shares {
	return &Shares{maxPerTenant: maxPerTenant, offers: offers, all: make(chan struct{}, all),
		running: map[string]int{}, waiting: map[string]*waiting{}, next: map[string]time.Time{}}
}

// Pause makes Run hold a tenant's slot for pause(tenant) after each work. The tenant's messages wait
// meanwhile, in order; other tenants' messages do not. Call it before Run.
func (s *Shares) Pause(pause func(tenant string) time.Duration) { s.pauseOf = pause }

// ErrShareTaken explains why a message is redelivered later.
var ErrShareTaken = errors.New("the tenant has no free slot")

// A lone refused message is redelivered after soonest. None is redelivered later than latest, however many
// wait or were cancelled while waiting.
const (
	soonest = 200 * time.Millisecond
	latest  = 30 * time.Second
)

// Enter takes a slot of the tenant's share until leave is called. Its error makes Consume redeliver the
// message later.
func (s *Shares) Enter(tenant string) (leave func(), err error) {
	if s.maxPerTenant <= 0 {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] >= s.maxPerTenant {
		return nil, RetryAfter(ErrShareTaken, s.pause(tenant))
	}
	s.running[tenant]++
	return func() { s.leave(tenant) }, nil
}

// leave passes the slot to the tenant's next message that waits in this process, if any.
func (s *Shares) leave(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[tenant]--
	if w := s.waiting[tenant]; w != nil {
		for most := s.limitOf(tenant); len(w.queue) > 0 && s.running[tenant] < most; {
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

// limitOf returns how many messages of a tenant may be in work now.
func (s *Shares) limitOf(tenant string) int {
	if s.company.Alone(tenant) {
		return max(s.maxPerTenant, cap(s.all))
	}
	return s.maxPerTenant
}

// waiting are the messages of a tenant that wait in this process, in order.
type waiting struct {
	queue []*waiter
	bytes int
}

type waiter struct {
	turn  chan struct{} // closed when it gets a slot
	bytes int
}

// take removes a waiter because it gets its turn.
func (w *waiting) take(i int) {
	next := w.queue[i]
	w.queue = slices.Delete(w.queue, i, i+1)
	w.bytes -= next.bytes
	close(next.turn)
}

// Limits of the messages of one tenant that wait in a process, in number and bytes. Each has a goroutine.
const (
	maxWaitingHere      = 512
	maxWaitingHereBytes = 4 << 20
)

// Run does the work of a tenant's message within the tenant's share of the slots. While the share is taken
// the message waits without a slot, in order, so that other tenants' messages are handled. Beyond
// maxWaitingHere messages it is redelivered later. Return the result of Run from the [Handler].
func (s *Shares) Run(ctx context.Context, tenant string, bytes int, work func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[tenant] < s.limitOf(tenant) {
		s.running[tenant]++
		s.mu.Unlock()
		defer s.mu.Lock() // unlocked by the return
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
			if i < 0 { // it got its turn at the same moment
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

// work does the work of a message that got its turn.
func (s *Shares) work(ctx context.Context, tenant string, work func() error) error {
	defer func() {
		if s.pauseOf != nil {
			if d := s.pauseOf(tenant); d > 0 {
				time.AfterFunc(d, func() { s.leave(tenant) })
				return
			}
		}
		s.leave(tenant)
	}()
	select {
	case s.all <- struct{}{}:
		defer func() { <-s.all }()
		return work()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Taken reports whether no slot of the tenant's share is free.
func (s *Shares) Taken(tenant string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxPerTenant > 0 && s.running[tenant] >= s.maxPerTenant
}

// pause returns the redelivery delay of a refused message. Each one follows the message refused before it, so
// that all get their turn. No state is kept for them: if one is cancelled meanwhile, or handled by another
// process, its time slot stays unused.
func (s *Shares) pause(tenant string) time.Duration {
	now := time.Now()
	at := s.next[tenant]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(time.Second / time.Duration(s.offers)); at.Sub(now) > latest {
		at = now.Add(latest/2 + rand.N(latest/2)) // later ones follow from there
	}
	s.next[tenant] = at
	return max(at.Sub(now), soonest)
}
