package source_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/services/crawler/source"
)

// Each type of auth sends what its server reads, in the standard format too.
func TestAuth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ auth, header, value, query string }{
		"none":                {``, "Authorization", "", ""},
		"null":                {`null`, "Authorization", "", ""},
		"bearer":              {`{"type":"bearer","token":"abc"}`, "Authorization", "Bearer abc", ""},
		"basic in UTF-8":      {`{"type":"basic","username":"Aladdin","password":"öpen:sesame"}`, "Authorization", "Basic QWxhZGRpbjrDtnBlbjpzZXNhbWU=", ""},
		"an api key":          {`{"type":"api_key","in":"header","name":"x-api-key","value":"k y"}`, "X-Api-Key", "k y", ""},
		"an api key in query": {`{"type":"api_key","in":"query","name":"api key","value":"k&y"}`, "Authorization", "", "api+key=k%26y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := record(t, text(500, ""))
			standard := source.Request{URL: server.URL, Limit: 1, Auth: raw(c.auth)}
			declared := form(server.URL, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingNone}})
			declared.Auth = raw(c.auth)
			for _, req := range []source.Request{standard, declared} {
				_, err := fetcher(t, req).Fetch(t.Context(), source.Position{Page: 1})
				require.Error(t, err)
			}
			asked := server.all()
			require.Len(t, asked, 12)
			for i, query := range map[int]string{0: strings.TrimSuffix("page=1&limit=1&"+c.query, "&"), 11: c.query} {
				require.Equal(t, query, asked[i].query)
				require.Equal(t, c.value, asked[i].header.Get(c.header))
			}
		})
	}
}

// tokenServer gives token-1, token-2 and so on, and counts them. A source of one page accepts those that accept
// names.
type tokenServer struct {
	*recorder
	given, expires atomic.Int64
	status         atomic.Int64
	accept         func(token string) bool
}

func newTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{accept: func(string) bool { return true }}
	s.status.Store(200)
	s.recorder = record(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/token":
			if token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !s.accept(token) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write([]byte(`[{"id":1}]`))
		case s.status.Load() != 200:
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(int(s.status.Load()))
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"secret body of the token server"}`))
		default:
			w.Header().Set("Content-Type", "application/json")
			n := s.given.Add(1)
			fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"bearer"`, n)
			if e := s.expires.Load(); e != 0 {
				fmt.Fprintf(w, `,"expires_in":%d`, e)
			}
			_, _ = w.Write([]byte("}"))
		}
	})
	return s
}

func (s *tokenServer) request(more string) source.Request {
	req := form(s.URL+"/list", events.HTTPRequest{Paging: &events.Paging{Type: events.PagingPage, PageParam: "page"}})
	req.Auth = raw(fmt.Sprintf(`{"type":"oauth2","token_url":"%s/token","client_id":"shop & co","client_secret":"S3cret+Value"%s}`, s.URL, more))
	return req
}

func (s *tokenServer) tokenRequests() (n int) {
	for _, r := range s.all() {
		if strings.Contains(r.body, "grant_type") {
			n++
		}
	}
	return n
}

func TestOAuth2(t *testing.T) {
	t.Parallel()
	fetch := func(t *testing.T, f *source.Fetcher, page int) error {
		got, err := f.Fetch(t.Context(), source.Position{Page: page, Size: 1})
		if err == nil {
			require.Equal(t, 1, got.Attempts)
			got.Release()
		}
		return err
	}
	t.Run("the request, with the client in the header", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		f := fetcher(t, s.request(`,"scope":"orders.read  x","audience":"https://api.example","client_auth":"basic"`))
		require.NoError(t, fetch(t, f, 1))
		r := s.all()[0]
		form, err := url.ParseQuery(r.body)
		require.NoError(t, err)
		require.Equal(t, url.Values{"grant_type": {"client_credentials"}, "scope": {"orders.read x"}, "audience": {"https://api.example"}}, form)
		require.Equal(t, "Basic c2hvcCslMjYrY286UzNjcmV0JTJCVmFsdWU=", r.header.Get("Authorization"))
		require.Equal(t, "Bearer token-1", s.all()[1].header.Get("Authorization"))
	})
	t.Run("the request, with the client in the body", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		require.NoError(t, fetch(t, fetcher(t, s.request(`,"client_auth":"body"`)), 1))
		form, err := url.ParseQuery(s.all()[0].body)
		require.NoError(t, err)
		require.Equal(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {"shop & co"}, "client_secret": {"S3cret+Value"}}, form)
		require.Empty(t, s.all()[0].header.Get("Authorization"))
	})
	t.Run("one token for all requests", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.expires.Store(3600)
		f := fetcher(t, s.request(""))
		var wg sync.WaitGroup
		for page := 1; page <= 20; page++ {
			wg.Go(func() {
				got, err := f.Fetch(t.Context(), source.Position{Page: page, Size: 1})
				if err != nil {
					t.Error(err)
					return
				}
				got.Release()
			})
		}
		wg.Wait()
		require.Equal(t, 1, s.tokenRequests())
	})
	t.Run("a token that has ended is replaced", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.expires.Store(-10)
		f := fetcher(t, s.request(""))
		for page := 1; page <= 3; page++ {
			require.NoError(t, fetch(t, f, page))
		}
		require.Equal(t, 3, s.tokenRequests())
	})
	t.Run("once after a 401, without an attempt", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.accept = func(token string) bool { return token != "token-1" }
		f := fetcher(t, s.request(""))
		for page := 1; page <= 3; page++ {
			require.NoError(t, fetch(t, f, page))
		}
		require.Equal(t, 2, s.tokenRequests())
	})
	t.Run("a second 401 is final", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.accept = func(string) bool { return false }
		err := fetch(t, fetcher(t, s.request("")), 1)
		require.EqualError(t, err, "page 1: HTTP 401")
		require.Equal(t, events.CodeSourceAuth, failure(t, err).Code)
		require.Len(t, s.all(), 4)
	})
	t.Run("a refusal is final for all pages", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.status.Store(400)
		f := fetcher(t, s.request(""))
		for page := 1; page <= 3; page++ {
			err := fetch(t, f, page)
			require.EqualError(t, err, fmt.Sprintf("page %d: the token request was answered with HTTP 400; check source_http.auth", page))
			require.Equal(t, events.CodeSourceAuth, failure(t, err).Code)
			for cause := err; cause != nil; cause = errors.Unwrap(cause) {
				require.NotContains(t, cause.Error(), "secret body")
			}
		}
		require.Len(t, s.all(), 1)
	})
	t.Run("a token server out of order is asked again", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.status.Store(503)
		err := fetch(t, fetcher(t, s.request("")), 1)
		require.EqualError(t, err, "page 1: the token request was answered with HTTP 503; check source_http.auth after 6 attempts")
		require.Len(t, s.all(), 6)
	})
	t.Run("a redirect is not followed", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.status.Store(302)
		require.EqualError(t, fetch(t, fetcher(t, s.request("")), 1), "page 1: the token request was answered with HTTP 302; check source_http.auth")
		require.Len(t, s.all(), 1)
	})
	t.Run("no token", func(t *testing.T) {
		t.Parallel()
		for _, body := range []string{`{}`, `secret body`, `{"access_token":""}`, `{"access_token":"a\r\nb"}`} {
			server := record(t, text(200, body))
			req := form(server.URL, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingNone}})
			req.Auth = raw(`{"type":"oauth2","token_url":"` + server.URL + `/token","client_id":"a","client_secret":"b"}`)
			err := fetch(t, fetcher(t, req), 1)
			require.ErrorContains(t, err, "page 1: the token server")
			require.NotContains(t, err.Error(), "secret body")
			require.Equal(t, events.CodeSourceAuth, failure(t, err).Code)
			require.Len(t, server.all(), 1)
		}
	})
	t.Run("in the standard format", func(t *testing.T) {
		t.Parallel()
		s := newTokenServer(t)
		s.accept = func(string) bool { return false }
		req := s.request("")
		req.From, req.Limit = nil, 1
		err := fetch(t, fetcher(t, req), 1)
		require.EqualError(t, err, "page 1: HTTP 401")
		require.Equal(t, events.CodeSourceHTTP, failure(t, err).Code)
		require.Equal(t, 2, s.tokenRequests())
	})
}

// The address guard looks at the token server as well, and the failure does not show its address.
func TestTokenServerIsGuarded(t *testing.T) {
	t.Parallel()
	guard := ssrf.New(ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.1/32")), ssrf.WithAnyPort())
	transport := &http.Transport{DialContext: (&net.Dialer{Control: guard.Safe}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	server := record(t, text(200, `[]`))
	client := &http.Client{Transport: transport}
	for address, want := range map[string]string{
		"http://127.0.0.2:1/token?k=S3cretKey": "page 1: the token request failed: the source's address may not be asked",
		"http://127.0.0.1:1/token?k=S3cretKey": "page 1: the token request failed: connection refused after 6 attempts",
	} {
		req := form(server.URL, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingNone}})
		auth, err := json.Marshal(map[string]string{"type": "oauth2", "token_url": address, "client_id": "a", "client_secret": "b"})
		require.NoError(t, err)
		req.Auth = auth
		f, err := source.New(client, req, quick)
		require.NoError(t, err)
		_, err = f.Fetch(t.Context(), source.Position{Page: 1})
		require.ErrorContains(t, err, want)
		require.Equal(t, events.CodeSourceAuth, failure(t, err).Code)
		require.NotContains(t, fmt.Sprint(failure(t, err).Err), "S3cretKey")
	}
	require.Empty(t, server.all())
}

// A page whose crawl ends while another page gets the token stops at once.
func TestWaitingForATokenEndsWithTheContext(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		_, _ = w.Write([]byte(`{"access_token":"abc","token_type":"bearer"}`))
	}))
	defer server.Close()
	defer close(release)
	req := form(server.URL, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingNone}})
	req.Auth = raw(`{"type":"oauth2","token_url":"` + server.URL + `/token","client_id":"a","client_secret":"b"}`)
	f := fetcher(t, req)
	ctx, cancel := context.WithCancel(t.Context())
	var turns atomic.Int64
	f.Turn = func(context.Context) (source.Place, error) {
		if turns.Add(1) == 2 {
			cancel()
		}
		return place{}, nil
	}
	first, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _, _ = f.Fetch(first, source.Position{Page: 1}) })
	<-begun
	_, err := f.Fetch(ctx, source.Position{Page: 1})
	require.Empty(t, failure(t, err).Code)
}

type place struct{}

func (place) Yield() {}
func (place) Done()  {}
