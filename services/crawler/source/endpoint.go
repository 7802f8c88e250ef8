package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// endpoint is the part of a request that all shapes share.
type endpoint struct {
	method  string
	url     url.URL
	host    string
	header  http.Header
	secrets redactor
}

// newEndpoint checks req. An error names the field and never contains the value of a header.
func newEndpoint(req Request) (*endpoint, error) {
	e := &endpoint{method: strings.ToUpper(cmp.Or(req.Method, http.MethodGet))}
	if e.method != http.MethodGet && e.method != http.MethodPost {
		return nil, fmt.Errorf("source method %.20q is not supported; use GET or POST", req.Method)
	}
	if err := e.setURL(req.URL); err != nil {
		return nil, err
	}
	if err := e.setHeader(req.Header); err != nil {
		return nil, err
	}
	if !httpguts.ValidHeaderFieldValue(req.TaskID) {
		return nil, errors.New("the key of the export is not a header value")
	}
	e.header.Set("xt-export-taskId", req.TaskID)
	return e, nil
}

func (e *endpoint) setURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, which may hold a password
		}
		return fmt.Errorf("source url is not a URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("source url must be absolute and begin with http:// or https://")
	}
	if password, ok := u.User.Password(); ok {
		e.secrets.add(password)
	}
	u.Fragment = ""
	e.url = *u
	return nil
}

// Fields that describe one connection or its framing (RFC 9110, 7.6.1 and 8.6; RFC 9112, 6.1): a caller's
// value for them could only break the request.
var refusedHeaders = []string{
	"Connection", "Content-Length", "Expect", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (e *endpoint) setHeader(header map[string]string) error {
	e.header = http.Header{
		// Requesting gzip here and not in the transport keeps decompression within our limits.
		"Accept-Encoding": {"gzip"},
		"Accept":          {"application/json"},
		"User-Agent":      {"sheaf"},
	}
	if e.method == http.MethodPost {
		e.header.Set("Content-Type", "application/json")
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
		e.secrets.add(value)
		if canonical == "Host" {
			if value == "" || !httpguts.ValidHostHeader(value) {
				return errors.New("the value of source header Host is not a host")
			}
			e.host = value
			continue
		}
		e.header.Set(canonical, value)
	}
	return nil
}

// request makes one request; a nil body is none.
func (e *endpoint) request(ctx context.Context, query string, body []byte) *http.Request {
	u := e.url
	u.RawQuery = query
	req := &http.Request{Method: e.method, URL: &u, Host: e.host, Header: e.header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if body != nil {
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req.WithContext(ctx)
}
