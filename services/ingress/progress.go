package ingress

import (
	"sync"

	"sheaf/events"
)

// maxProgress bounds the exports whose progress is remembered. Beyond it some
// are forgotten: progress is a hint.
const maxProgress = 10_000

type exportID struct{ tenant, key string }

// progressCache remembers the last progress that was told of each export under
// way. It is safe for concurrent use.
type progressCache struct {
	mu   sync.Mutex
	last map[exportID]events.Progress
}

func newProgressCache() *progressCache {
	return &progressCache{last: map[exportID]events.Progress{}}
}

func (c *progressCache) tell(tenant, key string, p events.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := exportID{tenant, key}
	if _, ok := c.last[id]; !ok && len(c.last) >= maxProgress {
		for other := range c.last {
			delete(c.last, other)
			break
		}
	}
	c.last[id] = p
}

// apply forgets the exports that ended.
func (c *progressCache) apply(batch []events.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ev := range batch {
		switch ev.Type() {
		case events.TypeCompleted, events.TypeFailed, events.TypeCancelled, events.TypeRequested:
			delete(c.last, exportID{ev.Tenant, ev.Key})
		}
	}
}

// of is how far x has come. Its state, which the log proves, wins over what was
// told, which may be late.
func (c *progressCache) of(x *events.Export) events.Progress {
	if x.State.Terminal() {
		return events.Progress{Phase: phaseDone, PagesDone: x.Pages, PagesTotal: x.Pages, Rows: x.Rows}
	}
	c.mu.Lock()
	told := c.last[exportID{x.Tenant, x.Key}]
	c.mu.Unlock()
	if x.State == events.StateCrawled {
		p := events.Progress{Phase: events.PhaseAssembling, PagesTotal: x.Pages}
		switch told.Phase {
		case events.PhaseAssembling:
			p.PagesDone, p.Rows = told.PagesDone, told.Rows
		case events.PhaseWaitingForSpace:
			if told.PagesDone >= x.Pages { // the workbook waits; a crawl with all its pages does not
				return told
			}
		}
		return p
	}
	switch told.Phase {
	case events.PhaseQueued, events.PhaseCrawling, events.PhaseWaitingForSpace:
		return told
	}
	return events.Progress{Phase: events.PhaseQueued}
}
