// Package egress is the one HTTP client for addresses that strangers name: sources and callbacks.
//
// It holds what is true for every request, whatever its caller does. The services hold tighter limits on
// time and bytes of their own.
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
	// streamBuffer is how many bytes of an answer over HTTP/2 are taken before they are read. The transport's
	// default is 4 MiB, which no limit on the memory of answers would see.
	streamBuffer = 256 << 10
	// closeTime bounds the closing of an answer that was not read to its end.
	closeTime = time.Second
)

// ErrTooLarge is the error of reading an answer of more than Config.MaxBytes.
var ErrTooLarge = errors.New("egress: the answer is too large")

// errTimeout is the error of a request that took longer than Config.MaxTime. It is a [net.Error].
var errTimeout net.Error = timeoutError{}

type timeoutError struct{}

func (timeoutError) Error() string   { return "egress: the answer took too long" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// Config bounds a [Client]. Zero means the default.
type Config struct {
	// Allowed are private ranges that may be dialled besides public addresses.
	Allowed []netip.Prefix
	// MaxHeaderBytes bounds the headers of an answer, with all 1xx answers before it. Default 64 KiB.
	MaxHeaderBytes int64
	// MaxBytes bounds a body as it comes from the network, before decompression. Default 257 MiB: a page of the
	// largest size that can be configured, which does not compress.
	MaxBytes int64
	// MaxTime bounds the wait for the headers of an answer, and all waits for its body together. The time
	// between two reads does not count. Default 5 min.
	MaxTime time.Duration
}

// Client asks strangers. It is safe for concurrent use.
type Client struct {
	cfg       Config
	client    http.Client
	transport *http.Transport
}

// New returns a client. It dials public addresses and the allowed private ranges, and judges the address that
// is dialled, after DNS, so a name cannot change between check and use.
func New(cfg Config) *Client {
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 257<<20)
	cfg.MaxTime = cmp.Or(cfg.MaxTime, 5*time.Minute)
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: guard(cfg.Allowed)}
	transport := &http.Transport{
		// A proxy would do the dialling, out of the guard's sight.
		Proxy:             nil,
		DialContext:       dialer.DialContext,
		ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: 4 * streamBuffer,
			// A connection whose other end is gone without a word is not used for the next request.
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 10 * time.Second,
		},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: cmp.Or(cfg.MaxHeaderBytes, 64<<10),
		// The transport's own decompression has no limits.
		DisableCompression: true,
		// One export may ask with many requests at once; each is to find its connection again for the next page.
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 128,
		IdleConnTimeout:     90 * time.Second,
	}
	return &Client{cfg: cfg, transport: transport, client: http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// CloseIdleConnections closes the connections that no request uses.
func (c *Client) CloseIdleConnections() { c.transport.CloseIdleConnections() }

// Do sends a request and returns the answer. It follows no redirect, keeps no cookie, uses no proxy, changes to no
// other protocol and decompresses nothing. It percent-encodes what a URL may not hold, so callers pass it as they
// received it. The caller must close the body.
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
	b := &body{from: resp.Body, ctx: ctx, cancel: cancel, timer: timer, time: c.cfg.MaxTime, room: c.cfg.MaxBytes}
	resp.Body = b
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// Its body is the bare connection: no context ends a read of it.
		_ = b.Close()
		resp.Body, resp.ContentLength = http.NoBody, 0
	}
	return resp, nil
}

// ended returns errTimeout if that ended ctx, else err.
func ended(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return errTimeout
	}
	return err
}

// body is the body of an answer within the limits of a client.
type body struct {
	from   io.ReadCloser
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer   // cancels
	time   time.Duration // that reads may still wait
	room   int64         // bytes that may still come
}

func (b *body) Read(p []byte) (int, error) {
	if b.room < 0 {
		return 0, ErrTooLarge
	}
	begin := time.Now()
	b.timer.Reset(b.time)
	n, err := b.from.Read(p[:min(int64(len(p)), b.room+1)])
	b.timer.Stop()
	b.time -= time.Since(begin)
	if b.room -= int64(n); b.room < 0 {
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
