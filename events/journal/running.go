package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"sheaf/events/internal/streams"
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

// cancelAttempts bounds how often the leader is asked whether a cancellation
// that was heard was written: for some two seconds. One that is written later
// is found before the next durable step.
const cancelAttempts = 6

// Running is the work that one service of this process is doing, an export at
// a time: no export twice, and none that was cancelled. It spares work; what
// keeps two processes apart is the fence.
type Running struct {
	journal *Log
	ctx     context.Context // ends with Close
	end     context.CancelFunc
	asking  sync.WaitGroup
	stop    func()

	mu     sync.Mutex
	closed bool
	cancel map[string]context.CancelCauseFunc // by key
}

// Watch begins to listen for cancellations. Close ends it.
func (s *Log) Watch() (*Running, error) {
	r := &Running{journal: s, cancel: map[string]context.CancelCauseFunc{}}
	r.ctx, r.end = context.WithCancel(context.Background())
	var err error
	if r.stop, err = s.OnCancelled(r.heard); err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// heard asks the leader about a cancellation of what is worked on here. A
// subscriber hears those too that the fence refuses or a full log does not
// take; stopping for one of them would end work that nobody else resumes.
func (r *Running) heard(tenant, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel, ok := r.cancel[key]
	if !ok || r.closed {
		return
	}
	r.asking.Go(func() {
		// The message is heard before it is written.
		for attempt := range uint64(cancelAttempts) {
			x, err := r.journal.Read(r.ctx, tenant, key)
			if err == nil && x.State.Terminal() {
				cancel(ErrEnded)
				return
			}
			if streams.Wait(r.ctx, streams.Backoff(attempt)); r.ctx.Err() != nil {
				return
			}
		}
	})
}

// Close stops listening. Work under way goes on.
func (r *Running) Close() {
	r.stop()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.asking.Wait()
}

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
