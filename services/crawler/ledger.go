package crawler

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"
)

// ledger reads the pages of a run in page order. It decides which pages may be requested and where the list
// ends. Responses may arrive in any order: the result depends on their content alone, never on timing. It is
// not safe for concurrent use.
type ledger struct {
	limits
	ending *ending  // judges the list of a declared source; nil in the standard format
	union  *columns // the names of the rows; nil if the pages begin with a header

	plan    *plan         // nil while page 1 is missing
	taken   map[int]taken // durable pages
	stored  int64         // data rows of all of them
	replies map[int]reply // durable pages that were not read yet
	failed  int           // lowest page that the source failed to return; 0 without

	// Of the pages 1 to read:
	read        int
	rows        int64  // data rows
	bytes       int64  // of JSON
	announced   int    // the largest number of pages; 0 while there is none
	first, last int64  // the first and the last total; 0 while there is none
	empties     int    // empty pages at their end
	equal       int    // pages at their end with the same rows; 0 when the last page is empty
	hole        int    // first empty page before the last one that was announced; 0 without
	holeIn      int    // that last one
	next        string // token of the next page
	nothingMore bool   // the source says that no page follows
	// by hash: the page that named this token as the next one
	tokens map[uint64]int

	end      int // pages of the list; 0 while unknown
	repeated int // the list ends because the source answers this page again; 0 without
}

// taken is the record of a durable page.
type taken struct {
	rows int // data rows
	sum  [sha256.Size]byte
	data uint64 // hash of the data rows
}

// reply is the content of a page's response, or the reason why there is no page.
type reply struct {
	bytes  int
	total  int64
	pages  int
	next   string
	last   bool
	names  []string
	missed *missed
}

func newLedger(perPage, maxPages int, maxRows, maxBytes int64) *ledger {
	return &ledger{limits: limits{perPage: perPage, pages: maxPages, rows: maxRows, bytes: maxBytes}, taken: map[int]taken{}, replies: map[int]reply{}, tokens: map[uint64]int{}}
}

// declare makes the ledger judge a list by what the request says of its source.
func (l *ledger) declare(req *events.Request, maxColumns int) {
	if req.HTTP == nil || req.HTTP.Paging == nil {
		return
	}
	l.ending = newEnding(req.HTTP.Paging, l.perPage, l.limits.pages)
	if req.HasColumnsPage() {
		whose := "--max-columns"
		if f := fewestColumns(req); f.MaxColumns > 0 && f.MaxColumns < maxColumns {
			maxColumns, whose = f.MaxColumns, "the most that "+f.Name+" holds; choose fewer in columns"
		}
		l.union = newColumns(maxColumns, whose)
	}
}

// take records a page that is durable. Another crawler may have stored it, so it can differ from the admitted
// one. names are those of the rows of a page without a header, nil for others.
func (l *ledger) take(p pages.Page, names []string) *source.Failure {
	if !l.missing(p.Number) {
		return nil
	}
	if p.Number == 1 {
		l.plan = newPlan(p, l.perPage)
	}
	return l.record(newRecord(p, names))
}

// record is what the ledger has to know of a durable page. A helper reports it to the owner.
type record struct {
	Page   int      `json:"page"`
	Rows   int      `json:"rows"` // data rows
	Sum    []byte   `json:"sum"`
	Data   uint64   `json:"data"`  // hash of the data rows
	Bytes  int      `json:"bytes"` // of JSON
	Stored int64    `json:"stored"`
	Total  int64    `json:"total"`
	Pages  int      `json:"pages,omitempty"`
	Last   bool     `json:"last,omitempty"`
	Next   string   `json:"-"` // pages that name the next one are fetched by one crawler
	Names  []string `json:"names,omitempty"`
}

func newRecord(p pages.Page, names []string) record {
	return record{Page: p.Number, Rows: p.DataRows(), Sum: p.SHA256[:], Data: hashData(p), Bytes: len(p.Rows),
		Stored: p.Stored, Total: p.Total, Pages: p.TotalPages, Last: p.Last, Next: p.Next, Names: names}
}

// record is take for a page after page 1 that a helper has stored.
func (l *ledger) record(r record) *source.Failure {
	if !l.missing(r.Page) {
		return nil
	}
	if l.union != nil {
		r.Names = l.union.intern(r.Names)
	}
	t := taken{rows: r.Rows, data: r.Data}
	copy(t.sum[:], r.Sum)
	l.taken[r.Page] = t
	l.stored += int64(r.Rows)
	l.replies[r.Page] = reply{bytes: r.Bytes, total: r.Total, pages: r.Pages, next: r.Next, last: r.Last, names: r.Names}
	return l.walk()
}

// miss records a page that the source did not return. It is a failure once all pages before it were read and
// the list continues beyond them.
func (l *ledger) miss(n int, m *missed) *source.Failure {
	if !l.missing(n) {
		return nil
	}
	l.replies[n] = reply{missed: m}
	if l.failed == 0 || n < l.failed {
		l.failed = n
	}
	return l.walk()
}

// missing reports whether page n is not fetched yet.
func (l *ledger) missing(n int) bool {
	_, ok := l.taken[n]
	return !ok
}

// bound returns the last page that may be requested now: all pages up to the last announced one. Beyond it at
// most conn pages, as far as the list may reach.
func (l *ledger) bound(conn int) int {
	if l.ending != nil {
		last := l.ending.bound(conn)
		if l.failed > 0 && l.end == 0 {
			last = min(last, l.failed)
		}
		return last
	}
	low, high := l.totals()
	last := l.announced
	switch {
	case l.end > 0:
		return l.end
	case l.read == 0:
		return 1
	case l.next != "":
		last = l.read + 1
	case l.read < l.announced:
	case l.empties > 0 || l.equal > 1:
		last = l.read + 1
	case high > 0:
		owed := max(low-l.rows, 1)
		last = l.read + int(min(int64(conn), (owed-1)/int64(max(l.plan.rows, 1))+1))
	case l.read == l.announced:
		last = l.read + 1
	default:
		last = l.read + conn
	}
	last = min(last, l.limits.pages)
	if l.failed > 0 {
		last = min(last, l.failed)
	}
	return last
}

// totals returns the range that the first and the last announced total span; high is 0 while none was
// announced.
func (l *ledger) totals() (low, high int64) { return min(l.first, l.last), max(l.first, l.last) }

// fits reports whether rows agrees with the announced totals.
func (l *ledger) fits(n int64) bool {
	low, high := l.totals()
	return high > 0 && n >= low && n <= high
}

// walk reads the available responses, in page order, until the list ends.
func (l *ledger) walk() *source.Failure {
	for l.end == 0 {
		n := l.read + 1
		a, ok := l.replies[n]
		if !ok {
			return nil
		}
		delete(l.replies, n)
		if l.ending != nil {
			if f := l.judgeDeclared(n, a); f != nil {
				return f
			}
			continue
		}
		if a.missed != nil {
			return l.without(a.missed)
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

// judgeDeclared reads page n of a declared source, the next one, or the reason why there is none.
func (l *ledger) judgeDeclared(n int, a reply) *source.Failure {
	if a.missed != nil {
		f := l.ending.miss(a.missed.Failure)
		l.end = l.ending.end
		return f
	}
	t := l.taken[n]
	l.read, l.rows, l.bytes, l.next = n, l.rows+int64(t.rows), l.bytes+int64(a.bytes), a.next
	f := l.ending.page(facts{rows: t.rows, data: t.data, total: a.total, pages: a.pages, next: a.next, last: a.last})
	l.end, l.repeated, l.announced = l.ending.end, l.ending.repeated, min(l.ending.expected(), l.limits.pages)
	if f == nil {
		f = l.limits.exceeded(n, l.rows, l.bytes)
	}
	if low, _ := l.ending.totals(); f == nil {
		f = l.limits.inFiles(n, max(l.rows, low))
	}
	if f == nil && l.union != nil && !l.union.add(a.names) {
		f = &source.Failure{Page: n, Code: events.CodeLimitColumns, Msg: fmt.Sprintf("the rows up to here have more than %d different names (%s)", l.union.max, l.union.whose)}
	}
	return f
}

// add reads page n, the next one.
func (l *ledger) add(n int, a reply) *source.Failure {
	t := l.taken[n]
	l.read, l.rows, l.bytes = n, l.rows+int64(t.rows), l.bytes+int64(a.bytes)
	l.next, l.nothingMore = a.next, a.last
	if t.rows > 0 || n == 1 { // a page beyond the end may announce any total
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
		if l.hole == 0 && n < last {
			l.hole, l.holeIn = n, last
		}
	}
	f := l.limits.exceeded(n, l.rows, l.bytes)
	if f != nil && n >= 3 && l.equal == n {
		return l.repeats() // the more specific reason
	}
	if low, _ := l.totals(); f == nil {
		f = l.limits.inFiles(n, max(l.rows, low))
	}
	token := hashToken(l.next)
	if before, ok := l.tokens[token]; ok && l.next != "" && f == nil {
		return &source.Failure{Page: n, Code: events.CodePagingStuck, Msg: fmt.Sprintf("the source names the same page as the next one as on page %d", before)}
	}
	if l.next != "" {
		l.tokens[token] = n
	}
	return f
}

// exceeded returns the failure of a list that exceeds the limits of rows or bytes with page n.
func (l limits) exceeded(n int, rows, bytes int64) *source.Failure {
	switch {
	case rows > l.rows:
		return &source.Failure{Page: n, Code: events.CodeLimitRows, Msg: fmt.Sprintf("more than %d rows (--max-rows)", l.rows)}
	case bytes > l.bytes:
		return &source.Failure{Page: n, Code: events.CodeLimitBytes, Msg: fmt.Sprintf("the rows of the export have more than %d bytes (--max-export-bytes)", l.bytes)}
	}
	return nil
}

// inFiles returns the failure of a list whose rows options.max_rows would divide into more files than an export
// may have. rows are those that were read or announced.
func (l limits) inFiles(n int, rows int64) *source.Failure {
	if l.files == nil || l.files(rows) <= events.MaxFiles {
		return nil
	}
	return &source.Failure{Page: n, Code: events.CodeLimitRows, Msg: fmt.Sprintf(
		"options.max_rows is too low for %d rows: an export may have %d files", rows, events.MaxFiles)}
}

// judge decides, after a page was read, whether the list ends.
func (l *ledger) judge() *source.Failure {
	k := l.read
	_, high := l.totals()
	var f *source.Failure
	switch {
	case l.end > 0:
		return nil
	case l.nothingMore:
		l.end = k
	case l.next != "":
		if n := l.taken[k].rows; l.equal > 1 && n > 1 {
			f = stuck(k-l.equal+1, k, n, "the source does not go on where it says")
		}
	case k == 1 && l.rows == 0 && l.announced <= 1 && high == 0: // an empty list
		l.end = 1
	case high == 0 && l.hole > 0:
		return &source.Failure{Page: l.hole, Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("it is empty, but the source announces %d pages", l.holeIn)}
	case k >= 3 && k == l.announced && l.equal == k && l.plan.rows > 1:
		// One row proves nothing: a table of equal rows read one by one looks the same.
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
	if f != nil || l.end > 0 || k < l.limits.pages {
		return f
	}
	if low, _ := l.totals(); k == l.announced && l.rows >= low {
		l.end = k
		return nil
	}
	return &source.Failure{Page: k, Code: events.CodeLimitPages, Msg: fmt.Sprintf("the list does not end within the %d pages that are allowed (--max-pages)", l.limits.pages)}
}

// judgeByTotal decides whether a list with an announced total ends. All announced pages are read unless an
// empty one follows all announced rows. If rows are missing then, further pages are read: total_page may be
// too low.
func (l *ledger) judgeByTotal() *source.Failure {
	k := l.read
	low, high := l.totals()
	switch {
	case l.beginsAgain() && l.rows-int64(l.taken[k].rows) == high: // all rows were there before this page
		if l.end = k - 1; l.end != l.announced {
			l.repeated = 1
		}
	case k < l.announced:
		if l.empties > 0 && l.fits(l.rows) {
			l.end = k - l.empties
		}
	case l.equal > 1: // one more page shows whether the source repeats its last page
		if l.equal > 2 && k > l.announced {
			return l.repeats()
		}
	case l.empties > 0:
		if l.empties > 1 || l.rows >= low {
			l.end = k - l.empties
		}
	case l.rows == high && l.taken[k].rows >= l.perPage && (k == 1 || l.first < l.last):
		// A total that counts only its own page, or the rows so far, looks like this.
	case l.rows >= high:
		l.end = k
	}
	return nil
}

// judgeByPages decides whether a list ends for which the source announced only the number of pages. It
// decides at the last page and at the one after it. A last page that is shorter than page 1 ends the list. A
// full one may be the last before the limit was cut or total_page rounded down, so the next page is
// requested.
func (l *ledger) judgeByPages() *source.Failure {
	k := l.read
	switch {
	case k < l.announced:
	case l.empties > 0:
		l.end = k - l.empties
	case k == l.announced:
		if l.equal == 1 && l.taken[k].rows < l.plan.rows {
			l.end = k
		}
	case l.equal == 2, l.beginsAgain() && l.taken[k].rows > 1:
		l.end = l.announced
	case l.equal > 2:
		return l.repeats()
	}
	return nil
}

// beginsAgain reports whether the last page read has the rows of page 1.
func (l *ledger) beginsAgain() bool {
	return l.read > 1 && l.equal == 1 && l.taken[l.read].data == l.taken[1].data
}

// repeats handles two last pages with the same rows: the source would repeat them for every later page.
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
	case high > 0: // the proof fails, with the numbers
	case l.announced > from:
		return stuck(from, k, n, fmt.Sprintf("the source repeats its last page, but announces %d pages", l.announced))
	case n == 1 && l.plan.rows == 1:
		return stuck(from, k, n, "one row is too little to tell whether the list ends there; ask for more rows a page (limit)")
	}
	l.end, l.repeated = from, from
	return nil
}

func stuck(from, to, n int, text string) *source.Failure {
	return &source.Failure{Page: to, Code: events.CodePagingStuck, Msg: fmt.Sprintf("pages %d to %d have the same rows (%d): %s", from, to, n, text)}
}

// without handles a missing response for the next page. It ends the list only if nothing announced goes
// further, see DESIGN.md.
func (l *ledger) without(m *missed) *source.Failure {
	f, k := m.Failure, l.read
	low, high := l.totals()
	if k == 0 || l.next != "" {
		return f
	}
	data := k - l.empties // the last page with rows
	if m.earlier > 0 && l.equal == 1 && l.fits(l.rows) && (k == l.announced || l.rows == high) {
		// An earlier page comes after all announced pages.
		if l.end = k; k != l.announced {
			l.repeated = m.earlier
		}
		return nil
	}
	if m.earlier > 0 {
		// The source returns an earlier page: it repeats its last one.
		if same := m.data == l.taken[data].data && m.earlier <= data && m.earlier > data-max(l.equal, 1); !same {
			return f
		}
		if rest := l.rows - int64(data-m.earlier)*int64(l.taken[data].rows); k < l.announced && !l.fits(rest) {
			return f
		}
		if m.earlier == 1 && l.announced == 0 {
			return stuck(1, f.Page, l.plan.rows, "does the source know the parameter page?")
		}
		if l.end = m.earlier; k != l.announced {
			l.repeated = m.earlier
		}
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
		// If page 1 is shorter than the requested limit, total_page may count pages of that size. Only a
		// clear response is an end.
		ends = l.announced == 1 || l.plan.rows >= l.perPage || noSuchPage(f)
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

// noSuchPage reports whether a source answered that the page does not exist.
func noSuchPage(f *source.Failure) bool {
	switch f.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusRequestedRangeNotSatisfiable:
		return true
	}
	return f.Code == events.CodeSourceErrcode
}

// manifest sums up the pages from 1 to the last. It is called when the list has ended.
func (l *ledger) manifest() string {
	m := pages.NewManifest()
	if l.union != nil {
		m.Add(0, 0, l.union.page().SHA256)
	}
	for n := 1; n <= l.end; n++ {
		t := l.taken[n]
		m.Add(n, t.rows, t.sum)
	}
	return m.Sum()
}

// proof is called when the list has ended and its pages were counted. It returns how it is known that the
// list is complete.
func (l *ledger) proof() (*events.Proof, *source.Failure) {
	if l.ending != nil {
		return l.ending.proof(l.rows)
	}
	p := &events.Proof{Kind: events.ProofEnd, Rows: l.rows, Pages: l.end}
	switch {
	case l.last > 0:
		p.Kind, p.Announced = events.ProofTotal, l.last
	case l.announced > 0 && l.announced == l.end && l.rows > 0:
		p.Kind, p.Announced = events.ProofPages, int64(l.announced)
	}
	return p, nil
}

// finish is called when the list has ended. It returns the warnings for a reader of the file.
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
	l.stored = l.rows
	if l.ending != nil && l.rows > 0 && l.union != nil && len(l.union.names) == 0 {
		return nil, &source.Failure{Code: events.CodeSourcePath, Msg: fmt.Sprintf("none of the %d rows has a field: does source_http.rows name the array of the rows?", l.rows)}
	}
	if _, high := l.totals(); l.hole > 0 && l.hole < l.end && !l.fits(l.rows) {
		return nil, &source.Failure{Page: l.hole, Code: events.CodeSourceIncomplete,
			Msg: fmt.Sprintf("it is empty, but the source announces %d pages and %d rows; %d rows were read", l.holeIn, high, l.rows)}
	}
	var warnings []events.Warning
	warn := func(code, format string, args ...any) {
		warnings = append(warnings, events.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	size := l.plan.size
	if most == l.plan.rows { // pagetag.limit may repeat the requested limit
		size = min(size, most)
	}
	if full > 1 && most <= size && size < l.perPage && (l.ending == nil || l.ending.paging.LimitParam != "") {
		warn("LIMIT_CAPPED", "the source gives at most %d rows a page where %d were asked for", size, l.perPage)
	}
	if l.ending == nil && l.announced > 0 && l.end > l.announced {
		warn("TOTAL_PAGE_LOW", "the source announced %d pages; the pages up to %d were read as well", l.announced, l.end)
	}
	switch l.repeated {
	case 0:
	case l.end:
		warn("PAGE_REPEATED", "after page %d the source repeats it: the list ends there", l.end)
	default:
		warn("PAGE_REPEATED", "after page %d the source answers page %d again: the list ends there", l.end, l.repeated)
	}
	if again > 0 {
		warn("PAGE_REPEATED", "%d pages have the same rows as a page before them; the first is page %d, equal to page %d", again, firstAgain[1], firstAgain[0])
	}
	return warnings, nil
}
