package events

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrEnded stops work on an export that somebody else has ended, or that
	// was requested anew.
	ErrEnded = errors.New("the export has ended")

	// ErrTaken refuses a second start of work that this process is doing
	// already: a message was delivered again before its handler returned.
	ErrTaken = errors.New("the export is already being worked on here")
)

// takenAgainAfter is when a message is looked at again whose work is still
// under way in this process.
const takenAgainAfter = 5 * time.Second

// Running is the work that one service of this process is doing, an export at
// a time: no export twice, and none that was cancelled. It spares work; what
// keeps two processes apart is the fence.
type Running struct {
	mu     sync.Mutex
	cancel map[string]context.CancelCauseFunc // by key
	stop   func()
}

// Watch begins to listen for cancellations. Close ends it.
func (s *Streams) Watch() (*Running, error) {
	r := &Running{cancel: map[string]context.CancelCauseFunc{}}
	stop, err := s.OnCancelled(func(_, key string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if cancel, ok := r.cancel[key]; ok {
			cancel(ErrEnded)
		}
	})
	if err != nil {
		return nil, err
	}
	r.stop = stop
	return r, nil
}

// Close stops listening. Work under way goes on.
func (r *Running) Close() { r.stop() }

// Enter registers work on a key. The context it returns ends with ErrEnded as
// its cause when the export is cancelled; read the export after Enter, so that
// a cancellation just before is seen too. leave must be called once. The error
// wraps ErrTaken and tells Consume to come back later.
func (r *Running) Enter(ctx context.Context, key string) (working context.Context, leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.cancel[key]; ok {
		return nil, nil, RetryAfter(ErrTaken, takenAgainAfter)
	}
	working, cancel := context.WithCancelCause(ctx)
	r.cancel[key] = cancel
	return working, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.cancel, key)
		cancel(nil)
	}, nil
}

// Ended reports whether the work of a context that Enter returned was stopped
// because its export was cancelled.
func Ended(working context.Context) bool { return errors.Is(context.Cause(working), ErrEnded) }

// Len is how many exports are being worked on.
func (r *Running) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cancel)
}
