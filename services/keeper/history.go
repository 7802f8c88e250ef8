package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/storage"
)

// history bounds the number of settled exports in the log and the projection. A settled export has ended and
// has no callback pending.
type history struct {
	*parts
	maxExports int // of one tenant
	settle     time.Duration
	compared   bool // forgetGone has compared the projection with the log
}

// purgeEvents removes all events but the newest of exports that settled a while ago. The newest event holds
// the whole export.
func (h *history) purgeEvents(ctx context.Context, mark journal.PurgeMark) error {
	never := func() (bool, error) { return false, nil }
	return h.removeEnded(storage.LeftoverEvents, mark.At.Add(-h.settle), never, func(x events.Export) error {
		return h.journal.KeepLast(ctx, x.Tenant, x.Key)
	})
}

// forget removes the oldest settled exports of tenants over their limit. Without a mark it does nothing.
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

// forgetSome forgets a batch of exports of a tenant over its limit, and returns how many.
func (h *history) forgetSome(ctx context.Context, tenant string, log journal.LogState, mark journal.PurgeMark) (int, error) {
	u, err := h.tasks.Usage(tenant)
	if err != nil || !u.TooMuch(log.Space, h.maxExports) {
		return 0, err
	}
	list, err := h.tasks.Settled(tenant, batch)
	if err != nil {
		return 0, err
	}
	// Another keeper may have forgotten exports in another order.
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
	// The projection forgets first: start-up reports an export as lost if the projection knows it and the log
	// does not.
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

// clear removes the files and pages of exports. It returns the exports that have nothing left but their
// events, with their current state. It stops at the first export in use.
func (h *history) clear(ctx context.Context, list []events.Export, mark journal.PurgeMark) ([]events.Export, error) {
	last := uint64(0)
	for i, x := range list {
		err := h.unused(x.Key)
		if err == nil && x.State == events.StateCompleted {
			x, err = h.expireFile(ctx, x, func(*events.Export) bool { return true })
		}
		if err == nil {
			err = h.clearPages(ctx, x, mark)
		}
		if overtaken(err) || errors.Is(err, errInUse) {
			list = list[:i] // the next pass continues
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
	// The newest event of the log stays until a newer one is there, because readers wait for the log's last
	// sequence.
	log, err := h.journal.LogState(ctx)
	return slices.DeleteFunc(list, func(x events.Export) bool { return x.LastSeq >= log.Last }), err
}

// clearPages removes the pages and headers of an ended export, unless that is done.
func (h *history) clearPages(ctx context.Context, x events.Export, mark journal.PurgeMark) error {
	cleared, err := h.tasks.IsCleared(&x)
	if cleared || err != nil {
		return err
	}
	if !x.FinishedAt.Before(mark.At.Add(-h.settle)) {
		return errNotDue // a reader may still need its pages
	}
	return h.journal.PurgeEnded(ctx, x, mark)
}

// forgetOld removes exports from the projection whose events the log has dropped by age. Their pages and
// headers are gone by then. A pending callback, which no notifier has delivered, is given up: the log no
// longer holds it.
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

// forgetGone removes exports that settled and were forgotten while this projection did not follow the log: in
// it they are still unfinished. A projection that begins with a snapshot, or with an old file, has such
// exports. Settled ones are found by forget.
func (h *history) forgetGone(ctx context.Context) error {
	if h.compared {
		return nil
	}
	if _, err := h.upToDate(ctx); err != nil {
		return err
	}
	list, err := h.tasks.Unsettled(h.tasks.Began())
	if err != nil {
		return err
	}
	var gone []events.Export
	for _, x := range list {
		now, err := h.journal.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return err
		}
		if now.LastSeq == 0 {
			gone = append(gone, x)
		}
	}
	if err := h.tasks.Forget(gone); err != nil {
		return err
	}
	h.compared = true
	return nil
}
