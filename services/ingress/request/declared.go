package request

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/secrets"
	"sheaf/events/similar"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/idna"
)

// Bounds of the fields that describe the form of a source.
const (
	maxMaxWait     = 3600      // seconds
	maxStart       = 1<<53 - 1 // the largest integer that every JSON reader keeps
	maxCursorStart = 4096      // bytes
	maxHosts       = 16        // of next URLs
	maxValues      = 64        // in error.ok, error.retry and error.retry_status
	maxValue       = 256       // bytes of one
	maxRel         = 128       // characters
	maxFlatten     = 5         // levels
	pagingField    = "source_http.paging"
	errorField     = "source_http.error"
	authField      = "source_http.auth"
)

// newFields are the fields of source_http that a request in the standard format has not.
var newFields = []string{
	"preset", "body", "body_type", "format", "rows", "header_row", "auth", "paging", "error", "max_wait",
}

// shapeFields are those of newFields that a request in the standard format cannot have at all.
var shapeFields = []string{"body", "body_type", "format", "rows", "header_row", "paging", "error"}

// fieldError returns an error of a field as one clause, such as "rows is required". The format omits the
// field's name.
func fieldError(field, format string, args ...any) *Error {
	return &Error{Field: field, Msg: field + " " + fmt.Sprintf(format, args...)}
}

// notKnown returns the error of a wrong name in a field: it proposes a similar name, or all.
func notKnown(field, wrong string, known []string) *Error {
	if near := similar.Name(wrong, slices.Values(known)); len(near) > 2 { // shorter ones are all similar
		return Invalid(field, "%q is not known; %s?", Cut(wrong, 64), shownName(near))
	}
	shown := make([]string, len(known))
	for i, name := range known {
		shown[i] = shownName(name)
	}
	return Invalid(field, "%q is not known; known: %s", Cut(wrong, 64), strings.Join(shown, ", "))
}

// shownName returns a name as an error shows it: quoted if it has other characters than those of words.
func shownName(name string) string {
	if name == "" || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '-' && c != '_' }) {
		return strconv.Quote(name)
	}
	return name
}

// unknownMember returns the error of a member that an object does not have: it lists those that it has, and
// proposes a similar one. prefix is the object's field with a dot, "" for the body.
func unknownMember(prefix, name string, known []string) *Error {
	near := similar.Name(name, slices.Values(known))
	if near != "" {
		near = "; did you mean " + near + "?"
	}
	return fieldError(prefix+Cut(name, maxWarningField), "is not known; known: %s%s", strings.Join(known, ", "), near)
}

// fields are the members of an object, by name. Members that are null are absent.
type fields map[string]jsontext.Value

// knownFields returns the members of the object in a field. It refuses unknown ones. nulls are the names of
// the members that are null.
func knownFields(field string, object jsontext.Value, known []string) (given fields, nulls []string, err error) {
	members, err := objectMembers(field, object)
	if err != nil {
		return nil, nil, err
	}
	given = fields{}
	for _, m := range members {
		switch {
		case !slices.Contains(known, m.name):
			return nil, nil, unknownMember(field+".", m.name, known)
		case m.value.Kind() == 'n':
			nulls = append(nulls, m.name)
		default:
			given[m.name] = m.value
		}
	}
	return given, nulls, nil
}

// declared is a request whose fields describe the form of the source.
type declared struct {
	req    *events.HTTPRequest
	header secrets.Values
	given  fields   // of source_http, with those of the preset
	nulls  []string // names of paging that the caller set to null
	preset fields   // of paging, as far as they are the preset's
	places []string // where the crawler writes
	name   string   // of the preset

	standard bool // no field changes the standard format
}

// declare checks the new fields of source_http, and completes the request. header receives the headers of a
// preset.
func declare(req *events.HTTPRequest, header secrets.Values, given fields, method bool) error {
	d := &declared{req: req, header: header, given: given, preset: fields{}}
	if err := d.expand(method); err != nil {
		return err
	}
	for _, step := range []func() error{d.readBody, d.readRows, d.readPaging, d.readError, d.readAuth, d.readMaxWait, d.checkSecrets} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkSecrets checks that the secrets are secrets: no parameter that the crawler sets, and not the text that
// stands for a secret.
func (d *declared) checkSecrets() error {
	crawlers := standardParams
	if d.req.Paging != nil {
		crawlers = nil
		for _, place := range d.places {
			crawlers = append(crawlers, d.parameter(place))
		}
	}
	if err := notSecret(d.req.SecretParam, crawlers); err != nil {
		return err
	}
	for name, value := range d.header {
		if value == hidden {
			return hiddenError(fmt.Sprintf("source_http.header[%q]", Cut(name, 64)))
		}
	}
	for _, name := range d.req.SecretParam {
		if v := memberOf(d.req.Param, name); v != nil && v.Kind() == '"' {
			if value, err := text(member{value: v}, maxHeaderBytes); err == nil && value == hidden {
				return hiddenError("source_http.param." + Cut(name, maxWarningField))
			}
		}
	}
	return nil
}

// expand adds the fields of the preset. The caller's fields replace those of the preset, in paging and error
// member by member. Without a preset and without a form of pages, it is that of the standard format.
func (d *declared) expand(method bool) error {
	if v := d.given["preset"]; v != nil {
		name, err := text(member{name: "source_http.preset", value: v}, maxTitle)
		if err != nil {
			return err
		}
		d.name, d.req.Preset = name, name
	}
	name := d.name
	formed := slices.ContainsFunc(shapeFields, func(field string) bool {
		value, given := d.given[field]
		return value != nil || given && name != "" // null removes a field of the preset
	})
	switch {
	case name == "" && d.given["paging"] != nil:
		return d.merge(fields{})
	case name == "":
		for _, field := range []string{"rows", "format", "header_row"} {
			if d.given[field] != nil {
				return fieldError(pagingField, "is required with source_http.%s; or give a preset", field)
			}
		}
		name = PresetStandard
	}
	p, ok := preset(name)
	if !ok {
		known := make([]string, len(presets))
		for i := range presets {
			known[i] = presets[i].Name
		}
		return notKnown("source_http.preset", name, known)
	}
	if name == PresetStandard && !formed {
		d.standard = true
		return nil
	}
	members, err := objectMembers("preset", jsontext.Value(p.Source))
	if err != nil {
		return err
	}
	of := fields{}
	for _, m := range members {
		of[m.name] = m.value
	}
	if m := of["method"]; m != nil && !method {
		d.req.Method = strings.Trim(string(m), `"`)
	}
	if h := of["header"]; h != nil {
		if err := d.addHeader(h); err != nil {
			return err
		}
	}
	return d.merge(of)
}

// addHeader adds the headers of a preset that the caller did not give.
func (d *declared) addHeader(object jsontext.Value) error {
	own, err := sourceHeader(member{name: "preset", value: object})
	if err != nil {
		return err
	}
	for name, value := range own {
		given := slices.ContainsFunc(slices.Collect(maps.Keys(d.header)), func(h string) bool { return strings.EqualFold(h, name) })
		if !given {
			d.header[name] = value
		}
	}
	return nil
}

// merge adds fields of a preset to the given ones.
func (d *declared) merge(of fields) error {
	for _, name := range []string{"body", "body_type", "format", "rows", "header_row"} {
		if _, given := d.given[name]; !given && of[name] != nil {
			d.given[name] = of[name]
		}
	}
	for name, known := range map[string][]string{"paging": pagingNames(), "error": errorNames} {
		own, given := d.given[name]
		if given && own == nil { // null removes the whole
			continue
		}
		var merged fields
		var nulls []string
		var err error
		if given {
			if merged, nulls, err = knownFields("source_http."+name, own, known); err != nil {
				return err
			}
		} else {
			merged = fields{}
		}
		if of[name] != nil {
			preset, _, err := knownFields("preset", of[name], known)
			if err != nil {
				return err
			}
			for member, value := range preset {
				if merged[member] == nil && !slices.Contains(nulls, member) {
					merged[member] = value
					if name == "paging" {
						d.preset[member] = value
					}
				}
			}
		}
		if !given && of[name] == nil {
			continue
		}
		if name == "paging" {
			d.nulls = nulls
		}
		d.given[name] = merged.object()
	}
	for _, name := range presetNeeds(d.name) {
		if d.given[name] == nil && !strings.Contains(name, ".") {
			if name == "rows" {
				return fieldError("source_http.rows", "is required with preset %s; a preview finds it", d.name)
			}
			return fieldError("source_http."+name, "is required with preset %s", d.name)
		}
	}
	return nil
}

func presetNeeds(name string) []string {
	p, _ := preset(name)
	return p.Given
}

// object writes the fields as a JSON object.
func (f fields) object() jsontext.Value {
	b := []byte{'{'}
	for i, name := range slices.Sorted(maps.Keys(f)) {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, name)
		b = append(append(b, ':'), f[name]...)
	}
	return append(b, '}')
}

// field returns a field of source_http, and whether it was given.
func (d *declared) field(name string) (member, bool) {
	v := d.given[name]
	return member{name: "source_http." + name, value: v}, v != nil
}

// choice reads one of known names.
func choice(m member, known ...string) (string, error) {
	s, err := text(m, maxTitle)
	if err != nil {
		return "", err
	}
	if !slices.Contains(known, s) {
		return "", notKnown(m.name, s, known)
	}
	return s, nil
}

func boolean(m member) (bool, error) {
	switch m.value.Kind() {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	}
	return false, Invalid(m.name, "must be true or false, not %s", kindName(m.value.Kind()))
}

func (d *declared) readBody() error {
	form := false
	if m, ok := d.field("body_type"); ok {
		s, err := choice(m, "json", events.BodyForm)
		if err != nil {
			return err
		}
		form = s == events.BodyForm
	}
	m, ok := d.field("body")
	switch {
	case !ok && form:
		return fieldError("source_http.body", "is required with body_type form")
	case !ok:
		return nil
	case d.req.Method != "POST":
		return fieldError(m.name, "needs method POST")
	}
	// The crawler reads it like a value of a row.
	row := slices.Concat([]byte(`[{"body":`), m.value, []byte(`}]`))
	if _, err := rows.Check(row, rows.Limits{}); err != nil {
		return Invalid(m.name, "cannot be sent to the source: %s", Cut(err.Error(), 120))
	}
	d.req.Body = bytes.Clone(m.value)
	if !form {
		return nil
	}
	d.req.BodyType = events.BodyForm
	if m.value.Kind() != '{' {
		return Invalid(m.name, "is %s; with body_type form, it must be an object of text, numbers and booleans", valueName(m.value))
	}
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return err
	}
	for _, p := range members {
		if k := p.value.Kind(); k == '{' || k == '[' || k == 'n' {
			return Invalid(m.name+"."+Cut(p.name, 64), "is %s; with body_type form, it must be text, a number or a boolean", valueName(p.value))
		}
	}
	return nil
}

// readRows reads the format of a response, and where its rows are.
func (d *declared) readRows() (err error) {
	if m, ok := d.field("format"); ok {
		s, err := choice(m, "json", events.FormatNDJSON, events.FormatCSV, events.FormatTSV)
		if err != nil {
			return err
		}
		if s != "json" {
			d.req.Format = s
		}
	}
	if m, ok := d.field("rows"); ok {
		s, err := text(m, maxPlace)
		if err != nil {
			return err
		}
		if s == "" {
			return Invalid(m.name, "is empty; $ is the whole answer")
		}
		p, err := rows.ParseRowsPath(s)
		switch {
		case err != nil:
			return pathError(m.name, s, err)
		case p.IsRoot(): // "" in the event
		case d.req.Format != "":
			return fieldError(m.name, "has no meaning with format %s: each line is a row", d.req.Format)
		default:
			d.req.Rows = s
		}
	}
	if m, ok := d.field("header_row"); ok {
		if d.req.HeaderRow, err = boolean(m); err != nil {
			return err
		}
		if d.req.HeaderRow && (d.req.Format == events.FormatCSV || d.req.Format == events.FormatTSV) {
			return fieldError(m.name, "has no meaning with format %s: the first line is always the header", d.req.Format)
		}
	}
	return nil
}

func (d *declared) readMaxWait() error {
	m, ok := d.field("max_wait")
	if !ok {
		return nil
	}
	n, err := integer(m, 1, maxMaxWait)
	d.req.MaxWait = int(n)
	return err
}

// pagingFields are the members of paging, and the types that have them; nil: all.
var pagingFields = []struct {
	name string
	of   []string
}{
	{"type", nil},
	{"page_param", []string{events.PagingPage}},
	{"offset_param", []string{events.PagingOffset}},
	{"start", []string{events.PagingPage, events.PagingOffset}},
	{"limit_param", []string{events.PagingPage, events.PagingOffset, events.PagingCursor}},
	{"cursor_param", []string{events.PagingCursor}},
	{"cursor", []string{events.PagingCursor}},
	{"cursor_start", []string{events.PagingCursor}},
	{"next_url", []string{events.PagingNextURL}},
	{"rel", []string{events.PagingLink}},
	{"total", nil},
	{"total_pages", []string{events.PagingPage}},
	{"more", nil},
	{"end", []string{events.PagingPage, events.PagingOffset, events.PagingCursor, events.PagingNextURL, events.PagingLink}},
	{"estimate", nil},
	{"hosts", []string{events.PagingNextURL, events.PagingLink}},
	{"repeats", nil},
}

func pagingNames() []string {
	names := make([]string, len(pagingFields))
	for i, f := range pagingFields {
		names[i] = f.name
	}
	return names
}

// pagingTypes are the types of paging.
var pagingTypes = []string{
	events.PagingPage, events.PagingOffset, events.PagingCursor, events.PagingNextURL, events.PagingLink, events.PagingNone,
}

// endMarkers are the markers of the end of a list.
var endMarkers = []string{events.EndEmpty, events.EndShort, events.EndMissing, events.EndRepeat}

func (d *declared) readPaging() (err error) {
	if d.standard {
		d.req.Limit, err = standardLimit(d.req.Param)
		return err
	}
	if d.given["paging"] == nil {
		return fieldError(pagingField, "is required")
	}
	given, _, err := knownFields(pagingField, d.given["paging"], pagingNames())
	if err != nil {
		return err
	}
	p := &events.Paging{}
	d.req.Paging = p
	at := func(name string) (member, bool) {
		return member{name: pagingField + "." + name, value: given[name]}, given[name] != nil
	}
	m, ok := at("type")
	if !ok {
		return fieldError(m.name, "is required; one of %s", strings.Join(pagingTypes, ", "))
	}
	if p.Type, err = choice(m, pagingTypes...); err != nil {
		return err
	}
	for _, f := range pagingFields {
		if given[f.name] == nil || f.of == nil || slices.Contains(f.of, p.Type) {
			continue
		}
		if d.preset[f.name] == nil { // the caller gave another type than the preset's
			return fieldError(pagingField+"."+f.name, "has no meaning with type %s", p.Type)
		}
		delete(given, f.name)
	}

	// Where the crawler writes.
	written := func(name, absent string, into *string) error {
		*into = absent
		m, ok := at(name)
		if ok {
			if *into, err = d.writePlace(m); err != nil {
				return err
			}
		}
		if *into == "" {
			return nil
		}
		for _, other := range d.places {
			if d.destination(other) == d.destination(*into) {
				return Invalid(m.name, "%q is written by another field of paging already", Cut(*into, 64))
			}
		}
		d.places = append(d.places, *into)
		return nil
	}
	switch p.Type {
	case events.PagingPage:
		err = written("page_param", "page", &p.PageParam)
	case events.PagingOffset:
		err = written("offset_param", "offset", &p.OffsetParam)
	case events.PagingCursor:
		if given["cursor"] == nil {
			return fieldError(pagingField+".cursor", "is required with type %s", p.Type)
		}
		if given["cursor_param"] == nil {
			return fieldError(pagingField+".cursor_param", "is required with type %s", p.Type)
		}
		err = written("cursor_param", "", &p.CursorParam)
	case events.PagingNextURL:
		if given["next_url"] == nil {
			return fieldError(pagingField+".next_url", "is required with type %s", p.Type)
		}
	case events.PagingLink:
		p.Rel = "next"
	}
	if err != nil {
		return err
	}
	d.req.Limit = 0
	sized := p.Type == events.PagingPage || p.Type == events.PagingOffset || p.Type == events.PagingCursor
	if sized && !slices.Contains(d.nulls, "limit_param") {
		if err := written("limit_param", "limit", &p.LimitParam); err != nil {
			return err
		}
		if d.req.Limit, err = d.limit(p.LimitParam); err != nil {
			return err
		}
	}

	// What the crawler reads.
	for _, f := range []struct {
		name, what string
		into       *string
	}{
		{"cursor", "a cursor", &p.Cursor}, {"next_url", "a next URL", &p.NextURL}, {"total", "a total", &p.Total},
		{"total_pages", "a number of pages", &p.TotalPages}, {"more", "a boolean", &p.More},
	} {
		if m, ok := at(f.name); ok {
			if *f.into, err = readPlace(m, f.what, d.req.Format); err != nil {
				return err
			}
		}
	}
	return d.readPagingValues(p, at)
}

// readPagingValues reads the members of paging that are no places.
func (d *declared) readPagingValues(p *events.Paging, at func(string) (member, bool)) (err error) {
	ends := p.Type == events.PagingPage || p.Type == events.PagingOffset
	if p.Type == events.PagingPage {
		p.Start = 1
	}
	if m, ok := at("start"); ok {
		if p.Start, err = integer(m, 0, maxStart); err != nil {
			return err
		}
	}
	if m, ok := at("cursor_start"); ok {
		if k := m.value.Kind(); k != '"' && k != '0' {
			return Invalid(m.name, "must be text or a number, not %s", kindName(k))
		}
		if len(m.value) > maxCursorStart {
			return Invalid(m.name, "has %d bytes, at most %d are allowed", len(m.value), maxCursorStart)
		}
		p.CursorStart = json.RawMessage(bytes.Clone(m.value))
	}
	if m, ok := at("rel"); ok {
		if p.Rel, err = text(m, maxRel); err != nil {
			return err
		}
		if p.Rel == "" || strings.ContainsFunc(p.Rel, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) {
			return Invalid(m.name, "%q is no relation type; want one such as next", Cut(p.Rel, 64))
		}
	}
	if m, ok := at("estimate"); ok {
		if p.Estimate, err = boolean(m); err != nil {
			return err
		}
		if p.Estimate && p.Total == "" {
			return fieldError(m.name, "needs total")
		}
	}
	if m, ok := at("repeats"); ok {
		if p.Repeats, err = boolean(m); err != nil {
			return err
		}
	}
	if m, ok := at("hosts"); ok {
		if p.Hosts, err = hosts(m); err != nil {
			return err
		}
	}
	m, ok := at("end")
	switch {
	case ok:
		values, err := list(m)
		if err != nil {
			return err
		}
		for _, v := range values {
			marker, err := choice(member{name: m.name, value: v}, endMarkers...)
			if err != nil {
				return err
			}
			if !slices.Contains(p.End, marker) {
				p.End = append(p.End, marker)
			}
		}
	case ends:
		p.End = []string{events.EndEmpty}
	}
	announced := p.Total != "" && !p.Estimate || p.TotalPages != "" || p.More != ""
	if ends && len(p.End) == 0 && !announced {
		return Invalid(pagingField, "end [] and nothing announced: the list would have no end")
	}
	return nil
}

// limit returns the number of rows a page that the request has at a place, or the default.
func (d *declared) limit(place string) (int, error) {
	field, v := d.valueAt(place)
	if v == nil || v.Kind() == 'n' {
		return defaultLimit, nil
	}
	return pageSize(member{name: field, value: v})
}

// list returns the values of a short array.
func list(m member) ([]jsontext.Value, error) { return atMost(m, maxValues) }

// atMost returns the values of an array that is valid with these options.
func atMost(m member, limit int, options ...jsontext.Options) ([]jsontext.Value, error) {
	if m.value.Kind() != '[' {
		return nil, Invalid(m.name, "must be an array, not %s", kindName(m.value.Kind()))
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(m.value), options...)
	if _, err := dec.ReadToken(); err != nil {
		return nil, Invalid(m.name, "is not a valid array")
	}
	var values []jsontext.Value
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return nil, Invalid(m.name, "is not a valid array")
		}
		if len(values) == limit {
			return nil, Invalid(m.name, "has more than %d values", limit)
		}
		values = append(values, bytes.Clone(v))
	}
	return values, nil
}

// hosts reads host names, and returns them in the form of a URL that was sent: lower case, without a port.
func hosts(m member) ([]string, error) {
	values, err := list(m)
	if err != nil {
		return nil, err
	}
	if len(values) > maxHosts {
		return nil, Invalid(m.name, "has %d hosts, at most %d are allowed", len(values), maxHosts)
	}
	var names []string
	for i, v := range values {
		field := fmt.Sprintf("%s[%d]", m.name, i)
		given, err := text(member{name: field, value: v}, 255)
		if err != nil {
			return nil, err
		}
		name := strings.ToLower(strings.TrimSuffix(given, "."))
		if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && ip.Zone() == "" {
			names = append(names, ip.String())
			continue
		}
		ascii := name
		if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
			if ascii, err = idna.Lookup.ToASCII(name); err != nil {
				ascii = ""
			}
		}
		odd := strings.ContainsFunc(ascii, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
		})
		if ascii == "" || odd || strings.HasPrefix(ascii, ".") || strings.Contains(ascii, "..") {
			return nil, Invalid(field, "%q is no host name; want one such as api.example, without scheme and port", Cut(given, 64))
		}
		names = append(names, ascii)
	}
	return names, nil
}

// errorNames are the members of error.
var errorNames = []string{"path", "ok", "message", "retry", "retry_status"}

func (d *declared) readError() error {
	if d.given["error"] == nil {
		return nil
	}
	given, _, err := knownFields(errorField, d.given["error"], errorNames)
	if err != nil {
		return err
	}
	e := &events.ErrorMapping{}
	for _, f := range []struct {
		name string
		into *string
	}{{"path", &e.Path}, {"message", &e.Message}} {
		if given[f.name] == nil {
			continue
		}
		m := member{name: errorField + "." + f.name, value: given[f.name]}
		if *f.into, err = path(m); err != nil {
			return err
		}
		if d.req.Format != "" {
			return fieldError(m.name, "has no meaning with format %s", d.req.Format)
		}
	}
	if e.Path == "" && e.Message != "" {
		return fieldError(errorField+".path", "is required with message")
	}
	for _, f := range []struct {
		name string
		into *[]json.RawMessage
	}{{"ok", &e.OK}, {"retry", &e.Retry}} {
		if given[f.name] == nil {
			continue
		}
		m := member{name: errorField + "." + f.name, value: given[f.name]}
		if *f.into, err = scalars(m); err != nil {
			return err
		}
		if e.Path == "" && len(*f.into) > 0 {
			return fieldError(errorField+".path", "is required with %s", f.name)
		}
		if f.name == "ok" && len(*f.into) == 0 {
			return Invalid(m.name, "is empty: every answer would be a failure")
		}
	}
	if given["retry_status"] != nil {
		m := member{name: errorField + ".retry_status", value: given["retry_status"]}
		values, err := list(m)
		if err != nil {
			return err
		}
		for i, v := range values {
			n, err := integer(member{name: fmt.Sprintf("%s[%d]", m.name, i), value: v}, 400, 599)
			if err != nil {
				return err
			}
			e.RetryStatus = append(e.RetryStatus, int(n))
		}
	}
	if e.Path != "" || e.Message != "" || len(e.RetryStatus) > 0 {
		d.req.Error = e
	}
	return nil
}

// scalars reads an array of text, numbers, booleans and null.
func scalars(m member) ([]json.RawMessage, error) {
	values, err := list(m)
	if err != nil {
		return nil, err
	}
	var raw []json.RawMessage
	for i, v := range values {
		switch field := fmt.Sprintf("%s[%d]", m.name, i); {
		case v.Kind() == '{' || v.Kind() == '[':
			return nil, Invalid(field, "is %s; want text, a number, a boolean or null", valueName(v))
		case len(v) > maxValue:
			return nil, Invalid(field, "has %d bytes, at most %d are allowed", len(v), maxValue)
		}
		raw = append(raw, json.RawMessage(v))
	}
	return raw, nil
}
