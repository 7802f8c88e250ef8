// Package keeper removes what has expired. It expires finished files, fails exports that stay unfinished, and
// purges pages, headers and older events of ended exports. It forgets the oldest exports of tenants that have
// too many, and removes files that no export names. It also compares the stored files with their events.
//
// # What it promises
//
//   - It removes nothing that an export under way needs; DESIGN.md says why.
//   - It deletes a file after the event that says so, and never early.
//   - The cost of a pass depends on the exports that are due, not on the size of the history.
//
// Each process with a projection runs a keeper. Several may do the same work concurrently: a sequence check
// on the events of an export lets only one of them write.
package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/storage"
)

// Config configures the service. The zero value works.
type Config struct {
	KeepFiles  time.Duration // age at which a finished file expires; default 168h
	KeepPages  time.Duration // pages and headers of failed or cancelled exports; default 24h
	MaxHistory int           // exports per tenant; the oldest settled ones are then forgotten; default 100,000
	MaxAge     time.Duration // age at which an unfinished export fails with LIMIT_TIME; default 72h
	// Room returns an error when the disk has no space for this many bytes of pages. Default: there is space.
	Room func(bytes int64) error
	Log  *slog.Logger // default: nothing is logged
	// Metrics is where the service registers its metrics. Default: none.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	c.KeepFiles = cmp.Or(c.KeepFiles, 168*time.Hour)
	c.KeepPages = cmp.Or(c.KeepPages, 24*time.Hour)
	c.MaxHistory = cmp.Or(c.MaxHistory, 100_000)
	c.MaxAge = cmp.Or(c.MaxAge, 72*time.Hour)
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "keeper")
	return c
}

const (
	// passEvery is the pause between two passes. A pass removes nothing younger from the streams.
	passEvery = time.Minute
	// lookEvery is the pause between two checks of the page stream, its disk and each tenant's part of the
	// log.
	lookEvery = 2 * time.Second
	// searchEvery is the pause between two searches for orphans, which read the whole store, and two searches
	// for strays, which list all pages.
	searchEvery = time.Hour
	// settle is how long the pages of a completed export stay, because a second assembler may still read
	// them.
	settle = time.Minute
	// batch bounds the exports in memory.
	batch = 64
)

// Service is the keeper. [New] makes it, and it lives through one call of [Service.Run].
type Service struct {
	*parts
	deadlines deadlines
	leftovers leftovers
	strays    strays
	history   history
	orphans   orphans
	checks    checks

	passEvery, lookEvery time.Duration
	mark                 journal.PurgeMark // of the previous pass; zero in the first one
}

// parts holds the dependencies that all tasks of the keeper share.
type parts struct {
	journal *journal.Log
	tasks   *storage.Tasks
	files   storage.Files
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
}

// New makes a service. It does no I/O. The log, tasks and files stay open after Run. The caller keeps tasks
// up to date, see [storage.Tasks.Follow].
func New(cfg Config, log *journal.Log, tasks *storage.Tasks, files storage.Files) (*Service, error) {
	if cfg.KeepFiles < 0 || cfg.KeepPages < 0 || cfg.MaxHistory < 0 || cfg.MaxAge < 0 {
		return nil, errors.New("keeper: a duration or number to keep is negative")
	}
	cfg = cfg.withDefaults()
	p := &parts{journal: log, tasks: tasks, files: files, metrics: newMetrics(cfg.Metrics), log: cfg.Log, now: time.Now}
	return &Service{
		parts:     p,
		deadlines: deadlines{parts: p, maxAge: cfg.MaxAge},
		leftovers: leftovers{parts: p, keepPages: cfg.KeepPages, settle: settle, room: cfg.Room, relieved: map[string]uint64{}},
		strays:    strays{parts: p},
		history:   history{parts: p, maxExports: cfg.MaxHistory, settle: settle},
		orphans:   orphans{parts: p, maxAge: cfg.KeepFiles + cfg.MaxAge + orphanAge},
		checks:    checks{parts: p, sizesEvery: sizesEvery, scrubFirst: scrubFirst, scrubLook: scrubLook, scrubSave: scrubSave, rate: scrubRate},
		passEvery: passEvery, lookEvery: lookEvery,
	}, nil
}

// Run works until ctx ends and then returns nil. It returns an error only if the projection is unusable, and
// retries after every other error.
func (s *Service) Run(ctx context.Context) error {
	select {
	case <-s.tasks.BoundToLog():
	case <-ctx.Done():
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.sweep(ctx) })
	group.Go(func() error { s.checks.run(ctx); return nil })
	return group.Wait()
}

// sweep runs passes until ctx ends.
func (s *Service) sweep(ctx context.Context) error {
	tick := time.NewTicker(s.passEvery)
	defer tick.Stop()
	look := time.NewTicker(s.lookEvery)
	defer look.Stop()
	for pass := true; ; {
		var err error
		if pass {
			err = s.pass(ctx)
		} else {
			err = errors.Join(s.leftovers.relieve(ctx, s.mark), s.history.forget(ctx, s.mark))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, storage.ErrTasksDamaged), errors.Is(err, storage.ErrTasksClosed):
			return fmt.Errorf("sweeping: %w", err)
		case err != nil:
			s.log.Warn("sweep cut short; the next one continues", "error", err)
		}
		select {
		case <-tick.C:
			pass = true
		case <-look.C:
			pass = false
		case <-ctx.Done():
			return nil
		}
	}
}

// pass removes everything that is due. A failing file store does not stop the sweep of the streams.
func (s *Service) pass(ctx context.Context) error {
	if _, err := s.upToDate(ctx); err != nil {
		return err
	}
	mark, err := s.journal.PurgeMark(ctx)
	if err != nil {
		return err
	}
	if !s.mark.At.IsZero() {
		err = errors.Join(
			s.leftovers.purge(ctx, s.mark),
			s.history.purgeEvents(ctx, s.mark),
			s.history.forget(ctx, s.mark),
			s.history.forgetOld(ctx))
	}
	err = errors.Join(err,
		s.history.forgetGone(ctx),
		s.deadlines.expire(ctx),
		s.deadlines.failOverdue(ctx),
		s.strays.purge(ctx, mark),
		s.orphans.remove(ctx))
	s.mark = mark
	s.tasks.Release()
	return err
}

// upToDate waits until the projection has applied the whole log.
func (p *parts) upToDate(ctx context.Context) (journal.LogState, error) {
	ctx, cancel := context.WithTimeout(ctx, passEvery)
	defer cancel()
	log, err := p.journal.LogState(ctx)
	if err != nil {
		return log, err
	}
	return log, p.tasks.WaitApplied(ctx, log.Last)
}

// errNotDue ends an Append: another writer was first.
var errNotDue = errors.New("not due")

// errInUse says that an unfinished export uses the pages of another. They stay until it has ended.
var errInUse = errors.New("the pages are in use")

// unused returns errInUse if an unfinished export uses the pages of a key.
func (p *parts) unused(key string) error {
	used, err := p.tasks.InUse(key)
	if used {
		return errInUse
	}
	return err
}

// overtaken reports whether an Append wrote nothing because another writer was first.
func overtaken(err error) bool {
	return errors.Is(err, errNotDue) || errors.Is(err, events.ErrNotAllowed)
}
