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
	// scrubEvery is the time between two scrubs. A process checks scrubFirst after its start, and then every
	// scrubLook, whether a scrub is due or has to resume.
	scrubEvery = 24 * time.Hour
	scrubFirst = 10 * time.Minute
	scrubLook  = time.Hour
	// scrubSave is how often the progress of a scrub is saved.
	scrubSave = time.Minute
	// scrubRate limits a scrub to so many bytes a second.
	scrubRate = 8 << 20
	// maxUnreadable ends a pass after this many consecutive unreadable files: the store itself is then
	// unreadable.
	maxUnreadable = 3
	// retryEvery is the pause before the next attempt to read the streams.
	retryEvery = time.Second
)

// checks compares the stored files with their completed events: their size every hour, and their content once
// a day. A scrub is slow and survives restarts. An export whose file is lost expires.
type checks struct {
	*parts
	sizesEvery time.Duration
	scrubFirst time.Duration
	scrubLook  time.Duration
	scrubSave  time.Duration
	rate       int64 // bytes a second of a scrub
}

// run checks until ctx ends. It does not wait for a read that hangs.
func (c *checks) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { repeat(ctx, 0, c.sizesEvery, c.sizes) })
	both.Go(func() {
		repeat(ctx, c.scrubFirst, c.scrubLook, func(ctx context.Context) {
			if c.scrubDue(ctx, time.Now()) {
				c.scrub(ctx)
			}
		})
	})
	<-ctx.Done()
	ended := make(chan struct{})
	go func() { both.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
	}
}

// repeat calls do after first, and then with a pause in between.
func repeat(ctx context.Context, first, pause time.Duration, do func(context.Context)) {
	for wait := first; ; wait = pause {
		select {
		case <-time.After(wait):
			do(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// sizes checks the size of every finished file.
func (c *checks) sizes(ctx context.Context) {
	c.report(ctx, false, c.all(ctx, "", false, func(string) error { return nil }))
}

// scrubDue reports whether a scrub has to start or resume.
func (c *checks) scrubDue(ctx context.Context, now time.Time) bool {
	mark, err := c.tasks.Scrub()
	if err != nil {
		c.log.Warn("finished files are not read", "error", err)
		return false
	}
	since := now.Sub(mark.Begun) // below 0 if the clock was wrong
	return !mark.Done || since < 0 || since >= scrubEvery
}

// scrub reads every finished file. It resumes where the last one ended early, for example with its process.
func (c *checks) scrub(ctx context.Context) {
	mark, err := c.tasks.Scrub()
	if err != nil {
		c.report(ctx, true, outcome{err: err})
		return
	}
	if mark.Done || mark.Begun.IsZero() {
		mark = storage.Scrub{Begun: time.Now().UTC()}
	}
	saved := time.Now()
	found := c.all(ctx, mark.After, true, func(key string) error {
		mark.After = key
		if time.Since(saved) < c.scrubSave {
			return nil
		}
		saved = time.Now()
		return c.tasks.SaveScrub(mark)
	})
	mark.Done = found.err == nil
	found.err = errors.Join(found.err, c.tasks.SaveScrub(mark))
	c.report(ctx, true, found)
}

// outcome is the result of a pass over the files.
type outcome struct {
	begun      time.Time
	files      int
	lost       int
	unreadable int   // consecutive
	err        error // why the pass ended early
}

// all checks the file of every export after a key, in the order of keys, and calls done after each.
func (c *checks) all(ctx context.Context, after string, content bool, done func(key string) error) (found outcome) {
	found.begun = time.Now()
	if found.err = c.caughtUp(ctx); found.err != nil {
		return found
	}
	found.err = c.tasks.EachAfter(after, func(x events.Export) error {
		if ctx.Err() != nil || x.State != events.StateCompleted || len(x.Files) == 0 {
			return ctx.Err()
		}
		found.files++
		err := c.check(ctx, &x, content)
		switch {
		case err == nil:
			found.unreadable = 0
		case storage.IsLost(err):
			found.lost++
			if err := storage.ExpireLost(ctx, c.journal, c.files, c.log, &x, err); err != nil {
				return err
			}
		case errors.Is(err, storage.ErrNoStore) || ctx.Err() != nil:
			return err
		default:
			x.With(c.log).Warn("a finished file cannot be read", "error", err)
			if found.unreadable++; found.unreadable >= maxUnreadable {
				return fmt.Errorf("%d files in a row could not be read: %w", found.unreadable, err)
			}
			return nil
		}
		return done(x.Key)
	})
	return found
}

func (c *checks) check(ctx context.Context, x *events.Export, content bool) error {
	file, err := storage.OpenFinished(ctx, c.files, x, storage.SizeOnly)
	if err != nil {
		return err
	}
	if content {
		err = file.Verify(ctx, c.rate)
	}
	return errors.Join(err, file.Close())
}

// caughtUp waits until the projection has applied the log's current end. It retries during an outage.
func (c *checks) caughtUp(ctx context.Context) error {
	for {
		last, err := c.journal.LastSequence(ctx)
		if err == nil {
			return c.tasks.WaitApplied(ctx, last)
		}
		if !errors.Is(err, events.ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *checks) report(ctx context.Context, content bool, found outcome) {
	c.tasks.Release()
	if ctx.Err() != nil {
		return
	}
	log, level := c.log.With("content", content, "files", found.files, "lost", found.lost, "elapsed", time.Since(found.begun).Round(time.Millisecond)), slog.LevelDebug
	switch {
	case found.err != nil:
		log.Warn("the check of the finished files was cut short", "error", found.err)
		return
	case content || found.lost > 0:
		level = slog.LevelInfo
	}
	log.Log(ctx, level, "finished files checked")
}
