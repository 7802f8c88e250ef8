// Package keeper ends everything that ends by time: it expires finished files, fails
// exports that stay unfinished, purges the pages, headers and older events of ended
// exports, forgets the oldest exports of a tenant that has too many, and removes files
// that no export names. It also checks that the finished files are as they were completed.
//
// # What it promises
//
//   - Nothing goes that an export under way needs; DESIGN.md says why.
//   - A file is deleted after the event that says so, and never before its time.
//   - A pass costs as much as there is to remove, not as there is history.
//
// Each process with a projection runs one. That several do the same at once is harmless:
// the fence over the events of an export lets one of them win.
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

// Config of the service. The zero value works.
type Config struct {
	KeepFiles  time.Duration // how long finished files are kept; default 168h
	KeepPages  time.Duration // how long the pages and source headers of a failed or cancelled export are kept; default 24h
	MaxHistory int           // exports of one tenant that are remembered, beyond which its settled ones are forgotten; default 100,000
	MaxAge     time.Duration // of an unfinished export, which is then failed with LIMIT_TIME; default 72h
	// Room returns an error when the disk has no room for so many bytes of pages.
	// Default: there is room.
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
	// passEvery is the pause between two passes. It is also the least age of what a
	// pass removes from the streams.
	passEvery = time.Minute
	// lookEvery is the pause between two looks at the page stream, its disk and what
	// tenants have in the log.
	lookEvery = 2 * time.Second
	// searchEvery is the pause between two searches for orphans, which read the whole
	// store, and between two for strays, which list all pages.
	searchEvery = time.Hour
	// settle is how long the pages of a completed export stay, for a second assembler
	// that still reads them.
	settle = time.Minute
	// batch bounds the exports that are in memory at once.
	batch = 64
)

// Service is the keeper. It is made by [New] and lives through one call of [Service.Run].
type Service struct {
	*parts
	deadlines deadlines
	leftovers leftovers
	strays    strays
	history   history
	orphans   orphans
	checks    checks

	passEvery, lookEvery time.Duration
	mark                 journal.PurgeMark // of the pass before; zero in the first one
}

// parts is what all tasks of the keeper work with.
type parts struct {
	journal *journal.Log
	tasks   *storage.Tasks
	files   storage.Files
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
}

// New makes a service. It does no I/O. The log, tasks and files stay open after Run.
// Another part of the process keeps tasks up to date, see [storage.Tasks.Follow].
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

// Run works until ctx ends and then returns nil. It returns an error only if the
// projection cannot be used; all else is tried again.
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

// sweep removes what is due until ctx ends.
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
			err = errors.Join(s.leftovers.relieve(ctx), s.history.forget(ctx, s.mark))
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

// pass removes what is due now. A failure of the file store does not keep the
// streams from being swept.
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
		s.deadlines.expire(ctx),
		s.deadlines.failOverdue(ctx),
		s.strays.purge(ctx, mark),
		s.orphans.remove(ctx))
	s.mark = mark
	s.tasks.Release()
	return err
}

// upToDate waits until the projection has seen the whole log.
func (p *parts) upToDate(ctx context.Context) (journal.LogState, error) {
	ctx, cancel := context.WithTimeout(ctx, passEvery)
	defer cancel()
	log, err := p.journal.LogState(ctx)
	if err != nil {
		return log, err
	}
	return log, p.tasks.WaitApplied(ctx, log.Last)
}

// errNotDue ends an Append: another was first.
var errNotDue = errors.New("not due")

// overtaken reports whether an Append wrote nothing because of what others wrote.
func overtaken(err error) bool {
	return errors.Is(err, errNotDue) || errors.Is(err, events.ErrNotAllowed)
}
