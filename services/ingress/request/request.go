// Package request turns the bytes of a request into a checked request and its key. It does no I/O and knows
// no transport.
//
// Equal requests of a tenant have equal keys, whatever their white space, escapes and order of names. The
// message of an [Error] begins with the field and says how to correct it; it never repeats a secret.
package request

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sheaf/events"
	"sheaf/events/secrets"
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
	Share   bool           // the caller wants a share link in the answer
}

// Parse checks the body of a tenant's request and converts it for the log. formats are the formats to choose
// from. Errors that the caller can correct are [*Error].
func Parse(keys *secrets.Keyring, tenant, sourceType string, formats []events.Format, body []byte) (*Checked, error) {
	members, err := readSubmission(sourceType, body)
	if err != nil {
		return nil, err
	}
	s := &Checked{Request: events.Request{SourceType: sourceType}}
	if members, s.Share, err = takeShare(members); err != nil {
		return nil, err
	}
	req := &s.Request
	var unknown []string
	var callbacks []string
	given := fields{}
	sourceField := "source_" + sourceType
	for _, m := range members {
		var err error
		switch m.name {
		case "timestamp":
			req.Timestamp, err = seconds(m)
		case extTypeField:
			req.ExtType, err = extType(m)
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
		case sourceField, columnsField, sheetsField, optionsField:
			if m.value.Kind() != 'n' {
				given[m.name] = m.value
			}
		default:
			unknown = append(unknown, m.name)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := checkExtType(req.ExtType, formats); err != nil {
		return nil, err
	}
	switch {
	case len(callbacks) > 1 && callbacks[0] != callbacks[1]:
		return nil, Invalid("callback", "differs from call_back; give one of them")
	case len(callbacks) > 0:
		req.Callback = callbacks[0]
	}

	var array []byte
	var sources []*events.HTTPRequest
	var several *sheets
	var declares bool
	rowBytes := len(given[rawField])
	switch source := given[sourceField]; {
	case given[sheetsField] != nil:
		for _, name := range []string{"source_http", rawField, columnsField, "row_key"} {
			if slices.ContainsFunc(members, func(m member) bool { return m.name == name && m.value.Kind() != 'n' }) {
				return nil, fieldError(name, "has no meaning beside sheets; give it in a sheet")
			}
		}
		if several, err = readSheets(given[sheetsField]); err != nil {
			return nil, err
		}
		req.Sheets, s.Secrets, s.Pages = several.list, several.secrets, several.pages
		unknown, declares, rowBytes = append(unknown, several.unknown...), several.declares, several.rowBytes
		req.SourceType = events.SourceRaw
		for _, sheet := range req.Sheets {
			if sheet.HTTP != nil {
				req.SourceType, sources = events.SourceHTTP, append(sources, sheet.HTTP)
			}
		}
	case source == nil:
		return nil, Invalid(sourceField, "is required")
	case sourceType == events.SourceRaw:
		if array, err = rowArray(source); err == nil {
			s.Pages, req.Raw, err = cutRows(array)
		}
	default:
		var more []string
		req.HTTP, s.Secrets, more, declares, err = sourceHTTP(source)
		unknown, sources = append(unknown, more...), []*events.HTTPRequest{req.HTTP}
	}
	if err != nil {
		return nil, err
	}
	if err := readFiles(req, given, sources, formats); err != nil {
		return nil, err
	}
	if size := len(body) - rowBytes; (len(req.Columns) > 0 || len(req.Sheets) > 0) && size > maxDescription {
		return nil, TooLarge("body", "has %d bytes besides its rows, at most %d are allowed", size, maxDescription)
	}
	req.Needs = needs(req, declares)
	req.Warnings = append(unknownFields(unknown), unusedOptions(req)...)
	var canonical []byte
	if several != nil {
		for i, m := range members {
			if m.name == sheetsField {
				members[i].value = several.canonical
			}
		}
		sourceType = sheetsField // the same by each operation
	}
	if members, err = equalFiles(members, extTypeKey(req.ExtType), req.Columns, req.Options); err != nil {
		return nil, err
	}
	if canonical, err = canonicalForm(sourceType, members, array); err != nil {
		return nil, err
	}
	s.Key = keys.HashKey(tenant, sourceType, canonical)
	return s, nil
}

// takeShare removes the member share, which concerns only the answer: an equal request without it is the same
// export.
func takeShare(members []member) (rest []member, share bool, err error) {
	i := slices.IndexFunc(members, func(m member) bool { return m.name == "share" })
	if i < 0 {
		return members, false, nil
	}
	switch kind := members[i].value.Kind(); kind {
	case 't', 'f', 'n':
		share = kind == 't'
	default:
		return nil, false, Invalid("share", "must be true or false, not %s", kindName(kind))
	}
	return slices.Delete(members, i, i+1), share, nil
}

// readSubmission reads the members of a submission. Its rows may be no strict JSON.
func readSubmission(sourceType string, body []byte) ([]member, error) {
	if sourceType == events.SourceRaw {
		return readObject(body, rawField, sheetsField)
	}
	members, err := readObject(body)
	if err != nil && bytes.Contains(body, []byte(`"`+sheetsField+`"`)) {
		return readObject(body, sheetsField)
	}
	return members, err
}

// readFiles reads the columns and options of a request, and checks that its formats can hold them.
func readFiles(req *events.Request, given fields, sources []*events.HTTPRequest, formats []events.Format) (err error) {
	if req.Columns, err = columns(given[columnsField]); err != nil {
		return err
	}
	if how := given[optionsField]; how != nil {
		if req.Options, err = options(how, events.Options{}); err != nil {
			return err
		}
		if err := checkReading(req.Options, sources); err != nil {
			return err
		}
	}
	return checkFiles(req, formats)
}

// needs returns what a process must know to work on a request. declares means that a source has a field that
// the standard format lacks.
func needs(req *events.Request, declares bool) (list []string) {
	if declares {
		list = append(list, events.NeedSource)
	}
	if len(req.Columns) > 0 || len(req.Sheets) > 0 || req.From != nil || writes(req.Options) ||
		!slices.Equal(events.FormatNames(req.ExtType), []string{events.XLSX.Name}) {
		list = append(list, events.NeedFile)
	}
	return list
}

func names(formats []events.Format) string {
	list := make([]string, len(formats))
	for i, f := range formats {
		list[i] = f.Name
	}
	return strings.Join(list, ", ")
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
