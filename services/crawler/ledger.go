package crawler

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"sheaf/events"
	"sheaf/events/rows"
)

// ledger is what a crawl knows of its run: the header, how many pages there
// are, and which of them it has. It decides which answers are acceptable pages
// and which of their rows are data. It is not safe for concurrent use.
type ledger struct {
	limit    int // rows asked for a page
	maxPages int
	maxRows  int64
	maxBytes int64

	header     []byte // page 1's first row; nil while page 1 is missing or empty
	totalPages int    // the largest announced, 0 before page 1
	total      int64  // the largest announced, 0 when none was
	rows       int64  // data rows of the pages taken
	bytes      int64  // of their JSON
	taken      map[int]taken
	extended   bool // more pages were asked for than announced
}

// taken is the record of a page.
type taken struct {
	rows int // data rows
	sum  [sha256.Size]byte
}

func newLedger(limit, maxPages int, maxRows, maxBytes int64) *ledger {
	return &ledger{limit: limit, maxPages: maxPages, maxRows: maxRows, maxBytes: maxBytes, taken: map[int]taken{}}
}

func format(page int, f string, args ...any) *Failure {
	return &Failure{Page: page, Code: events.CodeSourceFormat, Attempts: 1, Msg: fmt.Sprintf(f, args...)}
}

// admit judges one answer of the source and returns the page to publish.
func (l *ledger) admit(n int, r rows.Response) (events.Page, *Failure) {
	p := events.Page{Rows: r.Rows, RowCount: r.RowCount, Total: -1}
	p.Number = n
	if !r.HasPagetag {
		return p, format(n, "the answer has no data.pagetag; it must give page, limit, total and total_page")
	}
	if r.HasPage && r.Page != int64(n) {
		return p, &Failure{Page: n, Code: events.CodeSourceChanged, Msg: fmt.Sprintf("asked for page %d, the source answered page %d", n, r.Page)}
	}
	if r.HasTotal && r.Total > 0 || r.HasTotal && n == 1 && r.RowCount <= 1 {
		p.Total = r.Total
	}
	switch {
	case r.HasTotalPage && r.TotalPage > 0:
		if r.TotalPage > int64(l.maxPages) {
			return p, &Failure{Page: n, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the source announces %d pages, at most %d are allowed (--max-pages)", r.TotalPage, l.maxPages)}
		}
		p.TotalPages = int(r.TotalPage)
	case r.HasTotal && r.Total > 0:
		pages := (r.Total + int64(l.limit) - 1) / int64(l.limit)
		if pages > int64(l.maxPages) {
			return p, &Failure{Page: n, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the source announces %d rows, that is %d pages; at most %d are allowed (--max-pages)", r.Total, pages, l.maxPages)}
		}
		p.TotalPages = int(pages)
	case n == 1 && r.RowCount > 1 && !r.HasTotalPage:
		return p, format(n, "data.pagetag gives neither total_page nor total, so the number of pages is unknown")
	case n == 1:
		p.TotalPages = 1
	}

	if n == 1 {
		if r.RowCount > 1 && !namesColumns(r.FirstRow) {
			return p, format(n, "row 1 is the header and names no column")
		}
		if r.RowCount == 0 && (p.Total > 0 || p.TotalPages > 1) {
			return p, &Failure{Page: 1, Code: events.CodeSourceIncomplete,
				Msg: fmt.Sprintf("page 1 is empty, but the source announces %d pages and %d rows", p.TotalPages, max(p.Total, 0))}
		}
		p.HeaderRow = r.RowCount > 0
		return p, nil
	}

	switch {
	case r.RowCount > 0 && rows.EqualRow(r.FirstRow, l.header):
		p.HeaderRow = true
	case r.RowCount > l.limit:
		return p, &Failure{Page: n, Code: events.CodeSourceChanged,
			Msg: fmt.Sprintf("the first row differs from the header of page 1, and the page has %d rows where %d were asked for", r.RowCount, l.limit)}
	}
	last := p.TotalPages
	if last == 0 {
		last = l.totalPages
	}
	if p.DataRows() == 0 && n < last {
		return p, &Failure{Page: n, Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("it is empty, but the source announces %d pages", last)}
	}
	return p, nil
}

// take accounts for a page that is durable. The page may be another's answer
// than the one that was admitted.
func (l *ledger) take(p events.Page) *Failure {
	if _, ok := l.taken[p.Number]; ok {
		return nil
	}
	if p.Number == 1 {
		l.header = bytes.Clone(firstRow(p.Rows)) // the page's bytes are used again
	}
	// Without a total nothing else would notice a source that ignores the
	// page parameter and answers the same rows for ever.
	if p.Total <= 0 && p.DataRows() > 0 {
		for _, neighbour := range []int{p.Number - 1, p.Number + 1} {
			if t, ok := l.taken[neighbour]; ok && t.sum == p.SHA256 {
				return &Failure{Page: p.Number, Code: events.CodeSourceChanged,
					Msg: fmt.Sprintf("pages %d and %d are equal and no total is given: the source seems to ignore the page parameter", min(neighbour, p.Number), max(neighbour, p.Number))}
			}
		}
	}
	l.taken[p.Number] = taken{rows: p.DataRows(), sum: p.SHA256}
	l.rows += int64(p.DataRows())
	l.total = max(l.total, p.Total)
	l.totalPages = max(l.totalPages, p.TotalPages)
	if l.rows > l.maxRows {
		return &Failure{Page: p.Number, Code: events.CodeLimitRows, Msg: fmt.Sprintf("more than %d rows (--max-rows)", l.maxRows)}
	}
	if l.bytes += int64(len(p.Rows)); l.bytes > l.maxBytes {
		return &Failure{Page: p.Number, Code: events.CodeLimitBytes, Msg: fmt.Sprintf("the rows of the export have more than %d bytes (--max-export-bytes)", l.maxBytes)}
	}
	return nil
}

// missing reports whether page n is still to be fetched.
func (l *ledger) missing(n int) bool {
	_, ok := l.taken[n]
	return !ok
}

// manifest sums up the pages from 1 to the last. It is asked when all are
// there.
func (l *ledger) manifest() string {
	m := events.NewManifest()
	for n := 1; n <= l.totalPages; n++ {
		t := l.taken[n]
		m.Add(n, t.rows, t.sum)
	}
	return m.Sum()
}

// extend is asked when all announced pages are there. A source that rounds
// total_page down hides its last page: if rows are missing against the total
// and more pages would hold them, those are asked for as well. It reports
// whether there is more to fetch.
func (l *ledger) extend() bool {
	if l.extended || l.total <= l.rows {
		return false
	}
	pages := int((l.total + int64(l.limit) - 1) / int64(l.limit))
	if pages <= l.totalPages || pages > l.maxPages {
		return false
	}
	l.totalPages, l.extended = pages, true
	return true
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

// sameStart reports whether page 1, asked anew, begins like the page 1 of an
// earlier run: equal header and equal total, so that its pages still count.
func sameStart(old, new events.Page) bool {
	if old.Total != new.Total || old.HeaderRow != new.HeaderRow {
		return false
	}
	a, b := firstRow(old.Rows), firstRow(new.Rows)
	if a == nil || b == nil {
		return bytes.Equal(a, b)
	}
	return rows.EqualRow(a, b)
}
