package rows_test

import (
	"strings"
	"testing"

	"sheaf/events/rows"

	"github.com/stretchr/testify/require"
)

func TestFirstRowIsData(t *testing.T) {
	t.Parallel()
	for rowTexts, want := range map[string]bool{
		`{"id":"ID"},{"id":1}`:                                 false,
		`{"id":1},{"id":2}`:                                    true,
		`{"id":1,"name":"a"},{"id":2,"name":"b"}`:              true,
		`{"id":1,"name":"a"},{"id":2,"name":3}`:                false,
		`{"id":1,"name":null},{"id":2,"name":"b"}`:             true,
		`{"id":null,"name":"Name"},{"id":2,"name":"b"}`:        false,
		`{"id":true},{"id":false}`:                             true,
		`{"id":{"a":1}},{"id":{"a":2}}`:                        true,
		`{"id":[1]},{"id":{"a":2}}`:                            false,
		`{"id":1},{"id":null}`:                                 false,
		`{"id":1},{"id":null},{"id":3}`:                        true,
		`{"id":1},{"x":2}`:                                     false,
		`{"id":1},{"id":2},{"id":"c3"}`:                        true,
		`{"id":1,"name":"a"},{"id":2,"name":"b"},{"name":3}`:   true,
		`{"id":1},{"id":"b2"},{"id":"c3"}`:                     false,
		`{"id":"ID"},{"id":"a1"},{"id":2}`:                     false,
		`{"id":1}`:                                             false,
		`{"name":"Name","2024":2024},{"name":"a","2024":7}`:    false,
		`{"name":"Name","2024":2023},{"name":"a","2024":7}`:    true,
		`{"name":"Name","total":2024},{"name":"a","total":""}`: false,
		`{"a":"A"},{"a":"b"}`:                                  false,
	} {
		require.Equal(t, want, rows.FirstRowIsData([]byte("["+rowTexts+"]")), rowTexts)
	}
	late := `[{"id":1}` + strings.Repeat(`,{"id":1}`, 20) + `,{"id":"x"}]`
	require.True(t, rows.FirstRowIsData([]byte(late)), "only the next rows are looked at")
}
