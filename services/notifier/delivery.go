package notifier

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/retryafter"
	"sheaf/events/tracing"

	"code.dny.dev/ssrf"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// answerMost bounds the bytes read of an answer, and answerFor the time. The body is dropped; reading it
	// lets the connection be reused.
	answerMost = 64 << 10
	answerFor  = time.Second
)

const (
	reasonTimeout = "timeout"
	reasonRefused = "connection refused"
	reasonBusy    = "not attempted in time: the host did not answer, or too many callbacks waited for it"
)

// outcome is the result of one attempt.
type outcome struct {
	attempt    int
	status     int    // 0 without an answer
	reason     string // "" after a delivery
	final      bool   // further attempts cannot help
	retryAfter time.Duration
	elapsed    time.Duration
	silent     bool // no answer within the timeout
	aborted    bool // ended by the drain; not the receiver's fault
}

func (o outcome) delivered() bool { return o.reason == "" && !o.aborted }

// answered reports whether the host responded: with a status, or by refusing the connection.
func (o outcome) answered() bool { return o.status != 0 || o.reason == reasonRefused }

// deliver makes one attempt. It ends early when ctx does.
func (s *Service) deliver(ctx context.Context, x *events.Export) outcome {
	o := outcome{attempt: x.Callback.Attempts + 1}
	body, err := s.bodies.of(x)
	if err != nil {
		o.reason, o.final = "the body could not be made", true
		return o
	}
	begin := time.Now()
	if strings.HasPrefix(x.Request.Callback, "nats:") {
		s.publish(ctx, x, body, &o)
	} else {
		s.post(ctx, x, body, &o)
	}
	o.elapsed = time.Since(begin)
	// An answer counts, even if the drain ended the attempt right after it.
	o.aborted = ctx.Err() != nil && o.reason != "" && !o.final && o.status == 0
	return o
}

// publish sends the callback durably to a subject of the tenant.
func (s *Service) publish(ctx context.Context, x *events.Export, body []byte, o *outcome) {
	subject, err := events.CallbackSubject(x.Tenant, x.Request.Callback)
	if err != nil {
		o.reason, o.final = "not a subject that this tenant may use", true
		return
	}
	err = s.journal.PublishCallback(ctx, subject, x, ceType(x), body)
	switch {
	case errors.Is(err, events.ErrUnavailable):
		o.reason = "the stream did not confirm"
	case err != nil:
		o.reason = "the stream refused the message"
	}
}

// post sends the callback over HTTP.
func (s *Service) post(ctx context.Context, x *events.Export, body []byte, o *outcome) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	req, err := s.request(ctx, x, body)
	if err != nil {
		o.reason, o.final = err.Error(), true
		return
	}
	res, err := s.client.Do(req)
	failpoint.Hit("post-callback.after")
	if err != nil {
		o.reason = class(err)
		o.silent = o.reason == reasonTimeout
		return
	}
	defer res.Body.Close()
	o.status = res.StatusCode
	switch {
	case res.StatusCode >= 200 && res.StatusCode <= 299:
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		o.reason = fmt.Sprintf("HTTP %d; redirects are not followed", res.StatusCode)
		o.retryAfter, _ = retryafter.Parse(res.Header, time.Now())
	default:
		o.reason = fmt.Sprintf("HTTP %d", res.StatusCode)
		o.final = res.StatusCode == http.StatusGone
		o.retryAfter, _ = retryafter.Parse(res.Header, time.Now())
	}
	enough := time.AfterFunc(answerFor, cancel)
	defer enough.Stop()
	_, _ = io.CopyN(io.Discard, res.Body, answerMost)
}

// request builds the POST. Its errors contain no part of the URL.
func (s *Service) request(ctx context.Context, x *events.Export, body []byte) (*http.Request, error) {
	u, err := url.Parse(x.Request.Callback)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("the callback is not an http or https URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.Request.Callback, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the callback is not a URL that can be asked")
	}
	now := time.Now()
	var signatures []string
	for _, secret := range s.journal.Keys().WebhookSecrets(x.Tenant) {
		key, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			return nil, errors.New("the signing key cannot be used")
		}
		signature, err := key.Sign(x.WebhookID(), now, body)
		if err != nil {
			return nil, errors.New("the callback could not be signed")
		}
		signatures = append(signatures, signature)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json",
		"Accept":       "*/*", // the answer's body is dropped
		"User-Agent":   "Sheaf",
		// The original sent this name, and receivers may route by it.
		"Service-Name": "export-server",

		standardwebhooks.HeaderWebhookID:        x.WebhookID(),
		standardwebhooks.HeaderWebhookTimestamp: strconv.FormatInt(now.Unix(), 10),
		standardwebhooks.HeaderWebhookSignature: strings.Join(signatures, " "), // one per key

		// CloudEvents 1.0, binary mode.
		"ce-specversion": "1.0",
		"ce-id":          x.WebhookID(),
		"ce-source":      "/sheaf/" + x.Tenant,
		"ce-type":        ceType(x),
		"ce-subject":     x.Key,
		"ce-time":        x.FinishedAt.UTC().Format(time.RFC3339Nano),
	} {
		req.Header.Set(name, value)
	}
	tracing.Inject(ctx, req.Header)
	if x.CorrelationID != "" {
		req.Header.Set("ce-correlationid", headerValue(x.CorrelationID))
	}
	return req, nil
}

// ceType is the CloudEvents type of a callback. It differs from the event's type because the data differs.
func ceType(x *events.Export) string { return "sheaf.callback.export_" + string(eventOf(x)) + ".v1" }

// headerValue escapes characters that an HTTP header cannot hold, as the HTTP binding of CloudEvents 1.0 says
// (3.1.3.2). Correlation ids come from producers.
func headerValue(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// class returns a short reason why there was no answer. The error's own text holds addresses and the URL with
// its query, so it is never passed on.
func class(err error) string {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		network     net.Error
		operation   *net.OpError
	)
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedPort), errors.Is(err, ssrf.ErrProhibitedNetwork):
		return "address not allowed"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return reasonTimeout
	case errors.As(err, &dns):
		return "host not found"
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "host unreachable"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname):
		return "certificate not accepted"
	case errors.As(err, &record), errors.As(err, &alert):
		return "TLS handshake failed"
	case errors.As(err, &operation):
		return "connection failed"
	}
	return "no valid HTTP answer"
}
