package rows

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Cursor walks the rows of an array and the fields of each row, in the order of the page. It does not
// allocate; names and values alias the array.
//
// The array must have passed [Check] or come from [ScanResponse]. On other bytes a cursor may return wrong
// values, but it never panics, stays within bounds and always terminates.
type Cursor struct {
	b     []byte
	i     int
	inRow bool

	nameStart, nameEnd int // of the current field
}

// Span locates a value in the array of a [Cursor]. Unlike a [Value] it holds no pointer, so keeping many
// costs little.
type Span struct {
	start, end int
	Kind       Kind
	Escaped    bool // as in Value
}

// NewCursor returns a cursor before the first row of array.
func NewCursor(array []byte) Cursor {
	c := Cursor{b: array}
	c.i = skipSpace(array, 0)
	if c.i < len(array) && array[c.i] == '[' {
		c.i++
	} else {
		c.i = len(array)
	}
	return c
}

// NextRow moves to the next row and reports whether there is one. It skips unread fields of the current row.
func (c *Cursor) NextRow() bool {
	for c.inRow {
		_, _, _ = c.Next(nil)
	}
	i := skipSpace(c.b, c.i)
	if i < len(c.b) && c.b[i] == ',' {
		i = skipSpace(c.b, i+1)
	}
	if i >= len(c.b) || c.b[i] != '{' {
		c.i = len(c.b)
		return false
	}
	c.i, c.inRow = i+1, true
	return true
}

// NextField returns the next field of the current row. name is the raw name without its quotes; nameEscaped
// reports a backslash in it. ok is false after the last field.
func (c *Cursor) NextField() (name []byte, nameEscaped bool, v Value, ok bool) {
	at, _, ok := c.Next(nil)
	if !ok {
		return nil, false, Value{}, false
	}
	name = c.Name()
	return name, bytes.IndexByte(name, '\\') >= 0, c.At(at), true
}

// Next moves to the next field of the current row and returns where its value is; ok is false after the last
// field. expected is the name that probably comes next, as [Expect] returns it; same reports that it did.
// Rows mostly repeat the names of the row before, and comparing is cheaper than reading.
func (c *Cursor) Next(expected []byte) (v Span, same, ok bool) {
	if !c.inRow {
		return Span{}, false, false
	}
	b := c.b
	i := skipSpace(b, c.i)
	if i < len(b) && b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	if n := len(expected); n > 0 && n <= len(b)-i && string(b[i:i+n]) == string(expected) {
		same = true
		c.nameStart, c.nameEnd = i+1, i+n-len(`":`)
		i += n
	} else if i = c.readName(i); i < 0 {
		return Span{}, false, false
	}
	i = skipSpace(b, i)
	if i >= len(b) {
		c.stop()
		return Span{}, false, false
	}
	v.start = i
	switch b[i] {
	case '"':
		v.Kind = String
		i, v.Escaped = stringEnd(b, i+1)
	case '{':
		v.Kind = Object
		i = nestedEnd(b, i)
	case '[':
		v.Kind = Array
		i = nestedEnd(b, i)
	case 'n':
		v.Kind = Null
		i = plainEnd(b, i)
	case 't':
		v.Kind = True
		i = plainEnd(b, i)
	case 'f':
		v.Kind = False
		i = plainEnd(b, i)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		v.Kind = Number
		i = plainEnd(b, i)
	default:
		i = -1
	}
	if i < 0 {
		c.stop()
		return Span{}, false, false
	}
	v.end = i
	c.i = i
	return v, same, true
}

// NextFields is [Cursor.Next] for many fields at once, which takes less time. It reads fields while their names
// are the expected ones, in that order, and stores where their values are in spans. It returns the number of
// fields that it read. [Cursor.Name] is undefined until the next call of Next.
func (c *Cursor) NextFields(expected [][]byte, spans []Span) (n int) {
	if !c.inRow {
		return 0
	}
	b, i := c.b, c.i
	for n < len(expected) && n < len(spans) {
		name := expected[n]
		at := skipSpace(b, i)
		if at < len(b) && b[at] == ',' {
			at = skipSpace(b, at+1)
		}
		if len(name) == 0 || len(name) > len(b)-at || string(b[at:at+len(name)]) != string(name) {
			break
		}
		at = skipSpace(b, at+len(name))
		if at >= len(b) {
			break
		}
		v := &spans[n] // its fields are set one by one: copying a value that was just made stalls the processor
		v.start, v.end, v.Escaped = at, at, false
		switch v.Kind = kindAt[b[at]]; v.Kind {
		case String:
			v.end, v.Escaped = stringEnd(b, at+1)
		case Object, Array:
			v.end = nestedEnd(b, at)
		case noKind:
		default:
			v.end = plainEnd(b, at)
		}
		if v.end <= at {
			break
		}
		i = v.end
		n++
	}
	c.i = i
	return n
}

// noKind is the kind of bytes that begin no value.
const noKind = Array + 1

// kindAt is the kind of the value that begins with a byte.
var kindAt = func() (kinds [256]Kind) {
	for c := range kinds {
		kinds[c] = noKind
		if c >= '0' && c <= '9' || c == '-' {
			kinds[c] = Number
		}
	}
	for _, c := range []byte(`ntf"{[`) {
		kinds[c] = kindOf(c)
	}
	return kinds
}()

// EndRow ends the current row if all its fields are read, and reports whether it did.
func (c *Cursor) EndRow() bool {
	i := skipSpace(c.b, c.i)
	if !c.inRow || i >= len(c.b) || c.b[i] != '}' {
		return false
	}
	c.i, c.inRow = i+1, false
	return true
}

// readName reads the name at i and returns the offset after its colon, or -1 if the row ends there.
func (c *Cursor) readName(i int) int {
	b := c.b
	if i >= len(b) || b[i] != '"' {
		if i < len(b) && b[i] == '}' {
			c.i, c.inRow = i+1, false
			return -1
		}
		c.stop()
		return -1
	}
	start := i + 1
	if i, _ = stringEnd(b, start); i < 0 {
		c.stop()
		return -1
	}
	c.nameStart, c.nameEnd = start, i-1
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		c.stop()
		return -1
	}
	return i + 1
}

// Name returns the current field's raw name, without its quotes.
func (c *Cursor) Name() []byte { return c.b[c.nameStart:c.nameEnd:c.nameEnd] }

// Raw returns the bytes of s, as in a [Value].
func (c *Cursor) Raw(s Span) []byte { return c.b[s.start:s.end:s.end] }

// At returns the value at s.
func (c *Cursor) At(s Span) Value { return Value{Kind: s.Kind, Raw: c.Raw(s), Escaped: s.Escaped} }

// Enter returns a cursor over the fields of the object at s, for [Cursor.Next], or over the elements of the
// array at s, for [Cursor.NextElement]. Its spans are valid in both cursors. Values of other kinds are empty.
func (c *Cursor) Enter(s Span) Cursor {
	switch s.Kind {
	case Object:
		return Cursor{b: c.b, i: s.start + 1, inRow: true}
	case Array:
		return Cursor{b: c.b[:s.end:s.end], i: s.start + 1}
	}
	return Cursor{}
}

// NextElement moves to the next element of an array and returns where it is; ok is false after the last.
func (c *Cursor) NextElement() (v Span, ok bool) {
	i := skipSpace(c.b, c.i)
	if i < len(c.b) && c.b[i] == ',' {
		i = skipSpace(c.b, i+1)
	}
	if i >= len(c.b) || c.b[i] == ']' {
		c.stop()
		return Span{}, false
	}
	v = Span{start: i, end: valueEnd(c.b, i), Kind: kindOf(c.b[i])}
	if v.end < 0 {
		c.stop()
		return Span{}, false
	}
	v.Escaped = v.Kind == String && bytes.IndexByte(c.Raw(v), '\\') >= 0
	c.i = v.end
	return v, true
}

// Expect appends the form of a raw name that [Cursor.Next] takes as expected.
func Expect(dst, raw []byte) []byte {
	return append(append(append(dst, '"'), raw...), '"', ':')
}

// stop ends the walk at bytes that are no JSON.
func (c *Cursor) stop() { c.i, c.inRow = len(c.b), false }

// Eight bytes at a time: a byte of x-lsb has its high bit set where the byte
// of x was 0, and perhaps above such a byte; the lowest one is always right.
const (
	lsb       = 0x0101010101010101
	msb       = 0x8080808080808080
	quotes    = lsb * '"'
	slashes   = lsb * '\\'
	blanks    = lsb * ' '
	wordBytes = 8
)

// stringEnd returns the offset after the closing quote of a string whose
// contents begin at i, or -1 when it does not end.
func stringEnd(b []byte, i int) (end int, escaped bool) {
	for i <= len(b)-wordBytes {
		w := binary.LittleEndian.Uint64(b[i:])
		m := (((w ^ quotes) - lsb) | ((w ^ slashes) - lsb)) &^ w & msb
		if m == 0 {
			i += wordBytes
			continue
		}
		i += bits.TrailingZeros64(m) >> 3
		if b[i] == '"' {
			return i + 1, escaped
		}
		escaped = true
		i += 2
	}
	for i < len(b) {
		switch b[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			escaped = true
			i += 2
		default:
			i++
		}
	}
	return -1, escaped
}

// nestedEnd returns the offset after the object or array that opens at i, or
// -1 when it does not close.
func nestedEnd(b []byte, i int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			if i, _ = stringEnd(b, i+1); i < 0 {
				return -1
			}
			continue
		}
		i++
	}
	return -1
}

// plainEnd returns the offset after a number or literal that begins at i.
func plainEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		// The bytes of numbers and literals are all above the comma but for '+'.
		if c := b[i]; c <= ',' && c != '+' || c == '}' || c == ']' {
			break
		}
	}
	return i
}

// skipSpace returns the offset of the first byte from i on that is not JSON
// white space.
func skipSpace(b []byte, i int) int {
	if i < len(b) && b[i] > ' ' {
		return i
	}
	return skipSpaceSlow(b, i)
}

func skipSpaceSlow(b []byte, i int) int {
	for i < len(b) {
		switch b[i] {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i
		}
		for i <= len(b)-wordBytes && binary.LittleEndian.Uint64(b[i:]) == blanks {
			i += wordBytes // the indentation of a pretty-printed page
		}
	}
	return i
}
