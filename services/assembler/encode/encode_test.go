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
		`[{"a":"A","b":2},{"c":1}]`:      {{Name: "a", Title: "A"}, {Name: "b", Title: "2"}},
		`[{"a":null,"b":"","c":true}]`:   {{Name: "a", Title: "a"}, {Name: "b", Title: "b"}, {Name: "c", Title: "true"}},
		`[{"a":1,"b":2,"a":"again"}]`:    {{Name: "a", Title: "again"}, {Name: "b", Title: "2"}},
		`[{"\u4e2d":"\u56fd"}]`:          {{Name: "中", Title: "国"}},
		`[{"a":{"x": [1, "\u4e2d"] } }]`: {{Name: "a", Title: `{"x":[1,"中"]}`}},
	} {
		require.Equal(t, want, Columns([]byte(page)), page)
	}
}
