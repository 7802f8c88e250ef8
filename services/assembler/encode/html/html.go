// Package html writes a page that shows the first rows of a sheet, to look at. It is no export of all rows, but
// reads and counts them all. The page has no script and loads nothing.
package html

import (
	"context"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/blocks"
	"sheaf/services/assembler/encode/cells"
)

// Format is the page, with one sheet a file.
var Format = encode.Format{Format: events.HTML, Write: write}

// Limits of what the page shows.
const (
	maxRows    = 1000
	maxColumns = 100
	maxText    = 500 // characters of a cell or a title
)

func write(ctx context.Context, out *archive.Output, doc encode.Document) (encode.Result, error) {
	sheet := doc.Sheets[0]
	job := blocks.Job[*cells.Notes]{Sheet: sheet, Parallel: doc.Parallel, Head: head(doc.Title, sheet),
		New: func() (blocks.Encoder[*cells.Notes], error) {
			r, err := cells.NewReader(sheet)
			return &encoder{reader: r}, err
		},
		Tail: func(rows int64) []byte { return tail(rows, len(sheet.Columns)) },
	}
	res, err := blocks.WriteCells(ctx, out, job)
	if err != nil {
		return encode.Result{}, fmt.Errorf("write the page: %w", err)
	}
	return res, nil
}

const style = `:root{color-scheme:light dark}
body{margin:0;padding:1rem;display:flex;flex-direction:column;` +
	`font:14px/1.5 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
h1{font-size:1.2rem;margin:0}
footer{order:1;color:GrayText;margin:.2rem 0 .8rem}
table{order:2;border-collapse:collapse;width:max-content}
th,td{border:1px solid color-mix(in srgb,CanvasText 20%,Canvas);padding:.2rem .5rem;text-align:left;` +
	`vertical-align:top;white-space:pre-wrap;max-width:40rem;overflow-wrap:anywhere}
th{position:sticky;top:0;background:color-mix(in srgb,CanvasText 8%,Canvas)}
td.n{text-align:right;font-variant-numeric:tabular-nums}
`

func head(title string, sheet encode.Sheet) []byte {
	if sheet.Title != "" {
		title = sheet.Title
	}
	if title == "" {
		title = "export"
	}
	title = string(appendEscaped(nil, cut([]byte(title))))
	b := []byte("<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n" +
		"<meta name=\"viewport\" content=\"width=device-width\">\n<title>" + title + "</title>\n<style>\n" + style +
		"</style>\n</head>\n<body>\n<h1>" + title + "</h1>\n<table>\n<thead><tr>")
	for i, c := range sheet.Columns {
		if i == maxColumns {
			break
		}
		b = append(appendEscaped(append(b, "<th>"...), cut([]byte(c.Title))), "</th>"...)
	}
	return append(b, "</tr></thead>\n<tbody>\n"...)
}

// tail ends the page. The footer is shown above the table: the number of rows is known at the end.
func tail(rows int64, columns int) []byte {
	text := number(rows) + " rows"
	switch {
	case rows == 1:
		text = "1 row"
	case rows > maxRows:
		text = "The first " + number(maxRows) + " of " + text
	}
	if columns > maxColumns {
		text += fmt.Sprintf(", %d of %s columns", maxColumns, number(int64(columns)))
	}
	return []byte("</tbody>\n</table>\n<footer>" + text + "</footer>\n</body>\n</html>\n")
}

// number returns a number with commas, such as 1,234,567.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// encoder writes the rows of the table.
type encoder struct {
	reader *cells.Reader
	text   []byte
}

// Row appends a row of the table, if it is one of the first.
func (e *encoder) Row(to *blocks.Buffer, c *rows.Cursor, n int64) {
	row := e.reader.Row(c)
	if n >= maxRows {
		return
	}
	b := append(to.B, "<tr>"...)
	for i := range row[:min(len(row), maxColumns)] {
		cell := &row[i]
		if cell.Kind == cells.Number {
			b = append(b, `<td class="n">`...)
		} else {
			b = append(b, "<td>"...)
		}
		if cell.Link != nil {
			b = append(appendEscaped(append(b, `<a rel="noopener noreferrer" href="`...), cell.Link), `">`...)
		}
		b = appendEscaped(b, cut(e.shown(cell)))
		if cell.Link != nil {
			b = append(b, "</a>"...)
		}
		b = append(b, "</td>"...)
	}
	to.B = append(b, "</tr>\n"...)
}

// Notes returns the notes since the last call.
func (e *encoder) Notes() *cells.Notes { return e.reader.Notes() }

// shown returns the text of a cell.
func (e *encoder) shown(cell *cells.Cell) []byte {
	switch cell.Kind {
	case cells.Empty:
		return nil
	case cells.Bool:
		return strconv.AppendBool(e.text[:0], cell.Bool)
	case cells.Date:
		e.text = time.Unix(cell.Wall, 0).UTC().AppendFormat(e.text[:0], time.DateOnly)
		return e.text
	case cells.Datetime:
		e.text = time.Unix(cell.Wall, int64(cell.Nanos)).UTC().AppendFormat(e.text[:0], "2006-01-02 15:04:05.999999999")
		return e.text
	}
	return cell.Text
}

// cut shortens a text to maxText characters.
func cut(text []byte) []byte {
	for i, n := 0, 0; i < len(text); n++ {
		if n == maxText {
			return append(text[:i:i], "…"...)
		}
		_, size := utf8.DecodeRune(text[i:])
		i += size
	}
	return text
}

// appendEscaped appends a text for an element or a quoted attribute.
func appendEscaped(b, text []byte) []byte {
	from := 0
	for i, c := range text {
		escape := ""
		switch {
		case c == '&':
			escape = "&amp;"
		case c == '<':
			escape = "&lt;"
		case c == '>':
			escape = "&gt;"
		case c == '"':
			escape = "&#34;"
		case c == '\'':
			escape = "&#39;"
		case c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f:
			escape = "\uFFFD"
		default:
			continue
		}
		b = append(append(b, text[from:i]...), escape...)
		from = i + 1
	}
	return append(b, text[from:]...)
}
