package ingress

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
	// smallFile is the size up to which a file is read whole before the first byte
	// of it is sent: some 10 ms. A larger one is compared while it is sent.
	smallFile = 4 << 20
	// storeEvery is the pause between two looks at whether the file store is there,
	// and storeWait how long one may take. It is also when a caller may try again.
	storeEvery = time.Second
	storeWait  = 3 * time.Second
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

// fileStore is whether the file store is there. The zero value says that it is.
type fileStore struct {
	mu  sync.Mutex
	bad int // looks in a row that failed
	err error
}

func (f *fileStore) health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// set remembers the result of a look, and logs a change. One look without an
// answer says nothing yet: a server may be electing a leader.
func (f *fileStore) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var is error
	switch f.bad++; {
	case err == nil:
		f.bad = 0
	case errors.Is(err, storage.ErrNoStore):
		is = NotReady("the file store is not there; put it back, or restart Sheaf to go without the finished files that were in it")
	case f.bad > 1:
		is = NotReady("the file store cannot be read; the server's log says why")
	default:
		return
	}
	switch {
	case is != nil && f.err == nil:
		slog.Error("not ready: finished files can be neither kept nor downloaded; no export expires because of that", "service", "ingress", "error", err)
	case is == nil && f.err != nil:
		slog.Info("the file store is there again", "service", "ingress")
	}
	f.err = is
}

// fileChecks looks at the file store: every second whether it is there, every hour
// whether it has all files in their size, and once a day, slowly and over restarts,
// whether their content is right. An export whose file is lost expires. Each ingress does this;
// of two that find the same one writes the event.
type fileChecks struct {
	s          *Service
	storeEvery time.Duration
	sizesEvery time.Duration
	scrubFirst time.Duration
	scrubLook  time.Duration
	scrubSave  time.Duration
	rate       int64 // of a scrub, in bytes a second
}

func (s *Service) newFileChecks() *fileChecks {
	return &fileChecks{
		s: s, storeEvery: storeEvery, sizesEvery: sizesEvery,
		scrubFirst: scrubFirst, scrubLook: scrubLook, scrubSave: scrubSave, rate: scrubRate,
	}
}

// run checks until ctx ends. A read that hangs does not hold it.
func (c *fileChecks) run(ctx context.Context) error {
	var checks sync.WaitGroup
	checks.Go(func() { c.repeat(ctx, 0, c.storeEvery, c.look) })
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

// look asks whether the store is there. A folder on a network may not answer.
func (c *fileChecks) look(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		err = c.s.files.Check(asked)
	}()
	select {
	case <-answered:
		if ctx.Err() == nil {
			c.s.store.set(err)
		}
	case <-asked.Done():
		if ctx.Err() != nil {
			return
		}
		c.s.store.set(fmt.Errorf("no answer within %v", storeWait))
		select { // one question at a time
		case <-answered:
		case <-ctx.Done():
		}
	}
}

// scrubDue reports whether a pass over the content of all files is to start or resume.
func (c *fileChecks) scrubDue(ctx context.Context, now time.Time) bool {
	mark, err := c.s.tasks.Scrub()
	if err != nil {
		slog.WarnContext(ctx, "finished files are not read", "service", "ingress", "error", err)
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
	err := untilDone(ctx, "reading the log's end", func(ctx context.Context) error {
		select {
		case <-c.s.tasks.BoundToLog():
		case <-ctx.Done():
			return nil
		}
		last, err := c.s.streams.LastSequence(ctx)
		if err != nil {
			return err
		}
		return c.s.tasks.WaitApplied(ctx, last)
	})
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
				x.Logger("ingress").Warn("a finished file cannot be read", "error", err)
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
	log, level := slog.With("service", "ingress", "content", scrub, "files", checked, "lost", lost, "elapsed", time.Since(begun).Round(time.Millisecond)), slog.LevelDebug
	switch {
	case err != nil:
		log.Warn("the check of the finished files was cut short", "error", err)
		return
	case scrub || lost > 0:
		level = slog.LevelInfo
	}
	log.Log(ctx, level, "finished files checked")
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
