package encode

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestColumns(t *testing.T) {
	t.Parallel()
	for page, want := range map[string][]Column{
		`[]`:                             nil,
		`[{}]`:                           {},
		`[{"a":"A","b":2},{"c":1}]`:      {{"a", "A"}, {"b", "2"}},
		`[{"a":null,"b":"","c":true}]`:   {{"a", "a"}, {"b", "b"}, {"c", "true"}},
		`[{"a":1,"b":2,"a":"again"}]`:    {{"a", "again"}, {"b", "2"}},
		`[{"\u4e2d":"\u56fd"}]`:          {{"中", "国"}},
		`[{"a":{"x": [1, "\u4e2d"] } }]`: {{"a", `{"x":[1,"中"]}`}},
	} {
		require.Equal(t, want, Columns([]byte(page)), page)
	}
}
