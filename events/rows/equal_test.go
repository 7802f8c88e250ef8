package rows_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestEqualRow(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{}`, ` { } `, true},
		{`{"a":"A","b":"B"}`, `{"b":"B", "a":"A"}`, true},
		{`{"a":"\u65e5"}`, `{"a":"日"}`, true},
		{`{"\u0061":1}`, `{"a":1}`, true},
		{`{"a\"":1}`, `{"a\u0022":1}`, true},
		{`{"a\"":1}`, `{"a":1}`, false},
		{`{"a":1}`, `{"a":1.0}`, true},
		{`{"a":100}`, `{"a":1E+2}`, true},
		{`{"a":-0}`, `{"a":0e9}`, true},
		{`{"a":12345678901234567890}`, `{"a":12345678901234567891}`, false},
		{`{"a":1e99999999999999999999}`, `{"a":1e99999999999999999999}`, true},
		{`{"a":1e99999999999999999999}`, `{"a":1e99999999999999999998}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":null}`, `{}`, false},
		{`{"a":null}`, `{"a":false}`, false},
		{`{"a":true}`, `{"a":false}`, false},
		{`{"a":1,"a":2}`, `{"a":2}`, true},
		{`{"a":{"x":1,"y":[1, {"z":"\/"}]}}`, `{"a":{"y":[1.0,{"z":"/"}],"x":1}}`, true},
		{`{"a":[1,2]}`, `{"a":[2,1]}`, false},
		{`{"a":[]}`, `{"a":{}}`, false},
		{`{"a":["b"],"c":1}`, `{"a":["b","c"]}`, false},
		{`{"a":1}`, `{"b":1}`, false},
		{`{"a":1}`, `{"a":1,"b":1}`, false},
		{`{"a":1`, `{"a":1`, false},
		{`[]`, `[]`, false},
		{``, ``, false},
		{`null`, `null`, false},
	} {
		require.Equal(t, c.want, rows.EqualRow([]byte(c.a), []byte(c.b)), "%s %s", c.a, c.b)
		require.Equal(t, c.want, rows.EqualRow([]byte(c.b), []byte(c.a)), "%s %s", c.b, c.a)
	}
}

func TestEqualRowHoldsOverOrderSpaceAndEscapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringN(0, 6, 12), 1, 6, rapid.ID[string]).Draw(t, "names")
		values := make([]string, len(names))
		for i := range values {
			var b strings.Builder
			drawValue(t, &b, 2)
			values[i] = b.String()
		}
		write := func(order []int, ascii bool) string {
			var b strings.Builder
			b.WriteString("{")
			for k, i := range order {
				if k > 0 {
					b.WriteString(",")
				}
				name, _ := json.Marshal(names[i])
				text := string(name)
				if ascii {
					text = escapeAll(text)
				}
				b.WriteString(space(t) + text + ":" + values[i])
			}
			return b.String() + "}"
		}
		all := make([]int, len(names))
		for i := range all {
			all[i] = i
		}
		a := write(all, false)
		b := write(rapid.Permutation(all).Draw(t, "order"), true)
		if !rows.EqualRow([]byte(a), []byte(b)) {
			t.Fatalf("%s is not equal to %s", a, b)
		}
		less := write(all[1:], false)
		if rows.EqualRow([]byte(a), []byte(less)) {
			t.Fatalf("%s is equal to %s", a, less)
		}
	})
}

// escapeAll rewrites the ASCII letters of a JSON string as escapes.
func escapeAll(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			b.WriteString(s[i : i+2])
			i++
			if s[i] == 'u' {
				b.WriteString(s[i+1 : i+5])
				i += 4
			}
			continue
		}
		if s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' {
			b.WriteString(`\u00` + string("0123456789abcdef"[s[i]>>4]) + string("0123456789abcdef"[s[i]&15]))
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func TestUnquoteAgreesWithEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawString(t)
		var want string
		if err := json.Unmarshal([]byte(raw), &want); err != nil {
			t.Fatal(err)
		}
		if got := string(rows.Unquote([]byte("x"), []byte(raw))); got != "x"+want {
			t.Fatalf("%s: want %q, got %q", raw, want, got)
		}
		if got := string(rows.Unquote(nil, []byte(raw[1:len(raw)-1]))); got != want {
			t.Fatalf("%s without quotes: want %q, got %q", raw, want, got)
		}
	})
}

func TestUnquoteOfUncheckedBytes(t *testing.T) {
	for raw, want := range map[string]string{
		``: ``, `"`: ``, `""`: ``, `"\`: "\ufffd", `\u`: "\ufffd", `\u12`: "\ufffd12",
		`\ud800\u`: "\ufffd\ufffd", `\q`: `q`,
	} {
		require.Equal(t, want, string(rows.Unquote(nil, []byte(raw))), "%q", raw)
	}
}
