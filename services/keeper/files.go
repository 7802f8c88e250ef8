package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// sizesEvery is the pause between two passes over the sizes of all files.
	sizesEvery = time.Hour
	// scrubEvery is how often all files are read. An ingress looks scrubFirst after its start,
	// and every scrubLook from then on, whether a scrub is due or was cut short.
	scrubEvery = 24 * time.Hour
	scrubFirst = 10 * time.Minute
	scrubLook  = time.Hour
	// scrubSave is how often it is saved how far a pass has come.
	scrubSave = time.Minute
	// scrubRate is how many bytes a second a scrub reads at most.
	scrubRate = 8 << 20
	// unreadableFiles is after how many files in a row that cannot be read a pass ends:
	// then it is the store that cannot be read.
	unreadableFiles = 3
)

// fileChecks looks at the finished files: every hour whether all are there in their
// size, and once a day, slowly and over restarts, whether their content is right. An export
// whose file is lost expires. Each keeper does this; of two that find the same one writes the event.
type fileChecks struct {
	s          *Service
	sizesEvery time.Duration
	scrubFirst time.Duration
	scrubLook  time.Duration
	scrubSave  time.Duration
	rate       int64 // of a scrub, in bytes a second
}

func (s *Service) newFileChecks() *fileChecks {
	return &fileChecks{
		s: s, sizesEvery: sizesEvery,
		scrubFirst: scrubFirst, scrubLook: scrubLook, scrubSave: scrubSave, rate: scrubRate,
	}
}

// run checks until ctx ends. A read that hangs does not hold it.
func (c *fileChecks) run(ctx context.Context) error {
	var checks sync.WaitGroup
	checks.Go(func() {
		c.repeat(ctx, 0, c.sizesEvery, func(ctx context.Context) { c.pass(ctx, false) })
	})
	checks.Go(func() {
		c.repeat(ctx, c.scrubFirst, c.scrubLook, func(ctx context.Context) {
			if c.scrubDue(ctx, time.Now()) {
				c.pass(ctx, true)
			}
		})
	})
	<-ctx.Done()
	ended := make(chan struct{})
	go func() { checks.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
	}
	return nil
}

// repeat calls do after first, and from then on with a pause in between.
func (c *fileChecks) repeat(ctx context.Context, first, pause time.Duration, do func(context.Context)) {
	for wait := first; ; wait = pause {
		select {
		case <-time.After(wait):
			do(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// scrubDue reports whether a pass over the content of all files is to start or resume.
func (c *fileChecks) scrubDue(ctx context.Context, now time.Time) bool {
	mark, err := c.s.tasks.Scrub()
	if err != nil {
		c.s.cfg.Log.Warn("finished files are not read", "error", err)
		return false
	}
	since := now.Sub(mark.Begun) // below 0: the clock was wrong
	return !mark.Done || since < 0 || since >= scrubEvery
}

// pass looks at the files of all exports, with scrub also at their content. A scrub resumes
// where the last one was cut short, such as by the end of its process.
func (c *fileChecks) pass(ctx context.Context, scrub bool) {
	begun, checked, lost, unread := time.Now(), 0, 0, 0
	var mark storage.Scrub
	saved := begun
	save := func() error {
		saved = time.Now()
		return c.s.tasks.SaveScrub(mark)
	}
	err := c.caughtUp(ctx)
	if err == nil && scrub {
		if mark, err = c.s.tasks.Scrub(); err == nil && (mark.Done || mark.Begun.IsZero()) {
			mark = storage.Scrub{Begun: begun.UTC()}
		}
	}
	if err == nil {
		err = c.s.tasks.EachAfter(mark.After, func(x events.Export) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if x.State != events.StateCompleted || len(x.Files) == 0 {
				return nil
			}
			checked++
			err := c.check(ctx, &x, scrub)
			switch {
			case err == nil:
				unread = 0
			case storage.IsLost(err):
				lost++
				if err := storage.ExpireLost(ctx, c.s.streams, c.s.files, &x, err); err != nil {
					return err
				}
			case errors.Is(err, storage.ErrNoStore) || ctx.Err() != nil:
				return err
			default:
				x.With(c.s.cfg.Log).Warn("a finished file cannot be read", "error", err)
				if unread++; unread >= unreadableFiles {
					return fmt.Errorf("%d files in a row could not be read: %w", unread, err)
				}
				return nil
			}
			mark.After = x.Key
			if scrub && time.Since(saved) >= c.scrubSave {
				return save()
			}
			return nil
		})
	}
	if !mark.Begun.IsZero() {
		mark.Done = err == nil
		err = errors.Join(err, save())
	}
	c.s.tasks.Release()
	if ctx.Err() != nil {
		return
	}
	log, level := c.s.cfg.Log.With("content", scrub, "files", checked, "lost", lost, "elapsed", time.Since(begun).Round(time.Millisecond)), slog.LevelDebug
	switch {
	case err != nil:
		log.Warn("the check of the finished files was cut short", "error", err)
		return
	case scrub || lost > 0:
		level = slog.LevelInfo
	}
	log.Log(ctx, level, "finished files checked")
}

// caughtUp waits until the projection has seen the log as it is now.
func (c *fileChecks) caughtUp(ctx context.Context) error {
	select {
	case <-c.s.tasks.BoundToLog():
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		last, err := c.s.streams.LastSequence(ctx)
		if err == nil {
			return c.s.tasks.WaitApplied(ctx, last)
		}
		if !errors.Is(err, events.ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *fileChecks) check(ctx context.Context, x *events.Export, scrub bool) error {
	file, err := storage.OpenFinished(ctx, c.s.files, x, storage.SizeOnly)
	if err != nil {
		return err
	}
	if scrub {
		err = file.Verify(ctx, c.rate)
	}
	return errors.Join(err, file.Close())
}
