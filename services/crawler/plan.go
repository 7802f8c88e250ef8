package crawler

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math"
	"slices"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"

	"github.com/minio/highwayhash"
)

// limits bounds a list.
type limits struct {
	perPage int // rows asked for a page
	pages   int
	rows    int64
	bytes   int64 // of the rows, as JSON
	// files returns the number of files of the export if the list has so many rows; nil without options.max_rows.
	files func(rows int64) int64
}

// plan is the description of the list in page 1. Each later page is judged by it alone.
type plan struct {
	header []byte // nil if page 1 is empty
	size   int    // rows of a full page
	sized  bool   // page 1 announced it
	rows   int    // data rows of page 1
}

// newPlan reads page 1. A full page has as many rows as page 1 announces, or contains. An announcement that
// contradicts the page or the request is ignored.
func newPlan(p pages.Page, perPage int) *plan {
	n := p.DataRows()
	pl := &plan{header: bytes.Clone(firstRow(p.Rows)), rows: n} // the page's bytes are used again
	switch {
	case p.Limit > 0 && p.Limit >= n && p.Limit <= max(perPage, n):
		pl.size, pl.sized = p.Limit, true
	case n > 0:
		pl.size = n
	default:
		pl.size = max(perPage, 1)
	}
	return pl
}

// missed says why a page is missing.
type missed struct {
	*source.Failure
	earlier int    // the earlier page that the response contains, else 0
	data    uint64 // hash of that page's data rows
}

func (m *missed) Unwrap() error { return m.Failure }

// admit judges one response and returns the page to publish. The plan of page 1 is nil.
func (pl *plan) admit(n int, a source.Answer, lim limits) (pages.Page, *missed) {
	p := pages.Page{Rows: a.Rows, RowCount: a.RowCount, Limit: a.Limit, Total: a.Total, Next: a.Next, Last: a.Last}
	p.Number = n
	p.HeaderRow = a.Header != nil && (n == 1 || rows.EqualRow(a.Header, pl.header))
	refuse := func(code, format string, args ...any) (pages.Page, *missed) {
		return p, &missed{Failure: &source.Failure{Page: n, Code: code, Msg: fmt.Sprintf(format, args...)}}
	}
	if a.Page != int64(n) {
		_, m := refuse(events.CodeSourceChanged, "asked for page %d, the source answered page %d", n, a.Page)
		if a.Page < int64(n) {
			m.earlier, m.data = int(a.Page), hashData(p)
		}
		return p, m
	}
	if n == 1 {
		pl = newPlan(p, lim.perPage)
	}
	pages := a.Pages
	switch {
	case pages > int64(lim.pages):
		return refuse(events.CodeLimitPages, "the source announces %d pages, at most %d are allowed (--max-pages)", pages, lim.pages)
	case pages > 0 || a.Next != "" || a.Last:
	case a.Total > 0:
		if pages = (a.Total-1)/int64(pl.size) + 1; pages > int64(lim.pages) {
			return refuse(events.CodeLimitPages, "the source announces %d rows, that is %d pages; at most %d are allowed (--max-pages)", a.Total, pages, lim.pages)
		}
	case n == 1 && a.RowCount <= 1:
		pages = 1
	}
	p.TotalPages = int(pages)

	switch {
	case n == 1 && a.RowCount > 1 && a.Header != nil && !namesColumns(a.Header):
		return refuse(events.CodeSourceFormat, "row 1 is the header and names no column")
	case n == 1 && a.RowCount > 1 && rows.FirstRowIsData(a.Rows):
		return refuse(events.CodeSourceFormat, "row 1 has the same kinds of values as the rows after it; the first row of a page must hold the titles of the columns")
	case n == 1 && a.RowCount == 0 && (p.Total > 0 || p.TotalPages > 1):
		return refuse(events.CodeSourceIncomplete, "page 1 is empty, but the source announces %d pages and %d rows", p.TotalPages, max(p.Total, 0))
	case n > 1 && a.Header != nil && !p.HeaderRow && a.RowCount > pl.size && (pl.sized || a.RowCount > lim.perPage || rows.FirstRowIsTitles(a.Rows)):
		// A full page that begins with another header has a row too many. If page 1 is short and does not say
		// how many rows are full, the row itself must look like titles.
		return refuse(events.CodeSourceChanged, "the first row differs from the header of page 1, and the page has %d rows where a full page has %d", a.RowCount, pl.size)
	}
	return p, nil
}

// admitDeclared is admit for a declared source. The ending decides later what its announcements mean.
func (pl *plan) admitDeclared(n int, a source.Answer) (pages.Page, *missed) {
	p := pages.Page{Rows: a.Rows, RowCount: a.RowCount, Total: a.Total, TotalPages: int(min(a.Pages, math.MaxInt32)), Next: a.Next, Last: a.Last}
	p.Number = n
	p.HeaderRow = a.Header != nil && (n == 1 || rows.EqualRow(a.Header, pl.header))
	refuse := func(msg string) (pages.Page, *missed) {
		return p, &missed{Failure: &source.Failure{Page: n, Code: events.CodeSourceFormat, Msg: msg}}
	}
	switch {
	case n > 1 || a.Header == nil:
	case !namesColumns(a.Header):
		return refuse("row 1 is the header and names no column")
	case a.RowCount > 1 && rows.FirstRowIsData(a.Rows):
		return refuse("row 1 has the same kinds of values as the rows after it; with source_http.header_row the first row of a page must hold the titles of the columns")
	}
	return p, nil
}

// sameStart reports whether page 1, requested again, begins like that of an earlier run, so that the earlier
// pages are still valid: equal header and equal total. Without a total the rows must be equal too, because
// nothing else shows that data moved. Of a declared source the rows must always be equal.
func sameStart(old, new pages.Page, declared bool) bool {
	if declared && (old.RowCount != new.RowCount || hashData(old) != hashData(new)) {
		return false
	}
	if old.Total != new.Total || old.HeaderRow != new.HeaderRow || old.Total <= 0 && (old.RowCount != new.RowCount || hashData(old) != hashData(new)) {
		return false
	}
	a, b := firstRow(old.Rows), firstRow(new.Rows)
	if a == nil || b == nil {
		return bytes.Equal(a, b)
	}
	return rows.EqualRow(a, b)
}

var hashSeed = maphash.MakeSeed()

// dataKey makes the hashes of rows equal in all processes. They are compared, and nothing else depends on them.
var dataKey = make([]byte, highwayhash.Size)

// hashData returns the same hash for pages with the same data rows, byte for byte, with or without a header
// before them.
func hashData(p pages.Page) uint64 {
	c := rows.NewCursor(p.Rows)
	if p.HeaderRow {
		c.NextRaw()
	}
	const space = " \t\r\n"
	data := bytes.TrimLeft(p.Rows[c.Offset():], space+",")
	return highwayhash.Sum64(bytes.TrimRight(data, space+"]"), dataKey)
}

// namesColumns reports whether a header row has any field.
func namesColumns(header []byte) bool {
	c := rows.NewCursor(slices.Concat([]byte("["), header, []byte("]")))
	c.NextRow()
	_, _, _, ok := c.NextField()
	return ok
}

// firstRow returns the first row of a checked array, nil when it is empty.
func firstRow(array []byte) []byte {
	c := rows.NewCursor(array)
	row, _ := c.NextRaw()
	return row
}
