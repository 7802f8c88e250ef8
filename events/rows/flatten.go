package rows

import (
	"bytes"
	"fmt"
	"slices"
)

// Flatten appends a checked array to dst, with the members of nested objects as fields of their row: the
// field user with {"name": "x"} becomes user.name. It does so for depth levels of objects. Deeper objects,
// empty objects and arrays stay values. Values keep their bytes.
//
// A name that then occurs twice in a row is an error, because one of the values would be lost. Rows, fields
// and bytes are within lim. Every error is a [*SyntaxError] that names the row.
func Flatten(dst, array []byte, depth int, lim Limits) ([]byte, error) {
	f := flattener{dst: append(dst, '['), start: len(dst), lim: lim.withDefaults()}
	for c := NewCursor(array); ; {
		row, ok := c.NextRaw()
		if !ok {
			break
		}
		if f.row++; f.row > 1 {
			f.dst = append(f.dst, ',')
		}
		f.rowStart = len(f.dst)
		f.dst = append(f.dst, '{')
		f.names = f.names[:0]
		if err := f.fields(row, depth); err != nil {
			return nil, err
		}
		f.dst = append(f.dst, '}')
		if err := f.checkNames(); err != nil {
			return nil, err
		}
	}
	return append(f.dst, ']'), nil
}

// flattener is the state of Flatten.
type flattener struct {
	dst      []byte
	start    int // of the array in dst
	lim      Limits
	row      int // from 1
	rowStart int // in dst

	prefix []byte // raw names of the objects around a field, each with a dot
	names  []name // of the row
	before []byte // the raw names of the last row that was checked, quoted
	text   []byte // scratch: raw names, then decoded ones
}

// name locates a raw name without its quotes in the result, or a decoded one in scratch.
type name struct{ start, end int }

// fields appends the fields of an object, and of the objects in it to depth levels.
func (f *flattener) fields(object []byte, depth int) error {
	c := Cursor{b: object, i: 1, inRow: true}
	for {
		at, _, ok := c.Next(nil)
		if !ok {
			return nil
		}
		value := c.Raw(at)
		if at.Kind == Object && depth > 0 && value[skipSpace(value, 1)] != '}' {
			outside := len(f.prefix)
			f.prefix = append(append(f.prefix, c.Name()...), '.')
			if err := f.fields(value, depth-1); err != nil {
				return err
			}
			f.prefix = f.prefix[:outside]
			continue
		}
		if len(f.names) > 0 {
			f.dst = append(f.dst, ',')
		}
		f.dst = append(f.dst, '"')
		n := name{start: len(f.dst)}
		f.dst = append(append(f.dst, f.prefix...), c.Name()...)
		n.end = len(f.dst)
		f.dst = append(append(f.dst, `":`...), value...)
		switch f.names = append(f.names, n); {
		case len(f.names) > f.lim.MaxFields:
			return f.beyond(ErrTooManyFields, "row %d: more than %d fields", f.row, f.lim.MaxFields)
		case len(f.dst)-f.rowStart >= f.lim.MaxRowBytes:
			return f.beyond(ErrRowTooLong, "row %d: more than %d bytes", f.row, f.lim.MaxRowBytes)
		case len(f.dst)-f.start >= f.lim.MaxBytes:
			return f.beyond(ErrTooManyBytes, "row %d: the rows have more than %d bytes", f.row, f.lim.MaxBytes)
		}
	}
}

func (f *flattener) beyond(limit error, format string, args ...any) error {
	return &SyntaxError{Row: f.row, Msg: fmt.Sprintf(format, args...), limit: limit}
}

// checkNames fails if two fields of the row have the same name. Most rows have the names of the row before.
func (f *flattener) checkNames() error {
	f.text = f.text[:0]
	for _, n := range f.names {
		f.text = append(append(f.text, f.dst[n.start:n.end]...), '"')
	}
	if bytes.Equal(f.text, f.before) {
		return nil
	}
	f.text, f.before = f.before[:0], f.text
	for i, n := range f.names {
		start := len(f.text)
		f.text = Unquote(f.text, f.dst[n.start:n.end])
		f.names[i] = name{start, len(f.text)}
	}
	text := func(n name) []byte { return f.text[n.start:n.end] }
	slices.SortFunc(f.names, func(a, b name) int { return bytes.Compare(text(a), text(b)) })
	for i := 1; i < len(f.names); i++ {
		if bytes.Equal(text(f.names[i-1]), text(f.names[i])) {
			return &SyntaxError{Row: f.row,
				Msg:  fmt.Sprintf("row %d: options.flatten makes two fields of the same name", f.row),
				Hint: "the name is " + quoteName(text(f.names[i]))}
		}
	}
	return nil
}
