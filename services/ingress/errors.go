package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
)

// Error codes of the envelope. They equal the HTTP status, except 401 here and 40101 in auth.go.
const (
	errcodeInvalid     = 400 // a field is missing or wrong
	errcodeNoKey       = 401 // no key was given; callers rely on this number, the HTTP status is 400
	errcodeNotFound    = 404 // no such path, or no export has the key
	errcodeMethod      = 405 // the path exists, the method does not
	errcodeState       = 409 // the export's state does not allow it
	errcodeTooLarge    = 413 // the request is larger than allowed
	errcodeEncoding    = 415 // the body is compressed
	errcodeInternal    = 500 // a defect of Sheaf; the log has the details
	errcodeUnavailable = 503 // nothing was done, or the result is unknown: try again
)

// NotReady is an error of Config.Health that /readyz shows. It contains no address and no path outside the
// data folder. Other errors go only to the log.
type NotReady string

func (e NotReady) Error() string { return string(e) }

// apiError is a failed answer, the same for every transport.
type apiError struct {
	Errcode    int
	Status     int           // of HTTP
	Field      string        // the field at fault; "" if there is none
	Msg        string        // for the caller: the mistake and the fix
	RetryAfter time.Duration // when to try again; 0 means never
	cause      error         // for the log only
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.Msg + ": " + e.cause.Error()
	}
	return e.Msg
}

func (e *apiError) Unwrap() error { return e.cause }

func unknownKey(key string) *apiError {
	return &apiError{
		Errcode: errcodeNotFound, Status: http.StatusNotFound, Field: "key",
		Msg: fmt.Sprintf("资源不存在 (no export has the key %q)", request.Cut(key, 64)),
	}
}

// conflict answers an operation that the export's state does not allow.
func conflict(format string, args ...any) *apiError {
	return &apiError{
		Errcode: errcodeState, Status: http.StatusConflict, Field: "key",
		Msg: "key: " + fmt.Sprintf(format, args...),
	}
}

func unavailable(msg string, after time.Duration, cause error) *apiError {
	return &apiError{
		Errcode: errcodeUnavailable, Status: http.StatusServiceUnavailable,
		Msg: msg, RetryAfter: after, cause: cause,
	}
}

func internal(cause error) *apiError {
	return &apiError{
		Errcode: errcodeInternal, Status: http.StatusInternalServerError,
		Msg: "服务错误 (internal error; the server's log has the details under this request_id)", cause: cause,
	}
}

// asAPIError decides which errors a caller sees, for all transports. An unknown error becomes an internal one
// without its text.
func asAPIError(err error) *apiError {
	var e *apiError
	var bad *request.Error
	var tooMany *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &bad) && bad.TooLarge:
		return &apiError{Errcode: errcodeTooLarge, Status: http.StatusRequestEntityTooLarge, Field: bad.Field, Msg: bad.Msg}
	case errors.As(err, &bad):
		return &apiError{Errcode: errcodeInvalid, Status: http.StatusBadRequest, Field: bad.Field, Msg: bad.Msg}
	case errors.As(err, &tooMany):
		return asAPIError(request.TooLarge("body", "is larger than %d bytes", tooMany.Limit))
	case errors.Is(err, nats.ErrMaxPayload):
		return asAPIError(request.TooLarge("body", "is larger than a message of the event stream may be"))
	case errors.Is(err, journal.ErrTooManyKeys):
		return &apiError{
			Errcode: errcodeQuota, Status: http.StatusTooManyRequests, Field: "Idempotency-Key", RetryAfter: quotaWait,
			Msg: "Idempotency-Key: as many of yours are remembered as may be; try again when the oldest are forgotten, or without one: an equal request is the same export",
		}
	case errors.Is(err, events.ErrNoSpace):
		return unavailable("the event stream is full, nothing was accepted; try again later", 30*time.Second, err)
	case errors.Is(err, events.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable("the event stream is unavailable; try again", 2*time.Second, err)
	}
	return internal(err)
}
