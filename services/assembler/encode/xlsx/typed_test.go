package xlsx

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// sheetOf returns a sheet with chosen columns.
func sheetOf(title string, columns []events.Column, pages ...Page) encode.Sheet {
	s := encode.Sheet{Title: title, Chosen: true, Zones: encode.Zones{Display: time.UTC},
		Open: func() func(context.Context) (Page, error) { return pagesOf(pages...) }}
	for i := range columns {
		c := encode.Column{Name: columns[i].Key, Title: columns[i].Title, Spec: &columns[i]}
		if c.Title == "" {
			c.Title = c.Name
		}
		s.Columns = append(s.Columns, c)
	}
	return s
}

// dataPages splits rows into pages without a header.
func dataPages(data []string, perPage int) (pages []Page) {
	for n := 1; n == 1 || len(data) > 0; n++ {
		k := min(perPage, len(data))
		pages = append(pages, Page{Number: n, Rows: []byte("[" + strings.Join(data[:k], ",") + "]"), RowCount: k})
		data = data[k:]
	}
	return pages
}

// writeTyped writes a workbook that is not plain.
func writeTyped(t testing.TB, spec Spec, sheets ...encode.Sheet) (Result, []byte) {
	t.Helper()
	r, file, err := tryTyped(t, spec, sheets...)
	require.NoError(t, err)
	return r, file
}

func tryTyped(t testing.TB, spec Spec, sheets ...encode.Sheet) (Result, []byte, error) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out.xlsx"))
	require.NoError(t, err)
	defer f.Close()
	out := archive.Plain(f)
	r, err := writeSheets(t.Context(), out, spec, sheets)
	if err != nil {
		return r, nil, err
	}
	_, err = out.Finish(t.Context())
	require.NoError(t, err)
	file, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	return r, file, nil
}

// orderColumns are columns of each type.
func orderColumns() []events.Column {
	return []events.Column{
		{Key: "no", Title: "订单号", Type: events.ColumnText, Link: "https://shop.example/orders/{no}"},
		{Key: "day", Title: "日期", Type: events.ColumnDate},
		{Key: "at", Title: "下单时间", Type: events.ColumnDatetime},
		{Key: "amount", Title: "金额", Type: events.ColumnNumber, Format: "#,##0.00"},
		{Key: "paid", Title: "已付", Type: events.ColumnBool},
		{Key: "status", Title: "状态", Map: map[string]string{"0": "新建", "1": "已付款", "*": "其他"}},
		{Key: "mail", Link: "true"},
		{Key: "note", Title: "备注", Width: 30},
		{Key: "items", Type: events.ColumnJSON},
	}
}

func orderRows(n int) []string {
	data := make([]string, n)
	for i := range data {
		note := `"即日发货"`
		if i%3 == 1 {
			note = `"第一行：请在工作日送货\n第二行：联系电话 138-0000-0000"`
		}
		at := time.Date(2026, 1, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(i) * 7919 * time.Second)
		data[i] = fmt.Sprintf(`{"no":"00%d","day":%q,"at":%q,"amount":%d.%02d,"paid":%t,"status":%d,"mail":"mailto:c%d@example.com","note":%s,"items":[{"sku":%d}]}`,
			10000+i, at.Format("2006-01-02"), at.Format(time.RFC3339), i*1237%98765, i%100, i%2 == 0, i%3, i, note, i)
	}
	return data
}

func TestTypedCellsReadBack(t *testing.T) {
	t.Parallel()
	r, file := writeTyped(t, testSpec(), sheetOf("订单", orderColumns(), dataPages(orderRows(3), 2)...))
	require.Equal(t, []int64{3}, r.Rows)
	require.Empty(t, r.Warnings)
	f := open(t, file)
	require.Equal(t, []string{"订单"}, f.GetSheetList())
	shown, err := f.GetRows("订单")
	require.NoError(t, err)
	require.Equal(t, [][]string{
		{"订单号", "日期", "下单时间", "金额", "已付", "状态", "mail", "备注", "items"},
		{"0010000", "2026-01-01", "2026-01-01 08:00:00", "0.00", "TRUE", "新建", "mailto:c0@example.com", "即日发货", `[{"sku":0}]`},
		{"0010001", "2026-01-01", "2026-01-01 10:11:59", "1,237.01", "FALSE", "已付款", "mailto:c1@example.com",
			"第一行：请在工作日送货\n第二行：联系电话 138-0000-0000", `[{"sku":1}]`},
		{"0010002", "2026-01-01", "2026-01-01 12:23:58", "2,474.02", "TRUE", "其他", "mailto:c2@example.com", "即日发货", `[{"sku":2}]`},
	}, shown)
	for cell, want := range map[string]string{"A3": "https://shop.example/orders/0010001", "G4": "mailto:c2@example.com"} {
		ok, target, err := f.GetCellHyperLink("订单", cell)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, want, target)
	}
	style := func(cell string) *excelize.Style {
		id, err := f.GetCellStyle("订单", cell)
		require.NoError(t, err)
		s, err := f.GetStyle(id)
		require.NoError(t, err)
		return s
	}
	require.True(t, style("A1").Font.Bold)
	require.Equal(t, "single", style("A2").Font.Underline)
	require.True(t, style("H3").Alignment.WrapText, "a cell with line breaks wraps")
	for _, column := range "ABCDEFGHI" {
		require.Equal(t, "top", style(string(column)+"3").Alignment.Vertical, "cells beside line breaks are at the top")
		if a := style(string(column) + "2").Alignment; a != nil {
			require.Empty(t, a.Vertical)
		}
	}
	width, err := f.GetColWidth("订单", "H")
	require.NoError(t, err)
	require.EqualValues(t, 30, width)
	for column, least := range map[string]float64{"B": 12, "C": 21, "D": 10} {
		width, err := f.GetColWidth("订单", column)
		require.NoError(t, err)
		require.GreaterOrEqual(t, width, least, column)
	}
	layout, err := f.GetPageLayout("订单")
	require.NoError(t, err)
	require.Equal(t, "landscape", *layout.Orientation)
	names := f.GetDefinedName()
	require.Contains(t, fmt.Sprint(names), "_xlnm.Print_Titles  '订单'!$1:$1")
}

func TestSheetNamesAsExcelAllowsThem(t *testing.T) {
	t.Parallel()
	b := newBook(Spec{})
	long := strings.Repeat("长", 40)
	for _, c := range []struct{ title, want string }{
		{"订单", "订单"},
		{"订单", "订单 (2)"},
		{"订单 (2)", "订单 (2) (2)"},
		{"", "Sheet1"},
		{"sheet2", "sheet2"},
		{"", "Sheet3"},
		{"Orders", "Orders"},
		{"ORDERS", "ORDERS (2)"},
		{"a[b]c:d*e?f/g\\h", "a_b_c_d_e_f_g_h"},
		{"'it''s'", "it''s"},
		{"history", "history_"},
		{"'", "Sheet4"},
		{"a\nb\x00", "a_b_"},
		{long, long[:31*3]},
		{long, long[:27*3] + " (2)"},
		{strings.Repeat("😀", 20), strings.Repeat("😀", 15)},
		{strings.Repeat("x", 30) + "'y", strings.Repeat("x", 30)},
		{"<&>", "<&>"},
	} {
		require.Equal(t, c.want, b.name(c.title), "%q", c.title)
	}
}

// A name is never one that Excel refuses, and never given twice.
func TestSheetNamesAreAlwaysValid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b, seen := newBook(Spec{}), map[string]bool{}
		for _, title := range rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.StringMatching(`['\[a-c :]{0,40}`)), 1, 20).Draw(t, "titles") {
			name := b.name(title)
			if err := excelizeName(name); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if key := strings.ToLower(name); seen[key] {
				t.Fatalf("%q twice", name)
			} else {
				seen[key] = true
			}
		}
	})
}

func excelizeName(name string) error {
	f := excelize.NewFile()
	defer f.Close()
	_, err := f.NewSheet(name)
	return err
}

func TestSheetsInOrderEachWithItsRows(t *testing.T) {
	t.Parallel()
	column := []events.Column{{Key: "a", Title: "A", Type: events.ColumnNumber}}
	rowsOf := func(n int) []Page {
		var data []string
		for i := range n {
			data = append(data, fmt.Sprintf(`{"a":%d}`, i))
		}
		return dataPages(data, 2)
	}
	spec := testSpec()
	spec.MaxSheetRows = 4
	r, file := writeTyped(t, spec, sheetOf("订单", column, rowsOf(7)...), sheetOf("空", column, rowsOf(0)...),
		sheetOf("订单 (2)", column, rowsOf(4)...))
	require.Equal(t, []int64{7, 0, 4}, r.Rows)
	require.Equal(t, 6, r.Tables)
	require.Equal(t, []string{WarnSheetSplit, WarnSheetSplit}, codes(r.Warnings))
	require.Equal(t, "订单 (3)", r.Warnings[0].First, "a name that another sheet has is passed over")
	f := open(t, file)
	want := []string{"订单", "订单 (3)", "订单 (4)", "空", "订单 (2)", "订单 (2) (2)"}
	require.Equal(t, want, f.GetSheetList())
	for i, n := range []int{3, 3, 1, 0, 3, 1} {
		require.Len(t, cellsOf(t, f, want[i]), n+1, want[i])
		panes, err := f.GetPanes(want[i])
		require.NoError(t, err)
		require.True(t, panes.Freeze)
	}
}

func TestWarningsNameTheCell(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 3
	data := []string{`{"d":"2026-01-02","n":1}`, `{"d":"1900-03-01","n":2}`, `{"d":"1900-02-28","n":"x"}`, `{"d":"soon","n":3}`}
	r, file := writeTyped(t, spec, sheetOf("a'b", []events.Column{{Key: "n", Type: events.ColumnNumber},
		{Key: "d", Type: events.ColumnDate}, {Key: "gone"}}, dataPages(data, 3)...))
	require.Equal(t, []string{WarnSheetSplit, cells.WarnCellType, cells.WarnCellType, cells.WarnColumnEmpty}, codes(r.Warnings))
	require.Equal(t, "a'b (2)!A2", r.Warnings[1].First)
	require.Equal(t, "a'b (2)!B2", r.Warnings[2].First)
	require.EqualValues(t, 2, r.Warnings[2].Count)
	f := open(t, file)
	require.Equal(t, [][]string{{"n", "d", "gone"}, {"1", "46024"}, {"2", "61"}}, cellsOf(t, f, "a'b"))
	require.Equal(t, [][]string{{"n", "d", "gone"}, {"x", "1900-02-28"}, {"3", "soon"}}, cellsOf(t, f, "a'b (2)"))
}

func TestLinksBeyondTheLimitStayText(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetLinks = 3
	spec.MaxSheetRows = 6
	columns := []events.Column{{Key: "id", Type: events.ColumnNumber, Link: "https://x.example/?a=1&b={id}"}, {Key: "u", Link: "true"}}
	var data []string
	for i := range 8 {
		data = append(data, fmt.Sprintf(`{"id":%d,"u":"http://x.example/%d?a=1&b=2#c"}`, i, i))
	}
	data[1] = `{"id":1,"u":"javascript:alert(1)"}`
	r, file := writeTyped(t, spec, sheetOf("s", columns, dataPages(data, 3)...))
	require.Equal(t, []string{WarnSheetSplit, cells.WarnLinksCut, cells.WarnLinksCut}, codes(r.Warnings))
	require.EqualValues(t, 9, r.Warnings[1].Count)
	require.Equal(t, "s!A4", r.Warnings[1].First)
	require.Equal(t, "s!B3", r.Warnings[2].First)
	f := open(t, file)
	links := map[string]bool{}
	for _, sheet := range f.GetSheetList() {
		for row := 2; row <= 6; row++ {
			for _, column := range []string{"A", "B"} {
				cell := column + strconv.Itoa(row)
				ok, _, err := f.GetCellHyperLink(sheet, cell)
				require.NoError(t, err)
				id, err := f.GetCellStyle(sheet, cell)
				require.NoError(t, err)
				style, err := f.GetStyle(id)
				require.NoError(t, err)
				require.Equal(t, ok, style.Font != nil && style.Font.Underline == "single", "%s!%s", sheet, cell)
				if ok {
					links[sheet+cell] = true
				}
			}
		}
	}
	require.Len(t, links, 6)
	_, target, err := f.GetCellHyperLink("s", "A3")
	require.NoError(t, err)
	require.Equal(t, "https://x.example/?a=1&b=1", target)
}

func TestTypedSameRowsSameBytes(t *testing.T) {
	t.Parallel()
	data := orderRows(5000)
	var first []byte
	for _, size := range []int64{0, 700_000} {
		first = nil
		for _, perPage := range []int{1, 77, 5000} {
			for _, parallel := range []int{1, 8} {
				spec := testSpec()
				spec.Parallel, spec.MaxSheetXML, spec.MaxSheetLinks = parallel, size, 2000
				r, file := writeTyped(t, spec, sheetOf("a", orderColumns(), dataPages(data, perPage)...),
					sheetOf("b", orderColumns()[1:4], dataPages(data, perPage)...))
				require.Equal(t, []int64{5000, 5000}, r.Rows)
				if first == nil {
					first = file
				}
				require.True(t, bytes.Equal(first, file), "%d rows a page, parallel %d", perPage, parallel)
			}
		}
	}
}

func TestSerialsAreExact(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]string{
		"1900-03-01T00:00:00Z":           "61",
		"1969-12-31T23:59:59Z":           "25568.999988425926",
		"1970-01-01T00:00:00Z":           "25569",
		"2026-01-02T12:00:00Z":           "46024.5",
		"2026-01-02T03:04:05Z":           "46024.127835648148",
		"9999-12-31T23:59:59.999999999Z": "2958465.999999999999",
	} {
		when, err := time.Parse(time.RFC3339Nano, at)
		require.NoError(t, err)
		require.Equal(t, want, string(appendSerial(nil, when.Unix(), int32(when.Nanosecond()))), at)
	}
	rapid.Check(t, func(t *rapid.T) {
		wall := rapid.Int64Range(firstWall, 253402300799).Draw(t, "wall")
		nanos := int32(rapid.IntRange(0, 999).Draw(t, "ms")) * 1e6
		serial, err := strconv.ParseFloat(string(appendSerial(nil, wall, nanos)), 64)
		if err != nil {
			t.Fatal(err)
		}
		ms := int64(serial*daySeconds*1000+0.5) - epochDay*daySeconds*1000
		if want := wall*1000 + int64(nanos)/1e6; ms != want {
			t.Fatalf("%d ms, want %d", ms, want)
		}
	})
}

func TestNoChosenColumnHasAValue(t *testing.T) {
	t.Parallel()
	_, _, err := tryTyped(t, testSpec(), sheetOf("s", []events.Column{{Key: "nome"}}, dataPages([]string{`{"name":1}`}, 1)...))
	var none *encode.NoValuesError
	require.ErrorAs(t, err, &none)
	require.Equal(t, []string{"nome"}, none.Keys)
}

// BenchmarkTyped writes the rows of BenchmarkWriteWorkbook: plain, otherwise without types, and with six types.
func BenchmarkTyped(b *testing.B) {
	pages := cutPages(benchHeader, benchRows(benchRowCount), 1000)
	pages[0].SkipFirst = true
	untyped := encode.Columns([]byte("[" + benchHeader + "]"))
	typed := append([]encode.Column{}, untyped...)
	for i, spec := range []events.Column{
		{Type: events.ColumnNumber}, {Type: events.ColumnText}, {Type: events.ColumnText},
		{Type: events.ColumnNumber, Format: "#,##0.00"}, {Type: events.ColumnBool}, {}, {Type: events.ColumnDatetime}, {},
	} {
		spec.Key = untyped[i].Name
		typed[i].Spec = &spec
	}
	for _, c := range []struct {
		name    string
		plain   bool
		columns []encode.Column
	}{{"plain", true, untyped}, {"auto", false, untyped}, {"six types", false, typed}} {
		b.Run(c.name, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "out.xlsx"))
			require.NoError(b, err)
			defer f.Close()
			var size int64
			b.ReportAllocs()
			for b.Loop() {
				out := archive.Plain(f)
				_, err := writeDocument(context.Background(), out, encode.Document{Plain: c.plain, Sheets: []encode.Sheet{{
					Columns: c.columns, Zones: encode.Zones{Display: time.UTC},
					Open: func() func(context.Context) (Page, error) { return pagesOf(pages...) },
				}}})
				require.NoError(b, err)
				size = out.Len()
			}
			b.ReportMetric(float64(size), "file-bytes")
		})
	}
}

// The parts of a workbook that is not plain. Run the test with -update to rewrite them.
func TestTypedGolden(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 4
	_, file := writeTyped(t, spec, sheetOf("订单 & <Orders>", orderColumns(), dataPages(orderRows(4), 2)...),
		sheetOf("", []events.Column{{Key: "no", Title: "=No", Format: `0.0"<&"`}}, dataPages([]string{`{"no":-1.5}`, `{"no":"-1"}`}, 2)...))
	for _, name := range []string{"xl/styles.xml", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "[Content_Types].xml",
		sheetPath(1), sheetPath(2), sheetPath(3), relationsPath(1)} {
		got := bytes.ReplaceAll(partOf(t, file, name), []byte("><"), []byte(">\n<"))
		golden := filepath.Join("testdata", "typed", strings.NewReplacer("[", "", "]", "").Replace(filepath.Base(name)))
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
			require.NoError(t, os.WriteFile(golden, got, 0o600))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), name)
		d := xml.NewDecoder(bytes.NewReader(got))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else {
				require.NoError(t, err, name)
			}
		}
	}
}

// Cells of each type read back equal, whatever the values and however the sheet is cut.
func TestTypedCellsAreEqualWhenRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var data []string
		var want [][]string
		texts := rapid.OneOf(rapid.StringMatching(`[a-z中=+<&_x0-9\n ]{0,12}`), rapid.String())
		for range rapid.IntRange(1, 30).Draw(rt, "rows") {
			text := strings.ToValidUTF8(strings.Map(func(r rune) rune {
				if r < ' ' && r != '\n' || r >= 0xFFFE && r <= 0xFFFF {
					return -1
				}
				return r
			}, texts.Draw(rt, "text")), "")
			at := time.UnixMilli(rapid.Int64Range(firstWall*1000, 253402300799000).Draw(rt, "at")).UTC()
			number := rapid.Int64Range(-1e14, 1e14).Draw(rt, "number")
			paid := rapid.Bool().Draw(rt, "paid")
			quoted, err := json.Marshal(text)
			if err != nil {
				rt.Fatal(err)
			}
			data = append(data, fmt.Sprintf(`{"text":%s,"at":%q,"day":%q,"number":"%d","paid":%t}`, quoted,
				at.Format(time.RFC3339Nano), at.Format("2006-01-02"), number, paid))
			want = append(want, []string{text, at.Format("2006-01-02T15:04:05.000"), at.Format("2006-01-02T15:04:05.000"),
				strconv.FormatInt(number, 10), strings.ToUpper(strconv.FormatBool(paid))})
		}
		spec := testSpec()
		spec.MaxSheetRows = rapid.IntRange(2, 40).Draw(rt, "rows a sheet")
		_, file, err := tryTyped(t, spec, sheetOf("s", []events.Column{{Key: "text", Type: events.ColumnText},
			{Key: "at", Type: events.ColumnDatetime}, {Key: "day", Type: events.ColumnDate},
			{Key: "number", Type: events.ColumnNumber}, {Key: "paid", Type: events.ColumnBool}},
			dataPages(data, rapid.IntRange(1, 9).Draw(rt, "rows a page"))...))
		if err != nil {
			rt.Fatal(err)
		}
		f, err := excelize.OpenReader(bytes.NewReader(file))
		if err != nil {
			rt.Fatal(err)
		}
		defer f.Close()
		row := 0
		for _, sheet := range f.GetSheetList() {
			for number := 2; number <= spec.MaxSheetRows && row < len(want); number, row = number+1, row+1 {
				for c, expected := range want[row] {
					at, _ := excelize.CoordinatesToCellName(c+1, number)
					got, err := f.GetCellValue(sheet, at, excelize.Options{RawCellValue: c != 4})
					if err != nil {
						rt.Fatal(err)
					}
					if c == 1 || c == 2 {
						serial, err := strconv.ParseFloat(got, 64)
						if err != nil {
							rt.Fatal(err)
						}
						got = time.UnixMilli(int64(math.Round((serial - epochDay) * daySeconds * 1000))).UTC().Format("2006-01-02T15:04:05.000")
						if c == 2 {
							expected = expected[:11] + "00:00:00.000"
						}
					}
					if got != expected {
						rt.Fatalf("%s!%s is %q, want %q", sheet, at, got, expected)
					}
				}
			}
		}
		if row != len(want) {
			rt.Fatalf("%d rows of %d", row, len(want))
		}
	})
}

// openpyxl shows dates as dates, links as links and names as titles.
func TestOpenpyxlReadsTypedCells(t *testing.T) {
	t.Parallel()
	python := ""
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import openpyxl").Run() == nil {
			python = name
			break
		}
	}
	if python == "" {
		t.Skip("openpyxl is not installed")
	}
	_, file := writeTyped(t, testSpec(), sheetOf("订单", orderColumns(), dataPages(orderRows(2), 2)...))
	name := filepath.Join(t.TempDir(), "out.xlsx")
	require.NoError(t, os.WriteFile(name, file, 0o600))
	out, err := exec.CommandContext(t.Context(), python, "-W", "error", "-c", `
import json, openpyxl, sys
ws = openpyxl.load_workbook(sys.argv[1])["订单"]
print(json.dumps([[str(c.value) for c in ws[3]], ws["A3"].hyperlink.target, ws["D3"].number_format, ws.print_title_rows,
  ws.freeze_panes, ws.auto_filter.ref, ws.page_setup.orientation, ws.sheet_properties.pageSetUpPr.fitToPage]))
`, name).CombinedOutput()
	require.NoError(t, err, string(out))
	require.JSONEq(t, `[["0010001", "2026-01-01 00:00:00", "2026-01-01 10:11:59", "1237.01", "False", "已付款", "mailto:c1@example.com",
		"第一行：请在工作日送货\n第二行：联系电话 138-0000-0000", "[{\"sku\":1}]"], "https://shop.example/orders/0010001", "#,##0.00",
		"$1:$1", "A2", "A1:I3", "landscape", true]`, string(out))
}

// LibreOffice opens the workbook and shows each cell as Excel does.
func TestLibreOfficeShowsTypedCells(t *testing.T) {
	eventstest.LongRunning(t)
	soffice, err := exec.LookPath("soffice")
	if err != nil {
		t.Skip("LibreOffice is not installed")
	}
	dir := t.TempDir()
	_, file := writeTyped(t, testSpec(), sheetOf("订单", orderColumns(), dataPages(orderRows(2), 2)...))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "book.xlsx"), file, 0o600))
	out, err := exec.CommandContext(t.Context(), soffice, "-env:UserInstallation=file://"+filepath.Join(dir, "profile"),
		"--headless", "--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76", "--outdir", dir,
		filepath.Join(dir, "book.xlsx")).CombinedOutput()
	require.NoError(t, err, string(out))
	text, err := os.ReadFile(filepath.Join(dir, "book.csv"))
	require.NoError(t, err)
	lines, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"0010001", "2026-01-01", "2026-01-01 10:11:59", "1,237.01", "FALSE", "已付款", "mailto:c1@example.com",
		"第一行：请在工作日送货\n第二行：联系电话 138-0000-0000", `[{"sku":1}]`}, lines[2])
}

// Excel holds some 200 number formats. Columns beyond them have the format of their type.
func TestAsManyFormatsAsExcelHolds(t *testing.T) {
	t.Parallel()
	var columns []events.Column
	var row []string
	for i := range 1000 {
		key := "c" + strconv.Itoa(i)
		columns = append(columns, events.Column{Key: key, Type: events.ColumnDate, Format: "yyyy" + strings.Repeat("/", i+1) + "mm"})
		row = append(row, `"`+key+`":"2026-01-02"`)
	}
	columns[3].Format = `"<&"` + "\x00yyyy"
	_, file := writeTyped(t, testSpec(), sheetOf("s", columns, dataPages([]string{"{" + strings.Join(row, ",") + "}"}, 1)...))
	require.LessOrEqual(t, bytes.Count(partOf(t, file, "xl/styles.xml"), []byte("<numFmt ")), maxFormats+4)
	f := open(t, file)
	for cell, want := range map[string]string{"A2": "2026/01", "B2": "2026//01", "ALL2": "2026-01-02"} {
		got, err := f.GetCellValue("s", cell)
		require.NoError(t, err)
		require.Equal(t, want, got, cell)
	}
}

// A sheet with more columns than a worksheet has is refused; one with all of them, mostly empty, is not slow.
func TestTypedColumnsOfAWorksheet(t *testing.T) {
	t.Parallel()
	columns := make([]events.Column, maxColumns+1)
	for i := range columns {
		columns[i].Key = "c" + strconv.Itoa(i)
	}
	data := make([]string, 2000)
	for i := range data {
		data[i] = fmt.Sprintf(`{"c%d":1,"c0":"a"}`, i*8)
	}
	_, _, err := tryTyped(t, testSpec(), sheetOf("s", columns, dataPages(data, 100)...))
	var many *encode.TooManyColumnsError
	require.ErrorAs(t, err, &many)
	_, file := writeTyped(t, testSpec(), sheetOf("s", columns[:maxColumns], dataPages(data, 100)...))
	require.Contains(t, string(partOf(t, file, sheetPath(1))), `<c r="A2001" t="inlineStr"><is><t>a</t></is></c>`)
}

// The longest links that a sheet holds take bounded memory: their part is compressed as it grows.
func TestLinksAreBounded(t *testing.T) {
	t.Parallel()
	var s sheetLinks
	r := rand.New(rand.NewPCG(1, 2))
	url := make([]byte, 2000)
	n, added := 0, true
	for ; added; n++ {
		for i := range url {
			url[i] = byte('a' + r.IntN(26))
		}
		var err error
		added, err = s.add(int32(n), 0, url, maxLinks)
		require.NoError(t, err)
	}
	require.Greater(t, n, 8000)
	require.Less(t, len(s.packed), maxLinkBytes+1<<20)
}
