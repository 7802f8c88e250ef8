package source

import (
	"fmt"
	"net/http"
	"strings"

	"sheaf/events"
)

// Failure says why a page or the export failed. Its text and its Msg are for the caller of the export: they
// never contain a response body, a header value or an address that a name resolved to.
type Failure struct {
	Sheet string // names the sheet, such as `sheet 2 "customers"`; "" for a request with one source
	Page  int    // from 1; 0 when the export as a whole failed
	// Code is one of the error codes of [sheaf/events], such as events.CodeSourceHTTP. It is empty when the
	// context of the fetch ended, because that is not the source's fault.
	Code     string
	Status   int    // HTTP status, 0 without a response
	Errcode  string // errcode of the response as raw JSON, "" without one
	Attempts int    // number of requests
	// Msg is the msg of the response, cut at 500 characters and with every header value of the request
	// redacted. Without one it is a sentence of Sheaf.
	Msg string
	// Hint describes a response in another form by the names of its keys, and names the expected form. It is
	// "" for every other failure.
	Hint string
	// Err is the cause, for errors.Is and for logs. Its text may contain addresses, so callers must not see
	// it.
	Err error `json:"-"`
}

// Reasons lists the results of [Failure.Reason].
var Reasons = []string{"timeout", "unreachable", "http_429", "http_4xx", "http_5xx", "other"}

// Reason returns the class of the failure, for metrics.
func (f *Failure) Reason() string {
	switch {
	case f.Status == http.StatusTooManyRequests:
		return "http_429"
	case f.Status >= 500:
		return "http_5xx"
	case f.Status >= 400:
		return "http_4xx"
	case f.Code == events.CodeSourceTimeout:
		return "timeout"
	case f.Code == events.CodeSourceUnreachable:
		return "unreachable"
	}
	return "other"
}

// Error returns one sentence, such as "page 7: HTTP 503 after 6 attempts".
func (f *Failure) Error() string {
	var b strings.Builder
	if f.Sheet != "" {
		b.WriteString(f.Sheet + ": ")
	}
	if f.Page > 0 {
		fmt.Fprintf(&b, "page %d: ", f.Page)
	}
	msg := f.Msg
	switch {
	case f.Status != 0 && !success(f.Status):
		fmt.Fprintf(&b, "HTTP %d", f.Status)
		if f.Errcode != "" {
			fmt.Fprintf(&b, ", errcode %s", f.Errcode)
		}
	case f.Errcode != "":
		fmt.Fprintf(&b, "errcode %s", f.Errcode)
	default:
		b.WriteString(msg)
		msg = ""
	}
	if f.Attempts > 1 {
		fmt.Fprintf(&b, " after %d attempts", f.Attempts)
	}
	if msg != "" {
		b.WriteString(": " + msg)
	}
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// success reports whether a status promises the whole page. 206 is only a part.
func success(status int) bool {
	return status >= 200 && status < 300 && status != http.StatusPartialContent
}
