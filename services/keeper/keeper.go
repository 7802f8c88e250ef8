// Package keeper ends everything that ends by time: it expires finished files, fails
// exports that stay unfinished, purges the pages, headers and older events of ended
// exports, forgets the oldest exports of a tenant that has too many, and removes files
// that no export names. It also checks that the finished files are as they were completed.
//
// Each process with a projection runs one. That several do the same at once is harmless:
// the fence over the events of an export lets one of them win.
package keeper

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"sheaf/events"
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
}

func (c Config) withDefaults() Config {
	if c.KeepFiles == 0 {
		c.KeepFiles = 168 * time.Hour
	}
	if c.KeepPages == 0 {
		c.KeepPages = 24 * time.Hour
	}
	if c.MaxHistory == 0 {
		c.MaxHistory = 100_000
	}
	if c.MaxAge == 0 {
		c.MaxAge = 72 * time.Hour
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "keeper")
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	return c
}

// Service is the keeper. It is made by [New] and lives through one call of [Service.Run].
type Service struct {
	cfg     Config
	streams *events.Streams
	tasks   *storage.Tasks
	files   storage.Files
}

// New makes a service. It does no I/O. Streams, tasks and files stay open after Run.
// Another part of the process keeps tasks up to date, see [storage.Tasks.Follow].
func New(cfg Config, streams *events.Streams, tasks *storage.Tasks, files storage.Files) (*Service, error) {
	if cfg.KeepFiles < 0 || cfg.KeepPages < 0 || cfg.MaxHistory < 0 || cfg.MaxAge < 0 {
		return nil, errors.New("keeper: a duration or number to keep is negative")
	}
	return &Service{cfg: cfg.withDefaults(), streams: streams, tasks: tasks, files: files}, nil
}

// Run works until ctx ends and then returns nil. It returns an error only if the
// projection cannot be used; all else is tried again.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.newSweeper().run(ctx) })
	group.Go(func() error { return s.newFileChecks().run(ctx) })
	return group.Wait()
}
