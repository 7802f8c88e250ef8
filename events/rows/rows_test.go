package rows_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/rows"
)

func TestCursorReturnsFieldsAsTheyStand(t *testing.T) {
	page := []byte(" [ {\"a\" : 1.50, \"b\\\"\":\"x\\ny\",\n \"c\":{\"d\":[\"}\"]}} , {}, {\"a\":null,\"a\":true,\"e\":false,\"f\":[1,2] } ] ")
	n, err := rows.Check(page, rows.Limits{})
	require.NoError(t, err)
	require.Equal(t, 3, n)

	type field struct {
		name    string
		escaped bool
		kind    rows.Kind
		raw     string
		vesc    bool
	}
	var got [][]field
	for c := rows.NewCursor(page); c.NextRow(); {
		row := []field{}
		for {
			name, esc, v, ok := c.NextField()
			if !ok {
				break
			}
			row = append(row, field{string(name), esc, v.Kind, string(v.Raw), v.Escaped})
		}
		got = append(got, row)
	}
	require.Equal(t, [][]field{
		{{"a", false, rows.Number, "1.50", false}, {`b\"`, true, rows.String, `"x\ny"`, true},
			{"c", false, rows.Object, `{"d":["}"]}`, false}},
		{},
		{{"a", false, rows.Null, "null", false}, {"a", false, rows.True, "true", false},
			{"e", false, rows.False, "false", false}, {"f", false, rows.Array, "[1,2]", false}},
	}, got)
}
