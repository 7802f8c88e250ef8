package cells

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// column is how the values of a column become cells.
type column struct {
	kind  Kind // of the cells; Empty: by the kind of each value
	texts map[string][]byte
	other []byte // text for values without entry in texts; nil: they stay
	join  []byte // nil: arrays are compact JSON
	times timeReader
	link  []linkPart // nil: no link
	// same is the first column that mostly has the same value, -1 for none. A long text is made only once, or
	// many columns of one key would multiply it.
	same int32
}

var columnKinds = map[string]Kind{
	"": Empty, events.ColumnAuto: Empty, events.ColumnText: Text, events.ColumnNumber: Number,
	events.ColumnBool: Bool, events.ColumnDate: Date, events.ColumnDatetime: Datetime, events.ColumnJSON: JSON,
}

// mapOther is the key of events.Column.Map for all other values.
const mapOther = "*"

func (k *column) init(r *Reader, spec *events.Column) (err error) {
	var ok bool
	if k.kind, ok = columnKinds[spec.Type]; !ok {
		return fmt.Errorf("type: %q is not known", spec.Type)
	}
	if k.kind == Date || k.kind == Datetime {
		if k.times, err = newTimeReader(spec.From); err != nil {
			return fmt.Errorf("from: %w", err)
		}
	}
	if len(spec.Map) > 0 {
		k.texts = make(map[string][]byte, len(spec.Map))
		for text, to := range spec.Map {
			k.texts[text] = []byte(to)
		}
		k.other = k.texts[mapOther]
	}
	if spec.Join != nil {
		k.join = append([]byte{}, *spec.Join...)
	}
	if spec.Link != "" {
		if k.link, err = newLink(r, spec.Link); err != nil {
			return fmt.Errorf("link: %w", err)
		}
	}
	return nil
}

// maxText is more than any value holds.
const maxText = 1 << 40

// directKinds are the kinds of the cells whose text is the value as sent, by the kind of the value. Empty means
// that fill makes the cell.
type directKinds [rows.Array + 1]Kind

// direct returns the kinds of the cells of a column that are made by fillDirect. The cells have neither a time
// nor a link.
func (k *column) direct() (kinds directKinds) {
	if k.texts != nil || k.link != nil {
		return kinds
	}
	switch k.kind {
	case Empty:
		kinds[rows.False], kinds[rows.True], kinds[rows.Number], kinds[rows.String] = Bool, Bool, Number, Text
	case Text:
		kinds[rows.False], kinds[rows.True], kinds[rows.Number], kinds[rows.String] = Text, Text, Text, Text
	case Number:
		kinds[rows.Number] = Number
	case Bool:
		kinds[rows.False], kinds[rows.True] = Bool, Bool
	}
	return kinds
}

// directText returns the kind and the text of the cell of a value that stays as sent; of others the kind is Empty.
func (r *Reader) directText(col int32, span rows.Span) (Kind, []byte) {
	kind := r.direct[col][span.Kind]
	if kind == Empty || span.Escaped {
		return Empty, nil
	}
	raw := r.cursor.Raw(span)
	if span.Kind == rows.String {
		raw = raw[1 : len(raw)-1 : len(raw)-1]
	}
	return kind, raw
}

// fillDirect makes the cell of a value that stays as sent, and reports whether it is one.
func (r *Reader) fillDirect(col int32, span rows.Span) bool {
	kind, text := r.directText(col, span)
	if kind == Empty {
		return false
	}
	cell := &r.cells[col]
	cell.Kind, cell.Text, cell.Verbatim = kind, text, true
	cell.Bool = kind == Bool && span.Kind == rows.True
	return true
}

// fill makes the cell of any value.
func (r *Reader) fill(col int32, span rows.Span) {
	cell, k := &r.cells[col], &r.columns[col]
	*cell = Cell{}
	if span.Kind == rows.Null {
		return
	}
	if k.kind == JSON && k.texts == nil && (k.join == nil || span.Kind != rows.Array) {
		cell.Kind, cell.Text = JSON, r.madeOf(col, span, rows.Array) // a string keeps its quotes
		if k.link != nil {
			r.linkCell(cell, k, col)
		}
		return
	}
	kind, text := span.Kind, r.madeOf(col, span, span.Kind)
	if kind == rows.Array && k.join != nil {
		if joined, missed, ok := r.join(k, span); ok {
			kind, text = rows.String, joined
			if missed {
				r.notes.column(col).unmapped.add(r.notes.rows, text)
			}
		}
	} else if k.texts != nil {
		if to := k.mapped(kind, text); to != nil {
			kind, text = rows.String, to
		} else if kind != rows.String || len(text) > 0 {
			r.notes.column(col).unmapped.add(r.notes.rows, text)
		}
	}
	cell.Text = text
	if !r.typed(cell, k, kind) {
		cell.Kind = Text
		r.notes.column(col).misfits.add(r.notes.rows, text)
	}
	if k.link != nil {
		r.linkCell(cell, k, col)
	}
}

// typed gives a cell the kind of its column, and reports whether the value fits. The text of the cell is set.
// In a column of type json it replaces the value.
func (r *Reader) typed(cell *Cell, k *column, kind rows.Kind) bool {
	text := cell.Text
	if kind == rows.String && len(text) == 0 && k.kind >= Number && k.kind <= Datetime {
		*cell = Cell{} // CSV and many APIs say "" for no value
		return true
	}
	switch k.kind {
	case Empty:
		cell.Kind, cell.Bool = kindsOfAuto[kind], kind == rows.True
	case Text:
		cell.Kind = Text
	case Number:
		cell.Kind = Number
		return kind == rows.Number || kind == rows.String && IsNumber(text)
	case Bool:
		cell.Kind = Bool
		var known bool
		cell.Bool, known = boolOf(kind, text)
		return known
	case Date, Datetime:
		return r.date(cell, k, kind)
	case JSON:
		cell.Kind = JSON
		if kind != rows.String {
			break
		}
		start := len(r.text)
		r.text, _ = jsontext.AppendQuote(r.text, text)
		cell.Text = r.text[start:len(r.text):len(r.text)]
	}
	return true
}

var kindsOfAuto = [...]Kind{
	rows.False: Bool, rows.True: Bool, rows.Number: Number, rows.String: Text, rows.Object: JSON,
	rows.Array: JSON,
}

// madeOf returns the text of a value of a column: decoded, or compact JSON. A string is decoded unless it is
// read as an array, which leaves it JSON.
func (r *Reader) madeOf(col int32, span rows.Span, as rows.Kind) []byte {
	raw := r.cursor.Raw(span)
	switch {
	case span.Kind < rows.String:
		return raw
	case span.Kind == rows.String && !span.Escaped && as == rows.Array:
		return raw
	case span.Kind == rows.String && !span.Escaped:
		return raw[1 : len(raw)-1 : len(raw)-1]
	}
	if same := r.columns[col].same; same >= 0 {
		if v := &r.values[same]; v.stamp == r.stamp && v.span == span && v.text != nil {
			return v.text
		}
	}
	start := len(r.text)
	r.text = encode.AppendText(r.text, rows.Value{Kind: as, Raw: raw, Escaped: span.Escaped}, maxText)
	text := r.text[start:len(r.text):len(r.text)]
	r.values[col].text = text
	return text
}

// mapped returns the text that replaces a value, nil if it stays. A number is looked up as sent and without
// needless zeros: 1.0 is also "1".
func (k *column) mapped(kind rows.Kind, text []byte) []byte {
	if to, ok := k.texts[string(text)]; ok {
		return to
	}
	if kind == rows.Number {
		var buffer [maxPlain + 2]byte
		if to, ok := k.texts[string(appendPlain(buffer[:0], text))]; ok {
			return to
		}
	}
	if kind == rows.String && len(text) == 0 {
		return nil
	}
	return k.other
}

// maxJoined is the maximum number of bytes of all joined texts in a row. Columns may join one array many
// times.
const maxJoined = 4 << 20

// join returns the scalars of an array as one text; null is an empty one. missed reports that a value has no
// entry in the map of the column. ok is false if the array holds others, or the texts are too long.
func (r *Reader) join(k *column, span rows.Span) (text []byte, missed, ok bool) {
	start := len(r.text)
	in := r.cursor.Enter(span)
	for n := 0; ; n++ {
		v, more := in.NextElement()
		if !more {
			break
		}
		if v.Kind == rows.Object || v.Kind == rows.Array || r.joined+len(r.text)-start > maxJoined {
			r.text = r.text[:start]
			return nil, false, false
		}
		if n > 0 {
			r.text = append(r.text, k.join...)
		}
		if v.Kind == rows.Null {
			continue
		}
		if k.texts == nil {
			r.text = encode.AppendText(r.text, in.At(v), maxText)
			continue
		}
		part := len(r.text)
		r.text = encode.AppendText(r.text, in.At(v), maxText)
		if to := k.mapped(v.Kind, r.text[part:]); to != nil {
			r.text = append(r.text[:part], to...)
		} else {
			missed = true
		}
	}
	r.joined += len(r.text) - start
	return r.text[start:len(r.text):len(r.text)], missed, true
}

// boolOf returns the boolean that a value stands for.
func boolOf(kind rows.Kind, text []byte) (value, known bool) {
	switch kind {
	case rows.True, rows.False:
		return kind == rows.True, true
	case rows.Number:
		var buffer [maxPlain + 2]byte
		text = appendPlain(buffer[:0], text)
	case rows.String:
	default:
		return false, false
	}
	switch string(text) {
	case "true", "1":
		return true, true
	case "false", "0":
		return false, true
	}
	return false, false
}

// IsNumber reports whether a text is a number as JSON writes it (RFC 8259, section 6).
func IsNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && b[n] >= '0' && b[n] <= '9' {
			n++
		}
		b = b[n:]
		return n > 0
	}
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	if len(b) > 1 && b[0] == '0' && b[1] >= '0' && b[1] <= '9' || !digits() {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		if b = b[1:]; !digits() {
			return false
		}
	}
	if len(b) > 0 && b[0]|0x20 == 'e' {
		if b = b[1:]; len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}

// decimal is the value digits × 10^exponent of a number. digits neither begins nor ends with 0; zero has
// none.
type decimal struct {
	negative bool
	digits   [maxDigits]byte
	n        int // number of digits
	exponent int
}

// maxDigits is more than any float64 needs.
const maxDigits = 32

// parseDecimal reads a JSON number. ok is false if it has more than maxDigits digits, or an exponent beyond a
// thousand.
func parseDecimal(b []byte) (d decimal, ok bool) {
	if b[0] == '-' {
		d.negative = true
		b = b[1:]
	}
	if i := bytes.IndexAny(b, "eE"); i >= 0 {
		exponent := bytes.TrimPrefix(b[i+1:], []byte{'+'})
		if len(exponent) > 5 {
			return decimal{}, false
		}
		var err error
		if d.exponent, err = strconv.Atoi(string(exponent)); err != nil || d.exponent > 1000 || d.exponent < -1000 {
			return decimal{}, false
		}
		b = b[:i]
	}
	zeros, fraction := 0, false // zeros after the last digit so far
	for _, c := range b {
		if c == '.' {
			fraction = true
			continue
		}
		if fraction {
			d.exponent--
		}
		if c == '0' {
			if d.n > 0 {
				zeros++
			}
			continue
		}
		if d.n+zeros >= maxDigits {
			return decimal{}, false
		}
		for ; zeros > 0; zeros-- {
			d.digits[d.n] = '0'
			d.n++
		}
		d.digits[d.n] = c
		d.n++
	}
	d.exponent += zeros
	if d.n == 0 {
		return decimal{}, true
	}
	return d, true
}

// maxPlain is the maximum number of characters that appendPlain writes for another number than it got.
const maxPlain = 2 * maxDigits

// appendPlain appends a JSON number without exponent and needless zeros. A number that would be longer than
// maxPlain stays as it is.
func appendPlain(dst, raw []byte) []byte {
	d, ok := parseDecimal(raw)
	switch point := d.n + d.exponent; { // digits before the point
	case !ok || d.exponent > maxDigits || point < -maxDigits/2:
		return append(dst, raw...)
	case d.n == 0:
		return append(dst, '0')
	default:
		if d.negative {
			dst = append(dst, '-')
		}
		digits := d.digits[:d.n]
		switch {
		case d.exponent >= 0:
			dst = append(dst, digits...)
			for range d.exponent {
				dst = append(dst, '0')
			}
		case point > 0:
			dst = append(append(append(dst, digits[:point]...), '.'), digits[point:]...)
		default:
			dst = append(dst, "0."...)
			for range -point {
				dst = append(dst, '0')
			}
			dst = append(dst, digits...)
		}
		return dst
	}
}
