package cells

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

func TestMap(t *testing.T) {
	t.Parallel()
	states := map[string]string{"0": "新建", "1": "已付", "0.5": "half", "true": "yes", "": "none", "1e2": "as sent", `{"a":1}`: "object"}
	others := map[string]string{"1": "one", "*": "其他"}
	for _, c := range []struct {
		kind, value string
		texts       map[string]string
		want        string
		missed      bool
	}{
		{"", `0`, states, "text 新建", false},
		{"", `-0.0`, states, "text 新建", false},
		{"", `1.0`, states, "text 已付", false},
		{"", `10e-1`, states, "text 已付", false},
		{"", `"1"`, states, "text 已付", false},
		{"", `"1.0"`, states, "text 1.0", true}, // a text is itself
		{"", `0.500`, states, "text half", false},
		{"", `1e2`, states, "text as sent", false},
		{"", `100`, states, "number 100", true},
		{"", `true`, states, "text yes", false},
		{"", `false`, states, "false", true},
		{"", `"\u0031"`, states, "text 已付", false},
		{"", `{ "a": 1 }`, states, "text object", false},
		{"", `""`, states, "text none", false},
		{"", `null`, states, "-", false},
		{"", `2`, others, "text 其他", false},
		{"", `1`, others, "text one", false},
		{"", `"*"`, others, "text 其他", false},
		{"", `[1]`, others, "text 其他", false},
		{"", `null`, others, "-", false},
		{"", `""`, others, "text ", false},
		{"", `1e400`, others, "text 其他", false},
		{"bool", `"Y"`, map[string]string{"Y": "true", "N": "false"}, "true", false},
		{"bool", `"N"`, map[string]string{"Y": "true", "N": "false"}, "false", false},
		{"number", `"n/a"`, map[string]string{"n/a": ""}, "-", false},
		{"number", `"n/a"`, map[string]string{"n/a": "0.5"}, "number 0.5", false},
		{"json", `1`, map[string]string{"1": `say "x"`}, `json "say \"x\""`, false},
		{"date", `"never"`, map[string]string{"never": "9999-12-31"}, "date 9999-12-31", false},
	} {
		sheet := sheetOf(events.Column{Key: "v", Type: c.kind, Map: c.texts})
		cells, notes := read(t, sheet, `[{"v":`+c.value+`}]`)
		require.Equal(t, c.want, cells[0][0], "%s", c.value)
		require.Equal(t, c.missed, notes.column(0).unmapped.n == 1, "%s", c.value)
	}
}

// Numbers that are equal have the same plain text, whatever their notation.
func TestPlainNumbers(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"0": "0", "-0": "0", "0.0": "0", "0e9": "0", "1": "1", "1.0": "1", "10": "10", "1e1": "10", "100e-1": "10", "1.50": "1.5",
		"-1.5e0": "-1.5", "0.001": "0.001", "1e-3": "0.001", "12345e-2": "123.45", "1e32": "1" + strings.Repeat("0", 32),
		"1e33": "1e33", "1e-400": "1e-400", "1e99999999999": "1e99999999999", "0.1e-17": "0.1e-17",
		"123456789012345678901234567890123": "123456789012345678901234567890123",
	} {
		require.Equal(t, want, string(appendPlain(nil, []byte(raw))), raw)
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "number")
		want, ok := new(big.Rat).SetString(raw)
		require.True(t, ok)
		plain := appendPlain(nil, []byte(raw))
		got, ok := new(big.Rat).SetString(string(plain))
		require.True(t, ok)
		require.Zero(t, want.Cmp(got), "%s is not %s", plain, raw)
		require.LessOrEqual(t, len(plain), max(len(raw), maxPlain+2))
	})
}

func TestJoin(t *testing.T) {
	t.Parallel()
	comma := ", "
	for value, want := range map[string]string{
		`["a","b"]`:       "text a, b",
		`["a",1.50,true]`: "text a, 1.50, true",
		`["a",null,"b"]`:  "text a, , b",
		`["\u00e9","\n"]`: "text é, \n",
		`[ "a" , "b" ]`:   "text a, b",
		`["a"]`:           "text a",
		`[]`:              "text ",
		`[null]`:          "text ",
		`["a",["b"]]`:     `json ["a",["b"]]`,
		`["a",{"b":1}]`:   `json ["a",{"b":1}]`,
		`{"a":1}`:         `json {"a":1}`,
		`"a"`:             "text a",
		`[",",", "]`:      "text ,, , ",
		`["]","[","\"]"]`: `text ], [, "]`,
	} {
		cell, _ := one(t, events.Column{Join: &comma}, encode.Zones{}, value)
		require.Equal(t, want, cell, value)
	}
	none := ""
	cell, _ := one(t, events.Column{Join: &none}, encode.Zones{}, `["a","b"]`)
	require.Equal(t, "text ab", cell)
	cell, _ = one(t, events.Column{Join: &none, Type: "number"}, encode.Zones{}, `[1,2]`)
	require.Equal(t, "number 12", cell)

	sheet := sheetOf(events.Column{Key: "v", Join: &comma, Map: map[string]string{"1": "red", "2": "green"}})
	cells, notes := read(t, sheet, `[{"v":[1,"2",3]},{"v":[2.0]}]`)
	require.Equal(t, [][]string{{"text red, green, 3"}, {"text green"}}, cells, "the elements are mapped")
	require.EqualValues(t, 1, notes.column(0).unmapped.n)
}

// Many columns may join one long array with a long text. A row then holds no more than maxJoined of it.
func TestJoinedTextsAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("-", 1000)
	var columns []events.Column
	for range 100 {
		columns = append(columns, events.Column{Key: "v", Join: &long})
	}
	page := []byte(`[{"v":[` + strings.Repeat(`1,`, 2000) + `1]}]`)
	r, err := NewReader(sheetOf(columns...))
	require.NoError(t, err)
	c := rows.NewCursor(page)
	require.True(t, c.NextRow())
	joined := 0
	for _, cell := range r.Row(&c) {
		if cell.Kind == Text {
			joined++
		} else {
			require.Equal(t, JSON, cell.Kind)
		}
	}
	require.Equal(t, 2, joined)
	require.Less(t, cap(r.text), 4*maxJoined)
}

// Many columns may have one long value. Its text is made once for each kind of column.
func TestColumnsOfOneKeyShareTheirText(t *testing.T) {
	t.Parallel()
	var columns []events.Column
	for i := range 400 {
		columns = append(columns, events.Column{Key: []string{"v", "['v']", "$.v"}[i%3], Type: []string{"", "text", "json", "number"}[i%4]})
	}
	r, err := NewReader(sheetOf(columns...))
	require.NoError(t, err)
	value := `\n` + strings.Repeat("x", 1<<20)
	for _, page := range []string{`[{"v":"` + value + `"}]`, `[{"v":["` + value + `"]}]`} {
		c := rows.NewCursor([]byte(page))
		require.True(t, c.NextRow())
		for i, cell := range r.Row(&c) {
			require.Equal(t, columns[i].Type == "json" || page[6] == '[' && columns[i].Type == "", cell.Kind == JSON, i)
			require.Greater(t, len(cell.Text), 1<<20)
		}
		require.Less(t, cap(r.text), 8<<20)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	const noLink = "none"
	long := "https://a.example/" + strings.Repeat("x", maxLink-len("https://a.example/"))
	for _, c := range []struct{ link, row, want string }{
		{"true", `"v":"https://a.example/x?y=1&z=%20#f"`, "https://a.example/x?y=1&z=%20#f"},
		{"true", `"v":"HTTP://a.example"`, "HTTP://a.example"},
		{"true", `"v":"mailto:x@a.example?subject=y"`, "mailto:x@a.example?subject=y"},
		{"true", `"v":"https:\/\/a.example\/\u00e9"`, "https://a.example/é"},
		{"true", `"v":"https://a.example/a b\"<>^` + "`" + `{|}\\%zz%"`, "https://a.example/a%20b%22%3C%3E%5E%60%7B%7C%7D%5C%25zz%25"},
		{"true", `"v":"https://a.example/\u0000\n"`, "https://a.example/%00%0A"},
		{"true", `"v":"https://u:p@a.example:8080/x"`, "https://u:p@a.example:8080/x"},
		{"true", `"v":"https://[::1]:80/x"`, "https://[::1]:80/x"},
		{"true", `"v":"https://例え.example/"`, "https://例え.example/"},
		{"true", `"v":"` + long + `"`, long},
		{"true", `"v":"` + long + `x"`, noLink},
		{"true", `"v":"https://a.example/` + strings.Repeat("😀", 1031) + `"`, noLink}, // two code units each
		{"true", `"v":"` + strings.Repeat("x", 1<<20) + `"`, noLink},
		{"true", `"v":"javascript:alert(1)"`, noLink},
		{"true", `"v":"java\nscript:alert(1)"`, noLink},
		{"true", `"v":" https://a.example"`, noLink},
		{"true", `"v":"file:///etc/passwd"`, noLink},
		{"true", `"v":"ftp://a.example"`, noLink},
		{"true", `"v":"//a.example"`, noLink},
		{"true", `"v":"a.example"`, noLink},
		{"true", `"v":"https:a.example"`, noLink},
		{"true", `"v":"https://"`, noLink},
		{"true", `"v":"https:///x"`, noLink},
		{"true", `"v":"https://a.example:99999/"`, noLink},
		{"true", `"v":"https://a.example:8x/"`, noLink},
		{"true", `"v":"https://a b.example/"`, noLink},
		{"true", `"v":"https://[::1/"`, noLink},
		{"true", `"v":"https://a.example/#a#b"`, noLink},
		{"true", `"v":"mailto:"`, noLink},
		{"true", `"v":7`, noLink},
		{"true", `"v":{"a":1}`, noLink},
		{"true", `"v":null`, ""},
		{"true", `"v":""`, ""},
		{"true", `"w":1`, ""},
		{"https://a.example/{v}", `"v":"a/b?c&d=é"`, "https://a.example/a%2Fb%3Fc%26d%3D%C3%A9"},
		{"https://a.example/{v}", `"v":17`, "https://a.example/17"},
		{"https://a.example/{v}", `"v":"../.."`, "https://a.example/..%2F.."},
		{"https://a.example/{w.id}?x={v}#y", `"v":true,"w":{"id":5}`, "https://a.example/5?x=true#y"},
		{"https://a.example/{w.id}", `"v":1,"w":{"id":5},"w.id":6`, "https://a.example/6"},
		{"https://a.example/{w[0]}", `"v":1,"w":[5]`, "https://a.example/5"},
		{"https://a.example/{w}", `"v":1`, ""},
		{"https://a.example/{w}", `"v":1,"w":null`, ""},
		{"https://a.example/{w}", `"v":1,"w":[1]`, ""},
		{"https://a.example/{w}", `"v":1,"w":"` + strings.Repeat("é", 2000) + `"`, noLink},
		{"https://{w}/", `"v":1,"w":"a.example@b"`, noLink}, // an escape in a host
		{"javascript:{v}", `"v":1`, noLink},
		{"{v}", `"v":"javascript:alert(1)"`, noLink},
	} {
		cells, notes := read(t, sheetOf(events.Column{Key: "v", Link: c.link}), `[{`+c.row+`}]`)
		_, link, _ := strings.Cut(cells[0][0], " -> ")
		name := fmt.Sprintf("%.60s with %.60s", c.link, c.row)
		if c.want == noLink {
			require.Empty(t, link, name)
			require.EqualValues(t, 1, notes.column(0).links.n, name)
			continue
		}
		require.Equal(t, c.want, link, name)
		require.Empty(t, notes.columns, name)
	}
	cells, _ := read(t, sheetOf(events.Column{Key: "v", Link: "https://a.example/{v}", Map: map[string]string{"1": "one"}}), `[{"v":1}]`)
	require.Equal(t, "text one -> https://a.example/1", cells[0][0], "the link has the value as sent")
	for _, template := range []string{"https://a.example/{id", "https://a.example/{}"} {
		_, err := NewReader(sheetOf(events.Column{Key: "v", Link: template}))
		require.ErrorContains(t, err, "columns[0].link: ")
	}
}

func TestColumnsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	_, err := NewReader(sheetOf(events.Column{Key: "a"}, events.Column{Key: "b", Type: "float"}))
	require.EqualError(t, err, `columns[1].type: "float" is not known`)
	_, err = NewReader(sheetOf(events.Column{Key: "a", Type: "date", From: "%s"}))
	require.ErrorContains(t, err, `columns[0].from: "%s" is no pattern that can be read: `)
}

// Each value in each type is either what a slow reference makes of it, or the text that it has in a text column.
func TestAnyValueInAnyType(t *testing.T) {
	t.Parallel()
	values := rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "false", "0", "1", "-0", "1.0", "1e308", "1e-320", `""`, `"1"`, `"true"`, "[]", "{}",
			"0.12345678901234567", "12345678901234567890", `"\ud800"`, `"2026-01-05"`, `"2026/1/5"`, `"NaN"`, `"Infinity"`, "1767600000.25"}),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?`),
		rapid.StringMatching(`"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?"`),
		rapid.StringMatching(`"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9](:[0-6][0-9](\.[0-9]{1,9})?)?(Z|[+-][0-2][0-9]:?[0-6][0-9])?"`),
		rapid.Map(rapid.String(), func(s string) string { b, _ := json.Marshal(s); return string(b) }),
		rapid.Map(rapid.MapOfN(rapid.String(), rapid.SliceOfN(rapid.Float64(), 0, 3), 0, 3), func(v map[string][]float64) string {
			b, _ := json.MarshalIndent(v, "", " ")
			return string(b)
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		raw := values.Draw(t, "value")
		column := events.Column{Key: "v", Type: rapid.SampledFrom([]string{"", "text", "number", "bool", "date", "datetime", "json"}).Draw(t, "type")}
		if column.Type == "date" || column.Type == "datetime" {
			column.From = rapid.SampledFrom([]string{"", "iso", "unix", "unix_ms"}).Draw(t, "from")
		}
		page := []byte(`[{"v":` + raw + `}]`)
		if _, err := rows.Check(page, rows.Limits{}); err != nil {
			t.Skip(err)
		}
		r, err := NewReader(sheetOf(column))
		require.NoError(t, err)
		c := rows.NewCursor(page)
		require.True(t, c.NextRow())
		got := r.Row(&c)[0]
		want, fits := reference(column, raw)
		require.Equal(t, want, show(got), "%s as %s from %q", raw, column.Type, column.From)
		require.Equal(t, !fits, r.Notes().column(0).misfits.n == 1, "%s as %s from %q", raw, column.Type, column.From)
	})
}

// reference makes a cell with the standard library, slowly.
func reference(column events.Column, raw string) (cell string, fits bool) {
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic(err)
	}
	compact := string(encode.AppendText(nil, rows.Value{Kind: rows.Array, Raw: []byte(raw)}, 1<<30))
	var same any
	d = json.NewDecoder(strings.NewReader(compact))
	d.UseNumber()
	if err := d.Decode(&same); err != nil || fmt.Sprint(same) != fmt.Sprint(v) {
		panic("not the same value: " + compact)
	}
	text := compact
	if s, ok := v.(string); ok {
		text = s
	}
	switch {
	case v == nil:
		return "-", true
	case column.Type == "text":
		return "text " + text, true
	case column.Type == "json":
		return "json " + compact, true
	case column.Type == "":
		switch v.(type) {
		case string:
			return "text " + text, true
		case bool:
			return text, true
		case json.Number:
			return "number " + text, true
		}
		return "json " + text, true
	case v == "":
		return "-", true
	}
	_, isBool := v.(bool)
	_, isText := v.(string)
	_, isNumber := v.(json.Number)
	var number *big.Rat
	if isNumber || isText && json.Valid([]byte(text)) && strings.TrimSpace(text) == text && strings.Contains("-0123456789", text[:1]) {
		number, _ = new(big.Rat).SetString(text)
	}
	misfit := "text " + text
	switch column.Type {
	case "number":
		if number != nil {
			return "number " + text, true
		}
	case "bool":
		switch {
		case isBool, isText && (text == "true" || text == "false"):
			return text, true
		case isText && (text == "0" || text == "1"), isNumber && number.IsInt() && number.Num().IsInt64() && number.Num().Int64()|1 == 1:
			return fmt.Sprint(number.Sign() == 1), true
		}
	default:
		var at time.Time
		zoned := true
		switch unit := map[string]int64{"unix": 1e9, "unix_ms": 1e6}[column.From]; {
		case unit > 0 && number != nil:
			nanos := new(big.Rat).Mul(number, new(big.Rat).SetInt64(unit))
			if !nanos.IsInt() || nanos.Num().BitLen() > 80 {
				return misfit, false
			}
			s, n := new(big.Int).DivMod(nanos.Num(), big.NewInt(1e9), new(big.Int))
			if !s.IsInt64() {
				return misfit, false
			}
			at = time.Unix(s.Int64(), n.Int64()).UTC()
		case unit == 0 && isText:
			var err error
			for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700",
				"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02", "2006/1/2"} {
				if at, err = time.Parse(layout, strings.Replace(text, " ", "T", 1)); err == nil {
					zoned = strings.Contains(layout, "07")
					break
				}
			}
			if i := strings.LastIndexAny(text, "+-"); i > 10 && (text[i+1:] >= "24" || text[len(text)-2:] == "60") {
				return misfit, false // package time takes those offsets
			}
			if err != nil {
				return misfit, false
			}
		default:
			return misfit, false
		}
		if at = at.UTC(); at.Year() < 1 || at.Year() > 9999 {
			return misfit, false
		}
		if column.Type == "date" {
			return "date " + at.Format(time.DateOnly), true
		}
		cell = "time " + at.Format("2006-01-02T15:04:05.999999999")
		if zoned {
			cell += " = " + at.Format(time.RFC3339)
		}
		return cell, true
	}
	return misfit, false
}

// FuzzReader reads any array with columns of every type. It panics on no bytes, and on checked ones each cell of
// a column of type auto has the text that encode.AppendText gives it.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`[{"v":1,"w":{"x":["2026-01-05",{"y":"\ud83d\ude00"}]}},{"v":"https://a.example/"}]`))
	f.Add([]byte(`[{"v":[1,"a",null],"v.w":2,"v":{"w":[true]}}]`))
	f.Add([]byte(`[{"v":{"w"`))
	join := ";"
	var columns []events.Column
	for _, key := range []string{"v", "v.w", "w.x[1].y", "w"} {
		for _, kind := range []string{"auto", "text", "number", "bool", "date", "datetime", "json"} {
			columns = append(columns, events.Column{Key: key, Type: kind, Join: &join, Link: "https://a.example/{v}/{w.x[0]}"})
		}
		columns = append(columns, events.Column{Key: key, Type: "datetime", From: "unix", Map: map[string]string{"1": "2"}, Link: "true"})
	}
	columns = append([]events.Column{{Key: "v"}}, columns...)
	f.Fuzz(func(t *testing.T, array []byte) {
		_, err := rows.Check(array, rows.Limits{})
		r, newErr := NewReader(sheetOf(columns...))
		require.NoError(t, newErr)
		for c := rows.NewCursor(array); c.NextRow(); {
			copied := c
			cells := r.Row(&c)
			if err != nil {
				continue
			}
			var want rows.Value
			for {
				name, _, v, ok := copied.NextField()
				if !ok {
					break
				}
				if string(rows.Unquote(nil, name)) == "v" {
					want = v
				}
			}
			require.True(t, bytes.Equal(cells[0].Text, encode.AppendText(nil, want, 1<<30)))
		}
	})
}
