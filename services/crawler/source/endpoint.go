package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2/clientcredentials"

	"sheaf/events"
)

// endpoint is the part of a request that all shapes share.
type endpoint struct {
	method  string
	url     url.URL
	host    string
	header  http.Header
	key     string                    // api key of the query, as name=value, escaped
	oauth2  *clientcredentials.Config // nil: none
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
	if err := e.setHeader(req); err != nil {
		return nil, err
	}
	if err := e.setAuth(req.Auth); err != nil {
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

// accepts are the values of Accept by the format of a response.
var accepts = map[string]string{
	"":                  "application/json",
	events.FormatNDJSON: "application/x-ndjson, application/json;q=0.9, */*;q=0.1",
	events.FormatCSV:    "text/csv, */*;q=0.1",
	events.FormatTSV:    "text/tab-separated-values, */*;q=0.1",
}

func (e *endpoint) setHeader(req Request) error {
	accept, content := accepts[""], "application/json"
	if req.declared() {
		accept = accepts[req.From.Format]
		if req.From.BodyType == events.BodyForm {
			content = "application/x-www-form-urlencoded"
		}
	}
	e.header = http.Header{
		// Requesting gzip here and not in the transport keeps decompression within our limits.
		"Accept-Encoding": {"gzip"},
		"Accept":          {accept},
		"User-Agent":      {"sheaf"},
	}
	if e.method == http.MethodPost {
		e.header.Set("Content-Type", content)
	}
	seen := map[string]bool{}
	for name, value := range req.Header {
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

// request makes one request to the endpoint's address; a nil body is none.
func (e *endpoint) request(ctx context.Context, query string, body []byte) *http.Request {
	u := e.url
	return e.requestTo(ctx, &u, query, body, nil)
}

// requestTo makes one request to u, which it changes, with header beside that of all requests.
func (e *endpoint) requestTo(ctx context.Context, u *url.URL, query string, body []byte, header http.Header) *http.Request {
	u.RawQuery = query
	if e.key != "" {
		u.RawQuery = joinPairs(missing(splitQuery(query), splitQuery(e.key)))
	}
	req := &http.Request{Method: e.method, URL: u, Header: e.header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if sameHost(u.Hostname(), e.url.Hostname()) {
		req.Host = e.host
	}
	maps.Copy(req.Header, header)
	if body != nil {
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req.WithContext(ctx)
}
