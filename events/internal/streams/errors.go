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
	// ErrWrongLastSequence is returned for a message whose fence names another last sequence.
	ErrWrongLastSequence = errors.New("wrong last sequence")

	// ErrSubjectTaken is returned for a message to a subject that holds as many as it may.
	ErrSubjectTaken = errors.New("subject is taken")
)

// PublishError sorts the errors of a publish, of one message or of a batch. The server says "wrong last
// sequence" with one code on a single server and with another on a cluster,
// and uses one code for a full stream and for a subject that is taken.
func PublishError(err error) error {
	var refused interface{ APIError() *jetstream.APIError }
	if errors.As(err, &refused) && refused.APIError() != nil {
		api := refused.APIError()
		switch {
		case api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return ErrWrongLastSequence
		case strings.Contains(api.Description, "per subject"):
			return ErrSubjectTaken
		case strings.Contains(api.Description, "maximum bytes"), strings.Contains(api.Description, "maximum messages"),
			strings.Contains(api.Description, "resource limits exceeded"), strings.Contains(api.Description, "insufficient"):
			return fmt.Errorf("%w: %s", events.ErrNoSpace, api.Description)
		case api.Code >= 500 || api.Code == 429 || api.ErrorCode == jetstreamext.JSErrCodeBatchPublishIncomplete:
			// An incomplete batch lost a message on its way.
			return fmt.Errorf("%w: %s", events.ErrUnavailable, api.Description)
		}
		return fmt.Errorf("publishing: %w", api)
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("publishing: %w", err)
	}
	return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
}

// Permanent marks an error that no repetition can mend.
func Permanent(err error) error { return permanentError{err} }

// IsPermanent reports whether an error was marked by Permanent.
func IsPermanent(err error) bool { return errors.As(err, new(permanentError)) }

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }
