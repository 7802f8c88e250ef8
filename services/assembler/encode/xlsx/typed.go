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
	dst = strconv.AppendInt(dst, days+epochDay, 10)
	// A day is 10^12 parts of 86.4 ns.
	part := min(((seconds*1e9+int64(nanos))*10+432)/864, 1e12-1)
	if part == 0 {
		return dst
	}
	var digits [13]byte
	digits[0] = '.'
	for i := 12; i > 0; i-- {
		digits[i] = byte('0' + part%10)
		part /= 10
	}
	return append(dst, bytes.TrimRight(digits[:], "0")...)
}

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
	more := 0 // line breaks of the cell with the most
	for _, col := range present {
		switch cell := &read[col]; cell.Kind {
		case cells.Text:
			if i := bytes.IndexByte(cell.Text, '\n'); i >= 0 {
				more = max(more, bytes.Count(cell.Text[i:], []byte{'\n'}))
			}
		case cells.Date, cells.Datetime:
			if cell.Wall < firstWall {
				e.reader.Refuse(int(col))
			}
		}
	}
	others := oneLine
	if more > 0 {
		others = atTop
	}
	out = append(appendHeight(out, 1+more), '>')
	for _, col := range present {
		cell := &read[col]
		if cell.Kind == cells.Empty {
			continue
		}
		st := e.head.styles[col]
		link := 0
		if cell.Link != nil && st.link {
			link = 1
		}
		out = slices.Grow(out, 3*snippetSize)
		out = append(e.head.refs[col].appendTo(out), digits...)
		// begin writes the style.
		begin := func(by *[2]snippet) {
			if link == 1 {
				e.now.addLink(number, col, cell.Link, len(out), &by[1], &by[0])
			}
			out = by[link].appendTo(slices.Grow(out, 2*snippetSize))
		}
		width := uint8(0)
		switch cell.Kind {
		case cells.Bool:
			begin(&st.other[others])
			value := byte('0')
			if cell.Bool {
				value = '1'
			}
			out = append(append(append(out, ` t="b"><v>`...), value), `</v></c>`...)
			width = 5
		case cells.Date, cells.Datetime:
			by := &st.date
			if cell.Kind == cells.Datetime {
				by = &st.datetime
			}
			begin(&by[others])
			out = append(appendSerial(append(out, `><v>`...), cell.Wall, cell.Nanos), `</v></c>`...)
			if measure {
				width = formatWidth(st.shownFormat(cell.Kind))
			}
		case cells.Number:
			if shown := cellNumber(cell.Text); shown != nil {
				by := &st.number
				if len(shown) >= longDigits && isLong(shown) {
					by = &st.long
				}
				begin(&by[others])
				out = append(append(append(out, `><v>`...), shown...), `</v></c>`...)
				if measure {
					width = numberWidth(st.format, shown)
					if by == &st.long && st.format == "" {
						width = uint8(min(len(shown), maxWidth))
					}
				}
				break
			}
			e.now.textNumber(col, number, len(e.head.titles))
			fallthrough
		default:
			lines := others
			if more > 0 && cell.Kind == cells.Text && bytes.IndexByte(cell.Text, '\n') >= 0 {
				lines = wrapped
			}
			quoted := 0
			if beginsFormula(cell.Text) {
				quoted = 1
			}
			begin(&st.text[lines][quoted])
			if isPlain(cell.Text) {
				out = append(append(append(out, ` t="inlineStr"><is><t>`...), cell.Text...), `</t></is></c>`...)
			} else {
				var cut bool
				if out, cut = appendInline(out, cell.Text); cut {
					e.now.cuts.add(number, int(col))
				}
			}
			if measure {
				width = textWidth(cell.Text)
			}
		}
		if measure {
			e.now.widths[col] = max(e.now.widths[col], width)
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
