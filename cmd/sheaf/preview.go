package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
	"sheaf/services/ingress/request"
)

type previewCmd struct {
	URL         string `arg:"" name:"url" optional:"" help:"Source to preview."`
	sourceFlags `embed:""`
	formFlags   `embed:""`
	JSON        bool   `name:"json" help:"Print the answer of POST /v1/export/preview."`
	Server      string `placeholder:"URL" help:"Let this running server do it. Default: in this process."`
	callerFlags `embed:""`

	node.SourceLimits `embed:"" group:"limits"`
}

func (c *previewCmd) Run(ctx context.Context, std stdio, line *kong.Context) error {
	ask := func(ctx context.Context, draft []byte) (*previewAnswer, error) {
		return previewHere(ctx, oneShot(os.TempDir(), c.SourceLimits), draft)
	}
	if c.Server != "" {
		if flag := given(line, func(f *kong.Flag) bool { return f.Group != nil && f.Group.Key == "limits" }); flag != "" {
			return usagef("%s: with --server the limits are those of the server", flag)
		}
		server, err := newRemote(c.Server, c.callerFlags, "")
		if err != nil {
			return err
		}
		defer server.Close()
		ask = server.preview
	} else if err := needsServer(line); err != nil {
		return err
	}
	limited := given(line, func(f *kong.Flag) bool { return f.Name == "limit" }) != ""
	switch {
	case c.URL == "" && c.Request == "":
		return usagef("give the URL of an API")
	case isFile(c.URL):
		return usagef("a file needs no preview; sheaf export %s -o FILE.xlsx", c.URL)
	}
	body, err := c.submission(c.sourceFlags, c.URL, limited, std.in, line)
	if err != nil {
		return err
	}
	draft, err := c.draft(c.sourceFlags, body, limited)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, draft)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(std.out, answer.raw)
	} else {
		err = answer.print(std.out)
	}
	return errors.Join(err, answer.failure())
}

// previewAnswer is the answer of a preview, as far as the command line reads it.
type previewAnswer struct {
	Request    json.RawMessage  `json:"request"`
	Needed     []previewNeed    `json:"needed"`
	ErrorCode  string           `json:"error_code"`
	FailReason string           `json:"fail_reason"`
	Preset     string           `json:"preset"`
	Findings   []previewFinding `json:"findings"`
	Columns    []string         `json:"columns"`
	Rows       [][]any          `json:"rows"`
	Proof      string           `json:"proof"`
	Concurrent bool             `json:"concurrent"`
	Pages      int64            `json:"pages"`
	Requests   int              `json:"requests"`
	Warnings   []string         `json:"warnings"`

	raw json.RawMessage
}

type previewNeed struct{ Field, Why string }

type previewFinding struct {
	Field, How, Why string
	Value           json.RawMessage
}

func readPreview(raw json.RawMessage) (*previewAnswer, error) {
	a := &previewAnswer{raw: raw}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(a); err != nil {
		return nil, fmt.Errorf("reading the preview: %w", err)
	}
	return a, nil
}

// previewHere previews in this process.
func previewHere(ctx context.Context, cfg node.Config, draft []byte) (*previewAnswer, error) {
	answer, err := node.Preview(ctx, cfg, draft)
	if wrong := (*request.Error)(nil); errors.As(err, &wrong) {
		return nil, ownRefusal(&client.Error{Status: http.StatusBadRequest, Errcode: http.StatusBadRequest, Field: wrong.Field, Msg: wrong.Msg})
	}
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return readPreview(raw)
}

// preview lets the server preview.
func (s *remote) preview(ctx context.Context, draft []byte) (*previewAnswer, error) {
	raw, err := s.Preview(ctx, draft)
	if err != nil {
		return nil, err
	}
	return readPreview(raw)
}

// previewError is a preview without a request.
type previewError struct{ msg, code string }

func (e *previewError) Error() string { return e.msg }

// failure is the reason why there is no request, nil if there is one.
func (a *previewAnswer) failure() error {
	switch {
	case a.ErrorCode != "":
		return advised(&previewError{fmt.Sprintf("the source failed: %s (%s)", oneLine(a.FailReason), a.ErrorCode), a.ErrorCode})
	case a.Request == nil:
		return &previewError{"how to find all pages is not certain: " + a.needs(), "NEEDED"}
	}
	return nil
}

// advised adds to a failure what the caller of export or preview can do, if that is known.
func advised(err error) error {
	switch failureCode(err) {
	case events.CodeSourceAuth:
		return hinted(err, "check the credentials, such as -H 'Authorization: Bearer TOKEN'")
	case events.CodeSourceFormat:
		return hinted(err, "check that the URL is that of the API")
	case events.CodeSourceUnreachable:
		if !strings.Contains(err.Error(), "--allow-cidr") { // it says what to do
			return hinted(err, "check the host and port of the URL")
		}
	}
	return err
}

// needs says which fields must be set.
func (a *previewAnswer) needs() string {
	var list []string
	for _, n := range a.Needed {
		list = append(list, oneLine(n.Field+": "+n.Why))
	}
	return strings.Join(list, "; ")
}

// summary describes the request in a line.
func (a *previewAnswer) summary() string {
	if a.Preset == "sheaf" {
		return "found: the standard page format (preset sheaf)"
	}
	var parts []string
	if a.Preset != "" {
		parts = append(parts, "preset "+a.Preset)
	}
	for _, f := range a.Findings {
		name := strings.TrimPrefix(f.Field, "source_http.")
		if strings.HasPrefix(name, "param.") || name == "rows" || name == "paging" || name == "format" {
			parts = append(parts, name+" "+plainValue(f.Value))
		}
	}
	parts = append(parts, "proof "+a.Proof)
	if a.Pages > 0 {
		parts = append(parts, thousands(a.Pages)+" pages")
	}
	return oneLine("found: " + strings.Join(parts, ", "))
}

func plainValue(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// print prints the answer for a person.
func (a *previewAnswer) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range a.Findings {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", oneLine(strings.TrimPrefix(f.Field, "source_http.")), oneLine(plainValue(f.Value)), f.How, oneLine(f.Why))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(a.Rows) > 0 {
		fmt.Fprintln(out)
		w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		line := func(cells []string) {
			for i, cell := range cells[:min(len(cells), 8)] {
				if r := []rune(oneLine(cell)); len(r) > 24 {
					cells[i] = string(r[:23]) + "…"
				} else {
					cells[i] = string(r)
				}
			}
			fmt.Fprintln(w, strings.Join(cells[:min(len(cells), 8)], "\t"))
		}
		line(slices.Clone(a.Columns))
		for _, row := range a.Rows[:min(len(a.Rows), 5)] {
			cells := make([]string, len(row))
			for i, v := range row {
				if v != nil {
					cells[i] = strings.ReplaceAll(fmt.Sprint(v), "\t", " ")
				}
			}
			line(cells)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		switch more := len(a.Columns) - 8; {
		case more == 1:
			fmt.Fprintln(out, "and 1 more column")
		case more > 1:
			fmt.Fprintf(out, "and %d more columns\n", more)
		}
	}
	for _, warning := range a.Warnings {
		fmt.Fprintf(out, "\nwarning: %s\n", oneLine(warning))
	}
	if a.Request == nil {
		return nil
	}
	pages := "an unknown number of pages"
	if a.Pages > 0 {
		pages = thousands(a.Pages) + " pages"
	}
	how := "one after another"
	if a.Concurrent {
		how = "several at once"
	}
	fmt.Fprintf(out, "\n%s, %s; completeness is proven by: %s. The source was asked %d times.\n\n", pages, how, a.Proof, a.Requests)
	return printJSON(out, a.Request)
}

// isFile reports whether the source of an export is a file.
func isFile(source string) bool {
	if source == "-" {
		return true
	}
	info, err := os.Stat(source)
	return source != "" && !strings.Contains(source, "://") && err == nil && !info.IsDir()
}

// checkSource returns the error of a source that is neither a file nor a URL.
func (c *exportCmd) checkSource(source string, file bool) error {
	switch {
	case !file && (c.Delimiter != "" || c.Encoding != ""):
		return usagef("--delimiter and --encoding: they go with a file, not with a URL")
	case file || strings.Contains(source, "://") || c.Request != "":
		return nil
	case source == "":
		return usagef("give the URL of an API, a file, or - for stdin")
	}
	if info, err := os.Stat(source); err == nil && info.IsDir() {
		return usagef("%s is a folder; give a file", source)
	}
	return usagef("there is no file %q, and it is not a URL; want a file, http://HOST/PATH or https://HOST/PATH", source)
}

// checkFile refuses flags that have no meaning for a file.
func (c *exportCmd) checkFile(line *kong.Context) error {
	if c.Server != "" {
		return usagef("--server: it cannot read a file of this machine; leave it out, or serve the file with sheaf source")
	}
	flag := given(line, func(f *kong.Flag) bool {
		return slices.Contains([]string{"header", "param", "method", "preset", "rows", "paging", "body", "request"}, f.Name)
	})
	if flag != "" {
		return usagef("%s: it goes with a URL, not with a file", flag)
	}
	return nil
}

// serveFile serves a file, or stdin, as a source of this process.
func serveFile(name string, work *scratch, stdin io.Reader, opts filesource.Options) (source *filesource.Source, address string, stop func(), err error) {
	if name == "-" {
		name = work.file("stdin")
		data, err := os.Create(name)
		if err != nil {
			return nil, "", nil, err
		}
		_, err = io.Copy(data, stdin)
		if err = errors.Join(err, data.Close()); err != nil {
			return nil, "", nil, err
		}
	}
	source, err = filesource.Open(name, opts)
	if err != nil {
		return nil, "", nil, err
	}
	address, stopServer, err := filesource.Serve("127.0.0.1:0", source)
	if err != nil {
		return nil, "", nil, errors.Join(err, source.Close())
	}
	return source, address, func() {
		stopServer()
		_ = source.Close()
	}, nil
}

// given reports whether the flags describe the form of the source.
func (f formFlags) given() bool {
	return f.Preset != "" || f.Rows != "" || f.Paging != "" || f.Request != "" || f.Body != ""
}

// submission returns the submission of the flags. Its form may be incomplete.
func (f formFlags) submission(source sourceFlags, address string, limited bool, stdin io.Reader, line *kong.Context) ([]byte, error) {
	if f.Request != "" {
		return f.fromFile(source, address, stdin, line)
	}
	if f.Body != "" {
		if !json.Valid([]byte(f.Body)) {
			return nil, usagef("--body: it is not JSON")
		}
		source.Method = http.MethodPost
	}
	body, err := source.request(address, defaultUser, "")
	if err != nil || !f.given() {
		return body, err
	}
	fields, http, err := parts(body)
	if err != nil {
		return nil, err
	}
	if f.Preset != "" {
		http["preset"], _ = json.Marshal(f.Preset)
	}
	if f.Body != "" {
		http["body"] = json.RawMessage(f.Body)
	}
	if f.Rows != "" {
		http["rows"], _ = json.Marshal(f.Rows)
	}
	if f.Paging != "" {
		if !json.Valid([]byte(f.Paging)) {
			return nil, usagef("--paging %q: it is not JSON", f.Paging)
		}
		http["paging"] = json.RawMessage(f.Paging)
	}
	if err := source.setLimit(http, limited); err != nil {
		return nil, err
	}
	return joined(fields, http)
}

// fromFile reads a request of sheaf preview, alone or in its answer.
func (f formFlags) fromFile(source sourceFlags, address string, stdin io.Reader, line *kong.Context) ([]byte, error) {
	flag := given(line, func(f *kong.Flag) bool {
		return slices.Contains([]string{"limit", "conn", "method", "preset", "rows", "paging", "body"}, f.Name)
	})
	switch {
	case flag != "":
		return nil, usagef("%s: with --request the file says it", flag)
	case address != "":
		return nil, usagef("give a URL or --request, not both")
	}
	var body []byte
	var err error
	if f.Request == "-" {
		body, err = io.ReadAll(stdin)
	} else {
		body, err = os.ReadFile(f.Request)
	}
	if err != nil {
		return nil, err
	}
	var answer struct{ Request json.RawMessage }
	if json.Unmarshal(body, &answer) == nil && answer.Request != nil {
		body = answer.Request
	}
	fields, http, err := parts(body)
	sheets := fields["sheets"] != nil
	if err != nil && !sheets {
		return nil, usagef("--request %s: it is no request with source_http", filepath.Base(f.Request))
	}
	if len(source.Header)+len(source.Param) > 0 && sheets {
		return nil, usagef("--header, --param: the sheets of the --request file say them")
	}
	flags, err := source.request("http://h/", defaultUser, "")
	if err != nil {
		return nil, err
	}
	own, ownHTTP, err := parts(flags)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"timestamp", "user_id", "ext_type"} {
		if fields[name] == nil || name == "timestamp" {
			fields[name] = own[name]
		}
	}
	if source.Title != "" {
		fields["title"] = own["title"]
	}
	if sheets {
		return json.Marshal(fields)
	}
	for _, name := range []string{"header", "param"} {
		extra := map[string]json.RawMessage{}
		_ = json.Unmarshal(ownHTTP[name], &extra)
		if name == "param" {
			delete(extra, "limit")
		}
		if len(extra) == 0 {
			continue
		}
		merged := map[string]json.RawMessage{}
		_ = json.Unmarshal(http[name], &merged)
		for key, value := range extra {
			for old := range merged {
				if name == "header" && strings.EqualFold(old, key) {
					delete(merged, old)
				}
			}
			merged[key] = value
		}
		if http[name], err = json.Marshal(merged); err != nil {
			return nil, err
		}
	}
	return joined(fields, http)
}

// parts splits a submission.
func parts(body []byte) (fields, http map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(fields["source_http"], &http); err != nil {
		return nil, nil, err
	}
	if http == nil {
		return nil, nil, errors.New("source_http is missing")
	}
	return fields, http, nil
}

func joined(fields, http map[string]json.RawMessage) ([]byte, error) {
	var err error
	if fields["source_http"], err = json.Marshal(http); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// setLimit puts the page size of --limit where the form has it. Without the flag it is removed: it is the
// default of the standard format only.
func (f sourceFlags) setLimit(http map[string]json.RawMessage, limited bool) error {
	param := map[string]json.RawMessage{}
	_ = json.Unmarshal(http["param"], &param)
	ownLimit := slices.ContainsFunc(f.Param, func(p string) bool { return strings.HasPrefix(p, "limit=") || strings.HasPrefix(p, "limit:=") })
	if !ownLimit {
		delete(param, "limit")
	}
	if limited {
		place := limitParam(http)
		if place == "" || strings.Contains(place, ":") {
			return usagef("--limit: the form has no parameter of the page size; say --param NAME=%d", f.Limit)
		}
		param[place] = json.RawMessage(fmt.Sprint(f.Limit))
	}
	var err error
	http["param"], err = json.Marshal(param)
	return err
}

// limitParam returns the parameter of the page size, "" if it is not known.
func limitParam(http map[string]json.RawMessage) string {
	place := "limit"
	read := func(paging json.RawMessage) {
		var p struct {
			Limit *string `json:"limit_param"`
		}
		var members map[string]json.RawMessage
		_ = json.Unmarshal(paging, &members)
		_ = json.Unmarshal(paging, &p)
		if raw, ok := members["limit_param"]; ok && string(raw) == "null" {
			place = ""
		} else if p.Limit != nil {
			place = *p.Limit
		}
	}
	var name string
	_ = json.Unmarshal(http["preset"], &name)
	for _, p := range request.Presets() {
		if p.Name == name {
			var fields struct{ Paging json.RawMessage }
			_ = json.Unmarshal(p.Source, &fields)
			var paging map[string]json.RawMessage
			if _ = json.Unmarshal(fields.Paging, &paging); paging["limit_param"] == nil {
				place = ""
			}
			read(fields.Paging)
		}
	}
	read(http["paging"])
	return place
}

// draft returns the submission for a preview. The default page size of the standard format is left out.
func (f formFlags) draft(source sourceFlags, body []byte, limited bool) ([]byte, error) {
	fields, http, err := parts(body)
	if err != nil {
		return nil, err
	}
	if !f.given() && !limited {
		if err := source.setLimit(http, false); err != nil {
			return nil, err
		}
	}
	// The request is printed: without what a submission need not say.
	delete(fields, "timestamp")
	defaults := map[string]string{"title": `""`, "callback": `""`, "user_id": `"` + defaultUser + `"`, "header": "{}", "param": "{}", "method": `"GET"`, "conn": "8"}
	for _, members := range []map[string]json.RawMessage{fields, http} {
		for name, value := range defaults {
			if string(members[name]) == value {
				delete(members, name)
			}
		}
	}
	return joined(fields, http)
}

// findForm returns the submission of an export. If its form is not given, the source is previewed, and the
// form that was found is printed. A source that may recover gets the request of the standard format, which has
// the attempts of an export.
func (f formFlags) findForm(ctx context.Context, std stdio, source sourceFlags, body []byte, limited bool, ask func(context.Context, []byte) (*previewAnswer, error)) ([]byte, error) {
	if f.Preset != "" || f.Paging != "" || f.Request != "" {
		return body, nil
	}
	draft, err := f.draft(source, body, limited)
	if err != nil {
		return nil, err
	}
	fields, own, err := parts(body)
	if err != nil {
		return nil, err
	}
	if draft, err = untyped(draft); err != nil {
		return nil, err
	}
	answer, err := ask(ctx, draft)
	if refusal := (*client.Error)(nil); errors.As(err, &refusal) && refusal.Status == http.StatusNotFound {
		return body, nil // an older server
	}
	if err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	unknown := answer.Request == nil && len(answer.Needed) == 0
	if unknown && !f.given() && mayRecover(answer.ErrorCode) {
		return body, nil
	}
	if answer.ErrorCode != "" {
		return nil, answer.failure()
	}
	if answer.Request == nil {
		return nil, usagef("how to find all pages is not certain: %s; say %s", answer.needs(), answer.flags())
	}
	fmt.Fprintln(std.err, answer.summary())
	for _, hint := range strangers(fields["columns"], answer.Columns) { // a later page may have it
		fmt.Fprintln(std.err, hint)
	}
	if fields["columns"] != nil {
		fields["columns"] = adoptFrom(fields["columns"], answer.Request)
	}
	if answer.Preset == "sheaf" {
		return joined(fields, own)
	}
	_, found, err := parts(answer.Request)
	if err != nil {
		return nil, err
	}
	found["conn"] = own["conn"]
	for _, name := range []string{"header", "auth"} { // the answer hides their values
		if own[name] != nil {
			found[name] = own[name]
		}
	}
	if limited {
		if place := limitParam(found); place != "" && place != "limit" {
			if err := source.setLimit(found, true); err != nil {
				return nil, err
			}
		}
	}
	return joined(fields, found)
}

// flags names the flags that describe the paging of the source. --rows goes with --paging if page 1 shows them.
func (a *previewAnswer) flags() string {
	for _, f := range a.Findings {
		if f.Field == "source_http.rows" {
			return fmt.Sprintf("--rows '%s' with --paging, or --preset or --request", oneLine(plainValue(f.Value)))
		}
	}
	return "--preset, --paging or --request"
}

// mayRecover reports whether a source that failed a preview can succeed in the further attempts of an export.
// The code is "" if a server gave no reason.
func mayRecover(code string) bool {
	return code == "" || code == events.CodeSourceHTTP || code == events.CodeSourceTimeout || code == events.CodeSourceUnreachable
}
