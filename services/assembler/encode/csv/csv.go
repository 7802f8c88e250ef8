// Package csv writes CSV and TSV (RFC 4180): a header line, a line for each row, CRLF line ends. A field is
// quoted if it has the delimiter, a quote or a line break in it.
//
// Values stay data: numbers have their digits as sent, never rounded. A number format such as 0.00 appends the zeros
// that it shows: 40.5 is 40.50, and 1.005 stays. Booleans are true and false. Dates follow the format of their column if that is made of parts of dates, else they are ISO
// 8601 in the zone shown: 2026-01-02 and 2026-01-02 03:04:05.
package csv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/blocks"
	"sheaf/services/assembler/encode/cells"

	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/transform"
)

// Format and TSV are the formats of this package, with one sheet a file. TSV has a tab as its delimiter and no
// byte order mark.
var (
	Format = encode.Format{Format: events.CSV, Write: func(ctx context.Context, out *archive.Output,
		doc encode.Document) (encode.Result, error) {
		return write(ctx, out, doc, doc.CSV)
	}}
	TSV = encode.Format{Format: events.TSV, Write: func(ctx context.Context, out *archive.Output,
		doc encode.Document) (encode.Result, error) {
		o := doc.CSV
		o.Delimiter, o.NoBOM = "\t", true
		return write(ctx, out, doc, o)
	}}
)

// Warning codes.
const (
	WarnGuarded  = "CELL_GUARDED"  // texts that begin like a formula have an apostrophe before them
	WarnEncoding = "CELL_ENCODING" // characters that the encoding lacks became question marks
)

// Classes of bytes.
const (
	quoted   = 1 << iota // a field with such a byte is quoted
	notASCII             // part of another character than those of ASCII
)

const bom = "\uFEFF"

// emptyField is the only field of a line. Many readers skip an empty line.
const emptyField = `""`

func write(ctx context.Context, out *archive.Output, doc encode.Document,
	o events.CSVOptions) (encode.Result, error) {
	sheet := doc.Sheets[0]
	all := &notes{}
	job := blocks.Job[*notes]{Sheet: sheet, Parallel: doc.Parallel,
		New:   func() (blocks.Encoder[*notes], error) { return newEncoder(sheet, o) },
		Merge: func(n *notes) { all.add(n) },
	}
	if sheet.Columns != nil {
		e, err := newEncoder(sheet, o)
		if err != nil {
			return encode.Result{}, fmt.Errorf("write the CSV file: %w", err)
		}
		job.Head = e.header(sheet)
	}
	total, err := blocks.Write(ctx, out, job)
	if err == nil && all.cells != nil {
		err = all.cells.Err(sheet)
	}
	if err != nil {
		return encode.Result{}, fmt.Errorf("write the CSV file: %w", err)
	}
	return encode.Result{Rows: []int64{total}, Tables: 1, Warnings: all.warnings(sheet)}, nil
}

// encoder writes the lines of rows.
type encoder struct {
	reader    *cells.Reader
	columns   int
	delimiter byte
	guard     bool
	charset   transform.Transformer // nil: UTF-8
	withBOM   bool
	layouts   []layout  // by column; of dates and datetimes
	decimals  []int     // by column; the least digits after the point of a number
	classes   [256]byte // of the bytes of a text

	// For isPlain:
	delimiters  uint64 // the delimiter in each byte
	beyondASCII uint64 // all ones if bytes that are not ASCII have a class that counts

	texts []byte // of a date
	notes *notes
}

func newEncoder(sheet encode.Sheet, o events.CSVOptions) (*encoder, error) {
	r, err := cells.NewReader(sheet)
	if err != nil {
		return nil, err
	}
	e := &encoder{reader: r, columns: len(sheet.Columns), delimiter: ',', guard: !o.NoGuard, withBOM: !o.NoBOM,
		layouts: make([]layout, len(sheet.Columns)), decimals: make([]int, len(sheet.Columns)),
		notes: newNotes(len(sheet.Columns))}
	if o.Delimiter != "" {
		e.delimiter = o.Delimiter[0]
	}
	switch o.Encoding {
	case "gbk":
		e.charset, e.withBOM = simplifiedchinese.GBK.NewEncoder(), false
	case "gb18030":
		e.charset, e.withBOM = simplifiedchinese.GB18030.NewEncoder(), false
	}
	e.delimiters = 0x0101010101010101 * uint64(e.delimiter)
	if e.charset != nil {
		e.beyondASCII = math.MaxUint64
	}
	for i, c := range sheet.Columns {
		if c.Spec != nil {
			e.layouts[i] = parseLayout(c.Spec.Format)
			e.decimals[i], _ = cells.Decimals(c.Spec.Format)
		}
	}
	for _, c := range []byte{e.delimiter, '"', '\r', '\n'} {
		e.classes[c] = quoted
	}
	for c := utf8.RuneSelf; c < len(e.classes); c++ {
		e.classes[c] = notASCII
	}
	return e, nil
}

// header returns the first line, with the byte order mark before it.
func (e *encoder) header(sheet encode.Sheet) []byte {
	var b []byte
	if e.withBOM {
		b = append(b, bom...)
	}
	for i, c := range sheet.Columns {
		if i > 0 {
			b = append(b, e.delimiter)
		}
		b = e.appendText(b, []byte(c.Title), i, -1)
	}
	if len(sheet.Columns) == 1 && sheet.Columns[0].Title == "" {
		b = append(b, emptyField...)
	}
	return append(b, "\r\n"...)
}

// Row appends the line of a row.
func (e *encoder) Row(to *blocks.Buffer, c *rows.Cursor, n int64) {
	e.notes.rows++
	if e.reader.Usual(c) {
		e.usualRow(to)
	} else {
		e.otherRow(to, e.reader.Rest(c))
	}
	to.B = append(to.B, "\r\n"...)
}

// otherRow appends the fields of a row from its cells.
func (e *encoder) otherRow(to *blocks.Buffer, row []cells.Cell) {
	b := to.B
	for i := range row {
		if i > 0 {
			if b = append(b, e.delimiter); len(b) >= blocks.CutBytes {
				b = e.cut(to, b)
			}
		}
		b = e.appendCell(b, &row[i], i)
	}
	if len(row) == 1 && len(b) == len(to.B) {
		b = append(b, emptyField...)
	}
	to.B = b
}

// usualRow appends the fields of a row as the reader has them. It cuts blocks where otherRow does, because the
// kind of a row depends on the rows that the reader has seen.
func (e *encoder) usualRow(to *blocks.Buffer) {
	b, at := to.B, 0 // at is the column
	for i := range e.reader.Fields() {
		col, kind, text := e.reader.Field(i)
		if col < 0 {
			continue
		}
		for ; at < int(col); at++ {
			if b = append(b, e.delimiter); len(b) >= blocks.CutBytes {
				b = e.cut(to, b)
			}
		}
		switch kind {
		case cells.Empty:
			b = e.appendCell(b, e.reader.FieldCell(i), at)
		case cells.Text:
			b = e.appendText(b, text, at, e.notes.rows)
		case cells.Number:
			b = e.appendNumber(b, text, at)
		default: // a boolean
			b = append(b, text...)
		}
	}
	for ; at < e.columns-1; at++ {
		if b = append(b, e.delimiter); len(b) >= blocks.CutBytes {
			b = e.cut(to, b)
		}
	}
	if e.columns == 1 && len(b) == len(to.B) {
		b = append(b, emptyField...)
	}
	to.B = b
}

// cut may make a block of the bytes of a row. It returns the buffer of the next ones.
func (e *encoder) cut(to *blocks.Buffer, b []byte) []byte {
	to.B = b
	to.Cut()
	return to.B
}

// appendCell appends a cell of a column, nothing if it is Empty.
func (e *encoder) appendCell(b []byte, cell *cells.Cell, column int) []byte {
	switch cell.Kind {
	case cells.Empty:
		return b
	case cells.Text:
		return e.appendText(b, cell.Text, column, e.notes.rows)
	case cells.Bool:
		return strconv.AppendBool(b, cell.Bool)
	case cells.Number:
		return e.appendNumber(b, cell.Text, column)
	case cells.JSON:
		return e.appendField(b, cell.Text, column, e.notes.rows)
	}
	e.texts = e.layouts[column].append(e.texts[:0], cell)
	return e.appendField(b, e.texts, column, e.notes.rows)
}

// appendNumber appends a number as sent, and the zeros that the format of its column shows. A number with an
// exponent has none.
func (e *encoder) appendNumber(b, text []byte, column int) []byte {
	b = append(b, text...)
	zeros := e.decimals[column]
	if zeros == 0 || bytes.ContainsAny(text, "eE") {
		return b
	}
	if point := bytes.IndexByte(text, '.'); point >= 0 {
		zeros -= len(text) - point - 1
	} else {
		b = append(b, '.')
	}
	for ; zeros > 0; zeros-- {
		b = append(b, '0')
	}
	return b
}

// Notes returns the notes since the last call.
func (e *encoder) Notes() *notes {
	n := e.notes
	n.cells = e.reader.Notes()
	e.notes = newNotes(len(n.guarded))
	return n
}

// appendText appends a text. row is its row from 1, or -1 for the header.
func (e *encoder) appendText(b, text []byte, column int, row int64) []byte {
	if e.guard && beginsFormula(text) {
		if row > 0 {
			e.notes.guarded[column].count(row)
		}
		text = append([]byte{'\''}, text...)
	}
	return e.appendField(b, text, column, row)
}

// appendField appends a field, quoted if it must be.
func (e *encoder) appendField(b, text []byte, column int, row int64) []byte {
	if e.isPlain(text) {
		return append(b, text...)
	}
	class := byte(0)
	for _, c := range text {
		class |= e.classes[c]
	}
	if class == 0 {
		return append(b, text...)
	}
	encoded := e.charset != nil && class&notASCII != 0
	// The second byte of an encoded character may be that of the delimiter |.
	quote := class&quoted != 0 || encoded && e.delimiter == '|'
	if quote {
		b = append(b, '"')
	}
	switch {
	case encoded:
		var whole bool
		if b, whole = e.appendEncoded(b, text, quote); !whole && row > 0 {
			e.notes.lossy[column].count(row)
		}
	case quote:
		b = appendDoubled(b, text)
	default:
		b = append(b, text...)
	}
	if quote {
		b = append(b, '"')
	}
	return b
}

// isPlain reports whether no byte of a text has a class. It may return false for texts whose bytes have none.
func (e *encoder) isPlain(text []byte) bool {
	switch n := len(text); {
	case n >= 8:
		last := binary.LittleEndian.Uint64(text[n-8:])
		for ; len(text) > 8; text = text[8:] {
			if e.hasClass(binary.LittleEndian.Uint64(text)) {
				return false
			}
		}
		return !e.hasClass(last)
	case n >= 4:
		return !e.hasClass(uint64(binary.LittleEndian.Uint32(text)) | uint64(binary.LittleEndian.Uint32(text[n-4:]))<<32)
	}
	class := byte(0)
	for _, c := range text {
		class |= e.classes[c]
	}
	return class == 0
}

// hasClass reports whether a byte of a word may have a class: it is the delimiter, a quote or a control
// character, or not ASCII if that counts. In x-ones, a byte has its high bit set if it was 0 in x.
func (e *encoder) hasClass(w uint64) bool {
	const ones = 0x0101010101010101
	delimiter, quote := w^e.delimiters, w^ones*'"'
	found := (delimiter-ones)&^delimiter | (quote-ones)&^quote | (w-ones*' ')&^w
	return (found|w&e.beyondASCII)&(ones<<7) != 0
}

// appendDoubled appends a text with its quotes doubled.
func appendDoubled(b, text []byte) []byte {
	from := 0
	for i, c := range text {
		if c == '"' {
			b = append(b, text[from:i+1]...)
			from = i
		}
	}
	return append(b, text[from:]...)
}

// appendEncoded appends a text in the encoding of the file. whole is false if characters became question marks.
// The bytes of these encodings after the first of a character can be those of ASCII: the second is 0x40 to
// 0xFE, and of four bytes 0x30 to 0x39. So none is a quote, a comma, a semicolon, a tab, CR or LF.
func (e *encoder) appendEncoded(b, text []byte, quoted bool) (_ []byte, whole bool) {
	whole = true
	var from [4]byte
	var to [8]byte
	for _, r := range string(text) {
		if r < 0x80 {
			if b = append(b, byte(r)); quoted && r == '"' {
				b = append(b, '"')
			}
			continue
		}
		n := copy(from[:], string(r))
		e.charset.Reset()
		written, _, err := e.charset.Transform(to[:], from[:n], true)
		if err != nil || written == 0 {
			b, whole = append(b, '?'), false
			continue
		}
		b = append(b, to[:written]...)
	}
	return b, whole
}

// beginsFormula reports whether a spreadsheet may run a text as a formula (OWASP, "CSV Injection"). A plain
// number such as -5 or +86 is none.
func beginsFormula(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	switch text[0] {
	case '=', '@', '\t', '\r':
		return true
	case '+', '-':
		return !isNumber(text[1:])
	}
	return false
}

// isNumber reports whether a text is digits with at most one point and an exponent.
func isNumber(text []byte) bool {
	digits, point := false, false
	for i, c := range text {
		switch {
		case c >= '0' && c <= '9':
			digits = true
		case c == '.' && !point:
			point = true
		case (c == 'e' || c == 'E') && digits:
			rest := text[i+1:]
			if len(rest) > 0 && (rest[0] == '+' || rest[0] == '-') {
				rest = rest[1:]
			}
			for _, c := range rest {
				if c < '0' || c > '9' {
					return false
				}
			}
			return len(rest) > 0
		default:
			return false
		}
	}
	return digits
}
