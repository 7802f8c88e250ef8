package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"sheaf/events/internal/streams"
)

var (
	// ErrEnded stops work on an export that another process has ended, or that was requested again.
	ErrEnded = errors.New("the export has ended")

	// ErrTaken refuses to start work that this process is already doing: a message was redelivered before its
	// handler returned.
	ErrTaken = errors.New("the export is already being worked on here")
)

// takenAgainAfter is the redelivery delay of a message whose work is still running in this process.
const takenAgainAfter = 5 * time.Second

// cancelAttempts is how often the leader is asked whether a received cancellation was written, over about two
// seconds. A later one is found before the next durable step.
const cancelAttempts = 6

// Running is the current work of one service in this process, at most one per export and none for cancelled
// ones. It saves work; the fence protects processes from each other.
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

// Watch starts listening for cancellations, until Close.
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

// heard asks the leader about a cancellation of an export in work. A subscriber also receives cancellations
// that the fence refuses or a full log does not accept. Stopping for one of those would end work that no
// process resumes.
func (r *Running) heard(tenant, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel, ok := r.cancel[key]
	if !ok || r.closed {
		return
	}
	r.asking.Go(func() {
		// The message is received before it is written.
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

// Close stops listening. Running work continues.
func (r *Running) Close() {
	r.stop()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.asking.Wait()
}

// Enter registers work on a key. The context it returns ends with ErrEnded as its cause when the export is
// cancelled. Read the export after Enter, so that an earlier cancellation is noticed too. leave must be
// called once. The error wraps ErrTaken and makes Consume retry later.
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

// Ended reports whether a context from Enter ended because its export was cancelled.
func Ended(working context.Context) bool { return errors.Is(context.Cause(working), ErrEnded) }

// Len returns the number of exports in work.
func (r *Running) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cancel)
}
