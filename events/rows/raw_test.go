package rows_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/rows"
)

func TestCursorReturnsWholeRows(t *testing.T) {
	page := ` [ {"a" : "}]"} ,{}, {"b":{"c":[1,{"d":2}]}} ] `
	c := rows.NewCursor([]byte(page))
	var got []string
	for row, ok := c.NextRaw(); ok; row, ok = c.NextRaw() {
		got = append(got, string(row))
		require.Equal(t, string(row), page[c.Offset()-len(row):c.Offset()])
	}
	require.Equal(t, []string{`{"a" : "}]"}`, `{}`, `{"b":{"c":[1,{"d":2}]}}`}, got)

	c = rows.NewCursor([]byte(`[{"a":1,"b":2},{"c":3}]`))
	require.True(t, c.NextRow())
	c.NextField()
	row, ok := c.NextRaw()
	require.True(t, ok, "a partly read row is skipped")
	require.Equal(t, `{"c":3}`, string(row))

	c = rows.NewCursor([]byte(`[{"a":`))
	_, ok = c.NextRaw()
	require.False(t, ok)
}
