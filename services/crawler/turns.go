package crawler

import (
	"context"
	"slices"
	"sync"
)

// turns shares a fixed number of places among exports: round-robin by tenant,
// within a tenant by export, within an export in the order of asking. So a
// giant with a thousand waiting pages delays a small export by one turn, not
// by a thousand.
type turns struct {
	mu      sync.Mutex
	free    int
	tenants []*tenantQueue // those with somebody waiting, in turn
}

type tenantQueue struct {
	tenant  string
	exports []*exportQueue
}

type exportQueue struct {
	key     string
	waiting []chan struct{}
}

func newTurns(places int) *turns { return &turns{free: places} }

// take waits for a place and returns the function that gives it back, which
// must be called once. It fails only when ctx ends.
func (t *turns) take(ctx context.Context, tenant, key string) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return t.release, nil
	}
	turn := make(chan struct{}, 1)
	t.enqueue(tenant, key, turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return t.release, nil
	case <-ctx.Done():
		t.mu.Lock()
		gone := t.dequeue(tenant, key, turn)
		t.mu.Unlock()
		if !gone {
			t.release() // the turn came at the same moment
		}
		return nil, ctx.Err()
	}
}

// release hands the place to whoever is next, or keeps it free.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tenants) == 0 {
		t.free++
		return
	}
	tq := t.tenants[0]
	eq := tq.exports[0]
	turn := eq.waiting[0]
	// Whoever was served goes to the end of its row, or leaves it when nothing
	// more of it waits.
	eq.waiting = eq.waiting[1:]
	tq.exports = tq.exports[1:]
	if len(eq.waiting) > 0 {
		tq.exports = append(tq.exports, eq)
	}
	t.tenants = t.tenants[1:]
	if len(tq.exports) > 0 {
		t.tenants = append(t.tenants, tq)
	}
	turn <- struct{}{}
}

func (t *turns) enqueue(tenant, key string, turn chan struct{}) {
	i := slices.IndexFunc(t.tenants, func(q *tenantQueue) bool { return q.tenant == tenant })
	if i < 0 {
		t.tenants = append(t.tenants, &tenantQueue{tenant: tenant})
		i = len(t.tenants) - 1
	}
	tq := t.tenants[i]
	j := slices.IndexFunc(tq.exports, func(q *exportQueue) bool { return q.key == key })
	if j < 0 {
		tq.exports = append(tq.exports, &exportQueue{key: key})
		j = len(tq.exports) - 1
	}
	tq.exports[j].waiting = append(tq.exports[j].waiting, turn)
}

// dequeue forgets a waiting turn and reports whether it was still waiting.
func (t *turns) dequeue(tenant, key string, turn chan struct{}) bool {
	i := slices.IndexFunc(t.tenants, func(q *tenantQueue) bool { return q.tenant == tenant })
	if i < 0 {
		return false
	}
	tq := t.tenants[i]
	j := slices.IndexFunc(tq.exports, func(q *exportQueue) bool { return q.key == key })
	if j < 0 {
		return false
	}
	eq := tq.exports[j]
	k := slices.Index(eq.waiting, turn)
	if k < 0 {
		return false
	}
	eq.waiting = slices.Delete(eq.waiting, k, k+1)
	if len(eq.waiting) == 0 {
		tq.exports = slices.Delete(tq.exports, j, j+1)
	}
	if len(tq.exports) == 0 {
		t.tenants = slices.Delete(t.tenants, i, i+1)
	}
	return true
}
