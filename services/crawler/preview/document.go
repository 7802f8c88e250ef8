package preview

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events/rows"
)

// How deep a response is searched.
const (
	maxListDepth  = 4
	maxPlaceDepth = 5
	maxNameRunes  = 64
	maxPlaces     = 2000
)

// spot is a value of a response.
type spot struct {
	path   string // as a request names it, such as "data.total" or "header:X-Total-Count"
	steps  []string
	value  jsontext.Value
	number int64 // of an integer, or of a string that holds one; else -1
}

// name returns the last step, with only its letters and digits, in lower case.
func (s spot) name() string { return plainName(s.steps[len(s.steps)-1]) }

// longName returns the last two steps.
func (s spot) longName() string {
	if n := len(s.steps); n > 1 {
		return plainName(s.steps[n-2]) + s.name()
	}
	return s.name()
}

func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// list is an array of a response.
type list struct {
	spot
	count   int
	objects int
	inner   string // the member of each element that is the row, such as "node"; "" if the element is
}

// rowsPath is the path of the rows in the list.
func (l list) rowsPath() string {
	if l.inner == "" {
		return l.path
	}
	if l.path == "$" {
		return "$[*]." + l.inner
	}
	return l.path + "[*]." + l.inner
}

// document is what a response holds outside its arrays.
type document struct {
	spots []spot
	lists []list
	byKey map[string]spot
	skip  func(name string) bool
}

// readDocument reads a checked JSON text. It leaves out members whose names skip reports.
func readDocument(body []byte, skip func(name string) bool) *document {
	d := &document{byKey: map[string]spot{}, skip: skip}
	d.add(bytes.TrimSpace(body), nil)
	return d
}

func (d *document) add(raw jsontext.Value, steps []string) {
	path, ok := pathOf(steps)
	if !ok || len(d.spots)+len(d.lists) > maxPlaces {
		return
	}
	s := spot{path: path, steps: steps, value: raw, number: integer(raw)}
	switch raw.Kind() {
	case '[':
		if len(steps) <= maxListDepth {
			d.lists = append(d.lists, readList(s))
		}
	case '{':
		if len(steps) >= maxPlaceDepth {
			return
		}
		o, err := readObject(raw)
		if err != nil {
			return
		}
		for _, m := range o {
			if d.skip(m.name) {
				continue
			}
			d.add(m.value, append(steps[:len(steps):len(steps)], m.name))
		}
	default:
		if len(steps) > 0 {
			d.spots = append(d.spots, s)
		}
	}
	d.byKey[path] = s
}

// at returns the value at a path.
func (d *document) at(path string) (spot, bool) {
	if p, err := rows.ParsePath(path); err == nil {
		path = p.String()
	}
	s, ok := d.byKey[path]
	return s, ok
}

// pathOf writes the path of steps. ok is false if a name is too long or holds a control character.
func pathOf(steps []string) (path string, ok bool) {
	if len(steps) == 0 {
		return "$", true
	}
	var members []rows.Step
	for _, name := range steps {
		if utf8.RuneCountInString(name) > maxNameRunes || strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
			return "", false
		}
		members = append(members, rows.Member(name))
	}
	p, err := rows.ParsePath(rows.NewPath(members...).String()) // it has limits
	return p.String(), err == nil
}

// rowMembers are members that hold the row in each element of a list.
var rowMembers = []string{"node", "_source", "doc"}

func readList(s spot) list {
	l := list{spot: s}
	inner := map[string]int{}
	dec := jsontext.NewDecoder(bytes.NewReader(s.value), lenient)
	if _, err := dec.ReadToken(); err != nil {
		return l
	}
	for dec.PeekKind() != ']' {
		raw, err := dec.ReadValue()
		if err != nil {
			return l
		}
		l.count++
		if raw.Kind() != '{' {
			continue
		}
		l.objects++
		for _, name := range rowMembers {
			if v, ok := rows.Lookup(raw, rows.NewPath(rows.Member(name))); ok && v.Kind == rows.Object {
				inner[name]++
			}
		}
	}
	for _, name := range rowMembers {
		if l.count > 0 && inner[name] == l.count {
			l.inner = name
			break
		}
	}
	return l
}

// integer returns a number without a fraction, or a string that holds one. It is -1 for anything else.
func integer(raw jsontext.Value) int64 {
	text := ""
	switch raw.Kind() {
	case '0':
		text = string(raw)
	case '"':
		text = strings.TrimSpace(textOf(raw))
		if len(text) > 18 || text == "" || strings.Trim(text, "0123456789") != "" {
			return -1
		}
	default:
		return -1
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return max(n, -1)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || f < 0 || f >= 1<<53 {
		return -1
	}
	return int64(f)
}
