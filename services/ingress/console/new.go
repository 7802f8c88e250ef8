package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sheaf/events"
	"sheaf/services/ingress/console/commands"
)

// pair is a row of the form: a header or a parameter.
type pair struct{ Name, Value string }

// form is the form of a new export.
type form struct {
	URL, Method, Title, User, RowKey, Callback, Format string
	Conn, Limit                                        string
	Headers, Params                                    []pair
	Share                                              bool   // the answer has a share link
	Extra                                              string // further fields of source_http, as JSON
	More                                               string // further fields of the request, as JSON
}

// spareRows is how many empty rows a form has.
const spareRows = 2

func (v *visit) readForm() *form {
	get := func(name string) string { return strings.TrimSpace(v.r.PostFormValue(name)) }
	f := &form{
		URL: get("url"), Method: get("method"), Title: get("title"), User: get("user"), RowKey: get("row_key"), Callback: get("callback"),
		Format: get("format"), Conn: get("conn"), Limit: get("limit"), Extra: get("extra"), More: get("more"),
		Share: get("share") != "",
	}
	f.Headers = pairs(v.r.PostForm["header_name"], v.r.PostForm["header_value"])
	f.Params = pairs(v.r.PostForm["param_name"], v.r.PostForm["param_value"])
	return f
}

func pairs(names, values []string) (all []pair) {
	for i := range min(len(names), len(values)) {
		if name := strings.TrimSpace(names[i]); name != "" {
			all = append(all, pair{name, strings.TrimSpace(values[i])})
		}
	}
	return all
}

// formOf returns the form of a copy of an export. Secrets are missing: only their names are known.
func formOf(r *events.Request) *form {
	h := r.HTTP
	f := &form{
		URL: h.URL, Method: h.Method, Title: r.Title, User: r.UserID, Callback: r.Callback, Format: r.ExtType,
		Conn: strconv.Itoa(h.Conn), Limit: strconv.Itoa(h.Limit), RowKey: r.RowKey,
	}
	for _, name := range h.Header {
		f.Headers = append(f.Headers, pair{Name: name})
	}
	params := members(h.Param)
	for _, p := range params {
		if p.Name != "limit" && p.Name != "page" || h.Paging != nil {
			f.Params = append(f.Params, p)
		}
	}
	extra := map[string]any{}
	put := func(name string, value any, given bool) {
		if given {
			extra[name] = value
		}
	}
	put("secret_param", h.SecretParam, len(h.SecretParam) > 0)
	put("body", h.Body, len(h.Body) > 0)
	put("body_type", h.BodyType, h.BodyType != "")
	put("format", h.Format, h.Format != "")
	put("rows", h.Rows, h.Rows != "")
	put("header_row", h.HeaderRow, h.HeaderRow && h.Paging != nil)
	put("paging", h.Paging, h.Paging != nil)
	put("error", h.Error, h.Error != nil)
	put("max_wait", h.MaxWait, h.MaxWait > 0)
	put("auth", map[string]string{"type": h.Auth}, h.Auth != "")
	for _, name := range h.SecretParam {
		f.Params = append(f.Params, pair{Name: name})
	}
	if h.Paging != nil {
		f.Limit = "" // it is a parameter of its own there
	}
	f.Extra = indented(extra)
	return f
}

// members returns the members of a JSON object in their order, texts without quotes.
func members(object json.RawMessage) (all []pair) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return all
		}
		s := string(value)
		var plain string
		if json.Unmarshal(value, &plain) == nil && !json.Valid([]byte(plain)) {
			s = plain
		}
		all = append(all, pair{name.(string), s})
	}
	return all
}

func indented(value map[string]any) string {
	if len(value) == 0 {
		return ""
	}
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return ""
	}
	return string(b)
}

// jsonValue reads the value of a parameter: JSON such as 20, true or [1], else a text.
func jsonValue(s string) any {
	if s != "" && json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return s
}

// submission returns the request that the form stands for.
func (f *form) submission() map[string]any {
	source := map[string]any{"url": f.URL, "method": f.Method}
	header := map[string]any{}
	for _, h := range f.Headers {
		header[h.Name] = h.Value
	}
	param := map[string]any{}
	for _, p := range f.Params {
		param[p.Name] = jsonValue(p.Value)
	}
	if n, err := strconv.Atoi(f.Limit); err == nil {
		param["limit"] = n
	}
	if n, err := strconv.Atoi(f.Conn); err == nil {
		source["conn"] = n
	}
	if len(header) > 0 {
		source["header"] = header
	}
	if len(param) > 0 {
		source["param"] = param
	}
	for name, value := range objectOf(f.Extra) {
		source[name] = value
	}
	request := map[string]any{"ext_type": f.Format, "title": f.Title, "source_http": source}
	if f.User != "" {
		request["user_id"] = f.User
	}
	if f.RowKey != "" {
		request["row_key"] = f.RowKey
	}
	if f.Callback != "" {
		request["callback"] = f.Callback
	}
	if f.Share {
		request["share"] = true
	}
	for name, value := range objectOf(f.More) {
		request[name] = value
	}
	return request
}

// hideSecrets replaces the secrets of all sources in a request by commands.Secret.
func hideSecrets(value any) {
	switch x := value.(type) {
	case []any:
		for _, one := range x {
			hideSecrets(one)
		}
	case map[string]any:
		for name, one := range x {
			if source, ok := one.(map[string]any); ok && name == "source_http" {
				hideSource(source)
				continue
			}
			hideSecrets(one)
		}
	}
}

// hideSource replaces the secrets of a source_http. A user in its URL becomes a header, as on receipt.
func hideSource(source map[string]any) {
	hide := func(object any, is func(name string) bool) {
		o, _ := object.(map[string]any)
		for name := range o {
			if is(name) {
				o[name] = commands.Secret
			}
		}
	}
	secret, _ := source["secret_param"].([]any)
	for name, value := range source {
		switch name {
		case "header":
			hide(value, func(string) bool { return true })
		case "param":
			hide(value, func(name string) bool { return slices.Contains(secret, any(name)) })
		case "auth":
			hide(value, func(name string) bool { return slices.Contains(authSecrets, name) })
		}
	}
	address, _ := source["url"].(string)
	if u, err := url.Parse(address); err == nil && u.User != nil {
		u.User = nil
		source["url"] = u.String()
		header, ok := source["header"].(map[string]any)
		if !ok {
			header = map[string]any{}
		}
		header["Authorization"] = commands.Secret
		source["header"] = header
	}
}

// authSecrets are the members of auth that are secrets.
var authSecrets = []string{"token", "password", "value", "client_secret"}

// objectOf reads a JSON object; nil for anything else.
func objectOf(s string) (o map[string]json.RawMessage) {
	_ = json.Unmarshal([]byte(s), &o) // checked by problem
	return o
}

// problem returns the field of the form that is no JSON object.
func (f *form) problem() string {
	for name, value := range map[string]string{"extra": f.Extra, "more": f.More} {
		if value != "" && objectOf(value) == nil {
			return name
		}
	}
	return ""
}

// preview is what the operation preview answers.
type preview struct {
	Request    json.RawMessage `json:"request"`
	Needed     []note          `json:"needed"`
	ErrorCode  string          `json:"error_code"`
	FailReason string          `json:"fail_reason"`
	Findings   []note          `json:"findings"`
	Columns    []string        `json:"columns"`
	Rows       [][]any         `json:"rows"`
	Proof      string          `json:"proof"`
	Pages      int64           `json:"pages"`
	Warnings   []string        `json:"warnings"`
}

type note struct {
	Field string `json:"field"`
	Value any    `json:"value"`
	How   string `json:"how"`
	Why   string `json:"why"`
}

// previewData is a preview as the page shows it.
type previewData struct {
	Columns  []string
	Rows     [][]string
	Needed   []note
	Findings []note
	Failure  *failure
	Proof    string
	Pages    int64
	Warnings []string
}

type newData struct {
	Form     *form
	Formats  []string
	Preview  *previewData
	Previews bool
	Field    string // at fault
	Problem  string
	Commands []commands.Form
	Action   string
	Tenant   string
	Copied   bool
}

func (v *visit) newExport() error {
	f := &form{Method: http.MethodGet, Conn: "8", Limit: "", Format: "XLSX"}
	d := newData{}
	switch q := v.r.URL.Query(); {
	case events.ValidKey(q.Get("from")):
		r, err := v.backend.Request(v.r.Context(), v.who, q.Get("from"))
		if err != nil {
			return err
		}
		if r.HTTP == nil {
			return &Error{Status: http.StatusConflict, Msg: v.t("new.nocopy")}
		}
		f, d.Copied = formOf(r), true
	case q.Has("demo"):
		f.URL, f.Title, f.Limit = v.PublicURL+"/demo/page", "Demo", "100"
	}
	d.Form = f
	return v.newPage(http.StatusOK, d)
}

func (v *visit) newPage(status int, d newData) error {
	d.Formats, d.Previews, d.Action, d.Tenant = v.Formats, v.Previews, v.base+"/console/new", v.tenantField()
	if !slices.Contains(d.Formats, d.Form.Format) && d.Form.Format != "" {
		d.Formats = append(slices.Clone(d.Formats), d.Form.Format)
	}
	if d.Form.URL != "" && d.Form.problem() == "" {
		d.Commands = v.commands(d.Form)
	}
	for range spareRows {
		d.Form.Headers = append(d.Form.Headers, pair{})
		d.Form.Params = append(d.Form.Params, pair{})
	}
	p := v.page(v.t("new.title"), "new")
	p.Data = d
	return v.render(status, "new", p)
}

// submitNew submits the form, or shows it again with a preview, more rows or what is wrong. A form that
// changes nothing is answered with its page, because its secrets must not go into a URL or a cookie.
func (v *visit) submitNew() error {
	d := newData{Form: v.readForm()}
	if field := d.Form.problem(); field != "" {
		d.Field, d.Problem = field, v.t("new.nojson")
		return v.newPage(http.StatusUnprocessableEntity, d)
	}
	switch v.r.PostFormValue("do") {
	case "rows":
		return v.newPage(http.StatusOK, d)
	case "preview":
		return v.previewNew(d)
	}
	var accepted struct {
		Key      string `json:"hash_key"`
		ShareURL string `json:"share_url"`
	}
	if err := v.call("http", nil, d.Form.submission(), &accepted); err != nil {
		return v.refuseForm(d, err)
	}
	if err := v.setFlash(flash{Kind: "ok", Text: v.t("done.submit"), Link: accepted.ShareURL}); err != nil {
		return err
	}
	return v.seeOther(v.url("/console/x/"+accepted.Key, nil))
}

// refuseForm shows a form again with the server's reason.
func (v *visit) refuseForm(d newData, err error) error {
	f, err := v.refused(err)
	if err != nil {
		return err
	}
	d.Problem = f.Text
	return v.newPage(http.StatusUnprocessableEntity, d)
}

func (v *visit) previewNew(d newData) error {
	var a preview
	request := d.Form.submission()
	if err := v.call("preview", nil, request, &a); err != nil {
		return v.refuseForm(d, err)
	}
	p := &previewData{Columns: a.Columns, Needed: a.Needed, Findings: a.Findings, Pages: a.Pages, Warnings: a.Warnings}
	if a.ErrorCode != "" {
		p.Failure = &failure{Code: a.ErrorCode, Text: wordOr(v.prefs.Lang, "code."+a.ErrorCode, a.ErrorCode), Reason: a.FailReason}
	}
	if a.Proof != "" {
		p.Proof = v.t("willprove." + a.Proof)
	}
	for _, r := range a.Rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = text(cell)
		}
		p.Rows = append(p.Rows, cells)
	}
	d.Form.adopt(a.Request)
	d.Preview = p
	return v.newPage(http.StatusOK, d)
}

// adopt takes what a preview found into the form. Secrets stay as they were given.
func (f *form) adopt(request json.RawMessage) {
	var r struct {
		Title  string                     `json:"title"`
		Source map[string]json.RawMessage `json:"source_http"`
	}
	if json.Unmarshal(request, &r) != nil || r.Source == nil {
		return
	}
	if f.Title == "" {
		f.Title = r.Title
	}
	extra := objectOf(f.Extra)
	if extra == nil {
		extra = map[string]json.RawMessage{}
	}
	for name, value := range r.Source {
		switch name {
		case "url", "method", "header", "conn", "param", "auth":
		default:
			extra[name] = value
		}
	}
	for _, p := range members(r.Source["param"]) {
		known := slices.ContainsFunc(f.Params, func(q pair) bool { return q.Name == p.Name })
		if !known && (p.Name != "limit" || f.Limit == "") {
			f.Params = append(f.Params, p)
		}
	}
	if b, err := json.MarshalIndent(extra, "", "  "); err == nil && len(extra) > 0 {
		f.Extra = string(b)
	}
}
