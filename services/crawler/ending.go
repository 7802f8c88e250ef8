package crawler

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"slices"

	"sheaf/events"
	"sheaf/services/crawler/source"
)

// ending decides where the list of a declared source ends. It takes the pages in order and looks at nothing
// else, so neither timing nor the number of connections changes its result. DESIGN.md has its rules.
type ending struct {
	paging   *events.Paging
	maxPages int
	chained  bool // each page names the next one
	single   bool // pages may have one row each: no more were asked for
	// The markers of the end that the request names.
	empty, short, missing, repeat bool

	read        int            // pages
	rows        int64          // of them
	size        int            // rows of page 1
	counted     bool           // a total was announced that counts
	first, last int64          // the first and the last total
	estimated   int64          // the last estimate; progress only
	pages       int            // the largest number of pages announced, 0 without
	fewest      int            // the smallest
	before      facts          // the last page
	empties     int            // empty pages at the end of those that were read
	equal       int            // pages at that end with the same rows; 0 when the last page is empty
	shortPage   int            // a page shorter than page 1, to be confirmed by the next one; 0 without
	shorter     int            // the last page with rows, but fewer than page 1; 0 without
	reached     int            // a page that reached the total, to be confirmed by the next one; 0 without
	tokens      map[uint64]int // the page that each token was used for
	end         int            // pages of the list, 0 while unknown
	repeated    int            // the page that the source repeats after the end, 0 without
}

// facts is what ending looks at in a page.
type facts struct {
	rows  int
	data  uint64 // hash of the rows
	total int64  // -1: not said
	pages int    // 0: not said
	next  string // token of the next page, "" without
	last  bool   // the source says that no page follows
}

// newEnding returns the judge of a list before its page 1.
func newEnding(paging *events.Paging, limit, maxPages int) *ending {
	has := func(marker string) bool { return slices.Contains(paging.End, marker) }
	e := &ending{
		paging: paging, maxPages: maxPages, single: limit <= 1 || paging.LimitParam == "", chained: isChained(paging), tokens: map[uint64]int{},
		empty: has(events.EndEmpty), short: has(events.EndShort), missing: has(events.EndMissing), repeat: has(events.EndRepeat),
	}
	if e.chained && len(paging.CursorStart) > 0 {
		e.before.next = string(paging.CursorStart)
		e.tokens[hashToken(e.before.next)] = 1
	}
	return e
}

// isChained reports whether each page of a list names the next one.
func isChained(paging *events.Paging) bool {
	return paging != nil && slices.Contains([]string{events.PagingCursor, events.PagingNextURL, events.PagingLink}, paging.Type)
}

// fork returns a copy that may read on without changing e.
func (e *ending) fork() *ending {
	f := *e
	f.tokens = maps.Clone(e.tokens)
	return &f
}

// announced reports whether the source announced rows or pages. Then no marker but an empty page counts.
func (e *ending) announced() bool { return e.counted || e.pages > 0 }

// totals returns the range that the first and the last total span.
func (e *ending) totals() (low, high int64) { return min(e.first, e.last), max(e.first, e.last) }

// fits reports whether so many rows agree with the totals.
func (e *ending) fits(rows int64) bool {
	low, high := e.totals()
	return e.counted && rows >= low && rows <= high
}

// within reports whether so many rows on so many pages agree with what was announced, although the list did
// not end there: the announcements moved.
func (e *ending) within(rows int64, pages int) bool {
	if e.counted {
		return e.fits(rows)
	}
	return e.pages > 0 && pages >= e.fewest
}

// expected returns the number of pages that the source announced, 0 if it did not. An estimate counts.
func (e *ending) expected() int {
	most := e.pages
	_, total := e.totals()
	if !e.counted {
		total = e.estimated
	}
	if total > 0 && e.size > 0 {
		if n := (total-1)/int64(e.size) + 1; most == 0 || n < int64(most) {
			most = int(min(n, int64(e.maxPages)+1))
		}
	}
	return most
}

// bound returns the last page that may be requested now. It lies beyond an announced end only if rows are
// missing there.
func (e *ending) bound(conn int) int {
	last := e.read + 1
	switch expected := e.expected(); {
	case e.end > 0:
		return e.end
	case e.read == 0 || e.chained:
	case e.announced():
		last = max(last, expected)
	case e.empties == 0 && e.shortPage == 0 && e.equal < 2:
		last = e.read + max(conn, 1)
	}
	return min(last, e.maxPages)
}

// page takes the next page.
func (e *ending) page(p facts) *source.Failure {
	e.read++
	k := e.read
	same := p.rows > 0 && k > 1 && p.rows == e.before.rows && p.data == e.before.data
	before := e.rows // rows before the page
	e.rows += int64(p.rows)
	if k == 1 {
		e.size = p.rows
	}
	if f := e.announce(k, p); f != nil {
		return f
	}
	if e.shortPage > 0 && e.confirmShort(k, p, same) {
		return nil
	}
	if e.shortPage > 0 && !e.announced() && !p.last {
		return e.fail(events.CodeSourceIncomplete, "page %d has fewer rows than page 1, but page %d has rows too: end \"short\" does not fit this source, \"empty\" may", e.shortPage, k)
	}
	e.shortPage = 0
	if e.reached > 0 && (p.rows == 0 || same) {
		if e.end = e.reached; same {
			e.repeated = e.end
		}
		return nil
	}
	e.reached = 0
	if f := e.stepFits(k, p, same); f != nil {
		return f
	}
	switch {
	case p.rows == 0 && k > 1:
		e.empties, e.equal = e.empties+1, 0
	case same:
		e.equal++
	default:
		e.empties, e.equal = 0, 1
	}
	if same {
		if f := e.again(k, p, before); f != nil || e.end > 0 {
			return f
		}
	}
	if e.ends(k, p) {
		return nil
	}
	var f *source.Failure
	switch {
	case e.chained:
		f = e.follow(k, p)
	case p.rows == 0:
		f = e.numberedEmpty(k)
	case e.short && e.paging.More == "" && !e.announced() && k > 1 && p.rows < e.size:
		e.shortPage = k
	}
	if f == nil && e.chained && e.end == 0 {
		f = e.chainedMarkers(k, p)
	}
	e.before = p
	if f == nil && e.end == 0 && k >= e.maxPages {
		f = e.fail(events.CodeLimitPages, "the list does not end within the %d pages that are allowed (--max-pages)", e.maxPages)
	}
	return f
}

// announce notes what a page announces. A page beyond the end may announce anything.
func (e *ending) announce(k int, p facts) *source.Failure {
	if p.rows == 0 && k > 1 {
		return nil
	}
	switch {
	case p.total < 0:
	case e.paging.Estimate:
		e.estimated = p.total
	case !e.counted:
		e.counted, e.first, e.last = true, p.total, p.total
	default:
		e.last = p.total
	}
	if p.pages > 0 {
		e.pages = max(e.pages, p.pages)
		if e.fewest == 0 || p.pages < e.fewest {
			e.fewest = p.pages
		}
	}
	if e.announced() && !e.chained && e.expected() > e.maxPages { // pages of a chain may differ in size
		return e.fail(events.CodeLimitPages, "the source announces more than the %d pages that are allowed (--max-pages)", e.maxPages)
	}
	return nil
}

// confirmShort reports whether page k confirms that the list ends with the short page before it.
func (e *ending) confirmShort(k int, p facts, same bool) bool {
	if p.rows > 0 && !same {
		return false
	}
	if e.end = e.shortPage - e.empties; same {
		e.repeated = e.end
	}
	return true
}

// stepFits judges whether page k lies where the pages before it end. Offsets advance by the rows of page 1.
func (e *ending) stepFits(k int, p facts, same bool) *source.Failure {
	if e.paging.Type != events.PagingOffset || p.rows == 0 || same {
		return nil
	}
	if p.rows > e.size {
		return e.fail(events.CodeSourceIncomplete, "it has %d rows, but page 1 has %d: an offset advances by the rows of page 1, so rows would come twice", p.rows, e.size)
	}
	if e.shorter > 0 && !e.counted {
		return e.fail(events.CodeSourceIncomplete, "page %d has fewer rows than page 1, but page %d has rows too: an offset advances by the rows of page 1, so rows may be missing; ask for fewer rows a page, or set source_http.paging.total", e.shorter, k)
	}
	if p.rows < e.size {
		e.shorter = k
	}
	return nil
}

// again judges page k, which has the rows of the page before it.
func (e *ending) again(k int, p facts, before int64) *source.Failure {
	if !e.paging.Repeats && e.within(before, k-1) { // the source repeats its last page
		e.end, e.repeated = k-1, k-1
		return nil
	}
	switch {
	case e.paging.Repeats && (!e.repeat || e.announced()):
	case e.repeat && !e.announced():
		if e.equal > 2 || e.chained && p.next != "" && p.next == e.before.next {
			e.end = k - e.equal + 1
			e.repeated = e.end
		}
	case p.rows == 1 && e.size == 1 && e.single:
		// A table of equal rows read one by one looks the same. Its total ends it.
		if e.equal > 2 && !e.announced() && !e.chained {
			return e.fail(events.CodePagingStuck, "pages %d to %d have the same row, which is too little to tell whether the list ends there; ask for more rows a page", k-e.equal+1, k)
		}
	case e.repeat:
		low, _ := e.totals()
		if e.counted {
			return e.fail(events.CodeSourceIncomplete, "page %d repeats page %d, so the list ends there with %d rows, but the source announced %d", k, k-1, before, low)
		}
		return e.fail(events.CodeSourceIncomplete, "page %d repeats page %d, so the list ends there, but the source announced %d pages", k, k-1, e.pages)
	default:
		knows := "does the source follow the token of the page before?"
		if place := e.paging.PageParam + e.paging.OffsetParam; !e.chained && place != "" {
			knows = fmt.Sprintf("does the source know the parameter %q?", place)
		}
		return e.fail(events.CodePagingStuck, "the same %d rows as page %d: %s A source that repeats its last page needs end [\"repeat\"], and one whose neighbouring pages may be equal needs repeats true", p.rows, k-1, knows)
	}
	return nil
}

// ends reports whether the list ends at page k because the source says so, without a marker.
func (e *ending) ends(k int, p facts) bool {
	_, high := e.totals()
	switch {
	case p.last, e.chained && p.next == "", e.paging.Type == events.PagingNone,
		e.pages > 0 && k >= e.pages:
		e.end = k
	case e.counted && e.rows == high && (e.paging.More != "" || e.chained && (k == 1 || e.first < e.last)):
		e.reached = k // the source does not say that it was the last, so the total may count only rows so far
	case e.counted && e.rows >= high:
		e.end = k
	case k == 1 && p.rows == 0 && !e.chained && !e.announced():
		e.end = 1 // an empty list
	}
	return e.end > 0
}

// numberedEmpty judges an empty page of a numbered list. It is no end by itself, for some sources filter.
func (e *ending) numberedEmpty(k int) *source.Failure {
	switch {
	case k == 1:
		return e.fail(events.CodeSourceIncomplete, "it is empty, but the source announces %s", e.announcement())
	case e.counted:
		if e.within(e.rows, k-e.empties) || k >= e.expected() {
			e.end = k - e.empties
		}
	case e.within(e.rows, k-e.empties):
		e.end = k - e.empties
	case e.pages > 0:
		return e.fail(events.CodeSourceIncomplete, "it is empty, but the source announces %d pages", e.pages)
	case e.short && e.paging.More == "":
		e.shortPage = k
	case e.empties < 2:
	case e.empty || e.short || e.repeat:
		e.end = k - e.empties
	default:
		return e.fail(events.CodeSourceIncomplete, "pages %d and %d are empty, but source_http.paging.end does not name \"empty\"; add it if an empty page ends the list", k-1, k)
	}
	return nil
}

// announcement says what was announced.
func (e *ending) announcement() string {
	if _, high := e.totals(); e.counted {
		return fmt.Sprintf("%d rows", high)
	}
	return fmt.Sprintf("%d pages", e.pages)
}

// follow judges the token of the next page. Nothing runs for ever: no token may be used twice.
func (e *ending) follow(k int, p facts) *source.Failure {
	token := hashToken(p.next)
	used, again := e.tokens[token]
	if !again {
		e.tokens[token] = k + 1
		return nil
	}
	if p.rows == 0 && e.empty || p.next == e.before.next && e.repeat || e.reached == k {
		e.end = k
		return nil
	}
	what := "cursor"
	if e.paging.Type != events.PagingCursor {
		what = "address"
	}
	return e.fail(events.CodePagingLoop, "the %s of the next page was used for page %d", what, used)
}

// chainedMarkers judges page k by the markers that were given for a chained list.
func (e *ending) chainedMarkers(k int, p facts) *source.Failure {
	switch {
	case e.announced():
	case p.rows == 0 && k > 1:
		if e.empties > 1 && (e.empty || e.short) {
			e.end = k - e.empties
		}
	case e.short && e.paging.More == "" && k > 1 && p.rows < e.size:
		e.shortPage = k
	}
	return nil
}

// miss takes the failure of the page after those that were read. nil: the list ended before it.
func (e *ending) miss(f *source.Failure) *source.Failure {
	k := e.read
	gone := noSuchStatus(f)
	pending := e.empties > 0 && (e.empty || e.short || e.repeat) || e.shortPage > 0 || e.equal > 1 && e.repeat
	switch {
	case k == 0:
		return f
	case gone && e.missing, !e.chained && gone && e.within(e.rows, k-e.empties),
		(e.reached > 0 || !e.announced() && pending) && refused(f):
		e.end = max(k-e.empties, 1)
		return nil
	case gone && !e.chained && !e.announced():
		g := *f
		if g.Msg != "" {
			g.Msg += "; "
		}
		g.Msg += `if the list ends there, source_http.paging.end needs "missing"`
		return &g
	}
	return f
}

// noSuchStatus reports whether a status says that a page does not exist.
func noSuchStatus(f *source.Failure) bool {
	switch f.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusRequestedRangeNotSatisfiable:
		return f.Code == events.CodeSourceHTTP
	}
	return false
}

// refused reports whether a source refused a page for good. An outage is no refusal.
func refused(f *source.Failure) bool {
	switch f.Code {
	case events.CodeSourceErrcode:
		return true
	case events.CodeSourceHTTP:
		switch f.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return f.Status >= 400 && f.Status < 500
	}
	return false
}

// proof returns how it is known that a list with so many rows is complete, when it has ended.
func (e *ending) proof(rows int64) (*events.Proof, *source.Failure) {
	p := &events.Proof{Kind: events.ProofEnd, Rows: rows, Pages: e.end}
	low, high := e.totals()
	switch {
	case e.counted && low == high && rows != high:
		return nil, &source.Failure{Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("%d rows were read, but the source announced %d", rows, high)}
	case e.counted && !e.fits(rows):
		return nil, &source.Failure{Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("%d rows were read, but the source announced between %d and %d", rows, low, high)}
	case e.counted:
		p.Kind, p.Announced = events.ProofTotal, e.last
	case e.fewest > e.end:
		return nil, &source.Failure{Code: events.CodeSourceIncomplete, Msg: fmt.Sprintf("%d pages were read, but the source announced %d", e.end, e.fewest)}
	case e.pages > 0:
		p.Kind, p.Announced = events.ProofPages, int64(e.pages)
	case e.paging.Type == events.PagingNone:
		p.Kind = events.ProofSingle
	}
	return p, nil
}

func (e *ending) fail(code, format string, args ...any) *source.Failure {
	return &source.Failure{Page: e.read, Code: code, Msg: fmt.Sprintf(format, args...)}
}

// hashToken returns the hash of a token, which may be a long URL.
func hashToken(token string) uint64 { return maphash.String(hashSeed, token) }
