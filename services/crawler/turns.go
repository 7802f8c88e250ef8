package crawler

import (
	"context"
	"slices"
	"sync"
)

// turns shares a fixed number of places for requests among exports: round-robin by tenant, within a tenant by
// export, and within an export in order of arrival. So an export with a thousand waiting pages delays a small
// one by one turn, not by a thousand.
//
// No host, no tenant and no export exceeds its limit of requests in flight. A request that waits for a limit is
// skipped and keeps its turn. A request gets its place and all limits at once, so no request holds one while it
// waits for another. No place is free while a request waits that may use it.
type turns struct {
	perHost, perTenant int // requests in flight; 0: no limit

	mu       sync.Mutex
	free     int
	ofHost   map[string]int // requests in flight
	ofTenant map[string]int
	ofExport map[export]int
	tenants  []*tenantQueue // those with waiting requests, in turn
}

type tenantQueue struct {
	tenant  string
	exports []*exportQueue
}

type exportQueue struct {
	asker
	waiting []chan *place
}

// asker is the export that a request is made for, and the host that is asked.
type asker struct {
	tenant, key, host string
	conn              int // most requests in flight for the export, over all its askers; 0: the crawl bounds itself
}

type export struct{ tenant, key string }

func (a asker) export() export { return export{a.tenant, a.key} }

func newTurns(places, perHost, perTenant int) *turns {
	return &turns{perHost: perHost, perTenant: perTenant, free: places,
		ofHost: map[string]int{}, ofTenant: map[string]int{}, ofExport: map[export]int{}}
}

// place is the right to make one request. A nil place is one without limits.
type place struct {
	turns     *turns
	of        asker
	yielded   bool
	completed bool
}

// Yield releases the place although the request continues. The request still counts against the limits of its
// host and tenant. Yield may be called again.
func (p *place) Yield() {
	if p == nil {
		return
	}
	p.turns.mu.Lock()
	defer p.turns.mu.Unlock()
	p.giveBack()
	p.turns.serve()
}

// Done says that the request has ended. It may be called again.
func (p *place) Done() {
	if p == nil {
		return
	}
	t := p.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	p.giveBack()
	if !p.completed {
		p.completed = true
		decrease(t.ofHost, p.of.host)
		decrease(t.ofTenant, p.of.tenant)
		decrease(t.ofExport, p.of.export())
	}
	t.serve()
}

func (p *place) giveBack() {
	if !p.yielded {
		p.yielded = true
		p.turns.free++
	}
}

func decrease[K comparable](counts map[K]int, name K) {
	if counts[name]--; counts[name] == 0 {
		delete(counts, name)
	}
}

// take waits for a place. It fails only when ctx ends.
func (t *turns) take(ctx context.Context, of asker) (*place, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.free > 0 && t.admits(of) {
		defer t.mu.Unlock()
		return t.give(of), nil
	}
	turn := make(chan *place, 1)
	t.enqueue(of, turn)
	t.mu.Unlock()
	select {
	case p := <-turn:
		return p, nil
	case <-ctx.Done():
		t.mu.Lock()
		gone := t.dequeue(of, turn)
		t.mu.Unlock()
		if !gone {
			(<-turn).Done() // the place came at the same moment
		}
		return nil, ctx.Err()
	}
}

func (t *turns) admits(of asker) bool {
	return below(t.ofTenant, of.tenant, t.perTenant) && below(t.ofHost, of.host, t.perHost) &&
		below(t.ofExport, of.export(), of.conn)
}

func below[K comparable](counts map[K]int, name K, limit int) bool {
	return limit <= 0 || counts[name] < limit
}

func (t *turns) give(of asker) *place {
	t.free--
	t.ofHost[of.host]++
	t.ofTenant[of.tenant]++
	t.ofExport[of.export()]++
	return &place{turns: t, of: of}
}

// serve assigns the free places. An export that got one moves to the end of its queue, or leaves it when
// nothing more of it waits.
func (t *turns) serve() {
	for t.free > 0 {
		i, j := t.next()
		if i < 0 {
			return
		}
		tq := t.tenants[i]
		eq := tq.exports[j]
		turn := eq.waiting[0]
		eq.waiting = eq.waiting[1:]
		tq.exports = slices.Delete(tq.exports, j, j+1)
		if len(eq.waiting) > 0 {
			tq.exports = append(tq.exports, eq)
		}
		t.tenants = slices.Delete(t.tenants, i, i+1)
		if len(tq.exports) > 0 {
			t.tenants = append(t.tenants, tq)
		}
		turn <- t.give(eq.asker)
	}
}

// next returns the first export in turn that the limits admit, -1 without one.
func (t *turns) next() (tenant, export int) {
	for i, tq := range t.tenants {
		for j, eq := range tq.exports {
			if t.admits(eq.asker) {
				return i, j
			}
		}
	}
	return -1, -1
}

func (t *turns) enqueue(of asker, turn chan *place) {
	i := slices.IndexFunc(t.tenants, func(q *tenantQueue) bool { return q.tenant == of.tenant })
	if i < 0 {
		t.tenants = append(t.tenants, &tenantQueue{tenant: of.tenant})
		i = len(t.tenants) - 1
	}
	tq := t.tenants[i]
	j := slices.IndexFunc(tq.exports, func(q *exportQueue) bool { return q.asker == of })
	if j < 0 {
		tq.exports = append(tq.exports, &exportQueue{asker: of})
		j = len(tq.exports) - 1
	}
	tq.exports[j].waiting = append(tq.exports[j].waiting, turn)
}

// dequeue removes a waiting turn and reports whether it was still waiting.
func (t *turns) dequeue(of asker, turn chan *place) bool {
	i := slices.IndexFunc(t.tenants, func(q *tenantQueue) bool { return q.tenant == of.tenant })
	if i < 0 {
		return false
	}
	tq := t.tenants[i]
	j := slices.IndexFunc(tq.exports, func(q *exportQueue) bool { return q.asker == of })
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
