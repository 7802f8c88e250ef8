package request

import (
	"encoding/json"
	"fmt"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

// URLs are stored as received, because they are part of the key. Invalid characters are encoded when the
// crawler asks the source.
func TestURLsAreKeptAsReceived(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	seen := map[string]string{}
	for _, c := range []struct{ url, want string }{
		{"http://h/p?q=北京", ""},
		{"http://h/p?q=%E5%8C%97%E4%BA%AC", ""},
		{"http://h/p?q=%e5%8c%97%e4%ba%ac", ""},
		{"http://h/a b?q=\"<>\\^{|}` &f[x]=+;", ""},
		{"http://h/p?q=100%&u=%u5317", ""},
		{"http://h/p?q=x#part", ""},
		{"http://北京.example/", ""},
		{"http://[::1]:81/", ""},
		{"http://h/100%", `is not a URL: it holds "%", which is no percent-encoding; write %25 for a percent sign`},
		{"http://h/%zz", `is not a URL: it holds "%zz", which is no percent-encoding; write %25 for a percent sign`},
		{"http://h/p?q=a\nb", "is not a URL: it holds a control character, such as a line break; percent-encode it"},
		{"http://h/\x7f", "is not a URL: it holds a control character, such as a line break; percent-encode it"},
		{"http://h h/", "is not a URL; want http://host/path or https://host/path"},
		{"http://[::1/", "is not a URL; want http://host/path or https://host/path"},
		{"http://北_京.example/", `has the host "北_京.example", which is not a domain name`},
		{"http://a:b@h/", "must not hold a user name or password; send them in source_http.header"},
	} {
		for _, field := range []string{"source_http.url", "callback"} {
			source, callback := c.url, "http://h/"
			if field == "callback" {
				source, callback = callback, source
			}
			body, err := json.Marshal(map[string]any{"ext_type": "XLSX", "callback": callback, "source_http": map[string]any{"url": source}})
			require.NoError(t, err)
			s, err := Parse(keys, "default", events.SourceHTTP, xlsx, body)
			if c.want != "" {
				require.ErrorContains(t, err, c.want, field)
				continue
			}
			require.NoError(t, err, c.url)
			require.Equal(t, source, s.Request.HTTP.URL)
			require.Equal(t, callback, s.Request.Callback)
			request := fmt.Sprint(source, " ", callback)
			require.Empty(t, seen[s.Key], "%s has the key of another", request)
			seen[s.Key] = request
		}
	}
}
