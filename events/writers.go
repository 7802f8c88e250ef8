package events

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// tenantWrites is how many pages of one tenant a process sends to their stream at once.
	// A single server writes one after another and syncs each, so more of them only make
	// other tenants wait. In a cluster each waits for the others' acknowledgement, and
	// more at once are faster.
	tenantWrites = 2
	// tenantEvents is the same for events, which go together, see commits.
	tenantEvents       = 4
	tenantWritesShared = 64
)

// aloneAfter is how long no other tenant has come before one counts as alone.
const aloneAfter = 10 * time.Second

// company tells whether a tenant is alone: then nothing need be kept free for others.
// The caller guards it.
type company struct {
	last  string    // who came last
	mixed time.Time // when it was another than the one before
}

// alone notes that a tenant has come, and reports whether no other has for a while.
func (c *company) alone(tenant string) bool {
	if c.last != tenant {
		c.last, c.mixed = tenant, time.Now()
	}
	return time.Since(c.mixed) > aloneAfter
}

// writers keeps the messages of one tenant from taking the whole queue of a stream. It is
// safe for concurrent use.
type writers struct {
	most int // of one tenant

	mu      sync.Mutex
	tenants map[string]*tenantWriters // that write or wait
	company company
}

type tenantWriters struct {
	slots chan struct{}
	users int
}

func newWriters(shared bool, most int) *writers {
	if shared {
		most = tenantWritesShared
	}
	return &writers{most: most, tenants: map[string]*tenantWriters{}}
}

// enter waits until a message of a tenant may be sent. One that is alone need not wait.
func (w *writers) enter(ctx context.Context, tenant string) (leave func(), err error) {
	w.mu.Lock()
	of := w.tenants[tenant]
	if of == nil {
		of = &tenantWriters{slots: make(chan struct{}, w.most)}
		w.tenants[tenant] = of
	}
	of.users++
	alone := w.company.alone(tenant)
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
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}
