package events

import (
	"context"
	"sync"
	"time"
)

// SuspectAfter is how many starts that came to nothing make an export a
// suspect: the process may have ended because of it, or only while it was at
// work.
const SuspectAfter = 2

// Alone waits until no other suspect is at work in this process, of whatever
// service, and keeps the others waiting until leave is called, which may be
// called again, or atMost has passed. So the one that ends the process is told
// from those that only ran beside it: these are counted at most as often as it
// takes to suspect them, and get further while they are alone. It fails only
// when ctx ends.
//
// Who waits for something else than its own work must leave: others may be what
// it waits for.
func (s *Streams) Alone(ctx context.Context, atMost time.Duration) (leave func(), err error) {
	select {
	case s.suspects <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	over := sync.OnceFunc(func() { <-s.suspects })
	timer := time.AfterFunc(atMost, over)
	return func() {
		timer.Stop()
		over()
	}, nil
}
