package client

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"
	"unicode"
)

// Error is a refusal by the server.
type Error struct {
	Status     int           // HTTP status; the same number with NATS
	Errcode    int           // of the answer; services/REFERENCE.md lists them
	Field      string        // the field at fault, such as "source_http.url"; "" if the message names none
	Msg        string        // the mistake, and how to correct it
	RequestID  string        // identifies the request in the log of the server
	RetryAfter time.Duration // how long the server asks to wait; 0 if it names no time
}

func (e *Error) Error() string {
	msg := cmp.Or(OneLine(e.Msg), http.StatusText(e.Status))
	return fmt.Sprintf("the server refused: %s (HTTP %d, errcode %d, request %s)", msg, e.Status, e.Errcode, OneLine(e.RequestID))
}

// fieldOf matches a message that begins with a field: "title: is ..." or "source_http.paging is required".
var fieldOf = regexp.MustCompile(`^([A-Za-z_-][\w."'\[\]-]*): |^([a-z]+[_.][\w."'\[\]-]*) `)

// newError returns the refusal of an answer.
func newError(status, errcode int, msg, requestID string, wait time.Duration) *Error {
	e := &Error{Status: status, Errcode: errcode, Msg: msg, RequestID: requestID, RetryAfter: wait}
	if m := fieldOf.FindStringSubmatch(msg); m != nil && status < http.StatusInternalServerError {
		e.Field = m[1] + m[2]
	}
	return e
}

// UnreachableError is a server that did not answer. Whether it received the request is unknown.
type UnreachableError struct {
	Server string // without a password
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", e.Server, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// RedirectError is a server that redirects. The client does not follow it.
type RedirectError struct {
	Server string
	To     string // scheme and host alone, because the rest may contain secrets; "" if the answer names none
	Status int
}

func (e *RedirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s (HTTP %d); redirects are not followed, since the API key and the secrets of sources would go along",
		e.Server, cmp.Or(OneLine(e.To), "an address that it does not name"), e.Status)
}

// ExportError is an export that ended without a file.
type ExportError struct {
	Key       string
	Cancelled bool
	Code      string // error_code; "CANCELLED" if it was cancelled, "" if the server gave none
	Reason    string // for people
}

func (e *ExportError) Error() string {
	if e.Cancelled {
		return "the export was cancelled"
	}
	text := "the export failed: " + cmp.Or(OneLine(e.Reason), "no reason given")
	if e.Code != "" {
		text += " (" + OneLine(e.Code) + ")"
	}
	return text
}

var (
	// ErrUnfinished means that an export has no file yet.
	ErrUnfinished = errors.New("the export is still under way")
	// ErrGone means that the file of an export has expired or is lost. A retry makes it again.
	ErrGone = errors.New("the file is gone")
	// ErrDamaged means that a download is not the file of the export.
	ErrDamaged = errors.New("the download is not the file of the export")
	// ErrTooLarge means that an answer has more bytes than it may have.
	ErrTooLarge = errors.New("the answer is too large")
)

// temporary reports whether a later call may succeed.
func temporary(err error) bool {
	var refusal *Error
	if errors.As(err, &refusal) {
		switch refusal.Status {
		case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var unreachable *UnreachableError
	return errors.As(err, &unreachable)
}

// retryAfter returns how long the server asked to wait.
func retryAfter(err error) time.Duration {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.RetryAfter
	}
	return 0
}

// bare removes the "Get http://...:" that net/http puts before an error.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func printable(r rune) rune {
	if r != '\n' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
		return ' '
	}
	return r
}
