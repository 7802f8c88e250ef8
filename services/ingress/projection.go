package ingress

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
)

// project applies the log to this ingress's own projection.
func (s *Service) project(ctx context.Context) error {
	return s.untilDone(ctx, "following the log", func(ctx context.Context) error {
		return s.tasks.Follow(ctx, s.journal, func(batch []events.Event) {
			s.progress.apply(batch)
			s.changes.applied(batch)
		})
	})
}

// lagEvery is the pause between two measurements of the projection's lag.
const lagEvery = 500 * time.Millisecond

// lag measures how far the projection is behind the log. The zero value has no lag.
type lag struct {
	mu     sync.Mutex
	behind []seen // not applied yet, oldest first
	newest uint64 // sequence of the log
}

// seen is the end of the log at a time.
type seen struct {
	sequence uint64
	at       time.Time
}

// maxSeen bounds the measurements in lag: half a minute of a growing log.
const maxSeen = 64

// look records the end of the log at a time, and the sequence applied now.
func (l *lag) look(newest uint64, at time.Time, applied uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = max(l.newest, newest) // a former leader knows less
	l.advance(applied)
	n := len(l.behind)
	if newest > applied && n < maxSeen && (n == 0 || l.behind[n-1].sequence < newest) {
		l.behind = append(l.behind, seen{newest, at})
	}
}

// of returns how many events the projection is behind, and the minimum age of the oldest one.
func (l *lag) of(applied uint64) (count uint64, age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(applied)
	if len(l.behind) == 0 {
		return 0, 0
	}
	return l.newest - applied, time.Since(l.behind[0].at)
}

// advance drops the entries that are applied. The caller holds mu.
func (l *lag) advance(applied uint64) {
	for len(l.behind) > 0 && l.behind[0].sequence <= applied {
		l.behind = l.behind[1:]
	}
}

// watchLag measures the lag until ctx ends. It marks the service as caught up once the projection has applied
// the end of the log measured after the start.
func (s *Service) watchLag(ctx context.Context) error {
	select {
	case <-s.tasks.BoundToLog():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for {
		at := time.Now()
		if last, err := s.journal.LastSequence(ctx); err == nil {
			if !s.caughtUp.Load() {
				if s.tasks.WaitApplied(ctx, last) != nil {
					return nil // the service ends
				}
				s.caughtUp.Store(true)
			}
			s.lag.look(last, at, s.tasks.Applied())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lagging returns why the service is not ready, "" while the projection keeps up.
func (s *Service) lagging() string {
	if !s.caughtUp.Load() {
		return "reading the log"
	}
	if count, age := s.lag.of(s.tasks.Applied()); age > s.cfg.MaxLag {
		return fmt.Sprintf("the projection is %d events and %.1f s behind the log", count, age.Seconds())
	}
	return ""
}

// watchProgress remembers the progress that crawlers and assemblers report.
func (s *Service) watchProgress(ctx context.Context) error {
	return s.untilDone(ctx, "watching progress", func(ctx context.Context) error {
		stop, err := s.journal.OnProgress(func(tenant, key string, p events.Progress) {
			s.progress.report(tenant, key, p)
			s.changes.report(tenant, key)
		})
		if err != nil {
			return err
		}
		<-ctx.Done()
		stop()
		return nil
	})
}
