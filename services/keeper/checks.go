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
	// scrubEvery is how often all files are read. A process looks scrubFirst after its
	// start, and every scrubLook from then on, whether a scrub is due or was cut short.
	scrubEvery = 24 * time.Hour
	scrubFirst = 10 * time.Minute
	scrubLook  = time.Hour
	// scrubSave is how often the progress of a scrub is saved.
	scrubSave = time.Minute
	// scrubRate is how many bytes a second a scrub reads at most.
	scrubRate = 8 << 20
	// maxUnreadable is after how many files in a row that cannot be read a pass ends:
	// then the store cannot be read.
	maxUnreadable = 3
	// retryEvery is the pause before the streams are asked again.
	retryEvery = time.Second
)

// checks compares the finished files with what was completed: every hour their size, and
// once a day, slowly and over restarts, their content. An export whose file is lost expires.
type checks struct {
	*parts
	sizesEvery time.Duration
	scrubFirst time.Duration
	scrubLook  time.Duration
	scrubSave  time.Duration
	rate       int64 // of a scrub, in bytes a second
}

// run checks until ctx ends. A read that hangs does not hold it.
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

// repeat calls do after first, and from then on with a pause in between.
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

// sizes looks at the size of every finished file.
func (c *checks) sizes(ctx context.Context) {
	c.report(ctx, false, c.all(ctx, "", false, func(string) error { return nil }))
}

// scrubDue reports whether a scrub is to start or to resume.
func (c *checks) scrubDue(ctx context.Context, now time.Time) bool {
	mark, err := c.tasks.Scrub()
	if err != nil {
		c.log.Warn("finished files are not read", "error", err)
		return false
	}
	since := now.Sub(mark.Begun) // below 0: the clock was wrong
	return !mark.Done || since < 0 || since >= scrubEvery
}

// scrub reads every finished file. It resumes where the last one was cut short, such as by
// the end of its process.
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

// outcome is what a pass over the files came to.
type outcome struct {
	begun      time.Time
	files      int
	lost       int
	unreadable int   // in a row
	err        error // why the pass was cut short
}

// all checks the file of every export after a key, in the order of keys, and calls done
// after each one that was checked.
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
			if err := storage.ExpireLost(ctx, c.journal, c.files, &x, err); err != nil {
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

// caughtUp waits until the projection has seen the log as it is now. It waits out an outage.
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
