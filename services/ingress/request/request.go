// Package request turns the bytes of a request into a checked request and its key. It does no I/O and knows
// no transport.
//
// Equal requests of a tenant have equal keys, whatever their white space, escapes and order of names. The
// message of an [Error] begins with the field and says how to correct it; it never repeats a secret.
package request

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sheaf/events"
	"sheaf/events/secrets"

	"github.com/go-json-experiment/json/jsontext"
)

// Error names the field that is missing, wrong or too large, and says how to correct it.
type Error struct {
	Field    string
	Msg      string // for the caller; begins with the field
	TooLarge bool
}

func (e *Error) Error() string { return e.Msg }

// Invalid returns an error of a field. The format omits the field's name.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Field: field, Msg: field + ": " + fmt.Sprintf(format, args...)}
}

// TooLarge returns an error of a field that exceeds its limit.
func TooLarge(field, format string, args ...any) *Error {
	e := Invalid(field, format, args...)
	e.TooLarge = true
	return e
}

// Cut shortens external text to at most n characters.
func Cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "…"
		}
		n--
	}
	return s
}

// Bounds of a request.
const (
	maxTitle        = 255 // characters
	maxUserID       = 255 // characters
	maxCallback     = 2048
	maxSourceURL    = 8 << 10
	maxRowKey       = 255
	maxHeaders      = 64
	maxHeaderBytes  = 32 << 10 // names and values together
	defaultLimit    = 50       // rows a page
	maxLimit        = 10_000
	defaultConn     = 8
	maxConn         = 64
	maxTimestamp    = 253402300799 // 9999-12-31T23:59:59Z, the last that RFC 3339 can write
	maxWarnings     = 16           // unknown fields named in warnings
	maxWarningField = 64           // characters of one
)

// Checked is a valid request, ready to be stored.
type Checked struct {
	Key     string
	Request events.Request
	Secrets secrets.Values // of the source, not sealed yet
	Pages   []Page         // of a raw export
}

// Parse checks the body of a tenant's request and converts it for the log. formats are the formats to choose
// from. Errors that the caller can correct are [*Error].
func Parse(keys *secrets.Keyring, tenant, sourceType string, formats []events.Format, body []byte) (*Checked, error) {
	rowField := ""
	if sourceType == events.SourceRaw {
		rowField = rawField
	}
	members, err := readObject(body, rowField)
	if err != nil {
		return nil, err
	}
	s := &Checked{Request: events.Request{SourceType: sourceType}}
	req := &s.Request
	var unknown []string
	var callbacks []string
	var source, how jsontext.Value
	sourceField := "source_" + sourceType
	for _, m := range members {
		var err error
		switch m.name {
		case "timestamp":
			req.Timestamp, err = seconds(m)
		case "ext_type":
			req.ExtType, err = text(m, 64)
		case "title":
			req.Title, err = text(m, maxTitle)
		case "user_id":
			req.UserID, err = textOrNumber(m, maxUserID)
		case "row_key":
			req.RowKey, err = text(m, maxRowKey)
		case "callback", "call_back":
			var c string
			if c, err = callback(tenant, m); c != "" {
				callbacks = append(callbacks, c)
			}
		case sourceField:
			source = m.value
		case "options":
			if m.value.Kind() != 'n' {
				how = m.value
			}
		default:
			unknown = append(unknown, m.name)
		}
		if err != nil {
			return nil, err
		}
	}

	switch {
	case req.ExtType == "":
		return nil, Invalid("ext_type", "is required; supported: %s", names(formats))
	case !slices.ContainsFunc(formats, func(f events.Format) bool { return strings.EqualFold(f.Name, req.ExtType) }):
		return nil, Invalid("ext_type", "%q is not supported; supported: %s", Cut(req.ExtType, 32), names(formats))
	case len(callbacks) > 1 && callbacks[0] != callbacks[1]:
		return nil, Invalid("callback", "differs from call_back; give one of them")
	case len(callbacks) > 0:
		req.Callback = callbacks[0]
	}

	if source == nil || source.Kind() == 'n' {
		return nil, Invalid(sourceField, "is required")
	}
	var array []byte
	if sourceType == events.SourceRaw {
		if array, err = rowArray(source); err == nil {
			s.Pages, req.Raw, err = cutRows(array)
		}
	} else {
		var more []string
		var declares bool
		req.HTTP, s.Secrets, more, declares, err = sourceHTTP(source)
		unknown = append(unknown, more...)
		if declares {
			req.Needs = []string{events.NeedSource}
		}
	}
	if err == nil && how != nil {
		req.Options, err = options(how, req.HTTP)
	}
	if err != nil {
		return nil, err
	}
	req.Warnings = unknownFields(unknown)
	canonical, err := canonicalForm(sourceType, members, array)
	if err != nil {
		return nil, err
	}
	s.Key = keys.HashKey(tenant, sourceType, canonical)
	return s, nil
}

func names(formats []events.Format) string {
	list := make([]string, len(formats))
	for i, f := range formats {
		list[i] = f.Name
	}
	return strings.Join(list, ", ")
}

// canonicalForm returns equal bytes for equal requests. It sorts names at every level, drops white space,
// shortens strings and keeps numbers as written. Rows count by a digest of the array as received, because the
// order of a row's names is the order of the columns.
func canonicalForm(sourceType string, members []member, array []byte) ([]byte, error) {
	object := jsontext.Value{'{'}
	for _, m := range members {
		if sourceType == events.SourceRaw && m.name == rawField {
			continue
		}
		if len(object) > 1 {
			object = append(object, ',')
		}
		var err error
		if object, err = jsontext.AppendQuote(object, m.name); err != nil {
			return nil, err
		}
		object = append(append(object, ':'), m.value...)
	}
	object = append(object, '}')
	if err := object.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return nil, err
	}
	if sourceType == events.SourceRaw {
		digest := sha256.Sum256(array)
		object = append(object, digest[:]...)
	}
	return object, nil
}

// unknownFields names the unknown fields, at most maxWarnings of them.
func unknownFields(names []string) []string {
	var warnings []string
	for i, name := range names {
		if i == maxWarnings {
			return append(warnings, fmt.Sprintf("%d further unknown fields were ignored", len(names)-i))
		}
		warnings = append(warnings, fmt.Sprintf("unknown field %q was ignored", Cut(name, maxWarningField)))
	}
	return warnings
}

func callback(tenant string, m member) (string, error) {
	s, err := text(m, maxCallback)
	if err != nil || s == "" {
		return "", err
	}
	if strings.HasPrefix(s, "nats:") {
		if _, err := events.CallbackSubject(tenant, s); err != nil {
			return "", Invalid(m.name, "%s", err)
		}
		return s, nil
	}
	if err := URL(m.name, s, maxCallback); err != nil {
		if bad := (*Error)(nil); errors.As(err, &bad) {
			bad.Msg += `; or "" or nats:<subject>`
		}
		return "", err
	}
	return s, nil
}
