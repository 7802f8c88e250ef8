package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"sheaf/events/rows"
)

// where is a part of a request or of a response.
type where int

const (
	inBody where = iota
	inHeader
	inQuery // of a request
	inRow   // of a response: in its last row
)

// place is where a value is read or written.
type place struct {
	text string // as in the request of the export
	in   where
	name string    // of the header or the parameter
	path rows.Path // in the body or the row
}

func (p place) given() bool { return p.text != "" }

// readPlace parses the place of a value in a response.
func readPlace(text string) (p place, err error) {
	p.text = text
	if name, ok := strings.CutPrefix(text, "header:"); ok {
		p.in, p.name = inHeader, name
		return p, checkHeaderName(name)
	}
	path, ok := strings.CutPrefix(text, "row:")
	if ok {
		p.in = inRow
	}
	p.path, err = rows.ParsePath(path)
	return p, err
}

// writePlace parses the place of a value in a request. A plain name is a parameter, in the body if that holds
// the parameters.
func writePlace(text string, paramInBody bool) (p place, err error) {
	p.text = text
	if name, ok := strings.CutPrefix(text, "header:"); ok {
		p.in, p.name = inHeader, http.CanonicalHeaderKey(name)
		if slices.Contains(refusedHeaders, p.name) || p.name == "Host" {
			return p, fmt.Errorf("the header %s cannot be set", p.name)
		}
		return p, checkHeaderName(name)
	}
	if name, ok := strings.CutPrefix(text, "query:"); ok {
		p.in, p.name = inQuery, name
		return p, nil
	}
	if path, ok := strings.CutPrefix(text, "body:"); ok {
		p.path, err = rows.ParsePath(path)
		if err == nil && p.path.IsRoot() {
			err = errors.New("body: needs a name behind it")
		}
		return p, err
	}
	p.name = text
	if !paramInBody {
		p.in = inQuery
		return p, nil
	}
	p.path = rows.NewPath(rows.Member(text))
	return p, nil
}

func checkHeaderName(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%.64q is not a header name", name)
	}
	return nil
}

// written is a JSON value and its place in a request.
type written struct {
	place
	value json.RawMessage
}

// text is the value for a query, a form or a header.
func (w written) text() string { return plainText(w.value) }

// plainText returns the text of a checked JSON value: that of a string without its quotes, every other one as
// it is, without white space.
func plainText(raw []byte) string {
	v, _ := rows.Lookup(raw, rows.Path{})
	return queryText(v)
}

// pair is a parameter of a query or a form.
type pair struct {
	name string
	text string // name and value, escaped, as "a%20b=c"
}

func newPair(name, value string) pair {
	return pair{name, url.QueryEscape(name) + "=" + url.QueryEscape(value)}
}

// splitQuery splits a query and keeps the spelling of its parts.
func splitQuery(query string) (pairs []pair) {
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		pairs = append(pairs, pair{name, part})
	}
	return pairs
}

// replaced returns the pairs without those named p, and p at the end.
func replaced(pairs []pair, p pair) []pair {
	return append(slices.DeleteFunc(slices.Clone(pairs), func(old pair) bool { return old.name == p.name }), p)
}

// missing adds those of more whose names do not occur.
func missing(pairs, more []pair) []pair {
	for _, p := range more {
		if !slices.ContainsFunc(pairs, func(old pair) bool { return old.name == p.name }) {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

func joinPairs(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// paramPairs returns the members of a JSON object as parameters, without those that are null. Of a repeated
// name the last one counts.
func paramPairs(object json.RawMessage) (pairs []pair) {
	eachMember(object, func(name string, v rows.Value) {
		if v.Kind == rows.Null {
			pairs = slices.DeleteFunc(pairs, func(p pair) bool { return p.name == name })
			return
		}
		pairs = replaced(pairs, newPair(name, queryText(v)))
	})
	return pairs
}

// eachMember calls do with each member of a checked object.
func eachMember(object json.RawMessage, do func(name string, v rows.Value)) {
	c := rows.NewCursor(slices.Concat([]byte("["), object, []byte("]")))
	c.NextRow()
	for {
		name, _, v, ok := c.NextField()
		if !ok {
			return
		}
		do(string(rows.Unquote(nil, name)), v)
	}
}

// checkObject returns raw without white space around it, {} for an absent one or null.
func checkObject(raw json.RawMessage) (json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return json.RawMessage("{}"), nil
	}
	n, err := rows.Check(slices.Concat([]byte("["), raw, []byte("]")), rows.Limits{})
	if err != nil || n != 1 || raw[0] != '{' {
		return nil, errors.New("must be a JSON object")
	}
	return raw, nil
}

// setAt returns a checked JSON value with another one at steps. It makes the objects on the way, and keeps the
// bytes and the order of everything else.
func setAt(raw json.RawMessage, steps []rows.Step, value json.RawMessage) (json.RawMessage, error) {
	if len(steps) == 0 {
		return value, nil
	}
	raw = bytes.TrimSpace(raw)
	step := steps[0]
	if len(raw) == 0 || string(raw) == "null" {
		raw = json.RawMessage("{}")
	}
	if step.Index >= 0 {
		var elements []json.RawMessage
		if raw[0] != '[' || json.Unmarshal(raw, &elements) != nil || step.Index >= len(elements) {
			return nil, fmt.Errorf("there is no element [%d]", step.Index)
		}
		inner, err := setAt(elements[step.Index], steps[1:], value)
		if err != nil {
			return nil, err
		}
		elements[step.Index] = inner
		return joinJSON('[', elements, ']'), nil
	}
	if raw[0] != '{' {
		v, _ := rows.Lookup(raw, rows.Path{})
		return nil, fmt.Errorf("%q goes through a value that is %s, not an object", step.Name, v.Kind)
	}
	var members []json.RawMessage
	var old json.RawMessage
	at := -1
	c := rows.NewCursor(slices.Concat([]byte("["), raw, []byte("]")))
	c.NextRow()
	for {
		name, _, v, ok := c.NextField()
		if !ok {
			break
		}
		if string(rows.Unquote(nil, name)) == step.Name { // the last one counts
			old = v.Raw
			if at < 0 {
				at = len(members)
				members = append(members, nil)
			}
			continue
		}
		members = append(members, slices.Concat([]byte{'"'}, name, []byte(`":`), v.Raw))
	}
	inner, err := setAt(old, steps[1:], value)
	if err != nil {
		return nil, err
	}
	name, err := json.Marshal(step.Name)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		at = len(members)
		members = append(members, nil)
	}
	members[at] = slices.Concat(name, []byte{':'}, inner)
	return joinJSON('{', members, '}'), nil
}

func joinJSON(begin byte, parts []json.RawMessage, end byte) json.RawMessage {
	b := []byte{begin}
	for i, part := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, part...)
	}
	return append(b, end)
}
