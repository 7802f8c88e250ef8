package xlsx

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/cells"
)

// Limits of a worksheet (Microsoft, "Excel specifications and limits"; the
// columns also ECMA-376 part 1, 18.3.1.13).
const (
	maxRows     = 1_048_576
	maxCellText = 32_767 // UTF-16 code units
)

var maxColumns = events.XLSX.MaxColumns

// Column widths, in characters of the default font. A CJK character counts as two.
const (
	minWidth = 8
	maxWidth = 60
	// maxColumnWidth is the maximum width of a column whose width is given (Excel's limit).
	maxColumnWidth = 255
	widthMargin    = 2
	// widthRows is the number of data rows that the column widths are measured on.
	widthRows = 100
)

// header is page 1's first row: the columns and their titles.
type header struct {
	columns map[string]int32 // by decoded name
	titles  [][]byte         // decoded
	refs    []snippet        // `<c r="A` and so on
	auto    []bool           // columns whose cells have the kinds and texts of their values
	// numeric are the columns of auto with a cell that is a number. Encoders set them.
	numeric []atomic.Bool

	// Of a document that is not plain:
	sheet  *encode.Sheet
	styles []*columnStyles
}

// newHeader makes the header of columns; h is nil if there is none.
func newHeader(columns []encode.Column) (h *header, err error) {
	if columns == nil {
		return nil, nil
	}
	if len(columns) > maxColumns {
		return nil, &encode.TooManyColumnsError{Columns: len(columns), Max: maxColumns}
	}
	h = &header{columns: map[string]int32{}, numeric: make([]atomic.Bool, len(columns))}
	for i, column := range columns {
		h.columns[column.Name] = int32(i)
		h.titles = append(h.titles, []byte(column.Title))
		h.refs = append(h.refs, newSnippet(`<c r="`, columnName(i)))
		spec := column.Spec
		h.auto = append(h.auto, spec == nil ||
			(spec.Type == "" || spec.Type == events.ColumnAuto) && len(spec.Map) == 0 && spec.Join == nil)
	}
	return h, nil
}

// columnName returns the letters of a column, counted from 0.
func columnName(i int) string {
	var b [3]byte
	at := len(b)
	for i++; i > 0; i /= 26 {
		i--
		at--
		b[at] = byte('A' + i%26)
	}
	return string(b[at:])
}

// appendRow appends the header row and reports which titles were cut.
func (h *header) appendRow(dst []byte) (_ []byte, cuts cellCuts) {
	dst = append(dst, `<row r="1">`...)
	for i, title := range h.titles {
		if len(title) == 0 {
			continue
		}
		style := styleBold
		if beginsFormula(title) {
			style = styleBoldQuoted
		}
		dst = append(append(dst, h.refs[i].text()...), `1" s="`...)
		dst = append(strconv.AppendInt(dst, int64(style), 10), '"')
		var cut bool
		if dst, cut = appendInline(dst, title); cut {
			cuts.add(1, i)
		}
	}
	return append(dst, `</row>`...), cuts
}

// cellCuts counts the cells whose text was cut, and locates the first.
type cellCuts struct {
	n      int64
	row    int // from 1, on its sheet
	column int // from 0
	sheet  int // from 1; set when chunks are merged
}

func (c *cellCuts) add(row, column int) {
	if c.n++; c.n == 1 {
		c.row, c.column = row, column
	}
}

// textNumbers counts the numbers of a column in a chunk that are text.
type textNumbers struct {
	n   int32
	row int32 // of the first, from 1, on its sheet
}

// textNumber counts a number that became text. columns is the number of columns.
func (c *chunk) textNumber(column int32, row, columns int) {
	countNumber(&c.numbers, column, row, columns)
}

func countNumber(in *[]textNumbers, column int32, row, columns int) {
	if *in == nil {
		*in = make([]textNumbers, columns)
	}
	t := &(*in)[column]
	if t.n++; t.n == 1 {
		t.row = int32(row)
	}
}

// sawNumber notes that a column has a cell that is a number.
func (h *header) sawNumber(column int32) {
	if h.auto[column] && !h.numeric[column].Load() {
		h.numeric[column].Store(true)
	}
}

// sawText counts a text that the source sent if it is a number.
func (e *encoder) sawText(text []byte, column int32, row int) {
	if len(text) > 0 && text[0] >= '-' && text[0] <= '9' && e.head.auto[column] && cells.IsNumber(text) {
		countNumber(&e.now.texts, column, row, len(e.head.titles))
	}
}

// unknownFields counts fields whose name is not in the header, and records the first.
type unknownFields struct {
	n    int64
	name string
	row  int64 // data row of the export, from 1
}

// chunk is the XML of successive rows of a batch. Its buffer returns to a pool once all blocks that borrow
// from it are deflated.
type chunk struct {
	xml []byte
	// first is the index in its batch of the first row that begins in the chunk. A chunk that continues a row
	// holds no other row.
	first     int
	rows      int // rows that begin in it
	continues bool
	newSheet  bool // it begins with the first row of a new sheet

	cuts    cellCuts
	unknown unknownFields
	numbers []textNumbers // by column; only if it holds numbers that became text
	texts   []textNumbers // by column; only if it holds texts that are numbers in columns of header.auto
	widths  []uint8       // by column; only if it holds measured rows
	err     error         // the batch ends here

	// Of a document that is not plain:
	notes *cells.Notes
	links []cellLink
	urls  []byte // of links, one after the other

	holders atomic.Int32 // number of readers of xml
}

var chunks sync.Pool

func newChunk(first int) *chunk {
	c, ok := chunks.Get().(*chunk)
	if !ok {
		c = &chunk{xml: make([]byte, 0, blockSize+blockSize/4)}
	}
	c.first = first
	c.holders.Store(1)
	return c
}

// release drops one reference to the chunk.
func (c *chunk) release() {
	if c.holders.Add(-1) > 0 {
		return
	}
	if cap(c.xml) <= 4*blockSize {
		chunks.Put(&chunk{xml: c.xml[:0]})
	}
}

// encoder turns rows into sheet XML. It is used by one goroutine.
//
// A row of n fields costs O(n), whatever the number of columns.
type encoder struct {
	head    *header
	maxRows int // per sheet, header included
	limit   int // chunk size from which on it is emitted
	emit    func(*chunk) error
	// before, if set, is called before each row, once all earlier rows are emitted. It may change the batch's
	// base.
	before func(b *batch, global int64) error

	now *chunk

	reader *cells.Reader // nil if the document is plain

	slots   []rows.Span // by column, valid where stamp is generation
	stamps  []uint32
	stamp   uint32
	touched []int32 // columns that the row has
	guesses []guess // by position in the row
	digits  [8]byte // of the row's number
	scratch []byte
	text    []byte
}

// guess is the column of the previous row's field at this position. Rows mostly repeat their names in one
// order, which saves the map lookup.
type guess struct {
	name   []byte // as rows.Expect makes it
	column int32  // -1: none
}

// snippet is a short text that is written often. It is copied as a whole array, whatever its length, which
// needs no function call.
type snippet struct {
	bytes  [snippetSize]byte
	length int
}

// snippetSize fits a row's number and the tags before a text.
const snippetSize = 32

func newSnippet[T []byte | string](a T, b string) (s snippet) {
	s.length = copy(s.bytes[:], a)
	s.length += copy(s.bytes[s.length:], b)
	return s
}

func (s *snippet) text() []byte { return s.bytes[:s.length] }

// appendTo appends the snippet to dst, which has snippetSize bytes of spare capacity.
func (s *snippet) appendTo(dst []byte) []byte {
	*(*[snippetSize]byte)(dst[len(dst) : len(dst)+snippetSize]) = s.bytes
	return dst[:len(dst)+s.length]
}

func newEncoder(h *header, maxRows int) (*encoder, error) {
	e := &encoder{head: h, maxRows: maxRows, limit: blockSize}
	if h.sheet == nil {
		e.slots, e.stamps = make([]rows.Span, len(h.titles)), make([]uint32, len(h.titles))
		return e, nil
	}
	var err error
	e.reader, err = cells.NewReader(*h.sheet)
	return e, err
}

// batch encodes the rows of b from index from on and emits chunks.
func (e *encoder) batch(b *batch, from int) error {
	e.now = nil
	i := 0
	for _, p := range b.pages {
		c := rows.NewCursor(p.Rows)
		n := 0
		for c.NextRow() {
			if n++; n == 1 && p.SkipFirst {
				continue
			}
			if i++; i <= from {
				continue
			}
			if err := e.row(&c, b, i-1); err != nil {
				return err
			}
		}
		if n != p.RowCount {
			return &encode.RowsError{Page: p.Number, Want: p.RowCount, Got: n}
		}
	}
	return e.flush(i, false)
}

// place returns the row number on its sheet of the data row with global index i. Data row base is the first
// of a sheet.
func place(i, base int64, maxRows int) (number int, newSheet bool) {
	at := (i - base) % int64(maxRows-1)
	return int(at) + 2, at == 0 && i > base
}

// row appends one row to the current chunk and emits chunks that are full.
func (e *encoder) row(c *rows.Cursor, b *batch, index int) error {
	global := b.first + int64(index)
	if e.before != nil {
		if err := e.flush(index, false); err != nil {
			return err
		}
		if err := e.before(b, global); err != nil {
			return err
		}
	}
	number, newSheet := place(global, b.base, e.maxRows)
	if newSheet {
		if err := e.flush(index, false); err != nil {
			return err
		}
	}
	if e.now == nil {
		e.now = newChunk(index)
		e.now.newSheet = newSheet
	}
	e.now.rows++
	measure := global < widthRows
	if measure && e.now.widths == nil {
		e.now.widths = make([]uint8, len(e.head.titles))
	}

	digits := strconv.AppendInt(e.digits[:0], int64(number), 10)
	out := append(append(append(e.now.xml, `<row r="`...), digits...), '"')
	var err error
	if e.reader != nil {
		out, err = e.typedRow(out, c, number, index, digits, measure)
	} else {
		e.read(c, global)
		out, err = e.plainRow(out, c, number, index, digits, measure)
	}
	if err != nil {
		return err
	}
	e.now.xml = append(out, `</row>`...)
	if e.now.continues || len(e.now.xml) >= e.limit {
		return e.flush(index+1, false)
	}
	return nil
}

// plainRow writes the cells of a row that was read. It returns out, or the XML of the chunk that continues the
// row.
func (e *encoder) plainRow(out []byte, c *rows.Cursor, number, index int, digits []byte,
	measure bool) ([]byte, error) {
	inline := newSnippet(digits, `" t="inlineStr"><is><t>`)
	out = append(out, '>')
	for _, col := range e.touched {
		span := e.slots[col]
		if span.Kind == rows.Null {
			continue
		}
		raw := c.Raw(span)
		out = e.head.refs[col].appendTo(slices.Grow(out, 2*snippetSize))
		text := raw
		switch span.Kind {
		case rows.True:
			out = append(append(out, digits...), `" t="b"><v>1</v></c>`...)
		case rows.False:
			out = append(append(out, digits...), `" t="b"><v>0</v></c>`...)
		default:
			if span.Kind == rows.Number {
				if shown := cellNumber(raw); shown != nil {
					e.head.sawNumber(col)
					out = append(append(append(append(out, digits...), `"><v>`...), shown...), `</v></c>`...)
					break
				}
				e.now.textNumber(col, number, len(e.head.titles))
			}
			if span.Kind == rows.String && !span.Escaped {
				text = raw[1 : len(raw)-1]
			} else {
				e.text = encode.AppendText(e.text[:0], c.At(span), maxCellText)
				text = e.text
			}
			if span.Kind == rows.String {
				e.sawText(text, col, number)
			}
			if isPlain(text) {
				out = append(append(inline.appendTo(out), text...), `</t></is></c>`...)
				break
			}
			var cut bool
			if out, cut = appendStyled(append(append(out, digits...), '"'), text); cut {
				e.now.cuts.add(number, int(col))
			}
		}
		if measure {
			e.now.widths[col] = max(e.now.widths[col], textWidth(text))
		}
		if len(out) >= e.limit {
			// Also within a row, so that memory does not depend on its size.
			e.now.xml = out
			if err := e.flush(index+1, true); err != nil {
				return nil, err
			}
			if measure {
				e.now.widths = make([]uint8, len(e.head.titles))
			}
			out = e.now.xml
		}
	}
	return out, nil
}

// flush emits the current chunk. If within is true, the next chunk continues the row.
func (e *encoder) flush(next int, within bool) error {
	c := e.now
	e.now = nil
	if within {
		e.now = newChunk(next)
		e.now.continues = true
	}
	if c == nil {
		return nil
	}
	if e.reader != nil {
		c.notes = e.reader.Notes()
	}
	return e.emit(c)
}

// read fills slots and touched with the current row's fields, in column order.
func (e *encoder) read(c *rows.Cursor, global int64) {
	if e.stamp++; e.stamp == 0 { // it wrapped around after 2^32 rows, so old stamps would count as current
		clear(e.stamps)
		e.stamp = 1
	}
	e.touched = e.touched[:0]
	sorted, last := true, int32(-1)
	for i := 0; ; i++ {
		if i == len(e.guesses) {
			e.guesses = append(e.guesses, guess{})
		}
		g := &e.guesses[i]
		at, same, ok := c.Next(g.name)
		if !ok {
			break
		}
		col := g.column
		if !same {
			name := c.Name()
			col = e.column(name)
			if len(name) <= maxGuessed {
				g.name, g.column = rows.Expect(g.name[:0], name), col
			}
		}
		if col < 0 {
			if u := &e.now.unknown; u.n == 0 {
				u.name, u.row = shownName(c.Name()), global+1
			}
			e.now.unknown.n++
			continue
		}
		e.slots[col] = at // the last field of a name counts
		if e.stamps[col] == e.stamp {
			continue
		}
		e.stamps[col] = e.stamp
		e.touched = append(e.touched, col)
		sorted = sorted && col > last
		last = col
	}
	if !sorted {
		slices.Sort(e.touched)
	}
}

// maxGuessed is the longest name that a guess keeps, in bytes.
const maxGuessed = 256

// shownName returns the first 100 characters of a raw name.
func shownName(name []byte) string {
	const maxRunes = 100
	return shownText(rows.Unquote(nil, name[:min(len(name), (maxRunes+1)*len(`\uD83D\uDE00`))]), maxRunes)
}

// shownText returns the first characters of a text.
func shownText(text []byte, maxRunes int) string {
	r := []rune(string(text[:min(len(text), (maxRunes+1)*utf8.UTFMax)]))
	if len(r) > maxRunes {
		return string(r[:maxRunes]) + "…"
	}
	return string(r)
}

// column returns the column of a raw name, or -1 if the header lacks it.
func (e *encoder) column(name []byte) int32 {
	if bytes.IndexByte(name, '\\') >= 0 {
		e.scratch = rows.Unquote(e.scratch[:0], name)
		name = e.scratch
	}
	if col, ok := e.head.columns[string(name)]; ok {
		return col
	}
	return -1
}

var zeroNumber = []byte{'0'}

// maxFloatDigits is the maximum number of significant digits in the shortest decimal of a float64.
const maxFloatDigits = 17

// cellNumber returns a JSON number as text for a number cell, or nil if a number cell would lose digits.
// Integers keep up to 15 digits. A number with a fraction or an exponent must equal the shortest decimal of
// its float64 and lie within Excel's range: Excel shows 15 digits but calculates with all. Only zeros change
// their notation.
func cellNumber(raw []byte) []byte {
	if len(raw) <= 15 && bytes.IndexByte(raw, 'e') < 0 && bytes.IndexByte(raw, 'E') < 0 {
		return raw // a float64 holds any 15 significant digits (IEEE 754, DBL_DIG)
	}
	digits := raw
	if digits[0] == '-' {
		digits = digits[1:]
	}
	exponent, scientific := 0, false
	if i := bytes.IndexAny(digits, "eE"); i >= 0 {
		scientific = true
		var err error
		if exponent, err = strconv.Atoi(string(digits[i+1:])); err != nil {
			exponent = math.MaxInt32
		}
		digits = digits[:i]
	}
	point := bytes.IndexByte(digits, '.')
	if point < 0 {
		if point = len(digits); !scientific {
			if point <= 15 {
				return raw
			}
			return nil
		}
	}
	// first and last are the places of the outermost digits other than zero; the ones are place 0.
	first, last, isZero := 0, 0, true
	for i, c := range digits {
		if c == '0' || c == '.' {
			continue
		}
		at := point - i
		if i < point {
			at--
		}
		if isZero {
			first, isZero = at, false
		}
		last = at
	}
	switch {
	case isZero && scientific:
		return zeroNumber // readers disagree on 0e999
	case isZero:
		return raw
	}
	// Excel's numbers reach from 2.2251E-308 to 9.99999999999999E+307.
	if exponent >= math.MaxInt32 || exponent <= math.MinInt32 || first+exponent > 307 ||
		first+exponent < -307 {
		return nil
	}
	if n := first - last + 1; n > maxFloatDigits || n > 15 && !isShortest(digits, n, first+exponent) {
		return nil
	}
	return raw
}

// isShortest reports whether a decimal is the shortest one of its float64. It has n significant digits; the
// first stands for 10^exponent. digits may include a point and surrounding zeros.
func isShortest(digits []byte, n, exponent int) bool {
	var buffer, shortest [2 * maxFloatDigits]byte
	scientific := buffer[:0]
	for _, c := range digits {
		if c == '.' || c == '0' && len(scientific) == 0 {
			continue
		}
		if scientific = append(scientific, c); len(scientific) == 1 {
			scientific = append(scientific, '.')
		}
		if len(scientific) == n+1 {
			break
		}
	}
	// strconv's 'e' format has at least two digits of exponent.
	scientific = append(scientific, 'e', '+')
	if exponent < 0 {
		scientific[len(scientific)-1] = '-'
		exponent = -exponent
	}
	if exponent < 10 {
		scientific = append(scientific, '0')
	}
	scientific = strconv.AppendInt(scientific, int64(exponent), 10)
	f, err := strconv.ParseFloat(string(scientific), 64)
	return err == nil && bytes.Equal(strconv.AppendFloat(shortest[:0], f, 'e', -1, 64), scientific)
}

// Classes of bytes in a cell's text. Bytes of class 0 need no escaping.
const (
	escapeMarkup = 1 + iota
	escapeControl
	escapeUnderscore
	escapeNoncharacter // possibly: the first byte of U+FFFE and U+FFFF, and of others
)

var textClass = func() (t [256]byte) {
	for c := range ' ' {
		t[c] = escapeControl
	}
	t['\t'], t['\n'] = 0, 0
	t['&'], t['<'], t['>'] = escapeMarkup, escapeMarkup, escapeMarkup
	t['_'] = escapeUnderscore
	t[0xEF] = escapeNoncharacter
	return t
}()

// appendInline appends the rest of a text cell after its reference. An inline string is never read as a
// formula. Text beyond maxCellText is cut.
func appendInline(dst, text []byte) (_ []byte, cut bool) {
	if len(text) > maxCellText {
		if n := cutAt(text); n < len(text) {
			text, cut = text[:n], true
		}
	}
	if len(text) > 0 && (isSpace(text[0]) || isSpace(text[len(text)-1])) {
		dst = append(dst, ` t="inlineStr"><is><t xml:space="preserve">`...)
	} else {
		dst = append(dst, ` t="inlineStr"><is><t>`...)
	}
	dst = appendText(dst, text)
	return append(dst, `</t></is></c>`...), cut
}

// appendStyled is appendInline with the style that the text needs.
func appendStyled(dst, text []byte) (_ []byte, cut bool) {
	if beginsFormula(text) {
		dst = append(dst, quotedStyle...)
	}
	return appendInline(dst, text)
}

var quotedStyle = ` s="` + strconv.Itoa(styleQuoted) + `"`

// beginsFormula reports whether some program would read the text as a formula: it begins with a character of
// OWASP's CSV injection list, or with the full-width form of one.
func beginsFormula(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	switch text[0] {
	case '=', '+', '-', '@', '\t', '\r', '\n':
		return true
	case 0xEF: // U+FF1D, U+FF0B, U+FF0D, U+FF20
		return len(text) >= 3 && text[1] == 0xBC &&
			(text[2] == 0x9D || text[2] == 0x8B || text[2] == 0x8D || text[2] == 0xA0)
	}
	return false
}

// isPlain reports whether appendStyled would write a text unchanged, without a style and without xml:space.
// It may return false for texts that are plain.
func isPlain(text []byte) bool {
	if len(text) > maxCellText || beginsFormula(text) ||
		len(text) > 0 && (text[0] == ' ' || text[len(text)-1] == ' ') {
		return false
	}
	for ; len(text) >= 8; text = text[8:] {
		if !standForThemselves(binary.LittleEndian.Uint64(text)) {
			return false
		}
	}
	for _, c := range text {
		if textClass[c] != 0 || c < ' ' {
			return false
		}
	}
	return true
}

// standForThemselves reports whether all eight bytes of a word are of class 0 and not control characters. In
// x-ones, a byte has its high bit set if it was 0 in x.
func standForThemselves(w uint64) bool {
	const ones = 0x0101010101010101
	controls := (w - ones*' ') &^ w
	ampersand, angle := w^ones*'&', (w|ones*2)^ones*'>' // '<' is '>' without that bit
	underscore, noncharacter := w^ones*'_', w^ones*0xEF
	zeros := (ampersand-ones)&^ampersand | (angle-ones)&^angle | (underscore-ones)&^underscore | (noncharacter-ones)&^noncharacter
	return (controls|zeros)&(ones<<7) == 0
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// cutAt returns the length of the longest prefix of text that has at most maxCellText UTF-16 code units and
// ends between two characters.
func cutAt(text []byte) int {
	units := 0
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		units++
		if r > 0xFFFF {
			units++
		}
		if units > maxCellText {
			return i
		}
		i += n
	}
	return len(text)
}

// appendText appends valid UTF-8 as character data of an ST_Xstring (ECMA-376 part 1, 22.9.2.19). Characters
// that XML 1.0 cannot hold become _xHHHH_. So does an underscore that would read as the start of such a
// sequence, and a carriage return, because XML readers turn it into a line feed.
func appendText(dst, text []byte) []byte {
	start := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		class := textClass[c]
		if class == 0 {
			continue
		}
		var escape string
		width := 1
		switch class {
		case escapeMarkup:
			switch c {
			case '&':
				escape = "&amp;"
			case '<':
				escape = "&lt;"
			default:
				escape = "&gt;"
			}
		case escapeControl:
			dst = append(dst, text[start:i]...)
			dst = append(dst, '_', 'x', '0', '0', '0'+c>>4, upperHex[c&15], '_')
			start = i + 1
			continue
		case escapeUnderscore:
			if !looksEscaped(text[i:]) {
				continue
			}
			escape = "_x005F_"
		case escapeNoncharacter:
			switch noncharacter(text[i:]) {
			case 0xFFFE:
				escape = "_xFFFE_"
			case 0xFFFF:
				escape = "_xFFFF_"
			default:
				continue
			}
			width = 3
		}
		dst = append(append(dst, text[start:i]...), escape...)
		i += width - 1
		start = i + 1
	}
	return append(dst, text[start:]...)
}

const upperHex = "0123456789ABCDEF"

// looksEscaped reports whether text, which begins with an underscore, begins with _xHHHH_ once written. The
// last underscore may belong to the next escape.
func looksEscaped(text []byte) bool {
	if len(text) < 7 || text[1] != 'x' {
		return false
	}
	for _, c := range text[2:6] {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	switch textClass[text[6]] {
	case escapeUnderscore, escapeControl:
		return true
	case escapeNoncharacter:
		return noncharacter(text[6:]) != 0
	}
	return false
}

// noncharacter returns 0xFFFE or 0xFFFF if text begins with that character, else 0.
func noncharacter(text []byte) rune {
	if len(text) >= 3 && text[0] == 0xEF && text[1] == 0xBF && text[2] >= 0xBE {
		return 0xFF00 | rune(text[2]) | 0x40
	}
	return 0
}

// narrow makes ambiguous characters one column wide on every machine; runewidth's default depends on the
// locale.
var narrow = &runewidth.Condition{}

// textWidth returns the width of text's widest line in columns, at most maxWidth.
func textWidth(text []byte) uint8 {
	widest, width := 0, 0
	for len(text) > 0 && width < maxWidth {
		r, n := utf8.DecodeRune(text)
		text = text[n:]
		if r == '\n' {
			width = 0
			continue
		}
		width += narrow.RuneWidth(r)
		widest = max(widest, width)
	}
	return uint8(min(widest, maxWidth))
}
