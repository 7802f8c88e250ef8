package request

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/secrets"
)

// Only rows are lenient; every other field of a raw request is strict.
func TestOnlyRowsMayRepeatNamesAndHoldHalfAPair(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	for _, c := range []struct{ claim, body, refused string }{
		{"half a pair in a row", `{"ext_type":"XLSX","source_raw":[{"a":"\ud800"}]}`, ""},
		{"half a pair in the string of rows", `{"ext_type":"XLSX","source_raw":"[{\"a\":\"\udc00\"}]"}`, ""},
		{"a name twice in a row", `{"ext_type":"XLSX","source_raw":[{"a":1,"a":{"b":1,"b":2}}]}`, ""},
		{"a byte order mark before the string of rows", `{"ext_type":"XLSX","source_raw":"\ufeff[{\"a\":1}]"}`, ""},
		{"a byte order mark after white space", `{"ext_type":"XLSX","source_raw":" \ufeff[{\"a\":1}]"}`, "source_raw: must hold a JSON array of rows"},
		{"rows twice", `{"ext_type":"XLSX","source_raw":[{"a":1}],"source_raw":[]}`, `body: names "source_raw" twice at byte 55`},
		{"a field twice", `{"title":"x","source_raw":[{"a":"\ud800"}],"title":"x"}`, `body: names "title" twice at byte 51`},
		{"half a pair in the title", `{"source_raw":[{"a":"\ud800"}],"title":"\ud800"}`, "body: is not valid JSON at byte 40"},
		{"a name twice in an unknown field", `{"source_raw":[{"a":1,"a":1}],"x":{"y":1,"y":2}}`, `body: names "y" twice at byte 41`},
		{"bytes that are not UTF-8", "{\"source_raw\":[{\"a\":\"\xff\"}]}", "body: is not valid JSON at byte 21"},
		{"escaped halves are no bytes", `{"ext_type":"XLSX","source_raw":"[{\"a\":\"\\xff\"}]"}`, "source_raw: "},
	} {
		s, err := Parse(keys, "default", events.SourceRaw, xlsx, []byte(c.body))
		if c.refused == "" {
			require.NoError(t, err, c.claim)
			require.Len(t, s.Pages, 1, c.claim)
			continue
		}
		require.Error(t, err, c.claim)
		require.True(t, strings.HasPrefix(err.Error(), c.refused), "%s: %s", c.claim, err)
	}
	_, err = Parse(keys, "default", events.SourceHTTP, xlsx, []byte(`{"source_raw":[{"a":"\ud800"}]}`))
	require.ErrorContains(t, err, "byte 21")
}
