package preview

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// listNames are names that mean a list, the more usual ones first.
var listNames = []string{
	"data", "items", "results", "rows", "records", "list", "content", "value", "values", "entries", "elements",
	"edges", "nodes", "hits", "docs", "objects", "result", "resources",
}

// noLists are names of arrays that stand beside the rows.
var noLists = []string{"links", "errors", "included", "meta", "warnings", "_links"}

// rowLists returns the arrays that may hold the rows, the most probable one first.
func (d *document) rowLists() []list {
	var found []list
	for _, l := range d.lists {
		named := slices.ContainsFunc(l.steps, func(s string) bool { return slices.Contains(noLists, strings.ToLower(s)) })
		if !named && l.objects == l.count && (l.count > 0 || len(l.steps) == 0 || slices.Contains(listNames, l.name())) {
			found = append(found, l)
		}
	}
	rank := func(l list) int {
		if len(l.steps) == 0 {
			return -1
		}
		if i := slices.Index(listNames, l.name()); i >= 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(found, func(a, b list) int {
		return cmp.Or(
			cmp.Compare(min(b.count, 1), min(a.count, 1)), rank(a)-rank(b),
			len(a.steps)-len(b.steps), cmp.Compare(b.count, a.count),
		)
	})
	return found
}

// evidence is what page 1 says about the list and the requests for it.
type evidence struct {
	rows   int64 // of page 1
	total  *spot
	strong bool // the name of total means nothing else
	pages  *spot
	more   *spot
	last   bool  // more means that no page follows
	next   *spot // an address, or null under a name that means one
	cursor *spot

	page, offset, size string // names of parameters that page 1 hints at; "" without a hint
	start              int64  // of page
	estimate           bool   // total is a lower bound
	doubts             []spot // further values that could be the total
	refuted            bool   // page 2 showed that the announced end is none
}

// Names that have a meaning, as [plainName] writes them.
var (
	countNames = []string{"count", "cnt", "itemcount", "rowcount", "recordcount", "numfound", "nbhits", "hits", "matches", "resultcount", "numresults", "found", "recordsfiltered"}
	weakNames  = []string{"items", "results", "records", "rows", "entries", "size", "length"}
	pageTotals = []string{"totalpages", "totalpage", "pagetotal", "pagestotal", "pagecount", "pagescount", "pagenum", "lastpage", "numpages", "nbpages", "pages", "maxpage", "last"}
	moreNames  = []string{"hasmore", "hasnext", "hasnextpage", "more", "istruncated", "morepages", "moreavailable", "hasmorepages", "hasmoreitems"}
	lastNames  = []string{"last", "islast", "islastpage", "lastpage", "isend"}
	pageNames  = []string{"page", "currentpage", "pagenum", "pageno", "current", "pagenumber", "pageindex", "number"}
	sizeNames  = []string{"perpage", "pagesize", "limit", "size", "itemsperpage", "pagelimit", "pagesize"}
	shiftNames = []string{"offset", "skip", "from", "startindex"}

	totalHeaders = []string{"X-Total-Count", "X-Total", "X-WP-Total", "Total-Count", "X-Pagination-Total-Count", "X-Pagination-Total", "X-Total-Results", "X-Total-Items", "Pagination-Count"}
)

func totalRank(s spot) int {
	name, long := s.name(), s.longName()
	switch {
	case slices.Contains(pageTotals, name), strings.Contains(name, "page"), strings.Contains(name, "amount"), strings.Contains(name, "price"), strings.Contains(name, "sum"):
		return 0
	case name == "total":
		return 4
	case strings.Contains(name, "total"), name == "value" && strings.Contains(long, "total"):
		return 3
	case slices.Contains(countNames, name):
		return 2
	case slices.Contains(weakNames, name):
		return 1
	}
	return 0
}

// pagesOf returns how many pages of a size a number of rows has.
func pagesOf(total, size int64) int64 {
	if size < 1 {
		return 0
	}
	return (total + size - 1) / size
}

// evidenceOf reads what page 1 says. n is its number of rows.
func (r *run) evidenceOf(l list, n int64) *evidence {
	e := &evidence{rows: n, start: 1}
	outside := slices.DeleteFunc(slices.Clone(r.doc.spots), func(s spot) bool {
		// A pageInfo of another list, for example.
		return len(s.steps) > len(l.steps)+2
	})
	e.findPages(outside)
	e.findTotal(outside, r.header)
	for i := range outside {
		s := &outside[i]
		name, kind := s.name(), s.value.Kind()
		switch {
		case kind == 't' || kind == 'f':
			if e.more == nil && slices.Contains(moreNames, name) {
				e.more, e.last = s, false
			} else if e.more == nil && slices.Contains(lastNames, name) {
				e.more, e.last = s, true
			}
		case strings.Contains(name, "next") || strings.Contains(s.longName(), "next"):
			switch {
			case isAddress(textOf(s.value)) && (e.next == nil || e.next.value.Kind() == 'n'):
				e.next = s
			case kind == 'n' && e.next == nil && (name == "next" || strings.Contains(name, "url") || strings.Contains(name, "link") || strings.Contains(name, "href")):
				e.next = s
			case kind == '"' && textOf(s.value) != "" && !isAddress(textOf(s.value)):
				if e.cursor == nil || !strings.Contains(e.cursor.longName(), "next") {
					e.cursor = s
				}
			}
		case strings.Contains(name, "prev"):
		case kind == '"' && e.cursor == nil && textOf(s.value) != "" && isCursorName(name):
			e.cursor = s
		case s.number < 0:
		case s.number <= 1 && e.page == "" && slices.Contains(pageNames, name):
			e.page, e.start = pageParamOf(s.steps[len(s.steps)-1]), s.number
		case s.number == 0 && e.offset == "" && slices.Contains(shiftNames, name):
			e.offset = s.steps[len(s.steps)-1]
		case s.number >= n && s.number > 0 && e.size == "" && slices.Contains(sizeNames, name) && (e.total == nil || e.total.path != s.path):
			e.size = s.steps[len(s.steps)-1]
		}
		if name == "relation" && textOf(s.value) == "gte" {
			e.estimate = true
		}
	}
	e.readAddress(r)
	e.readGiven(r)
	if l.inner == "_source" && r.method != http.MethodPost {
		e.offset, e.size = "from", "size"
	}
	return e
}

func isCursorName(name string) bool {
	for _, part := range []string{"cursor", "pagetoken", "continuation", "marker", "bookmark", "nexttoken", "scrollid"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "after" || name == "endcursor" || name == "offset"
}

// pageParamOf returns the parameter that a number in a response usually goes by.
func pageParamOf(name string) string {
	switch plainName(name) {
	case "currentpage", "number":
		return "page"
	}
	return name
}

func isAddress(text string) bool {
	if strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "/") || strings.HasPrefix(text, "?") {
		_, err := url.Parse(text)
		return err == nil
	}
	return strings.Contains(text, "?") && strings.Contains(text, "=")
}

func (e *evidence) findPages(outside []spot) {
	for i := range outside {
		s := &outside[i]
		if s.number >= 0 && slices.Contains(pageTotals, s.name()) && s.name() != "pagenum" && (e.pages == nil || slices.Index(pageTotals, s.name()) < slices.Index(pageTotals, e.pages.name())) {
			e.pages = s
		}
	}
}

// findTotal chooses the total: a value that agrees with the number of pages, else the one with the clearest name.
func (e *evidence) findTotal(outside []spot, header http.Header) {
	size := e.rows
	for _, s := range outside {
		if s.number > size && slices.Contains(sizeNames, s.name()) && totalRank(s) < 2 && s.number < size*1000 {
			size = s.number
			break
		}
	}
	agrees := func(s spot) bool {
		return e.pages != nil && e.pages.number > 0 && (pagesOf(s.number, e.rows) == e.pages.number || pagesOf(s.number, size) == e.pages.number)
	}
	score := func(s spot) int {
		rank := totalRank(s)
		if rank > 0 && agrees(s) {
			rank += 10
		}
		return rank
	}
	var found []spot
	for _, s := range outside {
		rank := score(s)
		if s.number >= e.rows && (rank > 1) {
			found = append(found, s)
		}
	}
	for _, name := range totalHeaders {
		if n := integer(quoted(strings.TrimSpace(header.Get(name)))); n >= e.rows {
			found = append(found, spot{path: "header:" + name, steps: []string{"total"}, number: n})
		}
	}
	if _, total, ok := strings.Cut(header.Get("Content-Range"), "/"); ok {
		if n := integer(quoted(strings.TrimSpace(total))); n >= e.rows {
			found = append(found, spot{path: "header:Content-Range", steps: []string{"total"}, number: n})
		}
	}
	slices.SortStableFunc(found, func(a, b spot) int { return score(b) - score(a) })
	if len(found) == 0 {
		return
	}
	if len(found) > 1 && score(found[1]) == score(found[0]) && found[1].number != found[0].number {
		e.doubts = found
		return
	}
	e.total, e.strong = &found[0], totalRank(found[0]) > 2 || agrees(found[0])
	if e.pages != nil && !agrees(found[0]) {
		e.pages = nil
	}
}

// readAddress reads the names of parameters from the address of the next page.
func (e *evidence) readAddress(r *run) {
	var addresses []string
	if e.next != nil {
		addresses = append(addresses, textOf(e.next.value))
	}
	for _, s := range r.doc.spots {
		if name := s.longName(); strings.Contains(name, "first") || strings.Contains(name, "last") || strings.Contains(name, "self") {
			addresses = append(addresses, textOf(s.value))
		}
	}
	for i, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || !isAddress(address) {
			continue
		}
		query := u.Query()
		for _, name := range slices.Sorted(maps.Keys(query)) {
			value, err := strconv.ParseInt(query.Get(name), 10, 64)
			plain := plainName(name)
			switch {
			case err != nil:
			case slices.Contains(sizeNames, plain) || value == e.rows && e.size == "" && slices.Contains([]string{"count", "top", "take", "max"}, plain):
				e.size = name
			case i == 0 && e.next != nil && value == e.rows && value > 2 && (slices.Contains(shiftNames, plain) || plain == "start"):
				e.offset = name
			case strings.Contains(plain, "page") && value <= 2:
				e.page = name
				if i == 0 && e.next != nil && value == 1 {
					e.start = 0
				}
			}
		}
	}
}

// readGiven reads the names of parameters from the submission: one whose value is that of a first page.
func (e *evidence) readGiven(r *run) {
	given := object{}
	if u, err := url.Parse(r.given.text("url")); err == nil {
		query := u.Query()
		for _, name := range slices.Sorted(maps.Keys(query)) {
			given.setText(name, query.Get(name))
		}
	}
	for _, m := range r.given.object("param") {
		given.set(m.name, m.value)
	}
	for _, m := range given {
		name, n := plainName(m.name), integer(m.value)
		switch {
		case n < 0:
		case n <= 1 && slices.Contains(pageNames, name):
			e.page, e.start = m.name, n
		case n == 0 && (slices.Contains(shiftNames, name) || name == "start"):
			e.offset = m.name
		case slices.Contains(sizeNames, name):
			e.size = m.name
		}
	}
}

// whole reports whether page 1 says that it is the whole list.
func (e *evidence) whole() bool {
	switch {
	case e.refuted:
		return false
	case e.total != nil:
		return e.total.number == e.rows && !e.estimate
	case e.more != nil:
		return e.ends()
	case e.pages != nil:
		return e.pages.number <= 1
	}
	return false
}

// certain reports whether page 1 says that it is the whole list in a way that a longer list contradicts: by a
// total that is no count of the page, or by a boolean.
func (e *evidence) certain() bool {
	return e.whole() && (e.total != nil && e.strong || e.total == nil && e.more != nil)
}

// ends reports whether the boolean of page 1 says that no page follows.
func (e *evidence) ends() bool {
	return e.more != nil && (e.more.value.Kind() == 't') == e.last
}

// follows reports whether page 1 says that a page follows, or names one.
func (e *evidence) follows() bool {
	switch {
	case e.more != nil:
		return !e.ends()
	case e.next != nil && e.next.value.Kind() == '"':
		return true
	}
	return e.cursor != nil && strings.Contains(e.cursor.longName(), "next")
}

// members returns the members of paging that say what the list has.
func (e *evidence) members(paging *object, paged bool) {
	if e.total != nil {
		paging.setText("total", e.total.path)
		if e.estimate {
			paging.set("estimate", jsontext.Value("true"))
		}
	}
	if e.pages != nil && paged {
		paging.setText("total_pages", e.pages.path)
	}
	if e.more != nil {
		place := e.more.path
		if e.last {
			place = "!" + place
		}
		paging.setText("more", place)
	}
}

// cursorParams returns the names of parameters that a cursor may be sent by, the most probable one first.
func cursorParams(steps []string) []string {
	name := steps[len(steps)-1]
	var names []string
	add := func(n string) {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, prefix := range []string{"next_", "next-", "end_"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			add(rest)
		}
	}
	for _, prefix := range []string{"next", "end"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z' {
			add(strings.ToLower(rest[:1]) + rest[1:])
		}
	}
	if len(names) == 0 {
		add(name)
	}
	add("cursor")
	add("after")
	add(name)
	return names
}

// rowID reports whether all rows have an id, as Stripe's do.
func rowID(array []byte) bool {
	ids := values(rawRows(array), "id")
	return ids != nil && distinct(ids)
}
