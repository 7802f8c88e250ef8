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
	"strings"

	"sheaf/events"
	"sheaf/events/rows"
)

// standard is the format of [rows.ScanResponse]: page=N&limit=M in the query or in the body, and rows, whose
// first one names the columns, beside a pagetag.
type standard struct {
	*endpoint
	limit  int
	limits rows.Limits
	query  string // of a GET, without page and limit
	body   []byte // of a POST: an object without its end, page and limit
}

func newStandard(e *endpoint, req Request, limits rows.Limits) (*standard, error) {
	s := &standard{endpoint: e, limit: req.Limit, limits: limits}
	return s, s.setParam(req.Param, req.SecretParam)
}

func (s *standard) Request(ctx context.Context, at Position) (*http.Request, error) {
	if s.method == http.MethodPost {
		return s.request(ctx, s.url.RawQuery, fmt.Appendf(slices.Clip(s.body), `"page":%d,"limit":%d}`, at.Page, s.limit)), nil
	}
	query := fmt.Sprintf("page=%d&limit=%d", at.Page, s.limit)
	if s.query != "" {
		query = s.query + "&" + query
	}
	return s.request(ctx, query, nil), nil
}

func (s *standard) Parse(body []byte, _ http.Header, at Position) (Answer, error) {
	r, err := rows.ScanResponse(body, s.limits)
	switch {
	case err != nil:
		return Answer{}, misshapen(err)
	case !r.OK():
		return Answer{}, &Failure{Code: events.CodeSourceErrcode, Errcode: r.Errcode, Msg: r.Msg}
	case !r.HasPagetag && (at.Page == 1 || r.RowCount > 0): // an empty page has nothing to count
		return Answer{}, &Failure{Code: events.CodeSourceFormat, Msg: "the answer has no data.pagetag; it must give page, limit, total and total_page"}
	}
	a := Answer{
		Rows: r.Rows, RowCount: r.RowCount, Header: r.FirstRow,
		Page: int64(at.Page), Limit: int(min(r.Limit, 1<<30)), Total: -1, Pages: r.TotalPage,
	}
	if r.HasPage {
		a.Page = r.Page
	}
	if r.Total > 0 || r.HasTotal && at.Page == 1 && r.RowCount <= 1 {
		a.Total = r.Total
	}
	if r.HasTotal && r.Total == 0 && r.TotalPage == 1 && r.RowCount > 1 {
		a.Pages = 0 // a page without rows counts as one page
	}
	return a, nil
}

// misshapen is the failure of a response whose JSON is refused.
func misshapen(err error) *Failure {
	f := &Failure{Code: events.CodeSourceFormat, Msg: err.Error(), Err: err}
	if e := (*rows.SyntaxError)(nil); errors.As(err, &e) {
		f.Hint = e.Hint
	}
	switch {
	case errors.Is(err, rows.ErrTooManyRows):
		f.Code = events.CodeLimitRows
	case errors.Is(err, rows.ErrTooManyFields):
		f.Code = events.CodeLimitColumns
		f.Msg += " (--max-columns)"
	case errors.Is(err, rows.ErrRowTooLong):
		f.Code = events.CodeLimitBytes
		f.Msg += " (--max-row-bytes)"
	case errors.Is(err, rows.ErrTooManyBytes):
		f.Code = events.CodeLimitBytes
		f.Msg += " (--max-page-bytes)"
	case errors.Is(err, rows.ErrTooDeep):
		f.Msg += " (--max-json-depth)"
	}
	return f
}

// setParam writes param where the requests expect it.
func (s *standard) setParam(param json.RawMessage, secret []string) error {
	param = bytes.TrimSpace(param)
	if len(param) == 0 || string(param) == "null" {
		param = []byte("{}")
	}
	row := slices.Concat([]byte{'['}, param, []byte{']'})
	if n, err := rows.Check(row, rows.Limits{}); err != nil || n != 1 || param[0] != '{' {
		return errors.New("source param must be a JSON object")
	}
	given := map[string]bool{"page": true, "limit": true}
	var query []string
	body := []byte{'{'}
	c := rows.NewCursor(row)
	c.NextRow()
	for {
		raw, _, v, ok := c.NextField()
		if !ok {
			break
		}
		name := string(rows.Unquote(nil, raw))
		if name == "page" || name == "limit" {
			continue
		}
		if slices.Contains(secret, name) {
			s.secrets.add(queryText(v))
			s.secrets.add(url.QueryEscape(queryText(v))) // as a source may repeat it from the query
			s.secrets.addJSON(v.Raw)
		}
		body = append(append(append(body, '"'), raw...), '"', ':')
		body = append(append(body, v.Raw...), ',')
		if given[name] { // the last one counts
			prefix := url.QueryEscape(name) + "="
			query = slices.DeleteFunc(query, func(q string) bool { return strings.HasPrefix(q, prefix) })
		}
		if v.Kind != rows.Null {
			given[name] = true
			query = append(query, url.QueryEscape(name)+"="+url.QueryEscape(queryText(v)))
		}
	}
	if s.method == http.MethodPost {
		s.body = body
		return nil
	}
	var own []string
	for part := range strings.SplitSeq(s.url.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); part != "" && (err != nil || !given[decoded]) {
			own = append(own, part)
		}
	}
	s.query = strings.Join(append(own, query...), "&")
	return nil
}

// queryText writes a checked value for a query.
func queryText(v rows.Value) string {
	switch v.Kind {
	case rows.String:
		return string(rows.Unquote(nil, v.Raw))
	case rows.Object, rows.Array:
		var b bytes.Buffer
		_ = json.Compact(&b, v.Raw) // the value was checked
		return b.String()
	}
	return string(v.Raw)
}
