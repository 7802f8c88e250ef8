package egress

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/eventstest"
	"sheaf/services/crawler/source"
	"sheaf/services/notifier"
)

// The server receives the URL that was meant, in characters that a URL may contain.
func TestURLsAreSentEncoded(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
	}))
	defer server.Close()
	client := New(Config{Allowed: loopback})
	defer client.CloseIdleConnections()
	for _, c := range []struct{ url, want string }{
		{"", "/"},
		{"/p", "/p"},
		{"/p?", "/p?"},
		{"/p?q=北京", "/p?q=%E5%8C%97%E4%BA%AC"},
		{"/p?q=a b", "/p?q=a%20b"},
		{"/p?q=\"<>\\^{|}`", "/p?q=%22%3C%3E%5C%5E%7B%7C%7D%60"},
		{"/p?filter[name]=x", "/p?filter%5Bname%5D=x"},
		{"/p?q=%e5%8C%97+x;y&a=1&a=2&&empty&=", "/p?q=%e5%8C%97+x;y&a=1&a=2&&empty&="},
		{"/p?q=!$&'()*+,;=:@/?-._~aZ09", "/p?q=!$&'()*+,;=:@/?-._~aZ09"},
		{"/p?q=100%", "/p?q=100%25"},
		{"/p?q=%zz%4%u5317%%41", "/p?q=%25zz%254%25u5317%25%41"},
		{"/p?q=x#part", "/p?q=x"},
		{"/p?q=x#北京 ?y", "/p?q=x"},
		{"/北京 x", "/%E5%8C%97%E4%BA%AC%20x"},
		{"/a%2Fb/北京%20{x}", "/a%2Fb/%E5%8C%97%E4%BA%AC%20%7Bx%7D"},
		{"/a%2fb;v=1/c+d", "/a%2fb;v=1/c+d"},
		{"/a[1]", "/a[1]"},
		{"/a\"<>\\^{|}`", "/a%22%3C%3E%5C%5E%7B%7C%7D%60"},
		{"//a//b/../c/.", "//a//b/../c/."},
	} {
		resp, err := get(t, client, server.URL+c.url)
		require.NoError(t, err, c.url)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.want, <-asked, c.url)
	}
}

// Encoding preserves the meaning and never encodes twice.
func TestEncodedURLsMeanTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := url.Values(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "values"))
		raw := rapid.StringMatching(`(/[ -~é北]*)?(\?[ -~é北]*)?`).Draw(t, "url")
		u, err := url.Parse("http://host" + raw)
		if err != nil {
			t.Skip("is not a URL")
		}
		if len(values) > 0 {
			u.RawQuery = values.Encode()
		}
		e, err := encoded(u)
		require.NoError(t, err)
		twice, err := encoded(e)
		require.NoError(t, err)
		require.Equal(t, u.Path, e.Path)
		require.Equal(t, e, twice)
		again, err := url.Parse(e.String())
		require.NoError(t, err)
		require.Equal(t, u.Path, again.Path)
		if query, err := url.ParseQuery(u.RawQuery); err == nil { // a stray % is not valid
			require.Equal(t, query, again.Query())
		}
		require.Equal(t, -1, strings.IndexFunc(e.RequestURI(), func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^{|}`#", r)
		}))
	})
}

// A Unicode name is resolved and sent in its ASCII form. Its address is still checked.
func TestNamesInUnicode(t *testing.T) {
	t.Parallel()
	hosts := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
	}))
	defer server.Close()
	for given, want := range map[string]string{
		"北京.example":                    "xn--1lq90i.example",
		"%E5%8C%97%E4%BA%AC.example":    "xn--1lq90i.example",
		"BÜCHER。example":                "xn--bcher-kva.example",
		"xn--1lq90i.example":            "xn--1lq90i.example",
		"\uff11\uff12\uff17.0.0.\uff11": "127.0.0.1",
	} {
		client := New(Config{})
		dialled := ""
		client.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled = address
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
		resp, err := get(t, client, "http://"+given+":81/")
		require.NoError(t, err, given)
		require.NoError(t, resp.Body.Close())
		client.CloseIdleConnections()
		require.Equal(t, want+":81", dialled)
		require.Equal(t, want+":81", <-hosts)
	}
	client := New(Config{})
	defer client.CloseIdleConnections()
	resp, err := get(t, client, strings.Replace(server.URL, "127.0.0.1", "\uff11\uff12\uff17.0.0.\uff11", 1))
	if err == nil {
		_ = resp.Body.Close()
	}
	require.ErrorIs(t, err, ssrf.ErrProhibitedIP)
	resp, err = get(t, client, "http://北_京.example/")
	if err == nil {
		_ = resp.Body.Close()
	}
	require.ErrorAs(t, err, new(*net.DNSError))
}

// The crawler and the notifier request the same address for the same URL.
func TestServicesPassURLsAsReceived(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
		_, _ = io.WriteString(w, page)
	}))
	defer server.Close()
	client := New(Config{Allowed: loopback})
	defer client.CloseIdleConnections()
	const given = "/a%2Fb/北京 x?q=北京 {`}&p=100%&f[a]=%e5+;&u=\\^|<>\"#part"
	const want = `/a%2Fb/%E5%8C%97%E4%BA%AC%20x?q=%E5%8C%97%E4%BA%AC%20%7B%60%7D&p=100%25&f%5Ba%5D=%e5+;&u=%5C%5E%7C%3C%3E%22`

	for param, more := range map[string]string{"": "", `{"x y":"北 [100%]"}`: "&x+y=%E5%8C%97+%5B100%25%5D"} {
		src, err := source.New(client,
			source.Request{URL: server.URL + given, Limit: 1, Param: json.RawMessage(param)}, source.Policy{})
		require.NoError(t, err)
		got, err := src.Fetch(t.Context(), source.Position{Page: 1})
		require.NoError(t, err)
		got.Release()
		require.Equal(t, want+more+"&page=1&limit=1", <-asked)
	}

	streams := eventstest.Journal(t)
	service, err := notifier.New(notifier.Config{PublicURL: "http://127.0.0.1"}, streams, client)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- service.Run(ctx) }()
	endedExport(t, streams, fmt.Sprintf("%032x", 1), server.URL+given)
	require.Equal(t, want, <-asked)
	stop()
	require.NoError(t, <-stopped)
}
