package crawler

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"
)

// ledger is what a crawl knows of its run: the header, which pages it has, and
// where the list ends. It decides which answers are acceptable pages, which of
// their rows are data, and how many pages are the whole. Answers may come in any
// order. The ledger reads them in page order, so its verdict never depends on
// timing. It is not safe for concurrent use.
type ledger struct {
	limit    int // rows asked for a page
	maxPages int
	maxRows  int64
	maxBytes int64
	raw      bool // the pages came with the request: only their number counts
	seed     maphash.Seed

	header  []byte        // page 1's first row; nil while page 1 is missing or empty
	size    int           // rows of a full page, as page 1 shows it
	sized   bool          // pagetag.limit of page 1 gave size
	taken   map[int]taken // durable pages
	replies map[int]reply // that were not read yet
	failed  int           // lowest page that the source failed to give; 0 without

	// Of the pages 1 to read:
	read        int
	rows        int64 // data rows
	bytes       int64 // of JSON
	firstRows   int   // data rows of page 1
	announced   int   // the largest number of pages; 0 while there is none
	first, last int64 // the first and the last total; 0 while there is none
	empties     int   // empty pages at their end
	equal       int   // pages at their end with the same rows; 0 when the last page is empty
	hole        int   // first empty page before the last one that was announced; 0 without
	holeIn      int   // that last one

	end      int  // pages of the list; 0 while unknown
	repeated bool // the list ends where the source repeats its last page
}

// taken is the record of a durable page.
type taken struct {
	rows int // data rows
	sum  [sha256.Size]byte
	data uint64 // hash of the data rows
}

// reply is what the source said with a page, or why there is no page.
type reply struct {
	bytes   int
	total   int64
	pages   int
	failure *source.Failure
}

func newLedger(limit, maxPages int, maxRows, maxBytes int64) *ledger {
	return &ledger{
		limit: limit, maxPages: maxPages, maxRows: maxRows, maxBytes: maxBytes,
		seed: maphash.MakeSeed(), taken: map[int]taken{}, replies: map[int]reply{},
	}
}

func format(page int, f string, args ...any) *source.Failure {
	return &source.Failure{Page: page, Code: events.CodeSourceFormat, Attempts: 1, Msg: fmt.Sprintf(f, args...)}
}

// admit judges one answer of the source and returns the page to publish.
func (l *ledger) admit(n int, r rows.Response) (pages.Page, *source.Failure) {
	p := pages.Page{Rows: r.Rows, RowCount: r.RowCount, Total: -1}
	p.Number = n
	if !r.HasPagetag && (n == 1 || r.RowCount > 0) { // an empty page has nothing to count
		return p, format(n, "the answer has no data.pagetag; it must give page, limit, total and total_page")
	}
	p.HeaderRow = r.RowCount > 0 && (n == 1 || rows.EqualRow(r.FirstRow, l.header))
	if r.HasPage && r.Page != int64(n) {
		f := &source.Failure{Page: n, Code: events.CodeSourceChanged, Msg: fmt.Sprintf("asked for page %d, the source answered page %d", n, r.Page)}
		if r.Page < int64(n) {
			f.Answered, f.Data = int(r.Page), l.hash(p)
		}
		return p, f
	}
	p.Limit = int(min(r.Limit, 1<<30))
	size := l.size
	if n == 1 {
		size, _ = l.sizeOf(p)
	}
	if r.Total > 0 || r.HasTotal && n == 1 && r.RowCount <= 1 {
		p.Total = r.Total
	}
	pages := r.TotalPage
	if r.HasTotal && r.Total == 0 && pages == 1 && r.RowCount > 1 {
		pages = 0 // as one page of nothing is counted
	}
	switch {
	case pages > 0:
		if pages > int64(l.maxPages) {
			return p, &source.Failure{Page: n, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the source announces %d pages, at most %d are allowed (--max-pages)", pages, l.maxPages)}
		}
		p.TotalPages = int(pages)
	case r.Total > 0:
		if pages = (r.Total-1)/int64(size) + 1; pages > int64(l.maxPages) {
			return p, &source.Failure{Page: n, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the source announces %d rows, that is %d pages; at most %d are allowed (--max-pages)", r.Total, pages, l.maxPages)}
		}
		p.TotalPages = int(pages)
	case n == 1 && r.RowCount <= 1:
		p.TotalPages = 1
	}

	if n == 1 {
		switch {
		case r.RowCount > 1 && !namesColumns(r.FirstRow):
			return p, format(n, "row 1 is the header and names no column")
		case r.RowCount > 1 && rows.FirstRowIsData(r.Rows):
			return p, format(n, "row 1 has the same kinds of values as the rows after it; the first row of a page must hold the titles of the columns")
		case r.RowCount == 0 && (p.Total > 0 || p.TotalPages > 1):
			return p, &source.Failure{Page: 1, Code: events.CodeSourceIncomplete,
				Msg: fmt.Sprintf("page 1 is empty, but the source announces %d pages and %d rows", p.TotalPages, max(p.Total, 0))}
		}
		return p, nil
	}
	// A full page that begins with another header has a row too many. Without
	// pagetag.limit a page 1 that is short does not tell what full means, so the
	// row itself must look like titles.
	if count := r.RowCount; !p.HeaderRow && count > l.size && (l.sized || count > l.limit || rows.FirstRowIsTitles(r.Rows)) {
		return p, &source.Failure{Page: n, Code: events.CodeSourceChanged,
			Msg: fmt.Sprintf("the first row differs from the header of page 1, and the page has %d rows where a full page has %d", count, l.size)}
	}
	return p, nil
}

// sizeOf returns how many rows a full page has by page 1: its pagetag.limit,
// which given reports, else its row count. A pagetag.limit that page 1 or the
// request contradicts does not count.
func (l *ledger) sizeOf(p pages.Page) (size int, given bool) {
	n := p.DataRows()
	if p.Limit > 0 && p.Limit >= n && p.Limit <= max(l.limit, n) {
		return p.Limit, true
	}
	if n > 0 {
		return n, false
	}
	return max(l.limit, 1), false
}

// take accounts for a page that is durable. The page may be another's answer
// than the one that was admitted.
func (l *ledger) take(p pages.Page) *source.Failure {
	if _, ok := l.taken[p.Number]; ok {
		return nil
	}
	if p.Number == 1 {
		l.header = bytes.Clone(firstRow(p.Rows)) // the page's bytes are used again
		l.size, l.sized = l.sizeOf(p)
	}
	l.taken[p.Number] = taken{rows: p.DataRows(), sum: p.SHA256, data: l.hash(p)}
	l.replies[p.Number] = reply{bytes: len(p.Rows), total: p.Total, pages: p.TotalPages}
	return l.walk()
}

// miss accounts for a page that the source did not give. That is a failure once
// all pages before it were read and the list goes beyond them.
func (l *ledger) miss(n int, f *source.Failure) *source.Failure {
	if _, ok := l.taken[n]; ok {
		return nil
	}
	l.replies[n] = reply{failure: f}
	if l.failed == 0 || n < l.failed {
		l.failed = n
	}
	return l.walk()
}

// missing reports whether page n is still to be fetched.
func (l *ledger) missing(n int) bool {
	_, ok := l.taken[n]
	return !ok
}

// bound is the last page that may be asked for now. Up to the announced last page
// that is all; beyond it only as far as the list may reach, at most conn pages.
func (l *ledger) bound(conn int) int {
	low, high := l.totals()
	last := l.announced
	switch {
	case l.end > 0:
		return l.end
	case l.read == 0:
		return 1
	case l.read < l.announced:
	case l.empties > 0 || l.equal > 1:
		last = l.read + 1
	case high > 0:
		owed := max(low-l.rows, 1)
		last = l.read + int(min(int64(conn), (owed-1)/int64(max(l.firstRows, 1))+1))
	case l.read == l.announced:
		last = l.read + 1
	default:
		last = l.read + conn
	}
	last = min(last, l.maxPages)
	if l.failed > 0 {
		last = min(last, l.failed)
	}
	return last
}

// totals returns the range that the first and the last announced total span;
// high is 0 while none was announced.
func (l *ledger) totals() (low, high int64) { return min(l.first, l.last), max(l.first, l.last) }

// fits reports whether rows are as many as the source announced.
func (l *ledger) fits(n int64) bool {
	low, high := l.totals()
	return high > 0 && n >= low && n <= high
}

// walk reads the answers that are there, in page order, until the list ends.
func (l *ledger) walk() *source.Failure {
	for l.end == 0 {
		n := l.read + 1
		a, ok := l.replies[n]
		if !ok {
			return nil
		}
		delete(l.replies, n)
		if a.failure != nil {
			return l.without(a.failure)
		}
		if f := l.add(n, a); f != nil {
			return f
		}
		if f := l.judge(); f != nil {
			return f
		}
	}
	return nil
}

// add reads page n, the next one.
func (l *ledger) add(n int, a reply) *source.Failure {
	t := l.taken[n]
	l.read, l.rows, l.bytes = n, l.rows+int64(t.rows), l.bytes+int64(a.bytes)
	if n == 1 {
		l.firstRows = t.rows
	}
	if t.rows > 0 || n == 1 { // an empty page beyond the end may count anything
		l.announced = max(l.announced, a.pages)
		if a.total > 0 {
			l.last = a.total
			if l.first == 0 {
				l.first = a.total
			}
		}
	}
	switch {
	case t.rows > 0 && l.equal > 0 && t.data == l.taken[n-1].data:
		l.equal++
	case t.rows > 0:
		l.equal, l.empties = 1, 0
	case n > 1:
		l.equal = 0
		l.empties++
		last := l.announced
		if a.pages > 0 {
			last = a.pages
		}
		if l.hole == 0 && n < last && !l.raw {
			l.hole, l.holeIn = n, last
		}
	}
	if (l.rows > l.maxRows || l.bytes > l.maxBytes) && n >= 3 && l.equal == n && !l.raw {
		return l.repeats() // the better reason
	}
	if l.rows > l.maxRows {
		return &source.Failure{Page: n, Code: events.CodeLimitRows, Msg: fmt.Sprintf("more than %d rows (--max-rows)", l.maxRows)}
	}
	if l.bytes > l.maxBytes {
		return &source.Failure{Page: n, Code: events.CodeLimitBytes, Msg: fmt.Sprintf("the rows of the export have more than %d bytes (--max-export-bytes)", l.maxBytes)}
	}
	return nil
}

// judge decides, when a page has just been read, whether the list ends.
func (l *ledger) judge() *source.Failure {
	k := l.read
	_, high := l.totals()
	var f *source.Failure
	switch {
	case l.end > 0:
		return nil
	case l.raw:
		if k == l.announced {
			l.end = k
		}
		return nil
	case k == 1 && l.rows == 0 && l.announced <= 1 && high == 0: // a list of nothing
		l.end = 1
	case high == 0 && l.hole > 0:
		return &source.Failure{Page: l.hole, Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("it is empty, but the source announces %d pages", l.holeIn)}
	case k >= 3 && k == l.announced && l.equal == k && l.firstRows > 1:
		// One row is no proof: a table of equal rows read one by one looks the same.
		f = l.repeats()
	case high > 0:
		f = l.judgeByTotal()
	case l.announced > 0 && k <= l.announced+1:
		f = l.judgeByPages()
	case l.empties > 1:
		l.end = k - l.empties
	case k == 2 && l.equal == 2:
		f = l.repeats()
	case l.equal > 2:
		f = l.repeats()
	}
	if f != nil || l.end > 0 || k < l.maxPages {
		return f
	}
	if low, _ := l.totals(); k == l.announced && l.rows >= low {
		l.end = k
		return nil
	}
	return &source.Failure{Page: k, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the list does not end within the %d pages that are allowed (--max-pages)", l.maxPages)}
}

// judgeByTotal decides whether a list with an announced total ends. All announced
// pages are read unless an empty one follows all announced rows. If rows are
// missing then, further pages are read: total_page may be too low.
func (l *ledger) judgeByTotal() *source.Failure {
	k := l.read
	low, high := l.totals()
	switch {
	case k < l.announced:
		if l.empties > 0 && l.fits(l.rows) {
			l.end = k - l.empties
		}
	case l.equal > 1: // one more page tells whether the source repeats its last page
		if l.equal > 2 && k > l.announced {
			return l.repeats()
		}
	case l.empties > 0:
		if l.empties > 1 || l.rows >= low {
			l.end = k - l.empties
		}
	case l.rows == high && l.taken[k].rows >= l.limit && (k == 1 || l.first < l.last):
		// A total that counts its page alone, or the rows so far, looks like this.
	case l.rows >= high:
		l.end = k
	}
	return nil
}

// judgeByPages decides whether a list ends of which only the number of pages was
// announced, at the last of them and the one after it. A last page that is shorter
// than page 1 ends it. A full one may be the last before the limit was cut or
// total_page rounded down, so the next page is asked for.
func (l *ledger) judgeByPages() *source.Failure {
	k := l.read
	switch {
	case k < l.announced:
	case l.empties > 0:
		l.end = k - l.empties
	case k == l.announced:
		if l.equal == 1 && l.taken[k].rows < l.firstRows {
			l.end = k
		}
	case l.equal == 2:
		l.end = l.announced
	case l.equal > 2:
		return l.repeats()
	}
	return nil
}

// repeats decides what it means that the last pages read have the same rows, for
// the source gives them again for every page after.
func (l *ledger) repeats() *source.Failure {
	k := l.read
	from := k - l.equal + 1
	n := l.taken[k].rows
	before := l.rows - int64(l.equal-1)*int64(n)
	_, high := l.totals()
	switch {
	case l.fits(before):
	case from == 1:
		return stuck(from, k, n, "does the source know the parameter page?")
	case high > 0: // the proof fails with the numbers
	case l.announced > from:
		return stuck(from, k, n, fmt.Sprintf("the source repeats its last page, but announces %d pages", l.announced))
	case n == 1 && l.firstRows == 1:
		return stuck(from, k, n, "one row is too little to tell whether the list ends there; ask for more rows a page (limit)")
	}
	l.end, l.repeated = from, true
	return nil
}

func stuck(from, to, n int, text string) *source.Failure {
	return &source.Failure{Page: to, Code: events.CodePagingStuck, Msg: fmt.Sprintf("pages %d to %d have the same rows (%d): %s", from, to, n, text)}
}

// without decides what it means that the source gave no answer for the page that
// comes next. That is an end only if nothing announced goes beyond, see DESIGN.md.
func (l *ledger) without(f *source.Failure) *source.Failure {
	k := l.read
	low, high := l.totals()
	if l.raw || k == 0 {
		return f
	}
	data := k - l.empties // the last page with rows
	if f.Answered > 0 && k == l.announced && l.equal == 1 && l.fits(l.rows) {
		l.end = k // an earlier page comes after all that were announced
		return nil
	}
	if f.Answered > 0 {
		// The source says that this is an earlier page: it repeats its last one.
		if same := f.Data == l.taken[data].data && f.Answered <= data && f.Answered > data-max(l.equal, 1); !same {
			return f
		}
		if rest := l.rows - int64(data-f.Answered)*int64(l.taken[data].rows); k < l.announced && !l.fits(rest) {
			return f
		}
		if f.Answered == 1 && l.announced == 0 {
			return stuck(1, f.Page, l.firstRows, "does the source know the parameter page?")
		}
		l.end, l.repeated = f.Answered, k != l.announced
		return nil
	}
	switch f.Code {
	case events.CodeSourceHTTP, events.CodeSourceErrcode, events.CodeSourceFormat, events.CodeSourceTimeout, events.CodeSourceUnreachable:
	default:
		return f
	}
	ends := false
	switch {
	case high > 0:
		ends = l.fits(l.rows) || k >= l.announced && (l.empties > 0 || l.rows >= low)
	case k < l.announced:
	case k == l.announced:
		// Where page 1 is shorter than what was asked for, total_page may be of
		// pages of that size: only a clear answer is an end.
		ends = l.announced == 1 || l.firstRows >= l.limit || noSuchPage(f)
	default:
		ends = l.empties > 0
		if !ends && noSuchPage(f) {
			f.Msg = strings.TrimPrefix(f.Msg+"; the source announces no number of rows or pages, so an empty page must end its list", "; ")
		}
	}
	if !ends {
		return f
	}
	l.end = data
	return nil
}

// noSuchPage reports whether a source said that it has no such page.
func noSuchPage(f *source.Failure) bool {
	switch f.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusRequestedRangeNotSatisfiable:
		return true
	}
	return f.Code == events.CodeSourceErrcode
}

// manifest sums up the pages from 1 to the last. It is asked when the list has
// ended.
func (l *ledger) manifest() string {
	m := pages.NewManifest()
	for n := 1; n <= l.end; n++ {
		t := l.taken[n]
		m.Add(n, t.rows, t.sum)
	}
	return m.Sum()
}

// finish is called when the list has ended. It returns what a reader of the file
// should know.
func (l *ledger) finish() ([]events.Warning, *source.Failure) {
	l.rows = 0
	most, full := 0, 0 // rows of the largest page; pages with rows
	seen := map[uint64]int{}
	again, firstAgain := 0, [2]int{}
	for n := 1; n <= l.end; n++ {
		t := l.taken[n]
		l.rows += int64(t.rows)
		most = max(most, t.rows)
		if t.rows == 0 {
			continue
		}
		full++
		if before, ok := seen[t.data]; !ok {
			seen[t.data] = n
		} else if again++; again == 1 {
			firstAgain = [2]int{before, n}
		}
	}
	if l.raw {
		return nil, nil
	}
	if _, high := l.totals(); l.hole > 0 && l.hole < l.end && !l.fits(l.rows) {
		return nil, &source.Failure{Page: l.hole, Code: events.CodeSourceIncomplete,
			Msg: fmt.Sprintf("it is empty, but the source announces %d pages and %d rows; %d rows were read", l.holeIn, high, l.rows)}
	}
	var warnings []events.Warning
	warn := func(code, format string, args ...any) {
		warnings = append(warnings, events.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	size := l.size
	if most == l.firstRows { // pagetag.limit may repeat what was asked for
		size = min(size, most)
	}
	if full > 1 && most <= size && size < l.limit {
		warn("LIMIT_CAPPED", "the source gives at most %d rows a page where %d were asked for", size, l.limit)
	}
	if l.announced > 0 && l.end > l.announced {
		warn("TOTAL_PAGE_LOW", "the source announced %d pages; the pages up to %d were read as well", l.announced, l.end)
	}
	if l.repeated {
		warn("PAGE_REPEATED", "after page %d the source repeats it: the list ends there", l.end)
	}
	if again > 0 {
		warn("PAGE_REPEATED", "%d pages have the same rows as a page before them; the first is page %d, equal to page %d", again, firstAgain[1], firstAgain[0])
	}
	return warnings, nil
}

// hash is equal for pages with the same data rows, byte for byte, whether or not
// the header stands before them.
func (l *ledger) hash(p pages.Page) uint64 {
	c := rows.NewCursor(p.Rows)
	if p.HeaderRow {
		c.NextRaw()
	}
	const space = " \t\r\n"
	data := bytes.TrimLeft(p.Rows[c.Offset():], space+",")
	return maphash.Bytes(l.seed, bytes.TrimRight(data, space+"]"))
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

// sameStart reports whether page 1, asked again, begins like the page 1 of an
// earlier run, so that its pages still count: equal header and equal total.
// Without a total only equal rows tell that nothing moved.
func sameStart(old, new pages.Page) bool {
	if old.Total != new.Total || old.HeaderRow != new.HeaderRow || old.Total <= 0 && old.RowCount != new.RowCount {
		return false
	}
	a, b := firstRow(old.Rows), firstRow(new.Rows)
	if a == nil || b == nil {
		return bytes.Equal(a, b)
	}
	if l := newLedger(1, 1, 1, 1); old.Total <= 0 && l.hash(old) != l.hash(new) {
		return false
	}
	return rows.EqualRow(a, b)
}
