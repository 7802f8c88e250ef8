package request

import (
	"bytes"
	"errors"

	"sheaf/events"
	"sheaf/events/rows"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a page of a raw request. The split depends only on the rows, so a repeated request writes the
// same pages.
const (
	rawPageRows  = 1000 // data rows
	rawPageBytes = 1 << 20
)

const rawField = "source_raw"

// maxRawRows is the number of rows in one request, the header included.
const maxRawRows = 1_000_000

// Page is a range of the rows of a raw request.
type Page struct {
	Sheet int    // of a request with sheets, from 0
	rows  []byte // with the commas between them; aliases the request
	Count int    // of rows, the header included
}

// rowArray returns the rows of source_raw: a JSON array, or a string that holds one.
func rowArray(source jsontext.Value) ([]byte, error) {
	switch source.Kind() {
	case '[':
		return source, nil
	case '"':
		array := rows.Unquote(make([]byte, 0, len(source)), source)
		return bytes.TrimPrefix(array, []byte("\xef\xbb\xbf")), nil // as at the start of a source's page
	}
	return nil, Invalid(rawField, "must be a string that holds a JSON array of rows, not %s", kindName(source.Kind()))
}

// cutRows checks an array of rows and splits it into pages. The first row is the header, which only the first
// page holds.
func cutRows(array []byte) ([]Page, *events.RawRows, error) {
	if trimmed := bytes.TrimLeft(array, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '[' {
		return nil, nil, Invalid(rawField, "must hold a JSON array of rows, such as %s", `[{"name":"Name"},{"name":"Li Lei"}]`)
	}
	count, err := rows.Check(array, rows.Limits{MaxRows: maxRawRows})
	if errors.Is(err, rows.ErrTooManyRows) {
		return nil, nil, TooLarge(rawField, "has more than %d rows", maxRawRows)
	}
	if err != nil {
		return nil, nil, Invalid(rawField, "%s", err)
	}
	if count == 0 {
		return nil, nil, Invalid(rawField, "is an empty array; its first row must be the header")
	}
	header := rows.NewCursor(array)
	header.NextRow()
	if _, _, _, ok := header.NextField(); !ok {
		return nil, nil, Invalid(rawField, "row 1 is the header and names no column")
	}
	if rows.FirstRowIsData(array) {
		return nil, nil, Invalid(rawField, "row 1 has the same kinds of values as the rows after it; it must hold the titles of the columns")
	}

	var pages []Page
	data, start, end := 0, 0, 0 // of the current page: data rows, and its range in the array
	page := Page{}
	c := rows.NewCursor(array)
	for n := 0; ; n++ {
		row, ok := c.NextRaw()
		at := c.Offset() - len(row)
		if full := data == rawPageRows || data > 0 && c.Offset()-start > rawPageBytes; !ok || full {
			page.rows = array[start:end]
			pages = append(pages, page)
			if !ok {
				break
			}
			page, data = Page{}, 0
		}
		if page.Count == 0 {
			start = at
		}
		end = c.Offset()
		page.Count++
		if n > 0 {
			data++
		}
	}
	return pages, &events.RawRows{Pages: len(pages), Rows: int64(count - 1)}, nil
}

// Array returns the page's rows as a JSON array.
func (p Page) Array() []byte {
	b := make([]byte, 0, len(p.rows)+2)
	return append(append(append(b, '['), p.rows...), ']')
}
