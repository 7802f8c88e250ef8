package keeper

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
	// the whole store, and between two for strays, which list all pages.
	sweepFilesEvery = time.Hour
	// orphanAge is how long a file may lie there without an event that names it.
	// A commit and its event are seconds apart unless the streams are away, and
	// then no search is made.
	orphanAge = time.Hour
	// settle is how long the pages of a completed export stay, for a second
	// assembler that still reads them.
	settle = time.Minute
	// relieveEvery is the pause between two looks at the page stream and its disk, and
	// at what tenants have in the log.
	relieveEvery = 2 * time.Second
	// sweepBatch bounds the exports that are in memory at once.
	sweepBatch = 64
	// relieveAtMost bounds the exports whose pages go at one look.
	relieveAtMost = 1024
	// crowded is the part of the page stream above which the pages of ended exports go
	// before their time, oldest first. It is less than what keeps crawls from beginning.
	crowded = 0.6
	// largestPage is the room on the disk below which they go too: the server writes a
	// large page twice.
	largestPage = 2 * 64 << 20
)

// sweeper removes what is needed no longer: files that expired, pages, sealed
// headers and older events of ended exports, what no export names, and the oldest
// exports of a tenant that has too many. It
// fails exports that stay unfinished. Each ingress has one; that several sweep
// at once is harmless.
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
//   - An export is forgotten last, when it has left nothing else behind.
//
// What was purged is remembered in the projection, so a pass costs as much as
// there is to remove, not as there is history.
type sweeper struct {
	streams    *events.Streams
	tasks      *storage.Tasks
	files      storage.Files
	keepFiles  time.Duration // of completed exports
	keepPages  time.Duration // of failed and cancelled exports
	maxHistory int           // exports of one tenant in the log
	maxAge     time.Duration // of an unfinished export
	log        *slog.Logger
	settle     time.Duration
	every      time.Duration
	relief     time.Duration // between two looks at the page stream and its disk
	now        func() time.Time
	room       func() error // whether the disk has room for the pages of new exports

	mark       events.PurgeMark // of the pass before; zero in the first one
	strayMark  events.PurgeMark // of the search for strays before; zero in the first one
	filesSwept time.Time
	relieved   map[string]uint64 // TerminalSeq of exports whose pages went since there was room, by key
}

func (s *Service) newSweeper() *sweeper {
	return &sweeper{
		streams: s.streams, tasks: s.tasks, files: s.files, log: s.cfg.Log,
		keepFiles: s.cfg.KeepFiles, keepPages: s.cfg.KeepPages, maxHistory: s.cfg.MaxHistory, maxAge: s.cfg.MaxAge,
		settle: settle, every: sweepEvery, relief: relieveEvery, now: time.Now, room: func() error { return s.cfg.Room(largestPage) },
		relieved: map[string]uint64{},
	}
}

// run sweeps until ctx ends and then returns nil. It returns an error only if the
// projection cannot be used; all else is tried again in the next pass.
func (s *sweeper) run(ctx context.Context) error {
	select {
	case <-s.tasks.BoundToLog():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	look := time.NewTicker(s.relief)
	defer look.Stop()
	for {
		err := s.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, storage.ErrTasksDamaged), errors.Is(err, storage.ErrTasksClosed):
			return fmt.Errorf("sweeping: %w", err)
		case err != nil:
			s.log.Warn("sweep cut short; the next one goes on", "error", err)
		}
		for due := false; !due; {
			select {
			case <-tick.C:
				due = true
			case <-look.C:
				if err := s.relieve(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("making room for pages; it is tried again", "error", err)
				}
				if err := s.forget(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("forgetting the oldest exports; it is tried again", "error", err)
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// relieve removes pages while the page stream is crowded or its disk has no room for a
// large page, without the patience of a pass: first those of completed exports, then those
// that stopped ones keep for a retry, oldest first, until there is room. A second assembler
// of a completed export that still reads finds the pages gone, and that the export has
// ended. The marks that a pass waits for protect what an ingress saves before its event; so
// relieve removes nothing that an ingress saves: neither headers nor rows that came with a
// request.
func (s *sweeper) relieve(ctx context.Context) error {
	if roomy, err := s.roomy(ctx); roomy || err != nil {
		clear(s.relieved)
		return err
	}
	mark, err := s.streams.PurgeMark(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []storage.Leftover{storage.LeftoverDone, storage.LeftoverStopped} {
		list, err := s.tasks.Ended(kind, s.now(), relieveAtMost)
		if err != nil {
			return err
		}
		purged := 0
		for _, x := range list {
			if x.Request.SourceType != events.SourceHTTP || s.relieved[x.Key] == x.TerminalSeq {
				continue
			}
			if kind == storage.LeftoverStopped {
				roomy, err := s.roomy(ctx)
				if err != nil {
					return err
				}
				if roomy {
					break
				}
			}
			if err := s.streams.PurgeEndedPages(ctx, x, mark); err != nil && !errors.Is(err, events.ErrNotAllowed) {
				return err
			}
			s.relieved[x.Key] = x.TerminalSeq
			purged++
		}
		if purged > 0 {
			s.log.Info("pages purged to make room", "exports", purged)
		}
	}
	return nil
}

// roomy reports whether there is room for the pages of new exports.
func (s *sweeper) roomy(ctx context.Context) (bool, error) {
	if s.room() != nil {
		return false, nil
	}
	space, err := s.streams.PageSpace(ctx)
	return space.Limit <= 0 || float64(space.Used) <= crowded*float64(space.Limit), err
}

// pass removes what is due now. A failure of the file store does not keep the
// streams from being swept.
func (s *sweeper) pass(ctx context.Context) error {
	if _, err := s.upToDate(ctx); err != nil {
		return err
	}
	mark, err := s.streams.PurgeMark(ctx)
	if err != nil {
		return err
	}
	if !s.mark.At.IsZero() {
		err = errors.Join(s.purge(ctx), s.purgeEvents(ctx), s.forget(ctx), s.forgetOld(ctx))
	}
	err = errors.Join(err, s.expire(ctx), s.failOverdue(ctx), s.purgeStrays(ctx, mark), s.sweepFiles(ctx))
	s.mark = mark
	s.tasks.Release()
	return err
}

// upToDate waits until the projection has seen the whole log.
func (s *sweeper) upToDate(ctx context.Context) (events.LogState, error) {
	ctx, cancel := context.WithTimeout(ctx, s.every)
	defer cancel()
	log, err := s.streams.LogState(ctx)
	if err != nil {
		return log, err
	}
	return log, s.tasks.WaitApplied(ctx, log.Last)
}

// purge removes the pages and sealed headers of ended exports.
func (s *sweeper) purge(ctx context.Context) error {
	if err := s.purgeKind(ctx, storage.LeftoverDone, s.mark.At.Add(-s.settle), nil); err != nil {
		return err
	}
	if err := s.purgeKind(ctx, storage.LeftoverStopped, s.mark.At.Add(-s.keepPages), nil); err != nil {
		return err
	}
	return s.purgeKind(ctx, storage.LeftoverStopped, s.mark.At.Add(-s.settle), func() (bool, error) { return s.roomy(ctx) })
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
				return errors.Join(err, s.tasks.Cleared(kind, list[:i]))
			}
		}
		if err := s.tasks.Cleared(kind, list); err != nil {
			return err
		}
		s.log.Debug("pages purged", "exports", len(list))
	}
}

// errNotDue ends an Append: somebody else was first.
var errNotDue = errors.New("not due")

// overtaken reports whether an Append wrote nothing because of what others wrote.
func overtaken(err error) bool {
	return errors.Is(err, errNotDue) || errors.Is(err, events.ErrNotAllowed)
}

// expire ends the time of files that are due, and deletes them.
func (s *sweeper) expire(ctx context.Context) error {
	return s.forEach(ctx,
		func() ([]events.Export, error) { return s.tasks.Expiring(s.now(), sweepBatch) },
		func(x events.Export) (events.Export, error) {
			return s.expireFile(ctx, x, func(x *events.Export) bool { return !x.ExpiresAt.After(s.now()) })
		})
}

// forEach ends every export that list returns, until there are none. end returns
// the export as it is then.
func (s *sweeper) forEach(ctx context.Context, list func() ([]events.Export, error), end func(events.Export) (events.Export, error)) error {
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
			return nil // others are at it; without this a list that stays would be a loop
		}
		// The list is the projection's: it must have seen what was just written.
		if err := s.tasks.WaitApplied(ctx, last); err != nil {
			return err
		}
	}
}

// expireFile writes that the file of an export is gone, if due says so of what
// the leader knows of it, and then deletes the file.
func (s *sweeper) expireFile(ctx context.Context, x events.Export, due func(*events.Export) bool) (events.Export, error) {
	after, err := s.streams.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
		if x.State != events.StateCompleted || !due(x) {
			return nil, errNotDue
		}
		return events.Expired(x, ""), nil
	})
	if err != nil {
		return after, err
	}
	x.With(s.log).Info("export expired")
	storage.DeleteFinished(ctx, s.files, &after)
	return after, nil
}

// failOverdue fails the exports that are unfinished for too long.
func (s *sweeper) failOverdue(ctx context.Context) error {
	reason := fmt.Sprintf("not finished within %v", s.maxAge)
	return s.forEach(ctx,
		func() ([]events.Export, error) { return s.tasks.Overdue(s.now().Add(-s.maxAge), sweepBatch) },
		func(x events.Export) (events.Export, error) { return s.fail(ctx, x, reason) })
}

// fail ends an export that is under way.
func (s *sweeper) fail(ctx context.Context, x events.Export, reason string) (events.Export, error) {
	after, err := s.streams.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
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
		x.With(s.log).Warn("export failed",
			"error_code", events.CodeLimitTime, "reason", reason)
	}
	return after, err
}

// purgeStrays removes pages and private values that came after their export was
// cleared, or that no export ever named: a crawler or an ingress was cut off for
// a while. Like purge it stops at the mark of the search before.
func (s *sweeper) purgeStrays(ctx context.Context, mark events.PurgeMark) error {
	if mark.At.Sub(s.strayMark.At) < sweepFilesEvery {
		return nil
	}
	if !s.strayMark.At.IsZero() {
		holders, err := s.streams.Holders(ctx)
		if err != nil {
			return err
		}
		purged := 0
		for _, h := range holders {
			err := s.purgeStray(ctx, h)
			switch {
			case err == nil:
				purged++
			case !overtaken(err):
				return err
			}
		}
		if purged > 0 {
			s.log.Info("stray pages or headers purged", "exports", purged)
		}
	}
	s.strayMark = mark
	return nil
}

// purgeStray purges what is kept of one key, unless its export is under way or
// is yet to be cleared.
func (s *sweeper) purgeStray(ctx context.Context, h events.Holder) error {
	x, err := s.tasks.Get(h.Key)
	if errors.Is(err, storage.ErrUnknownKey) || err == nil && x.Tenant != h.Tenant {
		return s.streams.PurgeUnknown(ctx, h, s.strayMark)
	}
	if err != nil {
		return err
	}
	if !x.State.Terminal() {
		return errNotDue
	}
	cleared, err := s.tasks.IsCleared(&x)
	if err != nil {
		return err
	}
	if !cleared {
		return errNotDue
	}
	return s.streams.PurgeEnded(ctx, x, s.strayMark)
}

// sweepFiles removes files that no export names.
func (s *sweeper) sweepFiles(ctx context.Context) error {
	begun := s.now()
	if begun.Sub(s.filesSwept) < sweepFilesEvery {
		return nil
	}
	log, err := s.streams.LogState(ctx)
	if err != nil {
		return err
	}
	removed, err := s.files.Sweep(ctx, func(name string) bool { return s.keep(ctx, log, name) }, begun.Add(-orphanAge))
	if removed > 0 {
		s.log.Info("orphaned files removed", "files", removed)
	}
	if err != nil {
		return fmt.Errorf("sweeping files: %w", err)
	}
	s.filesSwept = begun
	return nil
}

// keep reports whether a stored file may be named by an export, now or soon. The
// projection says what is named; that a file is not, the leader must say.
func (s *sweeper) keep(ctx context.Context, log events.LogState, name string) bool {
	if named, err := s.tasks.Names(name); named || err != nil {
		return true
	}
	tenant, rest, _ := strings.Cut(name, "/")
	end := strings.IndexAny(rest, "-/") // older versions gave each export a folder
	if end < 0 {
		return true
	}
	key, file := rest[:end], rest[end+1:]
	if !events.ValidTenant(tenant) || !events.ValidKey(key) {
		return true
	}
	x, err := s.streams.Read(ctx, tenant, key)
	switch {
	case err != nil:
		return true
	case x.State == events.StateNone:
		return !s.ancient(log, file)
	case !x.State.Terminal():
		return true
	case x.State == events.StateCompleted:
		for _, f := range x.Files {
			if f.Store == name {
				return true
			}
		}
	}
	return false
}

// ancient reports whether a file of an export that the log does not know is older than any
// file may become, and was made by this log. Any other is left alone: after a loss of the
// log the files are all there is.
func (s *sweeper) ancient(log events.LogState, file string) bool {
	id, _, _ := strings.Cut(file, ".")
	made, ok := events.IDTime(id)
	return ok && made.After(log.Created) && made.Add(s.keepFiles+s.maxAge+orphanAge).Before(s.now())
}
