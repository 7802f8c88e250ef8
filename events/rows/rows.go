// Package rows reads the rows of a page as the source sent them.
//
// A page's rows are a JSON array of objects. They stay bytes from the source's response to the workbook: this
// package finds where rows, names and values begin and end. It never builds a map or allocates per cell.
//
// [ScanResponse] checks a whole response of the standard format and finds the array in it. [Query] does the
// same for any other format, by the paths of its rows and values. [Check] checks an array alone. All accept
// exactly the texts of RFC 8259 in valid UTF-8. [Cursor] then walks the checked array.
//
// A name may occur twice in one row. The scan accepts that, as RFC 8259 does, and the cursor returns both
// fields in order. Consumers use the last one.
package rows

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Kind is the type of a JSON value.
type Kind byte

// The kinds of JSON values (RFC 8259, section 3).
const (
	Null Kind = iota
	False
	True
	Number
	String
	Object
	Array
)

// String names the kind with its article, as the sentences of a
// [SyntaxError] use it.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case False:
		return "false"
	case True:
		return "true"
	case Number:
		return "a number"
	case String:
		return "a string"
	case Object:
		return "an object"
	case Array:
		return "an array"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Value is one JSON value, as sent. Raw aliases the page and is never decoded. For a String it includes the
// quotes.
type Value struct {
	Kind    Kind
	Raw     []byte
	Escaped bool // a String that holds at least one backslash
}

// Limits bounds what a scan accepts. A field of zero or less means its default.
type Limits struct {
	// MaxDepth is how deep arrays and objects may nest. In the rows, the array is level 1 and each row level
	// 2; elsewhere in a response the body is level 1. Default 64, at most 10,000, as in encoding/json.
	MaxDepth int
	// MaxRows is the number of rows in one page. Default 1,000,000.
	MaxRows int
	// MaxFields is the number of fields in one row. Default 16,384, the
	// columns of a worksheet (ECMA-376 part 1, 18.3.1.13; column XFD).
	MaxFields int
	// MaxRowBytes is the size of one row. Default 64 MiB.
	MaxRowBytes int
	// MaxBytes is the size of an array that FromCSV, FromNDJSON or Flatten makes. Default 256 MiB.
	MaxBytes int
}

func (l Limits) withDefaults() Limits {
	if l.MaxDepth <= 0 {
		l.MaxDepth = 64
	}
	if l.MaxDepth > 10_000 {
		l.MaxDepth = 10_000
	}
	if l.MaxRows <= 0 {
		l.MaxRows = 1_000_000
	}
	if l.MaxFields <= 0 {
		l.MaxFields = 16_384
	}
	if l.MaxRowBytes <= 0 {
		l.MaxRowBytes = 64 << 20
	}
	if l.MaxBytes <= 0 {
		l.MaxBytes = 256 << 20
	}
	return l
}

// SyntaxError says why a page or response was refused. Msg holds at most one character of the input, beside
// the paths of a [Query].
type SyntaxError struct {
	Offset int    // where the error was found
	Row    int    // the row of Offset, from 1; 0 outside the rows
	Msg    string // one sentence for a person
	// Hint lists names of a response in an unknown form, or says which form is read. Empty for all other
	// errors.
	Hint      string
	Truncated bool // the bytes end before the JSON text does
	limit     error
}

// A [*SyntaxError] wraps one of these errors if the bytes are JSON that exceeds [Limits]. The scan stopped
// there and did not check the rest.
var (
	ErrTooManyRows   = errors.New("too many rows")   // Limits.MaxRows
	ErrTooManyFields = errors.New("too many fields") // Limits.MaxFields
	ErrRowTooLong    = errors.New("row too long")    // Limits.MaxRowBytes
	ErrTooDeep       = errors.New("nested too deep") // Limits.MaxDepth
	ErrTooManyBytes  = errors.New("too many bytes")  // Limits.MaxBytes
)

// Unwrap returns the limit that was exceeded, or nil.
func (e *SyntaxError) Unwrap() error { return e.limit }

// Error returns Msg.
func (e *SyntaxError) Error() string { return e.Msg }

// Unquote decodes a JSON string and appends the result to dst. raw may have its quotes or, like the names of
// [Cursor.NextField], lack them. A surrogate without its partner becomes U+FFFD, as in encoding/json.
// Unchecked bytes give an arbitrary result, never a panic.
func Unquote(dst, raw []byte) []byte {
	if len(raw) > 0 && raw[0] == '"' { // contents never begin with a bare quote
		raw = raw[1:]
		if len(raw) > 0 && raw[len(raw)-1] == '"' {
			raw = raw[:len(raw)-1]
		}
	}
	for i := 0; i < len(raw); {
		start := i
		for i < len(raw) && raw[i] != '\\' {
			i++
		}
		dst = append(dst, raw[start:i]...)
		if i == len(raw) {
			break
		}
		if i++; i == len(raw) {
			return utf8.AppendRune(dst, utf8.RuneError)
		}
		c := raw[i]
		i++
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := hex4(raw[i:])
			if !ok {
				dst = utf8.AppendRune(dst, utf8.RuneError)
				continue
			}
			i += 4
			if r >= 0xd800 && r < 0xdc00 && i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
				if low, ok := hex4(raw[i+2:]); ok && low >= 0xdc00 && low < 0xe000 {
					r = (r-0xd800)<<10 | (low - 0xdc00) + 0x10000
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r) // a lone surrogate becomes U+FFFD here
		default: // quote, backslash, slash
			dst = append(dst, c)
		}
	}
	return dst
}

// hex4 reads the four hexadecimal digits at the start of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			r |= rune(c - 'A' + 10)
		default:
			return 0, false
		}
	}
	return r, true
}
