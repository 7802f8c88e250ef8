package rows_test

import (
	"encoding/json"
	"testing"

	"sheaf/events/rows"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSlice(t *testing.T) {
	t.Parallel()
	const array = " [ {\"a\":\"}\\\"\"} ,\n{},{\"b\":[{\"c\":1}]} ] "
	for _, c := range []struct {
		claim    string
		from, to int
		want     string
	}{
		{"all", 0, 3, "[{\"a\":\"}\\\"\"} ,\n{},{\"b\":[{\"c\":1}]}]"},
		{"the first", 0, 1, `[{"a":"}\""}]`},
		{"the middle", 1, 2, `[{}]`},
		{"the last", 2, 3, `[{"b":[{"c":1}]}]`},
		{"more than there are", 2, 9, `[{"b":[{"c":1}]}]`},
		{"none", 1, 1, `[]`},
		{"beyond the end", 5, 9, `[]`},
	} {
		require.Equal(t, "x"+c.want, string(rows.Slice([]byte("x"), []byte(array), c.from, c.to)), c.claim)
	}
	require.Equal(t, "[]", string(rows.Slice(nil, []byte("[]"), 0, 2)))
}

// The slices of an array are its rows.
func TestSlicesJoined(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.MapOfN(rapid.String(), rapid.OneOf(
			rapid.Custom(func(t *rapid.T) any { return rapid.String().Draw(t, "text") }),
			rapid.Custom(func(t *rapid.T) any { return []any{map[string]any{}, rapid.Int().Draw(t, "n")} }),
		), 0, 4), 0, 10).Draw(t, "rows")
		array, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		from := rapid.IntRange(0, len(all)).Draw(t, "from")
		to := rapid.IntRange(from, len(all)).Draw(t, "to")
		want, err := json.Marshal(all[from:to])
		if err != nil {
			t.Fatal(err)
		}
		if got := rows.Slice(nil, array, from, to); string(got) != string(want) {
			t.Fatalf("%s instead of %s", got, want)
		}
	})
}
