// Package egress is the only HTTP client for addresses that outsiders choose: sources and callbacks.
//
// It enforces the limits that apply to every request, whatever its caller does. The services set tighter
// limits on time and bytes themselves.
package egress

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	// streamBuffer is how many unread bytes of an HTTP/2 response the transport buffers. Its default of 4 MiB
	// would escape every limit on response memory.
	streamBuffer = 256 << 10
	// closeTime bounds closing a response that was not read to its end.
	closeTime = time.Second
)

// ErrTooLarge is returned when a response body exceeds Config.MaxBytes.
var ErrTooLarge = errors.New("egress: the answer is too large")

// errTimeout is returned when a request exceeds Config.MaxTime.
var errTimeout net.Error = timeoutError{}

type timeoutError struct{}

func (timeoutError) Error() string   { return "egress: the answer took too long" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// Config bounds a [Client]. Zero means the default.
type Config struct {
	// Allowed are private ranges that may be dialled in addition to public addresses.
	Allowed []netip.Prefix
	// MaxHeaderBytes bounds the headers of a response, including all 1xx responses before it. Default 64 KiB.
	MaxHeaderBytes int64
	// MaxBytes bounds a body as received, before decompression. Default 257 MiB: an incompressible page of
	// the largest configurable size.
	MaxBytes int64
	// MaxTime bounds the wait for the headers of a response, and the total wait for its body. Time between
	// two reads does not count. Default 5 min.
	MaxTime time.Duration
}

// Client sends requests to untrusted servers. It is safe for concurrent use.
type Client struct {
	cfg       Config
	client    http.Client
	transport *http.Transport
}

// New returns a client. It dials public addresses and the allowed private ranges. It checks the address that
// is dialled, after DNS, so a name cannot resolve to another address between check and use.
func New(cfg Config) *Client {
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 257<<20)
	cfg.MaxTime = cmp.Or(cfg.MaxTime, 5*time.Minute)
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: guard(cfg.Allowed)}
	transport := &http.Transport{
		// A proxy would dial instead, bypassing the guard.
		Proxy:             nil,
		DialContext:       dialer.DialContext,
		ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: 4 * streamBuffer,
			// Detect dead connections, so that the next request does not use one.
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second,
			WriteByteTimeout: 10 * time.Second,
		},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: cmp.Or(cfg.MaxHeaderBytes, 64<<10),
		// The transport's own decompression is unlimited.
		DisableCompression: true,
		// An export may send many requests at once; each should find an idle connection for the next page.
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 128,
		IdleConnTimeout:     90 * time.Second,
	}
	return &Client{cfg: cfg, transport: transport, client: http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// CloseIdleConnections closes all connections that are not in use.
func (c *Client) CloseIdleConnections() { c.transport.CloseIdleConnections() }

// Do sends a request and returns the response. It does not follow redirects, keep cookies, use a proxy,
// switch protocols or decompress. It percent-encodes bytes that a URL must not contain, so callers pass URLs
// as they received them. The caller must close the body.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	to, err := encoded(req.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(c.cfg.MaxTime, func() { cancel(errTimeout) })
	own := req.WithContext(ctx)
	if own.URL = to; req.Host == req.URL.Host {
		own.Host = to.Host
	}
	resp, err := c.client.Do(own)
	timer.Stop()
	if err != nil {
		err = ended(ctx, err)
		cancel(nil)
		return nil, err
	}
	b := &body{from: resp.Body, ctx: ctx, cancel: cancel, timer: timer, timeLeft: c.cfg.MaxTime,
		bytesLeft: c.cfg.MaxBytes}
	resp.Body = b
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The body would be the bare connection, and no context interrupts a read of it.
		_ = b.Close()
		resp.Body, resp.ContentLength = http.NoBody, 0
	}
	return resp, nil
}

// ended returns errTimeout if it ended ctx, and otherwise err.
func ended(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return errTimeout
	}
	return err
}

// body is a response body within the limits of a client.
type body struct {
	from      io.ReadCloser
	ctx       context.Context // of the request
	cancel    context.CancelCauseFunc
	timer     *time.Timer   // cancels ctx
	timeLeft  time.Duration // for waiting in reads
	bytesLeft int64         // to read
}

func (b *body) Read(p []byte) (int, error) {
	if b.bytesLeft < 0 {
		return 0, ErrTooLarge
	}
	begin := time.Now()
	b.timer.Reset(b.timeLeft)
	n, err := b.from.Read(p[:min(int64(len(p)), b.bytesLeft+1)])
	b.timer.Stop()
	b.timeLeft -= time.Since(begin)
	if b.bytesLeft -= int64(n); b.bytesLeft < 0 {
		b.cancel(ErrTooLarge)
		return n - 1, ErrTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = ended(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Reset(closeTime)
	err := b.from.Close()
	b.timer.Stop()
	b.cancel(nil)
	return err
}
