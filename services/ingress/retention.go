package ingress

import (
	"context"
	"fmt"
	"log/slog"

	"sheaf/events"
	"sheaf/storage"
)

// tenantLog is how much of the log the exports of one tenant may take.
const tenantLog = 0.5

// tooMuch reports whether a tenant has more in the log than it may.
func tooMuch(u storage.Usage, log events.Space, maxHistory int) bool {
	return u.Exports > maxHistory || log.Limit > 0 && float64(u.Bytes) > tenantLog*float64(log.Limit)
}

// purgeEvents removes all events but the newest of exports that are settled for a while.
// The newest tells everything.
func (s *sweeper) purgeEvents(ctx context.Context) error {
	for {
		list, err := s.tasks.Ended(storage.LeftoverEvents, s.mark.At.Add(-s.settle), sweepBatch)
		if err != nil || len(list) == 0 {
			return err
		}
		for i, x := range list {
			if err := s.streams.KeepLast(ctx, x.Tenant, x.Key); err != nil {
				return fmt.Errorf("%w; the next pass goes on (%w)", err, s.tasks.Cleared(storage.LeftoverEvents, list[:i]))
			}
		}
		if err := s.tasks.Cleared(storage.LeftoverEvents, list); err != nil {
			return err
		}
	}
}

// forget makes tenants forget exports of which nothing is left to do, oldest first: those
// that are too old for the log, and those that a tenant has more of than it may.
//
// Others forget the same by their own look: it depends on the log alone.
func (s *sweeper) forget(ctx context.Context) error {
	if s.mark.At.IsZero() {
		return nil
	}
	log, err := s.upToDate(ctx)
	if err != nil {
		return err
	}
	tenants, err := s.tasks.Usages()
	if err != nil {
		return err
	}
	for tenant := range tenants {
		forgotten := 0
		for {
			n, err := s.forgetSome(ctx, tenant, log)
			if err != nil {
				return fmt.Errorf("tenant %s: %w", tenant, err)
			}
			if forgotten += n; n == 0 {
				break
			}
		}
		if forgotten > 0 {
			slog.Info("oldest exports forgotten", "service", "ingress", "tenant", tenant, "exports", forgotten)
		}
	}
	return nil
}

// forgetSome makes a tenant forget a batch of exports, and returns how many.
func (s *sweeper) forgetSome(ctx context.Context, tenant string, log events.LogState) (int, error) {
	u, err := s.tasks.Usage(tenant)
	if err != nil {
		return 0, err
	}
	list, err := s.tasks.Settled(tenant, sweepBatch)
	if err != nil {
		return 0, err
	}
	n := 0
	for average := u.Bytes / int64(max(u.Exports, 1)); n < len(list) && (list[n].LastSeq < log.First || tooMuch(u, log.Space, s.maxHistory)); n++ {
		u.Exports--
		u.Bytes -= average
	}
	last := uint64(0)
	for i, x := range list[:n] {
		if x.State == events.StateCompleted && x.LastSeq >= log.First {
			x, err = s.expireFile(ctx, x, func(*events.Export) bool { return true })
		}
		if err == nil {
			err = s.clear(ctx, x)
		}
		switch {
		case err == nil:
			list[i], last = x, max(last, x.LastSeq)
		case !overtaken(err):
			return 0, err
		default:
			return 0, nil // somebody uses it; the next look goes on
		}
	}
	if err := s.tasks.WaitApplied(ctx, last); err != nil {
		return 0, err
	}
	// The projection first: what it knows and the log does not is taken for lost at a start.
	if err := s.tasks.Forget(list[:n]); err != nil {
		return 0, err
	}
	for _, x := range list[:n] {
		if err := s.streams.Forget(ctx, x); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// clear removes what an ended export has left behind, if it has not been removed.
func (s *sweeper) clear(ctx context.Context, x events.Export) error {
	cleared, err := s.tasks.IsCleared(&x)
	if cleared || err != nil {
		return err
	}
	if !x.FinishedAt.Before(s.mark.At.Add(-s.settle)) {
		return errNotDue // its pages may be read yet
	}
	return s.streams.PurgeEnded(ctx, x, s.mark)
}
