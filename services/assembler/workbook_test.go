package assembler

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/events/rows"
)

// pagesOf returns a next that yields the given pages.
func pagesOf(pages ...Page) func(context.Context) (Page, error) {
	i := 0
	return func(context.Context) (Page, error) {
		if i == len(pages) {
			return Page{}, io.EOF
		}
		i++
		return pages[i-1], nil
	}
}

// cutPages puts header and rows on pages of at most perPage data rows, each
// with the header first, as sources send them.
func cutPages(header string, data []string, perPage int) []Page {
	var pages []Page
	for n := 1; n == 1 || len(data) > 0; n++ {
		k := min(perPage, len(data))
		all := append([]string{header}, data[:k]...)
		data = data[k:]
		pages = append(pages, Page{
			Number: n, Rows: []byte("[" + strings.Join(all, ",") + "]"), RowCount: len(all), SkipFirst: n > 1,
		})
	}
	return pages
}

func testSpec() Spec {
	return Spec{
		Title: "订单 & <Orders>", Creator: "u-1",
		Created:   time.Unix(1625106204, 0),
		EntryName: "订单-1.XLSX",
	}
}

// write writes a workbook and returns the zip and the workbook in it.
func write(t testing.TB, spec Spec, pages ...Page) (Result, []byte, []byte) {
	t.Helper()
	for _, p := range pages {
		_, err := rows.Check(p.Rows, rows.Limits{})
		require.NoError(t, err)
	}
	r, file, err := tryWrite(t, spec, pagesOf(pages...))
	require.NoError(t, err)
	require.EqualValues(t, len(file), r.Size)
	require.Equal(t, sha256.Sum256(file), r.Sha256)
	return r, file, workbookIn(t, file)
}

func tryWrite(t testing.TB, spec Spec, next func(context.Context) (Page, error)) (Result, []byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
	require.NoError(t, err)
	defer f.Close()
	r, err := WriteWorkbook(t.Context(), f, spec, next)
	if err != nil {
		return r, nil, err
	}
	file, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	return r, file, nil
}

// workbookIn returns the one entry of the outer zip.
func workbookIn(t testing.TB, file []byte) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	require.Len(t, z.File, 1)
	require.EqualValues(t, zip.Store, z.File[0].Method)
	return entry(t, z, z.File[0].Name)
}

func entry(t testing.TB, z *zip.Reader, name string) []byte {
	t.Helper()
	f, err := z.Open(name)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

// partOf returns a part of a workbook.
func partOf(t testing.TB, xlsx []byte, name string) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(xlsx), int64(len(xlsx)))
	require.NoError(t, err)
	return entry(t, z, name)
}

func open(t testing.TB, xlsx []byte) *excelize.File {
	t.Helper()
	f, err := excelize.OpenReader(bytes.NewReader(xlsx))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func cells(t testing.TB, f *excelize.File, sheet string) [][]string {
	t.Helper()
	got, err := f.GetRows(sheet, excelize.Options{RawCellValue: true})
	require.NoError(t, err)
	return got
}

func TestWorkbookReadsBack(t *testing.T) {
	r, _, xlsx := write(t, testSpec(), cutPages(
		`{"id":"编号","name":"姓名","ok":"Active"}`,
		[]string{
			`{"id":1,"name":"=1+1","ok":true}`,
			`{"ok":false,"name":"李雷 😀","id":12345678901234567890}`,
			`{"id":null,"name":"a&b<c>"}`,
			`{}`,
			`{"name":{"a": [1, 2]}}`,
		}, 2)...)
	require.EqualValues(t, 5, r.Rows)
	require.Equal(t, 1, r.Sheets)
	require.Empty(t, r.Warnings)
	f := open(t, xlsx)
	require.Equal(t, []string{"Sheet1"}, f.GetSheetList())
	require.Equal(t, [][]string{
		{"编号", "姓名", "Active"},
		{"1", "=1+1", "1"},
		{"12345678901234567890", "李雷 😀", "0"},
		{"", "a&b<c>"},
		nil,
		{"", `{"a":[1,2]}`},
	}, cells(t, f, "Sheet1"))
	for cell, want := range map[string]excelize.CellType{
		"A2": excelize.CellTypeUnset, // a number
		"B2": excelize.CellTypeInlineString,
		"C2": excelize.CellTypeBool,
		"A3": excelize.CellTypeInlineString,
	} {
		got, err := f.GetCellType("Sheet1", cell)
		require.NoError(t, err)
		require.Equal(t, want, got, cell)
	}
	formula, err := f.GetCellFormula("Sheet1", "B2")
	require.NoError(t, err)
	require.Empty(t, formula)

	props, err := f.GetDocProps()
	require.NoError(t, err)
	require.Equal(t, "订单 & <Orders>", props.Title)
	require.Equal(t, "u-1", props.Creator)
	require.Equal(t, "2021-07-01T02:23:24Z", props.Created)
	require.Equal(t, "2021-07-01T02:23:24Z", props.Modified)
	dimension, err := f.GetSheetDimension("Sheet1")
	require.NoError(t, err)
	require.Equal(t, "A1:C6", dimension)
	panes, err := f.GetPanes("Sheet1")
	require.NoError(t, err)
	require.True(t, panes.Freeze)
	require.Equal(t, 1, panes.YSplit)
	style, err := f.GetCellStyle("Sheet1", "B1")
	require.NoError(t, err)
	bold, err := f.GetStyle(style)
	require.NoError(t, err)
	require.True(t, bold.Font.Bold)
	require.Contains(t, string(partOf(t, xlsx, "xl/worksheets/sheet1.xml")), `<autoFilter ref="$A$1:$C$6">`)
	require.Contains(t, string(partOf(t, xlsx, "xl/workbook.xml")), `Sheet1&#39;!$A$1:$C$6`)
}

var _ = json.Marshal
var _ = fmt.Sprint
