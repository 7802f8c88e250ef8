package source

import (
	"fmt"
	"net/http"
	"strings"
)

// Failure says why a page, or the export, has failed. Its text and its Msg are made for the person who asked
// for the export: they never hold a response body, a header value or an address that a name resolved to.
type Failure struct {
	Page int // from 1; 0 when the export as a whole failed
	// Code is one of the error codes of [sheaf/events], such as events.CodeSourceHTTP. It is empty when the
	// context of the fetch ended: that says nothing about the source.
	Code     string
	Status   int    // HTTP status, 0 without an answer
	Errcode  string // errcode of the answer as raw JSON, "" when it had none
	Attempts int    // requests that were made
	// Msg is the msg of the answer, cut at 500 characters, with every header value of the request blotted
	// out; without one it is a sentence of ours.
	Msg string
	// Hint is what an answer in another form holds, by the names of its keys, and which form is read; "" for
	// every other failure.
	Hint string
	// Err is the cause, for errors.Is and for logs. Its text may name addresses: it is not for callers.
	Err error
}

// Error is one sentence, such as "page 7: HTTP 503 after 6 attempts".
func (f *Failure) Error() string {
	var b strings.Builder
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

// success reports whether a status promises the whole page. 206 is a part.
func success(status int) bool {
	return status >= 200 && status < 300 && status != http.StatusPartialContent
}
