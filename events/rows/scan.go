package rows

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Check scans array once and returns its number of rows. It accepts one JSON array of objects: the grammar of
// RFC 8259, valid UTF-8, within lim, surrounded by white space only. Every error is a [*SyntaxError].
func Check(array []byte, lim Limits) (n int, err error) {
	s := scanner{b: array, lim: lim.withDefaults()}
	i := skipSpace(array, 0)
	if i >= len(array) {
		return 0, &SyntaxError{Offset: i, Msg: "the page is empty", Truncated: true}
	}
	if array[i] != '[' {
		s.fail(i, "a page must be an array of rows, but it begins with %s", show(array[i]))
		return 0, s.err
	}
	a, end := s.rows(i)
	if end >= 0 && s.shape == nil {
		s.end(end)
	}
	switch {
	case s.shape != nil:
		return 0, s.shape
	case s.err != nil:
		return 0, s.err
	}
	return a.count, nil
}

// scanner checks JSON. Its methods take an offset and return the offset after the text they read, or -1 once
// err is set.
type scanner struct {
	b     []byte
	lim   Limits
	row   int          // row that the scan is in, from 1; 0 outside the rows
	err   *SyntaxError // not JSON, or beyond a limit: the scan has stopped
	shape *SyntaxError // JSON, but not in the expected form: the first such error

	names [expectedNames][2]int // positions of the previous row's names, with quotes
	union *union                // collects the names of rows; nil outside them, or if they are not wanted
}

// expectedNames is how many of a row's names are compared with those of the row before. An equal name is
// valid too, so the scanner skips it.
const expectedNames = 64

func (s *scanner) fail(i int, format string, args ...any) int {
	msg := fmt.Sprintf(format, args...)
	if s.row > 0 {
		msg = fmt.Sprintf("row %d: %s", s.row, msg)
	}
	s.err = &SyntaxError{Offset: i, Row: s.row, Msg: msg}
	return -1
}

// beyond fails with a limit error.
func (s *scanner) beyond(limit error, i int, format string, args ...any) int {
	s.fail(i, format, args...)
	s.err.limit = limit
	return -1
}

func (s *scanner) misshapen(i, row int, format string, args ...any) {
	if s.shape == nil {
		s.shape = &SyntaxError{Offset: i, Row: row, Msg: fmt.Sprintf(format, args...)}
	}
}

// unexpected fails because the grammar wants something else at i.
func (s *scanner) unexpected(i int, want string) int {
	if i >= len(s.b) {
		s.fail(len(s.b), "the JSON is truncated at byte %d", len(s.b))
		s.err.Truncated = true
		return -1
	}
	return s.fail(i, "%s at byte %d where %s should be", show(s.b[i]), i, want)
}

// show renders one byte of the input for an error message.
func show(c byte) string {
	if c > ' ' && c < 0x7f {
		return fmt.Sprintf("'%c'", c)
	}
	return fmt.Sprintf("byte 0x%02x", c)
}

// end checks that only white space is left.
func (s *scanner) end(i int) {
	if i = skipSpace(s.b, i); i < len(s.b) {
		s.row = 0
		s.unexpected(i, "the end")
	}
}

// rowArray is the result of scanning an array of rows.
type rowArray struct {
	array, first, last []byte
	count              int
}

// rows reads the array of rows that opens at i.
func (s *scanner) rows(i int) (a rowArray, end int) {
	b := s.b
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return a, i + 1
	}
	for {
		a.count++
		s.row = a.count
		if a.count > s.lim.MaxRows {
			s.row = 0
			return a, s.beyond(ErrTooManyRows, i, "the page has more than %d rows", s.lim.MaxRows)
		}
		start := i
		if i < len(b) && b[i] == '{' {
			i = s.object(i, 2, s.lim.MaxFields)
		} else if i = s.value(i, 1); i >= 0 {
			s.misshapen(start, a.count, "row %d is %s, not an object", a.count, kindOf(b[start]))
		}
		if i < 0 {
			return a, -1
		}
		if i-start > s.lim.MaxRowBytes {
			return a, s.beyond(ErrRowTooLong, start, "has %d bytes, at most %d are allowed", i-start,
				s.lim.MaxRowBytes)
		}
		if a.count == 1 {
			a.first = b[start:i:i]
		}
		end = i
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == ']' {
			s.row = 0
			a.last = b[start:end:end]
			return a, i + 1
		}
		return a, s.unexpected(i, "',' or ']'")
	}
}

// kindOf returns the kind of a checked value from its first byte.
func kindOf(c byte) Kind {
	switch c {
	case 'n':
		return Null
	case 'f':
		return False
	case 't':
		return True
	case '"':
		return String
	case '{':
		return Object
	case '[':
		return Array
	}
	return Number
}

// value reads any value at i, inside depth arrays and objects.
func (s *scanner) value(i, depth int) int {
	if i >= len(s.b) {
		return s.unexpected(i, "a value")
	}
	switch c := s.b[i]; c {
	case '"':
		return s.str(i + 1)
	case '{':
		return s.object(i, depth+1, len(s.b))
	case '[':
		return s.array(i, depth+1)
	case 't':
		return s.literal(i, "true")
	case 'f':
		return s.literal(i, "false")
	case 'n':
		return s.literal(i, "null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number(i)
	}
	return s.unexpected(i, "a value")
}

// object reads the object that opens at i; it is the depth-th level.
func (s *scanner) object(i, depth, maxFields int) int {
	if depth > s.lim.MaxDepth {
		return s.tooDeep(i)
	}
	b := s.b
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for n := 1; ; n++ {
		if i >= len(b) || b[i] != '"' {
			return s.unexpected(i, "a name in quotes")
		}
		if n > maxFields {
			return s.beyond(ErrTooManyFields, i, "more than %d fields", maxFields)
		}
		if i = s.name(i, n, depth); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i >= len(b) || b[i] != ':' {
			return s.unexpected(i, "':'")
		}
		i = skipSpace(b, i+1)
		if i < len(b) && b[i] == '"' {
			i = s.str(i + 1)
		} else {
			i = s.value(i, depth)
		}
		if i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == '}' {
			return i + 1
		}
		return s.unexpected(i, "',' or '}'")
	}
}

// name reads the n-th name of an object at the given depth. Its quote is at i.
func (s *scanner) name(i, n, depth int) int {
	if depth != 2 {
		return s.str(i + 1)
	}
	if u := s.union; u != nil {
		if n == 1 {
			u.last = &u.start
		}
		if is := u.last.next; is != nil && s.repeats(is, i) {
			u.last = is
			return i + is.end - is.start
		}
		return u.read(s, i)
	}
	if n > len(s.names) {
		return s.str(i + 1)
	}
	before := &s.names[n-1]
	if size := before[1] - before[0]; size > 0 && size <= len(s.b)-i &&
		string(s.b[i:i+size]) == string(s.b[before[0]:before[1]]) {
		return i + size
	}
	end := s.str(i + 1)
	*before = [2]int{i, max(i, end)}
	return end
}

// members reads the object that opens at i. It passes each unquoted name and the offset of its value to read,
// which returns the offset after the value.
func (s *scanner) members(i int, read func(name []byte, at int) int) int {
	b := s.b
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return s.unexpected(i, "a name in quotes")
		}
		start := i
		if i = s.str(i + 1); i < 0 {
			return -1
		}
		name := b[start+1 : i-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = Unquote(nil, b[start:i])
		}
		i = skipSpace(b, i)
		if i >= len(b) || b[i] != ':' {
			return s.unexpected(i, "':'")
		}
		i = skipSpace(b, i+1)
		if i >= len(b) {
			return s.unexpected(i, "a value")
		}
		if i = read(name, i); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == '}' {
			return i + 1
		}
		return s.unexpected(i, "',' or '}'")
	}
}

// array reads the array that opens at i; it is the depth-th level.
func (s *scanner) array(i, depth int) int {
	if depth > s.lim.MaxDepth {
		return s.tooDeep(i)
	}
	b := s.b
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = s.value(i, depth); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == ']' {
			return i + 1
		}
		return s.unexpected(i, "',' or ']'")
	}
}

// elements reads the array that opens at i; it is the depth-th level. It passes the offset of each element to
// read, which returns the offset after the element.
func (s *scanner) elements(i, depth int, read func(at int) int) int {
	if depth > s.lim.MaxDepth {
		return s.tooDeep(i)
	}
	b := s.b
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = read(i); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == ']' {
			return i + 1
		}
		return s.unexpected(i, "',' or ']'")
	}
}

func (s *scanner) tooDeep(i int) int {
	return s.beyond(ErrTooDeep, i, "nested deeper than %d levels at byte %d", s.lim.MaxDepth, i)
}

func (s *scanner) literal(i int, word string) int {
	for k := 1; k < len(word); k++ {
		if i+k >= len(s.b) || s.b[i+k] != word[k] {
			return s.unexpected(i+k, word)
		}
	}
	return i + len(word)
}

// number reads RFC 8259, section 6: [ minus ] int [ frac ] [ exp ].
func (s *scanner) number(i int) int {
	b := s.b
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
		if i < len(b) && b[i]-'0' <= 9 {
			return s.fail(i, "a number with a leading zero at byte %d", i)
		}
	default:
		start := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == start {
			return s.unexpected(i, "a digit")
		}
	}
	if i < len(b) && b[i] == '.' {
		i++
		start := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == start {
			return s.unexpected(i, "a digit")
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == start {
			return s.unexpected(i, "a digit")
		}
	}
	return i
}

// str reads the string whose contents begin at i.
func (s *scanner) str(i int) int {
	b := s.b
	start := i
	var seen uint64 // all bytes of the string or'ed: a high bit means non-ASCII
	for {
		for i <= len(b)-wordBytes {
			w := binary.LittleEndian.Uint64(b[i:])
			// A quote, a backslash or a control character stops the word.
			m := (((w ^ quotes) - lsb) | ((w ^ slashes) - lsb) | (w - blanks)) &^ w & msb
			if m == 0 {
				seen |= w
				i += wordBytes
				continue
			}
			seen |= w & ((m & -m) - 1) // only the bytes before it can add a high bit
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		// The byte that stopped the word, or the last bytes of the input.
		for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
			seen |= uint64(b[i])
			i++
		}
		if i >= len(b) {
			return s.unexpected(i, "")
		}
		switch b[i] {
		case '"':
			if seen&msb != 0 && !utf8.Valid(b[start:i]) {
				return s.badUTF8(start, i)
			}
			return i + 1
		case '\\':
			if i = s.escape(i + 1); i < 0 {
				return -1
			}
		default:
			return s.fail(i, "a control character (%s) that must be escaped, at byte %d", show(b[i]), i)
		}
	}
}

// escape reads the escape whose backslash is just before i.
func (s *scanner) escape(i int) int {
	if i >= len(s.b) {
		return s.unexpected(i, "")
	}
	switch s.b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		for k := 1; k <= 4; k++ {
			if i+k >= len(s.b) || !isHex(s.b[i+k]) {
				return s.unexpected(i+k, "a hexadecimal digit")
			}
		}
		return i + 5
	}
	return s.unexpected(i, "an escape")
}

func isHex(c byte) bool {
	return c-'0' <= 9 || c|0x20-'a' <= 5
}

func (s *scanner) badUTF8(start, end int) int {
	i := start
	for i < end {
		r, n := utf8.DecodeRune(s.b[i:end])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return s.fail(i, "invalid UTF-8 at byte %d", i)
}
