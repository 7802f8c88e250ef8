package request

import (
	"bytes"
	"errors"
	"strings"

	"sheaf/events/rows"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"
)

// Prefixes of a place. A place without one is a path in a response, or the name of a parameter.
const (
	inHeader = "header:"
	inBody   = "body:"
	inQuery  = "query:"
	inRow    = "row:"
)

// maxPlace bounds a place in characters: a path, and a prefix before it.
const maxPlace = 520

// pathError says where a path is wrong. Its text begins like one of Invalid.
func pathError(field, path string, err error) error {
	if bad := (*rows.PathError)(nil); errors.As(err, &bad) {
		return Invalid(field, "%q %s", Cut(path, 128), bad.Msg)
	}
	return Invalid(field, "%s", err)
}

// path reads the path of a value.
func path(m member) (string, error) {
	s, err := text(m, maxPlace)
	if err != nil || m.value.Kind() == 'n' {
		return "", err
	}
	if _, err := rows.ParsePath(s); err != nil {
		return "", pathError(m.name, s, err)
	}
	return s, nil
}

// readPlace reads a place in a response. what names the value that it holds, such as "a total". Only a cursor may
// be in a row. Only JSON has paths.
func readPlace(m member, what, format string) (string, error) {
	s, err := text(m, maxPlace)
	if err != nil || m.value.Kind() == 'n' {
		return "", err
	}
	place := s
	if what == "a boolean" {
		place = strings.TrimPrefix(s, "!")
	}
	switch {
	case strings.HasPrefix(place, inHeader):
		return s, headerPlace(m.name, place)
	case strings.HasPrefix(place, inRow):
		if what != "a cursor" {
			return "", Invalid(m.name, "row: cannot hold %s", what)
		}
		if _, err := rows.ParsePath(place[len(inRow):]); err != nil {
			return "", pathError(m.name, place[len(inRow):], err)
		}
		return s, nil
	case strings.HasPrefix(place, inBody), strings.HasPrefix(place, inQuery):
		prefix, _, _ := strings.Cut(place, ":")
		return "", Invalid(m.name, "%s: is only written; in an answer give the path alone, or header:Name", prefix)
	case format != "":
		return "", Invalid(m.name, "%q is a path, and an answer in %s has none; give header:Name", Cut(place, 64), format)
	}
	p, err := rows.ParsePath(place)
	switch {
	case err != nil:
		return "", pathError(m.name, place, err)
	case p.IsRoot():
		return "", Invalid(m.name, "$ is the whole answer and cannot be %s", what)
	}
	return s, nil
}

func headerPlace(field, place string) error {
	name := place[len(inHeader):]
	if !httpguts.ValidHeaderFieldName(name) {
		return Invalid(field, "%q is not a header name; want letters, digits and -", Cut(name, 64))
	}
	return nil
}

// writePlace reads a place in a request.
func (d *declared) writePlace(m member) (string, error) {
	s, err := text(m, maxPlace)
	if err != nil || m.value.Kind() == 'n' {
		return "", err
	}
	switch name, prefixed := strings.CutPrefix(s, inQuery); {
	case s == "" || prefixed && name == "":
		return "", Invalid(m.name, "names no parameter")
	case strings.HasPrefix(s, inHeader):
		name := strings.ToLower(s[len(inHeader):])
		if forbiddenHeaders[name] || strings.HasPrefix(name, "proxy-") {
			return "", Invalid(m.name, "the header %s is set by the crawler and cannot be a place", Cut(name, 64))
		}
		return s, headerPlace(m.name, s)
	case strings.HasPrefix(s, inRow):
		return "", Invalid(m.name, "row: is only read; give the name of a parameter, header:Name, body:path or query:name")
	case strings.HasPrefix(s, inBody):
		return s, d.bodyPlace(m.name, s)
	}
	return s, nil
}

// bodyPlace checks that a value can be written at a path of the body: all steps are names, and those before
// the last are objects or absent.
func (d *declared) bodyPlace(field, place string) error {
	if d.req.Method != "POST" {
		return Invalid(field, "body: needs method POST")
	}
	p, err := rows.ParsePath(place[len(inBody):])
	if err != nil {
		return pathError(field, place[len(inBody):], err)
	}
	steps := p.Steps()
	body := jsontext.Value(d.body())
	switch {
	case len(steps) == 0:
		return Invalid(field, "%s is the whole body; give the path of a value in it", place)
	case d.req.BodyType != "" && len(steps) > 1:
		return Invalid(field, "%s has %d steps; a form is flat", Cut(place, 64), len(steps))
	case body != nil && body.Kind() != '{':
		return Invalid(field, "%s goes through the body, which is %s", Cut(place, 64), valueName(body))
	}
	for i, step := range steps {
		if step.Index >= 0 {
			return Invalid(field, "%s has an index; only names can be written", Cut(place, 64))
		}
		if body == nil || i == len(steps)-1 {
			continue
		}
		if body = memberOf(body, step.Name); body != nil && body.Kind() != '{' {
			return Invalid(field, "%s goes through %s, which is %s", Cut(place, 64), Cut(step.Name, 64), valueName(body))
		}
	}
	return nil
}

// body returns what a POST sends as its body, nil if nothing was given.
func (d *declared) body() []byte {
	if d.req.Body != nil {
		return d.req.Body
	}
	return d.req.Param
}

// destination returns the same text for places that are the same in a request.
func (d *declared) destination(place string) string {
	switch {
	case strings.HasPrefix(place, inHeader):
		return strings.ToLower(place)
	case strings.HasPrefix(place, inQuery):
		return place
	case strings.HasPrefix(place, inBody):
		if p, err := rows.ParsePath(place[len(inBody):]); err == nil {
			return inBody + p.String()
		}
		return place
	case d.req.Method == "POST" && d.req.Body == nil:
		return inBody + rows.NewPath(rows.Member(place)).String()
	}
	return inQuery + place
}

// parameter returns the first name of a place in the parameters, "" if the place is elsewhere.
func (d *declared) parameter(place string) string {
	switch {
	case strings.HasPrefix(place, inHeader):
		return ""
	case strings.HasPrefix(place, inQuery):
		return place[len(inQuery):]
	case strings.HasPrefix(place, inBody):
		if p, err := rows.ParsePath(place[len(inBody):]); err == nil && d.req.Body == nil {
			return p.Steps()[0].Name
		}
		return ""
	}
	return place
}

// valueAt returns the value that the request has at a place, and the field that holds it.
func (d *declared) valueAt(place string) (field string, v jsontext.Value) {
	switch {
	case strings.HasPrefix(place, inHeader):
		name := place[len(inHeader):]
		for given, value := range d.header {
			if strings.EqualFold(given, name) {
				v, _ = jsontext.AppendQuote(nil, value)
				return `source_http.header["` + given + `"]`, v
			}
		}
		return "", nil
	case strings.HasPrefix(place, inBody):
		p, err := rows.ParsePath(place[len(inBody):])
		if err != nil {
			return "", nil
		}
		v = d.body()
		for _, step := range p.Steps() {
			if v == nil || v.Kind() != '{' {
				return "", nil
			}
			v = memberOf(v, step.Name)
		}
		if d.req.Body == nil {
			return "source_http.param." + p.String(), v
		}
		return "source_http.body." + p.String(), v
	}
	name := strings.TrimPrefix(place, inQuery)
	return "source_http.param." + Cut(name, maxWarningField), memberOf(d.req.Param, name)
}

// memberOf returns a member of an object, nil if there is none.
func memberOf(object []byte, name string) jsontext.Value {
	if len(bytes.TrimSpace(object)) == 0 {
		return nil
	}
	members, err := objectMembers("", object)
	if err != nil {
		return nil
	}
	for _, m := range members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// valueName names the kind of a value, as a caller would.
func valueName(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return "text"
	case 't', 'f':
		return "true or false"
	}
	return kindName(v.Kind())
}
