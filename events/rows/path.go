package rows

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/theory/jsonpath/parser"
	"github.com/theory/jsonpath/registry"
	"github.com/theory/jsonpath/spec"
)

// Limits of a path.
const (
	maxPathBytes = 512
	maxPathSteps = 16
)

// Path locates one value in a JSON text, or, as a rows path, an array of rows. It is a singular query of RFC
// 9535: members and array indices only. A Path never changes. The zero value is the whole text.
type Path struct {
	steps []Step
	// element is the path from an element of the array at steps to its row: what follows [*] in a rows path.
	element []Step
}

// Step is a member of an object or an element of an array.
type Step struct {
	Name  string // of the member, decoded
	Index int    // of the element, from 0; -1 for a member
}

// PathError says why the text of a path was refused.
type PathError struct {
	Offset int    // in bytes, where the error was found
	Msg    string // one sentence for a person; begins with the position, counted in characters from 1
}

// Error returns Msg.
func (e *PathError) Error() string { return e.Msg }

// ParsePath parses the path of one value, of at most 512 bytes and 16 steps. The leading "$." may be left
// out. Every error is a [*PathError].
func ParsePath(text string) (Path, error) {
	p, err := parsePath(text, false)
	if err != nil {
		return Path{}, err
	}
	return p, nil
}

// ParseRowsPath parses the path of an array of rows, as [ParsePath] does. The path may hold one [*]; its rows
// are then the values that the steps after [*] find in each element. A trailing [*] means the same as none.
// An empty text is the whole answer.
func ParseRowsPath(text string) (Path, error) {
	if text == "" {
		return Path{}, nil
	}
	p, err := parsePath(text, true)
	if err != nil {
		return Path{}, err
	}
	return p, nil
}

// NewPath returns the path of steps. Names may be any text, and the limits of [ParsePath] do not apply.
func NewPath(steps ...Step) Path { return Path{steps: slices.Clone(steps)} }

// Member returns the step to a member of an object.
func Member(name string) Step { return Step{Name: name, Index: -1} }

// IsRoot reports whether p is the whole text.
func (p Path) IsRoot() bool { return len(p.steps) == 0 && len(p.element) == 0 }

// Steps returns a copy of the steps, of a rows path those before [*].
func (p Path) Steps() []Step { return slices.Clone(p.steps) }

// String returns the shortest text of the path, without "$." before it.
func (p Path) String() string {
	if p.IsRoot() {
		return "$"
	}
	var b strings.Builder
	writeSteps(&b, p.steps)
	if len(p.element) > 0 {
		if b.Len() == 0 {
			b.WriteByte('$')
		}
		b.WriteString("[*]")
		writeSteps(&b, p.element)
	}
	return b.String()
}

func writeSteps(b *strings.Builder, steps []Step) {
	for _, s := range steps {
		switch {
		case s.Index >= 0:
			fmt.Fprintf(b, "[%d]", s.Index)
		case !isPlainName(s.Name):
			b.WriteString(quoteStep(s.Name))
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.Name)
		}
	}
}

// isPlainName reports whether RFC 9535 lets a name stand after a dot (section 2.5.1.1).
func isPlainName(name string) bool {
	for i, r := range name {
		letter := r|0x20 >= 'a' && r|0x20 <= 'z' || r == '_' || r >= utf8.RuneSelf
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// quoteStep writes the step of a name that is not plain.
func quoteStep(name string) string {
	b := []byte("['")
	for _, r := range name {
		switch {
		case r == '\'' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(append(b, "']"...))
}

// pathParser splits a path into steps, so that each refusal has a position. The grammar of a step is that of
// package parser.
type pathParser struct {
	text string
	reg  *registry.Registry
}

func (p *pathParser) fail(offset int, format string, args ...any) *PathError {
	column := utf8.RuneCountInString(p.text[:offset]) + 1
	return &PathError{Offset: offset, Msg: fmt.Sprintf("at %d: ", column) + fmt.Sprintf(format, args...)}
}

func parsePath(text string, ofRows bool) (path Path, err *PathError) {
	p := &pathParser{text: text, reg: registry.New()}
	if i := invalidUTF8(text); i >= 0 {
		return Path{}, p.fail(i, "the path is not valid UTF-8")
	}
	switch {
	case text == "":
		return Path{}, p.fail(0, "the path is empty; $ is the whole answer")
	case len(text) > maxPathBytes:
		return Path{}, p.fail(0, "the path has %d bytes, at most %d are allowed", len(text), maxPathBytes)
	}
	i := 0
	rooted := text[0] == '$' && (len(text) == 1 || strings.IndexByte(".[ \t\r\n", text[1]) >= 0)
	if rooted {
		i = 1
	}
	steps := &path.steps
	each, first := false, !rooted
	for n := 1; i < len(text); n++ {
		var s Step
		start := i
		if s, i, err = p.step(i, first); err != nil {
			return Path{}, err
		}
		first = false
		if n > maxPathSteps {
			return Path{}, p.fail(start, "more than %d steps", maxPathSteps)
		}
		if s != eachElement {
			*steps = append(*steps, s)
			continue
		}
		switch {
		case !ofRows:
			return Path{}, p.fail(start, `"*" is supported in rows only; write an index such as [0]`)
		case each:
			return Path{}, p.fail(start, "a second [*] is not supported; rows are in one array")
		}
		each, steps = true, &path.element
	}
	return path, nil
}

func invalidUTF8(text string) int {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return i
			}
		}
	}
	return -1
}

// eachElement is the step [*].
var eachElement = Step{Index: -2}

// step parses the step at i and returns the offset after it. The first step of a path may lack its dot.
func (p *pathParser) step(i int, first bool) (Step, int, *PathError) {
	start := i
	for !first && i < len(p.text) && isBlank(p.text[i]) {
		i++
	}
	switch {
	case i == len(p.text):
		return Step{}, 0, p.fail(start, "white space at the end of the path")
	case p.text[i] == '[':
		return p.bracket(i)
	case p.text[i] == '.':
		i++
	case !first:
		return Step{}, 0, p.fail(i, `"." or "[" should be here; write a name that holds other characters than letters, digits and _ as ['name']`)
	}
	return p.member(i)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// member parses the plain name at i.
func (p *pathParser) member(i int) (Step, int, *PathError) {
	end := i
	for end < len(p.text) && p.text[end] != '.' && p.text[end] != '[' {
		end++
	}
	name := p.text[i:end]
	trimmed := strings.TrimRight(name, " \t\r\n")
	if end < len(p.text) && trimmed != "" { // white space may stand before a step
		end -= len(name) - len(trimmed)
		name = trimmed
	}
	switch {
	case name == "" && end < len(p.text) && p.text[end] == '.':
		return Step{}, 0, p.fail(end, `".." is not supported; write each step`)
	case name == "":
		return Step{}, 0, p.fail(end, "a name is missing")
	case name == "*":
		return eachElement, end, nil
	case !isPlainName(name):
		if _, err := strconv.ParseUint(name, 10, 53); err == nil {
			return Step{}, 0, p.fail(i, "write [%s] for an element of an array, ['%[1]s'] for a name", name)
		}
		if strings.IndexByte(name, '(') >= 0 {
			return Step{}, 0, p.fail(i, "functions are not supported; write each step")
		}
		if name[0] == '@' { // names such as @odata.nextLink
			name, _, _ = strings.Cut(p.text[i:], "[")
		}
		return Step{}, 0, p.fail(i, "write %s; a name with other characters than letters, digits and _ is quoted", quoteStep(name))
	}
	s, err := p.parse(i, "."+name)
	return s, end, err
}

// bracket parses the step in brackets that opens at i.
func (p *pathParser) bracket(i int) (Step, int, *PathError) {
	depth, quote := 0, byte(0)
	for end := i; end < len(p.text); end++ {
		switch c := p.text[end]; {
		case c == '\\' && quote != 0:
			end++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				s, err := p.parse(i, p.text[i:end+1])
				return s, end + 1, err
			}
		}
	}
	if quote != 0 {
		return Step{}, 0, p.fail(len(p.text), "the quote %c is not closed", quote)
	}
	return Step{}, 0, p.fail(len(p.text), `"]" is missing`)
}

// parse returns the step that text, found at i, stands for.
func (p *pathParser) parse(i int, text string) (Step, *PathError) {
	q, err := parser.Parse(p.reg, "$"+text)
	if err != nil || len(q.Segments()) != 1 {
		inner := strings.TrimSpace(strings.Trim(text, "[]"))
		switch {
		case strings.HasPrefix(inner, "?"):
			return Step{}, p.fail(i, "filters are not supported; write each step")
		case isPlainName(inner):
			return Step{}, p.fail(i, "write .%s or ['%[1]s']", inner)
		}
		return Step{}, p.fail(i, "a name in quotes or an index from 0 on should be in the brackets, such as ['name'] or [0]")
	}
	selectors := q.Segments()[0].Selectors()
	if len(selectors) != 1 {
		return Step{}, p.fail(i, "a list of steps is not supported; write one")
	}
	switch s := selectors[0].(type) {
	case spec.Name:
		return Step{Name: string(s), Index: -1}, nil
	case spec.Index:
		if s < 0 {
			return Step{}, p.fail(i, "a negative index is not supported; indices count from 0")
		}
		return Step{Index: int(s)}, nil
	case spec.WildcardSelector:
		return eachElement, nil
	case spec.SliceSelector:
		return Step{}, p.fail(i, "a slice is not supported; write one index")
	}
	return Step{}, p.fail(i, "filters are not supported; write each step")
}

// Lookup returns the value at p in a checked row, or in any other checked JSON value. Of a repeated name the
// last one counts. ok is false if p finds nothing or holds [*]. Unchecked bytes give an arbitrary result,
// never a panic.
func Lookup(row []byte, p Path) (v Value, ok bool) {
	if len(p.element) > 0 {
		return Value{}, false
	}
	raw, ok := lookup(row, p.steps)
	if !ok {
		return Value{}, false
	}
	v = Value{Kind: kindOf(raw[0]), Raw: raw}
	v.Escaped = v.Kind == String && bytes.IndexByte(raw, '\\') >= 0
	return v, true
}

// lookup returns the bytes at steps in a checked value, without white space around them.
func lookup(raw []byte, steps []Step) ([]byte, bool) {
	raw = raw[skipSpace(raw, 0):]
	if len(raw) == 0 {
		return nil, false
	}
	for _, step := range steps {
		var ok bool
		if step.Index >= 0 {
			raw, ok = lookupElement(raw, step.Index)
		} else {
			raw, ok = lookupMember(raw, step.Name)
		}
		if !ok {
			return nil, false
		}
	}
	end := valueEnd(raw, 0)
	if end < 0 {
		return nil, false
	}
	return raw[:end:end], true
}

func lookupMember(raw []byte, name string) (found []byte, ok bool) {
	if raw[0] != '{' {
		return nil, false
	}
	c := Cursor{b: raw, i: 1, inRow: true}
	for {
		at, _, more := c.Next(nil)
		if !more {
			return found, ok
		}
		if isName(c.Name(), name) {
			found, ok = c.Raw(at), true
		}
	}
}

// isName reports whether a raw name is name.
func isName(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == name
	}
	return string(Unquote(nil, raw)) == name
}

func lookupElement(raw []byte, index int) ([]byte, bool) {
	if raw[0] != '[' {
		return nil, false
	}
	for i := skipSpace(raw, 1); i < len(raw) && raw[i] != ']'; index-- {
		end := valueEnd(raw, i)
		if end < 0 {
			return nil, false
		}
		if index == 0 {
			return raw[i:end:end], true
		}
		if i = skipSpace(raw, end); i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return nil, false
}
