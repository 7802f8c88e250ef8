package journal

import (
	"context"
	"sync"
	"time"
)

// SuspectAfter is how many starts that came to nothing make an export a
// suspect: the process may have ended because of it, or only while it was at
// work.
const SuspectAfter = 2

// SuspectPause is how long a suspect of so many starts waits before it is at work again,
// and lets the others go first: Config.SuspectPause, then twice as long each time. Of a process that
// is ended again and again within moments of its start, not always the same export is at
// work then. (Without it one of 1,000 was taken for the cause, of five SIGKILLs within
// two seconds.) With 500 ms a real cause waits for 3.5 s in all until its fifth start.
func (s *Log) SuspectPause(starts int) time.Duration {
	if starts < SuspectAfter {
		return 0
	}
	return s.cfg.SuspectPause << min(starts-SuspectAfter, 6)
}

// Alone waits until no other suspect is at work in this process, of whatever
// service, and keeps the others waiting until leave is called, which may be
// called again, or atMost has passed. So the one that ends the process is told
// from those that only ran beside it: these are counted at most as often as it
// takes to suspect them, and get further while they are alone. It fails only
// when ctx ends.
func (s *Log) Alone(ctx context.Context, atMost time.Duration) (leave func(), err error) {
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
