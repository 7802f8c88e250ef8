// Package preview finds out how to request all pages of a source.
//
// It is given a submission whose paging may be missing. It requests page 1, infers where rows, totals and the
// next page are, and requests another page to verify that. The result is a submission that needs no guess. If
// something that decides completeness could not be verified, the result names the field to set instead.
//
// It sends at most three requests, through [source.Fetcher], so all limits and checks of a crawl apply. It
// keeps nothing. Meanwhile it has two responses in memory, of Policy.MaxBodyBytes each.
package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
)

// Limits of a preview.
const (
	maxRequests = 3
	maxTime     = 28 * time.Second
	askedSize   = 1000 // rows a page, where the parameter is known
	shownRows   = 10
	shownNames  = 100
	shownChars  = 200 // of one value
)

// Preset is a name for the fields of source_http that describe one kind of API.
type Preset struct {
	Name   string
	Given  []string        // fields that the request must add
	Source json.RawMessage // the fields that the name stands for
}

// Config configures a [Previewer].
type Config struct {
	Policy  source.Policy // of one page's requests; its attempts are ignored
	Presets []Preset      // that are tried, in this order
	Rests   *source.Rests // of hosts that asked for a pause
}

// Previewer previews sources. It is safe for concurrent use.
type Previewer struct {
	cfg    Config
	client source.Client
}

// New returns a previewer that reaches sources through client. It does no I/O.
func New(cfg Config, client source.Client) *Previewer { return &Previewer{cfg, client} }

// Values of [Finding.How].
const (
	Given    = "given"    // by the submission
	Verified = "verified" // another request behaved so
	Seen     = "seen"     // page 1 shows it
	Assumed  = "assumed"  // nothing shows it
)

// Finding is one field of the proposed request.
type Finding struct {
	Field string `json:"field"`
	Value any    `json:"value"`
	How   string `json:"how"`
	Why   string `json:"why,omitempty"`
}

// Other is a value that a field could have instead.
type Other struct {
	Field string `json:"field"`
	Value any    `json:"value"`
}

// Need is a field that the caller must set.
type Need struct {
	Field string `json:"field"`
	Why   string `json:"why"`
}

// Answer is the result of a preview. Request and Needed exclude each other.
type Answer struct {
	// Request is ready to be submitted. Secrets of the submission are "…" in it.
	Request    json.Marshaler `json:"request,omitempty"`
	Needed     []Need         `json:"needed,omitempty"`
	ErrorCode  string         `json:"error_code,omitempty"` // of a source that failed, as an export would
	FailReason string         `json:"fail_reason,omitempty"`
	Preset     string         `json:"preset,omitempty"`
	Findings   []Finding      `json:"findings"`
	Others     []Other        `json:"others"`
	Columns    []string       `json:"columns"`
	Rows       [][]any        `json:"rows"`            // the first ones
	Proof      string         `json:"proof,omitempty"` // a kind of [events.Proof]
	Concurrent bool           `json:"concurrent"`      // pages are requested several at once
	Pages      int64          `json:"pages,omitempty"` // 0 if unknown
	Requests   int            `json:"requests"`        // that were sent
	Warnings   []string       `json:"warnings"`
}

// Check validates a submission as a service that accepts it does. Its secrets are in clear.
type Check = func(submission []byte) (*events.Request, secrets.Values, error)

// Preview previews the source of a submission. Its paging may be absent, or of type "auto"; title, user_id,
// callback and ext_type may be absent too. It takes at most 30 s.
//
// An error is that of check, which validates the submission and the proposal, or of ctx. A source that fails
// is no error: the answer then has an ErrorCode.
func (p *Previewer) Preview(ctx context.Context, submission []byte, check Check) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	r := &run{Previewer: p, check: check, answer: &Answer{
		Findings: []Finding{}, Others: []Other{}, Columns: []string{}, Rows: [][]any{}, Warnings: []string{},
	}}
	defer r.release()
	err := r.start(submission)
	if err == nil {
		err = r.find(ctx)
	}
	r.answer.Requests = r.requests
	if f := (*source.Failure)(nil); errors.As(err, &f) {
		r.fail(f)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return r.answer, nil
}

// run is one preview.
type run struct {
	*Previewer
	check    Check
	answer   *Answer
	requests int

	submission object // complete except source_http
	given      object // source_http without an unknown paging
	hints      object // members of paging beside type auto
	method     string
	secrets    []string

	first  *source.Page // as requested first
	header headerFields
	doc    *document
}

func (r *run) release() {
	if r.first != nil {
		r.first.Release()
	}
}

// fail answers with a failure of the source, as an export would.
func (r *run) fail(f *source.Failure) {
	r.answer.ErrorCode, r.answer.FailReason = f.Code, r.hide(f.Error())
	if f.Code == "" {
		r.answer.ErrorCode, r.answer.FailReason = events.CodeSourceTimeout, "the source did not answer in time"
	}
	r.answer.Request = nil
}

// start reads the submission and completes what a preview does not need.
func (r *run) start(submission []byte) error {
	o, err := readObject(submission)
	if err != nil {
		_, _, err := r.check(submission) // its error names the field
		return err
	}
	if o.get("ext_type") == nil {
		o.setText("ext_type", events.XLSX.Name)
	}
	h := o.object("source_http")
	if h == nil {
		_, _, err := r.check(o.raw())
		return err
	}
	if o.text("title") == "" {
		o.setText("title", titleOf(h.text("url")))
	}
	if paging := h.object("paging"); paging != nil && paging.text("type") == "auto" {
		r.hints = paging.without("type")
		h = h.without("paging")
	}
	r.submission, r.given = o.without("source_http"), h
	r.method = strings.ToUpper(h.text("method"))
	return nil
}

// titleOf makes a title of the last part of a URL.
func titleOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "export"
	}
	if name := path.Base(u.Path); name != "." && name != "/" {
		return strings.TrimSuffix(name, path.Ext(name))
	}
	if u.Hostname() != "" {
		return u.Hostname()
	}
	return "export"
}

// read reads a response, without the members that have a secret as their name.
func (r *run) read(body []byte) *document {
	return readDocument(body, func(name string) bool { return r.hide(name) != name })
}

// body writes a submission with a source_http.
func (r *run) body(h object) jsontext.Value {
	o := r.submission.clone()
	o.set("source_http", h.raw())
	return o.raw()
}

func (r *run) need(field, format string, args ...any) {
	r.answer.Needed = append(r.answer.Needed, Need{Field: field, Why: fmt.Sprintf(format, args...)})
}

func (r *run) warn(format string, args ...any) {
	r.answer.Warnings = append(r.answer.Warnings, fmt.Sprintf(format, args...))
}
