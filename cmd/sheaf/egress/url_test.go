package egress

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What arrives is what a URL means, in characters that a URL may hold.
func TestURLsAreSentEncoded(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.RequestURI }))
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

// Encoding changes no meaning, and encodes nothing twice.
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
		e := encoded(u)
		require.Equal(t, u.Path, e.Path)
		require.Equal(t, e, encoded(e))
		again, err := url.Parse(e.String())
		require.NoError(t, err)
		require.Equal(t, u.Path, again.Path)
		if query, err := url.ParseQuery(u.RawQuery); err == nil { // a stray % is none
			require.Equal(t, query, again.Query())
		}
		require.Equal(t, -1, strings.IndexFunc(e.RequestURI(), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^{|}`#", r) }))
	})
}
