package preview

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// object is a JSON object that keeps the order of its members.
type object []member

type member struct {
	name  string
	value jsontext.Value
}

// lenient accepts what [rows.Query] accepts.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// readObject reads a JSON object. Of a repeated name the last member counts.
func readObject(raw []byte) (object, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw), lenient)
	if dec.PeekKind() != '{' {
		return nil, errors.New("it is no JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	var o object
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		text := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		o.set(text, value.Clone())
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return o, nil
}

// get returns a member, nil if it is absent or null.
func (o object) get(name string) jsontext.Value {
	for _, m := range o {
		if m.name == name && m.value.Kind() != 'n' {
			return m.value
		}
	}
	return nil
}

// text returns a member that is a string, "" for anything else.
func (o object) text(name string) string { return textOf(o.get(name)) }

// object returns a member that is an object, nil for anything else.
func (o object) object(name string) object {
	inner, err := readObject(o.get(name))
	if err != nil {
		return nil
	}
	return inner
}

func (o *object) set(name string, value jsontext.Value) {
	for i := range *o {
		if (*o)[i].name == name {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, member{name, value})
}

func (o *object) setText(name, text string) { o.set(name, quoted(text)) }

// without returns a copy without some members.
func (o object) without(names ...string) object {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return slices.Contains(names, m.name) })
}

func (o object) clone() object { return slices.Clone(o) }

// raw writes the object.
func (o object) raw() jsontext.Value {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, quoted(m.name)...), ':')
		b = append(b, m.value...)
	}
	return append(b, '}')
}

// MarshalJSON writes the object in its order.
func (o object) MarshalJSON() ([]byte, error) { return o.raw(), nil }

func quoted(text string) jsontext.Value {
	b, _ := jsontext.AppendQuote(nil, text) // invalid UTF-8 is replaced
	return b
}

// textOf returns the text of a JSON string, "" for anything else.
func textOf(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	b, _ := jsontext.AppendUnquote(nil, v)
	return string(b)
}

// lookup returns a member, also one that is null.
func (o object) lookup(name string) (jsontext.Value, bool) {
	for _, m := range o {
		if m.name == name {
			return m.value, true
		}
	}
	return nil, false
}
