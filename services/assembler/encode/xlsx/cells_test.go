package xlsx

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"

	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sheetData returns the rows of a sheet's XML.
func sheetData(t testing.TB, xlsx []byte, sheet int) string {
	t.Helper()
	all := string(partOf(t, xlsx, sheetPath(sheet)))
	_, after, ok := strings.Cut(all, "<sheetData>")
	require.True(t, ok)
	data, _, ok := strings.Cut(after, "</sheetData>")
	require.True(t, ok)
	return data
}

// oneCell writes one value under the column A and returns its cell's XML.
func oneCell(t testing.TB, value string) string {
	t.Helper()
	_, _, xlsx := write(t, testSpec(), cutPages(`{"a":"A"}`, []string{`{"a":` + value + `}`}, 1)...)
	_, row, ok := strings.Cut(sheetData(t, xlsx, 1), `<row r="2">`)
	require.True(t, ok)
	return strings.TrimSuffix(row, `</row>`)
}

func TestCellOfEachKindOfValue(t *testing.T) {
	t.Parallel()
	number := func(s string) string { return `<c r="A2"><v>` + s + `</v></c>` }
	text := func(s string) string { return `<c r="A2" t="inlineStr"><is><t>` + s + `</t></is></c>` }
	spaced := func(s string) string {
		return `<c r="A2" t="inlineStr"><is><t xml:space="preserve">` + s + `</t></is></c>`
	}
	quoted := func(s string) string { return `<c r="A2" s="2" t="inlineStr"><is><t>` + s + `</t></is></c>` }
	for _, c := range []struct{ value, want string }{
		// Text that begins like a formula is text, and stays text when edited.
		{`"=1+2"`, quoted("=1+2")},
		{`"+86 138"`, quoted("+86 138")},
		{`"-1"`, quoted("-1")},
		{`"@SUM(A1)"`, quoted("@SUM(A1)")},
		{`"\t=1"`, `<c r="A2" s="2" t="inlineStr"><is><t xml:space="preserve">` + "\t" + `=1</t></is></c>`},
		{`"\r=1"`, quoted("_x000D_=1")},
		{`"\n=1"`, `<c r="A2" s="2" t="inlineStr"><is><t xml:space="preserve">` + "\n" + `=1</t></is></c>`},
		{`"＝1+2"`, quoted("＝1+2")},
		{`"＋1"`, quoted("＋1")},
		{`"－1"`, quoted("－1")},
		{`"＠A1"`, quoted("＠A1")},
		{`"＜1"`, text("＜1")},
		{`"1=1"`, text("1=1")},
		{`"\uFF1D1"`, quoted("＝1")},
		{`["=1"]`, text(`["=1"]`)},

		// Numbers keep every digit: as a number if possible, else as text.
		{`0`, number("0")},
		{`-1`, number("-1")},
		{`0.5`, number("0.5")},
		{`999999999999999`, number("999999999999999")},
		{`-999999999999999`, number("-999999999999999")},
		{`1000000000000000`, text("1000000000000000")}, // 16 digits: an id
		{`-1234567890123456`, quoted("-1234567890123456")},
		{`123456789012345678901234567890`, text("123456789012345678901234567890")},
		{`0.123456789012345`, number("0.123456789012345")},
		{`0.1234567890123456`, number("0.1234567890123456")},
		{`1234567890.12345`, number("1234567890.12345")},
		{`1234567890.123456`, number("1234567890.123456")},
		{`1.50000000000000000000`, number("1.50000000000000000000")},
		{`0.00000000000000000001`, number("0.00000000000000000001")},
		{`0.000000000000000000000`, number("0.000000000000000000000")},
		{`100000000000000000000.0`, number("100000000000000000000.0")},
		{`1e5`, number("1e5")},
		{`1.5E-7`, number("1.5E-7")},
		{`123456789012345e290`, number("123456789012345e290")},
		{`1e307`, number("1e307")},
		{`1e308`, text("1e308")},
		{`1e-307`, number("1e-307")},
		{`1e-308`, text("1e-308")},
		{`1e999999999999999999999`, text("1e999999999999999999999")},
		{`1234567890123456e1`, number("1234567890123456e1")},
		{`1.234567890123456e1`, number("1.234567890123456e1")},

		// The shortest decimal of a float64 may have 17 digits.
		{`3.3000000000000003`, number("3.3000000000000003")},
		{`-3.3000000000000003`, number("-3.3000000000000003")},
		{`3.30000000000000030`, number("3.30000000000000030")},
		{`3.3000000000000002`, text("3.3000000000000002")}, // the same float64 as 3.3000000000000003
		{`3.30000000000000003`, text("3.30000000000000003")},
		{`-0.30000000000000002`, quoted("-0.30000000000000002")},
		{`0.30000000000000004`, number("0.30000000000000004")},
		{`5e-1`, number("5e-1")},
		{`33.000000000000003e-1`, number("33.000000000000003e-1")},
		{`0.00033000000000000005`, number("0.00033000000000000005")},
		{`1.7976931348623158e307`, number("1.7976931348623158e307")},
		{`9999999999999999.0`, text("9999999999999999.0")}, // 1e16
		{`9007199254740993.0`, text("9007199254740993.0")},
		{`9007199254740992.0`, number("9007199254740992.0")},
		{`1.2345678901234568E+21`, number("1.2345678901234568E+21")},
		{`0.123456789012345678`, text("0.123456789012345678")},
		{`1.50`, number("1.50")},
		{`1E5`, number("1E5")},
		{`1E+5`, number("1E+5")},
		{`1E05`, number("1E05")},

		// A zero with an exponent is 0: readers disagree on 0e999.
		{`-0`, number("-0")},
		{`-0.00`, number("-0.00")},
		{`0E-8`, number("0")},
		{`0.00E+8`, number("0")},
		{`-0e0`, number("0")},
		{`0e999`, number("0")},
		{`0e99999999999999999999`, number("0")},
		{`1e400`, text("1e400")},
		{`1E400`, text("1E400")},
		{`1e-99999999999999999999`, text("1e-99999999999999999999")},

		{`true`, `<c r="A2" t="b"><v>1</v></c>`},
		{`false`, `<c r="A2" t="b"><v>0</v></c>`},
		{`null`, ``},

		// Strings stay strings.
		{`""`, text("")},
		{`"123"`, text("123")},
		{`"007"`, text("007")},
		{`"true"`, text("true")},
		{`"=1+1"`, quoted("=1+1")},
		{`"@SUM(A1)"`, quoted("@SUM(A1)")},
		{`"2026-11-22"`, text("2026-11-22")},
		{`"李雷 😀"`, text("李雷 😀")},
		{`"a&b<c>d\"e'"`, text(`a&amp;b&lt;c&gt;d"e'`)},
		{`"]]>"`, text("]]&gt;")},
		{`" x"`, spaced(" x")},
		{`"x\n"`, spaced("x\n")},
		{`"a\tb\nc"`, text("a\tb\nc")},

		// ST_Xstring.
		{`"a\r\nb"`, text("a_x000D_\nb")},
		{`"\u0000\u001f"`, text("_x0000__x001F_")},
		{`"\u007f\u0085"`, text("\u007f\u0085")},
		{`"\ufffe\uffff"`, text("_xFFFE__xFFFF_")},
		{`"\uffef"`, text("\uffef")},
		{`"\ud800"`, text("\ufffd")},
		{`"\ud83d\ude00"`, text("😀")},
		{`"_x0041_"`, text("_x005F_x0041_")},
		{`"_x005F_"`, text("_x005F_x005F_")},
		{`"_x0041_x0042_"`, text("_x005F_x0041_x005F_x0042_")},
		{`"_x0041"`, text("_x0041")},
		{`"_X0041_"`, text("_X0041_")},
		{`"_x00zz_"`, text("_x00zz_")},
		{`"_x0041\u0001"`, text("_x005F_x0041_x0001_")},
		{`"_x0041\ufffe"`, text("_x005F_x0041_xFFFE_")},
		{`"_x0041\uffef"`, text("_x0041\uffef")},
		{`"__x0041__"`, text("__x005F_x0041__")},

		// Nested values are compact JSON.
		{`{ "a" : [ 1 , 2.50 , { } ] , "b c" : " x  y " }`, text(`{"a":[1,2.50,{}],"b c":" x  y "}`)},
		{`["\u5f20\u4e09", "\/", "\"", "\\", "\n", "\u0001", "\ud83d\ude00", "\ud83d", "\u0022"]`,
			text(`["张三","/","\"","\\","\n","\u0001","😀","\ud83d","\u0022"]`)},
		{`[]`, text(`[]`)},
	} {
		require.Equal(t, c.want, oneCell(t, c.value), c.value)
	}
}

func TestSmallWorkbookGolden(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 5
	_, _, xlsx := write(t, spec, cutPages(
		`{"id":"编号","名":"Name & more","ok":true,"n":2024,"none":null,"list":["x", 1]}`,
		[]string{
			`{"id":1,"名":"李雷","ok":true,"n":1.5,"none":null,"list":[]}`,
			`{"list":{"k":"v"},"none":"","n":12345678901234567890,"ok":false,"名":"=A1","id":2}`,
			`{}`,
			`{"id":1,"id":2,"\u540d":" escaped name ","extra":1}`,
			`{"ok":null}`,
		}, 2)...)
	for part, golden := range map[string]string{
		sheetPath(1):        "sheet1.xml",
		sheetPath(2):        "sheet2.xml",
		"xl/workbook.xml":   "workbook.xml",
		"docProps/core.xml": "core.xml",
	} {
		// One element a line, for readable diffs.
		got := bytes.ReplaceAll(partOf(t, xlsx, part), []byte("><"), []byte(">\n<"))
		name := filepath.Join("testdata", golden)
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(name, got, 0o644))
		}
		want, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), part)
	}
}

func TestFieldsGoToTheirColumns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ claim, header, row, want string }{
		{"any order", `{"a":"A","b":"B"}`, `{"b":2,"a":1}`, `<c r="A2"><v>1</v></c><c r="B2"><v>2</v></c>`},
		{"the last of a name counts", `{"a":"A","b":"B"}`, `{"a":1,"b":2,"a":3}`,
			`<c r="A2"><v>3</v></c><c r="B2"><v>2</v></c>`},
		{"even if it is null", `{"a":"A"}`, `{"a":1,"a":null}`, ``},
		{"escaped names are the same", `{"\u0061":"A"}`, `{"a":1}`, `<c r="A2"><v>1</v></c>`},
		{"and the other way", `{"a":"A"}`, `{"\u0061":1}`, `<c r="A2"><v>1</v></c>`},
		{"an empty name", `{"":"A"}`, `{"":1}`, `<c r="A2"><v>1</v></c>`},
		{"a name twice in the header is one column", `{"a":"A","b":"B","a":"C"}`, `{"b":1}`,
			`<c r="B2"><v>1</v></c>`},
		{"a long name", `{"` + strings.Repeat("n", 1000) + `":"A"}`, `{"` + strings.Repeat("n", 1000) +
			`":1}`, `<c r="A2"><v>1</v></c>`},
		{"a header without columns", `{}`, `{"a":1}`, ``},
	} {
		_, _, xlsx := write(t, testSpec(), cutPages(c.header, []string{c.row}, 1)...)
		_, row, _ := strings.Cut(sheetData(t, xlsx, 1), `<row r="2">`)
		require.Equal(t, c.want, strings.TrimSuffix(row, `</row>`), c.claim)
	}
}

// The fast path for plain text writes the same bytes as the slow one, with any other character at any
// position.
func TestPlainTextsAreWrittenAsTheyAre(t *testing.T) {
	t.Parallel()
	check := func(t failer, text []byte) {
		styled, cut := appendStyled(nil, text)
		asItIs := string(styled) == ` t="inlineStr"><is><t>`+string(text)+`</t></is></c>`
		if isPlain(text) && (cut || !asItIs) {
			t.Fatalf("%q is called plain, and written %s", text, styled)
		}
	}
	for _, special := range []string{"&", "<", ">", "_", "_x0041_", "\x00", "\x1f", "\t", "\n", "\r", " ",
		"=", "＝", "\uFFFE", "\uFFFF", "\uFFEF", "\u007f", "x"} {
		for before := range 20 {
			for after := range 20 {
				check(t, []byte(strings.Repeat("b", before)+special+strings.Repeat("客", after)))
			}
		}
	}
	check(t, bytes.Repeat([]byte("x"), maxCellText+1))
	rapid.Check(t, func(t *rapid.T) { check(t, []byte(rapid.String().Draw(t, "text"))) })
	for _, text := range []string{"", "x", "SN123456789012", "客户12345", "2026-01-02 03:04:05",
		"a longer text, with some: punctuation!"} {
		require.True(t, isPlain([]byte(text)), text)
	}
}

func TestColumnName(t *testing.T) {
	t.Parallel()
	for i := range maxColumns {
		want, err := excelize.ColumnNumberToName(i + 1)
		require.NoError(t, err)
		require.Equal(t, want, columnName(i))
	}
}

func TestColumnWidths(t *testing.T) {
	t.Parallel()
	data := []string{`{"a":1,"b":"中文中文中文","c":"` + strings.Repeat("x", 500) +
		`","d":"short\na much longer line"}`}
	for range widthRows - 1 {
		data = append(data, `{"a":12345678}`)
	}
	data = append(data, `{"a":"`+strings.Repeat("x", 50)+`"}`) // beyond the measured rows
	_, _, xlsx := write(t, testSpec(),
		cutPages(`{"a":"A","b":"B","c":"C","d":"D","e":"a title of 24 characters"}`, data, 7)...)
	f := open(t, xlsx)
	for column, want := range map[string]float64{"A": 10, "B": 14, "C": 60, "D": 20, "E": 26} {
		got, err := f.GetColWidth("Sheet1", column)
		require.NoError(t, err)
		require.Equal(t, want, got, column)
	}
}

// hostileText is JSON string contents in many spellings.
var hostileText = rapid.Custom(func(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.OneOf(
		rapid.SampledFrom([]string{
			`_x0041_`, `_x00`, `_`, `x0041_`, `_xFFFE`, `\u0000`, `\u0001`, `\r`, `\n`, `\t`, `\ufffe`,
			"\uffff", `\uFFFF`,
			`😀`, `\ud83d\ude00`, `\ud83d`, `\ude00`, `&`, `<`, `>`, `]]>`, ` `, `\"`, `\\`, `\/`, `中文`,
			`=1+1`, `\u005f`, "\u0085", "\u00a0",
		}),
		rapid.StringMatching(`[a-z0-9 _x]{0,8}`),
	), 0, 6).Draw(t, "text"), "")
})

var hostileValue = rapid.Custom(func(t *rapid.T) string {
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "literal")
	case 1:
		return strconv.FormatInt(rapid.Int64().Draw(t, "integer"), 10)
	case 2:
		if rapid.Bool().Draw(t, "shortest") {
			format := rapid.SampledFrom([]byte("eEfg")).Draw(t, "format")
			return strconv.FormatFloat(rapid.Float64Range(-1e25, 1e25).Draw(t, "float"), format, -1, 64)
		}
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?`).
			Draw(t, "number")
	case 3:
		return `{ "k" : [ 1 , "` + hostileText.Draw(t, "nested") + `" ] }`
	}
	return `"` + hostileText.Draw(t, "string") + `"`
})

var columnPool = []string{"id", "名", `\u540d`, "a b", "x", "_x0041_", "ID"}

var hostileRow = rapid.Custom(func(t *rapid.T) string {
	var fields []string
	for _, name := range rapid.SliceOfN(rapid.SampledFrom(append([]string{"unknown"}, columnPool...)), 0,
		8).Draw(t, "names") {
		fields = append(fields, `"`+name+`":`+hostileValue.Draw(t, "value"))
	}
	return "{" + strings.Join(fields, ",") + "}"
})

// shows computes independently of the writer, with encoding/json and exact rationals, what a cell must show
// for a JSON value.
func shows(raw json.RawMessage) (value string, kind excelize.CellType) {
	switch raw[0] {
	case 'n':
		return "", excelize.CellTypeUnset
	case 't':
		return "1", excelize.CellTypeBool
	case 'f':
		return "0", excelize.CellTypeBool
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return s, excelize.CellTypeInlineString
	case '{', '[':
		return "", excelize.CellTypeInlineString
	}
	if text, ok := fitsNumber(string(raw)); ok {
		return text, excelize.CellTypeUnset
	}
	return string(raw), excelize.CellTypeInlineString
}

// fitsNumber reports whether a JSON number becomes a number cell, and its text there.
func fitsNumber(s string) (text string, ok bool) {
	if !strings.ContainsAny(s, ".eE") {
		return s, len(strings.TrimPrefix(s, "-")) <= 15
	}
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(s), "e")
	if strings.Trim(mantissa, "-0.") == "" {
		if scientific {
			return "0", true
		}
		return s, true
	}
	if e, err := strconv.Atoi(exponent); scientific && (err != nil || e > 400 || e < -400) {
		return "", false
	}
	exact, ok := new(big.Rat).SetString(s)
	f, err := strconv.ParseFloat(s, 64)
	if !ok || err != nil {
		return "", false
	}
	shortest, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'e', -1, 64))
	size := new(big.Rat).Abs(exact)
	least, _ := new(big.Rat).SetString("1e-307")
	most, _ := new(big.Rat).SetString("1e308")
	return s, shortest.Cmp(exact) == 0 && size.Cmp(least) >= 0 && size.Cmp(most) < 0
}

// sameJSON reports whether two texts are the same JSON value.
func sameJSON(a, b []byte) bool {
	decode := func(text []byte) (v any) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if d.Decode(&v) != nil {
			return errors.New("no JSON")
		}
		return v
	}
	return fmt.Sprintf("%#v", decode(a)) == fmt.Sprintf("%#v", decode(b))
}

func isCompact(text string) bool {
	var b bytes.Buffer
	return json.Compact(&b, []byte(text)) == nil && b.Len() == len(text)
}

// For any rows, pages, parallelism and sheet limits, each value reads back correctly and the bytes depend on
// the rows alone.
func TestHostileRowsReadBackAndBytesDoNotDependOnPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header := `{"id":"编号","名":"Name","a b":"_x0041_","x":"X\u0001","_x0041_":" y ","ID":true}`
	columns := []string{"id", "名", "a b", "x", "_x0041_", "ID"}
	titles := []string{"编号", "Name", "_x0041_", "X\x01", " y ", "true"}
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(hostileRow, 0, 40).Draw(t, "rows")
		spec := testSpec()
		spec.MaxSheetRows = rapid.SampledFrom([]int{0, 2, 3, 10}).Draw(t, "max rows")
		spec.MaxSheetXML = rapid.SampledFrom([]int64{0, 1, 2000, 4000}).Draw(t, "max xml")
		var first []byte
		for range 2 {
			spec.Parallel = rapid.SampledFrom([]int{1, 2, 8}).Draw(t, "parallel")
			pages := cutPages(header, data, rapid.IntRange(1, 50).Draw(t, "rows a page"))
			if rapid.Bool().Draw(t, "uncounted") {
				for i := range pages {
					pages[i].RowCount = 0
				}
			}
			file, err := writeFile(filepath.Join(dir, "out.zip"), spec, pages)
			if err != nil {
				t.Fatal(err)
			}
			if first != nil && !bytes.Equal(first, file) {
				t.Fatal("other bytes")
			}
			first = file
		}
		f, err := openZip(first)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		next := 0
		for s, sheet := range f.GetSheetList() {
			at, err := f.Rows(sheet)
			if err != nil {
				t.Fatal(err)
			}
			for line := 1; at.Next(); line++ {
				got, err := at.Columns(excelize.Options{RawCellValue: true})
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, make([]string, len(columns)-len(got))...)
				if line == 1 {
					if fmt.Sprint(got) != fmt.Sprint(titles) {
						t.Fatalf("%q are the titles of %s", got, sheet)
					}
					continue
				}
				if next == len(data) {
					t.Fatalf("%s has more rows than there are", sheet)
				}
				var want map[string]json.RawMessage
				if err := json.Unmarshal([]byte(data[next]), &want); err != nil {
					t.Fatal(err)
				}
				next++
				for i, name := range columns {
					raw, ok := want[name]
					if !ok {
						raw = json.RawMessage("null")
					}
					cell := columnName(i) + strconv.Itoa(line)
					value, kind := shows(raw)
					if gotKind, err := f.GetCellType(sheet, cell); err != nil || gotKind != kind {
						t.Fatalf("%s %s is of type %v, want %v for %s", sheet, cell, gotKind, kind, raw)
					}
					if raw[0] == '{' {
						if !sameJSON(raw, []byte(got[i])) || !isCompact(got[i]) {
							t.Fatalf("%s %s shows %q for %s", sheet, cell, got[i], raw)
						}
						continue
					}
					if got[i] != value {
						t.Fatalf("%s %s shows %q, want %q for %s", sheet, cell, got[i], value, raw)
					}
				}
			}
			_ = at.Close()
			if s > 0 && spec.MaxSheetRows == 0 && spec.MaxSheetXML == 0 {
				t.Fatal("split without need")
			}
		}
		if next != len(data) {
			t.Fatalf("%d rows of %d", next, len(data))
		}
	})
}

func writeFile(name string, spec Spec, pages []Page) ([]byte, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := WriteWorkbook(context.Background(), f, spec, pagesOf(pages...)); err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

func openZip(file []byte) (*excelize.File, error) {
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	x, err := z.File[0].Open()
	if err != nil {
		return nil, err
	}
	defer x.Close()
	return excelize.OpenReader(x)
}

func TestLongCellsAreCutAtACharacter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, value, want string
		cuts               int64
	}{
		{"exactly the limit", `"` + strings.Repeat("x", maxCellText) + `"`, strings.Repeat("x", maxCellText),
			0},
		{"one more", `"` + strings.Repeat("x", maxCellText+1) + `"`, strings.Repeat("x", maxCellText), 1},
		{"many bytes, few characters", `"` + strings.Repeat("中", maxCellText) + `"`,
			strings.Repeat("中", maxCellText), 0},
		{"not within a surrogate pair", `"` + strings.Repeat("😀", maxCellText) + `"`,
			strings.Repeat("😀", maxCellText/2), 1},
		{"an escape counts as its character", `"` + strings.Repeat(`\u0001`, maxCellText+5) + `"`,
			strings.Repeat("\x01", maxCellText), 1},
		{"escaped pairs", `"` + strings.Repeat(`\ud83d\ude00`, maxCellText) + `"`,
			strings.Repeat("😀", maxCellText/2), 1},
		{"nested", `["` + strings.Repeat(`\u4e2d`, maxCellText+7) + `"]`,
			`["` + strings.Repeat("中", maxCellText-2), 1},
		{"an array of a number", "[" + strings.Repeat("9", maxCellText+1) + "]",
			"[" + strings.Repeat("9", maxCellText-1), 1},
		{"after a cut no sequence begins", `"` + strings.Repeat("x", maxCellText-6) + `_x0041_"`,
			strings.Repeat("x", maxCellText-6) + "_x0041", 1},
	} {
		r, _, xlsx := write(t, testSpec(),
			cutPages(`{"a":"A"}`, []string{`{}`, `{"a":` + c.value + `}`}, 1)...)
		got := cellsOf(t, open(t, xlsx), "Sheet1")
		require.Len(t, got, 3, c.claim)
		require.Len(t, got[2], 1, c.claim)
		require.LessOrEqual(t, len(utf16.Encode([]rune(got[2][0]))), maxCellText, c.claim)
		require.True(t, c.want == got[2][0], c.claim)
		if c.cuts == 0 {
			require.Empty(t, r.Warnings, c.claim)
			continue
		}
		require.Len(t, r.Warnings, 1, c.claim)
		require.Equal(t, WarnCellCut, r.Warnings[0].Code)
		require.Equal(t, c.cuts, r.Warnings[0].Count)
		require.Equal(t, "Sheet1!A3", r.Warnings[0].First)
	}
}

// FuzzCells writes any array that passes the check and reads the sheet's XML back.
func FuzzCells(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{}]`, `[{"a":"A"},{"a":1}]`,
		`[{"a":"A","b":null},{"b":"\u0000\ud800_x0041_\uFFFE","a":[{"x":" "}]}]`,
		`[{"a":{}},{"a":1e400},{"a":-0.0},{"c":true}]`, ` [ {"":""} , {"":"]]>"} ] `,
		`[{"a":"_x0041\u0001"},{"a":"\r\n"}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		n, err := rows.Check(page, rows.Limits{})
		if err != nil {
			// An unchecked array must not make it panic.
			h, err := newHeader([]encode.Column{{Name: "a"}})
			require.NoError(t, err)
			e, err := newEncoder(h, maxRows)
			require.NoError(t, err)
			e.emit = func(c *chunk) error { c.release(); return nil }
			_ = e.batch(&batch{pages: []Page{{Number: 2, Rows: page}}}, 0)
			return
		}
		file, err := writeFile(filepath.Join(t.TempDir(), "out.zip"), testSpec(),
			[]Page{{Number: 1, Rows: page, RowCount: n}})
		if err != nil {
			t.Fatal(err)
		}
		sheet := partOf(t, workbookIn(t, file), sheetPath(1))
		d := xml.NewDecoder(bytes.NewReader(sheet))
		got := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in %s", err, sheet)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "row" {
				got++
			}
		}
		if got != n {
			t.Fatalf("%d rows of %d", got, n)
		}
	})
}
