package xlsx

import (
	"bytes"
	"math"
	"slices"
	"strconv"

	"sheaf/events/rows"
	"sheaf/services/assembler/encode/cells"
)

const (
	daySeconds = 86_400
	// epochDay is the serial of 1970-01-01.
	epochDay = 25_569
	// firstWall is 1900-03-01. Excel has a 1900-02-29, so serials before it mean different days to different
	// readers.
	firstWall = (61 - epochDay) * daySeconds
)

// appendSerial appends the serial of a wall clock from 1900-03-01 on: days, and the time of day to a tenth of
// a microsecond.
func appendSerial(dst []byte, wall int64, nanos int32) []byte {
	days, seconds := wall/daySeconds, wall%daySeconds
	if seconds < 0 {
		days, seconds = days-1, seconds+daySeconds
	}
	if serial := days + epochDay; serial >= 10_000 && serial < 100_000 { // the years 1927 to 2173
		a, b := 2*(serial/1000), 2*(serial/10%100)
		dst = append(dst, twoDigits[a], twoDigits[a+1], twoDigits[b], twoDigits[b+1], byte('0'+serial%10))
	} else {
		dst = strconv.AppendInt(dst, serial, 10)
	}
	// A day is 10^12 parts of 86.4 ns.
	part := min(((seconds*1e9+int64(nanos))*10+432)/864, 1e12-1)
	if part == 0 {
		return dst
	}
	digits := [14]byte{'.'}
	for i := 11; i > 0; i -= 2 {
		two := part % 100 * 2
		digits[i], digits[i+1] = twoDigits[two], twoDigits[two+1]
		part /= 100
	}
	n := 13
	for digits[n-1] == '0' {
		n--
	}
	return append(dst, digits[:n]...)
}

// twoDigits are the numbers from 00 to 99.
var twoDigits = func() (b [200]byte) {
	for i := range 100 {
		b[2*i], b[2*i+1] = byte('0'+i/10), byte('0'+i%10)
	}
	return b
}()

// lineHeight is the height of each line of a row with several, in points: Chinese characters need more than
// Latin ones. maxHeight is that of the tallest row (Excel's limit).
const lineHeight, maxHeight = 17, 409

// appendHeight appends the height of a row with several lines. Excel would find it by itself, LibreOffice shows
// one line without it.
func appendHeight(dst []byte, lines int) []byte {
	if lines < 2 {
		return dst
	}
	height := int64(min(lines, maxHeight) * lineHeight)
	return append(strconv.AppendInt(append(dst, ` ht="`...), min(height, maxHeight), 10), '"')
}

// typedRow writes the cells of a row of a document that is not plain. It returns out, or the XML of the chunk
// that continues the row.
func (e *encoder) typedRow(out []byte, c *rows.Cursor, number, index int, digits []byte,
	measure bool) ([]byte, error) {
	read := e.reader.Row(c)
	present := e.reader.Present()
	more := e.prepare(read, present)
	others := oneLine
	if more > 0 {
		others = atTop
	}
	out = append(appendHeight(out, 1+more), '>')
	row := newSnippet(digits, "")
	for _, col := range present {
		cell := &read[col]
		if cell.Kind == cells.Empty {
			continue
		}
		out = slices.Grow(out, 3*snippetSize)
		out = row.appendTo(e.head.refs[col].appendTo(out))
		if cell.Kind == cells.Text {
			e.sawText(cell.Text, col, number)
		}
		if text := cell.Text; cell.Kind == cells.Text && cell.Verbatim && cell.Link == nil && isPlain(text) {
			by := &e.head.styles[col].text[others][0][0]
			out = append(append(by.appendTo(out), inlineBegin...), text...)
			out = append(out, inlineEnd...)
			if measure {
				e.measured(col, textWidth(text))
			}
		} else {
			out = e.typedCell(out, cell, col, number, others, measure)
		}
		if len(out) >= e.limit {
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

const inlineBegin, inlineEnd = ` t="inlineStr"><is><t>`, `</t></is></c>`

// prepare refuses the dates that a workbook cannot hold. It returns the number of line breaks in the cell with
// the most.
func (e *encoder) prepare(row []cells.Cell, present []int32) (more int) {
	for _, col := range present {
		switch cell := &row[col]; cell.Kind {
		case cells.Text:
			if !cell.Verbatim {
				more = max(more, bytes.Count(cell.Text, []byte{'\n'}))
			}
		case cells.Date, cells.Datetime:
			if cell.Wall < firstWall {
				e.reader.Refuse(int(col))
			}
		}
	}
	return more
}

func (e *encoder) measured(col int32, width uint8) { e.now.widths[col] = max(e.now.widths[col], width) }

// typedCell appends a cell after its reference.
func (e *encoder) typedCell(out []byte, cell *cells.Cell, col int32, number int, others cellLines,
	measure bool) []byte {
	st := e.head.styles[col]
	width := uint8(0)
	switch cell.Kind {
	case cells.Bool:
		value := byte('0')
		if cell.Bool {
			value = '1'
		}
		out = append(e.style(out, &st.other[others], cell, col, number), ` t="b"><v>`...)
		out = append(append(out, value), `</v></c>`...)
		width = 5
	case cells.Date, cells.Datetime:
		by := &st.date
		if cell.Kind == cells.Datetime {
			by = &st.datetime
		}
		out = append(e.style(out, &by[others], cell, col, number), `><v>`...)
		out = append(appendSerial(out, cell.Wall, cell.Nanos), `</v></c>`...)
		if measure {
			width = formatWidth(st.shownFormat(cell.Kind))
		}
	case cells.Number:
		shown := cellNumber(cell.Text)
		if shown == nil {
			e.now.textNumber(col, number, len(e.head.titles))
			return e.textCell(out, cell, col, number, others, measure)
		}
		e.head.sawNumber(col)
		by, long := &st.number, len(shown) >= longDigits && isLong(shown)
		if long {
			by = &st.long
		}
		out = append(e.style(out, &by[others], cell, col, number), `><v>`...)
		out = append(append(out, shown...), `</v></c>`...)
		if measure {
			width = numberWidth(st.format, shown)
			if long && st.format == "" {
				width = uint8(min(len(shown), maxWidth))
			}
		}
	default:
		return e.textCell(out, cell, col, number, others, measure)
	}
	if measure {
		e.measured(col, width)
	}
	return out
}

// textCell appends a cell of text after its reference.
func (e *encoder) textCell(out []byte, cell *cells.Cell, col int32, number int, others cellLines,
	measure bool) []byte {
	text, lines, quoted := cell.Text, others, 0
	if cell.Kind == cells.Text && others == atTop && bytes.IndexByte(text, '\n') >= 0 {
		lines = wrapped
	}
	if beginsFormula(text) {
		quoted = 1
	}
	out = e.style(out, &e.head.styles[col].text[lines][quoted], cell, col, number)
	if isPlain(text) {
		out = append(append(append(out, inlineBegin...), text...), inlineEnd...)
	} else {
		var cut bool
		if out, cut = appendInline(out, text); cut {
			e.now.cuts.add(number, int(col))
		}
	}
	if measure {
		e.measured(col, textWidth(text))
	}
	return out
}

// style appends the style of a cell, and notes its link. by holds the style without and with a link.
func (e *encoder) style(out []byte, by *[2]snippet, cell *cells.Cell, col int32, number int) []byte {
	link := 0
	if cell.Link != nil && e.head.styles[col].link {
		e.now.addLink(number, col, cell.Link, len(out), &by[1], &by[0])
		link = 1
	}
	return by[link].appendTo(slices.Grow(out, 2*snippetSize))
}

// shownFormat returns the number format of the dates of a column.
func (c *columnStyles) shownFormat(kind cells.Kind) string {
	switch {
	case c.format != "":
		return c.format
	case kind == cells.Date:
		return dateFormat
	}
	return datetimeFormat
}

// isLong reports whether a number is an integer that Excel would show in scientific notation.
func isLong(number []byte) bool {
	if number[0] == '-' {
		number = number[1:]
	}
	return len(number) >= longDigits && !bytes.ContainsAny(number, ".eE")
}

// place returns the worksheet and the row on it of a data row, counted from 1.
func (s *sheets) place(row int64) (sheet, number int) {
	i, found := slices.BinarySearch(s.starts, row-1)
	if !found {
		i--
	}
	i = max(i, 0)
	return s.first + i, int(min(row-1-s.starts[i]+2, math.MaxInt32))
}
