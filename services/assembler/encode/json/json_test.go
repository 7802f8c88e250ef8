package json

import (
	"bufio"
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	. "sheaf/services/assembler/encode/encodetest"
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	eventstest.Main(m)
}

func docOf(sheet encode.Sheet) encode.Document {
	return encode.Document{Sheets: []encode.Sheet{sheet}, Parallel: 2}
}

// hostile are rows that readers stumble on.
var hostile = []string{
	`{"a":"plain","n":1.50,"when":"2026-01-02T03:04:05Z","raw":{"x":[1, 2]}}`,
	`{ "a" : "quote \" and \\ and \/" ,` + "\n\t" + `"n" : 12345678901234567890123456789 , "raw" : [ ] }`,
	`{"a":"\ud800","\udfff":"\ud83d\ude00 \ud83d x","n":1E400,"when":"2026-01-02 03:04:05"}`,
	`{"a":"line\r\nbreak\u0000\u2028</script>","n":-0,"when":"1900-01-01T00:00:00Z","raw":"text"}`,
	`{"a":1,"a":"the last of a name counts","n":"007","when":"no date"}`,
	`{}`,
	`{"":"","中文":"😀\u4e2d","when":"","raw":null,"a":true}`,
}

func TestGolden(t *testing.T) {
	t.Parallel()
	columns := Declared(events.Column{Key: "a", Title: "标题 \"A\""}, events.Column{Key: "n", Title: "N", Type: "number"},
		events.Column{Key: "when", Title: "when\n", Type: "datetime", Format: "yyyy"},
		events.Column{Key: "raw", Title: "</script>", Type: "json"}, events.Column{Key: "none", Title: "none"})
	for name, c := range map[string]struct {
		format  encode.Format
		columns []encode.Column
		titles  bool
	}{
		"as-sent.json":   {Format, Names("a"), true}, // titles are those of chosen columns
		"as-sent.ndjson": {Lines, Names("a"), false},
		"chosen.json":    {Format, columns, false},
		"titles.ndjson":  {Lines, columns, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := docOf(Sheet(t, c.columns, Cut(hostile, 3)...))
			doc.JSON.Titles = c.titles
			got, r := Write(t, c.format, doc)
			checkJSON(t, got)
			for _, w := range r.Warnings {
				got += fmt.Sprintf("%s %d %s %s\n", w.Code, w.Count, w.First, w.Message)
			}
			file := "testdata/" + name + ".golden"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

// checkJSON reads all values of a text, strictly: UTF-8, whole surrogate pairs.
func checkJSON(t testing.TB, text string) {
	t.Helper()
	d := jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true))
	for d.PeekKind() > 0 {
		require.NoError(t, d.SkipValue(), text)
	}
}

func TestNoRows(t *testing.T) {
	t.Parallel()
	for _, columns := range [][]encode.Column{nil, Names("a"), Declared(events.Column{Key: "a"})} {
		text, _ := Write(t, Format, docOf(Sheet(t, columns, Page(1))))
		require.Equal(t, "[]\n", strings.ReplaceAll(text, "[\n]", "[]"))
		text, _ = Write(t, Lines, docOf(Sheet(t, columns, Page(1))))
		require.Empty(t, text)
	}
	text, _ := Write(t, Format, docOf(Sheet(t, Names(), Page(1, `{}`, `{}`))))
	require.Equal(t, "[\n{},\n{}\n]\n", text)
}

// Values of chosen columns: numbers keep their digits, moments have an offset.
func TestValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, value, want string }{
		{"", `1.50`, `1.50`}, {"", `-0`, `-0`}, {"", `1E400`, `1E400`}, {"", `12345678901234567890`, `12345678901234567890`},
		{"", `true`, `true`}, {"", `false`, `false`}, {"", `null`, `null`}, {"", `""`, `""`}, {"", `"a\"\u4e2d\n"`, `"a\"中\n"`},
		{"", `{"x": [1, "\u4e2d"]}`, `{"x":[1,"中"]}`}, {"", `"\ud800"`, `"` + "\uFFFD" + `"`},
		{"number", `"1.50"`, `1.50`}, {"number", `"n/a"`, `"n/a"`}, {"number", `""`, `null`}, {"number", `"-1e5"`, `-1e5`},
		{"bool", `"1"`, `true`}, {"bool", `0`, `false`}, {"text", `1.50`, `"1.50"`}, {"text", `true`, `"true"`},
		{"json", `"text"`, `"text"`}, {"json", `"\ud800"`, `"\ufffd"`}, {"json", `{"\ud800":["\udc00\ud800"]}`, `{"\ufffd":["\ufffd\ufffd"]}`},
		{"date", `"2026-01-02"`, `"2026-01-02"`}, {"date", `"2026-01-01T20:00:00Z"`, `"2026-01-02"`},
		{"datetime", `"2026-01-02T03:04:05Z"`, `"2026-01-02T11:04:05+08:00"`},
		{"datetime", `"2026-01-02T03:04:05.120-05:00"`, `"2026-01-02T16:04:05.12+08:00"`},
		{"datetime", `"2026-01-02 03:04:05"`, `"2026-01-02T03:04:05"`}, // the zone is not known
		{"datetime", `"1988-07-01T00:00:00Z"`, `"1988-07-01T09:00:00+09:00"`},
		{"datetime", `"1900-01-01T00:00:00Z"`, `"1900-01-01T08:05:00+08:05"`}, // Shanghai was at +08:05:43
		{"datetime", `"no date"`, `"no date"`}, {"datetime", `""`, `null`},
	} {
		doc := docOf(Sheet(t, Declared(events.Column{Key: "x", Type: c.kind}), Page(1, `{"x":`+c.value+`}`)))
		text, _ := Write(t, Lines, doc)
		require.Equal(t, `{"x":`+c.want+"}\n", text, c)
		checkJSON(t, text)
	}
	// The moment of a time before zones is exact.
	doc := docOf(Sheet(t, Declared(events.Column{Key: "x", Type: "datetime"}), Page(1, `{"x":"1850-06-01T12:00:00Z"}`)))
	for _, zone := range []string{"Asia/Shanghai", "America/New_York", "Africa/Monrovia", "UTC"} {
		var err error
		doc.Sheets[0].Zones.Display, err = time.LoadLocation(zone)
		require.NoError(t, err)
		text, _ := Write(t, Lines, doc)
		var row struct{ X time.Time }
		require.NoError(t, stdjson.Unmarshal([]byte(text), &row))
		require.Equal(t, time.Date(1850, 6, 1, 12, 0, 0, 0, time.UTC), row.X.UTC(), zone)
	}
}

func drawValue(t *rapid.T, depth int) any {
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth == 0 {
		kind = kind % 5
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return stdjson.Number(rapid.SampledFrom([]string{"0", "-0", "1.50", "1E+5", "12345678901234567890"}).Draw(t, "number"))
	case 5:
		all := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			all = append(all, drawValue(t, depth-1))
		}
		return all
	case 6:
		all := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			all[rapid.String().Draw(t, "name")] = drawValue(t, depth-1)
		}
		return all
	}
	return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"\n", "\r\n", "\"", "\\", "</script>", "\u2028", "😀", "\x00"})).Draw(t, "text")
}

// Any rows are read back equal, as they were sent and with chosen columns.
func TestRowsAreReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		names := []string{"a", "b", "", "中\"\n"}
		chosen, indent := rapid.Bool().Draw(rt, "chosen"), rapid.Bool().Draw(rt, "indent")
		data, want := []string{}, []any{}
		for range rapid.IntRange(0, 12).Draw(rt, "rows") {
			row := map[string]any{}
			for _, name := range names {
				if chosen || rapid.Bool().Draw(rt, "present") {
					row[name] = drawValue(rt, 2)
				}
			}
			b, err := stdjson.Marshal(row)
			if indent {
				b, err = stdjson.MarshalIndent(row, " ", "\t")
			}
			if err != nil {
				rt.Fatal(err)
			}
			data, want = append(data, string(b)), append(want, row)
		}
		columns := Names("a")
		if chosen {
			columns = nil
			for _, name := range names {
				columns = append(columns, encode.Column{Name: name, Title: name})
			}
		}
		sheet := Sheet(t, columns, Cut(data, 5)...)
		sheet.Chosen = chosen
		for _, f := range []encode.Format{Format, Lines} {
			text, r := Write(t, f, docOf(sheet))
			if r.Rows[0] != int64(len(want)) {
				rt.Fatalf("%d rows of %d", r.Rows[0], len(want))
			}
			got := []any{}
			d := stdjson.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			if f.Name == Format.Name {
				if err := d.Decode(&got); err != nil {
					rt.Fatal(err)
				}
			} else {
				if n := strings.Count(text, "\n"); n != len(want) {
					rt.Fatalf("%d lines of %d", n, len(want))
				}
				for d.More() {
					var row any
					if err := d.Decode(&row); err != nil {
						rt.Fatal(err)
					}
					got = append(got, row)
				}
			}
			if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
				rt.Fatalf("%#v became %#v", want, got)
			}
		}
	})
}

// FuzzJSON writes any pages that pass the crawler's check: strict JSON, with a value for each row.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`[{"a":"A","b":"\"\r\n,"},{ "a" : 1 , "a":2}]`), true)
	f.Add([]byte("[{\"a\":\"\\ud800\"}]\n[{\"\\udfff\":{\"x\":[1,\"\\ud83d\\ud83d\\ude00\"]},\"b\":1e999}]"), false)
	f.Add([]byte(`[{"a":"\\ud800","b":"\\\ud800\"","c":"\uD800\u0041"}]`), false)
	f.Add([]byte("[]"), true)
	f.Fuzz(func(t *testing.T, data []byte, chosen bool) {
		var pages []encode.Page
		total := 0
		for i, page := range bytes.Split(data, []byte("\n")) {
			n, err := rows.Check(page, rows.Limits{})
			if err != nil || i == 20 {
				return
			}
			pages = append(pages, encode.Page{Number: i + 1, Rows: page, RowCount: n})
			total += n
		}
		columns := encode.Columns(pages[0].Rows)
		sheet := Sheet(t, columns, pages...)
		sheet.Chosen = chosen && len(columns) > 0
		text, r, err := TryWrite(t, Lines, docOf(sheet))
		if err != nil {
			require.True(t, columns == nil, err)
			return
		}
		require.Equal(t, []int64{int64(total)}, r.Rows)
		lines := bufio.NewScanner(strings.NewReader(text))
		lines.Buffer(nil, 1<<30)
		for n := 0; ; n++ {
			if !lines.Scan() {
				require.Equal(t, total, n)
				break
			}
			d := jsontext.NewDecoder(bytes.NewReader(lines.Bytes()), jsontext.AllowDuplicateNames(true))
			v, err := d.ReadValue()
			require.NoError(t, err, lines.Text())
			require.Equal(t, jsontext.KindBeginObject, v.Kind())
		}
		array, _ := Write(t, Format, docOf(sheet))
		var all []stdjson.RawMessage
		require.NoError(t, stdjson.Unmarshal([]byte(array), &all), array)
		require.Len(t, all, total)
	})
}
