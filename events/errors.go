package events

import "errors"

var (
	// ErrUnavailable is returned if the stream did not confirm in time or cannot be reached. The outcome of a
	// write is unknown: the caller responds "try again later" or repeats it with the same content.
	ErrUnavailable = errors.New("event stream unavailable")

	// ErrNoSpace is returned if a stream has reached its limit of bytes or messages. Nothing was written.
	ErrNoSpace = errors.New("stream is full")

	// ErrPageMissing is returned if a run lacks a page. Only the stream's leader decides that.
	ErrPageMissing = errors.New("page missing")

	// ErrPageDamaged is returned if the stored parts of a page do not form the published page: they come from
	// two responses, or the checksum differs.
	ErrPageDamaged = errors.New("page damaged")

	// ErrNoHeaders is returned if sealed source headers are gone: the export ended and its secrets were
	// purged.
	ErrNoHeaders = errors.New("sealed source headers are gone")

	// ErrSealed is returned if sealed data cannot be opened: another secret key, another export, or damage.
	ErrSealed = errors.New("sealed data cannot be opened")
)
