package streams

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
)

const (
	// TenantPages is how many pages of one tenant a process sends to their stream at once.
	// A single server writes one after another and syncs each, so more of them only make
	// other tenants wait. In a cluster each waits for the others' acknowledgement, and
	// more at once are faster.
	TenantPages = 2
	// TenantEvents is the same for events, which are committed in groups.
	TenantEvents       = 4
	tenantWritesShared = 64
)

// aloneAfter is how long no other tenant has come before one counts as alone.
const aloneAfter = 10 * time.Second

// Company tells whether a tenant is alone: then nothing need be kept free for others.
// The caller guards it.
type Company struct {
	last  string    // who came last
	mixed time.Time // when it was another than the one before
}

// Alone notes that a tenant has come, and reports whether no other has for a while.
func (c *Company) Alone(tenant string) bool {
	if c.last != tenant {
		c.last, c.mixed = tenant, time.Now()
	}
	return time.Since(c.mixed) > aloneAfter
}

// Writers keeps the messages of one tenant from taking the whole queue of a stream. It is
// safe for concurrent use.
type Writers struct {
	most int // of one tenant

	mu      sync.Mutex
	tenants map[string]*tenantWriters // that write or wait
	company Company
}

type tenantWriters struct {
	slots chan struct{}
	users int
}

func NewWriters(shared bool, most int) *Writers {
	if shared {
		most = tenantWritesShared
	}
	return &Writers{most: most, tenants: map[string]*tenantWriters{}}
}

// Enter waits until a message of a tenant may be sent. One that is alone need not wait.
func (w *Writers) Enter(ctx context.Context, tenant string) (leave func(), err error) {
	w.mu.Lock()
	of := w.tenants[tenant]
	if of == nil {
		of = &tenantWriters{slots: make(chan struct{}, w.most)}
		w.tenants[tenant] = of
	}
	of.users++
	alone := w.company.Alone(tenant)
	w.mu.Unlock()
	gone := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if of.users--; of.users == 0 {
			delete(w.tenants, tenant)
		}
	}
	if alone {
		return gone, nil
	}
	select {
	case of.slots <- struct{}{}:
		return func() {
			<-of.slots
			gone()
		}, nil
	case <-ctx.Done():
		gone()
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	}
}
