package keeper

import (
	"context"
	"errors"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/storage"
)

const (
	// maxRelieved bounds the exports that lose their pages in one check.
	maxRelieved = 1024
	// crowded is the part of the page stream above which ended exports lose their pages early, oldest first.
	// It is below the part at which new crawls wait.
	crowded = 0.6
	// largestPage is the free disk space below which they lose them too: the server writes a large page
	// twice.
	largestPage = 2 * 64 << 20
)

// leftovers removes the pages and sealed headers of ended exports.
type leftovers struct {
	*parts
	keepPages time.Duration // for failed and cancelled exports
	settle    time.Duration
	room      func(bytes int64) error
	relieved  map[string]uint64 // TerminalSeq by key; reset when there is space
}

// purge removes leftovers that are old enough, up to a mark.
func (l *leftovers) purge(ctx context.Context, mark journal.PurgeMark) error {
	purge := func(x events.Export, what func(context.Context, events.Export, journal.PurgeMark) error) error {
		err := what(ctx, x, mark)
		if errors.Is(err, events.ErrNotAllowed) {
			return nil // it began again, and is listed once more when it ends
		}
		return err
	}
	remove := func(x events.Export) error { return purge(x, l.journal.PurgeEnded) }
	never := func() (bool, error) { return false, nil }
	err := l.removeEnded(storage.LeftoverDone, mark.At.Add(-l.settle), never, func(x events.Export) error {
		if !x.PagesUntil.IsZero() {
			return purge(x, l.journal.PurgeEndedPrivate)
		}
		if err := l.unused(x.Key); err != nil {
			return err
		}
		return remove(x)
	})
	if err != nil {
		return err
	}
	// A request for these pages that was accepted in time is in the projection by now: it is up to date, and
	// settle is longer than an event takes.
	err = l.removeEnded(storage.LeftoverKept, l.now().Add(-l.settle), never, func(x events.Export) error {
		if err := l.unused(x.Key); err != nil {
			return err
		}
		return purge(x, l.journal.PurgeEndedPages)
	})
	if err != nil {
		return err
	}
	if err := l.removeEnded(storage.LeftoverStopped, mark.At.Add(-l.keepPages), never, remove); err != nil {
		return err
	}
	return l.removeEnded(storage.LeftoverStopped, mark.At.Add(-l.settle), func() (bool, error) { return l.roomy(ctx) }, remove)
}

// removeEnded calls remove for exports that left something behind before a time, oldest first. It stops when
// the list is empty, or when enough says so before a batch. Exports for which remove returns errInUse stay on
// the list.
func (p *parts) removeEnded(kind storage.Leftover, before time.Time, enough func() (bool, error), remove func(events.Export) error) error {
	for inUse := 0; ; {
		if done, err := enough(); done || err != nil {
			return err
		}
		list, err := p.tasks.Ended(kind, before, batch+inUse)
		if err != nil {
			return err
		}
		var removed []events.Export
		for _, x := range list {
			err := remove(x)
			if errors.Is(err, errInUse) {
				continue
			}
			if err != nil {
				return errors.Join(err, p.tasks.Cleared(kind, removed))
			}
			removed = append(removed, x)
		}
		if err := p.tasks.Cleared(kind, removed); err != nil || len(removed) == 0 {
			return err
		}
		inUse = len(list) - len(removed)
	}
}

// relieve removes pages early while the page stream is crowded or its disk lacks space for a large page. It
// starts with completed exports, then takes the pages that are kept for other files, those that are due first,
// and then the oldest failed and cancelled exports, until there is space. A second assembler that still reads
// finds the pages gone and the export ended. Pages that an unfinished export uses stay.
//
// A pass uses a mark at least a minute old, which protects data that an ingress saves before its event. The
// mark of relieve is new, so it leaves headers and the rows of raw requests alone, except rows that are kept:
// passed, the mark of the last pass, protects those.
func (l *leftovers) relieve(ctx context.Context, passed journal.PurgeMark) error {
	if roomy, err := l.roomy(ctx); roomy || err != nil {
		clear(l.relieved)
		return err
	}
	mark, err := l.journal.PurgeMark(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []storage.Leftover{storage.LeftoverDone, storage.LeftoverKept, storage.LeftoverStopped} {
		before := l.now()
		if kind == storage.LeftoverKept {
			before = before.AddDate(100, 0, 0) // all of them
		}
		list, err := l.tasks.Ended(kind, before, maxRelieved)
		if err != nil {
			return err
		}
		purged := 0
		for _, x := range list {
			upTo := mark
			switch {
			case kind == storage.LeftoverKept && x.Request.HasRaw():
				if upTo = passed; !x.FinishedAt.Before(passed.At.Add(-l.settle)) {
					continue
				}
			case kind == storage.LeftoverKept:
			case x.Request.HasRaw(), l.relieved[x.Key] == x.TerminalSeq, !x.PagesUntil.IsZero():
				continue
			}
			if err := l.unused(x.Key); errors.Is(err, errInUse) {
				continue
			} else if err != nil {
				return err
			}
			if kind != storage.LeftoverDone {
				if roomy, err := l.roomy(ctx); err != nil {
					return err
				} else if roomy {
					break
				}
			}
			if err := l.journal.PurgeEndedPages(ctx, x, upTo); err != nil && !errors.Is(err, events.ErrNotAllowed) {
				return err
			}
			purged++
			if kind != storage.LeftoverKept {
				l.relieved[x.Key] = x.TerminalSeq
			} else if err := l.tasks.Cleared(kind, []events.Export{x}); err != nil {
				return err
			}
		}
		if purged > 0 {
			l.metrics.removed.WithLabelValues("pages").Add(float64(purged))
			l.log.Info("pages purged to make room", "exports", purged)
		}
	}
	return nil
}

// roomy reports whether new exports have space for pages, in the stream and on its disk. The limit is
// crowded, which is below the one at which crawls stop.
func (l *leftovers) roomy(ctx context.Context) (bool, error) {
	space, err := l.journal.Pages().Space(ctx)
	if err != nil || space.Limit > 0 && float64(space.Used) > crowded*float64(space.Limit) {
		return false, err
	}
	return l.room(roomBeside(space.Used)) == nil, nil
}

// roomBeside is the free disk space that suffices next to this many bytes of pages.
func roomBeside(used int64) int64 {
	return max(largestPage, int64(float64(used)*(1-crowded)/crowded))
}

// strays removes pages and private values that no event names, or that were written after their export was
// cleared. A crawler or an ingress writes them when it loses its connection for a while.
type strays struct {
	*parts
	mark journal.PurgeMark // of the previous search; zero in the first one
}

// purge searches once an hour. It stops at the mark of the previous search.
func (s *strays) purge(ctx context.Context, mark journal.PurgeMark) error {
	if mark.At.Sub(s.mark.At) < searchEvery {
		return nil
	}
	if !s.mark.At.IsZero() {
		found, err := s.journal.Leftovers(ctx)
		if err != nil {
			return err
		}
		purged := 0
		for _, h := range found {
			err := s.purgeOne(ctx, h)
			switch {
			case err == nil:
				purged++
			case !overtaken(err):
				return err
			}
		}
		if purged > 0 {
			s.metrics.removed.WithLabelValues("strays").Add(float64(purged))
			s.log.Info("stray pages or headers purged", "exports", purged)
		}
	}
	s.mark = mark
	return nil
}

// purgeOne purges the leftovers of one key, unless its export is under way or not cleared yet.
func (s *strays) purgeOne(ctx context.Context, h journal.Leftover) error {
	x, err := s.tasks.Get(h.Key)
	if errors.Is(err, storage.ErrUnknownKey) || err == nil && x.Tenant != h.Tenant {
		return s.journal.PurgeUnknown(ctx, h, s.mark)
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
	return s.journal.PurgeEnded(ctx, x, s.mark)
}
