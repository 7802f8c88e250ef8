package ingress

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// availabilityEvery is the pause between two checks of the streams. logLooks is the number of checks
	// between two of the log's size.
	availabilityEvery = 250 * time.Millisecond
	logLooks          = 4
	// brokenLooks is the number of failed checks after which operations stop. A connection that returns
	// within a second has lost nothing.
	brokenLooks = 4
	// closedWait is the Retry-After during start-up.
	closedWait = 2 * time.Second
)

// availability tracks whether the streams accept writes. up lets operations wait for acknowledgements; down
// cancels those that wait. The zero value is up.
type availability struct {
	mu     sync.Mutex
	alive  context.Context // ends when the streams accept no more writes; nil before the first check
	cancel context.CancelFunc
}

func (a *availability) up() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.alive == nil || a.alive.Err() != nil {
		a.alive, a.cancel = context.WithCancel(context.Background())
	}
}

func (a *availability) down() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel()
}

// whileUp returns a context that also ends when the streams accept no more writes, because no acknowledgement
// would arrive.
func (a *availability) whileUp(ctx context.Context) (context.Context, context.CancelFunc) {
	a.mu.Lock()
	alive := a.alive
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	if alive == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(alive, cancel)
	return ctx, func() { stop(); cancel() }
}

// watchAvailability checks until ctx ends whether the streams accept writes, and how full the log is.
func (s *Service) watchAvailability(ctx context.Context) error {
	s.availability.up()
	defer s.availability.down()
	for n, bad := 0, 0; ; n++ {
		if bad++; !s.broken() {
			bad = 0
			s.availability.up()
		} else if bad == brokenLooks {
			s.availability.down()
		}
		if bad == 0 && n%logLooks == 0 {
			look, cancel := context.WithTimeout(ctx, readWait)
			if log, err := s.journal.LogSpace(look); err == nil {
				s.admission.look(log)
			}
			cancel()
		}
		if !pause(ctx, availabilityEvery) {
			return nil
		}
	}
}

// broken reports whether the streams refuse writes. Other reasons for not being ready do not count.
func (s *Service) broken() bool {
	if !s.journal.Conn().IsConnected() {
		return true
	}
	err := s.cfg.Health()
	var said NotReady
	return err != nil && !errors.As(err, &said)
}

// pause waits for d. It returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
