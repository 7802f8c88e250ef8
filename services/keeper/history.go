package keeper

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/storage"
)

// history bounds what the log and the projection remember of exports that are settled:
// ended, with no callback pending.
type history struct {
	*parts
	maxExports int // of one tenant
	settle     time.Duration
}

// purgeEvents removes all events but the newest of exports that are settled for a while.
// The newest tells everything.
func (h *history) purgeEvents(ctx context.Context, mark journal.PurgeMark) error {
	never := func() (bool, error) { return false, nil }
	return h.removeEnded(storage.LeftoverEvents, mark.At.Add(-h.settle), never, func(x events.Export) error {
		return h.journal.KeepLast(ctx, x.Tenant, x.Key)
	})
}

// forget makes tenants that have more than they may forget what began first, of the
// exports that are settled. Without a mark it does nothing.
func (h *history) forget(ctx context.Context, mark journal.PurgeMark) error {
	if mark.At.IsZero() {
		return nil
	}
	log, err := h.upToDate(ctx)
	if err != nil {
		return err
	}
	tenants, err := h.tasks.Usages()
	if err != nil {
		return err
	}
	for tenant := range tenants {
		forgotten := 0
		for {
			n, err := h.forgetSome(ctx, tenant, log, mark)
			if err != nil {
				return fmt.Errorf("tenant %s: %w", tenant, err)
			}
			if forgotten += n; n == 0 {
				break
			}
		}
		if forgotten > 0 {
			h.metrics.removed.WithLabelValues("history").Add(float64(forgotten))
			h.log.Info("oldest exports forgotten", "tenant", tenant, "exports", forgotten)
		}
	}
	return nil
}

// forgetSome makes a tenant that has more than it may forget a batch of exports, and
// returns how many.
func (h *history) forgetSome(ctx context.Context, tenant string, log journal.LogState, mark journal.PurgeMark) (int, error) {
	u, err := h.tasks.Usage(tenant)
	if err != nil || !u.TooMuch(log.Space, h.maxExports) {
		return 0, err
	}
	list, err := h.tasks.Settled(tenant, batch)
	if err != nil {
		return 0, err
	}
	// Another keeper may have forgotten some, and not those that this one would.
	var gone []events.Export
	for _, x := range list {
		now, err := h.journal.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return 0, err
		}
		if now.LastSeq == 0 {
			gone = append(gone, x)
		}
	}
	if len(gone) > 0 {
		return len(gone), h.tasks.Forget(gone)
	}
	n := 0
	for average := u.Bytes / int64(max(u.Exports, 1)); n < len(list) && u.TooMuch(log.Space, h.maxExports); n++ {
		u.Exports--
		u.Bytes -= average
	}
	if list, err = h.clear(ctx, list[:n], mark); err != nil {
		return 0, err
	}
	// The projection first: a start takes what it knows and the log does not for a loss.
	if err := h.tasks.Forget(list); err != nil {
		return 0, err
	}
	for _, x := range list {
		if err := h.journal.Forget(ctx, x); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}

// clear removes the files and pages of exports, and returns those exports, as they are
// then, that have nothing left but their events. The first one that is in use ends it.
func (h *history) clear(ctx context.Context, list []events.Export, mark journal.PurgeMark) ([]events.Export, error) {
	last := uint64(0)
	for i, x := range list {
		var err error
		if x.State == events.StateCompleted {
			x, err = h.expireFile(ctx, x, func(*events.Export) bool { return true })
		}
		if err == nil {
			err = h.clearPages(ctx, x, mark)
		}
		if overtaken(err) {
			list = list[:i] // the next look continues
			break
		}
		if err != nil {
			return nil, err
		}
		list[i], last = x, max(last, x.LastSeq)
	}
	if err := h.tasks.WaitApplied(ctx, last); err != nil {
		return nil, err
	}
	// The newest event of the log stays until there is another: a reader of the log would
	// wait for its end in vain.
	log, err := h.journal.LogState(ctx)
	return slices.DeleteFunc(list, func(x events.Export) bool { return x.LastSeq >= log.Last }), err
}

// clearPages removes what an ended export has left behind, if it has not been removed.
func (h *history) clearPages(ctx context.Context, x events.Export, mark journal.PurgeMark) error {
	cleared, err := h.tasks.IsCleared(&x)
	if cleared || err != nil {
		return err
	}
	if !x.FinishedAt.Before(mark.At.Add(-h.settle)) {
		return errNotDue // its pages may be read yet
	}
	return h.journal.PurgeEnded(ctx, x, mark)
}

// forgetOld removes exports from the projection whose events became too old for the log. Pages and headers are
// gone by then. A callback that is still pending, because no notifier ran, is given up: the log holds nothing of
// it any more.
func (h *history) forgetOld(ctx context.Context) error {
	log, err := h.upToDate(ctx)
	if err != nil {
		return err
	}
	for {
		list, err := h.tasks.Below(log.First, batch)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := h.tasks.Forget(list); err != nil {
			return err
		}
	}
}
