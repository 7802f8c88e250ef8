package streams

import (
	"errors"
	"fmt"
	"strings"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

var (
	// ErrWrongLastSequence is returned if a message's fence expects another last sequence.
	ErrWrongLastSequence = errors.New("wrong last sequence")

	// ErrSubjectTaken is returned if a message's subject already has its maximum number of messages.
	ErrSubjectTaken = errors.New("subject is taken")
)

// PublishError classifies the errors of publishing a message or batch. The server has two codes for "wrong
// last sequence", of a single server and of a cluster, and one code for both a full stream and a taken
// subject.
func PublishError(err error) error {
	var refused interface{ APIError() *jetstream.APIError }
	if errors.As(err, &refused) && refused.APIError() != nil {
		api := refused.APIError()
		switch {
		case api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return ErrWrongLastSequence
		case strings.Contains(api.Description, "per subject"):
			return ErrSubjectTaken
		case strings.Contains(api.Description, "maximum bytes"),
			strings.Contains(api.Description, "maximum messages"),
			strings.Contains(api.Description, "resource limits exceeded"),
			strings.Contains(api.Description, "insufficient"):
			return fmt.Errorf("%w: %s", events.ErrNoSpace, api.Description)
		case api.Code >= 500 || api.Code == 429 ||
			api.ErrorCode == jetstreamext.JSErrCodeBatchPublishIncomplete:
			// An incomplete batch lost a message in transit.
			return fmt.Errorf("%w: %s", events.ErrUnavailable, api.Description)
		}
		return fmt.Errorf("publishing: %w", api)
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("publishing: %w", err)
	}
	return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
}

// Permanent marks an error that retries cannot fix.
func Permanent(err error) error { return permanentError{err} }

// IsPermanent reports whether Permanent marked an error.
func IsPermanent(err error) bool { return errors.As(err, new(permanentError)) }

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }
