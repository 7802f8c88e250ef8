package events

import (
	"errors"
	"time"
)

var (
	// ErrUnavailable is returned when the stream did not confirm in time or
	// cannot be reached. Nothing is known of the write: the caller answers
	// "try again later" and repeats it with the same content.
	ErrUnavailable = errors.New("event stream unavailable")

	// ErrNoSpace is returned when a stream is at its limit of bytes or
	// messages. Nothing was written.
	ErrNoSpace = errors.New("stream is full")

	// ErrPageMissing is returned when a page is not in its run. It is only
	// said after the stream's leader was asked.
	ErrPageMissing = errors.New("page missing")

	// ErrPageDamaged is returned when the stored parts of a page do not join
	// into what was published: parts of two answers, or a checksum that
	// differs.
	ErrPageDamaged = errors.New("page damaged")

	// ErrNoHeaders is returned when sealed source headers are gone: the export
	// ended and its secrets were purged.
	ErrNoHeaders = errors.New("sealed source headers are gone")

	// ErrSealed is returned when sealed data cannot be opened: another secret
	// key, another export, or damage.
	ErrSealed = errors.New("sealed data cannot be opened")
)

// Permanent marks an error that no repetition can mend: Consume gives the
// message up.
func Permanent(err error) error { return &handlingError{err: err, permanent: true} }

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
	err       error
	permanent bool
	after     time.Duration
	work      func() error
}

func (e *handlingError) Error() string { return e.err.Error() }
func (e *handlingError) Unwrap() error { return e.err }
