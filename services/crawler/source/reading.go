package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"sheaf/events"
	"sheaf/events/rows"
)

// maxToken bounds the token of a page: it is stored, sealed, in the header of a message.
const maxToken = 16 << 10

// errThrottled marks the failure of a response that means what 429 does.
var errThrottled = errors.New("the source limits its requests")

// Parse reads a response. Its failures, in this order: no JSON, a failure that the source reports, no rows, a
// value of another kind.
func (d *declared) Parse(body []byte, header http.Header, at Position) (Answer, error) {
	var a Answer
	found, err := d.read(&a, body, header)
	if err != nil {
		return Answer{}, d.unreadable(err)
	}
	if f := d.reported(found, header); f != nil {
		if v := d.failed; v.in == inBody && v.raw(found, header) == nil && f.Hint == "" {
			f.Hint = keysBefore("the answer", body, v.path)
		}
		return Answer{}, f
	}
	if e := found.RowsErr; e != nil {
		return Answer{}, &Failure{Code: events.CodeSourcePath, Msg: e.Msg, Hint: e.Hint, Err: e}
	}
	r := reading{d: d, found: found, header: header, at: at, body: body}
	if err := r.answer(&a); err != nil {
		return Answer{}, err
	}
	if err := d.shapeRows(&a, found); err != nil {
		return Answer{}, err
	}
	return a, nil
}

// empty is the answer of a response without content.
func (d *declared) empty(header http.Header, at Position) (Answer, error) {
	r := reading{d: d, header: header, at: at, none: true}
	a := Answer{Rows: []byte("[]")}
	err := r.answer(&a)
	return a, err
}

// read finds the rows and the values of a response. It notes in a how many bytes it copied, and whether they
// are from the pool.
func (d *declared) read(a *Answer, body []byte, header http.Header) (found rows.Found, err error) {
	switch d.format {
	case "":
		if found, err = d.scan.Scan(body, d.limits); err == nil && d.gathers {
			a.copied = int64(len(found.Rows))
		}
		return found, err
	case events.FormatNDJSON:
		found.Rows, found.RowCount, err = rows.FromNDJSON(pooled(), body, d.limits)
	default:
		charset := d.charset
		if charset == "" {
			_, params, _ := mime.ParseMediaType(header.Get("Content-Type"))
			charset = params["charset"]
		}
		if body, err = rows.Decode(body, charset); err != nil {
			return rows.Found{}, err
		}
		delimiter := map[string]rune{events.FormatCSV: ',', events.FormatTSV: '\t'}[d.format]
		found.Rows, found.Names, found.RowCount, err = rows.FromCSV(pooled(), body, delimiter, d.limits)
	}
	if err != nil {
		return rows.Found{}, err
	}
	a.copied, a.pooled = int64(len(found.Rows)), true
	converted, names := found.Rows, found.Names
	found, err = wholeArray.Scan(converted, d.limits)
	if names != nil {
		found.Names = names
	}
	return found, err
}

// wholeArray finds the first and the last row of an array, and the names of all.
var wholeArray = rows.NewQuery(rows.Path{}, nil)

// pooled returns an empty buffer from the pool.
func pooled() []byte { return (*buffers.Get().(*[]byte))[:0] }

// unreadable is the failure of a response that is not in its format.
func (d *declared) unreadable(err error) *Failure {
	f := misshapen(err)
	f.Msg = cutText(f.Msg, maxMessage)
	return f
}

// shapeRows sets the rows of an answer.
func (d *declared) shapeRows(a *Answer, found rows.Found) error {
	a.Rows, a.RowCount = found.Rows, found.RowCount
	first, names := found.First, found.Names
	if d.flatten > 0 && a.RowCount > 0 {
		flat, err := rows.Flatten(pooled(), found.Rows, d.flatten, d.limits)
		if err != nil {
			return d.unreadable(err)
		}
		if a.pooled {
			recycle(found.Rows)
		}
		a.Rows, a.copied, a.pooled = flat, a.copied+int64(len(flat)), true
		of, err := wholeArray.Scan(flat, d.limits)
		if err != nil {
			return d.unreadable(err)
		}
		first, names = of.First, of.Names
	}
	if d.titled {
		a.Header = first
		return nil
	}
	a.Names = names
	return nil
}

// reported returns the failure that the source reports in a response, nil if it reports none.
func (d *declared) reported(found rows.Found, header http.Header) *Failure {
	if !d.failed.given() {
		return nil
	}
	raw := d.failed.raw(found, header)
	if d.succeeded(raw) {
		return nil
	}
	f := &Failure{Code: events.CodeSourceErrcode, Msg: cutText(textOf(d.message.raw(found, header)), maxMessage)}
	switch kind := kindOf(raw); {
	case raw == nil:
		f.Msg = cmp.Or(f.Msg, fmt.Sprintf("source_http.error.path %q finds nothing", d.failed.text))
	case kind == rows.Object || kind == rows.Array || kind == rows.Null:
		f.Msg = cmp.Or(f.Msg, fmt.Sprintf("source_http.error.path %q is %s, which means a failure", d.failed.text, kind))
	default:
		f.Errcode = cutText(string(raw), maxErrcode)
	}
	if slices.ContainsFunc(d.failure.Retry, func(v json.RawMessage) bool { return sameValue(v, raw) }) {
		f.Err = errThrottled
	}
	return f
}

// Limits of what a failure quotes, in characters.
const (
	maxMessage = 500
	maxErrcode = 128
)

// succeeded judges the value at error.path.
func (d *declared) succeeded(raw []byte) bool {
	if len(d.failure.OK) > 0 {
		return slices.ContainsFunc(d.failure.OK, func(ok json.RawMessage) bool { return sameValue(ok, raw) })
	}
	switch kindOf(raw) {
	case rows.Null, rows.False:
		return true
	case rows.True:
		return false
	case rows.Object, rows.Array:
		return len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
	}
	text := plainText(raw)
	n, err := strconv.ParseFloat(text, 64)
	return text == "" || err == nil && n == 0
}

// sameValue compares JSON values. A number and a string of the same text are equal.
func sameValue(a, b []byte) bool {
	if a == nil || b == nil {
		return false
	}
	scalar := func(k rows.Kind) bool { return k == rows.Number || k == rows.String }
	ka, kb := kindOf(a), kindOf(b)
	return (ka == kb || scalar(ka) && scalar(kb)) && plainText(a) == plainText(b)
}

// retries reports whether a status is retried as 429 is. A nil shape knows no further ones.
func (d *declared) retries(status int) bool {
	return d != nil && slices.Contains(d.failure.RetryStatus, status)
}

// kindOf returns the kind of a checked JSON value, Null for none.
func kindOf(raw []byte) rows.Kind {
	v, _ := rows.Lookup(raw, rows.Path{})
	return v.Kind
}

// textOf returns the text of a scalar, "" for anything else.
func textOf(raw []byte) string {
	switch kindOf(raw) {
	case rows.Null, rows.Object, rows.Array:
		return ""
	}
	return plainText(raw)
}

// cutText returns the beginning of a text, of at most n characters.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// raw returns the JSON at a place, nil if there is none. A header is a string.
func (v value) raw(found rows.Found, header http.Header) []byte {
	switch {
	case !v.given():
	case v.in == inHeader:
		fields := header.Values(v.name)
		if len(fields) == 0 {
			return nil
		}
		raw, err := json.Marshal(strings.TrimSpace(fields[0]))
		if err == nil {
			return raw
		}
	case v.in == inRow:
		if last, ok := rows.Lookup(found.Last, v.path); ok {
			return last.Raw
		}
	case v.at < len(found.Values):
		return found.Values[v.at]
	}
	return nil
}

// reading is one response while its values are judged.
type reading struct {
	d      *declared
	found  rows.Found
	header http.Header
	body   []byte
	at     Position
	none   bool // the response has no content, so only its header is read
}

// answer sets all of a but its rows.
func (r *reading) answer(a *Answer) (err error) {
	d := r.d
	a.Page = int64(r.at.Page)
	if a.Total, err = r.number(d.total); err != nil {
		return err
	}
	if a.Pages, err = r.number(d.pages); err != nil {
		return err
	}
	a.Pages = max(a.Pages, 0)
	more, said, err := r.moreFollows()
	if err != nil {
		return err
	}
	a.Last = d.paging.Type == events.PagingNone || said && !more
	switch {
	case d.paging.Type == events.PagingNone && more:
		return r.paging("source_http.%s %q says that more rows follow, but paging.type none reads one page", d.more.field, d.more.text)
	case !d.chained() || a.Last:
		return nil
	}
	if err := r.chain(a, said || a.Total >= 0 && !d.paging.Estimate); err != nil {
		return err
	}
	if a.Last = a.Next == ""; a.Last && more {
		return r.paging("source_http.%s %q says that more rows follow, but the answer names no next page", d.more.field, d.more.text)
	}
	return nil
}

func (r *reading) paging(format string, args ...any) error {
	return &Failure{Code: events.CodeSourcePaging, Msg: fmt.Sprintf(format, args...)}
}

// nothing is the failure of a place that must have a value on page 1.
func (r *reading) nothing(v value) error {
	f := &Failure{Code: events.CodeSourcePath, Msg: fmt.Sprintf("source_http.%s %q finds nothing", v.field, v.text)}
	switch v.in {
	case inBody:
		f.Hint = keysBefore("the answer", r.body, v.path)
	case inRow:
		f.Hint = keysBefore("the last row", r.found.Last, v.path)
	}
	return f
}

func (r *reading) wrongKind(v value, raw []byte, want string) error {
	what := kindOf(raw).String()
	switch {
	case kindOf(raw) == rows.String && plainText(raw) == "":
		what = "an empty text"
	case kindOf(raw) == rows.String:
		what = "a text that is none"
	}
	return &Failure{Code: events.CodeSourcePath, Msg: fmt.Sprintf("source_http.%s %q must be %s, but is %s", v.field, v.text, want, what)}
}

// number reads a total: -1 if it is not said. Only page 1 must have it.
func (r *reading) number(v value) (int64, error) {
	raw := r.raw(v)
	if v.in == inHeader && strings.EqualFold(v.name, "Content-Range") && raw != nil {
		raw = rangeTotal(plainText(raw))
	}
	n, ok := wholeNumber(raw)
	switch {
	case ok || r.at.Page > 1 || r.none || !v.given():
		return n, nil
	case raw == nil:
		return -1, r.nothing(v)
	}
	return -1, r.wrongKind(v, raw, "a whole number")
}

func (r *reading) raw(v value) []byte { return v.raw(r.found, r.header) }

// rangeTotal returns the total of a Content-Range (RFC 9110, 14.4) as JSON, null if it is unknown.
func rangeTotal(field string) []byte {
	i := strings.LastIndexByte(field, '/')
	total := strings.TrimSpace(field[i+1:])
	if i < 0 || total == "" || strings.Trim(total, "0123456789") != "" {
		return []byte("null")
	}
	return []byte(strings.TrimLeft(total[:len(total)-1], "0") + total[len(total)-1:])
}

// wholeNumber reads a number, or a string that holds one. It is -1 if it is unknown: null, "" or negative. ok
// is false for any other value.
func wholeNumber(raw []byte) (n int64, ok bool) {
	switch kindOf(raw) {
	case rows.Null:
		return -1, raw != nil
	case rows.Number, rows.String:
	default:
		return -1, false
	}
	text := strings.TrimSpace(plainText(raw))
	if text == "" {
		return -1, true
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return max(n, -1), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || f >= 1<<53 || strings.ContainsAny(text, "xXpP_") {
		return -1, false
	}
	return int64(max(f, -1)), true
}

// moreFollows reads paging.more. said is false if the response does not say it.
func (r *reading) moreFollows() (more, said bool, err error) {
	v := r.d.more
	if !v.given() {
		return false, false, nil
	}
	raw := r.raw(v)
	switch kind := kindOf(raw); {
	case raw == nil && r.at.Page == 1 && !r.none:
		return false, false, r.nothing(v)
	case kind == rows.Null:
		return false, false, nil
	case kind == rows.True || kind == rows.False:
		more = kind == rows.True
	default:
		switch strings.ToLower(textOf(raw)) {
		case "true", "1":
			more = true
		case "false", "0":
		default:
			return false, false, r.wrongKind(v, raw, "true or false")
		}
	}
	return more != r.d.moreNegated, true, nil
}

// chain reads the token of the next page. proven means that something else says whether the list is complete.
func (r *reading) chain(a *Answer, proven bool) error {
	d := r.d
	if d.paging.Type == events.PagingLink {
		target, malformed := nextLink(r.header.Values("Link"), cmp.Or(d.paging.Rel, "next"))
		if malformed {
			return r.paging("the Link header cannot be read")
		}
		return r.follow(a, target)
	}
	raw := r.raw(d.next)
	unnamed := !proven && r.found.RowCount > 0 // nothing says that the list ends here
	if raw == nil {
		if unnamed && (d.next.in == inRow || r.at.Page == 1 && r.mistyped()) {
			return r.nothing(d.next)
		}
		return nil
	}
	switch kind := kindOf(raw); {
	case kind == rows.Null, kind == rows.False, kind == rows.String && plainText(raw) == "":
		if unnamed && d.next.in == inRow { // a row without a value is no end of a list
			return r.wrongKind(d.next, raw, "a text or a number")
		}
		return nil
	case d.paging.Type == events.PagingNextURL && kind == rows.String:
		return r.follow(a, plainText(raw))
	case d.paging.Type == events.PagingNextURL:
		return r.paging("source_http.%s %q must be an address, but is %s", d.next.field, d.next.text, kind)
	case kind != rows.String && kind != rows.Number:
		return r.paging("source_http.%s %q must be a text or a number, but is %s", d.next.field, d.next.text, kind)
	case len(raw) > maxToken:
		return r.paging("source_http.%s %q has %d bytes, at most %d are allowed", d.next.field, d.next.text, len(raw), maxToken)
	}
	a.Next = string(raw)
	return nil
}

// mistyped reports whether the place of the next page, which finds nothing on page 1, is probably wrong. Sources
// leave the member out on their last page. They hardly do after a full page, and they rarely leave out the
// object around it.
func (r *reading) mistyped() bool {
	d := r.d
	switch {
	case d.limit > 0 && d.size.given():
		return r.found.RowCount >= d.limit
	case d.next.in != inBody:
		return false
	}
	steps := d.next.path.Steps()
	around, rest := descend(r.body, steps)
	return len(rest) > 1 && len(around) > 0
}

// follow resolves the address of the next page against that of this one (RFC 3986, 5) and checks its host.
func (r *reading) follow(a *Answer, address string) error {
	if address = strings.TrimSpace(address); address == "" {
		return nil
	}
	d := r.d
	base, err := d.target(r.at)
	if err != nil {
		return err
	}
	u, err := base.Parse(address)
	if err != nil {
		return r.paging("the address of the next page cannot be read")
	}
	own := sameHost(u.Hostname(), d.url.Hostname())
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return r.paging("the address of the next page is not one of http or https")
	case !own && !slices.ContainsFunc(d.paging.Hosts, func(host string) bool { return sameHost(host, u.Hostname()) }):
		return r.paging("the address of the next page names the host %.100q; add it to source_http.paging.hosts if it may get the header and auth", u.Hostname())
	case !own && d.url.Scheme == "https" && u.Scheme == "http":
		return r.paging("the address of the next page on the host %.100q is http, but that of the source is https", u.Hostname())
	case own && (u.Scheme != d.url.Scheme || portOf(u) != portOf(&d.url)) && !(u.Scheme == "https" && d.url.Scheme == "http"):
		u.Scheme, u.Host = d.url.Scheme, d.url.Host
		a.Rewritten = true
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if a.Next = u.String(); len(a.Next) > maxToken {
		return r.paging("the address of the next page has %d bytes, at most %d are allowed", len(a.Next), maxToken)
	}
	return nil
}

// sameHost reports whether two names of hosts are equal, in Unicode or as Punycode.
func sameHost(a, b string) bool { return strings.EqualFold(asciiHost(a), asciiHost(b)) }

func asciiHost(name string) string {
	if ascii, err := idna.ToASCII(name); err == nil {
		return ascii
	}
	return name
}

// descend follows steps in a checked JSON value as far as they find something.
func descend(raw []byte, steps []rows.Step) (at []byte, rest []rows.Step) {
	for len(steps) > 0 {
		v, ok := rows.Lookup(raw, rows.NewPath(steps[0]))
		if !ok {
			break
		}
		raw, steps = v.Raw, steps[1:]
	}
	return raw, steps
}

// keysBefore describes the keys at the place where a path ends. at is the name of the body.
func keysBefore(at string, body []byte, path rows.Path) string {
	steps := path.Steps()
	body, rest := descend(body, steps)
	if n := len(steps) - len(rest); n > 0 {
		at = strconv.Quote(steps[n-1].Name)
	}
	v, _ := rows.Lookup(body, rows.Path{})
	if v.Kind != rows.Object {
		return fmt.Sprintf("%s is %s", at, v.Kind)
	}
	var names []string
	more := 0
	eachMember(v.Raw, func(name string, _ rows.Value) {
		quoted := strconv.Quote(name)
		switch {
		case len(names) == 8:
			more++
		case len(quoted) != len(name)+2 || utf8.RuneCountInString(name) > 40:
			names = append(names, `"…"`) // only names that redaction would find are shown
		default:
			names = append(names, quoted)
		}
	})
	switch {
	case len(names) == 0:
		return at + " has no keys"
	case more > 0:
		return fmt.Sprintf("%s has the keys %s and %d more", at, strings.Join(names, ", "), more)
	}
	return fmt.Sprintf("%s has the keys %s", at, strings.Join(names, ", "))
}
