package journal

import (
	"errors"
	"time"

	"sheaf/events/internal/streams"
)

// Permanent marks an error that retries cannot fix: Consume gives the message up.
func Permanent(err error) error { return streams.Permanent(err) }

// RetryAfter marks an error after which Consume requests redelivery after d or later.
func RetryAfter(err error, d time.Duration) error { return &handlingError{err: err, after: d} }

// Beside is the result of a handler whose work waits for others and needs no slot meanwhile. Consume runs
// work in a separate goroutine and keeps the message alive until it returns. Then it treats the message as if
// the handler had returned that result, which must not be Beside again. Nothing is stored: if the process
// dies, the message is redelivered to another one after its AckWait.
func Beside(work func() error) error {
	return &handlingError{err: errors.New("continues beside the slots"), work: work}
}

// ErrTakenOver is the result of a handler whose message was redelivered to another one meanwhile. Consume
// does not answer, because the message now belongs to the other.
var ErrTakenOver = errors.New("another handler has the work")

type handlingError struct {
	err   error
	after time.Duration
	work  func() error
}

func (e *handlingError) Error() string { return e.err.Error() }
func (e *handlingError) Unwrap() error { return e.err }
