package csv

import (
	"bytes"
	stdcsv "encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding/simplifiedchinese"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/blocks"
	"sheaf/services/assembler/encode/cells"
	. "sheaf/services/assembler/encode/encodetest"
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	eventstest.Main(m)
}

func docOf(sheet encode.Sheet, o events.CSVOptions) encode.Document {
	return encode.Document{Sheets: []encode.Sheet{sheet}, CSV: o, Parallel: 2}
}

// bare is data as it is, for comparisons.
var bare = events.CSVOptions{NoBOM: true, NoGuard: true}

// valuesOf returns a row for each JSON value of column x.
func valuesOf(values ...string) (data []string) {
	for _, v := range values {
		data = append(data, `{"x":`+v+`}`)
	}
	return data
}

// lines writes a column x of values and returns its lines after the header.
func lines(t testing.TB, o events.CSVOptions, column encode.Column, values ...string) (all []string, r encode.Result) {
	t.Helper()
	o.NoBOM = true
	text, r := Write(t, Format, docOf(Sheet(t, []encode.Column{column}, Cut(valuesOf(values...), 2)...), o))
	all = strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n")
	return all[1:], r
}

// hostile are rows that spreadsheets, readers and encoders stumble on.
var hostile = []string{
	`{"a":"plain","b":1,"c":true,"d":"=1+1"}`,
	`{"a":"comma, quote \" and tab\t","b":1.50,"c":false,"d":"-2+3"}`,
	`{"a":"line\nbreak","b":12345678901234567890123456789,"c":null,"d":"+8613800000000"}`,
	`{"a":"CR\rLF\r\n","b":-0,"c":"","d":"@SUM(A1)"}`,
	`{"a":"\"","b":1E400,"c":{"x":[1,"\u4e2d\"",null]},"d":"\tx"}`,
	`{"a":" blanks ","b":"007","c":[],"d":"\rx"}`,
	`{"a":"中文😀\u4e2d\ud83d\ude00","b":"1e5","c":"\ud800 alone","d":"-5"}`,
	`{"a":";|\\","b":"\u0000\u001f\u007f\ufeff","c":"\u2028","d":"=HYPERLINK(\"http://x\",\"y\")"}`,
	`{}`,
	`{"a":"","d":"","e":"unknown column"}`,
	`{"d":"later","a":"first","a":"the last of a name counts"}`,
}

func TestGolden(t *testing.T) {
	t.Parallel()
	columns := Names("a", "b", "c", "d")
	columns[1].Title, columns[2].Title, columns[3].Title = "金额,\"元\"", "=c", "d\nd"
	for name, c := range map[string]struct {
		format  encode.Format
		options events.CSVOptions
	}{
		"default.csv":    {Format, events.CSVOptions{}},
		"semicolon.csv":  {Format, events.CSVOptions{Delimiter: ";", NoBOM: true, NoGuard: true}},
		"pipe.gbk.csv":   {Format, events.CSVOptions{Delimiter: "|", Encoding: "gbk"}},
		"tab.csv":        {Format, events.CSVOptions{Delimiter: "\t"}},
		"gb18030.csv":    {Format, events.CSVOptions{Encoding: "gb18030"}},
		"default.tsv":    {TSV, events.CSVOptions{}},
		"comma.gbk.tsv":  {TSV, events.CSVOptions{Delimiter: ",", Encoding: "gbk"}},
		"no-columns.csv": {Format, events.CSVOptions{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sheet := Sheet(t, columns, Cut(hostile, 3)...)
			if name == "no-columns.csv" {
				sheet = Sheet(t, nil, Page(1))
			}
			got, r := Write(t, c.format, docOf(sheet, c.options))
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

// A text that a spreadsheet may run gets an apostrophe, a number as text does not. Numbers, dates and JSON are
// no texts.
func TestGuard(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`"=1+1"`: `'=1+1`, `"=1,2"`: `"'=1,2"`, `"@x"`: `'@x`, `"\tx"`: "'\tx", `"\rx"`: "\"'\rx\"", `"="`: `'=`,
		`"-5"`: `-5`, `"+5"`: `+5`, `"-5.25"`: `-5.25`, `"-1e5"`: `-1e5`, `"-1E+5"`: `-1E+5`, `"-.5"`: `-.5`,
		`"+86138"`: `+86138`, `"-2+3"`: `'-2+3`, `"+86 138"`: `'+86 138`, `"-"`: `'-`, `"+"`: `'+`, `"-."`: `'-.`,
		`"-1.2.3"`: `'-1.2.3`, `"-1e"`: `'-1e`, `"-1e+"`: `'-1e+`, `"-1e5+A1"`: `'-1e5+A1`, `"--1"`: `'--1`,
		`"-٣"`: `'-٣`, `"-cmd|' /C calc'!A0"`: `'-cmd|' /C calc'!A0`, `"'=1"`: `'=1`, `" =1"`: ` =1`,
		`-5`: `-5`, `1e5`: `1e5`, `"a=1"`: `a=1`, `["=1"]`: `"[""=1""]"`, `""`: `""`, `null`: `""`,
	} {
		got, r := lines(t, events.CSVOptions{}, Names("x")[0], value)
		require.Equal(t, []string{want}, got, value)
		guarded := strings.HasPrefix(strings.TrimPrefix(want, `"`), "'") && value != `"'=1"`
		require.Equal(t, guarded, len(r.Warnings) == 1 && r.Warnings[0].Code == WarnGuarded, value)
		raw, r := lines(t, events.CSVOptions{NoGuard: true}, Names("x")[0], value)
		require.Empty(t, r.Warnings)
		if !guarded {
			require.Equal(t, got, raw, value)
		}
	}
	// Titles come from the source as well.
	text, r := Write(t, Format, docOf(Sheet(t, Names("=1+1", "-5", "@x,"), Page(1)), events.CSVOptions{NoBOM: true}))
	require.Equal(t, "'=1+1,-5,\"'@x,\"\r\n", text)
	require.Empty(t, r.Warnings)
}

// Warnings count the cells of each column and name the first row, whatever the batches.
func TestGuardedAreCounted(t *testing.T) {
	t.Parallel()
	var data []string
	for i := range 30_000 {
		a, b := "x", "客户"
		if i >= 20_000 && i%10 == 5 {
			a = "=1"
		}
		if i%1000 == 999 {
			b = "=😀"
		}
		data = append(data, fmt.Sprintf(`{"a":%q,"b":%q,"c":%d}`, a, b, i))
	}
	sheet := Sheet(t, Names("a", "b", "c"), Cut(data, 1000)...)
	sheet.Title = "订单"
	_, r := Write(t, Format, docOf(sheet, events.CSVOptions{Encoding: "gbk"}))
	require.Equal(t, []encode.Warning{
		{Code: WarnGuarded, Count: 1000, First: "a", Message: `Sheet "订单": 1000 texts in column "a" begin like a ` +
			`formula and have an apostrophe before them; the first is in row 20006.`},
		{Code: WarnGuarded, Count: 30, First: "b", Message: `Sheet "订单": 30 texts in column "b" begin like a ` +
			`formula and have an apostrophe before them; the first is in row 1000.`},
		{Code: WarnEncoding, Count: 30, First: "b", Message: `Sheet "订单": 30 cells in column "b" have characters ` +
			`that the encoding lacks, written as question marks; the first is in row 1000.`},
	}, r.Warnings)
}

func TestOneCellIsNamed(t *testing.T) {
	t.Parallel()
	_, r := lines(t, events.CSVOptions{Encoding: "gbk"}, encode.Column{Name: "x", Title: "Note"}, `"a"`, `"=😀"`)
	require.Equal(t, []encode.Warning{
		{Code: WarnGuarded, Count: 1, First: "x", Message: `1 text in column "Note" (key "x") begins like a formula and has an ` +
			`apostrophe before it; the first is in row 2.`},
		{Code: WarnEncoding, Count: 1, First: "x", Message: `1 cell in column "Note" (key "x") has characters that the encoding ` +
			`lacks, written as question marks; the first is in row 2.`},
	}, r.Warnings)
}

// No line is empty in a file of one column: readers skip empty lines.
func TestOneColumn(t *testing.T) {
	t.Parallel()
	for _, f := range []encode.Format{Format, TSV} {
		text, _ := Write(t, f, docOf(Sheet(t, Names(""), Page(1, `{"":""}`, `{}`, `{"":null}`, `{"":"x"}`, `{"":0}`, `{"":false}`)), bare))
		require.Equal(t, "\"\"\r\n\"\"\r\n\"\"\r\n\"\"\r\nx\r\n0\r\nfalse\r\n", text)
	}
	text, _ := Write(t, Format, docOf(Sheet(t, Names("", ""), Page(1, `{}`)), bare))
	require.Equal(t, ",\r\n,\r\n", text)
	// Rows without columns have empty lines, one for each.
	text, r := Write(t, Format, docOf(Sheet(t, Names(), Page(1, `{}`, `{}`)), bare))
	require.Equal(t, "\r\n\r\n\r\n", text)
	require.Equal(t, []int64{2}, r.Rows)
}

// A number format with decimals appends zeros, in columns of numbers and of any type. It never rounds.
func TestDecimals(t *testing.T) {
	t.Parallel()
	values := []string{"40.5", "13", "-0.5", "0", "1.005", "1.50", "12345678901234567890", "1e3", "1.5E-2", `"13.6"`, `"n/a"`, `""`,
		`"007"`, "null", "true", "[1.5]"}
	for _, tc := range []struct {
		kind, format string
		want         []string
	}{
		{events.ColumnNumber, "0.00", []string{"40.50", "13.00", "-0.50", "0.00", "1.005", "1.50", "12345678901234567890.00", "1e3", "1.5E-2",
			"13.60", "n/a", `""`, "007", `""`, "true", "[1.5]"}},
		{"", "#,##0.00 元", []string{"40.50", "13.00", "-0.50", "0.00", "1.005", "1.50", "12345678901234567890.00", "1e3", "1.5E-2",
			"13.6", "n/a", `""`, "007", `""`, "true", "[1.5]"}},
		{events.ColumnNumber, "0.0##", []string{"40.5", "13.0", "-0.5", "0.0", "1.005", "1.50", "12345678901234567890.0", "1e3", "1.5E-2",
			"13.6", "n/a", `""`, "007", `""`, "true", "[1.5]"}},
		{events.ColumnNumber, "0.00%", []string{"40.5", "13", "-0.5", "0", "1.005", "1.50", "12345678901234567890", "1e3", "1.5E-2",
			"13.6", "n/a", `""`, "007", `""`, "true", "[1.5]"}},
		{events.ColumnText, "0.00", []string{"40.5", "13", "-0.5", "0", "1.005", "1.50", "12345678901234567890", "1e3", "1.5E-2",
			"13.6", "n/a", `""`, "007", `""`, "true", "[1.5]"}},
	} {
		column := encode.Column{Name: "x", Title: "x", Spec: &events.Column{Key: "x", Type: tc.kind, Format: tc.format}}
		got, _ := lines(t, bare, column, values...)
		require.Equal(t, tc.want, got, "%s %s", tc.kind, tc.format)
		text, _ := Write(t, TSV, docOf(Sheet(t, []encode.Column{column}, Page(1, valuesOf(values...)...)), bare))
		require.Equal(t, "x\r\n"+strings.Join(tc.want, "\r\n")+"\r\n", text)
	}
}

func TestDates(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		"":                    "2026-01-02 15:04:05",
		"yyyy-mm-dd":          "2026-01-02",
		"YYYY/M/D":            "2026/1/2",
		"yy.mm.dd":            "26.01.02",
		"yyyy-mm-dd hh:mm:ss": "2026-01-02 15:04:05",
		"h:mm AM/PM":          "3:04 PM",
		"hh:mm am/pm":         "03:04 PM",
		"mm:ss":               "04:05",
		"m:s":                 "4:5",
		"d/m h:m":             "2/1 15:4",
		"mm mm hh mm mm":      "01 01 15 04 01",
		"ss mm":               "05 01",
		`yyyy"年"m"月"d"日"`:     "2026年1月2日",
		`yyyy"年"m"月"d"日";@`:   "2026年1月2日",
		"yyyy年m月d日 h时mm分":     "2026年1月2日 15时04分",
		`yyyy\年mm\月`:          "2026年01月",
		`"day "d" of "mmmm`:   "day 2 of January",
		`"yyyy, ""quoted"`:    "2026-01-02 15:04:05", // no part of a date
		`d mmm yyyy`:          "2 Jan 2026",
		`dddd, ddd`:           `"Friday, Fri"`,
		"mmmmm":               "2026-01-02 15:04:05", // not known: ISO
		"yyyyy":               "2026-01-02 15:04:05",
		"yyy":                 "2026-01-02 15:04:05",
		"hhh":                 "2026-01-02 15:04:05",
		"[h]:mm":              "2026-01-02 15:04:05",
		"ss.000":              "2026-01-02 15:04:05",
		"0.00":                "2026-01-02 15:04:05",
		"General":             "2026-01-02 15:04:05",
		"[$-804]yyyy":         "2026-01-02 15:04:05",
		`yyyy"`:               "2026-01-02 15:04:05",
		`yyyy\`:               "2026-01-02 15:04:05",
		`"abc"`:               "2026-01-02 15:04:05",
		";yyyy":               "2026-01-02 15:04:05",
		`yyyy""mm`:            "202601",
		"yyyy\u212a":          "2026\u212a",
		`"a ""b"" "yyyy`:      `a b 2026`,
	} {
		column := Declared(events.Column{Key: "x", Type: "datetime", Format: format})[0]
		got, r := lines(t, events.CSVOptions{}, column, `"2026-01-02T07:04:05Z"`) // shown in Shanghai
		require.Equal(t, []string{want}, got, format)
		require.Empty(t, r.Warnings)
	}
	day := Declared(events.Column{Key: "x", Type: "date"})[0]
	got, r := lines(t, events.CSVOptions{}, day, `"2026-01-02"`, `"2026-01-01T20:00:00Z"`, `"0001-01-01"`, `""`, `"no date"`)
	require.Equal(t, []string{"2026-01-02", "2026-01-02", "0001-01-01", `""`, "no date"}, got)
	require.Equal(t, cells.WarnCellType, r.Warnings[0].Code)
	midnight := Declared(events.Column{Key: "x", Type: "datetime", Format: "h:mm AM/PM"})[0]
	got, _ = lines(t, events.CSVOptions{}, midnight, `"2026-01-02 00:05:00"`, `"2026-01-02 12:05:00"`)
	require.Equal(t, []string{"12:05 AM", "12:05 PM"}, got)
	hours := Declared(events.Column{Key: "x", Type: "datetime", Format: "h"})[0]
	got, _ = lines(t, events.CSVOptions{}, hours, `"2026-01-02 00:05:00"`, `"2026-01-02 23:05:00"`)
	require.Equal(t, []string{"0", "23"}, got)
	iso := Declared(events.Column{Key: "x", Type: "datetime"})[0]
	got, _ = lines(t, events.CSVOptions{}, iso, `"2026-01-02 03:04:05.120"`, `"2026-01-02T00:00:00-05:00"`)
	require.Equal(t, []string{"2026-01-02 03:04:05.12", "2026-01-02 13:00:00"}, got)

	sheet := Sheet(t, []encode.Column{iso}, Page(1, `{"x":"2026-07-01T00:00:00Z"}`, `{"x":"2026-07-01 00:00:00"}`))
	var err error
	sheet.Zones.Display, err = time.LoadLocation("America/New_York")
	require.NoError(t, err)
	sheet.Zones.Source = time.UTC
	text, _ := Write(t, Format, docOf(sheet, bare))
	require.Equal(t, "\r\n2026-06-30 20:00:00\r\n2026-06-30 20:00:00\r\n", strings.TrimPrefix(text, `""`))
}

// What GBK lacks becomes a question mark and is counted; GB18030 has all characters.
func TestEncodings(t *testing.T) {
	t.Parallel()
	values := []string{`"中文,€"`, `"a😀b한c"`, `"\ud800"`, `"plain"`, `"搢\"|"`}
	for encoding, want := range map[string][]string{
		"gbk":     {`"中文,€"`, "a?b?c", "?", "plain", `"搢""|"`},
		"gb18030": {`"中文,€"`, "a😀b한c", "\uFFFD", "plain", `"搢""|"`},
		"":        {`"中文,€"`, "a😀b한c", "\uFFFD", "plain", `"搢""|"`},
	} {
		got, r := lines(t, events.CSVOptions{Encoding: encoding}, Names("x")[0], values...)
		for i := range got {
			var err error
			switch encoding {
			case "gbk":
				got[i], err = simplifiedchinese.GBK.NewDecoder().String(got[i])
			case "gb18030":
				got[i], err = simplifiedchinese.GB18030.NewDecoder().String(got[i])
			}
			require.NoError(t, err)
		}
		require.Equal(t, want, got, encoding)
		if encoding == "gbk" {
			require.Equal(t, WarnEncoding, r.Warnings[0].Code)
			require.EqualValues(t, 2, r.Warnings[0].Count)
		} else {
			require.Empty(t, r.Warnings)
		}
	}
	for i, o := range []events.CSVOptions{{}, {Encoding: "gbk"}, {Encoding: "gb18030"}, {NoBOM: true}} {
		text, _ := Write(t, Format, docOf(Sheet(t, Names("a"), Page(1)), o))
		require.Equal(t, i == 0, strings.HasPrefix(text, bom), o)
	}
	text, _ := Write(t, TSV, docOf(Sheet(t, Names("a"), Page(1)), events.CSVOptions{}))
	require.False(t, strings.HasPrefix(text, bom))
}

// The bytes of a GBK character never split a field, even for a reader that splits bytes.
func TestBytesOfGBK(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for r := rune(0x80); r <= 0xffff; r++ {
		if r < 0xd800 || r > 0xdfff {
			all.WriteRune(r)
		}
	}
	for _, o := range []events.CSVOptions{{}, {Delimiter: "|"}, {Delimiter: ";"}, {Delimiter: "\t"}} {
		o.Encoding = "gbk"
		sheet := Sheet(t, Names("a", "b"), Page(1, fmt.Sprintf(`{"a":"%s","b":1}`, all.String())))
		text, _ := Write(t, Format, docOf(sheet, o))
		in := stdcsv.NewReader(strings.NewReader(text))
		if o.Delimiter != "" {
			in.Comma = rune(o.Delimiter[0])
		}
		got, err := in.ReadAll()
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, "1", got[1][1])
	}
}

// 16,000 columns, and rows that have few of them.
func TestManyColumns(t *testing.T) {
	t.Parallel()
	const n = 16_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	text, _ := Write(t, Format, docOf(Sheet(t, Names(names...), Page(1, `{}`, `{"c15999":"x","c3":1}`)), bare))
	got, err := stdcsv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, names, got[0])
	require.Equal(t, "1", got[2][3])
	require.Equal(t, "x", got[2][n-1])
}

// drawRecords draws rows, and the records that they become.
func drawRecords(t *rapid.T) (names []string, data []string, want [][]string) {
	texts := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", ",", "\"", "\r", "\n", "\r\n", "\t", ";", "|", "=1",
		"中文😀", " ", "\x00", "'", "\\", "\"\"", "a\"b", "\ufeff"}))
	n := rapid.IntRange(1, 4).Draw(t, "columns")
	for i := range n {
		names = append(names, fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"c", "=", ",", "\"", "列"}).Draw(t, "name"), i))
	}
	for range rapid.IntRange(0, 20).Draw(t, "rows") {
		row, record := map[string]any{}, make([]string, n)
		for i, name := range names {
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
			case 1:
				number := rapid.SampledFrom([]string{"0", "-1", "1.50", "1E5", "12345678901234567890"}).Draw(t, "number")
				row[name], record[i] = json.Number(number), number
			case 2:
				row[name], record[i] = true, "true"
			default:
				text := texts.Draw(t, "text")
				row[name], record[i] = text, text
			}
		}
		b, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		data, want = append(data, string(b)), append(want, record)
	}
	return names, data, want
}

// Any rows are read back equal. encoding/csv reads CRLF within a field as LF.
func TestRowsAreReadBack(t *testing.T) {
	t.Parallel()
	var python []string
	var wanted [][][]string
	rapid.Check(t, func(rt *rapid.T) {
		names, data, want := drawRecords(rt)
		delimiter := rapid.SampledFrom([]string{",", ";", "\t", "|"}).Draw(rt, "delimiter")
		doc := docOf(Sheet(t, Names(names...), Cut(data, 3)...), events.CSVOptions{NoBOM: true, NoGuard: true, Delimiter: delimiter})
		text, r := Write(t, Format, doc)
		if r.Rows[0] != int64(len(want)) {
			rt.Fatalf("%d rows of %d", r.Rows[0], len(want))
		}
		in := stdcsv.NewReader(strings.NewReader(text))
		in.Comma = rune(delimiter[0])
		got, err := in.ReadAll()
		if err != nil {
			rt.Fatal(err)
		}
		want = append([][]string{names}, want...)
		lf := make([][]string, len(want))
		for i, record := range want {
			for _, field := range record {
				lf[i] = append(lf[i], strings.ReplaceAll(field, "\r\n", "\n"))
			}
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", lf) {
			rt.Fatalf("%q became %q", lf, got)
		}
		if len(python) < 200 && !strings.Contains(text, "\x00") { // which some versions of Python refuse
			python, wanted = append(python, delimiter+text), append(wanted, want)
		}
	})
	readWithPython(t, python, wanted)
}

// readWithPython compares what Python's csv module reads from texts, each with its delimiter before it.
func readWithPython(t *testing.T, texts []string, want [][][]string) {
	t.Helper()
	const script = `import csv,io,json,sys
csv.field_size_limit(1<<30)
json.dump([list(csv.reader(io.StringIO(t[1:],newline=''),delimiter=t[0],strict=True)) for t in json.load(sys.stdin)],sys.stdout)`
	if exec.Command("python3", "-c", "import csv").Run() != nil {
		t.Log("python3 is not there")
		return
	}
	in, err := json.Marshal(texts)
	require.NoError(t, err)
	c := exec.Command("python3", "-c", script)
	c.Stdin = bytes.NewReader(in)
	c.Stderr = os.Stderr
	out, err := c.Output()
	require.NoError(t, err)
	var got [][][]string
	require.NoError(t, json.Unmarshal(out, &got))
	require.Equal(t, want, got)
}

// FuzzCSV writes any pages that pass the crawler's check: a record for each row, with a field for each column.
func FuzzCSV(f *testing.F) {
	f.Add([]byte(`[{"a":"A","b":"\"\r\n,"},{"a":1}]`), byte(','), "")
	f.Add([]byte("[{\"a\":\"\\ud800\"}]\n[{\"a\":{\"x\":[1,\"\\u0000\"]},\"b\":1e999}]"), byte('|'), "yyyy\"年\"h:mm AM/PM")
	f.Add([]byte("[]"), byte(';'), "\\")
	f.Add([]byte(`[{"":""},{"":"=1"}]`), byte('\t'), `"`)
	f.Fuzz(func(t *testing.T, data []byte, delimiter byte, format string) {
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
		if strings.IndexByte(",;\t|", delimiter) < 0 {
			return
		}
		columns := encode.Columns(pages[0].Rows)
		if len(columns) > 0 {
			columns = append(columns, Declared(events.Column{Key: "a", Title: "date", Type: "datetime", Format: format})...)
		}
		sheet := Sheet(t, columns, pages...)
		sheet.Chosen = false
		text, r, err := TryWrite(t, Format, docOf(sheet, events.CSVOptions{Delimiter: string(delimiter), NoBOM: true}))
		if len(columns) == 0 {
			return // an error, or empty lines
		}
		require.NoError(t, err)
		require.Equal(t, []int64{int64(total)}, r.Rows)
		in := stdcsv.NewReader(strings.NewReader(text))
		in.Comma = rune(delimiter)
		records, err := in.ReadAll()
		require.NoError(t, err, text)
		require.Len(t, records, total+1)
	})
}

// A line depends on its row alone, not on the rows that its encoder has seen.
func TestLinesDoNotDependOnEarlierRows(t *testing.T) {
	t.Parallel()
	columns := Declared(events.Column{Key: "a"}, events.Column{Key: "b", Type: "text"}, events.Column{Key: "c", Type: "bool"},
		events.Column{Key: "d", Type: "datetime"}, events.Column{Key: "e"})
	data := []string{`{"a":1,"b":"x","c":true,"d":"2026-01-05 08:30:15","e":"=1"}`, `{"a":"1,2","b":2,"c":"1","d":"","e":"a\"b"}`,
		`{"a":null,"b":true,"c":null,"d":"2026-01-05 08:30:15.25","e":"-1"}`, `{"b":"x","e":1}`, `{"b":"y","e":"-x"}`,
		`{"e":"last","a":"first"}`, `{}`, `{"a":"twice","a":"\u0061;","x":1}`, `{"x":1,"a":[1, 2],"c":false}`, `{"x":2,"a":"b","c":0}`}
	for _, columns := range [][]encode.Column{columns, columns[:1], Names("a", "b", "c", "d", "e")} {
		one := Sheet(t, columns)
		together, err := newEncoder(one, events.CSVOptions{})
		require.NoError(t, err)
		for range 2 {
			for i := range 2 * len(data) {
				row := []byte("[" + data[i/2] + "]")
				alone, err := newEncoder(one, events.CSVOptions{})
				require.NoError(t, err)
				var want, got blocks.Buffer
				a, b := rows.NewCursor(row), rows.NewCursor(row)
				require.True(t, a.NextRow())
				require.True(t, b.NextRow())
				alone.Row(&want, &a, 0)
				together.Row(&got, &b, int64(i))
				require.Equal(t, string(want.B), string(got.B), "%s", row)
			}
		}
	}
}
