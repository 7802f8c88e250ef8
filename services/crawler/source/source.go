// Package source asks a paginated HTTP source for pages and reads its answers.
package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"code.dny.dev/ssrf"
	"golang.org/x/net/http/httpguts"

	"sheaf/events"
	"sheaf/events/retryafter"
	"sheaf/events/rows"
	"sheaf/events/secrets"
)

// Request is how a source is asked, as the export request says it.
type Request struct {
	URL    string // absolute, http or https; its own query is kept
	Method string // GET or POST in any case; empty means GET
	// Header is sent as it is. Host sets the host that is asked. Fields that
	// belong to one connection (RFC 9110, 7.6.1) and Content-Length are
	// refused.
	Header secrets.Values
	// Param is a JSON object, null or empty. A GET carries it in the query, a
	// POST as a JSON body. The text of its numbers is never changed.
	Param json.RawMessage
	// SecretParam are the names in Param whose values no message may show.
	SecretParam []string
	Limit       int    // rows a page, at least 1; replaces a limit in Param
	TaskID      string // the hash_key, sent as xt-export-taskId
}

// Policy bounds the fetching of one page. A field that is zero or less means
// its default.
type Policy struct {
	// Attempts is the number of requests for one page, the first one
	// included. Default 6.
	Attempts int
	// HeaderTimeout bounds one attempt up to the headers of the answer,
	// PageTimeout the whole attempt. Defaults 30 s and 60 s.
	HeaderTimeout time.Duration
	PageTimeout   time.Duration
	// The wait before attempt n+1 is a random time up to BaseBackoff·2^(n-1),
	// at most MaxBackoff. Defaults 500 ms and 15 s.
	BaseBackoff time.Duration
	MaxBackoff  time.Duration
	// SlowAfter is how long an attempt keeps its place among the requests in
	// flight. Default 1 s.
	SlowAfter time.Duration
	// MaxRetryAfter caps the Retry-After of an answer, whatever its status. Default 60 s.
	MaxRetryAfter time.Duration
	// MaxBodyBytes bounds one answer after decompression. Default 64 MiB.
	MaxBodyBytes int64
	// MaxRatio bounds the decompressed bytes for each compressed one, once
	// an answer is larger than 8 MiB. Measured: a page of mixed rows 11, one
	// of equal rows 330; the most that DEFLATE can do is 1032. Default 400.
	MaxRatio int64
	// MinRate is how many bytes a second an answer has to bring, once it has begun,
	// on the average of any RateOver. Below it a source is not slow but holds a
	// connection open. Default 1 KiB over 15 s.
	MinRate  int64
	RateOver time.Duration
	// Rows bounds the JSON of an answer.
	Rows rows.Limits
}

func (p Policy) withDefaults() Policy {
	return Policy{
		Attempts:      positive(p.Attempts, 6),
		HeaderTimeout: positive(p.HeaderTimeout, 30*time.Second),
		PageTimeout:   positive(p.PageTimeout, 60*time.Second),
		BaseBackoff:   positive(p.BaseBackoff, 500*time.Millisecond),
		MaxBackoff:    positive(p.MaxBackoff, 15*time.Second),
		SlowAfter:     positive(p.SlowAfter, time.Second),
		MaxRetryAfter: positive(p.MaxRetryAfter, 60*time.Second),
		MaxBodyBytes:  positive(p.MaxBodyBytes, 64<<20),
		MaxRatio:      positive(p.MaxRatio, 400),
		MinRate:       positive(p.MinRate, 1<<10),
		RateOver:      positive(p.RateOver, 15*time.Second),
		Rows:          p.Rows,
	}
}

func positive[T int | int64 | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Client sends requests to sources. It decides which addresses may be asked, and
// never follows a redirect: the address behind one was not checked. A context has to end its
// requests and the reading of their answers.
type Client interface {
	Do(req *http.Request) (*http.Response, error)
}

// Place is the right to make one request.
type Place interface {
	Yield() // gives the place to another request, although this one goes on
	Done()  // the request has ended
}

// anywhere is a place without limits.
type anywhere struct{}

func (anywhere) Yield() {}
func (anywhere) Done()  {}

// Source fetches the pages of one export. It is safe for concurrent use.
type Source struct {
	client  Client
	policy  Policy
	method  string
	url     url.URL
	host    string
	header  http.Header
	query   string // of a GET, without page and limit
	body    []byte // of a POST: an object without its end, page and limit
	limit   int
	secrets []string // never shown, longest first

	// Turn waits for a place to make one request. It is asked for each
	// attempt anew, so that a source in its backoff keeps nobody waiting.
	Turn   func(context.Context) (Place, error)
	Memory *Memory                                    // for answers; nil: without limit
	Sleep  func(context.Context, time.Duration) error // waits before the next attempt
	usual  atomic.Int64                               // bytes of the largest answer so far
	jitter func(limit time.Duration) time.Duration    // from 0 to limit
}

// New checks req and prepares its requests. It asks nothing yet. The
// error names the field; it never holds the value of a header.
func New(client Client, req Request, policy Policy) (*Source, error) {
	if client == nil {
		return nil, errors.New("source: New needs an HTTP client")
	}
	s := &Source{
		client: client,
		policy: policy.withDefaults(),
		limit:  req.Limit,
		Turn:   func(context.Context) (Place, error) { return anywhere{}, nil },
		Sleep:  Sleep,
		jitter: func(limit time.Duration) time.Duration { return rand.N(limit + 1) },
	}
	if req.Limit < 1 {
		return nil, fmt.Errorf("source limit is %d; it must be at least 1", req.Limit)
	}
	switch s.method = strings.ToUpper(req.Method); s.method {
	case "":
		s.method = http.MethodGet
	case http.MethodGet, http.MethodPost:
	default:
		return nil, fmt.Errorf("source method %.20q is not supported; use GET or POST", req.Method)
	}
	if err := s.setURL(req.URL); err != nil {
		return nil, err
	}
	if err := s.setHeader(req.Header); err != nil {
		return nil, err
	}
	if !httpguts.ValidHeaderFieldValue(req.TaskID) {
		return nil, errors.New("the key of the export is not a header value")
	}
	s.header.Set("xt-export-taskId", req.TaskID)
	if err := s.setParam(req.Param, req.SecretParam); err != nil {
		return nil, err
	}
	slices.SortFunc(s.secrets, func(a, b string) int { return len(b) - len(a) })
	return s, nil
}

func (s *Source) setURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // without the URL, which may hold a password
		}
		return fmt.Errorf("source url is not a URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("source url must be absolute and begin with http:// or https://")
	}
	if password, ok := u.User.Password(); ok {
		s.keep(password)
	}
	u.Fragment = ""
	s.url = *u
	return nil
}

// Host names what a limit per host counts: scheme, host and port of the URL.
func (s *Source) Host() string {
	port := cmp.Or(s.url.Port(), map[string]string{"http": "80", "https": "443"}[s.url.Scheme])
	return s.url.Scheme + "://" + strings.ToLower(s.url.Hostname()) + ":" + port
}

// Fields that describe one connection or its framing (RFC 9110, 7.6.1 and
// 8.6; RFC 9112, 6.1): a caller's value for them could only break the request.
var refusedHeaders = []string{
	"Connection", "Content-Length", "Expect", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (s *Source) setHeader(header secrets.Values) error {
	s.header = http.Header{
		// Asking for gzip here and not in the transport keeps the decoding, and
		// so its limits, in our hands.
		"Accept-Encoding": {"gzip"},
		"Accept":          {"application/json"},
		"User-Agent":      {"sheaf"},
	}
	if s.method == http.MethodPost {
		s.header.Set("Content-Type", "application/json")
	}
	seen := map[string]bool{}
	for name, value := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("source header %.64q is not a header name", name)
		}
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case seen[canonical]:
			return fmt.Errorf("source header %s is given twice", canonical)
		case slices.Contains(refusedHeaders, canonical) || strings.HasPrefix(canonical, "Proxy-"):
			return fmt.Errorf("source header %s cannot be set; leave it out", canonical)
		case !httpguts.ValidHeaderFieldValue(value):
			return fmt.Errorf("the value of source header %s holds a line break or another control character", canonical)
		}
		seen[canonical] = true
		s.keep(value)
		if canonical == "Host" {
			if value == "" || !httpguts.ValidHostHeader(value) {
				return errors.New("the value of source header Host is not a host")
			}
			s.host = value
			continue
		}
		s.header.Set(canonical, value)
	}
	return nil
}

// Of what no message may show: shorter values, and shorter words in them, are left
// out. Blotting them out would make messages unreadable and hide little.
const (
	leastSecret     = 4
	leastSecretWord = 6
)

// keep remembers what no message may show: a value, and the words in it, which may be
// all that a source repeats of "Bearer abc", "sid=abc; lang=en" or `token="abc"`.
func (s *Source) keep(value string) {
	if len(value) >= leastSecret {
		s.secrets = append(s.secrets, value)
	}
	for _, word := range strings.FieldsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`=;,&"'`, r) }) {
		if len(word) >= leastSecretWord && word != value {
			s.secrets = append(s.secrets, word)
		}
	}
	if kind, credentials, _ := strings.Cut(value, " "); strings.EqualFold(kind, "Basic") { // RFC 7617
		if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil {
			user, password, _ := strings.Cut(string(plain), ":")
			s.keep(user)
			s.keep(password)
		}
	}
}

// keepAll is keep for every text in a JSON value.
func (s *Source) keepAll(v any) {
	switch v := v.(type) {
	case string:
		s.keep(v)
	case []any:
		for _, e := range v {
			s.keepAll(e)
		}
	case map[string]any:
		for _, e := range v {
			s.keepAll(e)
		}
	}
}

// redactJSON is redact for a JSON value, in whose escapes a secret could hide.
func (s *Source) redactJSON(raw string) string {
	var text string
	if json.Unmarshal([]byte(raw), &text) != nil {
		return s.redact(raw)
	}
	quoted, err := json.Marshal(s.redact(text))
	if err != nil {
		return ""
	}
	return string(quoted)
}

func (s *Source) redact(msg string) string {
	for _, secret := range s.secrets {
		msg = strings.ReplaceAll(msg, secret, "***")
		// A message is cut before it comes here, perhaps in the middle of a secret.
		for n := len(secret) - 1; n >= 4; n-- {
			if rest, cut := strings.CutSuffix(msg, secret[:n]); cut {
				msg = rest + "***"
				break
			}
		}
	}
	// The text goes on to logs, terminals and pages: nothing in it may move a
	// cursor or turn the direction of writing.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, msg)
}

func (s *Source) setParam(param json.RawMessage, secret []string) error {
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
			s.keep(queryText(v))
			s.keep(url.QueryEscape(queryText(v))) // as a source may repeat it from the query
			var nested any
			if json.Unmarshal(v.Raw, &nested) == nil {
				s.keepAll(nested)
			}
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

// request makes the request for one page.
func (s *Source) request(ctx context.Context, page int) *http.Request {
	u := s.url
	req := &http.Request{Method: s.method, URL: &u, Host: s.host, Header: s.header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if s.method == http.MethodPost {
		body := fmt.Appendf(slices.Clip(s.body), `"page":%d,"limit":%d}`, page, s.limit)
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	} else {
		if s.query != "" {
			u.RawQuery = s.query + "&"
		} else {
			u.RawQuery = ""
		}
		u.RawQuery += fmt.Sprintf("page=%d&limit=%d", page, s.limit)
	}
	return req.WithContext(ctx)
}

// Fetched is one page. Body is the answer after decompression; Response
// aliases it.
type Fetched struct {
	Body     []byte
	Response rows.Response
	Attempts int           // requests that were made
	Elapsed  time.Duration // with all waits

	share *share // of the memory for answers
}

// Release gives the memory of Body back for later pages. It must be called.
// Nothing may use Body or Response.Rows any more.
func (f *Fetched) Release() {
	recycle(f.Body)
	f.share.release()
	f.Body, f.Response.Rows, f.Response.FirstRow = nil, nil, nil
}

// Fetch asks for one page until it has it, the failure is final or the
// attempts are used up. An error is a [*Failure].
//
// It asks again after timeouts, broken connections and transfers, and the
// statuses 408, 425, 429 and 5xx; with a Retry-After also after 202 and any other 4xx, such as
// 403; once more after a body whose JSON ends too early.
// All else is final at once: other statuses, redirects, errcode != 0, HTML, a
// wrong form, a limit. A source may therefore see a page asked for more than
// once. Fetch returns as soon as ctx ends, also while it waits.
func (s *Source) Fetch(ctx context.Context, page int) (Fetched, error) {
	start := time.Now()
	early := 0 // answers whose JSON ended too early
	for n := 1; ; n++ {
		turn, err := s.Turn(ctx)
		if err != nil {
			return Fetched{}, ended(ctx, page, n-1)
		}
		// A source that does not answer must not keep the others waiting: its
		// place goes to somebody else, and the request goes on without.
		slow := time.AfterFunc(s.policy.SlowAfter, turn.Yield)
		f, wrong := s.attempt(ctx, page)
		slow.Stop()
		turn.Done()
		if wrong == nil {
			f.Attempts, f.Elapsed = n, time.Since(start)
			return f, nil
		}
		if short := (*shortError)(nil); errors.As(wrong.failure.Err, &short) {
			// Not the source's fault, and no attempt of its: with enough memory
			// set aside the same page is asked for again.
			s.expect(short.want)
			n--
			continue
		}
		wrong.failure.Page, wrong.failure.Attempts = page, n
		if ctx.Err() != nil {
			return Fetched{}, ended(ctx, page, n)
		}
		if wrong.again == onceMore {
			early++
		}
		if wrong.again == never || early > 1 || n >= s.policy.Attempts {
			return Fetched{}, &wrong.failure
		}
		if err := s.Sleep(ctx, s.wait(n, wrong.after)); err != nil {
			return Fetched{}, ended(ctx, page, n)
		}
	}
}

// ended is the failure of a fetch whose context is over.
func ended(ctx context.Context, page, attempts int) *Failure {
	return &Failure{Page: page, Attempts: attempts, Msg: "the fetch was stopped", Err: context.Cause(ctx)}
}

// wait is the time before attempt n+1. With a Retry-After it adds a little
// jitter, so that all pages of a source do not come back in the same instant.
func (s *Source) wait(n int, after time.Duration) time.Duration {
	if after > 0 {
		return min(after, s.policy.MaxRetryAfter) + s.jitter(s.policy.BaseBackoff)
	}
	limit := s.policy.BaseBackoff
	for range n - 1 {
		if limit >= s.policy.MaxBackoff/2 {
			limit = s.policy.MaxBackoff
			break
		}
		limit *= 2
	}
	return s.jitter(min(limit, s.policy.MaxBackoff))
}

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wrong is an attempt that brought no page.
type wrong struct {
	failure Failure
	again   again
	after   time.Duration // Retry-After, 0 without
}

type again int

const (
	never again = iota
	onceMore
	always
)

var (
	errNoHeaders = errors.New("no answer in time")
	errNoBody    = errors.New("answer not complete in time")
	errTooSlow   = errors.New("answer slower than the least rate")
)

// expect has later attempts set aside memory for answers of size bytes.
func (s *Source) expect(size int64) {
	for old := s.usual.Load(); size > old && !s.usual.CompareAndSwap(old, size); {
		old = s.usual.Load()
	}
}

func (s *Source) attempt(parent context.Context, page int) (_ Fetched, bad *wrong) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	total := time.AfterFunc(s.policy.PageTimeout, func() { cancel(errNoBody) })
	defer total.Stop()
	headers := time.AfterFunc(s.policy.HeaderTimeout, func() { cancel(errNoHeaders) })
	defer headers.Stop()

	resp, err := s.client.Do(s.request(ctx, page))
	headers.Stop()
	if err != nil {
		return Fetched{}, s.broken(ctx, err)
	}
	defer resp.Body.Close()
	if !success(resp.StatusCode) || notReady(resp) {
		total.Reset(min(s.policy.PageTimeout, refusalTimeout))
		return Fetched{}, s.refusal(resp)
	}
	// Memory is set aside for an answer that has begun, not for one that may
	// never come. Waiting for it is not the source's time.
	total.Stop()
	share, err := s.Memory.take(parent, s.usual.Load())
	if err != nil {
		return Fetched{}, s.broken(parent, err)
	}
	defer func() {
		if bad != nil {
			share.release()
		}
	}()
	total.Reset(s.policy.PageTimeout)
	from := &tally{r: resp.Body}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{from, resp.Body}
	defer from.pace(s.policy.MinRate, s.policy.RateOver, func() { cancel(errTooSlow) })()
	body, bad := s.read(ctx, resp, s.policy.MaxBodyBytes, share)
	if bad != nil {
		recycle(body)
		return Fetched{}, bad
	}
	s.expect(int64(len(body)))
	r, err := rows.ScanResponse(body, s.policy.Rows)
	if err != nil {
		recycle(body)
		w := misshapen(resp.StatusCode, err)
		w.failure.Hint = s.redact(w.failure.Hint)
		if _, strange, _ := contentCoding(resp.Header); strange != "" {
			w.failure.Msg += fmt.Sprintf("; the Content-Encoding %s is not supported, gzip and deflate are", strange)
		}
		return Fetched{}, w
	}
	if !r.OK() {
		recycle(body)
		return Fetched{}, &wrong{failure: Failure{
			Code: events.CodeSourceErrcode, Status: resp.StatusCode, Errcode: s.redactJSON(r.Errcode), Msg: s.redact(r.Msg),
		}}
	}
	return Fetched{Body: body, Response: r, share: share}, nil
}

// notReady reports whether an answer says that the page will be there later. A 202 alone is a page like any other:
// some sources answer so.
func notReady(resp *http.Response) bool {
	_, asked := retryafter.Parse(resp.Header, time.Now())
	return resp.StatusCode == http.StatusAccepted && asked
}

// misshapen is the failure of an answer that is not in the standard format.
func misshapen(status int, err error) *wrong {
	w := &wrong{failure: Failure{Code: events.CodeSourceFormat, Status: status, Msg: err.Error(), Err: err}}
	if e := (*rows.SyntaxError)(nil); errors.As(err, &e) {
		w.failure.Hint = e.Hint
		if e.Truncated {
			w.again = onceMore
		}
	}
	switch {
	case errors.Is(err, rows.ErrTooManyRows):
		w.failure.Code = events.CodeLimitRows
	case errors.Is(err, rows.ErrTooManyFields):
		w.failure.Code = events.CodeLimitColumns
		w.failure.Msg += " (--max-columns)"
	case errors.Is(err, rows.ErrRowTooLong):
		w.failure.Code = events.CodeLimitBytes
		w.failure.Msg += " (--max-row-bytes)"
	case errors.Is(err, rows.ErrTooDeep):
		w.failure.Msg += " (--max-json-depth)"
	}
	return w
}

// What is read of an answer that is no success, and how long that may take.
const (
	maxRefusal     = 64 << 10
	refusalTimeout = 5 * time.Second
)

// refusal is the failure of an answer whose status is not a success. When its body
// is the standard envelope, the failure carries its errcode if that is a number,
// and nothing else of it: an answer that is not a page of a source may be anything,
// and whoever named the address must not read it.
func (s *Source) refusal(resp *http.Response) *wrong {
	w := &wrong{failure: Failure{Code: events.CodeSourceHTTP, Status: resp.StatusCode}}
	wait, asked := retryafter.Parse(resp.Header, time.Now())
	switch status := resp.StatusCode; {
	case status == http.StatusAccepted:
		w.again = always
		w.failure.Msg = "the source answers 202: the page is not ready"
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500,
		status >= 400 && asked: // as rate limits answer 403 (GitHub), and 413 (RFC 9110, 15.5.14)
		w.again = always
	case status >= 300 && status < 400:
		w.failure.Msg = "redirects are not followed; give the address it leads to"
	case status == http.StatusPartialContent:
		w.failure.Msg = "the source sent a part of the answer"
	}
	if w.again == always && asked {
		w.after = wait
		if w.failure.Msg == "" && wait > s.policy.MaxRetryAfter {
			w.failure.Msg = fmt.Sprintf("the source asks to wait %s, at most %s is waited", wait.Round(time.Second), s.policy.MaxRetryAfter)
		}
	}
	// Reading also frees the connection for the next request. Nothing that
	// goes wrong here changes what the status says.
	body, bad := s.read(resp.Request.Context(), resp, maxRefusal, nil)
	if bad == nil {
		if r, err := rows.ScanResponse(body, s.policy.Rows); err == nil && !r.OK() {
			if n, err := strconv.ParseInt(r.Errcode, 10, 32); err == nil {
				w.failure.Errcode = strconv.FormatInt(n, 10)
			}
		}
	}
	recycle(body)
	return w
}

// broken is the failure of a request that brought no answer, or not all of it.
func (s *Source) broken(ctx context.Context, err error) *wrong {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // without the URL, which may hold secrets
	}
	unreachable := func(a again, msg string) *wrong {
		return &wrong{failure: Failure{Code: events.CodeSourceUnreachable, Msg: msg, Err: err}, again: a}
	}
	timeout := func(msg string) *wrong {
		return &wrong{failure: Failure{Code: events.CodeSourceTimeout, Msg: msg, Err: err}, again: always}
	}
	var (
		netErr  net.Error
		dnsErr  *net.DNSError
		certErr *tls.CertificateVerificationError
		tlsErr  tls.RecordHeaderError
	)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errNoHeaders):
		return timeout(fmt.Sprintf("no answer within %s", s.policy.HeaderTimeout))
	case errors.Is(cause, errTooSlow):
		return timeout(fmt.Sprintf("the answer brought less than %d bytes a second over %s (--min-throughput)", s.policy.MinRate, s.policy.RateOver))
	case errors.Is(cause, errNoBody):
		return timeout(fmt.Sprintf("the answer was not complete within %s", s.policy.PageTimeout))
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedPort), errors.Is(err, ssrf.ErrProhibitedNetwork):
		return unreachable(never, "the source's address may not be asked: sheaf serve opens private ranges with --allow-cidr, nothing opens those of cloud metadata")
	case errors.As(err, &certErr):
		return unreachable(never, "the source's TLS certificate is not valid")
	case errors.As(err, &tlsErr), errors.Is(err, http.ErrSchemeMismatch):
		return unreachable(never, "the source does not speak TLS; use http:// in its url")
	case errors.As(err, &dnsErr):
		return unreachable(always, "the source's host name could not be resolved")
	case errors.Is(err, syscall.ECONNREFUSED):
		return unreachable(always, "connection refused")
	case errors.As(err, &netErr) && netErr.Timeout():
		return timeout("the connection timed out")
	}
	return unreachable(always, "the connection broke")
}

// tally counts the bytes that come from the network and keeps their error, to
// tell a broken transfer from a broken encoding.
type tally struct {
	r   io.Reader
	n   atomic.Int64
	max int64 // 0 for no limit
	err error
}

// pace calls slow once fewer than rate bytes a second have come over a span. stop
// ends that.
func (t *tally) pace(rate int64, over time.Duration, slow func()) (stop func()) {
	var mu sync.Mutex
	var seen int64
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(over, func() {
		mu.Lock()
		defer mu.Unlock()
		now := t.n.Load()
		if now-seen < int64(float64(rate)*over.Seconds()) {
			slow()
			return
		}
		seen = now
		timer.Reset(over)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.n.Add(int64(n)) > t.max && t.max > 0 {
		err = errTooMany
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

var (
	buffers  = sync.Pool{New: func() any { return new([]byte) }}
	inflates = sync.Pool{New: func() any { return newInflater() }}
)

// recycle keeps a buffer for a later page. A very large one is left to the
// garbage collector, so that one giant page does not stay in memory.
func recycle(b []byte) {
	if cap(b) > 0 && cap(b) <= 4<<20 {
		b = b[:0]
		buffers.Put(&b)
	}
}

// Below this size an answer's ratio does no harm, and may be high: an empty
// page in a few bytes.
const ratioFrom = 8 << 20

// read reads and decompresses a body of at most limit bytes. The bytes are
// from the pool, also when something is wrong.
func (s *Source) read(ctx context.Context, resp *http.Response, limit int64, share *share) ([]byte, *wrong) {
	buf := (*buffers.Get().(*[]byte))[:0]
	fail := func(code, msg string, a again, err error) ([]byte, *wrong) {
		return buf, &wrong{failure: Failure{Code: code, Status: resp.StatusCode, Msg: msg, Err: err}, again: a}
	}
	tooLarge := fmt.Sprintf("the answer is larger than %d bytes (--max-page-bytes)", limit)
	from := &tally{r: resp.Body}
	var body io.Reader = from
	ratio := int64(0)
	coding, _, err := contentCoding(resp.Header)
	switch {
	case err != nil:
		return fail(events.CodeSourceFormat, err.Error(), never, err)
	case coding == "":
		if resp.ContentLength > limit {
			return fail(events.CodeLimitBytes, tooLarge, never, nil)
		}
		// A larger announcement is believed as its bytes come.
		buf = slices.Grow(buf, int(min(max(resp.ContentLength, 0), 1<<20))+1)
	default:
		from.max = limit + moreCompressed
		z := inflates.Get().(*inflater)
		defer inflates.Put(z)
		if err := z.reset(from, coding); err != nil && !errors.Is(err, io.EOF) { // EOF: an empty body
			return s.undone(ctx, resp, from, buf, err)
		} else if err == nil {
			body = z
		}
		ratio = s.policy.MaxRatio
	}
	for {
		if len(buf) == cap(buf) {
			more := max(len(buf), 32<<10)
			if err := share.grow(int64(len(buf) + more)); err != nil {
				return fail(events.CodeLimitBytes, "no memory for the answer", always, err)
			}
			buf = slices.Grow(buf, more)
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		size := int64(len(buf))
		switch {
		case size > limit:
			return fail(events.CodeLimitBytes, tooLarge, never, nil)
		case ratio > 0 && size > ratioFrom && size/ratio > from.n.Load():
			return fail(events.CodeLimitBytes, fmt.Sprintf("the answer grows to more than %d times its compressed size (--max-compression-ratio)", ratio), never, nil)
		case err == io.EOF:
			return buf, nil
		case errors.Is(err, errTooMany):
			return fail(events.CodeLimitBytes, tooLarge, never, err)
		case err != nil:
			return s.undone(ctx, resp, from, buf, err)
		}
	}
}

// undone is the failure of a body that could not be read to its end.
func (s *Source) undone(ctx context.Context, resp *http.Response, from *tally, buf []byte, err error) ([]byte, *wrong) {
	coding, _, _ := contentCoding(resp.Header)
	w := &wrong{failure: Failure{Code: events.CodeSourceFormat, Msg: "the answer's " + coding + " encoding is broken", Err: err}}
	switch {
	case errors.Is(err, errTrailing):
		w.failure.Msg = "the answer has data after its " + coding + " encoding, other than zeros and white space"
	case context.Cause(ctx) != nil:
		w = s.broken(ctx, err)
	case from.err != nil, errors.Is(err, io.ErrUnexpectedEOF):
		w = s.broken(ctx, err)
		w.failure.Msg = fmt.Sprintf("the answer broke off at byte %d", from.n.Load())
	}
	w.failure.Status = resp.StatusCode
	return buf, w
}
