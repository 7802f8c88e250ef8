package keeper

import (
	"context"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

// deadlines expires files that are due, and fails exports that stay unfinished.
type deadlines struct {
	*parts
	maxAge time.Duration // of an unfinished export
}

// expire expires files that are due, and deletes them.
func (d *deadlines) expire(ctx context.Context) error {
	return d.forEach(ctx,
		func() ([]events.Export, error) { return d.tasks.Expiring(d.now(), batch) },
		func(x events.Export) (events.Export, error) {
			return d.expireFile(ctx, x, func(x *events.Export) bool { return !x.ExpiresAt.After(d.now()) })
		})
}

// failOverdue fails the exports that have been unfinished for too long.
func (d *deadlines) failOverdue(ctx context.Context) error {
	reason := fmt.Sprintf("not finished within %v", d.maxAge)
	return d.forEach(ctx,
		func() ([]events.Export, error) { return d.tasks.Overdue(d.now().Add(-d.maxAge), batch) },
		func(x events.Export) (events.Export, error) { return d.fail(ctx, x, reason) })
}

// forEach ends every export that list returns, until the list is empty. end returns the export as it is
// afterwards.
func (d *deadlines) forEach(ctx context.Context, list func() ([]events.Export, error), end func(events.Export) (events.Export, error)) error {
	for {
		exports, err := list()
		if err != nil || len(exports) == 0 {
			return err
		}
		var last uint64
		ended := 0
		for _, x := range exports {
			after, err := end(x)
			last = max(last, after.LastSeq)
			switch {
			case err == nil:
				ended++
			case !overtaken(err):
				return fmt.Errorf("key %s: %w", x.Key, err)
			}
		}
		if ended == 0 {
			return nil // other keepers are at work; without this return an unchanged list would loop
		}
		// The list comes from the projection, which must have applied the last write.
		if err := d.tasks.WaitApplied(ctx, last); err != nil {
			return err
		}
	}
}

// expireFile writes the expired event and then deletes the file, if due agrees to the leader's state of the
// export.
func (p *parts) expireFile(ctx context.Context, x events.Export, due func(*events.Export) bool) (events.Export, error) {
	after, err := p.journal.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
		if x.State != events.StateCompleted || !due(x) {
			return nil, errNotDue
		}
		return events.Expired(x, ""), nil
	})
	if err != nil {
		return after, err
	}
	x.With(p.log).Info("export expired")
	p.metrics.removed.WithLabelValues("expired").Inc()
	storage.DeleteFinished(ctx, p.files, p.log, &after)
	return after, nil
}

// fail ends an export that is under way.
func (d *deadlines) fail(ctx context.Context, x events.Export, reason string) (events.Export, error) {
	after, err := d.journal.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
		if now.State.Terminal() || now.RequestedSeq != x.RequestedSeq {
			return nil, errNotDue
		}
		phase := events.PhaseCrawling
		if now.State == events.StateCrawled {
			phase = events.PhaseAssembling
		}
		return &events.ExportFailed{Code: events.CodeLimitTime, Reason: reason, Phase: phase}, nil
	})
	if err == nil {
		x.With(d.log).Warn("export failed", "error_code", events.CodeLimitTime, "reason", reason)
	}
	return after, err
}
