package journal

import (
	"errors"
	"time"

	"sheaf/events/internal/streams"
)

// Permanent marks an error that no repetition can mend: Consume gives the
// message up.
func Permanent(err error) error { return streams.Permanent(err) }

// RetryAfter marks an error after which Consume has the message delivered
// again no sooner than d.
func RetryAfter(err error, d time.Duration) error { return &handlingError{err: err, after: d} }

// Beside is what a handler returns whose work waits for others and needs no
// slot meanwhile. Consume runs work in a goroutine of its own, keeps the message
// from others until it returns, and then treats the message as if the handler
// had returned that; it must not be Beside again. Nothing is written for it: if
// the process dies, the message comes to another after its AckWait.
func Beside(work func() error) error {
	return &handlingError{err: errors.New("goes on beside the slots"), work: work}
}

// ErrTakenOver is what a handler returns that learned that its message was handed
// to another meanwhile, who works on it. Nothing is answered: the message is
// the other's now.
var ErrTakenOver = errors.New("another has taken the work over")

type handlingError struct {
	err   error
	after time.Duration
	work  func() error
}

func (e *handlingError) Error() string { return e.err.Error() }
func (e *handlingError) Unwrap() error { return e.err }
