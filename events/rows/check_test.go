package rows_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

var hostile = []struct {
	page string
	want string // error message
}{
	{``, "the page is empty"},
	{" \n", "the page is empty"},
	{`{}`, "a page must be an array of rows, but it begins with '{'"},
	{`[`, "row 1: the JSON is truncated at byte 1"},
	{`[{"a":1}`, "row 1: the JSON is truncated at byte 8"},
	{`[{"a":"`, "row 1: the JSON is truncated at byte 7"},
	{`[{"a":"\`, "row 1: the JSON is truncated at byte 8"},
	{`[{"a":"\u12`, "row 1: the JSON is truncated at byte 11"},
	{`[{"a":tru`, "row 1: the JSON is truncated at byte 9"},
	{`[{"a":-`, "row 1: the JSON is truncated at byte 7"},
	{`[{"a":1.`, "row 1: the JSON is truncated at byte 8"},
	{`[{"a":1e`, "row 1: the JSON is truncated at byte 8"},
	{`[{"a"`, "row 1: the JSON is truncated at byte 5"},
	{`[{"a":`, "row 1: the JSON is truncated at byte 6"},
	{`[{},`, "row 2: the JSON is truncated at byte 4"},
	{`[{},{},"x"]`, "row 3 is a string, not an object"},
	{`[1]`, "row 1 is a number, not an object"},
	{`[{},null]`, "row 2 is null, not an object"},
	{`[[]]`, "row 1 is an array, not an object"},
	{`[true]`, "row 1 is true, not an object"},
	{`[{}] x`, "'x' at byte 5 where the end should be"},
	{`[{}][{}]`, "'[' at byte 4 where the end should be"},
	{`[{},]`, "row 2: ']' at byte 4 where a value should be"},
	{`[,{}]`, "row 1: ',' at byte 1 where a value should be"},
	{`[{} {}]`, "row 1: '{' at byte 4 where ',' or ']' should be"},
	{`[{"a":1,}]`, "row 1: '}' at byte 8 where a name in quotes should be"},
	{`[{a:1}]`, "row 1: 'a' at byte 2 where a name in quotes should be"},
	{`[{"a" 1}]`, "row 1: '1' at byte 6 where ':' should be"},
	{`[{"a":}]`, "row 1: '}' at byte 6 where a value should be"},
	{`[{"a":1 "b":2}]`, "row 1: '\"' at byte 8 where ',' or '}' should be"},
	{`[{"a":01}]`, "row 1: a number with a leading zero at byte 7"},
	{`[{"a":-01}]`, "row 1: a number with a leading zero at byte 8"},
	{`[{"a":+1}]`, "row 1: '+' at byte 6 where a value should be"},
	{`[{"a":.5}]`, "row 1: '.' at byte 6 where a value should be"},
	{`[{"a":1.}]`, "row 1: '}' at byte 8 where a digit should be"},
	{`[{"a":1e+}]`, "row 1: '}' at byte 9 where a digit should be"},
	{`[{"a":NaN}]`, "row 1: 'N' at byte 6 where a value should be"},
	{`[{"a":-Infinity}]`, "row 1: 'I' at byte 7 where a digit should be"},
	{`[{"a":nul}]`, "row 1: '}' at byte 9 where null should be"},
	{`[{"a":"\x41"}]`, "row 1: 'x' at byte 8 where an escape should be"},
	{`[{"a":"\u00g0"}]`, "row 1: 'g' at byte 11 where a hexadecimal digit should be"},
	{"[{\"a\":\"x\ny\"}]", "row 1: a control character (byte 0x0a) that must be escaped, at byte 8"},
	{"[{\"a\x00\":1}]", "row 1: a control character (byte 0x00) that must be escaped, at byte 4"},
	{"[{\"a\":\"\xff\"}]", "row 1: invalid UTF-8 at byte 7"},
	{"[{},{\"a\":\"日本\xe6\x97\"}]", "row 2: invalid UTF-8 at byte 16"},
	{"[{\"a\":\"\xed\xa0\x80\"}]", "row 1: invalid UTF-8 at byte 7"},     // a surrogate
	{"[{\"a\":\"\xc0\xaf\"}]", "row 1: invalid UTF-8 at byte 7"},         // overlong
	{"[{\"a\":\"\xf4\x90\x80\x80\"}]", "row 1: invalid UTF-8 at byte 7"}, // beyond U+10FFFF
	{"[{\"\xff\":1}]", "row 1: invalid UTF-8 at byte 3"},
	{"[{\"a\":1}\xa0]", "row 1: byte 0xa0 at byte 8 where ',' or ']' should be"},
	{"\xef\xbb\xbf[]", "a page must be an array of rows, but it begins with byte 0xef"},
	{`[` + strings.Repeat(`[`, 100_000), "row 1: nested deeper than 64 levels at byte 64"},
	{`[{"a":` + strings.Repeat(`{"a":`, 100_000), "row 1: nested deeper than 64 levels at byte 316"},
}

func TestCheckReportsTheError(t *testing.T) {
	for _, h := range hostile {
		n, err := rows.Check([]byte(h.page), rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, "%.80q", h.page)
		require.Equal(t, h.want, e.Error(), "%.80q", h.page)
		require.Zero(t, n)
		require.Equal(t, strings.Contains(h.want, "truncated") || strings.Contains(h.want, "empty"),
			e.Truncated, "%.80q", h.page)
		require.LessOrEqual(t, e.Offset, len(h.page))
	}
}

// The scanner reads words of eight bytes: strings end, escape and hold non-ASCII at every offset of one.
func TestCheckAtEveryAlignment(t *testing.T) {
	for n := range 40 {
		pad := strings.Repeat("x", n)
		for _, tail := range []string{``, `日`, `é`, `😀`, `\"`, `\\`, `\u65e5`} {
			page := fmt.Sprintf(`[{"%s%s":"%s%s","b":"%s"}]`, pad, tail, pad, tail, pad)
			_, err := rows.Check([]byte(page), rows.Limits{})
			require.NoError(t, err, page)
			want, ok := referenceRows([]byte(page))
			require.True(t, ok)
			got, ok := cursorRows([]byte(page))
			require.True(t, ok)
			require.Equal(t, want, got)
		}
		for _, tail := range []string{"\xff", "\x1f", "\xe6\x97", `\`, `\u12`, "\x00"} {
			page := fmt.Sprintf(`[{"a":"%s%s%s"}]`, pad, tail, pad)
			_, err := rows.Check([]byte(page), rows.Limits{})
			require.Equal(t, json.Valid([]byte(page)) && utf8.ValidString(page), err == nil, "%q", page)
			require.Error(t, err, "%q", page)
		}
	}
}

// A name equal to the previous row's is skipped. Names that differ from it anywhere are still checked in
// full.
func TestCheckNamesLikeThoseBefore(t *testing.T) {
	for _, name := range []string{`"name"`, `"日本"`, `"a\"b"`, `""`} {
		for cut := range len(name) + 1 {
			for _, tail := range []string{``, `"`, `x"`, `\"`, `\u00"`, "\x00\"", "\xe6\"", `\\"`, `":1,"`} {
				for _, page := range []string{
					fmt.Sprintf(`[{%s:1},{%s%s:2}]`, name, name[:cut], tail),
					fmt.Sprintf(`[{%s:1},{%s%s`, name, name[:cut], tail),
				} {
					agree(t, []byte(page))
				}
			}
		}
	}
	many := strings.Repeat(`"same":1,`, 200)
	agree(t, []byte(`[{`+many+`"a":2},{`+many+`"a":2}]`))
	agree(t, []byte(`[{`+many+`"a":2},{`+many+`"a:2}]`))
}

func TestCheckKeepsLimits(t *testing.T) {
	wide := func(n int) []byte {
		var b bytes.Buffer
		b.WriteString(`[{"a":`)
		b.WriteString(`{`) // MaxFields limits a row, not the objects nested in it
		for i := range 20 {
			fmt.Fprintf(&b, `"n%d":0,`, i)
		}
		b.WriteString(`"z":0}`)
		for i := range n - 1 {
			fmt.Fprintf(&b, `,"c%d":0`, i)
		}
		b.WriteString(`}]`)
		return b.Bytes()
	}
	nested := func(n int) []byte {
		return []byte(strings.Repeat(`[{"a":`, n/2) + "1" + strings.Repeat(`}]`, n/2))
	}
	many := func(n int) []byte { return []byte("[" + strings.Repeat("{},", n-1) + "{}]") }
	for _, c := range []struct {
		name string
		page []byte
		lim  rows.Limits
		want string // empty: accepted
	}{
		{"fields", wide(5), rows.Limits{MaxFields: 5}, ""},
		{"fields", wide(6), rows.Limits{MaxFields: 5}, "row 1: more than 5 fields"},
		{"fields by default", wide(16_384), rows.Limits{}, ""},
		{"fields by default", wide(16_385), rows.Limits{}, "row 1: more than 16384 fields"},
		{"depth", nested(6), rows.Limits{MaxDepth: 6}, ""},
		{"depth", nested(8), rows.Limits{MaxDepth: 7}, "row 1: nested deeper than 7 levels at byte 19"},
		{"depth by default", nested(64), rows.Limits{}, ""},
		{"depth by default", nested(66), rows.Limits{}, "row 1: nested deeper than 64 levels at byte 192"},
		{"depth is at most 10,000", nested(10_002), rows.Limits{MaxDepth: 1e9},
			"row 1: nested deeper than 10000 levels at byte 30000"},
		{"rows", many(3), rows.Limits{MaxRows: 3}, ""},
		{"rows", many(4), rows.Limits{MaxRows: 3}, "the page has more than 3 rows"},
		{"rows by default", many(1_000_000), rows.Limits{}, ""},
		{"rows by default", many(1_000_001), rows.Limits{}, "the page has more than 1000000 rows"},
	} {
		_, err := rows.Check(c.page, c.lim)
		if c.want == "" {
			require.NoError(t, err, c.name)
		} else {
			require.EqualError(t, err, c.want, c.name)
			limit := map[string]error{"fields": rows.ErrTooManyFields, "depth": rows.ErrTooDeep,
				"rows": rows.ErrTooManyRows}
			word, _, _ := strings.Cut(c.name, " ")
			require.ErrorIs(t, err, limit[word], c.name)
		}
	}
}

func TestCheckAndCursorAgreeWithEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		page := []byte(drawPage(t))
		if rapid.Bool().Draw(t, "spoil") && len(page) > 0 { // corrupt one byte anywhere
			i := rapid.IntRange(0, len(page)-1).Draw(t, "at")
			page[i] = rapid.SampledFrom([]byte("\"\\{}[],:0-.e \n\x00\x1f\x80\xe6\xffx")).Draw(t, "byte")
		}
		agree(t, page)
	})
}

type failer interface {
	Fatalf(format string, args ...any)
}

func agree(t failer, page []byte) {
	want, ok := referenceRows(page)
	n, err := rows.Check(page, deep)
	if ok != (err == nil) {
		t.Fatalf("encoding/json accepts: %v; Check: %v; page %q", ok, err, page)
	}
	got, terminated := cursorRows(page)
	if !terminated && err == nil {
		t.Fatalf("the cursor is wrong about escapes or does not end on %q", page)
	}
	if err != nil {
		var e *rows.SyntaxError
		if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(page) || e.Msg == "" ||
			!utf8.ValidString(e.Msg) || len(e.Msg) > 200 {
			t.Fatalf("bad error %#v", err)
		}
		return
	}
	if n != len(want) || fmt.Sprint(want) != fmt.Sprint(got) {
		t.Fatalf("want %v\n got %v", want, got)
	}
}

func drawPage(t *rapid.T) string {
	var b strings.Builder
	b.WriteString(space(t) + "[" + space(t))
	n := rapid.IntRange(0, 4).Draw(t, "rows")
	for i := range n {
		if i > 0 {
			b.WriteString("," + space(t))
		}
		drawObject(t, &b, 3)
		b.WriteString(space(t))
	}
	b.WriteString("]" + space(t))
	return b.String()
}

func space(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r\n                  "}).Draw(t, "space")
}

func drawObject(t *rapid.T, b *strings.Builder, depth int) {
	b.WriteString("{" + space(t))
	for i := range rapid.IntRange(0, 5).Draw(t, "fields") {
		if i > 0 {
			b.WriteString("," + space(t))
		}
		name := drawString(t)
		if rapid.IntRange(0, 3).Draw(t, "as ever") > 0 { // most rows repeat the names of the row before
			name = [...]string{`"a"`, `"ab"`, `"日本"`, `"\""`, `""`}[i]
		}
		b.WriteString(name + space(t) + ":" + space(t))
		drawValue(t, b, depth)
		b.WriteString(space(t))
	}
	b.WriteString("}")
}

func drawValue(t *rapid.T, b *strings.Builder, depth int) {
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth == 0 {
		kind = min(kind, 5)
	}
	switch kind {
	case 0, 1:
		b.WriteString(drawString(t))
	case 2, 3:
		b.WriteString(drawNumber(t))
	case 4:
		b.WriteString(rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "literal"))
	case 5:
		b.WriteString("{}")
	case 6:
		drawObject(t, b, depth-1)
	case 7:
		b.WriteString("[" + space(t))
		for i := range rapid.IntRange(0, 3).Draw(t, "elements") {
			if i > 0 {
				b.WriteString("," + space(t))
			}
			drawValue(t, b, depth-1)
		}
		b.WriteString("]")
	}
}

func drawNumber(t *rapid.T) string {
	return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?`).
		Draw(t, "number")
}

func drawString(t *rapid.T) string {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{
		"", "a", "name", "a longer run of ASCII text", "日本語", "é", "😀", `\"`, `\\`, `\/`, `\n`, `\u0000`,
		`\u65e5`, `\ud83d\ude00`, `\ud800`, `\udc00`, `\ud83dx`, "{", "]", ",", ":", "\u007f", "\u2028",
	}), 0, 6).Draw(t, "string")
	return `"` + strings.Join(parts, "") + `"`
}

func FuzzCheck(f *testing.F) {
	for _, h := range hostile {
		f.Add([]byte(h.page[:min(len(h.page), 1000)])) // longer seeds only slow down the fuzzer
	}
	f.Add([]byte(`[{"a":1,"b":"日本\ud83d\ude00","c":[{}],"a":null}, {} ]`))
	f.Fuzz(func(t *testing.T, page []byte) { agree(t, page) })
}

func FuzzCursor(f *testing.F) {
	for _, h := range hostile {
		f.Add([]byte(h.page[:min(len(h.page), 1000)])) // longer seeds only slow down the fuzzer
	}
	f.Add([]byte(`[{"a":1,"b":"日本\ud83d\ude00","c":[{}],"a":null}, {} ]`))
	f.Fuzz(func(t *testing.T, page []byte) {
		steps := 0
		for c := rows.NewCursor(page); c.NextRow(); {
			for {
				steps++
				require.LessOrEqual(t, steps, len(page)+1, "the cursor does not end")
				name, _, v, ok := c.NextField()
				if !ok {
					break
				}
				require.True(t, within(page, name) && within(page, v.Raw) && len(v.Raw) > 0)
				rows.Unquote(nil, name)
				rows.Unquote(nil, v.Raw)
			}
		}
		_, _ = cursorRows(page)
		require.False(t, rows.EqualRow(page, nil))
		rows.EqualRow(page, page)
	})
}

// within reports whether part can be a sub-slice of whole.
func within(whole, part []byte) bool {
	return cap(part) == len(part) && (len(part) == 0 || bytes.Contains(whole, part))
}
