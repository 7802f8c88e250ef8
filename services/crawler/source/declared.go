package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"sheaf/events"
	"sheaf/events/rows"
)

// declared is every form of API that a request describes by its paths and places, see [events.Paging].
type declared struct {
	*endpoint
	paging  events.Paging
	failure events.ErrorMapping
	limit   int
	limits  rows.Limits
	format  string
	charset string // of CSV and TSV, "" as the response says
	flatten int
	titled  bool // the first row of each page holds the titles

	query  []pair          // of the URL and param
	secret []pair          // those of query that the address of a next page must have
	body   json.RawMessage // nil without one
	form   []pair          // of a form, instead of body
	isForm bool

	number, size, token place // written: page number or offset, limit, token; unset if text is ""

	scan                     *rows.Query
	total, pages, more, next value
	failed, message          value
	moreNegated              bool
	gathers                  bool // the rows are copied out of the elements of an array
}

// value is a place that is read, and its position in the values of the scan.
type value struct {
	place
	field string // of the request, for messages
	at    int    // -1 outside the body
}

func newDeclared(e *endpoint, req Request, limits rows.Limits) (*declared, error) {
	from := req.From
	d := &declared{
		endpoint: e, paging: *from.Paging, limit: req.Limit, limits: limits, format: from.Format,
		titled: from.HeaderRow, isForm: from.BodyType == events.BodyForm,
	}
	if req.Options != nil {
		d.flatten, d.charset = req.Options.Flatten, req.Options.SourceCharset
	}
	if from.Error != nil {
		d.failure = *from.Error
	}
	if err := d.setRequest(req); err != nil {
		return nil, err
	}
	return d, d.setPaths(from)
}

// setRequest prepares what all requests have in common.
func (d *declared) setRequest(req Request) error {
	param, err := checkObject(req.Param)
	if err != nil {
		return fmt.Errorf("source param %w", err)
	}
	eachMember(param, func(name string, v rows.Value) {
		if slices.Contains(req.SecretParam, name) {
			d.addSecret(queryText(v))
			d.secrets.addJSON(v.Raw)
		}
	})
	body := bytes.TrimSpace(req.From.Body)
	if string(body) == "null" {
		body = nil
	}
	paramInBody := d.method == http.MethodPost && len(body) == 0
	d.query = splitQuery(d.url.RawQuery)
	if paramInBody {
		body = param
	} else {
		for _, p := range paramPairs(param) {
			d.query = replaced(d.query, p)
			if slices.Contains(req.SecretParam, p.name) {
				d.secret = append(d.secret, p)
			}
		}
	}
	switch {
	case len(body) == 0:
	case d.method != http.MethodPost:
		return errors.New("source body needs method POST")
	case d.isForm:
		if body, err = checkObject(body); err != nil {
			return fmt.Errorf("source body %w", err)
		}
		d.form = paramPairs(body)
	default:
		if !json.Valid(body) {
			return errors.New("source body is not JSON")
		}
		d.body = body
	}
	written := func(field, text string, to *place) error {
		if text == "" {
			return nil
		}
		if *to, err = writePlace(text, paramInBody); err == nil {
			err = d.writable(*to)
		}
		if err != nil {
			return fmt.Errorf("source paging.%s: %w", field, err)
		}
		return nil
	}
	p := &d.paging
	switch p.Type {
	case events.PagingPage:
		err = written("page_param", p.PageParam, &d.number)
	case events.PagingOffset:
		err = written("offset_param", p.OffsetParam, &d.number)
	case events.PagingCursor:
		err = written("cursor_param", p.CursorParam, &d.token)
	case events.PagingNextURL, events.PagingLink, events.PagingNone:
		return nil
	default:
		return fmt.Errorf("source paging.type %.20q is not known; page, offset, cursor, next_url, link, none", p.Type)
	}
	if err == nil {
		err = written("limit_param", p.LimitParam, &d.size)
	}
	if err == nil && !d.number.given() && !d.token.given() {
		err = fmt.Errorf("source paging: the place that changes from page to page is missing with type %s", p.Type)
	}
	return err
}

// writable checks that a value can be written at a place.
func (d *declared) writable(p place) error {
	if p.in != inBody {
		return nil
	}
	switch {
	case d.method != http.MethodPost:
		return errors.New("body: needs method POST")
	case d.isForm && (len(p.path.Steps()) != 1 || p.path.Steps()[0].Index >= 0):
		return errors.New("a form has no nested names")
	case d.isForm:
		return nil
	}
	_, err := setAt(d.body, p.path.Steps(), json.RawMessage("0"))
	return err
}

// setPaths prepares the one scan that finds everything in a response.
func (d *declared) setPaths(from *events.HTTPRequest) error {
	at, err := rows.ParseRowsPath(from.Rows)
	if err != nil {
		return fmt.Errorf("source rows: %w", err)
	}
	d.gathers = strings.Contains(at.String(), "[*]")
	var paths []rows.Path
	read := func(field, text string, to *value) {
		if text == "" || err != nil {
			return
		}
		to.field, to.at = field, -1
		if to.place, err = readPlace(text); err == nil && to.in == inBody {
			if d.format != "" {
				err = fmt.Errorf("%s has no such place; use header:NAME", d.format)
			}
			to.at = len(paths)
			paths = append(paths, to.path)
		}
		if err != nil {
			err = fmt.Errorf("source %s: %w", field, err)
		}
	}
	p := &d.paging
	more := p.More
	more, d.moreNegated = strings.CutPrefix(more, "!")
	read("error.path", d.failure.Path, &d.failed)
	read("error.message", d.failure.Message, &d.message)
	read("paging.total", p.Total, &d.total)
	read("paging.total_pages", p.TotalPages, &d.pages)
	read("paging.more", more, &d.more)
	switch p.Type {
	case events.PagingCursor:
		read("paging.cursor", p.Cursor, &d.next)
	case events.PagingNextURL:
		read("paging.next_url", p.NextURL, &d.next)
	}
	if err != nil {
		return err
	}
	if (p.Type == events.PagingCursor || p.Type == events.PagingNextURL) && !d.next.given() {
		return fmt.Errorf("source paging: the place of the next page is missing with type %s", p.Type)
	}
	d.scan = rows.NewQuery(at, paths)
	return nil
}

// chained reports whether each page names the next one.
func (d *declared) chained() bool {
	switch d.paging.Type {
	case events.PagingCursor, events.PagingNextURL, events.PagingLink:
		return true
	}
	return false
}

// followsURL reports whether the token of a page is its address.
func (d *declared) followsURL() bool {
	return d.paging.Type == events.PagingNextURL || d.paging.Type == events.PagingLink
}

// target returns the address of a page, without the parameters that Request adds.
func (d *declared) target(at Position) (*url.URL, error) {
	if !d.followsURL() || at.Token == "" {
		u := d.url
		return &u, nil
	}
	u, err := url.Parse(at.Token)
	if err != nil {
		return nil, &Failure{Code: events.CodeStore, Msg: "the stored address of the next page is damaged"}
	}
	u.User = d.url.User
	return u, nil
}

// values returns what the request for a page has besides the values of all requests.
func (d *declared) values(at Position) (values []written, err error) {
	if d.chained() && at.Page > 1 && at.Token == "" {
		return nil, &Failure{Code: events.CodeInternal, Msg: "the page before names no next one"}
	}
	if d.size.given() {
		values = append(values, written{d.size, strconv.AppendInt(nil, int64(d.limit), 10)})
	}
	switch d.paging.Type {
	case events.PagingPage:
		values = append(values, written{d.number, strconv.AppendInt(nil, d.paging.Start+int64(at.Page)-1, 10)})
	case events.PagingOffset:
		if at.Page > 1 && at.Size < 1 {
			return nil, &Failure{Code: events.CodeInternal, Msg: "the size of page 1 is not known"}
		}
		values = append(values, written{d.number, strconv.AppendInt(nil, d.paging.Start+int64(at.Page-1)*int64(at.Size), 10)})
	case events.PagingCursor:
		token := json.RawMessage(at.Token)
		if at.Page == 1 {
			token = d.paging.CursorStart
		}
		if len(token) > 0 && string(token) != "null" {
			if !json.Valid(token) {
				return nil, &Failure{Code: events.CodeStore, Msg: "the stored token of the next page is damaged"}
			}
			values = append(values, written{d.token, token})
		}
	}
	return values, nil
}

func (d *declared) Request(ctx context.Context, at Position) (*http.Request, error) {
	u, err := d.target(at)
	if err != nil {
		return nil, err
	}
	values, err := d.values(at)
	if err != nil {
		return nil, err
	}
	query, form, body := d.query, d.form, d.body
	if d.followsURL() && at.Token != "" {
		query = missing(splitQuery(u.RawQuery), d.secret)
	}
	header := http.Header{}
	for _, w := range values {
		switch {
		case w.in == inQuery:
			query = replaced(query, newPair(w.name, w.text()))
		case w.in == inHeader:
			if !httpguts.ValidHeaderFieldValue(w.text()) {
				return nil, &Failure{Code: events.CodeSourcePaging, Msg: fmt.Sprintf("the cursor cannot be sent in the header %s", w.name)}
			}
			header.Set(w.name, w.text())
		case d.isForm:
			form = replaced(form, newPair(w.path.Steps()[0].Name, w.text()))
		default:
			if body, err = setAt(body, w.path.Steps(), w.value); err != nil {
				return nil, &Failure{Code: events.CodeInternal, Msg: err.Error()}
			}
		}
	}
	if d.isForm && d.method == http.MethodPost {
		body = []byte(joinPairs(form))
	}
	return d.requestTo(ctx, u, joinPairs(query), body, header), nil
}
