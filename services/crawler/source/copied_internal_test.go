package source

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
)

// Every copy of rows is counted, and only those that alias nothing go back to the pool.
func TestCopiesAreCounted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		from    events.HTTPRequest
		flatten int
		body    string
		copied  int
		pooled  bool
	}{
		{"as sent", events.HTTPRequest{}, 0, `[{"a":{"b":1}}]`, 0, false},
		{"flattened", events.HTTPRequest{}, 1, `[{"a":{"b":1}}]`, len(`[{"a.b":1}]`), true},
		{"no rows to flatten", events.HTTPRequest{}, 1, `[]`, 0, false},
		{"gathered", events.HTTPRequest{Rows: "x[*].y"}, 0, `{"x":[{"y":{"a":{"b":1}}}]}`, len(`[{"a":{"b":1}}]`), false},
		{"gathered and flattened", events.HTTPRequest{Rows: "x[*].y"}, 1, `{"x":[{"y":{"a":{"b":1}}}]}`, len(`[{"a":{"b":1}}]`) + len(`[{"a.b":1}]`), true},
		{"ndjson", events.HTTPRequest{Format: events.FormatNDJSON}, 0, "{\"a\":1}\n", len(`[{"a":1}]`), true},
		{"csv", events.HTTPRequest{Format: events.FormatCSV}, 0, "a\n1\n", len(`[{"a":1}]`), true},
		{"ndjson, flattened", events.HTTPRequest{Format: events.FormatNDJSON}, 1, `{"a":{"b":1}}`, len(`[{"a":{"b":1}}]`) + len(`[{"a.b":1}]`), true},
	} {
		c.from.Paging = &events.Paging{Type: events.PagingNone}
		f, err := New(http.DefaultClient, Request{URL: "http://a/", From: &c.from, Options: &events.Options{Flatten: c.flatten}}, Policy{})
		require.NoError(t, err)
		a, err := f.Shape.Parse([]byte(c.body), http.Header{}, Position{Page: 1})
		require.NoError(t, err, c.name)
		require.EqualValues(t, c.copied, a.copied, c.name)
		require.Equal(t, c.pooled, a.pooled, c.name)
	}
}
