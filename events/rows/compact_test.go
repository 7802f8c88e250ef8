package rows

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAppendCompact(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`1`:          `1`,
		`-0.10E+05 `: `-0.10E+05`,
		`null`:       `null`,
		`"a b"`:      `"a b"`,
		"{ \"a\" : [ 1 ,\n\t2 ] ,\r\"b\":\" : , \"}": `{"a":[1,2],"b":" : , "}`,
		`{"a":1,"a":2}`:              `{"a":1,"a":2}`,
		`"\u4e2d\/\n"`:               `"\u4e2d\/\n"`,
		`"\ud83d\ude00"`:             `"\ud83d\ude00"`,
		`"\ud83d"`:                   `"\ufffd"`,
		`"\ude00\ud83d"`:             `"\ufffd\ufffd"`,
		`"\ud83d\ud83d\ude00x"`:      `"\ufffd\ud83d\ude00x"`,
		`"\uD83D\n\uDE00"`:           `"\ufffd\n\ufffd"`,
		`"\\ud83d"`:                  `"\\ud83d"`,
		`"\\\ud83d"`:                 `"\\\ufffd"`,
		`{"\udfff" :{} , "b": [ ] }`: `{"\ufffd":{},"b":[]}`,
	} {
		require.Equal(t, want, string(AppendCompact([]byte("x"), []byte(raw))[1:]), raw)
	}
}

func TestAppendRowMovesToTheNext(t *testing.T) {
	t.Parallel()
	c := NewCursor([]byte("[ {\"a\": 1}\n, {\"b\":{\"c\": [\"]}\"]}}, {}\n]"))
	var got []string
	for c.NextRow() {
		got = append(got, string(c.AppendRow(nil)))
	}
	require.Equal(t, []string{`{"a":1}`, `{"b":{"c":["]}"]}}`, `{}`}, got)
}

// A value means the same without its white space, and any bytes end without a panic.
func FuzzAppendCompact(f *testing.F) {
	for _, seed := range []string{`{"a": [1, "\ud800", {"b" : null}]}`, `"\u12`, `[{"`, `"\ud83d\`, `{"a":"\ud83d\u"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := AppendCompact(nil, raw)
		array := append(append([]byte(`[{"v":`), raw...), "}]"...)
		c := NewCursor(array)
		for c.NextRow() {
			c.AppendRow(nil)
		}
		if _, err := Check(array, Limits{}); err != nil {
			return
		}
		var a, b any
		require.NoError(t, json.Unmarshal(raw, &a))
		require.NoError(t, json.Unmarshal(got, &b))
		require.Equal(t, a, b)
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, raw))
		require.Len(t, got, compact.Len())
	})
}
