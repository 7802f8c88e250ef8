package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// sweepEvery is the pause between two passes. It is also the least age of
	// whatever a pass removes from the streams, see sweeper.
	sweepEvery = time.Minute
	// sweepFilesEvery is the pause between two searches for orphans, which read
	// the whole store.
	sweepFilesEvery = time.Hour
	// orphanAge is how long a file may lie there without an event that names it.
	// A commit and its event are seconds apart unless the streams are away, and
	// then no search is made.
	orphanAge = time.Hour
	// settle is how long the pages of a completed export stay, for a second
	// assembler that still reads them.
	settle = time.Minute
	// sweepBatch bounds the exports that are in memory at once.
	sweepBatch = 64
	// crowded is the share of SHEAF_PAGES' space above which the pages of stopped
	// exports go before their time, oldest first.
	crowded = 0.8
)

// sweeper removes what is needed no longer: files that expired, pages and sealed
// headers of ended exports, and files that no export names. Each ingress has
// one; that several sweep at once is harmless.
//
// Why nothing is removed that an export under way needs:
//
//   - A file goes after the expired event that names it was written through the
//     fence. Stored names are never used twice.
//   - Pages and headers go in the order mark, look, purge. The mark is the one
//     that the pass before took, so it lies at least a pause back. The look is
//     the leader's word that the export is still at the end it was seen at. The
//     purge stops at the mark. Hence what an ingress saves just before it writes
//     the requested event lies behind the mark, or the look shows that event:
//     the two are never a pause apart. What a new run writes lies behind the mark
//     anyway.
//   - There remains a retry that is written between look and purge, a few
//     milliseconds, and means to use the pages of the run before. It may find
//     fewer pages than it listed. The crawler then begins anew, or the assembler
//     misses a page and fails the export with a reason: the proof against the log
//     never lets a file with a gap pass. Ingresses that begin a key anew save its
//     headers and rows again after the event, so those are there.
//
// What was purged is remembered in the projection, so a pass costs as much as
// there is to remove, not as there is history.
//
// The log itself is not trimmed here yet. It would come last in a pass: only an
// export that is off the list of ended ones has left nothing else behind.
type sweeper struct {
	streams   *events.Streams
	tasks     *storage.Tasks
	files     storage.Files
	bound     <-chan struct{} // closed when the projection is of this log
	keepPages time.Duration   // of failed and cancelled exports
	settle    time.Duration
	every     time.Duration
	now       func() time.Time

	mark       events.PurgeMark // of the pass before; zero in the first one
	filesSwept time.Time
}

func (s *Service) newSweeper() *sweeper {
	return &sweeper{
		streams: s.streams, tasks: s.tasks, files: s.files, bound: s.bound,
		keepPages: s.cfg.KeepPages, settle: settle, every: sweepEvery, now: time.Now,
	}
}

// run sweeps until ctx ends and then returns nil. It returns an error only if the
// projection cannot be used; all else is tried again in the next pass.
func (s *sweeper) run(ctx context.Context) error {
	select {
	case <-s.bound:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		err := s.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, storage.ErrTasksDamaged), errors.Is(err, storage.ErrTasksClosed):
			return fmt.Errorf("sweeping: %w", err)
		case err != nil:
			slog.Warn("sweep cut short; the next one goes on", "service", "ingress", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// pass removes what is due now. A failure of the file store does not keep the
// streams from being swept.
func (s *sweeper) pass(ctx context.Context) error {
	if err := s.upToDate(ctx); err != nil {
		return err
	}
	mark, err := s.streams.PurgeMark(ctx)
	if err != nil {
		return err
	}
	if !s.mark.At.IsZero() {
		err = s.purge(ctx)
	}
	err = errors.Join(err, s.expire(ctx), s.sweepFiles(ctx))
	s.mark = mark
	return err
}

// upToDate waits until the projection has seen the whole log.
func (s *sweeper) upToDate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.every)
	defer cancel()
	last, err := s.streams.LastSequence(ctx)
	if err != nil {
		return err
	}
	return s.tasks.WaitApplied(ctx, last)
}

// purge removes the pages and sealed headers of ended exports.
func (s *sweeper) purge(ctx context.Context) error {
	if err := s.purgeKind(ctx, storage.LeftoverDone, s.mark.At.Add(-s.settle), nil); err != nil {
		return err
	}
	if err := s.purgeKind(ctx, storage.LeftoverStopped, s.mark.At.Add(-s.keepPages), nil); err != nil {
		return err
	}
	return s.purgeKind(ctx, storage.LeftoverStopped, s.mark.At.Add(-s.settle), func() (bool, error) {
		now, err := s.streams.PurgeMark(ctx)
		return now.Full < crowded, err
	})
}

// purgeKind purges what ended before a time, oldest first, until nothing is left
// or enough says so before a batch.
func (s *sweeper) purgeKind(ctx context.Context, kind storage.Leftover, before time.Time, enough func() (bool, error)) error {
	for {
		if enough != nil {
			if done, err := enough(); done || err != nil {
				return err
			}
		}
		list, err := s.tasks.Ended(kind, before, sweepBatch)
		if err != nil || len(list) == 0 {
			return err
		}
		for i, x := range list {
			err := s.streams.PurgeEnded(ctx, x, s.mark)
			// Begun anew, it comes back when it ends.
			if err != nil && !errors.Is(err, events.ErrNotAllowed) {
				return errors.Join(err, s.tasks.Cleared(list[:i]))
			}
		}
		if err := s.tasks.Cleared(list); err != nil {
			return err
		}
		slog.Debug("pages purged", "service", "ingress", "exports", len(list))
	}
}

// errNotDue ends an Append: somebody else was first.
var errNotDue = errors.New("the file is not due")

// expire ends the time of files that are due, and deletes them.
func (s *sweeper) expire(ctx context.Context) error {
	for {
		list, err := s.tasks.Expiring(s.now(), sweepBatch)
		if err != nil || len(list) == 0 {
			return err
		}
		var last uint64
		expired := 0
		for _, x := range list {
			log := slog.With("service", "ingress", "tenant", x.Tenant, "hash_key", x.Key, "id", x.ID)
			var stored []string
			after, err := s.streams.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
				if x.State != events.StateCompleted || x.ExpiresAt.After(s.now()) {
					return nil, errNotDue
				}
				stored = nil
				for _, f := range x.Files {
					stored = append(stored, f.Store)
				}
				return &events.ExportExpired{Files: stored}, nil
			})
			last = max(last, after.LastSeq)
			if errors.Is(err, errNotDue) || errors.Is(err, events.ErrNotAllowed) {
				continue
			}
			if err != nil {
				return fmt.Errorf("expiring key %s: %w", x.Key, err)
			}
			expired++
			log.Info("export expired")
			for _, name := range stored {
				if err := s.files.Delete(ctx, name); err != nil {
					log.Warn("expired file not deleted; the search for orphans will find it", "file", name, "error", err)
				}
			}
			// A request that lost a race may have saved headers since they were
			// purged.
			if err := s.streams.PurgeEnded(ctx, after, s.mark); err != nil && !errors.Is(err, events.ErrNotAllowed) {
				return err
			}
		}
		if expired == 0 {
			return nil // others are at it; without this a list that stays would be a loop
		}
		// The list is the projection's: it must have seen what was just written.
		if err := s.tasks.WaitApplied(ctx, last); err != nil {
			return err
		}
	}
}

// sweepFiles removes files that no export names.
func (s *sweeper) sweepFiles(ctx context.Context) error {
	begun := s.now()
	if begun.Sub(s.filesSwept) < sweepFilesEvery {
		return nil
	}
	removed, err := s.files.Sweep(ctx, func(name string) bool { return s.keep(ctx, name) }, begun.Add(-orphanAge))
	if removed > 0 {
		slog.Info("orphaned files removed", "service", "ingress", "files", removed)
	}
	if err != nil {
		return fmt.Errorf("sweeping files: %w", err)
	}
	s.filesSwept = begun
	return nil
}

// keep reports whether a stored file may be named by an export, now or soon. The
// projection says what is named; that a file is not, the leader must say. A file
// whose export the log does not know is left alone: after a loss of the log the
// files are all there is.
func (s *sweeper) keep(ctx context.Context, name string) bool {
	if named, err := s.tasks.Names(name); named || err != nil {
		return true
	}
	tenant, rest, _ := strings.Cut(name, "/")
	key, _, _ := strings.Cut(rest, "/")
	if !events.ValidTenant(tenant) || !events.ValidKey(key) {
		return true
	}
	x, err := s.streams.Read(ctx, tenant, key)
	if err != nil || !x.State.Terminal() {
		return true
	}
	if x.State == events.StateCompleted {
		for _, f := range x.Files {
			if f.Store == name {
				return true
			}
		}
	}
	return false
}
