// Package client calls a Sheaf server: it submits exports, follows them and downloads their files.
//
//	sheaf, err := client.New("http://127.0.0.1:8080", client.Options{Key: key})
//	...
//	accepted, err := sheaf.Submit(ctx, client.Request{
//		Title: "Orders",
//		HTTP:  &client.HTTPSource{URL: "https://api.example/orders", Preset: "laravel"},
//	})
//	...
//	_, err = sheaf.Wait(ctx, accepted.Key)
//	...
//	_, err = sheaf.Download(ctx, accepted.Key, file)
//
// [New] returns a client that uses REST, [NATS] one that uses NATS. Both have the same methods. Package
// callback receives the callbacks of exports.
//
// A refusal by the server is an [*Error], a server that does not answer an [*UnreachableError], an export that
// ended without a file an [*ExportError].
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"sheaf/events"
)

// Options configure a client. The zero value is good for a server that asks for no API key.
type Options struct {
	// Key is the API key of the caller. NATS has credentials of its own.
	Key string
	// Tenant is whose exports are meant. Another tenant than the caller's needs a key of the scope admin, and
	// cannot be submitted for. Default: the caller's.
	Tenant string
	// Patience is how long a call is repeated while the server is busy or does not answer. Zero means 15 s;
	// a negative value means that no call is repeated.
	Patience time.Duration
	// TLS configures connections to https servers, such as with the authorities to trust.
	TLS *tls.Config
}

const defaultPatience = 15 * time.Second

// Client calls one server. It is safe for concurrent use.
type Client struct {
	via      transport
	files    *http.Client // downloads
	base     *url.URL     // of REST; nil with NATS
	tenant   string       // Options.Tenant
	patience time.Duration
	bounds   bounds
}

// transport carries calls to a server and returns the data of its answer.
type transport interface {
	call(ctx context.Context, c call) (json.RawMessage, error)
}

// call is one request to an operation.
type call struct {
	operation   string            // its name, which is also the last token of its NATS subject
	query       map[string]string // parameters of an operation that changes nothing
	body        []byte            // JSON of an operation that changes something
	idempotency string            // Idempotency-Key, "" for none
	slow        time.Duration     // how long the operation may take, if that is longer than usual
}

// bounds limit how long a client waits for a server.
type bounds struct {
	dial   time.Duration // for a connection
	header time.Duration // until a response begins
	answer time.Duration // for a whole JSON response
	idle   time.Duration // a download that receives less than minDownload in this time has stalled
}

var defaultBounds = bounds{dial: 5 * time.Second, header: 30 * time.Second, answer: time.Minute, idle: 30 * time.Second}

// New returns a client of the REST API at a base URL such as https://sheaf.example or
// http://127.0.0.1:8080/prefix.
//
// The client follows no redirects, because the API key and the secrets of sources must not reach another
// server. It bounds the time and the size of each answer.
func New(server string, opts Options) (*Client, error) {
	return newBounded(server, opts, defaultBounds)
}

func newBounded(server string, opts Options, b bounds) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%q is not the URL of a server: want http://HOST:PORT or https://HOST", server)
	}
	web := newHTTP(opts.TLS, b)
	return &Client{
		via:   &rest{base: u, http: web, key: opts.Key, bounds: b},
		files: web, base: u, tenant: opts.Tenant, patience: cmp.Or(opts.Patience, defaultPatience), bounds: b,
	}, nil
}

// NATS returns a client that calls the micro service of a tenant, "default" without API keys. The caller keeps
// the connection open while it uses the client. Of the options, Key has no effect.
//
// Downloads still use HTTP: the address is the --public-url of the server.
func NATS(conn *nats.Conn, tenant string, opts Options) (*Client, error) {
	if !events.ValidTenant(tenant) {
		return nil, fmt.Errorf("tenant %q: want 1 to 32 of a-z, 0-9, _ and -", tenant)
	}
	b := defaultBounds
	return &Client{
		via: &onNATS{conn: conn, tenant: tenant, answer: b.answer}, files: newHTTP(opts.TLS, b),
		tenant: opts.Tenant, patience: cmp.Or(opts.Patience, defaultPatience), bounds: b,
	}, nil
}

func newHTTP(trust *tls.Config, b bounds) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        trust,
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: b.dial}).DialContext,
			TLSHandshakeTimeout:    b.dial,
			ResponseHeaderTimeout:  b.header,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Server returns the base URL, "" with NATS.
func (c *Client) Server() string {
	if c.base == nil {
		return ""
	}
	return c.base.String()
}

// Close closes idle connections. It does not close a NATS connection.
func (c *Client) Close() { c.files.CloseIdleConnections() }

// call repeats a call while the server is busy, within the client's patience.
func (c *Client) call(ctx context.Context, k call) (json.RawMessage, error) {
	if k.idempotency == "" && c.patience > 0 && submits(k.operation) {
		k.idempotency = idempotencyKey()
	}
	k, err := c.forTenant(k)
	if err != nil {
		return nil, err
	}
	for begun, attempt := time.Now(), 0; ; attempt++ {
		data, err := c.via.call(ctx, k)
		if err == nil || !temporary(err) {
			return data, err
		}
		wait := retryWait(err, attempt)
		if time.Since(begun)+wait > c.patience {
			return nil, err
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// errTenant refuses a call that has no parameter for the tenant.
var errTenant = errors.New("only the exports that a tenant has can be named by its name; begin new ones with a key of its own")

// forTenant returns a call for the tenant of the client.
func (c *Client) forTenant(k call) (call, error) {
	switch {
	case c.tenant == "":
	case k.body == nil:
		query := map[string]string{"tenant": c.tenant}
		maps.Copy(query, k.query)
		k.query = query
	case submits(k.operation) || k.operation == "preview":
		return k, errTenant
	case k.operation != "bulk": // it has the tenant in its filter
		params := map[string]json.RawMessage{}
		if err := json.Unmarshal(k.body, &params); err != nil {
			return k, err
		}
		name, _ := json.Marshal(c.tenant) // a string
		params["tenant"] = name
		body, err := json.Marshal(params)
		k.body = body
		return k, err
	}
	return k, nil
}

// retryWait returns how long to wait before a call is repeated: what the server asked for, or an exponential
// backoff from 0.1 s to 5 s with jitter.
func retryWait(err error, attempt int) time.Duration {
	wait := min(100*time.Millisecond<<min(attempt, 10), 5*time.Second)
	return max(retryAfter(err), wait/2+rand.N(wait/2))
}

// pause waits. Its error is that of ctx.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Printable replaces characters with which the text of a caller or a source could move the cursor of a
// terminal or change its writing direction. Line breaks stay.
func Printable(s string) string { return strings.Map(printable, s) }

// OneLine is Printable without line breaks.
func OneLine(s string) string { return strings.ReplaceAll(Printable(s), "\n", " ") }
