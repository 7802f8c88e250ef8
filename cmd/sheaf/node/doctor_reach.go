package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"sheaf/cmd/sheaf/egress"
)

// egress explains whether exports may reach a URL.
func (d *doctor) egress(ctx context.Context, text string) {
	const check = "egress"
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		d.fail(check, "give http://HOST or https://HOST", "%q is not a URL of a source or callback", text)
		return
	}
	allowed, err := d.cfg.allowed()
	if err != nil {
		d.fail(check, "correct --allow-cidr", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		d.fail(check, "check the name, and the DNS of this machine", "%s: the name cannot be resolved", u.Host)
		return
	}
	port, _ := net.LookupPort("tcp", u.Port())
	if u.Port() == "" {
		port = map[string]int{"http": 80, "https": 443}[u.Scheme]
	}
	for _, ip := range addresses {
		to := netip.AddrPortFrom(ip.Unmap(), uint16(port))
		if why := egress.Refusal(allowed, to); why != "" {
			d.fail(check, "allow its range with --allow-cidr, if it is yours and harmless", "%s resolves to %s, which is refused: %s", u.Host, to, why)
			return
		}
	}
	d.ok(check, "%s is allowed", u.Host)
}

// server checks that a URL leads to a Sheaf, with its path, certificate and clock.
func (d *doctor) server(ctx context.Context, check, base string) {
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/healthz", nil)
	if err != nil {
		d.fail(check, "give http://HOST:PORT or https://HOST", "%q is not a URL", base)
		return
	}
	asked := time.Now().Truncate(time.Second) // Date has whole seconds
	resp, err := d.opt.Do(req)
	if err != nil {
		if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
			d.fail(check, "serve the whole chain of certificates, or give --ca-cert", "%s: the certificate is not trusted: %v", base, bad.Err)
			return
		}
		d.fail(check, "check that it runs, and the proxies on the way", "%s cannot be reached: %v", base, err)
		return
	}
	defer resp.Body.Close()
	var answer struct{ Data struct{ Alive bool } }
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil || !answer.Data.Alive {
		d.fail(check, "check the path: a proxy must pass "+req.URL.Path+" on to /healthz", "%s answers %d, and not like Sheaf", base, resp.StatusCode)
		return
	}
	d.ok(check, "%s is a Sheaf", base)
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		if left := time.Until(resp.TLS.PeerCertificates[0].NotAfter); left < certificateSoon {
			d.warn(check, "renew it", "the certificate of %s expires in %d days", base, int(left.Hours()/24))
		}
	}
	if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.clock(base, asked, theirs)
	}
	d.buffering(ctx, req)
}

// minPulse is the time between the two events of a server's pulse, a second apart, below which a proxy
// collected them.
const minPulse = 500 * time.Millisecond

// buffering checks that no proxy on the way to a server collects its events. The request is that of its health.
func (d *doctor) buffering(ctx context.Context, health *http.Request) {
	const check = "events"
	req := health.Clone(ctx)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := d.opt.Do(req)
	if err != nil {
		d.fail(check, "check the proxies on the way", "%s: no stream of events: %v", req.URL.Host, err)
		return
	}
	defer resp.Body.Close()
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "text/event-stream" {
		d.warn(check, "check the version of the server, and that proxies pass the header Accept on",
			"%s sends no events: it answers %d with %q", req.URL.Host, resp.StatusCode, kind)
		return
	}
	var at []time.Time
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 64<<10))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "event: ") {
			at = append(at, time.Now())
		}
	}
	switch {
	case lines.Err() != nil || len(at) != 2:
		d.fail(check, "raise the timeouts of the proxies on the way; progress is sent as a long answer",
			"%s: the stream of events ended after %d of 2", req.URL.Host, len(at))
	case at[1].Sub(at[0]) < minPulse:
		d.warn(check, "switch off buffering of text/event-stream in the proxy (nginx: proxy_buffering off)",
			"%s: events arrive together; a proxy collects them, so pages show no progress", req.URL.Host)
	default:
		d.ok(check, "%s: events arrive one by one", req.URL.Host)
	}
}
