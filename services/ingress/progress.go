package ingress

import (
	"sync"

	"sheaf/events"
)

// maxProgress bounds the exports with remembered progress. Beyond it some are forgotten, because progress is
// a hint.
const maxProgress = 10_000

type exportID struct{ tenant, key string }

// progressCache remembers the last reported progress of each export under way. It is safe for concurrent use.
type progressCache struct {
	mu   sync.Mutex
	last map[exportID]events.Progress
}

func newProgressCache() *progressCache {
	return &progressCache{last: map[exportID]events.Progress{}}
}

func (c *progressCache) report(tenant, key string, p events.Progress) {
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

// apply forgets ended exports.
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

// phase returns the last reported phase of an export under way, "" without one.
func (c *progressCache) phase(tenant, key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[exportID{tenant, key}].Phase
}

// of returns the progress of x. The log proves the state of x, so the state wins over a late report.
func (c *progressCache) of(x *events.Export) events.Progress {
	if x.State.Terminal() {
		return events.Progress{Phase: phaseDone, PagesDone: x.Pages, PagesTotal: x.Pages, Rows: x.Rows}
	}
	c.mu.Lock()
	reported := c.last[exportID{x.Tenant, x.Key}]
	c.mu.Unlock()
	if x.State == events.StateCrawled {
		p := events.Progress{Phase: events.PhaseAssembling, PagesTotal: x.Pages}
		switch reported.Phase {
		case events.PhaseAssembling:
			// The assembler counts a page once for each format that reads it.
			p.PagesDone, p.PagesTotal, p.Rows = reported.PagesDone, max(reported.PagesTotal, x.Pages), reported.Rows
		case events.PhaseWaitingForSpace:
			if reported.PagesDone >= x.Pages { // the workbook waits; a crawl with all its pages does not
				return reported
			}
		}
		return p
	}
	switch reported.Phase {
	case events.PhaseQueued, events.PhaseCrawling, events.PhaseWaitingForSource, events.PhaseWaitingForSpace:
		return reported
	}
	return events.Progress{Phase: events.PhaseQueued}
}
