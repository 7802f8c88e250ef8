package events

import "errors"

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
