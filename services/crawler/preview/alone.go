package preview

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/services/crawler/source"
)

// Parameters that are tried together. Their values differ, so that the rows, or a number in the response, show
// which one had an effect: an offset of 2 makes the third row of page 1 the first.
var (
	pageParams   = []string{"page", "pageNum", "current", "pageNo", "_page", "p", "page_no", "pageIndex", "page_number", "pageNumber"}
	offsetParams = []string{"offset", "skip", "$skip", "start", "_start", "from"}
	sizeParams   = []string{"limit", "per_page", "pageSize", "page_size", "perPage", "size", "_limit", "_per_page", "$limit", "$top", "count", "rows"}
)

// alone decides whether page 1 is the whole list, by parameters that would show another page.
func (r *run) alone(ctx context.Context, p *plan, e *evidence) error {
	paging := object{}
	paging.setText("type", events.PagingNone)
	e.members(&paging, false)
	q := r.with(p, paging)
	var err error
	if q.asked, q.first, err = r.parse(q.http); err != nil {
		if f := (*source.Failure)(nil); !errors.As(err, &f) || f.Code != events.CodeSourcePaging { // more pages follow
			return err
		}
		bare := object{}
		bare.setText("type", events.PagingNone)
		plain := r.with(p, bare)
		if q.asked, q.first, err = r.parse(plain.http); err != nil {
			return err
		}
	}
	n := q.first.RowCount
	e.rows = int64(n)
	r.show(q.first.Rows, q.asked.req.HeaderRow)
	bare := q.asked.req.Format != "" || p.list.path == "$"
	if n == 0 && !e.whole() {
		r.need("source_http.paging", "page 1 has no rows, so its paging cannot be seen; request some, or set paging")
		return errUndecided
	}
	accept := func(how, format string, args ...any) error {
		q.findings = append(q.findings, Finding{"source_http.paging", events.PagingNone, how, fmt.Sprintf(format, args...)})
		if e.total != nil {
			q.findings = append(q.findings, Finding{"source_http.paging.total", e.total.path, Seen, fmt.Sprintf("%d, the rows of page 1", e.total.number)})
		}
		r.summarize(q)
		return r.propose(q)
	}
	if r.left() == 0 {
		if e.certain() {
			return accept(Seen, "page 1 says that it is the whole list")
		}
		return r.unknown(p, e, "no parameter that was tried showed another page")
	}
	if r.left() == 1 && !bare && e.total != nil && e.total.number > e.rows { // no further request could verify a probe
		if done, err := r.verify(ctx, r.planOf(p, e, motion{kind: events.PagingPage, name: "page", start: 1}), e, false); done || err != nil {
			return err
		}
		return r.unknown(p, e, "no parameter that was tried showed another page")
	}
	smallest := n + 1
	if bare {
		smallest = len(offsetParams) + 1 // the rows of page 1 show which parameter had an effect
	}
	moved, rel, err := r.probe(ctx, q, smallest)
	switch {
	case err != nil:
		return err
	case moved.kind == events.PagingOffset && r.left() > 0:
		done, err := r.verify(ctx, r.planOf(p, e, moved), e, false)
		if done || err != nil {
			return err
		}
	case moved.kind == events.PagingPage && r.left() > 0:
		done, err := r.verify(ctx, r.planOf(p, e, moved), e, false)
		if done || err != nil {
			return err
		}
	case moved.refused && bare:
		return r.unknown(p, e, "the source refused the parameters that were tried")
	case moved.kind != "", moved.refused:
	case bare && moved.more:
		return r.unknown(p, e, "a larger page size showed more rows, but no parameter that was tried showed another page")
	case bare:
		larger, all, err := r.probe(ctx, q, 0)
		switch {
		case err != nil:
			return err
		case larger.more:
			return r.unknown(p, e, "a larger page size showed more rows, but no parameter that was tried showed another page")
		case all != same, larger.refused && rel != same:
			return r.unknown(p, e, "a larger page size showed other rows")
		}
		return accept(Verified, "none of %d parameters of pages, offsets and sizes showed a row that page 1 lacks", len(pageParams)+len(offsetParams)+len(sizeParams))
	case e.certain():
		return accept(Verified, "page 1 says that it is the whole list, and no parameter of pages or offsets changed a row")
	}
	switch {
	case e.certain() && rel != other:
		return accept(Seen, "page 1 says that it is the whole list")
	case moved.kind != "":
		return r.unknown(p, e, fmt.Sprintf("one of %s moved the rows, but not %s alone", strings.Join(append(slices.Clone(pageParams), offsetParams...), ", "), moved.name))
	}
	return r.unknown(p, e, "no parameter that was tried showed another page")
}

// unknown answers that the paging must be set.
func (r *run) unknown(p *plan, e *evidence, why string) error {
	switch {
	case e.total != nil && e.total.number > e.rows:
		r.need("source_http.paging", "%q says %d rows, page 1 has %d; %s; set paging with the parameter of the page, such as "+`{"type":"page","page_param":"NAME","total":%q}`, e.total.path, e.total.number, e.rows, why, e.total.path)
	default:
		r.need("source_http.paging", `page 1 has %d rows and nothing that says how many there are; %s; set paging, such as {"type":"page","page_param":"NAME"}, or {"type":"none"} if this is the whole list`, e.rows, why)
	}
	r.answer.Findings = append(r.answer.Findings, p.findings...)
	return errUndecided
}

// motion is the effect of parameters.
type motion struct {
	kind    string // PagingPage or PagingOffset; "" for none
	name    string
	start   int64
	refused bool
	more    bool   // rows came that page 1 lacks
	size    string // name of the parameter of the page size, "" if none had an effect
}

func (r *run) planOf(p *plan, e *evidence, m motion) *plan {
	if e.size == "" {
		e.size = m.size
	}
	q := r.numbered(p, e, m.kind, m.name, m.start)
	var err error
	if q.size != "" && m.size == q.size && e.total != nil && !r.sizeGiven(q.http, q.size) {
		// Page 2 is requested with the size that is proposed, so that one request verifies both.
		if size := min(e.total.number/2, askedSize); size > e.rows {
			q.http = withSize(q.http, q.size, int(size))
			q.sized = int(size)
		}
	}
	if q.asked, q.first, err = r.parse(q.http); err != nil {
		q.asked, q.first = p.asked, p.first
	}
	return q
}

// pageByID estimates the number of a page by the ids of its rows, if a table numbers its rows. sizes are the page
// sizes that may have had an effect. It is 0 if the ids show nothing. It only chooses the parameter that is
// verified next.
func pageByID(page1, page []byte, sizes map[int]string) int {
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return math.NaN()
		}
		return n
	}
	a, b := values(rawRows(page1), "id"), values(rawRows(page), "id")
	if len(a) < 2 || len(b) == 0 {
		return 0
	}
	step := (number(a[len(a)-1]) - number(a[0])) / float64(len(a)-1)
	before := int(math.Round((number(b[0]) - number(a[0])) / step))
	for k := 2; k < len(pageParams)+2; k++ {
		size := before / (k - 1)
		full := len(b) == size || len(b) < size && len(b) != len(a) && sizes[len(b)] == "" // the last page may be short
		if full && before%(k-1) == 0 && (size == len(a) || sizes[size] != "") {
			return k
		}
	}
	return 0
}

// probe requests page 1 with further parameters: of pages, offsets and sizes from smallest on. With 0, it has
// only those of sizes, which are large.
func (r *run) probe(ctx context.Context, p *plan, smallest int) (m motion, rel relation, err error) {
	pages, offsets := pageParams, offsetParams
	if smallest == 0 {
		pages, offsets = nil, nil
	}
	h := p.http.clone()
	field := "param"
	if r.method == http.MethodPost && h.object("body") != nil {
		field = "body"
	}
	o := h.object(field).clone()
	u, err := url.Parse(h.text("url"))
	if err != nil {
		return motion{refused: true}, same, nil
	}
	byValue := map[string]string{}
	sizes := map[int]string{}
	shifts := map[int]string{}
	set := func(name string, value int) {
		if _, given := o.lookup(name); given || u.Query().Has(name) {
			return
		}
		o.set(name, jsontext.Value(strconv.Itoa(value)))
		byValue[name] = strconv.Itoa(value)
	}
	for i, name := range pages {
		set(name, i+2)
	}
	for i, name := range offsets {
		set(name, i+1)
		if byValue[name] != "" {
			shifts[i+1] = name
		}
	}
	if pages != nil {
		for i, name := range sizeParams {
			set(name, smallest+i)
			if byValue[name] != "" {
				sizes[smallest+i] = name
			}
		}
	} else {
		for _, name := range sizeParams {
			set(name, max(askedSize, 2*p.first.RowCount))
		}
	}
	h.set(field, o.raw())
	res, err := r.ask(ctx, h, 1)
	if err != nil {
		if f := (*source.Failure)(nil); errors.As(err, &f) && f.Code != "" {
			return motion{refused: true}, same, nil
		}
		return motion{}, same, err
	}
	defer res.Release()
	answer, err := p.asked.Shape.Parse(res.Body, res.header, source.Position{Page: 2})
	if err != nil {
		return motion{refused: true}, same, nil
	}
	rel, shift := compare(p.first.Rows, answer.Rows)
	m.more, m.size = rel == other, sizes[answer.RowCount]
	if pages == nil || rel == same || shift == 0 {
		return m, rel, nil
	}
	if name := shifts[shift]; shift > 0 && name != "" {
		m.kind, m.name = events.PagingOffset, name
		return m, rel, nil
	}
	m.kind, m.name, m.start = events.PagingPage, "page", 1
	if k := 1; shift > 0 && m.size != "" && shift%answer.RowCount == 0 {
		if k += shift / answer.RowCount; k-2 < len(pages) && byValue[pages[k-2]] != "" {
			m.name = pages[k-2]
			return m, rel, nil
		}
	}
	if k := pageByID(p.first.Rows, answer.Rows, sizes); k >= 2 && k-2 < len(pages) && byValue[pages[k-2]] != "" {
		m.name = pages[k-2]
	}
	if r.doc == nil {
		return m, rel, nil
	}
	// A number that was 0 or 1 and is now the one sent names the parameter.
	now := r.read(res.Body)
	for _, s := range r.doc.spots {
		if s.number != 0 && s.number != 1 || !slices.Contains(pageNames, s.name()) && !strings.Contains(s.name(), "page") {
			continue
		}
		after, _ := now.at(s.path)
		for i, name := range pages {
			if after.number == int64(i+2) && byValue[name] != "" {
				m.name, m.start = name, s.number
				return m, rel, nil
			}
		}
	}
	return m, rel, nil
}
