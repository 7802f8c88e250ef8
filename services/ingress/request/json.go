package request

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"sheaf/events/rows"

	"github.com/go-json-experiment/json/jsontext"
)

// lenientRows are the options of JSON that holds rows.
var lenientRows = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// member is a field of a JSON object; the value aliases the request's body.
type member struct {
	name  string
	value jsontext.Value
	at    int // offset of the value in its object
}

// readObject checks that body is one JSON object (RFC 8259, and RFC 7493: valid UTF-8, unique names) and
// returns its members in order. The members rowFields may repeat a name and hold a lone surrogate, like a page
// of a source: package rows checks all rows.
func readObject(body []byte, rowFields ...string) ([]member, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, Invalid("body", "is empty; want a JSON object")
	}
	lenient := len(rowFields) > 0
	var options []jsontext.Options
	if lenient && utf8.Valid(body) { // only the strict decoder reports the position
		options = lenientRows
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), options...)
	value, err := dec.ReadValue()
	if err != nil {
		return nil, syntaxError(body, 0, err)
	}
	end := int(dec.InputOffset())
	if rest := bytes.TrimLeft(body[end:], " \t\r\n"); len(rest) > 0 {
		return nil, syntaxErrorAt(body, len(body)-len(rest), "the end should be here")
	}
	start := end - len(value)
	members, err := objectMembers("body", body[start:end], options...)
	if err != nil || !lenient {
		return members, err
	}
	seen := map[string]bool{}
	for _, m := range members {
		at := start + m.at
		if seen[m.name] {
			return nil, Invalid("body", "names %q twice at byte %d", Cut(m.name, maxWarningField), at)
		}
		seen[m.name] = true
		if slices.Contains(rowFields, m.name) {
			continue
		}
		if _, err := jsontext.NewDecoder(bytes.NewBuffer(m.value)).ReadValue(); err != nil {
			return nil, syntaxError(body, at, err)
		}
	}
	return members, nil
}

// objectMembers returns the members of an object that is valid with these options.
func objectMembers(field string, object jsontext.Value, options ...jsontext.Options) ([]member, error) {
	if object.Kind() != '{' {
		return nil, Invalid(field, "must be a JSON object, not %s", kindName(object.Kind()))
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(object), options...)
	if _, err := dec.ReadToken(); err != nil {
		return nil, syntaxError(object, 0, err)
	}
	var members []member
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, syntaxError(object, 0, err)
		}
		m := member{name: name.String()}
		v, err := dec.ReadValue()
		if err != nil {
			return nil, syntaxError(object, 0, err)
		}
		end := int(dec.InputOffset())
		m.at = end - len(v)
		m.value = object[m.at:end:end]
		members = append(members, m)
	}
	return members, nil
}

// syntaxError describes the mistake in an invalid JSON body, and its position. Positions count from base.
func syntaxError(body []byte, base int, err error) error {
	var se *jsontext.SyntacticError
	if !errors.As(err, &se) {
		return err
	}
	at := min(base+int(se.ByteOffset), len(body))
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return Invalid("body", "is not valid JSON at byte 0: it begins with a byte order mark")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return Invalid("body", "names %q twice at byte %d", Cut(se.JSONPointer.LastToken(), maxWarningField), at)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Invalid("body", "is not valid JSON: it ends at byte %d, before the object does", len(body))
	}
	return syntaxErrorAt(body, at, Cut(se.Err.Error(), 120))
}

// syntaxErrorAt names the two common mistakes, and otherwise says what.
func syntaxErrorAt(body []byte, at int, what string) error {
	rest := body[at:]
	before := bytes.TrimRight(body[:at], " \t\r\n")
	trimmed := bytes.TrimLeft(rest, " \t\r\n")
	switch {
	case bytes.HasPrefix(trimmed, []byte("//")), bytes.HasPrefix(trimmed, []byte("/*")), bytes.HasPrefix(trimmed, []byte("#")):
		return Invalid("body", "is not valid JSON at byte %d: JSON has no comments", at)
	case bytes.HasSuffix(before, []byte(",")) && len(trimmed) > 0 && (trimmed[0] == '}' || trimmed[0] == ']'),
		len(trimmed) > 1 && trimmed[0] == ',' && endsList(trimmed[1:]):
		return Invalid("body", "is not valid JSON at byte %d: a comma stands before the closing bracket", at)
	}
	return Invalid("body", "is not valid JSON at byte %d: %s", at, what)
}

func endsList(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '}' || b[0] == ']')
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return rows.Null.String()
	case 'f':
		return rows.False.String()
	case 't':
		return rows.True.String()
	case '"':
		return rows.String.String()
	case '0':
		return rows.Number.String()
	case '{':
		return rows.Object.String()
	case '[':
		return rows.Array.String()
	}
	return "nothing"
}

// text returns a string of at most max characters; null is "".
func text(m member, max int) (string, error) {
	switch m.value.Kind() {
	case 'n':
		return "", nil
	case '"':
		b, err := jsontext.AppendUnquote(nil, m.value)
		if err != nil {
			return "", Invalid(m.name, "is not a valid string")
		}
		if n := utf8.RuneCount(b); n > max {
			return "", Invalid(m.name, "has %d characters, at most %d are allowed", n, max)
		}
		return string(b), nil
	}
	return "", Invalid(m.name, "must be a string, not %s", kindName(m.value.Kind()))
}

// textOrNumber also accepts a number and returns its text unchanged.
func textOrNumber(m member, max int) (string, error) {
	if m.value.Kind() != '0' {
		return text(m, max)
	}
	if len(m.value) > max {
		return "", Invalid(m.name, "has %d characters, at most %d are allowed", len(m.value), max)
	}
	return string(m.value), nil
}

// integer returns a JSON number that is written as an integer.
func integer(m member, least, most int64) (int64, error) {
	if m.value.Kind() != '0' {
		return 0, Invalid(m.name, "must be an integer from %d to %d, not %s", least, most, kindName(m.value.Kind()))
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(m.value)), 10, 64)
	if err != nil || n < least || n > most {
		return 0, Invalid(m.name, "is %s; want an integer from %d to %d", Cut(string(m.value), 24), least, most)
	}
	return n, nil
}

func seconds(m member) (int64, error) {
	if m.value.Kind() == 'n' {
		return 0, nil
	}
	return integer(m, 0, maxTimestamp)
}
