package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sheaf/events"
)

// auth is the auth object of a request.
type auth struct {
	Type         string `json:"type"`
	Token        string `json:"token"`
	Username     string `json:"username"`
	Password     string `json:"password"`
	Name         string `json:"name"`
	Value        string `json:"value"`
	In           string `json:"in"`
	TokenURL     string `json:"token_url"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Scope        string `json:"scope"`
	Audience     string `json:"audience"`
	ClientAuth   string `json:"client_auth"`
}

// setAuth reads an auth object. All its values become secrets. An error never contains one.
func (e *endpoint) setAuth(raw json.RawMessage) error {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var a auth
	if json.Unmarshal(raw, &a) != nil {
		return errors.New("source auth must be a JSON object of strings")
	}
	for _, secret := range []string{a.Token, a.Username, a.Password, a.Value, a.ClientID, a.ClientSecret} {
		e.addSecret(secret)
	}
	switch a.Type {
	case events.AuthBearer:
		return e.setAuthHeader("Authorization", "Bearer "+a.Token)
	case events.AuthBasic:
		return e.setAuthHeader("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password)))
	case events.AuthAPIKey:
		switch {
		case a.In == "query" && a.Name != "":
			e.key = url.QueryEscape(a.Name) + "=" + url.QueryEscape(a.Value)
			return nil
		case a.In != "header":
			return errors.New("source auth.in must be header or query, with auth.name")
		}
		return e.setAuthHeader(a.Name, a.Value)
	case events.AuthOAuth2:
		u, err := url.Parse(a.TokenURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			return errors.New("source auth.token_url must be absolute and begin with http:// or https://")
		}
		if password, ok := u.User.Password(); ok {
			e.addSecret(password)
		}
		for _, values := range u.Query() {
			for _, value := range values {
				e.addSecret(value)
			}
		}
		e.oauth2 = &clientcredentials.Config{
			ClientID: a.ClientID, ClientSecret: a.ClientSecret, TokenURL: a.TokenURL,
			Scopes: strings.Fields(a.Scope), AuthStyle: oauth2.AuthStyleInHeader,
		}
		if a.ClientAuth == "body" {
			e.oauth2.AuthStyle = oauth2.AuthStyleInParams
		}
		if a.Audience != "" {
			e.oauth2.EndpointParams = url.Values{"audience": {a.Audience}}
		}
		return nil
	}
	return fmt.Errorf("source auth.type %.20q is not known; bearer, basic, api_key, oauth2", a.Type)
}

// addSecret stores a value, also as a source may repeat it from a query.
func (e *endpoint) addSecret(value string) {
	e.secrets.add(value)
	e.secrets.add(url.QueryEscape(value))
}

func (e *endpoint) setAuthHeader(name, value string) error {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("source auth.name %.64q is not a header name", name)
	case slices.Contains(refusedHeaders, canonical) || canonical == "Host" || strings.HasPrefix(canonical, "Proxy-"):
		return fmt.Errorf("source auth.name: the header %s cannot be set", canonical)
	case !httpguts.ValidHeaderFieldValue(value):
		return errors.New("source auth holds a line break or another control character")
	}
	e.secrets.add(value)
	e.header.Set(canonical, value)
	return nil
}

// renewBefore is how long before its end a token is replaced. A token of less than twice that is replaced
// after half of its life.
const renewBefore = time.Minute

// tokens holds the OAuth2 token of an export, in memory only. All its requests share one token.
type tokens struct {
	config  *clientcredentials.Config
	client  *http.Client
	turn    chan struct{} // holds a value while a request for a token is under way
	refused *Failure      // the token server's final answer; guarded by turn

	mu      sync.Mutex
	header  string    // of Authorization; "" without a token
	until   time.Time // zero: no end is known
	secrets redactor
}

func newTokens(client Client, config *clientcredentials.Config) *tokens {
	if config == nil {
		return nil
	}
	return &tokens{
		config: config, turn: make(chan struct{}, 1),
		client: &http.Client{
			Transport:     transport{client},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// transport sends requests by a Client.
type transport struct{ client Client }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.client.Do(req)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // without the URL, which may hold secrets
	}
	return resp, err
}

// redactor returns the tokens that no message may show.
func (t *tokens) redactor() redactor {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.secrets)
}

func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.until.IsZero() && time.Now().After(t.until) {
		return ""
	}
	return t.header
}

// drop forgets a token that the source refused, unless another one replaced it.
func (t *tokens) drop(header string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.header == header {
		t.header = ""
	}
}

// get returns the Authorization header. Of several calls at once, one requests the token. An error without a
// *tokenError is of the connection.
func (t *tokens) get(ctx context.Context) (string, error) {
	if header := t.current(); header != "" {
		return header, nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if header := t.current(); header != "" {
		return header, nil
	}
	if t.refused != nil {
		return "", &tokenError{Failure: *t.refused}
	}
	token, err := t.config.Token(context.WithValue(ctx, oauth2.HTTPClient, t.client))
	if err != nil {
		return "", t.failed(err)
	}
	header := token.Type() + " " + token.AccessToken
	if !httpguts.ValidHeaderFieldValue(header) {
		return "", t.refuse(&Failure{Code: events.CodeSourceAuth, Msg: "the token server answered a token that is not a header value"})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.header, t.until = header, time.Time{}
	t.secrets.add(token.AccessToken)
	if !token.Expiry.IsZero() {
		t.until = token.Expiry.Add(-min(renewBefore, time.Until(token.Expiry)/2))
	}
	return header, nil
}

// tokenError is the answer of a token server without a token.
type tokenError struct {
	Failure
	retry bool
}

func (e *tokenError) Error() string { return e.Msg }

// failed keeps the status of a refusal, and nothing else: the body may hold secrets.
func (t *tokens) failed(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e // of the connection
	}
	f := &Failure{Code: events.CodeSourceAuth, Msg: "the token server's answer holds no token"}
	refused := (*oauth2.RetrieveError)(nil)
	if !errors.As(err, &refused) {
		return t.refuse(f)
	}
	status := refused.Response.StatusCode
	f.Msg = fmt.Sprintf("the token request was answered with HTTP %d; check source_http.auth", status)
	if status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusTooManyRequests || status >= 500 {
		return &tokenError{Failure: *f, retry: true}
	}
	return t.refuse(f)
}

// refuse keeps a final answer, so that the other requests of the export do not repeat it.
func (t *tokens) refuse(f *Failure) error {
	t.refused = f
	return &tokenError{Failure: *f}
}
