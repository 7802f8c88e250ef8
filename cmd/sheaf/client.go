package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
)

// client speaks to the REST API of a running server.
type client struct {
	base   *url.URL
	http   *http.Client
	key    string // API key, "" for none
	own    bool   // the server is in this process
	bounds clientBounds
}

// newClient returns a client of the server at a base URL such as
// http://127.0.0.1:8080.
func newClient(server string, as callerFlags) (*client, error) {
	return newBoundedClient(server, as, defaultBounds)
}

func newBoundedClient(server string, as callerFlags, bounds clientBounds) (*client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("--server %q: want http://HOST:PORT or https://HOST", server)
	}
	trust, err := trusting(as.CACert)
	if err != nil {
		return nil, err
	}
	key := as.APIKey
	if name, ok := strings.CutPrefix(key, "@"); ok {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--api-key: %w", err)
		}
		key = strings.TrimSpace(string(data))
	}
	return &client{base: u, key: key, bounds: bounds, http: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        trust,
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: bounds.dial}).DialContext,
			TLSHandshakeTimeout:    bounds.dial,
			ResponseHeaderTimeout:  bounds.header,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		// Nothing sent to a server is for another: the API key, and the secrets of a source.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// trusting returns settings of a client that trusts the authorities in a file in addition to the system's.
func trusting(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-cert: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("--ca-cert %s: holds no certificate in PEM", caFile)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

// clientBounds limit how long a client waits for a server, and how much it reads.
type clientBounds struct {
	dial   time.Duration // for a connection
	header time.Duration // until a response begins
	answer time.Duration // for a whole JSON response
	idle   time.Duration // a download that receives less than minDownload in this time has stalled
}

var defaultBounds = clientBounds{dial: 5 * time.Second, header: 30 * time.Second, answer: time.Minute, idle: 30 * time.Second}

const (
	// maxAnswer bounds a JSON response. History is the largest: at most 1,000 exports.
	maxAnswer = 8 << 20
	// minDownload is 1 KiB per second over 30 s.
	minDownload = 30 << 10
	// sendRate is the minimum expected upload speed of a request, in bytes per second.
	sendRate = 64 << 10
)

func (c *client) close() { c.http.CloseIdleConnections() }

// unreachableError reports a server that did not answer.
type unreachableError struct {
	server string
	err    error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v; does sheaf serve run there? (see --server)", e.server, e.err)
}
func (e *unreachableError) Unwrap() error { return e.err }

// apiError is a refusal by the server.
type apiError struct {
	Status, Errcode int
	Msg, RequestID  string
	own             bool // the server is in this process
}

func (e *apiError) Error() string {
	msg := oneLine(e.Msg)
	if e.Status == http.StatusUnauthorized {
		msg += "; say --api-key or SHEAF_API_KEY"
	}
	if msg == "" {
		msg = http.StatusText(e.Status)
	}
	if e.own && e.Errcode == http.StatusBadRequest {
		return msg // it names the field; there is no server to ask about the request
	}
	return fmt.Sprintf("the server refused: %s (HTTP %d, errcode %d, request %s)", msg, e.Status, e.Errcode, e.RequestID)
}

// temporary reports whether the server asked for a retry.
func temporary(err error) bool {
	var api *apiError
	if errors.As(err, &api) {
		return api.Status == http.StatusServiceUnavailable || api.Status == http.StatusTooManyRequests ||
			api.Status == http.StatusBadGateway || api.Status == http.StatusGatewayTimeout
	}
	var unreachable *unreachableError
	return errors.As(err, &unreachable)
}

// call sends one request and returns the envelope's data. body is JSON, or nil
// for a GET.
func (c *client) call(ctx context.Context, path string, query url.Values, body []byte) (json.RawMessage, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	method, reader := http.MethodGet, io.Reader(nil)
	if body != nil {
		method, reader = http.MethodPost, bytes.NewReader(body)
	}
	bound := c.bounds.answer + time.Duration(len(body)/sendRate)*time.Second
	within, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("no whole answer within %s", bound))
	defer cancel()
	req, err := http.NewRequestWithContext(within, method, u.String(), reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := c.do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &unreachableError{c.base.Redacted(), cmp.Or(context.Cause(within), err)}
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s is larger than %s; of a history ask for fewer exports with --limit", c.base.Redacted(), node.ByteSize(maxAnswer))
	}
	var answer struct {
		Errcode   *int            `json:"errcode"`
		Msg       string          `json:"msg"`
		Data      json.RawMessage `json:"data"`
		RequestID string          `json:"request_id"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Errcode == nil {
		return nil, &apiError{Status: res.StatusCode, Msg: "the answer is not one of Sheaf; is " + c.base.Redacted() + " the right server?"}
	}
	if res.StatusCode >= 300 || *answer.Errcode != 0 {
		return nil, &apiError{res.StatusCode, *answer.Errcode, answer.Msg, answer.RequestID, c.own}
	}
	return answer.Data, nil
}

// do sends a request. A redirect, or a response that leaves HTTP, is an error.
func (c *client) do(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, &unreachableError{c.base.Redacted(), cmp.Or(context.Cause(req.Context()), bare(err))}
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s changed the protocol (HTTP 101), which was not asked for; is it the right --server?", c.base.Redacted())
	case res.StatusCode >= 300 && res.StatusCode < 400:
		_ = res.Body.Close()
		return nil, c.redirected(res)
	}
	return res, nil
}

// redirected is the error of a redirect. It names only the host of the new address, because the rest may
// contain secrets.
func (c *client) redirected(res *http.Response) error {
	to := "an address that it does not name"
	if u, err := res.Location(); err == nil {
		to = oneLine(u.Scheme + "://" + u.Host)
	}
	return fmt.Errorf("%s redirects to %s (HTTP %d); redirects are not followed, since the API key and the secrets of sources would go along: "+
		"if that server is yours, name it with --server", c.base.Redacted(), to, res.StatusCode)
}

// bare removes the "Get http://...:" that net/http puts before an error.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// exportDetail is the state of an export in the API.
type exportDetail struct {
	ID         uint64 `json:"id"`
	Key        string `json:"hash_key"`
	Title      string `json:"title"`
	ExtType    string `json:"ext_type"`
	SourceType string `json:"source_type"`
	Status     int    `json:"status"`
	FailReason string `json:"fail_reason"`
	ErrorCode  string `json:"error_code"`
	Reason     string `json:"reason"`
	CreatedAt  moment `json:"created_at"`
	FinishedAt moment `json:"finished_at"`
	ExpiresAt  moment `json:"expires_at"`
	PagesUntil moment `json:"pages_until"`
	DownURL    string `json:"down_url"`
	Progress   *struct {
		Phase      string `json:"phase"`
		PagesDone  int    `json:"pages_done"`
		PagesTotal int    `json:"pages_total"`
		Rows       int64  `json:"rows"`
		Until      moment `json:"until"`
	} `json:"progress"`
	Rows  int64 `json:"rows"`
	Proof *struct {
		Kind      string `json:"kind"`
		Announced int64  `json:"announced"`
		Rows      int64  `json:"rows"`
		Pages     int    `json:"pages"`
	} `json:"proof"`
	Files    []exportFile `json:"files"`
	Warnings []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"warnings"`
	Callback *struct {
		State      string `json:"state"`
		Attempts   int    `json:"attempts"`
		LastStatus int    `json:"last_status"`
	} `json:"callback"`
}

type exportFile struct {
	Name     string           `json:"name"`
	Size     int64            `json:"size"`
	SHA256   string           `json:"sha256"`
	Rows     int64            `json:"rows"`
	Contents []events.Content `json:"contents"`
}

// moment is a time that may be missing: null, "" or absent.
type moment struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (m *moment) UnmarshalJSON(data []byte) error {
	if string(data) == `""` {
		*m = moment{}
		return nil
	}
	return json.Unmarshal(data, &m.Time)
}

// String is for people: local time, "" when missing.
func (m moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Local().Format(time.DateTime)
}

// The status numbers of the API.
const (
	statusProcessing = 1
	statusSucceeded  = 2
	statusFailed     = 3
	statusCancelled  = 4
)

func statusName(status int) string {
	switch status {
	case statusProcessing:
		return "processing"
	case statusSucceeded:
		return "succeeded"
	case statusFailed:
		return "failed"
	case statusCancelled:
		return "cancelled"
	}
	return "status " + strconv.Itoa(status)
}

// submit sends an export and returns its key. sourceType is http or raw.
func (c *client) submit(ctx context.Context, sourceType string, body []byte) (acceptedExport, error) {
	var accepted acceptedExport
	data, err := c.call(ctx, "/v1/export/"+sourceType, nil, body)
	if err != nil {
		return accepted, err
	}
	if err := json.Unmarshal(data, &accepted); err != nil || accepted.Key == "" {
		return accepted, errors.New("the server accepted the export but named no hash_key")
	}
	return accepted, nil
}

// acceptedExport is the response to a submission.
type acceptedExport struct {
	Key      string   `json:"hash_key"`
	Warnings []string `json:"warnings,omitempty"` // warnings about the request, such as unknown fields
}

// detail returns the state of an export, parsed and unparsed.
func (c *client) detail(ctx context.Context, key string) (exportDetail, json.RawMessage, error) {
	data, err := c.call(ctx, "/v1/export/detail", url.Values{"key": {key}}, nil)
	if err != nil {
		return exportDetail{}, nil, err
	}
	var d exportDetail
	if err := json.Unmarshal(data, &d); err != nil {
		return exportDetail{}, nil, fmt.Errorf("reading the server's answer: %w", err)
	}
	return d, data, nil
}

// act sends a key to an operation such as cancel.
func (c *client) act(ctx context.Context, operation, key string) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]string{"key": key})
	if err != nil {
		return nil, err
	}
	return c.call(ctx, "/v1/export/"+operation, nil, body)
}

// maxOutage is how long a wait continues without an answer.
const maxOutage = time.Minute

// wait polls until the export has ended and shows its progress. The error is nil only for a successful
// export. Each pause is a 25th of the elapsed time, so that polling adds at most that to it.
func (c *client) wait(ctx context.Context, key string, show progress) (exportDetail, error) {
	defer show.close()
	var outage time.Time
	for begun := time.Now(); ; {
		d, _, err := c.detail(ctx, key)
		switch {
		case err == nil:
			outage = time.Time{}
			show.update(d)
			if d.Status != statusProcessing {
				return d, ended(d)
			}
		case !temporary(err):
			return d, err
		case outage.IsZero():
			outage = time.Now()
		case time.Since(outage) > maxOutage:
			return d, err
		}
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-time.After(min(max(time.Since(begun)/25, 10*time.Millisecond), 500*time.Millisecond)):
		}
	}
}

// exportError is an export that ended without a file.
type exportError struct {
	msg  string
	code string // its error_code, "" if it has none
}

func (e *exportError) Error() string { return e.msg }

// ended returns nil for a successful export, and otherwise the reason.
func ended(d exportDetail) error {
	switch d.Status {
	case statusSucceeded:
		return nil
	case statusCancelled:
		return &exportError{"the export was cancelled", "CANCELLED"}
	}
	reason := oneLine(d.FailReason)
	if reason == "" {
		reason = "no reason given"
	}
	if d.ErrorCode != "" {
		reason += " (" + d.ErrorCode + ")"
	}
	return &exportError{"the export failed: " + reason, d.ErrorCode}
}

// download writes the export's file to a new file, and checks it. A broken transfer resumes.
func (c *client) download(ctx context.Context, d exportDetail, name string) error {
	if err := ended(d); d.Status != statusProcessing && err != nil {
		return err
	}
	if d.Status == statusProcessing {
		return errors.New("the export is still under way (see sheaf watch)")
	}
	if d.DownURL == "" || len(d.Files) == 0 {
		return errors.New("the file is gone: " + cmp.Or(oneLine(d.Reason), "it has expired") + " (see sheaf retry)")
	}
	return writeNew(name, func(f *os.File) error {
		want := d.Files[0]
		sum, got := sha256.New(), int64(0)
		for attempt := 1; ; attempt++ {
			n, err := c.downloadFrom(ctx, d.DownURL, io.MultiWriter(f, sum), got, want.Size)
			got += n
			if err == nil {
				return checkFile(want, got, sum)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if attempt == 5 || (n == 0 && !temporary(err)) || errors.Is(err, errTooLarge) {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(attempt) * 200 * time.Millisecond):
			}
		}
	})
}

func checkFile(want exportFile, size int64, sum hash.Hash) error {
	if size != want.Size {
		return fmt.Errorf("the download has %d bytes, the export %d", size, want.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.SHA256 != "" && got != want.SHA256 {
		return fmt.Errorf("the download has sha256 %s, the export %s", got, want.SHA256)
	}
	return nil
}

// downloadFrom copies the file from an offset up to its size, and returns the number of bytes copied. The
// link's signature covers only its path, so the request goes to the server that this client knows. The
// server's public name may not be reachable from here.
func (c *client) downloadFrom(ctx context.Context, link string, w io.Writer, offset, size int64) (int64, error) {
	u, err := url.Parse(link)
	if err != nil {
		return 0, fmt.Errorf("the server's link: %w", err)
	}
	if at := strings.Index(u.Path, "/v1/down/"); at >= 0 {
		query := u.RawQuery
		u = c.base.JoinPath(u.Path[at:])
		u.RawQuery = query
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		want = http.StatusPartialContent
	}
	res, err := c.do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		var answer struct {
			Errcode   int    `json:"errcode"`
			Msg       string `json:"msg"`
			RequestID string `json:"request_id"`
		}
		_ = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&answer) // a proxy may answer with other text
		return 0, &apiError{res.StatusCode, answer.Errcode, cmp.Or(answer.Msg, "the download failed"), answer.RequestID, c.own}
	}
	if res.ContentLength > size-offset {
		return 0, fmt.Errorf("%w: %d bytes", errTooLarge, size)
	}
	body := &flow{r: io.LimitReader(res.Body, size-offset+1)}
	defer body.watch(c.bounds.idle, func() {
		cancel(fmt.Errorf("less than %s came in %s", node.ByteSize(minDownload), c.bounds.idle))
	})()
	n, err := io.Copy(w, body)
	switch {
	case err != nil && context.Cause(ctx) != nil:
		return n, fmt.Errorf("downloading: %w", context.Cause(ctx))
	case err != nil:
		return n, fmt.Errorf("downloading: %w", err)
	case n > size-offset:
		return n, fmt.Errorf("%w: %d bytes", errTooLarge, size)
	}
	return n, nil
}

var errTooLarge = errors.New("the download is larger than the export")

// flow counts the bytes read.
type flow struct {
	r io.Reader
	n atomic.Int64
}

func (f *flow) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.n.Add(int64(n))
	return n, err
}

// watch calls stalled, once, when fewer than minDownload bytes arrived in a span of time. stop ends the
// check.
func (f *flow) watch(over time.Duration, stalled func()) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(over)
		defer tick.Stop()
		for before := int64(0); ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := f.n.Load()
			if now-before < minDownload {
				stalled()
				return
			}
			before = now
		}
	})
	return func() {
		close(done)
		ended.Wait()
	}
}

// writeNew creates a file with the permissions of the umask.
func writeNew(name string, write func(*os.File) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// extract unpacks the one document in a zip that has a suffix.
func extract(archive, name, suffix string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("opening the downloaded zip: %w", err)
	}
	defer z.Close()
	var found []*zip.File
	var names []string
	for _, f := range z.File {
		if names = append(names, oneLine(f.Name)); extension(f.Name) == suffix {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("the export holds %d files that end in %s, not one (%s); choose an output that ends in .zip",
			len(found), suffix, shortened(names))
	}
	entry, err := found[0].Open()
	if err != nil {
		return fmt.Errorf("opening the downloaded zip: %w", err)
	}
	defer entry.Close()
	return writeNew(name, func(f *os.File) error {
		if _, err := io.Copy(f, entry); err != nil {
			return fmt.Errorf("extracting the file: %w", err)
		}
		return nil
	})
}

// shortened lists the first of some names.
func shortened(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
