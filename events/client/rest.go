package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"sheaf/events/retryafter"
)

const (
	// maxAnswer bounds a JSON response. A history is the largest: at most 1,000 exports.
	maxAnswer = 8 << 20
	// sendRate is the minimum expected upload speed of a request, in bytes per second.
	sendRate = 64 << 10
)

// rest calls a server by HTTP.
type rest struct {
	base   *url.URL
	http   *http.Client
	key    string
	bounds bounds
}

// elsewhere holds the paths of operations that are not under /v1/export.
var elsewhere = map[string]string{"seal-key": "/v1/seal-key"}

// request returns the HTTP request of a call.
func (t *rest) request(ctx context.Context, c call) (*http.Request, error) {
	u := t.base.JoinPath(cmp.Or(elsewhere[c.operation], "/v1/export/"+c.operation))
	query := url.Values{}
	for name, value := range c.query {
		query.Set(name, value)
	}
	u.RawQuery = query.Encode()
	method, body := http.MethodGet, io.Reader(nil)
	if c.body != nil {
		method, body = http.MethodPost, bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.idempotency != "" {
		req.Header.Set("Idempotency-Key", c.idempotency)
	}
	if t.key != "" {
		req.Header.Set("Authorization", "Bearer "+t.key)
	}
	return req, nil
}

func (t *rest) call(ctx context.Context, c call) (json.RawMessage, error) {
	bound := max(t.bounds.answer, c.slow) + time.Duration(len(c.body)/sendRate)*time.Second
	within, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("no whole answer within %s", bound))
	defer cancel()
	req, err := t.request(within, c)
	if err != nil {
		return nil, err
	}
	res, err := do(t.http, req, t.base)
	if err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &UnreachableError{t.base.Redacted(), cmp.Or(context.Cause(within), err)}
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("%w: that of %s has more than %d MiB; ask for fewer exports", ErrTooLarge, t.base.Redacted(), maxAnswer>>20)
	}
	wait, _ := retryafter.Parse(res.Header, time.Now())
	return readAnswer(data, res.StatusCode, wait, t.base.Redacted())
}

// readAnswer returns the data of an answer in the envelope of every operation.
func readAnswer(data []byte, status int, wait time.Duration, server string) (json.RawMessage, error) {
	var answer struct {
		Errcode   *int            `json:"errcode"`
		Msg       string          `json:"msg"`
		Data      json.RawMessage `json:"data"`
		RequestID string          `json:"request_id"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Errcode == nil {
		msg := "the answer is not one of Sheaf; is " + server + " the right server?"
		return nil, &Error{Status: status, Msg: msg, RetryAfter: wait}
	}
	if status >= http.StatusMultipleChoices || *answer.Errcode != 0 {
		return nil, newError(status, *answer.Errcode, answer.Msg, answer.RequestID, wait)
	}
	return answer.Data, nil
}

// do sends a request. A redirect, or a response that leaves HTTP, is an error.
func do(web *http.Client, req *http.Request, server *url.URL) (*http.Response, error) {
	res, err := web.Do(req)
	if err != nil {
		return nil, &UnreachableError{server.Redacted(), cmp.Or(context.Cause(req.Context()), bare(err))}
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s changed the protocol (HTTP 101), which was not asked for; is it the right server?", server.Redacted())
	case res.StatusCode >= http.StatusMultipleChoices && res.StatusCode < http.StatusBadRequest:
		_ = res.Body.Close()
		to := ""
		if u, err := res.Location(); err == nil {
			to = u.Scheme + "://" + u.Host
		}
		return nil, &RedirectError{Server: server.Redacted(), To: to, Status: res.StatusCode}
	}
	return res, nil
}
