package preview

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
)

type headerFields = http.Header

// asked is a source that can be requested.
type asked struct {
	*source.Fetcher
	req *events.HTTPRequest
}

// open prepares the requests of a source_http, after check has accepted it.
func (r *run) open(h object, attempts int) (*asked, error) {
	req, kept, err := r.check(r.body(h))
	if err != nil {
		return nil, err
	}
	header, secret, auth := secrets.Split(kept)
	param, err := withSecrets(req.HTTP.Param, secret)
	if err != nil {
		return nil, err
	}
	r.keepSecrets(header, secret, auth)
	policy := r.cfg.Policy
	policy.Attempts = attempts
	f, err := source.New(r.client, source.Request{
		URL: req.HTTP.URL, Method: req.HTTP.Method, Header: header, Param: param, SecretParam: req.HTTP.SecretParam,
		Limit: req.HTTP.Limit, TaskID: "preview", From: req.HTTP, Options: req.Options, Auth: auth,
	}, policy)
	if err != nil {
		return nil, &source.Failure{Code: events.CodeInternal, Msg: err.Error()}
	}
	f.Rests = r.cfg.Rests
	f.Shape = counted{f.Shape, r}
	return &asked{f, req.HTTP}, nil
}

// withSecrets adds the secret parameters to the others.
func withSecrets(param json.RawMessage, secret map[string]json.RawMessage) (json.RawMessage, error) {
	if len(secret) == 0 {
		return param, nil
	}
	var o object
	if len(bytes.TrimSpace(param)) > 0 {
		var err error
		if o, err = readObject(param); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		o.set(name, jsontext.Value(secret[name]))
	}
	return json.RawMessage(o.raw()), nil
}

// counted counts the requests that a shape makes.
type counted struct {
	source.Shape
	r *run
}

func (c counted) Request(ctx context.Context, at source.Position) (*http.Request, error) {
	if c.r.requests >= maxRequests {
		return nil, &source.Failure{Code: events.CodeInternal, Msg: "a preview sends at most three requests"}
	}
	c.r.requests++
	return c.Shape.Request(ctx, at)
}

// unread is a shape whose responses are only kept. A failure that the source reports is one here too.
type unread struct {
	source.Shape
	header *http.Header
}

func (u unread) Parse(body []byte, header http.Header, at source.Position) (source.Answer, error) {
	*u.header = header.Clone()
	if _, err := u.Shape.Parse(body, header, at); reported(err) {
		return source.Answer{}, err
	}
	return source.Answer{Rows: []byte("[]")}, nil
}

// reported reports whether the source answered a failure with status 200.
func reported(err error) bool {
	f := (*source.Failure)(nil)
	return errors.As(err, &f) && f.Code == events.CodeSourceErrcode
}

// response is a page that was not read yet.
type response struct {
	*source.Page
	header http.Header
}

// ask requests a source_http once, whatever the form of its response.
func (r *run) ask(ctx context.Context, h object, attempts int) (*response, error) {
	a, err := r.open(h, attempts)
	if err != nil {
		return nil, err
	}
	res := &response{header: http.Header{}}
	a.Shape = unread{a.Shape, &res.header}
	page, err := a.Fetch(ctx, source.Position{Page: 1})
	if err != nil {
		return nil, err
	}
	res.Page = &page
	return res, nil
}

// parse reads the first response in the form that a source_http declares.
func (r *run) parse(h object) (*asked, source.Answer, error) {
	a, err := r.open(h, 1)
	if err != nil {
		return nil, source.Answer{}, err
	}
	answer, err := a.Shape.Parse(r.first.Body, r.header, source.Position{Page: 1})
	return a, answer, err
}

// left returns how many requests may still be sent.
func (r *run) left() int { return maxRequests - r.requests }

// keepSecrets notes the texts that the answer must not show.
func (r *run) keepSecrets(header secrets.Values, secret map[string]json.RawMessage, auth json.RawMessage) {
	if r.secrets != nil {
		return
	}
	r.secrets = []string{}
	add := func(text string) {
		if len(text) >= 4 {
			r.secrets = append(r.secrets, text)
		}
	}
	for _, value := range header {
		add(value)
	}
	for _, value := range secret {
		add(textOf(jsontext.Value(value)))
	}
	var fields map[string]string
	if json.Unmarshal(auth, &fields) == nil {
		for name, value := range fields {
			if name != "type" && name != "in" && name != "client_auth" && name != "name" {
				add(value)
			}
		}
	}
	slices.SortFunc(r.secrets, func(a, b string) int { return len(b) - len(a) })
}
