package journal

import (
	"context"
	"sync"
	"time"
)

// SuspectAfter is the number of starts without progress that make an export a suspect: the process may have
// ended because of it, or while it merely ran.
const SuspectAfter = 2

// SuspectPause returns how long a suspect waits before its next start: Config.SuspectPause, doubled with each
// start. The growing pause varies which export is running when a process is killed repeatedly right after
// starting, so a bystander is not blamed. (Without it, five SIGKILLs within two seconds blamed one of 1,000
// exports.) With 500 ms an export that does crash its process waits 3.5 s in all until its fifth start.
func (s *Log) SuspectPause(starts int) time.Duration {
	if starts < SuspectAfter {
		return 0
	}
	return s.cfg.SuspectPause << min(starts-SuspectAfter, 6)
}

// Alone waits until no other suspect is running in this process, in any service. It blocks the others until
// leave is called, which may be repeated, or atMost has passed. This separates an export that crashes the
// process from bystanders: those are counted only until they become suspects, and make progress while they
// are alone. It fails only if ctx ends. Release the lane before waiting on anything else, or two suspects can
// deadlock.
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
