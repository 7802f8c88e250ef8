package crawler

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"sheaf/events/leases"

	"github.com/nats-io/nats.go"
)

// turns shares a fixed number of places for requests among exports: round-robin by tenant, within a tenant by
// export, and within an export in order of arrival. So an export with a thousand waiting pages delays a small
// one by one turn, not by a thousand.
//
// No host, no tenant and no export exceeds its limit of requests in flight, over all processes: a request needs
// a lease of each. One that waits for a limit is skipped and keeps its turn. A request gets its place and all
// leases at once, so no request holds one while it waits for another. No place is free while a request waits
// that may use it.
type turns struct {
	perHost, perTenant int // requests in flight; 0: no limit
	places             int
	leases             *leases.Exchange

	mu      sync.Mutex
	free    int
	uses    map[string]*use
	tenants []*tenantQueue // those with waiting requests, in turn
}

// use counts the requests that need leases of a resource.
type use struct{ limit, inFlight, waiting int }

type tenantQueue struct {
	tenant  string
	exports []*exportQueue
}

type exportQueue struct {
	asker
	limits  []leases.Limit
	waiting []chan *place
}

// asker is the export that a request is made for, and the host that is asked.
type asker struct {
	tenant, key, host string
	conn              int // most requests in flight for the export in all processes; 0: the crawl bounds itself
}

// newTurns returns turns whose limits hold for all processes on a connection; nil: for this process. They
// get no leases there while the exchange does not run.
func newTurns(places, perHost, perTenant int, nc *nats.Conn, log *slog.Logger) *turns {
	t := &turns{perHost: perHost, perTenant: perTenant, places: places, free: places, uses: map[string]*use{}}
	t.leases = leases.New(nc, log, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.serve()
	})
	return t
}

func (t *turns) limits(of asker) (all []leases.Limit) {
	if t.perHost > 0 {
		all = append(all, leases.Limit{Resource: "host:" + of.host, Most: t.perHost})
	}
	if t.perTenant > 0 {
		all = append(all, leases.Limit{Resource: "tenant:" + of.tenant, Most: t.perTenant})
	}
	if of.conn > 0 {
		all = append(all, leases.Limit{Resource: "export:" + of.tenant + "." + of.key, Most: of.conn})
	}
	return all
}

// count changes the numbers of requests that are in flight and that wait.
func (t *turns) count(limits []leases.Limit, inFlight, waiting int) {
	for _, l := range limits {
		u := t.uses[l.Resource]
		if u == nil {
			u = &use{}
			t.uses[l.Resource] = u
		}
		u.limit = l.Most
		u.inFlight += inFlight
		u.waiting += waiting
		if u.inFlight == 0 && u.waiting == 0 {
			delete(t.uses, l.Resource)
		}
		most := max(t.places, u.inFlight)
		t.leases.Demand(l.Resource, leases.Demand{Limit: l.Most, InFlight: u.inFlight,
			Wanted: min(u.inFlight+u.waiting, most), Most: most})
	}
}

// place is the right to make one request. A nil place is one without limits.
type place struct {
	turns     *turns
	of        asker
	limits    []leases.Limit
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
		t.count(p.limits, -1, 0)
	}
	t.serve()
}

func (p *place) giveBack() {
	if !p.yielded {
		p.yielded = true
		p.turns.free++
	}
}

// take waits for a place. It fails only when ctx ends.
func (t *turns) take(ctx context.Context, of asker) (*place, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limits := t.limits(of)
	t.mu.Lock()
	if t.free > 0 && t.begins(limits) {
		defer t.mu.Unlock()
		return t.give(of, limits), nil
	}
	turn := make(chan *place, 1)
	t.enqueue(of, limits, turn)
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

// begins counts a request with the exchange if no limit forbids it. The caller then gives it a place.
func (t *turns) begins(limits []leases.Limit) bool {
	return t.leases.Begin(limits, func(resource string) int {
		if u := t.uses[resource]; u != nil {
			return u.inFlight
		}
		return 0
	})
}

func (t *turns) give(of asker, limits []leases.Limit) *place {
	t.free--
	t.count(limits, 1, 0)
	return &place{turns: t, of: of, limits: limits}
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
		t.count(eq.limits, 0, -1)
		turn <- t.give(eq.asker, eq.limits)
	}
}

// next returns the first export in turn whose request begins, -1 without one.
func (t *turns) next() (tenant, export int) {
	for i, tq := range t.tenants {
		for j, eq := range tq.exports {
			if t.begins(eq.limits) {
				return i, j
			}
		}
	}
	return -1, -1
}

func (t *turns) enqueue(of asker, limits []leases.Limit, turn chan *place) {
	t.count(limits, 0, 1)
	i := slices.IndexFunc(t.tenants, func(q *tenantQueue) bool { return q.tenant == of.tenant })
	if i < 0 {
		t.tenants = append(t.tenants, &tenantQueue{tenant: of.tenant})
		i = len(t.tenants) - 1
	}
	tq := t.tenants[i]
	j := slices.IndexFunc(tq.exports, func(q *exportQueue) bool { return q.asker == of })
	if j < 0 {
		tq.exports = append(tq.exports, &exportQueue{asker: of, limits: limits})
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
	t.count(eq.limits, 0, -1)
	if len(eq.waiting) == 0 {
		tq.exports = slices.Delete(tq.exports, j, j+1)
	}
	if len(tq.exports) == 0 {
		t.tenants = slices.Delete(t.tenants, i, i+1)
	}
	return true
}
