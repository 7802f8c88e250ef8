package ingress

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

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
	maxWarnings     = 16           // unknown fields that are named
	maxWarningField = 64           // characters of one
)

// extTypes are the file types that an export can be asked for.
const extTypes = "XLSX"

// submission is a request to export, checked.
type submission struct {
	key     string
	request events.Request
	header  events.Secrets // of the source, to be sealed
	pages   []rawPage      // of a raw export
}

// parseSubmission checks the body of a request and makes of it what the log
// keeps. Every error is an [*apiError].
func parseSubmission(keys *events.Keyring, tenant, sourceType string, body []byte) (*submission, error) {
	rowField := ""
	if sourceType == events.SourceRaw {
		rowField = rawField
	}
	members, err := readObject(body, rowField)
	if err != nil {
		return nil, err
	}
	s := &submission{request: events.Request{SourceType: sourceType}}
	req := &s.request
	var unknown []string
	var callbacks []string
	var source jsontext.Value
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
		default:
			unknown = append(unknown, m.name)
		}
		if err != nil {
			return nil, err
		}
	}

	switch {
	case req.ExtType == "":
		return nil, invalid("ext_type", "is required; supported: %s", extTypes)
	case !strings.EqualFold(req.ExtType, extTypes):
		return nil, invalid("ext_type", "%q is not supported; supported: %s", cut(req.ExtType, 32), extTypes)
	case len(callbacks) > 1 && callbacks[0] != callbacks[1]:
		return nil, invalid("callback", "differs from call_back; give one of them")
	case len(callbacks) > 0:
		req.Callback = callbacks[0]
	}

	if source == nil || source.Kind() == 'n' {
		return nil, invalid(sourceField, "is required")
	}
	var array []byte
	if sourceType == events.SourceRaw {
		if array, err = rowArray(source); err == nil {
			s.pages, req.Raw, err = cutRows(array)
		}
	} else {
		var more []string
		req.HTTP, s.header, more, err = sourceHTTP(source)
		unknown = append(unknown, more...)
	}
	if err != nil {
		return nil, err
	}
	req.Warnings = unknownFields(unknown)
	canonical, err := canonicalForm(sourceType, members, array)
	if err != nil {
		return nil, err
	}
	s.key = keys.HashKey(tenant, sourceType, canonical)
	return s, nil
}

// canonicalForm is equal for equal requests: the object as received with its
// names sorted at every level, without white space, strings in their shortest
// form, numbers as they were written. Rows are told by a digest of the array
// as it stands, because the order of a row's names is the order of the columns.
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
			return nil, internal(err)
		}
		object = append(append(object, ':'), m.value...)
	}
	object = append(object, '}')
	if err := object.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return nil, internal(err)
	}
	if sourceType == events.SourceRaw {
		digest := sha256.Sum256(array)
		object = append(object, digest[:]...)
	}
	return object, nil
}

// unknownFields names the fields that were not understood, at most
// maxWarnings of them.
func unknownFields(names []string) []string {
	var warnings []string
	for i, name := range names {
		if i == maxWarnings {
			return append(warnings, fmt.Sprintf("%d further unknown fields were ignored", len(names)-i))
		}
		warnings = append(warnings, fmt.Sprintf("unknown field %q was ignored", cut(name, maxWarningField)))
	}
	return warnings
}

// sourceHTTP checks how to ask the source for its pages. more are the names of
// unknown fields.
// header holds the secret parameters too, see events.SecretParam.
func sourceHTTP(source jsontext.Value) (req *events.HTTPRequest, header events.Secrets, more []string, err error) {
	members, err := objectMembers("source_http", source)
	if err != nil {
		return nil, nil, nil, err
	}
	req = &events.HTTPRequest{Method: "GET", Limit: defaultLimit, Conn: defaultConn}
	for _, m := range members {
		name := m.name
		m.name = "source_http." + name
		var err error
		switch name {
		case "url":
			req.URL, err = sourceURL(m)
		case "method":
			var method string
			if method, err = text(m, 64); err == nil && method != "" {
				req.Method = strings.ToUpper(method)
				if req.Method != "GET" && req.Method != "POST" {
					err = invalid(m.name, "%q is not supported; supported: GET, POST", cut(method, 16))
				}
			}
		case "conn":
			if m.value.Kind() != 'n' {
				var n int64
				if n, err = integer(m, 0, maxConn); n != 0 {
					req.Conn = int(n)
				}
			}
		case "header":
			header, err = sourceHeader(m)
		case "param":
			req.Param, req.Limit, err = param(m)
		case "secret_param":
			req.SecretParam, err = secretParams(m)
		default:
			more = append(more, m.name)
		}
		if err != nil {
			return nil, nil, nil, err
		}
	}
	if req.URL == "" {
		return nil, nil, nil, invalid("source_http.url", "is required")
	}
	req.Header = slices.Sorted(maps.Keys(header))
	for name, value := range header {
		if events.CheckSealed(value) != nil {
			return nil, nil, nil, invalid(fmt.Sprintf("source_http.header[%q]", cut(name, 64)), "begins like a sealed value and is none; see sheaf seal")
		}
	}
	if len(req.SecretParam) > 0 {
		if header == nil {
			header = events.Secrets{}
		}
		if err := takeSecretParams(req, header); err != nil {
			return nil, nil, nil, err
		}
	}
	return req, header, more, nil
}

// maxSecretParams is how many parameters of a source may be secret.
const maxSecretParams = 64

// secretParams reads the names of the parameters that are secret.
func secretParams(m member) ([]string, error) {
	if m.value.Kind() == 'n' {
		return nil, nil
	}
	var names []string
	if m.value.Kind() != '[' || json.Unmarshal(m.value, &names) != nil {
		return nil, invalid(m.name, "must be an array of names of source_http.param")
	}
	if len(names) > maxSecretParams {
		return nil, invalid(m.name, "has %d names, at most %d are allowed", len(names), maxSecretParams)
	}
	slices.Sort(names)
	for i, name := range names {
		switch {
		case name == "page" || name == "limit":
			return nil, invalid(m.name, "%q is the crawler's and no secret", name)
		case i > 0 && names[i-1] == name:
			return nil, invalid(m.name, "names %q twice", cut(name, maxWarningField))
		}
	}
	return names, nil
}

// takeSecretParams moves the secret parameters from where the log would hold them
// to what is sealed.
func takeSecretParams(req *events.HTTPRequest, secrets events.Secrets) error {
	var members []member
	if req.Param != nil {
		var err error
		if members, err = objectMembers("source_http.param", jsontext.Value(req.Param)); err != nil {
			return err
		}
	}
	rest, found := []byte{'{'}, 0
	for _, m := range members {
		if !slices.Contains(req.SecretParam, m.name) {
			if len(rest) > 1 {
				rest = append(rest, ',')
			}
			var err error
			if rest, err = jsontext.AppendQuote(rest, m.name); err != nil {
				return internal(err)
			}
			rest = append(append(rest, ':'), m.value...)
			continue
		}
		found++
		if m.value.Kind() == '"' {
			value, err := text(member{name: "source_http.param." + m.name, value: m.value}, maxHeaderBytes)
			if err != nil {
				return err
			}
			if events.CheckSealed(value) != nil {
				return invalid("source_http.param."+cut(m.name, 64), "begins like a sealed value and is none; see sheaf seal")
			}
		}
		if len(m.value) > maxHeaderBytes {
			return invalid("source_http.param."+cut(m.name, 64), "has more than %d bytes, the most of a secret", maxHeaderBytes)
		}
		secrets[events.SecretParam(m.name)] = string(m.value)
	}
	if found < len(req.SecretParam) {
		for _, name := range req.SecretParam {
			if _, ok := secrets[events.SecretParam(name)]; !ok {
				return invalid("source_http.secret_param", "%q is no parameter in source_http.param", cut(name, maxWarningField))
			}
		}
	}
	req.Param = append(rest, '}')
	return nil
}

func sourceURL(m member) (string, error) {
	s, err := text(m, maxSourceURL)
	if err != nil || s == "" {
		return "", err
	}
	return s, httpURL(m.name, s, maxSourceURL)
}

// httpURL checks an absolute http or https URL.
func httpURL(field, s string, maxBytes int) error {
	if len(s) > maxBytes {
		return invalid(field, "has %d bytes, at most %d are allowed", len(s), maxBytes)
	}
	u, err := url.Parse(s)
	var escape url.EscapeError
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid(field, "is not a URL: it holds a control character, such as a line break; percent-encode it")
	case errors.As(err, &escape):
		return invalid(field, "is not a URL: it holds %q, which is no percent-encoding; write %%25 for a percent sign", cut(string(escape), 8))
	case err != nil:
		return invalid(field, "is not a URL; want http://host/path or https://host/path")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid(field, "must begin with http:// or https://")
	case u.User != nil:
		return invalid(field, "must not hold a user name or password; send them in source_http.header")
	case u.Hostname() == "":
		return invalid(field, "names no host")
	}
	if host := u.Hostname(); strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		if _, err := idna.Lookup.ToASCII(host); err != nil {
			return invalid(field, "has the host %q, which is not a domain name", cut(host, 64))
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return invalid(field, "has port %s; want 1 to 65535", cut(p, 16))
		}
	}
	return nil
}

func callback(tenant string, m member) (string, error) {
	s, err := text(m, maxCallback)
	if err != nil || s == "" {
		return "", err
	}
	if strings.HasPrefix(s, "nats:") {
		if _, err := events.CallbackSubject(tenant, s); err != nil {
			return "", invalid(m.name, "%s", err)
		}
		return s, nil
	}
	if err := httpURL(m.name, s, maxCallback); err != nil {
		e := asAPIError(err)
		e.Msg += `; or "" or nats:<subject>`
		return "", e
	}
	return s, nil
}

// forbiddenHeaders frame the message or belong to the connection, so they are
// the crawler's alone (RFC 9110, sections 7.6.1 and 10.1.1; RFC 9112, section 6).
var forbiddenHeaders = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true,
	"keep-alive": true, "te": true, "trailer": true, "upgrade": true, "expect": true,
}

// sourceHeader checks the headers that the source is to be asked with. No
// error repeats a value: values are secrets.
func sourceHeader(m member) (events.Secrets, error) {
	if m.value.Kind() == 'n' {
		return nil, nil
	}
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return nil, err
	}
	if len(members) > maxHeaders {
		return nil, invalid(m.name, "has %d headers, at most %d are allowed", len(members), maxHeaders)
	}
	header := make(events.Secrets, len(members))
	seen := make(map[string]bool, len(members))
	size := 0
	for _, h := range members {
		field := fmt.Sprintf("%s[%q]", m.name, cut(h.name, 64))
		lower := strings.ToLower(h.name)
		switch {
		case !httpguts.ValidHeaderFieldName(h.name):
			return nil, invalid(field, "is not a header name; want letters, digits and -")
		case forbiddenHeaders[lower] || strings.HasPrefix(lower, "proxy-"):
			return nil, invalid(field, "is set by the crawler and cannot be given")
		case seen[lower]:
			return nil, invalid(field, "is given twice")
		}
		seen[lower] = true
		value, err := textOrNumber(member{name: field, value: h.value}, maxHeaderBytes)
		if err != nil {
			return nil, err
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, invalid(field, "has a value with control characters, such as a line break")
		}
		if size += len(h.name) + len(value); size > maxHeaderBytes {
			return nil, invalid(m.name, "has more than %d bytes", maxHeaderBytes)
		}
		header[h.name] = value
	}
	return header, nil
}

// param checks the parameters of the source and returns them as received,
// with the rows a page that they ask for.
func param(m member) (json.RawMessage, int, error) {
	if m.value.Kind() == 'n' {
		return nil, defaultLimit, nil
	}
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return nil, 0, err
	}
	// The crawler reads it as it reads a row.
	if _, err := rows.Check(slices.Concat([]byte{'['}, m.value, []byte{']'}), rows.Limits{}); err != nil {
		return nil, 0, invalid(m.name, "cannot be sent to the source: %s", cut(err.Error(), 120))
	}
	limit := int64(defaultLimit)
	for _, p := range members {
		if p.name != "limit" || p.value.Kind() == 'n' {
			continue
		}
		p.name = m.name + ".limit"
		if p.value.Kind() == '"' {
			s, err := text(p, 64)
			if err != nil {
				return nil, 0, err
			}
			p.value = jsontext.Value(s)
			if !p.value.IsValid() {
				return nil, 0, invalid(p.name, "must be an integer from 1 to %d", maxLimit)
			}
		}
		if limit, err = integer(p, 1, maxLimit); err != nil {
			return nil, 0, err
		}
	}
	return json.RawMessage(bytes.Clone(m.value)), int(limit), nil
}

// parseParams reads the small JSON object that stands for a query: strings and
// numbers by name. An empty body is an empty query.
func parseParams(body []byte) (url.Values, error) {
	q := url.Values{}
	if len(bytes.TrimSpace(body)) == 0 {
		return q, nil
	}
	members, err := readObject(body, "")
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		switch m.value.Kind() {
		case '"', '0':
			s, err := textOrNumber(m, maxUserID)
			if err != nil {
				return nil, err
			}
			q.Set(m.name, s)
		}
	}
	return q, nil
}

// member is a field of a JSON object; the value aliases the request's body.
type member struct {
	name  string
	value jsontext.Value
	at    int // where the value begins in its object
}

// readObject checks that body is one JSON object (RFC 8259, and RFC 7493: valid
// UTF-8, no name twice) and returns its members in order. In the member rowField,
// where "" is none, a name may occur twice and a surrogate may stand alone, as in
// a page of a source: rows are checked by package rows, wherever they come from.
func readObject(body []byte, rowField string) ([]member, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, invalid("body", "is empty; want a JSON object")
	}
	lenient := rowField != ""
	var options []jsontext.Options
	if lenient && utf8.Valid(body) { // the strict decoder says where it is not
		options = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
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
			return nil, invalid("body", "names %q twice at byte %d", cut(m.name, maxWarningField), at)
		}
		seen[m.name] = true
		if m.name == rowField {
			continue
		}
		if _, err := jsontext.NewDecoder(bytes.NewBuffer(m.value)).ReadValue(); err != nil {
			return nil, syntaxError(body, at, err)
		}
	}
	return members, nil
}

// objectMembers returns the members of an object that is known to be valid with
// these options.
func objectMembers(field string, object jsontext.Value, options ...jsontext.Options) ([]member, error) {
	if object.Kind() != '{' {
		return nil, invalid(field, "must be a JSON object, not %s", kindName(object.Kind()))
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

// syntaxError says what is wrong with a body that is not acceptable JSON, and
// where. The error counts its bytes from base on.
func syntaxError(body []byte, base int, err error) error {
	var se *jsontext.SyntacticError
	if !errors.As(err, &se) {
		return internal(err)
	}
	at := min(base+int(se.ByteOffset), len(body))
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return invalid("body", "is not valid JSON at byte 0: it begins with a byte order mark")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalid("body", "names %q twice at byte %d", cut(se.JSONPointer.LastToken(), maxWarningField), at)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("body", "is not valid JSON: it ends at byte %d, before the object does", len(body))
	}
	return syntaxErrorAt(body, at, cut(se.Err.Error(), 120))
}

// syntaxErrorAt names the two mistakes that people make, and else says what.
func syntaxErrorAt(body []byte, at int, what string) error {
	rest := body[at:]
	before := bytes.TrimRight(body[:at], " \t\r\n")
	trimmed := bytes.TrimLeft(rest, " \t\r\n")
	switch {
	case bytes.HasPrefix(trimmed, []byte("//")), bytes.HasPrefix(trimmed, []byte("/*")), bytes.HasPrefix(trimmed, []byte("#")):
		return invalid("body", "is not valid JSON at byte %d: JSON has no comments", at)
	case bytes.HasSuffix(before, []byte(",")) && len(trimmed) > 0 && (trimmed[0] == '}' || trimmed[0] == ']'),
		len(trimmed) > 1 && trimmed[0] == ',' && endsList(trimmed[1:]):
		return invalid("body", "is not valid JSON at byte %d: a comma stands before the closing bracket", at)
	}
	return invalid("body", "is not valid JSON at byte %d: %s", at, what)
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
			return "", invalid(m.name, "is not a valid string")
		}
		if n := utf8.RuneCount(b); n > max {
			return "", invalid(m.name, "has %d characters, at most %d are allowed", n, max)
		}
		return string(b), nil
	}
	return "", invalid(m.name, "must be a string, not %s", kindName(m.value.Kind()))
}

// textOrNumber also takes a number, as the text that it was written with.
func textOrNumber(m member, max int) (string, error) {
	if m.value.Kind() != '0' {
		return text(m, max)
	}
	if len(m.value) > max {
		return "", invalid(m.name, "has %d characters, at most %d are allowed", len(m.value), max)
	}
	return string(m.value), nil
}

// integer returns a JSON number that is written as an integer.
func integer(m member, least, most int64) (int64, error) {
	if m.value.Kind() != '0' {
		return 0, invalid(m.name, "must be an integer from %d to %d, not %s", least, most, kindName(m.value.Kind()))
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(m.value)), 10, 64)
	if err != nil || n < least || n > most {
		return 0, invalid(m.name, "is %s; want an integer from %d to %d", cut(string(m.value), 24), least, most)
	}
	return n, nil
}

func seconds(m member) (int64, error) {
	if m.value.Kind() == 'n' {
		return 0, nil
	}
	return integer(m, 0, maxTimestamp)
}
