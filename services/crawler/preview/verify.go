package preview

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/services/crawler/source"
)

// chained reports whether each page names the next one.
func chained(kind string) bool {
	return kind == events.PagingCursor || kind == events.PagingNextURL || kind == events.PagingLink
}

// over reports whether page 1 says that no page follows.
func (p *plan) over() bool {
	a := p.first
	paging := p.asked.req.Paging
	switch {
	case chained(paging.Type):
		return a.Next == ""
	case a.Last:
		return true
	case a.Total >= 0 && !paging.Estimate:
		return a.Total <= int64(a.RowCount)
	}
	return a.Pages == 1
}

// verify requests page 2 of a plan. If it has other rows, the plan is proposed, and done is true. fits means that
// all of a preset fits, so that a page 1 that is the whole list needs no request.
func (r *run) verify(ctx context.Context, p *plan, e *evidence, fits bool) (done bool, err error) {
	kind := p.asked.req.Paging.Type
	n := p.first.RowCount
	if p.over() && (fits || chained(kind)) {
		if kind == events.PagingLink && p.preset != "github" { // the absence of a header shows nothing
			return false, nil
		}
		p.findings = append(p.findings, Finding{"source_http.paging", kind, Seen, "page 1 says that it is the whole list"})
		return true, r.finish(ctx, p, e)
	}
	if r.left() == 0 {
		return false, nil
	}
	second := p.asked
	if limit := second.req.Paging.LimitParam; n > 0 && limit != "" && p.sized == 0 && !strings.HasPrefix(limit, "header:") && !r.sizeGiven(p.http, limit) {
		// Without a size the default of a submission would be sent, and page 2 would begin elsewhere.
		if second, err = r.open(withSize(p.http, limit, n), 1); err != nil {
			return true, err
		}
	}
	page, err := second.Fetch(ctx, source.Position{Page: 2, Size: n, Token: p.first.Next})
	if err != nil {
		if f := (*source.Failure)(nil); !errors.As(err, &f) || f.Code == "" {
			return true, err
		}
		r.warn("%s, tried as page 2: %s", describePlan(p), r.hide(err.Error()))
		return false, nil
	}
	defer page.Release()
	rel, shift := compare(p.first.Rows, page.Rows)
	switch {
	case rel == other && shift == 0 && page.RowCount > n: // a larger page 1
		return false, nil
	case rel == other && p.over():
		return r.refuted(ctx, p, e, kind, fmt.Sprintf("%s answered %d other rows", describePlan(p), page.RowCount))
	case rel == other:
		p.findings = append(p.findings, Finding{"source_http.paging", kind, Verified, fmt.Sprintf("%s answered %d other rows", describePlan(p), page.RowCount)})
	case rel == empty && (p.over() || p.first.Total < 0 && p.first.Pages == 0):
		p.findings = append(p.findings, Finding{"source_http.paging", kind, Verified, describePlan(p) + " answered no rows"})
	default:
		return false, nil
	}
	if p.sized > 0 && page.RowCount > n {
		p.http = withSize(p.http, p.size, page.RowCount)
		p.findings = append(p.findings, Finding{"source_http.param." + p.size, page.RowCount, Verified, fmt.Sprintf("asked for %d rows on page 2, %d came", p.sized, page.RowCount)})
		p.first.RowCount = page.RowCount
	}
	if e.total != nil {
		why := fmt.Sprintf("%d, at least the rows of page 1", e.total.number)
		switch {
		case page.Total == p.first.Total:
			why += ", the same on page 2"
		case page.Total >= 0:
			why += fmt.Sprintf("; %d on page 2", page.Total)
		}
		p.findings = append(p.findings, Finding{"source_http.paging.total", e.total.path, Seen, why})
	}
	return true, r.finish(ctx, p, e)
}

// refuted proposes pages by number, or by offset, whose end page 1 announced wrongly: what looked like a total
// is the number of rows on the page.
func (r *run) refuted(ctx context.Context, p *plan, e *evidence, kind, why string) (done bool, err error) {
	r.warn("page 1 says that it is the whole list, but page 2 has other rows")
	e.total, e.pages, e.more, e.refuted = nil, nil, nil, true
	paging := p.asked.req.Paging
	if p.preset != "" || kind != events.PagingPage && kind != events.PagingOffset {
		return false, nil
	}
	bare := *p
	bare.http = p.http.without("paging")
	q := r.numbered(&bare, e, kind, paging.PageParam+paging.OffsetParam, paging.Start)
	q.size, q.sized = "", 0
	if q.asked, q.first, err = r.parse(q.http); err != nil {
		return false, nil
	}
	q.findings = append(q.findings, Finding{"source_http.paging", kind, Verified, why})
	return true, r.finish(ctx, q, e)
}

// describePlan names what moved the rows.
func describePlan(p *plan) string {
	paging := p.asked.req.Paging
	switch paging.Type {
	case events.PagingPage:
		return fmt.Sprintf("%s=%d", paging.PageParam, paging.Start+1)
	case events.PagingOffset:
		return fmt.Sprintf("%s=%d", paging.OffsetParam, paging.Start+int64(p.first.RowCount))
	case events.PagingCursor:
		return "the cursor as " + paging.CursorParam
	case events.PagingNextURL:
		return "the next address"
	}
	return "the Link header"
}

// finish finds a page size for a verified plan, and proposes it.
func (r *run) finish(ctx context.Context, p *plan, e *evidence) error {
	r.show(p.first.Rows, p.asked.req.HeaderRow)
	if err := r.chooseSize(ctx, p); err != nil {
		return err
	}
	r.summarize(p)
	return r.propose(p)
}

// chooseSize asks for a larger page where the parameter is known, and proposes the size that came.
func (r *run) chooseSize(ctx context.Context, into *plan) error {
	p := into
	n := p.first.RowCount
	guessed := p.size == "" && !p.over()
	if guessed {
		p = r.guessSize(p)
	}
	if p.size == "" || strings.HasPrefix(p.size, "header:") || r.sizeGiven(p.http, p.size) || guessed && r.left() == 0 {
		return nil
	}
	field := "source_http.param." + p.size
	if path, ok := strings.CutPrefix(p.size, "body:"); ok {
		field = "source_http.body." + path
	}
	if r.left() == 0 {
		if !p.over() && n > 0 {
			p.http = withSize(p.http, p.size, n)
			p.findings = append(p.findings, Finding{field, n, Seen, "page 1 has that many rows"})
		}
		return nil
	}
	ask := askedSize
	if slices.Contains([]string{"stripe", "notion", "hubspot", "github"}, p.preset) {
		ask = 100 // their maximum
	}
	a, err := r.open(withSize(p.http, p.size, ask), 1)
	if err != nil {
		return err
	}
	page, err := a.Fetch(ctx, source.Position{Page: 1})
	if err != nil {
		if f := (*source.Failure)(nil); !errors.As(err, &f) || f.Code == "" {
			return err
		}
		if guessed {
			return nil
		}
		r.warn("a page of %d rows was refused: %s", ask, r.hide(err.Error()))
		if !p.over() && n > 0 {
			p.http = withSize(p.http, p.size, n)
		}
		return nil
	}
	defer page.Release()
	m := page.RowCount
	if p.over() && m > n {
		r.need("source_http.paging.total", "page 1 announces that its %d rows are all, but has %d when it is asked for %d", n, m, ask)
		return errUndecided
	}
	if _, shift := compare(p.first.Rows, page.Rows); shift != 0 || m == 0 || guessed && m <= n {
		return nil
	}
	q := *p
	q.asked, q.first = a, page.Answer
	value := m
	if q.over() && m < ask { // all rows came, so the size was no limit
		value = ask
	}
	p.http = withSize(p.http, p.size, value)
	p.findings = append(p.findings, Finding{field, value, Verified, fmt.Sprintf("asked for %d rows, %d came", ask, m)})
	p.asked, p.first.RowCount, p.first.Next, p.first.Last = a, m, page.Next, page.Last
	p.first.Pages = page.Answer.Pages
	*into = *p
	return nil
}

// guessSize returns the plan with the parameter of the page size that usually stands beside the one of the
// page. The size is empty if there is none.
func (r *run) guessSize(p *plan) *plan {
	q := *p
	paging := p.http.object("paging")
	beside := strings.TrimPrefix(paging.text("page_param")+paging.text("offset_param")+paging.text("cursor_param"), "body:")
	switch paging.text("type") {
	case events.PagingPage, events.PagingOffset, events.PagingCursor:
		switch {
		case strings.HasPrefix(beside, "$"):
			q.size = "$limit"
		case beside == "_page":
			q.size = "_per_page"
		case strings.HasPrefix(beside, "_"):
			q.size = "_limit"
		case beside == "page" || plainName(beside) != "pagetoken" && !strings.Contains(strings.ToLower(beside), "page") && beside != "current":
			q.size = "limit"
		case strings.Contains(beside, "_"):
			q.size = "page_size"
		default:
			q.size = "pageSize"
		}
		if strings.HasPrefix(paging.text("cursor_param"), "body:") {
			q.size = "body:" + q.size
		}
		paging = paging.clone()
		paging.setText("limit_param", q.size)
		q.http = p.http.clone()
		q.http.set("paging", paging.raw())
	case events.PagingLink:
		q.size = "per_page"
	}
	return &q
}

// sizeGiven reports whether the submission has a page size.
func (r *run) sizeGiven(h object, place string) bool {
	if path, ok := strings.CutPrefix(place, "body:"); ok {
		o := h.object("body")
		if h.get("body") == nil {
			o = h.object("param")
		}
		for _, name := range strings.Split(path, ".") {
			if o.get(name) == nil {
				return false
			}
			o = o.object(name)
		}
		return true
	}
	name := strings.TrimPrefix(place, "query:")
	u, err := url.Parse(h.text("url"))
	return h.object("param").get(name) != nil || err == nil && u.Query().Has(name)
}

// withSize returns a source_http with a page size.
func withSize(h object, place string, size int) object {
	value := jsontext.Value(strconv.Itoa(size))
	h = h.clone()
	path, inBody := strings.CutPrefix(place, "body:")
	if !inBody || h.get("body") == nil {
		name := strings.TrimPrefix(path, "query:")
		param := h.object("param").clone()
		param.set(name, value)
		h.set("param", param.raw())
		return h
	}
	h.set("body", setIn(h.object("body"), strings.Split(path, "."), value).raw())
	return h
}

func setIn(o object, names []string, value jsontext.Value) object {
	o = o.clone()
	if len(names) > 1 {
		value = setIn(o.object(names[0]), names[1:], value).raw()
	}
	o.set(names[0], value)
	return o
}

// summarize says how the export would go.
func (r *run) summarize(p *plan) {
	paging, a := p.asked.req.Paging, p.first
	switch {
	case a.Total >= 0 && !paging.Estimate:
		r.answer.Proof = events.ProofTotal
	case a.Pages > 0:
		r.answer.Proof = events.ProofPages
	case paging.Type == events.PagingNone:
		r.answer.Proof = events.ProofSingle
		r.warn("the source announces no number of rows, so only its end is known (TOTAL_MISSING)")
	default:
		r.answer.Proof = events.ProofEnd
		r.warn("the source announces no number of rows, so only its end is known (TOTAL_MISSING)")
	}
	r.answer.Concurrent = paging.Type == events.PagingPage || paging.Type == events.PagingOffset
	switch {
	case a.Total >= 0 && !paging.Estimate && a.RowCount > 0:
		r.answer.Pages = max(pagesOf(a.Total, int64(a.RowCount)), 1)
	case a.Pages > 0:
		r.answer.Pages = a.Pages
	case p.over() || paging.Type == events.PagingNone:
		r.answer.Pages = 1
	}
}

// propose answers with the request of a plan, after check has accepted it.
func (r *run) propose(p *plan) error {
	if _, _, err := r.check(r.body(p.http)); err != nil {
		return err
	}
	for _, f := range p.findings {
		r.answer.Findings = append(r.answer.Findings, f)
		if f.How == Assumed {
			r.need(f.Field, "%s", f.Why)
		}
	}
	if len(r.answer.Needed) > 0 {
		return errUndecided
	}
	if p.preset != "" {
		r.answer.Preset = p.preset
	}
	request := object{}
	for _, name := range []string{"ext_type", "title"} {
		request.set(name, r.submission.get(name))
	}
	for _, m := range r.submission {
		request.set(m.name, m.value)
	}
	shown := hidden(p.http)
	if p.preset == "sheaf" && string(shown.raw()) != string(p.http.raw()) {
		shown.setText("preset", p.preset) // only a declared request is refused while it has "…"
	}
	request.set("source_http", shown.raw())
	if columns, found := r.columns(p.first.Rows, p.preset == "sheaf" || p.asked.req.HeaderRow); columns != nil {
		typed := r.submission.clone()
		typed.set("columns", columns)
		typed.set("source_http", p.http.raw())
		if _, _, err := r.check(typed.raw()); err == nil {
			request.set("columns", columns)
			r.answer.Findings = append(r.answer.Findings, found...)
		}
	}
	r.answer.Request = request
	return nil
}

// hidden returns a source_http whose secrets are "…".
func hidden(h object) object {
	h = h.clone()
	mask := func(field string, keep ...string) {
		o := h.object(field)
		for i := range o {
			if !slices.Contains(keep, o[i].name) && o[i].value.Kind() != 'n' {
				o[i].value = quoted("…")
			}
		}
		if o != nil {
			h.set(field, o.raw())
		}
	}
	mask("header")
	mask("auth", "type", "in", "client_auth")
	names := h.get("secret_param")
	if param := h.object("param"); names != nil && param != nil {
		for i := range param {
			if slices.Contains(stringsOf(names), param[i].name) {
				param[i].value = quoted("…")
			}
		}
		h.set("param", param.raw())
	}
	return h
}

// verifyGiven requests two pages of a submission that says how its pages are found.
func (r *run) verifyGiven(ctx context.Context) error {
	a, err := r.open(r.given, 2)
	if err != nil {
		return err
	}
	if a.req.Paging == nil {
		return r.standard(ctx, nil)
	}
	p := &plan{preset: r.given.text("preset"), http: r.given, asked: a, size: a.req.Paging.LimitParam}
	kind := a.req.Paging.Type
	sized := p.size != "" && !strings.HasPrefix(p.size, "header:") && !r.sizeGiven(p.http, p.size)
	if sized {
		if a, err = r.open(withSize(p.http, p.size, askedSize), 2); err != nil {
			return err
		}
		p.asked = a
	}
	page, err := a.Fetch(ctx, source.Position{Page: 1})
	if f := (*source.Failure)(nil); sized && errors.As(err, &f) && f.Status == http.StatusBadRequest && r.left() > 0 {
		sized = false // the size may be the reason
		if p.asked, err = r.open(r.given, 1); err != nil {
			return err
		}
		page, err = p.asked.Fetch(ctx, source.Position{Page: 1})
	}
	if err != nil {
		return err
	}
	r.first, p.first = &page, page.Answer
	r.show(p.first.Rows, a.req.HeaderRow)
	if p.preset != "" {
		p.findings = append(p.findings, Finding{"source_http.preset", p.preset, Given, ""})
	}
	if n := p.first.RowCount; sized && n > 0 {
		value := n
		if p.over() && n < askedSize {
			value = askedSize
		}
		p.http = withSize(p.http, p.size, value)
		p.findings = append(p.findings, Finding{"source_http.param." + p.size, value, Verified, fmt.Sprintf("asked for %d rows, %d came", askedSize, n)})
	}
	if kind == events.PagingNone || p.over() {
		p.findings = append(p.findings, Finding{"source_http.paging", kind, Given, "page 1 says that it is the whole list"})
		if kind == events.PagingNone {
			p.findings[len(p.findings)-1].Why = ""
		}
		r.summarize(p)
		return r.propose(p)
	}
	second, err := p.asked.Fetch(ctx, source.Position{Page: 2, Size: p.first.RowCount, Token: p.first.Next})
	if err != nil {
		return err
	}
	defer second.Release()
	rel, _ := compare(p.first.Rows, second.Rows)
	if rel == same || rel == within || rel == empty && p.first.Total > int64(p.first.RowCount) {
		r.need("source_http.paging", "%s, as page 2, answered %s", describePlan(p), map[relation]string{
			same: "the rows of page 1 again", within: "rows of page 1 again", empty: "no rows, although more were announced"}[rel])
		return errUndecided
	}
	p.findings = append(p.findings, Finding{"source_http.paging", kind, Verified, fmt.Sprintf("%s answered %d other rows", describePlan(p), second.RowCount)})
	r.summarize(p)
	return r.propose(p)
}
