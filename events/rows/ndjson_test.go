package rows_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/rows"
)

func TestFromNDJSONReadsLines(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"{\"a\":1}\n{\"a\":2.50}\n":             `[{"a":1},{"a":2.50}]`,
		"\xef\xbb\xbf{\"a\":1}\r\n\r\n\t\n {} ": `[{"a":1},{}]`,
		"{\"a\" : [1, {\"b\":\"\\n\"}]}":        `[{"a" : [1, {"b":"\n"}]}]`,
		"":                                      `[]`,
		"\n\n":                                  `[]`,
		"\xef\xbb\xbf":                          `[]`,
	} {
		array, n, err := rows.FromNDJSON([]byte("x"), []byte(body), rows.Limits{})
		require.NoError(t, err, body)
		require.Equal(t, "x"+want, string(array), body)
		count, err := rows.Check(array[1:], rows.Limits{})
		require.NoError(t, err, body)
		require.Equal(t, count, n, body)
	}
}

func TestFromNDJSONRefusesWithTheLine(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"{}\n\n[{}]":             "line 3: an array, not an object; a JSON array of rows is source_http.format json",
		"{}\n7\n":                "line 2: a number, not an object",
		"{}\nnull":               "line 2: null, not an object",
		"{\n\"a\":1}\n":          "line 1: the JSON is truncated at byte 1; each line must hold a whole object",
		"{}\n{\"a\":":            "line 2: the JSON is truncated at byte 8",
		"{} {}\n":                "line 1: '{' at byte 3 where the end should be",
		"{}x\n":                  "line 1: 'x' at byte 2 where the end should be",
		"{}\nx\n":                "line 2: 'x' at byte 3 where a value should be",
		"{}\n{\"a\":01}\n":       "line 2: a number with a leading zero at byte 9",
		"{}\n{\"a\":\"\xff\"}\n": "line 2: invalid UTF-8 at byte 9",
		"\n<html>":               "the body is HTML or XML, not NDJSON",
	} {
		array, n, err := rows.FromNDJSON(nil, []byte(body), rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, want, strings.TrimSuffix(e.Msg+"; "+e.Hint, "; "), body)
		require.Equal(t, strings.HasSuffix(want, "truncated at byte 8"), e.Truncated, body)
		require.Nil(t, array, body)
		require.Zero(t, n, body)
	}
}

// FromNDJSON accepts a body if each line that is not blank is an object alone.
func FuzzFromNDJSON(f *testing.F) {
	for _, body := range []string{"{\"a\":1}\n{\"a\":2}\r\n\n{}", "\xef\xbb\xbf{}", "{\n}", "[{}]", "{}{}", "{\"a\":1}\n{\"a\\\":1}\n"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		array, n, err := rows.FromNDJSON(nil, body, deep)
		var want [][]field
		valid := true
		for _, line := range bytes.Split(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), []byte("\n")) {
			line = bytes.Trim(line, " \t\r")
			if len(line) == 0 {
				continue
			}
			row, ok := referenceRows(append(append([]byte("["), line...), ']'))
			if ok = ok && len(row) == 1; !ok {
				valid = false
				break
			}
			want = append(want, row[0])
		}
		if valid != (err == nil) {
			t.Fatalf("%q: valid %v, error %v", body, valid, err)
		}
		if err != nil {
			if e := (*rows.SyntaxError)(nil); !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(body) {
				t.Fatalf("bad error %#v", err)
			}
			return
		}
		got, ok := referenceRows(array)
		if !ok || len(got) != n || len(want) != n {
			t.Fatalf("%q: %s with %d rows", body, array, n)
		}
		for k := range want {
			require.Equal(t, want[k], got[k])
		}
	})
}
