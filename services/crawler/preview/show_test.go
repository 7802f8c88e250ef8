package preview

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// Texts are shown without escapes, and no part of a secret is shown, however the source writes it.
func TestCellsThatAreShown(t *testing.T) {
	t.Parallel()
	r := &run{secrets: []string{"s3cret/token"}}
	near := strings.Repeat("x", shownChars-6)
	for _, c := range []struct{ raw, want string }{
		{`"\u97e9\u6885"`, "韩梅"},
		{`{"name": "\u97e9\u6885\ud83d\ude00"}`, `{"name":"韩梅😀"}`},
		{`["a\nb", 1.50]`, `["a\nb",1.50]`},
		{`"s3cret\/token"`, "***"},
		{`{"echo": "s3cret\/token"}`, `{"echo":"***"}`},
		{`{"s3cr\u0065t\/token": 1}`, `{"***":1}`},
		{`"` + near + `s3cret/token"`, near + "***"},
	} {
		require.Equal(t, c.want, r.cell(jsontext.Value(c.raw)), c.raw)
	}
	quoted := &run{secrets: []string{`pa"ss\wd`}}
	for raw, want := range map[string]string{
		`"pa\"ss\\wd"`:                           "***",
		`{"echo":"pa\"ss\\wd","n":1}`:            `{"echo":"***","n":1}`,
		`{"echo":"{\"in\":\"pa\\\"ss\\\\wd\"}"}`: `{"echo":"{\"in\":\"***\"}"}`,
		`"{\"in\":\"pa\\\"ss\\\\wd\"}"`:          `{"in":"***"}`,
	} {
		require.Equal(t, want, quoted.cell(jsontext.Value(raw)), raw)
	}
	shown := r.cell(jsontext.Value(`{"a":"` + near + `s3cret/token"}`))
	require.NotContains(t, shown, "s3c")
}
