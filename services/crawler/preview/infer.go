package preview

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"
)

// plan is a request that may find all pages.
type plan struct {
	preset   string
	http     object // source_http
	size     string // name of the parameter of the page size, "" if it is not known
	sized    int    // the page size that page 2 is requested with; 0: that of page 1
	findings []Finding

	asked *asked
	first source.Answer // page 1 in the form of http
	list  list
}

// errUndecided means that no plan was verified; the answer names the field to set.
var errUndecided = errors.New("no request was found")

func (r *run) find(ctx context.Context) error {
	find := r.infer
	if r.complete() {
		find = r.verifyGiven
	}
	err := find(ctx)
	if errors.Is(err, errUndecided) {
		return nil
	}
	return err
}

// complete reports whether the submission says how pages are found.
func (r *run) complete() bool {
	paging := r.given.object("paging")
	if paging.get("type") != nil {
		return true
	}
	name := r.given.text("preset")
	if name == "" {
		return r.given.get("paging") != nil
	}
	p, ok := r.preset(name)
	return !ok || !slices.ContainsFunc(p.Given, func(field string) bool {
		if member, ok := strings.CutPrefix(field, "paging."); ok {
			return paging.get(member) == nil && r.hints.get(member) == nil
		}
		return r.given.get(field) == nil
	})
}

func (r *run) preset(name string) (Preset, bool) {
	i := slices.IndexFunc(r.cfg.Presets, func(p Preset) bool { return p.Name == name })
	if i < 0 {
		return Preset{}, false
	}
	return r.cfg.Presets[i], true
}

// infer finds a request for a submission without paging.
func (r *run) infer(ctx context.Context) error {
	draft := r.given.without("preset")
	draft.set("paging", jsontext.Value(`{"type":"none"}`))
	if r.given.text("preset") == "notion" || r.given.text("preset") == "graphql-relay" {
		r.method = http.MethodPost
		draft.setText("method", r.method)
	}
	res, err := r.ask(ctx, draft, 2)
	if r.asksForPages(err) {
		refused := err
		if err = r.standard(ctx, nil); err != nil && !errors.Is(err, errUndecided) && ctx.Err() == nil {
			return refused
		}
		return err
	}
	if err != nil {
		return err
	}
	r.first, r.header = res.Page, res.header
	if len(bytes.TrimSpace(r.first.Body)) == 0 {
		r.need("source_http.paging", "page 1 has no content, so its paging cannot be seen; request some rows, or set paging")
		return errUndecided
	}
	if format := r.format(draft); format != "" {
		return r.single(ctx, draft, format)
	}
	q := rows.NewQuery(rows.Path{}, nil)
	if _, err := q.Scan(r.first.Body, r.cfg.Policy.Rows); err != nil {
		_, _, err := r.parse(draft)
		return err
	}
	if s, err := rows.ScanResponse(r.first.Body, r.cfg.Policy.Rows); err == nil && r.given.get("rows") == nil {
		switch {
		case s.OK() && s.HasPagetag:
			return r.standard(ctx, r.first)
		case !s.OK():
			return &source.Failure{Page: 1, Code: events.CodeSourceErrcode, Errcode: s.Errcode, Msg: r.hide(s.Msg)}
		}
	}
	r.doc = r.read(r.first.Body)
	if r.isGraphQL() {
		return r.graphQL(ctx, draft)
	}
	if done, err := r.odata(ctx); done || err != nil {
		return err
	}
	if done, err := r.byPreset(ctx); done || err != nil {
		return err
	}
	return r.byEvidence(ctx)
}

// asksForPages reports whether a source may have refused the request because it lacks the parameters of the
// standard format.
func (r *run) asksForPages(err error) bool {
	f := (*source.Failure)(nil)
	if !errors.As(err, &f) || r.left() == 0 || r.given.object("param").get("page") != nil {
		return false
	}
	return f.Status == http.StatusBadRequest || f.Status == http.StatusUnprocessableEntity
}

// standard proposes the request of today for a source in the standard format. first is page 1, nil if it was
// not requested yet.
func (r *run) standard(ctx context.Context, first *source.Page) error {
	h := r.given.without("preset", "rows", "header_row", "paging")
	a, err := r.open(h, 1)
	if err != nil {
		return err
	}
	var answer source.Answer
	if first == nil {
		page, err := a.Fetch(ctx, source.Position{Page: 1})
		if err != nil {
			return err
		}
		r.first, answer = &page, page.Answer
	} else if answer, err = a.Shape.Parse(first.Body, r.header, source.Position{Page: 1}); err != nil {
		return err
	}
	p := &plan{preset: "sheaf", http: h, asked: a, first: answer, size: "limit"}
	p.findings = append(p.findings, Finding{"source_http.preset", "sheaf", Seen, "page 1 has errcode, data.data and data.pagetag"})
	total := max(answer.Total, 0)
	if answer.Total > 0 {
		r.answer.Proof = events.ProofTotal
	} else if answer.Pages > 0 {
		r.answer.Proof = events.ProofPages
	} else {
		r.answer.Proof = events.ProofEnd
	}
	r.answer.Concurrent = true
	if size := int64(answer.Limit); size > 0 {
		r.answer.Pages = pagesOf(total, size)
	}
	r.answer.Pages = max(r.answer.Pages, answer.Pages)
	r.show(answer.Rows, true)
	return r.propose(p)
}

// format returns the format of a response that is no JSON, "" for JSON and for everything unknown.
func (r *run) format(draft object) string {
	if given := draft.text("format"); given != "" && given != "json" {
		return given
	}
	body := r.first.Body
	kind := strings.ToLower(r.header.Get("Content-Type"))
	if _, n, err := rows.FromNDJSON(nil, body, r.cfg.Policy.Rows); err == nil && n > 0 && (strings.Contains(kind, "ndjson") || strings.Contains(kind, "jsonl")) {
		return events.FormatNDJSON
	}
	if _, err := rows.NewQuery(rows.Path{}, nil).Scan(body, r.cfg.Policy.Rows); err == nil {
		return ""
	}
	if _, n, err := rows.FromNDJSON(nil, body, r.cfg.Policy.Rows); err == nil && n > 1 {
		return events.FormatNDJSON
	}
	extension := ""
	if u, err := url.Parse(r.given.text("url")); err == nil {
		extension = strings.ToLower(path.Ext(u.Path))
	}
	switch {
	case strings.Contains(kind, "tab-separated") || strings.HasPrefix(kind, "text/plain") && extension == ".tsv":
		return events.FormatTSV
	case strings.Contains(kind, "csv") || (strings.HasPrefix(kind, "text/plain") || kind == "" || strings.HasPrefix(kind, "application/octet-stream")) && extension == ".csv":
		return events.FormatCSV
	}
	return ""
}

// single proposes a list that is one response without JSON.
func (r *run) single(ctx context.Context, draft object, format string) error {
	h := draft.without("paging", "format")
	h.setText("format", format)
	p := &plan{http: h}
	p.findings = append(p.findings, Finding{"source_http.format", format, Seen, "by the content of the answer"})
	e := &evidence{start: 1}
	return r.alone(ctx, p, e)
}

// hint returns the paging with the members that the submission gave beside type auto.
func (r *run) hint(paging object) jsontext.Value {
	for _, m := range r.hints {
		paging.set(m.name, m.value)
	}
	return paging.raw()
}

// base returns source_http without the inferred fields.
func (r *run) base() object { return r.given.without("preset", "paging") }

// byPreset tries the presets whose paths all fit page 1.
func (r *run) byPreset(ctx context.Context) (done bool, err error) {
	for _, preset := range r.cfg.Presets {
		p, e := r.fits(preset)
		if p == nil || r.left() == 0 && !e.whole() {
			continue
		}
		p.findings = append(p.findings, Finding{"source_http.preset", preset.Name, Seen, "page 1 has all its paths with the right kinds"})
		if done, err := r.verify(ctx, p, e, true); done || err != nil {
			return true, err
		}
	}
	return false, nil
}

// odata asks an OData 4 service for its total, which it sends only on request.
func (r *run) odata(ctx context.Context) (done bool, err error) {
	_, context := r.doc.at("['@odata.context']")
	_, counted := r.doc.at("['@odata.count']")
	_, known := r.preset("odata")
	l, there := r.list("value")
	param := r.given.object("param")
	if _, given := param.lookup("$count"); !context || counted || !known || !there || given || r.method == http.MethodPost {
		return false, nil
	}
	h := r.base()
	h.setText("preset", "odata")
	param.setText("$count", "true")
	h.set("param", param.raw())
	a, err := r.open(h, 1)
	if err != nil {
		return false, err
	}
	page, err := a.Fetch(ctx, source.Position{Page: 1})
	if err != nil {
		if f := (*source.Failure)(nil); !errors.As(err, &f) || f.Code == "" {
			return true, err
		}
		return false, nil
	}
	defer page.Release()
	if page.Total < int64(page.RowCount) {
		return false, nil
	}
	p := &plan{preset: "odata", http: h, list: l, asked: a, first: page.Answer}
	p.findings = append(p.findings, Finding{"source_http.preset", "odata", Seen, "page 1 has @odata.context and value"},
		Finding{"source_http.param.$count", "true", Verified, fmt.Sprintf("the answer then has @odata.count, %d", page.Total)})
	return r.verify(ctx, p, &evidence{rows: int64(l.count), start: 1}, true)
}

// fits returns the plan of a preset, nil if a path finds nothing or another kind.
func (r *run) fits(preset Preset) (*plan, *evidence) {
	fields, err := readObject(jsontext.Value(preset.Source))
	method := strings.ToUpper(fields.text("method"))
	if err != nil || preset.Name == "sheaf" || len(preset.Given) > 0 && preset.Name != "slack" ||
		method != "" && method != r.method || r.given.get("format") != nil {
		return nil, nil
	}
	paging := fields.object("paging")
	for _, name := range []string{"total", "total_pages", "more", "next_url", "cursor"} {
		place := strings.TrimPrefix(paging.text(name), "!")
		if place == "" || strings.HasPrefix(place, "row:") {
			continue
		}
		if header, ok := strings.CutPrefix(place, "header:"); ok {
			if r.header.Get(header) == "" {
				return nil, nil
			}
			continue
		}
		s, ok := r.doc.at(place)
		if !ok {
			return nil, nil
		}
		switch kind := s.value.Kind(); name {
		case "total", "total_pages":
			ok = s.number >= 0
		case "more":
			ok = kind == 't' || kind == 'f'
		case "next_url":
			ok = kind == 'n' || isAddress(textOf(s.value))
		case "cursor":
			ok = kind == 'n' || kind == '"' || kind == '0'
		}
		if !ok {
			return nil, nil
		}
	}
	errorPath := fields.object("error").text("path")
	if _, ok := r.doc.at(errorPath); errorPath != "" && errorPath != "errors" && !ok {
		return nil, nil
	}
	h := r.base()
	h.setText("preset", preset.Name)
	if len(r.hints) > 0 {
		h.set("paging", r.hints.raw())
	}
	at := r.given.text("rows")
	if at == "" {
		if at = fields.text("rows"); at == "" { // slack
			lists := r.doc.rowLists()
			if len(lists) == 0 {
				return nil, nil
			}
			at = lists[0].rowsPath()
			h.setText("rows", at)
		}
	}
	l, ok := r.list(at)
	if !ok || !r.typical(preset.Name, l) {
		return nil, nil
	}
	p := &plan{preset: preset.Name, http: h, list: l, size: presetSize(preset.Name, paging)}
	if p.asked, p.first, err = r.parse(h); err != nil || p.first.Total >= 0 && p.first.Total < int64(p.first.RowCount) {
		return nil, nil
	}
	e := r.evidenceOf(l, int64(p.first.RowCount))
	p.findings = append(p.findings, Finding{"source_http.rows", at, Seen, fmt.Sprintf("an array of %d objects", l.count)})
	return p, e
}

// list returns the list whose rows are at a path.
func (r *run) list(at string) (list, bool) {
	for _, l := range r.doc.lists {
		if p, err := rows.ParseRowsPath(at); err == nil && (p.String() == l.rowsPath() || p.String() == l.path) && l.objects == l.count {
			if p.String() == l.path {
				l.inner = ""
			}
			return l, true
		}
	}
	return list{}, false
}

// presetSize is the parameter of the page size.
func presetSize(name string, paging object) string {
	switch name {
	case "github":
		return "per_page"
	case "drf-cursor":
		return "page_size"
	}
	return paging.text("limit_param")
}

// typical reports whether a response has what distinguishes a preset from others with the same paths.
func (r *run) typical(name string, l list) bool {
	has := func(paths ...string) bool {
		return !slices.ContainsFunc(paths, func(path string) bool { s, ok := r.doc.at(path); return !ok || s.number < 0 })
	}
	next := ""
	if s, ok := r.doc.at("next"); ok {
		next = textOf(s.value)
	}
	parameter := func(name string) bool {
		u, err := url.Parse(next)
		return err == nil && u.Query().Has(name)
	}
	switch name {
	case "feathers":
		return has("limit", "skip")
	case "stripe":
		s, ok := r.doc.at("object")
		return ok && textOf(s.value) == "list"
	case "drf":
		_, known := r.doc.at("next")
		return known && (next == "" || parameter("page"))
	case "drf-offset":
		return parameter("offset")
	case "drf-cursor":
		_, counted := r.doc.at("count")
		return !counted && (next == "" || parameter("cursor"))
	case "github":
		return r.header.Get("X-GitHub-Media-Type") != "" && l.count > 0
	case "link":
		return r.header.Get("Link") != "" && r.header.Get("X-GitHub-Media-Type") == "" && !slices.ContainsFunc(totalHeaders, func(h string) bool { return r.header.Get(h) != "" })
	case "json-api":
		first, ok := rows.Lookup(l.value, indexPath)
		return ok && l.count > 0 && isResource(first.Raw)
	case "couchdb":
		return l.inner == "doc"
	}
	return true
}

var indexPath, _ = rows.ParsePath("$[0]")

// isResource reports whether an object is a resource of JSON:API.
func isResource(raw []byte) bool {
	o, err := readObject(raw)
	return err == nil && o.get("type") != nil && o.get("id") != nil && o.get("attributes") != nil
}

// byEvidence tries plans that the names and kinds of page 1 suggest.
func (r *run) byEvidence(ctx context.Context) error {
	lists := r.doc.rowLists()
	if at := r.given.text("rows"); at != "" {
		l, ok := r.list(at)
		if !ok {
			h := r.base()
			h.set("paging", jsontext.Value(`{"type":"none"}`))
			if _, _, err := r.parse(h); err != nil { // its error describes the answer
				return err
			}
			lists = nil
		} else {
			lists = []list{l}
		}
	}
	if len(lists) == 0 {
		r.need("source_http.rows", "page 1 holds no array of objects; %s", r.outline())
		return errUndecided
	}
	l := lists[0]
	for _, other := range lists[1:] {
		r.answer.Others = append(r.answer.Others, Other{"source_http.rows", other.rowsPath()})
	}
	p := &plan{http: r.base(), list: l}
	at, how := l.rowsPath(), Seen
	if r.given.get("rows") != nil {
		how = Given
	} else if at != "$" {
		p.http.setText("rows", at)
	}
	why := fmt.Sprintf("the only array of objects, %d of them", l.count)
	if len(lists) > 1 {
		why = fmt.Sprintf("the most list-like of %d arrays of objects, with %d of them", len(lists), l.count)
	}
	p.findings = append(p.findings, Finding{"source_http.rows", at, how, why})
	r.mapErrors(p)
	e := r.evidenceOf(l, int64(l.count))
	if e.total != nil && e.total.number == e.rows && !e.estimate && e.rows > 0 && e.follows() {
		r.warn("%q says %d, the rows of page 1, but page 1 names a next page: it counts the rows of a page, or the list ends there", e.total.path, e.rows)
		e.total = nil
	}
	for _, s := range e.doubts {
		r.answer.Others = append(r.answer.Others, Other{"source_http.paging.total", s.path})
	}
	if l.count == 0 && (e.total == nil || e.total.number > 0) && !e.ends() && l.path != "$" {
		r.show([]byte("[]"), false)
		r.need("source_http.paging", "page 1 has no rows, so its paging cannot be seen; submit a request that finds some, or set paging")
		return errUndecided
	}
	if done, err := r.chains(ctx, p, e); done || err != nil {
		return err
	}
	return r.numbers(ctx, p, e)
}

// mapErrors proposes what a failure looks like if page 1 has a code and a text beside it.
func (r *run) mapErrors(p *plan) {
	if _, given := p.http.lookup("error"); given {
		return
	}
	for _, path := range []string{"code", "errcode", "errno", "ret", "success", "ok"} {
		s, there := r.doc.at(path)
		if !there {
			continue
		}
		truth := path == "success" || path == "ok"
		if truth != (s.value.Kind() == 't') || !truth && s.number != 0 && s.number != 200 {
			continue
		}
		for _, message := range []string{"msg", "message", "errmsg", "error", "errorMessage", "error_message"} {
			if _, there := r.doc.at(message); there || truth {
				mapping := object{}
				mapping.setText("path", path)
				mapping.set("ok", append(append(jsontext.Value{'['}, s.value...), ']'))
				mapping.setText("message", message)
				p.http.set("error", mapping.raw())
				p.findings = append(p.findings, Finding{"source_http.error.path", path, Seen, fmt.Sprintf("page 1 has %s %s", path, s.value)})
				return
			}
		}
	}
}

// spoken are members whose value a source means for people: an answer without rows often says there why.
var spoken = []string{"code", "errcode", "errno", "msg", "message", "errmsg", "error", "error_message", "detail", "errors"}

// outline names the members of page 1, and quotes what the source says about a failure.
func (r *run) outline() string {
	o, err := readObject(r.first.Body)
	if err != nil {
		return "the answer is no object"
	}
	var names []string
	for _, m := range o {
		if path, ok := pathOf([]string{m.name}); ok && len(names) < 12 {
			if said := r.saying(m.value); said != "" && slices.Contains(spoken, m.name) {
				path += " " + said
			}
			names = append(names, r.hide(path))
		}
	}
	if len(names) == 0 {
		return "the answer has no members"
	}
	return "the answer has " + strings.Join(names, ", ")
}

// saying returns a number, or a text in quotes, or that of the message of an object or of the first of a list. It
// is "" for another value.
func (r *run) saying(v jsontext.Value) string {
	switch v.Kind() {
	case '0':
		return string(v)
	case '"':
		var text string
		if json.Unmarshal(v, &text) != nil || text == "" {
			return ""
		}
		text = r.hide(text) // before it is quoted or cut, which would disguise a secret
		if long := []rune(text); len(long) > 200 {
			text = string(long[:200]) + "…"
		}
		return strconv.Quote(text)
	case '[':
		var list []jsontext.Value
		if json.Unmarshal(v, &list) == nil && len(list) > 0 && list[0].Kind() == '{' {
			return r.saying(list[0])
		}
	case '{':
		if o, err := readObject(v); err == nil {
			for _, m := range o {
				if m.name == "message" && m.value.Kind() == '"' {
					return r.saying(m.value)
				}
			}
		}
	}
	return ""
}

// with returns a copy of the plan with a paging.
func (r *run) with(p *plan, paging object) *plan {
	q := *p
	q.http = p.http.clone()
	q.http.set("paging", r.hint(paging))
	q.findings = slices.Clone(p.findings)
	return &q
}

// chains tries the plans in which each page names the next one.
func (r *run) chains(ctx context.Context, p *plan, e *evidence) (done bool, err error) {
	numbered := e.total != nil || e.pages != nil
	if link := r.header.Get("Link"); link != "" {
		paging := object{}
		paging.setText("type", events.PagingLink)
		e.members(&paging, false)
		q := r.with(p, paging)
		q.size = e.size
		if q.asked, q.first, err = r.parse(q.http); err == nil && q.first.Next != "" {
			if done, err := r.verify(ctx, q, e, false); done || err != nil {
				return done, err
			}
		}
	}
	if e.next != nil && (!numbered || e.page == "" && e.offset == "" || r.method == http.MethodPost) && !(e.next.value.Kind() == 'n' && e.whole()) {
		paging := object{}
		paging.setText("type", events.PagingNextURL)
		paging.setText("next_url", e.next.path)
		e.members(&paging, false)
		q := r.with(p, paging)
		q.findings = append(q.findings, Finding{"source_http.paging.next_url", e.next.path, Seen, "it holds the address of the next page, or null"})
		if q.asked, q.first, err = r.parse(q.http); err == nil {
			if done, err := r.verify(ctx, q, e, false); done || err != nil {
				return done, err
			}
		}
	}
	if e.cursor != nil && !e.ends() && !e.whole() {
		return r.cursors(ctx, p, e)
	}
	if e.more != nil && !e.last && e.more.value.Kind() == 't' && e.total == nil && e.page == "" && e.offset == "" && rowID(p.list.value) && p.list.inner == "" {
		return r.afterRow(ctx, p, e)
	}
	return false, nil
}

// cursors tries the names of parameters that a cursor may be sent by.
func (r *run) cursors(ctx context.Context, p *plan, e *evidence) (done bool, err error) {
	body := r.method == http.MethodPost && r.given.get("body") != nil
	names := cursorParams(e.cursor.steps)
	for _, name := range names {
		if r.left() == 0 {
			break
		}
		if body {
			name = "body:" + mustPath(name)
		}
		paging := object{}
		paging.setText("type", events.PagingCursor)
		paging.setText("cursor", e.cursor.path)
		paging.setText("cursor_param", name)
		setSize(&paging, e.size)
		e.members(&paging, false)
		q := r.with(p, paging)
		q.size = e.size
		q.findings = append(q.findings, Finding{"source_http.paging.cursor", e.cursor.path, Seen, "a text beside the rows, under a name that means the next page"})
		if q.asked, q.first, err = r.parse(q.http); err != nil {
			continue
		}
		if done, err := r.verify(ctx, q, e, false); done || err != nil {
			return done, err
		}
	}
	r.show(p.list.value, false)
	r.need("source_http.paging.cursor_param", "page 1 has a cursor at %q, but none of the parameters that were tried moved the rows: %s", e.cursor.path, strings.Join(names[:min(2, len(names))], ", "))
	return false, errUndecided
}

func mustPath(name string) string {
	path, _ := pathOf([]string{name})
	return path
}

// afterRow tries a cursor that is the id of the last row.
func (r *run) afterRow(ctx context.Context, p *plan, e *evidence) (done bool, err error) {
	for _, name := range []string{"starting_after", "after"} {
		if r.left() < 2 && name != "starting_after" {
			break
		}
		paging := object{}
		paging.setText("type", events.PagingCursor)
		paging.setText("cursor", "row:id")
		paging.setText("cursor_param", name)
		setSize(&paging, e.size)
		e.members(&paging, false)
		q := r.with(p, paging)
		if q.asked, q.first, err = r.parse(q.http); err != nil {
			continue
		}
		if done, err := r.verify(ctx, q, e, false); done || err != nil {
			return done, err
		}
		break
	}
	return false, nil
}

// setSize sets the parameter of the page size; null sends none.
func setSize(paging *object, name string) {
	if name == "" {
		paging.set("limit_param", jsontext.Value("null"))
		return
	}
	paging.setText("limit_param", name)
}

// numbered returns the plan of pages by number, or by offset.
func (r *run) numbered(p *plan, e *evidence, kind, name string, start int64) *plan {
	paging := object{}
	paging.setText("type", kind)
	if kind == events.PagingPage {
		paging.setText("page_param", name)
		if start != 1 {
			paging.set("start", jsontext.Value(strconv.FormatInt(start, 10)))
		}
	} else {
		paging.setText("offset_param", name)
	}
	setSize(&paging, e.size)
	e.members(&paging, kind == events.PagingPage)
	q := r.with(p, paging)
	q.size = e.size
	return q
}

// numbers tries pages by number and by offset.
func (r *run) numbers(ctx context.Context, p *plan, e *evidence) error {
	type attempt struct {
		kind, name string
		start      int64
	}
	var tries []attempt
	if e.offset != "" {
		tries = append(tries, attempt{events.PagingOffset, e.offset, 0})
	}
	if e.page != "" {
		tries = append(tries, attempt{events.PagingPage, e.page, e.start})
	}
	for _, t := range tries[:min(len(tries), 1)] {
		q := r.numbered(p, e, t.kind, t.name, t.start)
		var err error
		if q.asked, q.first, err = r.parse(q.http); err != nil {
			continue
		}
		if done, err := r.verify(ctx, q, e, false); done || err != nil {
			return err
		}
	}
	return r.alone(ctx, p, e)
}

var afterArgument = regexp.MustCompile(`\bafter\s*:\s*\$(\w+)`)
var firstArgument = regexp.MustCompile(`\bfirst\s*:\s*\$(\w+)`)

// isGraphQL reports whether the body of the request is a GraphQL query.
func (r *run) isGraphQL() bool {
	body := r.given.object("body")
	return r.method == http.MethodPost && body.text("query") != "" && (r.given.text("preset") == "" || r.given.text("preset") == "graphql-relay")
}

// graphQL proposes the paging of a connection.
func (r *run) graphQL(ctx context.Context, draft object) error {
	query := r.given.object("body").text("query")
	var info []string
	for _, s := range r.doc.spots {
		if s.name() == "hasnextpage" && len(s.steps) > 1 {
			info = s.steps[:len(s.steps)-1]
			break
		}
	}
	failed := draft.clone()
	failed.set("error", jsontext.Value(`{"path":"errors","message":"errors[0].message"}`))
	if _, _, err := r.parse(failed); reported(err) {
		return err
	}
	if info == nil {
		r.need("source_http.body", "the query asks for no pageInfo; add pageInfo { hasNextPage endCursor } to the connection")
		return errUndecided
	}
	connection := info[:len(info)-1]
	path := func(steps []string, more ...string) string {
		p, _ := pathOf(append(slices.Clone(steps), more...))
		return p
	}
	p := &plan{preset: "graphql-relay", http: r.base()}
	p.http.setText("preset", "graphql-relay")
	at := ""
	for _, name := range []string{"edges", "nodes"} {
		if l, ok := r.listAt(path(connection, name)); ok && (name == "nodes" || l.inner == "node" || l.count == 0) {
			p.list, at = l, l.rowsPath()
			if name == "edges" && l.count == 0 {
				at = l.path + "[*].node"
			}
			break
		}
	}
	if at == "" {
		r.need("source_http.rows", "no edges { node } or nodes stand beside pageInfo at %s", path(connection))
		return errUndecided
	}
	p.http.setText("rows", at)
	p.findings = append(p.findings, Finding{"source_http.preset", "graphql-relay", Seen, "the body is a GraphQL query and page 1 has pageInfo"},
		Finding{"source_http.rows", at, Seen, fmt.Sprintf("the connection of pageInfo, %d rows", p.list.count)})
	cursor, ok := r.doc.at(path(info, "endCursor"))
	variable := afterArgument.FindStringSubmatch(query)
	if !ok || variable == nil {
		r.need("source_http.body", "the query needs an argument such as after: $after, and endCursor in pageInfo")
		return errUndecided
	}
	e := &evidence{rows: int64(p.list.count), start: 1}
	paging := object{}
	paging.setText("cursor", cursor.path)
	paging.setText("more", path(info, "hasNextPage"))
	more, _ := r.doc.at(path(info, "hasNextPage"))
	e.more = &more
	if total, ok := r.doc.at(path(connection, "totalCount")); ok && total.number >= int64(p.list.count) {
		paging.setText("total", total.path)
		e.total = &total
		p.findings = append(p.findings, Finding{"source_http.paging.total", total.path, Seen, fmt.Sprintf("%d, at least the rows of page 1", total.number)})
	}
	if variable[1] != "after" {
		paging.setText("cursor_param", "body:variables."+variable[1])
	}
	size := firstArgument.FindStringSubmatch(query)
	variables := r.given.object("body").object("variables")
	switch {
	case size == nil || variables.get(size[1]) == nil:
		paging.set("limit_param", jsontext.Value("null"))
	case size[1] != "first":
		paging.setText("limit_param", "body:variables."+size[1])
	}
	q := r.with(p, paging)
	var err error
	if q.asked, q.first, err = r.parse(q.http); err != nil {
		return err
	}
	done, err := r.verify(ctx, q, e, true)
	if done || err != nil {
		return err
	}
	r.need("source_http.paging.cursor_param", "the variable %s did not move the rows", variable[1])
	return errUndecided
}

func (r *run) listAt(path string) (list, bool) {
	for _, l := range r.doc.lists {
		if l.path == path {
			return l, true
		}
	}
	return list{}, false
}
