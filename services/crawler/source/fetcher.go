package source

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"sheaf/events"
	"sheaf/events/rows"
)

// Policy bounds the fetching of one page. A field that is zero or less means its default.
type Policy struct {
	Attempts      int           // requests for one page, the first one included; default 6
	HeaderTimeout time.Duration // of one attempt up to the headers of the response; default 30s
	PageTimeout   time.Duration // of a whole attempt; default 60s
	BaseBackoff   time.Duration // the backoff before attempt n+1 is a random time up to BaseBackoff·2^(n-1); default 500ms
	MaxBackoff    time.Duration // maximum backoff; default 15s
	SlowAfter     time.Duration // how long an attempt counts among the requests in flight; default 1s
	MaxRetryAfter time.Duration // maximum announced wait that is honoured, if the request has no max_wait; default 60s
	MaxBodyBytes  int64         // of one response after decompression; default 64 MiB
	// MaxRatio bounds the ratio of decompressed to compressed bytes, once a response exceeds 8 MiB. Measured:
	// 11 for a page of mixed rows, 330 for one of equal rows. DEFLATE reaches at most 1032. Default 400.
	MaxRatio int64
	// MinRate aborts responses slower than this many bytes per second, averaged over RateOver. Default 1 KiB
	// over 15 s.
	MinRate  int64
	RateOver time.Duration
	Rows     rows.Limits // of the JSON of a response
}

func (p Policy) withDefaults() Policy {
	p.Attempts = cmp.Or(max(p.Attempts, 0), 6)
	p.HeaderTimeout = cmp.Or(max(p.HeaderTimeout, 0), 30*time.Second)
	p.PageTimeout = cmp.Or(max(p.PageTimeout, 0), 60*time.Second)
	p.BaseBackoff = cmp.Or(max(p.BaseBackoff, 0), 500*time.Millisecond)
	p.MaxBackoff = cmp.Or(max(p.MaxBackoff, 0), 15*time.Second)
	p.SlowAfter = cmp.Or(max(p.SlowAfter, 0), time.Second)
	p.MaxRetryAfter = cmp.Or(max(p.MaxRetryAfter, 0), 60*time.Second)
	p.MaxBodyBytes = cmp.Or(max(p.MaxBodyBytes, 0), 64<<20)
	p.MaxRatio = cmp.Or(max(p.MaxRatio, 0), 400)
	p.MinRate = cmp.Or(max(p.MinRate, 0), 1<<10)
	p.RateOver = cmp.Or(max(p.RateOver, 0), 15*time.Second)
	return p
}

// Client sends requests to sources. It decides which addresses are allowed, and never follows a redirect,
// because the new address was not checked. A context must end its requests and the reading of their
// responses.
type Client interface {
	Do(req *http.Request) (*http.Response, error)
}

// Place is the right to make one request.
type Place interface {
	Yield() // releases the place for another request, although this one continues
	Done()  // the request has ended
}

// anywhere is a place without limits.
type anywhere struct{}

func (anywhere) Yield() {}
func (anywhere) Done()  {}

// Fetcher fetches the pages of one export. It is safe for concurrent use. Change its fields only before the
// first page.
type Fetcher struct {
	Shape  Shape
	Turn   func(context.Context) (Place, error)       // waits for a place, once per attempt
	Memory *Memory                                    // for responses; nil: without limit
	Sleep  func(context.Context, time.Duration) error // waits before the next attempt
	Rests  *Rests                                     // of hosts that asked for a pause; nil: each page waits for itself
	// Waiting reports that pages wait because the source asked for it, at most until then, and with the zero
	// time that none does any more. nil: it is not reported. Calls do not overlap.
	Waiting func(until time.Time)
	// Sent is called before each request, the nth for its page. It returns a function that is called with the
	// failure of the request, or nil once the page is there.
	Sent func(ctx context.Context, at Position, n int) (ended func(*Failure))
	// Retrying is called before a request is repeated, with the failure of the one before.
	Retrying func(context.Context, *Failure)

	client  Client
	policy  Policy
	url     url.URL
	secrets redactor
	form    *declared                               // the shape that New chose, nil for the standard format
	tokens  *tokens                                 // nil without OAuth2
	usual   atomic.Int64                            // bytes of the largest response so far
	jitter  func(limit time.Duration) time.Duration // from 0 to limit
	waiters waiters
}

// New checks req and prepares its requests. It sends nothing yet. The error names the field and never
// contains the value of a header.
func New(client Client, req Request, policy Policy) (*Fetcher, error) {
	if client == nil {
		return nil, errors.New("source: New needs an HTTP client")
	}
	e, err := newEndpoint(req)
	if err != nil {
		return nil, err
	}
	policy = policy.withDefaults()
	if req.From != nil && req.From.MaxWait > 0 {
		policy.MaxRetryAfter = time.Duration(req.From.MaxWait) * time.Second
	}
	limits := policy.Rows
	limits.MaxBytes = int(policy.MaxBodyBytes)
	shape, form, err := newShape(e, req, limits)
	if err != nil {
		return nil, err
	}
	return &Fetcher{
		Shape: shape, Turn: func(context.Context) (Place, error) { return anywhere{}, nil }, Sleep: Sleep,
		Sent:     func(context.Context, Position, int) func(*Failure) { return func(*Failure) {} },
		Retrying: func(context.Context, *Failure) {},
		client:   client, policy: policy, url: e.url, secrets: e.secrets, form: form, tokens: newTokens(client, e.oauth2),
		jitter: func(limit time.Duration) time.Duration { return rand.N(limit + 1) },
	}, nil
}

// hostAt is the host of one page.
func (f *Fetcher) hostAt(at Position) string {
	if f.form != nil {
		if u, err := f.form.target(at); err == nil {
			return hostOf(u)
		}
	}
	return f.Host()
}

// hidden returns the texts that no message about a page may show.
func (f *Fetcher) hidden(at Position) redactor {
	hidden := append(f.tokens.redactor(), f.secrets...)
	if at.Token == "" {
		return hidden
	}
	if f.form != nil && !f.form.followsURL() {
		hidden.add(plainText([]byte(at.Token)))
		hidden.add(url.QueryEscape(plainText([]byte(at.Token))))
		return hidden
	}
	hidden.addAddress(at.Token)
	return hidden
}

// Host names the unit of the limit per host: scheme, host and port of the URL.
func (f *Fetcher) Host() string { return hostOf(&f.url) }

func hostOf(u *url.URL) string {
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + portOf(u)
}

func portOf(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// Page is one page. Body is the answer after decompression; Answer may alias it.
type Page struct {
	Answer
	Body     []byte
	Attempts int // number of requests

	share *share // of the memory for responses
}

// Release returns the memory of Body for later pages. The caller must call it, and must not use Body or
// Answer afterwards.
func (p *Page) Release() {
	recycle(p.Body)
	if p.pooled {
		recycle(p.Rows)
	}
	p.share.release()
	p.Body, p.Answer = nil, Answer{}
}

// Fetch requests one page until it has it, the failure is final or the attempts are exhausted. An error is a
// [*Failure].
//
// It retries timeouts, broken connections and transfers, the statuses 408, 425, 429 and 5xx, and those of
// error.retry_status. With a Retry-After it also retries 202 and any other 4xx, such as 403, and without one any
// 4xx that says that no request is left. A body whose JSON ends too early is retried once, and a 401 once with
// another OAuth2 token. Every other failure is final at once: other statuses, redirects, a failure in a successful
// response, HTML, a wrong form, a limit. A source may therefore see several requests for a page. Fetch returns as
// soon as ctx ends, also while it waits.
//
// It waits while the host rests (see [Rests]), before it takes a place. That is no attempt.
func (f *Fetcher) Fetch(ctx context.Context, at Position) (Page, error) {
	early := 0 // responses whose JSON ended too early
	renewed := false
	host := f.hostAt(at)
	for n := 1; ; n++ {
		rested, err := f.rest(ctx, host)
		if err != nil {
			return Page{}, stopped(ctx, at, n-1)
		}
		place, err := f.Turn(ctx)
		if err != nil {
			return Page{}, stopped(ctx, at, n-1)
		}
		if f.Rests.of(host).After(rested) { // a rest began while the page waited for its turn
			place.Done()
			n--
			continue
		}
		// A source that does not respond must not delay the others, so its place goes to another request.
		slow := time.AfterFunc(f.policy.SlowAfter, place.Yield)
		ended := f.Sent(ctx, at, n)
		page, bad := f.attempt(ctx, at)
		slow.Stop()
		place.Done()
		if bad == nil {
			ended(nil)
			page.Attempts = n
			return page, nil
		}
		ended(&bad.Failure)
		if short := (*shortError)(nil); errors.As(bad.Err, &short) {
			// The budget was short, not the source: this does not count as an attempt. The same page is
			// requested again with enough memory.
			f.expect(short.want)
			n--
			continue
		}
		bad.Page, bad.Attempts = at.Page, n
		if ctx.Err() != nil {
			return Page{}, stopped(ctx, at, n)
		}
		if bad.token != "" && bad.Status == http.StatusUnauthorized && !renewed {
			f.Retrying(ctx, &bad.Failure)
			f.tokens.drop(bad.token)
			renewed = true
			n--
			continue
		}
		if bad.retry == onceMore {
			early++
		}
		if bad.retry == never || early > 1 || n >= f.policy.Attempts {
			return Page{}, &bad.Failure
		}
		f.Retrying(ctx, &bad.Failure)
		sleep := f.Sleep
		if bad.after > 0 {
			sleep = f.pause
		}
		if err := sleep(ctx, f.wait(n, bad.after)); err != nil {
			return Page{}, stopped(ctx, at, n)
		}
	}
}

// stopped is the failure of a fetch whose context has ended.
func stopped(ctx context.Context, at Position, attempts int) *Failure {
	return &Failure{Page: at.Page, Attempts: attempts, Msg: "the fetch was stopped", Err: context.Cause(ctx)}
}

// wait returns the time before attempt n+1. It adds jitter to a Retry-After, so that the pages of a source
// are not all retried in the same instant.
func (f *Fetcher) wait(n int, after time.Duration) time.Duration {
	if after > 0 {
		return min(after, f.policy.MaxRetryAfter) + f.jitter(f.policy.BaseBackoff)
	}
	limit := f.policy.BaseBackoff
	for i := 1; i < n && limit < f.policy.MaxBackoff; i++ {
		if limit *= 2; limit < 0 {
			limit = f.policy.MaxBackoff
		}
	}
	return f.jitter(min(limit, f.policy.MaxBackoff))
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

// failedAttempt is an attempt that returned no page.
type failedAttempt struct {
	Failure
	retry retry
	after time.Duration // announced wait, 0 without
	token string        // that the request was sent with, "" without OAuth2
}

type retry int

const (
	never retry = iota
	onceMore
	always
)

var (
	errNoHeaders = errors.New("no answer in time")
	errNoBody    = errors.New("answer not complete in time")
	errTooSlow   = errors.New("answer slower than the least rate")
)

// expect makes later attempts reserve memory for responses of size bytes.
func (f *Fetcher) expect(size int64) {
	for old := f.usual.Load(); size > old && !f.usual.CompareAndSwap(old, size); {
		old = f.usual.Load()
	}
}

func (f *Fetcher) attempt(parent context.Context, at Position) (_ Page, bad *failedAttempt) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	total := time.AfterFunc(f.policy.PageTimeout, func() { cancel(errNoBody) })
	defer total.Stop()
	headers := time.AfterFunc(f.policy.HeaderTimeout, func() { cancel(errNoHeaders) })
	defer headers.Stop()

	req, err := f.Shape.Request(ctx, at)
	if err != nil {
		return Page{}, f.refused(0, err, at)
	}
	if f.tokens != nil {
		token, err := f.tokens.get(ctx)
		if err != nil {
			return Page{}, f.tokenless(ctx, err)
		}
		req.Header.Set("Authorization", token)
		defer func() {
			if bad != nil {
				bad.token = token
			}
		}()
		headers.Reset(f.policy.HeaderTimeout)
	}
	resp, err := f.client.Do(req)
	headers.Stop()
	if err != nil {
		return Page{}, f.broken(ctx, err)
	}
	defer resp.Body.Close()
	host := hostOf(req.URL)
	wait, asked, spent := announcedWait(resp.Header, resp.StatusCode, f.form.retries(resp.StatusCode), time.Now())
	// A 202 without Retry-After is a normal page: some sources answer so.
	if !f.success(resp.StatusCode) || resp.StatusCode == http.StatusAccepted && asked {
		total.Reset(min(f.policy.PageTimeout, refusalTimeout))
		bad := f.refusal(ctx, resp, at, wait, asked, spent)
		if spent || f.form.retries(resp.StatusCode) || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
			f.restAfter(host, bad.after)
		}
		return Page{}, bad
	}
	if p := readPressure(resp.Header, time.Now()); p.spent && p.known {
		f.restAfter(host, p.wait)
	}
	if f.form != nil && resp.StatusCode == http.StatusNoContent {
		answer, err := f.form.empty(resp.Header, at)
		if err != nil {
			return Page{}, f.refused(resp.StatusCode, err, at)
		}
		return Page{Answer: answer}, nil
	}
	// Memory is reserved for a response that has begun, not for one that may never arrive. The wait for
	// memory does not count against the source's timeout.
	total.Stop()
	share, err := f.Memory.take(parent, f.usual.Load())
	if err != nil {
		return Page{}, f.broken(parent, err)
	}
	total.Reset(f.policy.PageTimeout)
	defer pace(resp, f.policy.MinRate, f.policy.RateOver, func() { cancel(errTooSlow) })()
	body, bad := f.read(ctx, resp, f.policy.MaxBodyBytes, share)
	var answer Answer
	if bad == nil {
		f.expect(int64(len(body)))
		if answer, err = f.Shape.Parse(body, resp.Header, at); err == nil {
			bad = f.holdCopy(answer, int64(cap(body)), share)
		} else {
			bad = f.refused(resp.StatusCode, err, at)
			if errors.Is(err, errThrottled) {
				bad.retry = always
				if bad.after, _, _ = announcedWait(resp.Header, resp.StatusCode, true, time.Now()); bad.after > 0 {
					f.restAfter(host, bad.after)
				}
			}
			if _, strange, _ := contentCoding(resp.Header); strange != "" && bad.Errcode == "" {
				bad.Msg += fmt.Sprintf("; the Content-Encoding %s is not supported, gzip and deflate are", strange)
			}
		}
	}
	if bad != nil {
		recycle(body)
		share.release()
		return Page{}, bad
	}
	return Page{Answer: answer, Body: body, share: share}, nil
}

// success reports whether a status promises the whole page. Declared sources may send a page as a part of the
// list: 206.
func (f *Fetcher) success(status int) bool {
	return success(status) || f.form != nil && status == http.StatusPartialContent
}

// restAfter lets a host rest, at most the longest wait.
func (f *Fetcher) restAfter(host string, wait time.Duration) {
	f.Rests.add(host, time.Now().Add(min(wait, f.policy.MaxRetryAfter)))
}

// holdCopy reserves memory for rows that do not alias the body. The body has size bytes reserved already.
func (f *Fetcher) holdCopy(a Answer, size int64, share *share) *failedAttempt {
	if a.copied == 0 {
		return nil
	}
	if err := share.grow(size + a.copied); err != nil {
		return &failedAttempt{Failure: Failure{Code: events.CodeLimitBytes, Msg: "no memory for the answer", Err: err}, retry: always}
	}
	f.expect(size + a.copied)
	return nil
}

// tokenless is the failure of a request for which there is no token.
func (f *Fetcher) tokenless(ctx context.Context, err error) *failedAttempt {
	if e := (*tokenError)(nil); errors.As(err, &e) {
		bad := &failedAttempt{Failure: e.Failure}
		if e.retry {
			bad.retry = always
		}
		return bad
	}
	bad := f.broken(ctx, err)
	bad.Code, bad.Msg = events.CodeSourceAuth, "the token request failed: "+bad.Msg
	return bad
}

// refused is the failure of a response that the shape refused. It redacts quotations of the source.
func (f *Fetcher) refused(status int, err error, at Position) *failedAttempt {
	bad := &failedAttempt{Failure: Failure{Code: events.CodeInternal, Msg: err.Error(), Err: err}}
	if refused := (*Failure)(nil); errors.As(err, &refused) {
		bad.Failure = *refused
	}
	bad.Status = status
	hidden := f.hidden(at)
	bad.Hint = hidden.redact(bad.Hint)
	if bad.Errcode != "" {
		bad.Errcode = hidden.redactJSON(bad.Errcode)
	}
	if bad.Code == events.CodeSourceErrcode || f.form != nil {
		bad.Msg = hidden.redact(bad.Msg)
	}
	if e := (*rows.SyntaxError)(nil); errors.As(err, &e) && e.Truncated {
		bad.retry = onceMore
	}
	return bad
}

// Limits of bytes and time for reading a response that is not a success.
const (
	maxRefusal     = 64 << 10
	refusalTimeout = 5 * time.Second
)

// refusal is the failure of a response whose status is not a success. If the shape finds a numeric errcode,
// the failure has it, and nothing else of the body. A response that is not a page may be anything on the
// internal network, and the caller who chose the address must not read it.
func (f *Fetcher) refusal(ctx context.Context, resp *http.Response, at Position, wait time.Duration, asked, spent bool) *failedAttempt {
	bad := &failedAttempt{Failure: Failure{Code: events.CodeSourceHTTP, Status: resp.StatusCode}}
	switch status := resp.StatusCode; {
	case status == http.StatusAccepted:
		bad.retry = always
		bad.Msg = "the source answers 202: the page is not ready"
	case f.form.retries(status):
		bad.retry = always
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500,
		status >= 400 && (asked || spent): // as rate limits answer 403 (GitHub), and 413 (RFC 9110, 15.5.14)
		bad.retry = always
	case status >= 300 && status < 400:
		bad.Msg = "redirects are not followed; give the address it leads to"
	case status == http.StatusPartialContent:
		bad.Msg = "the source sent a part of the answer"
	}
	if bad.retry == always && asked {
		bad.after = wait
		if bad.Msg == "" && wait > f.policy.MaxRetryAfter {
			bad.Msg = fmt.Sprintf("the source asks to wait %s, at most %s is waited", wait.Round(time.Second), f.policy.MaxRetryAfter)
			if f.form != nil {
				bad.Msg += " (source_http.max_wait)"
			}
		}
	}
	// Reading also frees the connection for the next request. An error here does not change the meaning of
	// the status.
	body, unread := f.read(ctx, resp, maxRefusal, nil)
	if unread == nil {
		_, err := f.Shape.Parse(body, resp.Header, at)
		if refused := (*Failure)(nil); errors.As(err, &refused) {
			if n, err := strconv.ParseInt(refused.Errcode, 10, 32); err == nil {
				bad.Errcode = strconv.FormatInt(n, 10)
			}
			if errors.Is(err, errThrottled) {
				bad.retry, bad.after = always, wait
			}
		}
	}
	if f.form != nil && bad.retry == never && (bad.Status == http.StatusUnauthorized || bad.Status == http.StatusForbidden) {
		bad.Code = events.CodeSourceAuth
	}
	recycle(body)
	return bad
}

// broken is the failure of a request without a complete response.
func (f *Fetcher) broken(ctx context.Context, err error) *failedAttempt {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // without the URL, which may hold secrets
	}
	unreachable := func(r retry, msg string) *failedAttempt {
		return &failedAttempt{Failure: Failure{Code: events.CodeSourceUnreachable, Msg: msg, Err: err}, retry: r}
	}
	timeout := func(msg string) *failedAttempt {
		return &failedAttempt{Failure: Failure{Code: events.CodeSourceTimeout, Msg: msg, Err: err}, retry: always}
	}
	var (
		netErr  net.Error
		dnsErr  *net.DNSError
		certErr *tls.CertificateVerificationError
		tlsErr  tls.RecordHeaderError
	)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errNoHeaders):
		return timeout(fmt.Sprintf("no answer within %s", f.policy.HeaderTimeout))
	case errors.Is(cause, errTooSlow):
		return timeout(fmt.Sprintf("the answer brought less than %d bytes a second over %s (--min-throughput)", f.policy.MinRate, f.policy.RateOver))
	case errors.Is(cause, errNoBody):
		return timeout(fmt.Sprintf("the answer was not complete within %s", f.policy.PageTimeout))
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
