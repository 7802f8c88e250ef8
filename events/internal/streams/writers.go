package streams

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
)

const (
	// MaxPerTenant is how many messages of one tenant a process publishes at once. A single server writes
	// them one by one and syncs each, so more would only delay other tenants.
	MaxPerTenant = 2
	// In a cluster each waits for acknowledgements of other servers, and more are faster.
	maxPerTenantShared = 64
)

// aloneAfter is how long other tenants must be absent before a tenant counts as alone.
const aloneAfter = 10 * time.Second

// Company reports whether a tenant is alone: then no capacity need be reserved for others. The caller must
// lock it.
type Company struct {
	last  string    // the last tenant
	mixed time.Time // when the tenant last changed
}

// Alone records a tenant's activity, and reports whether no other tenant was active for a while. The first
// tenant of a process is alone.
func (c *Company) Alone(tenant string) bool {
	if c.last != tenant {
		if c.last != "" {
			c.mixed = time.Now()
		}
		c.last = tenant
	}
	return time.Since(c.mixed) > aloneAfter
}

// Writers keeps one tenant's messages from filling a stream's queue. It is safe for concurrent use.
type Writers struct {
	maxPerTenant int // messages in flight per tenant

	mu      sync.Mutex
	tenants map[string]*tenantWriters // tenants that write or wait
	company Company
}

type tenantWriters struct {
	slots chan struct{}
	users int
}

// NewWriters returns the limit for a stream. shared: several processes write to it, in a cluster.
func NewWriters(shared bool) *Writers {
	w := &Writers{maxPerTenant: MaxPerTenant, tenants: map[string]*tenantWriters{}}
	if shared {
		w.maxPerTenant = maxPerTenantShared
	}
	return w
}

// Enter waits until a tenant may send another message. A tenant that is alone need not wait.
func (w *Writers) Enter(ctx context.Context, tenant string) (leave func(), err error) {
	w.mu.Lock()
	of := w.tenants[tenant]
	if of == nil {
		of = &tenantWriters{slots: make(chan struct{}, w.maxPerTenant)}
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
