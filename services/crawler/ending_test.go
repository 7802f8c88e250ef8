package crawler

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// said is an answer of a declared source: a page, or a refusal.
type said struct {
	rows   []int // their ids
	total  int64 // -1: not said
	pages  int
	next   string
	last   bool
	status int    // of a refusal, 0 for a page
	code   string // of a refusal that is not SOURCE_HTTP
}

// rowsOf are n rows from an id on.
func rowsOf(from, n int) (ids []int) {
	for i := range n {
		ids = append(ids, from+i)
	}
	return ids
}

// list is an answer with rows that announces nothing.
func list(ids ...int) said { return said{rows: ids, total: -1} }

func (a said) of(total int64) said { a.total = total; return a }
func (a said) in(pages int) said   { a.pages = pages; return a }
func (a said) to(next string) said { a.next = next; return a }
func (a said) then(last bool) said { a.last = last; return a }
func refusal(status int) said      { return said{status: status} }
func (a said) page(n int) pages.Page {
	texts := make([]string, len(a.rows))
	for i, id := range a.rows {
		texts[i] = fmt.Sprintf(`{"id":%d}`, id)
	}
	p := pages.Page{Rows: []byte("[" + strings.Join(texts, ",") + "]"), RowCount: len(texts), Total: a.total, TotalPages: a.pages, Next: a.next, Last: a.last}
	p.Number, p.SHA256 = n, sha256.Sum256(p.Rows)
	return p
}

// declaredLedger returns the ledger of a declared source.
func declaredLedger(paging events.Paging, limit, maxPages int) *ledger {
	l := newLedger(limit, maxPages, 1000, 1<<20)
	l.declare(&events.Request{SourceType: events.SourceHTTP, HTTP: &events.HTTPRequest{Paging: &paging}}, 100)
	return l
}

// answerTo gives a ledger the answer to the request for page n.
func (a said) answerTo(l *ledger, n int) *source.Failure {
	if a.status != 0 || a.code != "" {
		f := &source.Failure{Page: n, Code: events.CodeSourceHTTP, Status: a.status}
		if a.code != "" {
			f.Code = a.code
		}
		return l.miss(n, &missed{Failure: f})
	}
	var names []string
	if len(a.rows) > 0 {
		names = []string{"id"}
	}
	return l.take(a.page(n), names)
}

// outcome is the list as ids, or the failure.
func outcome(l *ledger, f *source.Failure, stored map[int]said) (ids []int, text string) {
	var crawled *events.ExportCrawled
	if f == nil {
		crawled, f = newInventory(l).finish()
	}
	if f != nil {
		return nil, fmt.Sprintf("%s page %d: %s", f.Code, f.Page, f.Msg)
	}
	ids = []int{}
	for n := 1; n <= l.end; n++ {
		ids = append(ids, stored[n].rows...)
	}
	return ids, fmt.Sprintf("%v %+v %v %s", ids, *crawled.Proof, crawled.Warnings, crawled.Manifest)
}

// readInOrder gives a ledger one answer after another, the last one for ever.
func readInOrder(t require.TestingT, l *ledger, answers []said) (asked int, ids []int, f *source.Failure, text string) {
	stored := map[int]said{}
	for n := 1; f == nil && l.end == 0; n++ {
		require.GreaterOrEqual(t, l.bound(1), n, "page %d may not be asked for, and the list has not ended", n)
		a := answers[min(n, len(answers))-1]
		stored[n] = a
		asked = n
		f = a.answerTo(l, n)
	}
	ids, text = outcome(l, f, stored)
	return asked, ids, f, text
}

// Each rule of the end of a list.
func TestEndsOfDeclaredLists(t *testing.T) {
	t.Parallel()
	page := events.Paging{Type: events.PagingPage, PageParam: "page", LimitParam: "limit", End: []string{events.EndEmpty}}
	with := func(change func(*events.Paging)) events.Paging {
		p := page
		change(&p)
		return p
	}
	ends := func(markers ...string) events.Paging { return with(func(p *events.Paging) { p.End = markers }) }
	cursor := events.Paging{Type: events.PagingCursor, CursorParam: "after", Cursor: "next"}
	offset := events.Paging{Type: events.PagingOffset, OffsetParam: "offset", LimitParam: "limit", End: []string{events.EndEmpty}}
	a, b, c := list(1, 2), list(3, 4), list(5)
	none := list()
	for _, tc := range []struct {
		claim  string
		paging events.Paging
		told   []said // the last one repeats
		asked  int    // pages
		rows   int
		proof  string // kind, or the code of the failure
		text   string // part of the outcome
	}{
		{"a total of page 1 alone, and more", with(func(p *events.Paging) { p.More = "more" }), []said{a.of(2), b.of(2), c.of(2).then(true)}, 2, 0, events.CodeSourceIncomplete, "4 rows were read, but the source announced 2"},
		{"a total reached, and more without a page", with(func(p *events.Paging) { p.More = "more" }), []said{a.of(4), b.of(4), none}, 3, 4, events.ProofTotal, ""},
		{"a total reached, and more is false", with(func(p *events.Paging) { p.More = "more" }), []said{a.of(4), b.of(4).then(true)}, 2, 4, events.ProofTotal, ""},
		{"more is false", page, []said{a, b.then(true)}, 2, 4, events.ProofEnd, ""},
		{"all pages are there", page, []said{a.in(2), b.in(2)}, 2, 4, events.ProofPages, ""},
		{"pages announced on page 1 alone", page, []said{a.in(2), b}, 2, 4, events.ProofPages, ""},
		{"the last announced page may be empty", page, []said{a.in(3), b.in(3), none.in(3)}, 3, 4, events.ProofPages, ""},
		{"an announced page before it may not", page, []said{a.in(3), none.in(3), b.in(3)}, 2, 0, events.CodeSourceIncomplete, "it is empty, but the source announces 3 pages"},
		{"all rows are there", page, []said{a.of(5), b.of(5), c.of(5)}, 3, 5, events.ProofTotal, ""},
		{"a total on page 1 alone", page, []said{a.of(5), b, c}, 3, 5, events.ProofTotal, ""},
		{"a total of full pages", page, []said{a.of(4), b.of(4)}, 2, 4, events.ProofTotal, ""},
		{"the total before the pages", page, []said{a.of(4).in(9), b.of(4).in(9)}, 2, 4, events.ProofTotal, ""},
		{"a total too high", page, []said{a.of(6), b.of(6), c.of(6), none.of(6)}, 4, 0, events.CodeSourceIncomplete, "5 rows were read, but the source announced 6"},
		{"a total too low", page, []said{a.of(3), b.of(3)}, 2, 0, events.CodeSourceIncomplete, "4 rows were read, but the source announced 3"},
		{"rows after a short page of a counted list", page, []said{a.of(5), c.of(5), b.of(5)}, 3, 5, events.ProofTotal, ""},
		{"an empty page in a counted list", page, []said{a.of(5), none, b.of(5), c.of(5)}, 4, 5, events.ProofTotal, ""},
		{"a total that grew", page, []said{a.of(4), b.of(5), c.of(5)}, 3, 5, events.ProofTotal, ""},
		{"a total that shrank", page, []said{a.of(6), b.of(4), none.of(4)}, 3, 4, events.ProofTotal, ""},
		{"a total that shrank, where the last page is repeated", page, []said{a.of(6), b.of(4), b.of(4)}, 3, 4, events.ProofTotal, "the source repeats it"},
		{"a total that shrank, where the next page is missing", page, []said{a.of(6), b.of(4), refusal(404)}, 3, 4, events.ProofTotal, ""},
		{"a number of pages that shrank", page, []said{a.in(3), b.in(2), none}, 3, 4, events.ProofPages, ""},
		{"an estimate is no end", with(func(p *events.Paging) { p.Estimate = true }), []said{a.of(2), b.of(99), none.of(1)}, 4, 4, events.ProofEnd, ""},
		{"a total of 0", page, []said{none.of(0)}, 1, 0, events.ProofTotal, ""},
		{"a total of 0 and rows", page, []said{a.of(0)}, 1, 0, events.CodeSourceIncomplete, "2 rows were read, but the source announced 0"},
		{"an empty list", page, []said{none}, 1, 0, events.ProofEnd, ""},
		{"page 1 empty, but rows announced", page, []said{none.of(3)}, 1, 0, events.CodeSourceIncomplete, "page 1: it is empty, but the source announces 3 rows"},
		{"page 1 empty, but pages announced", page, []said{none.in(3)}, 1, 0, events.CodeSourceIncomplete, "announces 3 pages"},

		{"empty: two in a row", page, []said{a, b, none}, 4, 4, events.ProofEnd, ""},
		{"empty: one is no end", page, []said{a, none, b, none}, 5, 4, events.ProofEnd, ""},
		{"empty: then missing", page, []said{a, none, refusal(404)}, 3, 2, events.ProofEnd, ""},
		{"empty: then refused", page, []said{a, none, refusal(400)}, 3, 2, events.ProofEnd, ""},
		{"empty: then an errcode", page, []said{a, none, {code: events.CodeSourceErrcode}}, 3, 2, events.ProofEnd, ""},
		{"empty: then an outage", page, []said{a, none, refusal(503)}, 3, 0, events.CodeSourceHTTP, ""},
		{"empty: then no credentials", page, []said{a, none, {status: 401, code: events.CodeSourceAuth}}, 3, 0, events.CodeSourceAuth, ""},
		{"empty: missing is none", page, []said{a, refusal(404)}, 2, 0, events.CodeSourceHTTP, `source_http.paging.end needs "missing"`},
		{"short: then empty", ends(events.EndShort), []said{a, b, c, none}, 4, 5, events.ProofEnd, ""},
		{"short: then missing", ends(events.EndShort), []said{a, b, c, refusal(410)}, 4, 5, events.ProofEnd, ""},
		{"short: then refused", ends(events.EndShort), []said{a, b, c, refusal(422)}, 4, 5, events.ProofEnd, ""},
		{"short: then repeated", ends(events.EndShort), []said{a, b, c, c}, 4, 5, events.ProofEnd, "after page 3 the source repeats it"},
		{"short: then rows", ends(events.EndShort), []said{a, c, b}, 3, 0, events.CodeSourceIncomplete, "page 3: page 2 has fewer rows than page 1, but page 3 has rows too"},
		{"short: an empty page is shorter", ends(events.EndShort), []said{a, b, none}, 4, 4, events.ProofEnd, ""},
		{"short: page 1 is not", ends(events.EndShort), []said{c, list(7), list(8), none}, 5, 3, events.ProofEnd, ""},
		{"short: not where the source says more", with(func(p *events.Paging) { p.End, p.More = []string{events.EndShort}, "more" }), []said{a, c, b.then(true)}, 3, 5, events.ProofEnd, ""},
		{"missing: 404", ends(events.EndMissing), []said{a, b, refusal(404)}, 3, 4, events.ProofEnd, ""},
		{"missing: 416", ends(events.EndMissing), []said{a, b, refusal(416)}, 3, 4, events.ProofEnd, ""},
		{"missing: not 400", ends(events.EndMissing), []said{a, b, refusal(400)}, 3, 0, events.CodeSourceHTTP, ""},
		{"missing: not page 1", ends(events.EndMissing), []said{refusal(404)}, 1, 0, events.CodeSourceHTTP, ""},
		{"missing: before all rows", ends(events.EndMissing), []said{a.of(6), b.of(6), refusal(404)}, 3, 0, events.CodeSourceIncomplete, "4 rows were read, but the source announced 6"},
		{"missing: before all pages", ends(events.EndMissing), []said{a.in(6), b.in(6), refusal(404)}, 3, 0, events.CodeSourceIncomplete, "2 pages were read, but the source announced 6"},
		{"missing: two empty pages are none", ends(events.EndMissing), []said{a, none}, 3, 0, events.CodeSourceIncomplete, `does not name "empty"`},
		{"repeat: three equal pages", ends(events.EndRepeat), []said{a, b, b}, 4, 4, events.ProofEnd, "after page 2 the source repeats it"},
		{"repeat: two are data if another follows", ends(events.EndRepeat, events.EndEmpty), []said{a, b, b, c, none}, 6, 7, events.ProofEnd, "the first is page 3"},
		{"repeat: two are data if an empty one follows", ends(events.EndRepeat, events.EndEmpty), []said{a, b, b, none}, 5, 6, events.ProofEnd, ""},
		{"repeat: one page", ends(events.EndRepeat), []said{a}, 3, 2, events.ProofEnd, "after page 1 the source repeats it"},
		{"repeat: before all rows", ends(events.EndRepeat), []said{a.of(9), b.of(9), b.of(9)}, 3, 0, events.CodeSourceIncomplete, "the list ends there with 4 rows, but the source announced 9"},

		{"page 2 as page 1", page, []said{a}, 2, 0, events.CodePagingStuck, `the same 2 rows as page 1: does the source know the parameter "page"?`},
		{"a total is no excuse", page, []said{a.of(4)}, 2, 0, events.CodePagingStuck, `end ["repeat"]`},
		{"nor is more", cursor, []said{a.to("x"), a.then(true)}, 2, 0, events.CodePagingStuck, ""},
		{"one row proves too little", with(func(p *events.Paging) { p.LimitParam = "" }), []said{c.of(3)}, 3, 3, events.ProofTotal, "PAGE_REPEATED"},
		{"unless more were asked for", page, []said{c.of(3)}, 2, 0, events.CodePagingStuck, "the same 1 rows"},
		{"but not for ever", with(func(p *events.Paging) { p.LimitParam = "" }), []said{c}, 3, 0, events.CodePagingStuck, "ask for more rows a page"},
		{"a last page of one row twice", page, []said{a.of(4), c.of(4), c.of(4)}, 3, 0, events.CodePagingStuck, ""},
		{"repeats allows it", with(func(p *events.Paging) { p.Repeats = true }), []said{a, a, b, none}, 5, 6, events.ProofEnd, "PAGE_REPEATED"},

		{"no next", cursor, []said{a.to("x"), b.to("y"), c.then(true)}, 3, 5, events.ProofEnd, ""},
		{"no next, with a total", cursor, []said{a.to("x").of(5), b.to("y").of(5), c.then(true)}, 3, 5, events.ProofTotal, ""},
		{"no next before all rows", cursor, []said{a.to("x").of(5), b.then(true)}, 2, 0, events.CodeSourceIncomplete, "4 rows were read, but the source announced 5"},
		{"all rows before no next", cursor, []said{a.to("x").of(4), b.to("y").of(4)}, 2, 4, events.ProofTotal, ""},
		{"a total of page 1 alone, and a next", cursor, []said{a.to("x").of(2), b.to("y").of(2), c.of(1).then(true)}, 2, 0, events.CodeSourceIncomplete, "4 rows were read, but the source announced 2"},
		{"a total of the rows so far", cursor, []said{a.to("x").of(2), b.to("y").of(4), c.of(5).then(true)}, 3, 5, events.ProofTotal, ""},
		{"a total on page 1, and a next that is empty", cursor, []said{a.to("x").of(2), none.to("y")}, 2, 2, events.ProofTotal, "Pages:1"},
		{"a total on page 1, and a next that is refused", cursor, []said{a.to("x").of(2), refusal(400)}, 2, 2, events.ProofTotal, ""},
		{"a total on page 1, and an outage", cursor, []said{a.to("x").of(2), refusal(503)}, 2, 0, events.CodeSourceHTTP, ""},
		{"a total on page 1, and the same page", cursor, []said{a.to("x").of(2), a.to("x").of(2)}, 2, 2, events.ProofTotal, "Pages:1"},
		{"a total on page 1, and the first token", events.Paging{Type: events.PagingCursor, CursorStart: []byte(`"*"`)}, []said{a.to(`"*"`).of(2)}, 1, 2, events.ProofTotal, ""},
		{"a short page between offsets", offset, []said{a, c, b}, 3, 0, events.CodeSourceIncomplete, "page 2 has fewer rows than page 1, but page 3 has rows too"},
		{"a short page between offsets, with a total", offset, []said{a.of(5), c, b}, 3, 5, events.ProofTotal, ""},
		{"a page larger than the offset advances", offset, []said{c, a}, 2, 0, events.CodeSourceIncomplete, "it has 2 rows, but page 1 has 1"},
		{"empty pages that name a next", cursor, []said{a.to("x"), none.to("y"), none.to("z"), b.then(true)}, 4, 4, events.ProofEnd, ""},
		{"an empty first page that names a next", cursor, []said{none.to("x"), b.then(true)}, 2, 2, events.ProofEnd, ""},
		{"an empty last page", cursor, []said{a.to("x"), none.then(true)}, 2, 2, events.ProofEnd, ""},
		{"a token that was used", cursor, []said{a.to("x"), b.to("y"), c.to("x")}, 3, 0, events.CodePagingLoop, "page 3: the cursor of the next page was used for page 2"},
		{"the token of the page itself", cursor, []said{a.to("x"), b.to("x")}, 2, 0, events.CodePagingLoop, "was used for page 2"},
		{"the first token", events.Paging{Type: events.PagingCursor, CursorStart: []byte(`"*"`)}, []said{a.to(`"*"`)}, 1, 0, events.CodePagingLoop, "was used for page 1"},
		{"an address that was used", events.Paging{Type: events.PagingLink}, []said{a.to("https://h/?t=secret"), b.to("https://h/?t=secret")}, 2, 0, events.CodePagingLoop, "the address of the next page was used for page 2"},
		{"repeat: the same next", events.Paging{Type: events.PagingCursor, End: []string{events.EndRepeat}}, []said{a.to("x"), b.to("x")}, 2, 4, events.ProofEnd, ""},
		{"repeat: the same next and rows", events.Paging{Type: events.PagingCursor, End: []string{events.EndRepeat}}, []said{a.to("x"), a.to("x")}, 2, 2, events.ProofEnd, "after page 1 the source repeats it"},
		{"empty: a next that is never null", events.Paging{Type: events.PagingCursor, End: []string{events.EndEmpty}}, []said{a.to("w"), none.to("x"), none.to("y")}, 3, 2, events.ProofEnd, ""},
		{"empty: a next that stays the same", events.Paging{Type: events.PagingCursor, End: []string{events.EndEmpty}}, []said{a.to("w"), none.to("w")}, 2, 2, events.ProofEnd, ""},
		{"missing: of a cursor", events.Paging{Type: events.PagingCursor, End: []string{events.EndMissing}}, []said{a.to("w"), refusal(404)}, 2, 2, events.ProofEnd, ""},
		{"missing: not without it", cursor, []said{a.to("w"), refusal(404)}, 2, 0, events.CodeSourceHTTP, ""},
		{"a short first page of a chain", cursor, []said{list(1).of(25).to("x"), list(rowsOf(2, 12)...).to("y"), list(rowsOf(20, 12)...).then(true)}, 3, 25, events.ProofTotal, ""},
		{"one response", events.Paging{Type: events.PagingNone}, []said{a.then(true)}, 1, 2, events.ProofSingle, ""},
		{"one response with a total", events.Paging{Type: events.PagingNone}, []said{a.of(2).then(true)}, 1, 2, events.ProofTotal, ""},
		{"one response with another total", events.Paging{Type: events.PagingNone}, []said{a.of(9).then(true)}, 1, 0, events.CodeSourceIncomplete, "2 rows were read, but the source announced 9"},
		{"a limit that was cut", with(func(p *events.Paging) { p.PageParam = "page" }), []said{a.of(5), b.of(5), c.of(5)}, 3, 5, events.ProofTotal, "gives at most 2 rows a page where 10 were asked for"},
		{"pages without end", page, []said{list(1), list(2), list(3), list(4), list(5), list(6), list(7), list(8), list(9), list(10)}, 10, 0, events.CodeLimitPages, "--max-pages"},
		{"too many pages announced", page, []said{a.in(11)}, 1, 0, events.CodeLimitPages, "--max-pages"},
		{"too many rows announced", page, []said{a.of(21)}, 1, 0, events.CodeLimitPages, "--max-pages"},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			l := declaredLedger(tc.paging, 10, 10)
			asked, ids, f, text := readInOrder(t, l, tc.told)
			require.Equal(t, tc.asked, asked, text)
			require.NotContains(t, text, "secret")
			if strings.ToUpper(tc.proof) == tc.proof {
				require.True(t, strings.HasPrefix(text, tc.proof+" "), "%s", text)
				if f != nil {
					text += f.Error()
				}
			} else {
				require.Contains(t, text, "Kind:"+tc.proof+" ")
				require.Len(t, ids, tc.rows, text)
				if kind := tc.proof; kind == events.ProofTotal {
					require.Contains(t, text, fmt.Sprintf("Rows:%d", len(ids)))
				}
			}
			require.Contains(t, text, tc.text)
		})
	}
}

// Any list with any announcements and markers gives its rows or a failure, and the same for any number of
// concurrent requests, in any order of answers and with any restarts.
func TestDeclaredListsGiveTheirRowsOrFail(t *testing.T) {
	t.Parallel()
	const maxPages = 40
	rapid.Check(t, func(t *rapid.T) {
		n, size := rapid.IntRange(0, 24).Draw(t, "rows"), rapid.IntRange(1, 5).Draw(t, "page size")
		var all []said
		for from := 0; from < n; from += size {
			all = append(all, list(rowsOf(from, min(size, n-from))...))
		}
		if k := rapid.IntRange(1, 12).Draw(t, "a page in the middle"); k < len(all)-1 {
			switch rapid.SampledFrom([]string{"full", "full", "empty", "short"}).Draw(t, "is") {
			case "empty":
				all = slices.Insert(all, k, list())
			case "short":
				all = slices.Replace(all, k, k+1, list(all[k].rows[:1]...), list(all[k].rows[1:]...))
				if len(all[k+1].rows) == 0 {
					all = slices.Delete(all, k+1, k+2)
				}
			}
		}
		if len(all) == 0 {
			all = []said{list()}
		}
		chained := rapid.IntRange(0, 2).Draw(t, "style") == 0
		past := rapid.SampledFrom([]string{"empty", "404", "400", "500", "clamps"}).Draw(t, "past the end")
		repeats := rapid.IntRange(0, 4).Draw(t, "repeats") == 0
		paging := events.Paging{Type: events.PagingPage, PageParam: "page", LimitParam: "limit", Repeats: repeats}
		for _, marker := range []string{events.EndEmpty, events.EndShort, events.EndMissing, events.EndRepeat} {
			if rapid.Bool().Draw(t, marker) {
				paging.End = append(paging.End, marker)
			}
		}
		announces := rapid.SampledFrom([]string{"", "total", "total on page 1", "total+1", "total-1", "pages", "both", "more", "estimate", "late total"}).Draw(t, "announces")
		switch announces {
		case "total-1":
			if n == 0 || len(all[len(all)-1].rows) == 1 {
				announces = "total" // a source that announces what one page less has cannot be caught
			}
		case "total+1":
			if past == "clamps" && repeats {
				announces = "total" // equal rows are data where the request says so
			}
		case "estimate":
			paging.Estimate = true
		case "more":
			paging.More = "more"
		}
		for i := range all {
			a := &all[i]
			switch announces {
			case "total":
				a.total = int64(n)
			case "total on page 1":
				if i == 0 {
					a.total = int64(n)
				}
			case "late total":
				if i > 0 {
					a.total = int64(n)
				}
			case "total+1":
				a.total = int64(n) + 1
			case "total-1":
				a.total = int64(n) - 1
			case "pages":
				a.pages = len(all)
			case "both":
				a.total, a.pages = int64(n), len(all)
			case "more":
				a.last = i == len(all)-1
			case "estimate":
				a.total = int64(rapid.IntRange(0, 40).Draw(t, "estimate"))
			}
			if chained {
				if a.last = i == len(all)-1; !a.last {
					a.next = fmt.Sprintf("token %d", i)
				}
			}
		}
		if chained {
			paging = events.Paging{Type: events.PagingCursor, Repeats: repeats, End: paging.End, Estimate: paging.Estimate, More: paging.More}
		}
		answer := func(n int) said {
			if n <= len(all) {
				return all[n-1]
			}
			switch past {
			case "404":
				return refusal(404)
			case "400":
				return refusal(400)
			case "500":
				return refusal(500)
			case "clamps":
				return all[len(all)-1]
			}
			a := list()
			a.total = all[0].total
			return a
		}
		crawl := func(conn int, next func(most int) int, restarts func() bool) (ids []int, text string) {
			stored := map[int]said{}
			l := declaredLedger(paging, 5, maxPages)
			var flying []int
			asked := map[int]bool{}
			for {
				for n := 1; l.end == 0 && n <= l.bound(conn) && len(flying) < conn; n++ {
					if !asked[n] {
						asked[n] = true
						flying = append(flying, n)
						if announced := map[string]bool{"total": true, "pages": true, "both": true, "total on page 1": true, "more": conn == 1}[announces]; announced && !slices.ContainsFunc(all, func(a said) bool { return len(a.rows) != size }) {
							require.LessOrEqual(t, n, len(all), "a page past the announced end is asked for")
						}
					}
				}
				if l.end > 0 {
					return outcome(l, nil, stored)
				}
				if len(flying) == 0 {
					t.Fatalf("the list has not ended after page %d, and nothing may be asked for", l.read)
				}
				if restarts() {
					l, flying, asked = declaredLedger(paging, 5, maxPages), nil, map[int]bool{}
					for n, a := range stored { // in any order
						asked[n] = true
						if f := a.answerTo(l, n); f != nil {
							return outcome(l, f, stored)
						}
					}
					continue
				}
				i := next(len(flying))
				n := flying[i]
				flying = slices.Delete(flying, i, i+1)
				a := answer(n)
				if a.status == 0 {
					stored[n] = a
				}
				if f := a.answerTo(l, n); f != nil {
					return outcome(l, f, stored)
				}
			}
		}
		ids, want := crawl(1, func(int) int { return 0 }, func() bool { return false })
		if ids != nil {
			require.Equal(t, rowsOf(0, n), append([]int(nil), ids...), want)
		}
		for range 4 {
			left := rapid.IntRange(0, 3).Draw(t, "restarts")
			_, got := crawl(rapid.IntRange(1, 8).Draw(t, "conn"),
				func(most int) int { return rapid.IntRange(0, most-1).Draw(t, "which answer comes") },
				func() bool {
					if left == 0 || rapid.IntRange(0, 3).Draw(t, "restart") > 0 {
						return false
					}
					left--
					return true
				})
			require.Equal(t, want, got)
		}
	})
}
