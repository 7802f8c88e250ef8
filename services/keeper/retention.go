package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sheaf/events"
	"sheaf/storage"
)

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
				return errors.Join(err, s.tasks.Cleared(storage.LeftoverEvents, list[:i]))
			}
		}
		if err := s.tasks.Cleared(storage.LeftoverEvents, list); err != nil {
			return err
		}
	}
}

// forget makes tenants that have more than they may forget what began first, of the
// exports that are settled.
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
			s.log.Info("oldest exports forgotten", "tenant", tenant, "exports", forgotten)
		}
	}
	return nil
}

// forgetSome makes a tenant that has more than it may forget a batch of exports, and
// returns how many.
func (s *sweeper) forgetSome(ctx context.Context, tenant string, log events.LogState) (int, error) {
	u, err := s.tasks.Usage(tenant)
	if err != nil || !u.TooMuch(log.Space, s.maxHistory) {
		return 0, err
	}
	list, err := s.tasks.Settled(tenant, sweepBatch)
	if err != nil {
		return 0, err
	}
	// Another ingress may have forgotten some, and not those that this one would.
	var gone []events.Export
	for _, x := range list {
		now, err := s.streams.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return 0, err
		}
		if now.LastSeq == 0 {
			gone = append(gone, x)
		}
	}
	if len(gone) > 0 {
		return len(gone), s.tasks.Forget(gone)
	}
	n := 0
	for average := u.Bytes / int64(max(u.Exports, 1)); n < len(list) && u.TooMuch(log.Space, s.maxHistory); n++ {
		u.Exports--
		u.Bytes -= average
	}
	last := uint64(0)
	for i, x := range list[:n] {
		if x.State == events.StateCompleted {
			x, err = s.expireFile(ctx, x, func(*events.Export) bool { return true })
		}
		if err == nil {
			err = s.clear(ctx, x)
		}
		if overtaken(err) {
			n = i // it is in use; the next look continues
			break
		}
		if err != nil {
			return 0, err
		}
		list[i], last = x, max(last, x.LastSeq)
	}
	if err := s.tasks.WaitApplied(ctx, last); err != nil {
		return 0, err
	}
	// The newest event of the log stays until there is another: a reader of the log would
	// wait for its end in vain.
	if log, err = s.streams.LogState(ctx); err != nil {
		return 0, err
	}
	list = slices.DeleteFunc(list[:n], func(x events.Export) bool { return x.LastSeq >= log.Last })
	// The projection first: a start takes what it knows and the log does not for a loss.
	if err := s.tasks.Forget(list); err != nil {
		return 0, err
	}
	for _, x := range list {
		if err := s.streams.Forget(ctx, x); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}

// forgetOld takes exports out of the projection whose events became too old for the log.
// What they left behind is gone by then.
func (s *sweeper) forgetOld(ctx context.Context) error {
	log, err := s.upToDate(ctx)
	if err != nil {
		return err
	}
	for {
		list, err := s.tasks.SettledBelow(log.First, sweepBatch)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := s.tasks.Forget(list); err != nil {
			return err
		}
	}
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
