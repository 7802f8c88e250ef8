package rows

import (
	"math"
	"unicode/utf8"
)

// Response holds the fields of a source's response. Rows and FirstRow alias the scanned body; all else is
// copied.
type Response struct {
	// Errcode is the raw JSON of errcode, at most 128 bytes of it, cut between characters. Empty if absent.
	Errcode string
	// Msg is msg, decoded and cut at 500 characters. A number or boolean appears as its JSON text; null, an
	// object or an array as "".
	Msg string
	// Rows is the JSON array data.data as sent, [] for null. It is nil if the response is not OK and has no
	// such array.
	Rows []byte
	// RowCount is the number of rows, header row included.
	RowCount int
	// FirstRow is the first object of Rows, nil if Rows is empty.
	FirstRow []byte

	// HasPagetag reports that data.pagetag is an object. Each number in it may be a JSON number or a string
	// that holds one. Limit, Total and TotalPage are 0 if the value is not a count: a negative or fractional
	// number, any other string, a boolean, an array or an object.
	HasPagetag                                bool
	Page, Limit, Total, TotalPage             int64
	HasPage, HasLimit, HasTotal, HasTotalPage bool
}

// OK reports whether the source signals success: errcode is absent, null, a number equal to zero, or "0".
func (r Response) OK() bool {
	switch r.Errcode {
	case "", "null", "0", `"0"`:
		return true
	}
	if kindOf(r.Errcode[0]) != Number || len(r.Errcode) == maxErrcodeBytes {
		return false // a number this long may have been cut
	}
	d, ok := parseDecimal([]byte(r.Errcode))
	return ok && d.digits == ""
}

const (
	maxErrcodeBytes = 128
	maxMsgRunes     = 500
)

// ScanResponse checks a whole response in one pass and finds its fields, in any order:
//
//	{"errcode": 0, "msg": "", "data": {"data": [...], "pagetag": {...}}}
//
// The body must be one JSON object in valid UTF-8, surrounded by white space only. A byte order mark before
// it is ignored (RFC 8259, section 8.1). Names are matched exactly. If a name occurs twice, the last one
// counts, and a second data replaces all of the first.
//
// If [Response.OK] is false, data may be absent or of any form, but must be JSON; parts in the expected form
// are still returned. If OK is true, data and data.data must be present and in the expected form; a null
// data.data is an empty array. A missing pagetag is not an error. A page that is not a whole number is, and
// so is a total or total_page too large for an int64.
//
// Every error is a [*SyntaxError], returned with an empty Response.
func ScanResponse(body []byte, lim Limits) (Response, error) {
	s := scanner{b: body, lim: lim.withDefaults()}
	i, err := begin(body)
	if err != nil {
		err.Hint = reads
		return Response{}, err
	}
	var a answer
	start := i
	if body[i] == '{' {
		i = s.members(i, func(name []byte, at int) int { return a.member(&s, name, at) })
	} else {
		if i = s.value(i, 0); i >= 0 {
			s.misshapen(start, 0, "the body is %s, not an object", kindOf(body[start]))
		}
	}
	whole := i >= 0
	if whole {
		s.end(i)
	}
	switch {
	case s.err != nil && whole && body[start] == '{' && body[s.err.Offset] == '{':
		s.err.Hint = "the body is a sequence of JSON objects (NDJSON); " + reads
		return Response{}, s.err
	case s.err != nil && s.err.Offset == start && !s.err.Truncated: // not JSON at all
		s.err.Hint = reads
		return Response{}, s.err
	case s.err != nil:
		return Response{}, s.err
	case s.shape != nil:
		s.shape.Hint = reads
		return Response{}, s.shape
	}
	r := a.response()
	if !r.OK() {
		return r, nil
	}
	if err := a.misshapen(len(body)); err != nil {
		switch {
		case !a.data.has:
			err.Hint = "the answer has " + keysOf(body, start) + "; " + reads
		case err.Row == 0 && !a.data.value.rows.has:
			err.Hint = "data has " + keysOf(body, a.dataAt) + "; " + reads
		}
		return Response{}, err
	}
	return r, nil
}

// answer gathers the members of a body during the scan. Each member keeps its own error about a wrong form,
// so that a later member of the same name replaces that too.
type answer struct {
	errcode, msg []byte
	data         member[data]
	dataAt       int // where data begins in the body
}

type member[T any] struct {
	has   bool
	value T
	shape *SyntaxError
}

type data struct {
	rows    member[rowArray]
	pagetag member[pagetag]
}

type pagetag struct {
	page, limit, total, totalPage member[int64]
}

// found stores the member that the scanner has just read.
func (m *member[T]) found(s *scanner, v T) {
	*m = member[T]{has: s.shape == nil, value: v, shape: s.shape}
	s.shape = nil
}

func (a *answer) member(s *scanner, name []byte, i int) int {
	start := i
	switch string(name) {
	case "errcode":
		if i = s.value(i, 1); i >= 0 {
			a.errcode = s.b[start:i]
		}
	case "msg":
		if i = s.value(i, 1); i >= 0 {
			a.msg = s.b[start:i]
		}
	case "data":
		var d data
		if s.b[i] == '{' {
			i = s.members(i, func(name []byte, at int) int { return d.member(s, name, at) })
		} else if i = s.value(i, 1); i >= 0 {
			s.misshapen(start, 0, "data is %s, not an object", kindOf(s.b[start]))
		}
		a.data.found(s, d)
		a.dataAt = start
	default:
		i = s.value(i, 1)
	}
	return i
}

func (d *data) member(s *scanner, name []byte, i int) int {
	start := i
	switch string(name) {
	case "data":
		var r rowArray
		if s.b[i] == '[' {
			r, i = s.rows(i)
		} else if i = s.value(i, 2); i >= 0 && s.b[start] != 'n' {
			s.misshapen(start, 0, "data.data is %s, not an array of rows", kindOf(s.b[start]))
		}
		switch {
		case i < 0:
		case s.b[start] == 'n':
			r.array = []byte("[]") // Go programs encode an empty list as null
		default:
			r.array = s.b[start:i:i]
		}
		d.rows.found(s, r)
	case "pagetag":
		var p pagetag
		if s.b[i] == '{' {
			i = s.members(i, func(name []byte, at int) int { return p.member(s, name, at) })
		} else if i = s.value(i, 2); i >= 0 && s.b[start] == 'n' {
			d.pagetag = member[pagetag]{}
			return i
		} else if i >= 0 {
			s.misshapen(start, 0, "data.pagetag is %s, not an object", kindOf(s.b[start]))
		}
		d.pagetag.found(s, p)
	default:
		i = s.value(i, 2)
	}
	return i
}

func (p *pagetag) member(s *scanner, name []byte, i int) int {
	start := i
	if i = s.value(i, 3); i < 0 {
		return i
	}
	var m *member[int64]
	switch string(name) {
	case "page":
		m = &p.page
	case "limit":
		m = &p.limit
	case "total":
		m = &p.total
	case "total_page":
		m = &p.totalPage
	default:
		return i
	}
	raw := s.b[start:i]
	if raw[0] == 'n' || m == &p.page && string(raw) == `""` {
		*m = member[int64]{}
		return i
	}
	n, wrong := wholeNumber(raw)
	if wrong != "" && (m == &p.page || wrong == tooLarge && m != &p.limit) {
		s.misshapen(start, 0, "data.pagetag.%s is %s; it must be a whole number from 0 on", name, wrong)
	}
	m.found(s, n)
	return i
}

// misshapen returns the part that a successful response lacks. end is the body's length.
func (a *answer) misshapen(end int) *SyntaxError {
	d := &a.data.value
	p := &d.pagetag.value
	for _, e := range []*SyntaxError{
		a.data.shape, d.rows.shape, d.pagetag.shape,
		p.page.shape, p.limit.shape, p.total.shape, p.totalPage.shape,
	} {
		if e != nil {
			return e
		}
	}
	switch {
	case !a.data.has:
		return &SyntaxError{Offset: end, Msg: "data is missing"}
	case !d.rows.has:
		return &SyntaxError{Offset: end, Msg: "data.data is missing"}
	}
	return nil
}

func (a *answer) response() Response {
	d := &a.data.value
	p := &d.pagetag.value
	r := Response{
		Errcode:    cutErrcode(a.errcode),
		HasPagetag: d.pagetag.has,
		Page:       p.page.value, HasPage: p.page.has,
		Limit: p.limit.value, HasLimit: p.limit.has,
		Total: p.total.value, HasTotal: p.total.has,
		TotalPage: p.totalPage.value, HasTotalPage: p.totalPage.has,
	}
	if d.rows.has {
		r.Rows, r.RowCount, r.FirstRow = d.rows.value.array, d.rows.value.count, d.rows.value.first
	}
	if len(a.msg) > 0 {
		switch kindOf(a.msg[0]) {
		case String:
			r.Msg = cut(Unquote(nil, a.msg))
		case Number, True, False:
			r.Msg = cut(a.msg)
		}
	}
	return r
}

func cutErrcode(b []byte) string {
	if len(b) <= maxErrcodeBytes {
		return string(b)
	}
	end := maxErrcodeBytes
	for !utf8.RuneStart(b[end]) {
		end--
	}
	return string(b[:end])
}

// cut returns the first maxMsgRunes characters of valid UTF-8.
func cut(b []byte) string {
	end := 0
	for range maxMsgRunes {
		if end == len(b) {
			break
		}
		_, n := utf8.DecodeRune(b[end:])
		end += n
	}
	return string(b[:end])
}

const tooLarge = "too large"

// wholeNumber reads a checked JSON number, or a string that holds one. If it is neither, wrong describes the
// value.
func wholeNumber(raw []byte) (n int64, wrong string) {
	text := raw
	switch k := kindOf(raw[0]); k {
	case Number:
	case String:
		text = Unquote(nil, raw)
		s := scanner{b: text, lim: Limits{}.withDefaults()}
		if len(text) == 0 || kindOf(text[0]) != Number || s.value(0, 0) != len(text) {
			return 0, "a string without a number"
		}
	default:
		return 0, k.String()
	}
	d, ok := parseDecimal(text)
	switch {
	case !ok:
		return 0, tooLarge
	case d.digits == "":
		return 0, ""
	case d.negative:
		return 0, "negative"
	case d.exponent < 0:
		return 0, "fractional"
	case len(d.digits)+d.exponent > 19:
		return 0, tooLarge
	}
	for k := range len(d.digits) + d.exponent {
		digit := int64(0)
		if k < len(d.digits) {
			digit = int64(d.digits[k] - '0')
		}
		if n > (math.MaxInt64-digit)/10 {
			return 0, tooLarge
		}
		n = n*10 + digit
	}
	return n, ""
}
