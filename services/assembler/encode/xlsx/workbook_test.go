package xlsx

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"go.uber.org/goleak"

	"sheaf/events/eventstest"
	"sheaf/events/rows"

	"sheaf/services/assembler/encode"
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

// cutPages splits data into pages of at most perPage rows. Each page begins with the header, as sources send
// them.
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
		Created: time.Unix(1625106204, 0),
	}
}

// write writes a workbook and returns the zip and the workbook in it.
func write(t testing.TB, spec Spec, pages ...Page) (wrote, []byte, []byte) {
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

func tryWrite(t testing.TB, spec Spec, next func(context.Context) (Page, error)) (wrote, []byte, error) {
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

func cellsOf(t testing.TB, f *excelize.File, sheet string) [][]string {
	t.Helper()
	got, err := f.GetRows(sheet, excelize.Options{RawCellValue: true})
	require.NoError(t, err)
	return got
}

func TestWorkbookReadsBack(t *testing.T) {
	t.Parallel()
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
	require.Equal(t, []string{WarnNumberAsText}, codes(r.Warnings))
	f := open(t, xlsx)
	require.Equal(t, []string{"Sheet1"}, f.GetSheetList())
	require.Equal(t, [][]string{
		{"编号", "姓名", "Active"},
		{"1", "=1+1", "1"},
		{"12345678901234567890", "李雷 😀", "0"},
		{"", "a&b<c>"},
		nil,
		{"", `{"a":[1,2]}`},
	}, cellsOf(t, f, "Sheet1"))
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

func TestPagesWithoutRows(t *testing.T) {
	t.Parallel()
	r, _, xlsx := write(t, testSpec(), Page{Number: 1, Rows: []byte(" [ ] ")})
	require.Zero(t, r.Rows)
	require.Equal(t, 1, r.Sheets)
	require.Empty(t, cellsOf(t, open(t, xlsx), "Sheet1"))

	// Empty pages in between and pages with only a header change nothing.
	page := func(n int, rows string) Page { return Page{Number: n, Rows: []byte(rows), SkipFirst: n > 1} }
	r, file, xlsx := write(t, testSpec(), page(1, `[{"a":"A"}]`), page(2, `[]`),
		page(3, `[{"a":"A"},{"a":1}]`), page(4, `[{"a":"A"}]`))
	require.EqualValues(t, 1, r.Rows)
	require.Equal(t, [][]string{{"A"}, {"1"}}, cellsOf(t, open(t, xlsx), "Sheet1"))
	_, same, _ := write(t, testSpec(), page(1, `[{"a":"A"},{"a":1}]`))
	require.Equal(t, same, file)

	r, _, xlsx = write(t, testSpec(), page(1, `[{"a":"A"}]`))
	require.Zero(t, r.Rows)
	require.Equal(t, [][]string{{"A"}}, cellsOf(t, open(t, xlsx), "Sheet1"))
}

func TestFirstRowOfALaterPageIsDataUnlessSkipFirst(t *testing.T) {
	t.Parallel()
	_, _, xlsx := write(t, testSpec(),
		Page{Number: 1, Rows: []byte(`[{"a":"A"},{"a":1}]`), SkipFirst: true},
		Page{Number: 2, Rows: []byte(`[{"a":2},{"a":3}]`)},
		Page{Number: 3, Rows: []byte(`[{"a":"A"},{"a":4}]`), SkipFirst: true})
	require.Equal(t, [][]string{{"A"}, {"1"}, {"2"}, {"3"}, {"4"}}, cellsOf(t, open(t, xlsx), "Sheet1"))
}

func TestWithColumnsEveryFirstRowIsDataUnlessSkipFirst(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.Columns = []encode.Column{{Name: "a", Title: "A"}, {Name: "b", Title: "B"}}
	r, _, xlsx := write(t, spec,
		Page{Number: 1, Rows: []byte(`[{"a":1},{"a":2}]`)},
		Page{Number: 2, Rows: []byte(`[{"a":"A","b":"B"},{"b":3}]`), SkipFirst: true},
		Page{Number: 3, Rows: []byte(`[{"b":4}]`)})
	require.Equal(t, [][]string{{"A", "B"}, {"1"}, {"2"}, {"", "3"}, {"", "4"}}, cellsOf(t, open(t, xlsx), "Sheet1"))
	require.EqualValues(t, 4, r.Rows)
}

func TestPagesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	page := func(n, count int, rows string) Page {
		return Page{Number: n, Rows: []byte(rows), RowCount: count}
	}
	_, _, err := tryWrite(t, testSpec(), pagesOf())
	require.ErrorIs(t, err, encode.ErrNoPages)
	_, _, err = tryWrite(t, testSpec(), pagesOf(page(2, 1, `[{"a":1}]`)))
	require.ErrorIs(t, err, encode.ErrPageOrder)
	_, _, err = tryWrite(t, testSpec(), pagesOf(page(1, 1, `[{"a":1}]`), page(3, 1, `[{"a":1}]`)))
	require.ErrorIs(t, err, encode.ErrPageOrder)
	_, _, err = tryWrite(t, testSpec(), pagesOf(page(1, 0, `[]`), page(2, 1, `[{"a":1}]`)))
	require.ErrorIs(t, err, encode.ErrNoHeader)

	var wrong *encode.RowsError
	for _, count := range []int{1, 3} {
		_, _, err = tryWrite(t, testSpec(),
			pagesOf(page(1, 1, `[{"a":1}]`), page(2, count, `[{"a":1},{"a":2}]`)))
		require.ErrorAs(t, err, &wrong)
		require.Equal(t, encode.RowsError{Page: 2, Want: count, Got: 2}, *wrong)
	}

	gone := errors.New("page 2 is gone")
	first := true
	_, _, err = tryWrite(t, testSpec(), func(context.Context) (Page, error) {
		if first {
			first = false
			return page(1, 2, `[{"a":"A"},{"a":1}]`), nil
		}
		return Page{}, gone
	})
	require.ErrorIs(t, err, gone)
	_, _, err = tryWrite(t, testSpec(), func(context.Context) (Page, error) { return Page{}, gone })
	require.ErrorIs(t, err, gone)
}

func TestAsManyColumnsAsAWorksheetHas(t *testing.T) {
	t.Parallel()
	wide := func(columns int) Page {
		var title, row []string
		for i := range columns {
			title = append(title, fmt.Sprintf(`"c%d":"T%d"`, i, i))
			row = append(row, fmt.Sprintf(`"c%d":%d`, columns-1-i, i))
		}
		return Page{Number: 1, Rows: []byte(`[{` + strings.Join(title, ",") + `},{` + strings.Join(row, ",") +
			`}]`)}
	}
	_, _, xlsx := write(t, testSpec(), wide(maxColumns))
	f := open(t, xlsx)
	for cell, want := range map[string]string{"A1": "T0", "XFD1": "T16383", "XFD2": "0", "A2": "16383"} {
		got, err := f.GetCellValue("Sheet1", cell)
		require.NoError(t, err)
		require.Equal(t, want, got, cell)
	}
	_, _, err := tryWrite(t, testSpec(), pagesOf(wide(maxColumns+1)))
	var columns *encode.TooManyColumnsError
	require.ErrorAs(t, err, &columns)
	require.Equal(t, maxColumns+1, columns.Columns)
}

func TestSheetsSplitByRows(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 4
	for n, want := range map[int][]int{0: {0}, 3: {3}, 4: {3, 1}, 6: {3, 3}, 7: {3, 3, 1}} {
		var data []string
		for i := range n {
			data = append(data, fmt.Sprintf(`{"a":%d}`, i))
		}
		r, _, xlsx := write(t, spec, cutPages(`{"a":"A"}`, data, 2)...)
		require.EqualValues(t, n, r.Rows)
		require.Equal(t, len(want), r.Sheets)
		f := open(t, xlsx)
		next := 0
		for i, k := range want {
			name := fmt.Sprintf("Sheet%d", i+1)
			got := cellsOf(t, f, name)
			require.Len(t, got, k+1)
			require.Equal(t, []string{"A"}, got[0])
			for _, row := range got[1:] {
				require.Equal(t, []string{fmt.Sprint(next)}, row)
				next++
			}
			dimension, err := f.GetSheetDimension(name)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("A1:A%d", k+1), dimension)
			panes, err := f.GetPanes(name)
			require.NoError(t, err)
			require.True(t, panes.Freeze)
		}
		if len(want) == 1 {
			require.Empty(t, r.Warnings)
			continue
		}
		require.Len(t, r.Warnings, 1)
		require.Equal(t, WarnSheetSplit, r.Warnings[0].Code)
		require.EqualValues(t, len(want), r.Warnings[0].Count)
	}
}

func TestSheetSplitsAfterExcelsLastRow(t *testing.T) {
	t.Parallel()
	eventstest.LongRunning(t) // a million rows
	// One page with one row more than a sheet holds.
	page := append([]byte(`[{"a":"A"}`), bytes.Repeat([]byte(`,{"a":7}`), maxRows)...)
	r, _, err := tryWrite(t, testSpec(), pagesOf(Page{Number: 1, Rows: append(page, ']')}))
	require.NoError(t, err)
	require.EqualValues(t, maxRows, r.Rows)
	require.Equal(t, 2, r.Sheets)
}

// Rows of about a kilobyte and a limit far above a chunk, so that sheets end amid batches in flight, several
// times.
func TestSheetsSplitBySize(t *testing.T) {
	t.Parallel()
	var data []string
	for i := range 6000 {
		data = append(data, fmt.Sprintf(`{"a":%d,"b":"%s","z":1}`, i, strings.Repeat("x", 700+i%500)))
	}
	spec := testSpec()
	spec.MaxSheetXML = 2_000_000
	var first []byte
	for _, perPage := range []int{1, 20, 1000, 6000} {
		for _, parallel := range []int{1, 2, 8} {
			spec.Parallel = parallel
			r, file, xlsx := write(t, spec, cutPages(`{"a":"A","b":"B"}`, data, perPage)...)
			require.EqualValues(t, 6000, r.Rows)
			require.Equal(t, 4, r.Sheets)
			if first == nil {
				first = file
				next := 0
				for i := 1; i <= r.Sheets; i++ {
					size := len(partOf(t, xlsx, sheetPath(i)))
					require.Less(t, size, 2_000_000+2000)
					if i < r.Sheets {
						require.Greater(t, size, 2_000_000)
					}
					for _, row := range cellsOf(t, open(t, xlsx), sheetName(i))[1:] {
						require.Equal(t, fmt.Sprint(next), row[0])
						next++
					}
				}
				require.Equal(t, 6000, next)
			}
			require.True(t, bytes.Equal(first, file), "%d rows a page, parallel %d", perPage, parallel)
			require.Len(t, r.Warnings, 2)
			require.EqualValues(t, 6000, r.Warnings[1].Count, "each unknown value is counted once")
		}
	}
}

func TestSameRowsSameBytes(t *testing.T) {
	t.Parallel()
	data := benchRows(5000)
	var first []byte
	for _, perPage := range []int{1, 20, 1000, 5000} {
		for _, parallel := range []int{1, 2, 8} {
			spec := testSpec()
			spec.Parallel = parallel
			_, file, _ := write(t, spec, cutPages(benchHeader, data, perPage)...)
			if first == nil {
				first = file
			}
			require.True(t, bytes.Equal(first, file), "%d rows a page, parallel %d", perPage, parallel)
		}
	}
}

// A page's bytes may be reused from Release on, also if its rows were re-encoded because a sheet ended before
// them.
func TestPagesAreReleasedOnceTheyAreRead(t *testing.T) {
	t.Parallel()
	data := benchRows(6000)
	for _, size := range []int64{0, 300_000} {
		spec := testSpec()
		spec.MaxSheetXML = size
		_, want, _ := write(t, spec, cutPages(benchHeader, data, 100)...)
		var released atomic.Int64
		pages := cutPages(benchHeader, data, 100)
		for i := range pages {
			page := pages[i].Rows
			pages[i].Release = func() {
				released.Add(1)
				clear(page)
			}
		}
		_, file, err := tryWrite(t, spec, pagesOf(pages...))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, file))
		require.EqualValues(t, len(pages), released.Load())
	}
}

func TestUnknownColumnsAreCounted(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("长", 200)
	for _, perPage := range []int{1, 3} {
		r, _, _ := write(t, testSpec(), cutPages(`{"a":"A"}`, []string{
			`{"a":1}`, `{"` + long + `":1,"a":2}`, `{"y":1,"z":2}`,
		}, perPage)...)
		require.Len(t, r.Warnings, 1)
		w := r.Warnings[0]
		require.Equal(t, WarnColumnUnknown, w.Code)
		require.EqualValues(t, 3, w.Count)
		require.Equal(t, long[:300]+"…", w.First)
		require.Contains(t, w.Message, "data row 2")
	}
}

func TestTitlesBeyondACellAreCutOnce(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 2
	r, _, _ := write(t, spec,
		cutPages(`{"a":"A","b":"`+strings.Repeat("x", 40000)+`"}`, []string{`{}`, `{}`}, 5)...)
	require.Equal(t, WarnCellCut, r.Warnings[0].Code)
	require.EqualValues(t, 1, r.Warnings[0].Count)
	require.Equal(t, "Sheet1!B1", r.Warnings[0].First)
}

func TestCancelEndsEverything(t *testing.T) {
	page := cutPages(benchHeader, benchRows(1000), 1000)[0]
	for _, after := range []int{1, 2, 40} {
		f, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err = WriteWorkbook(ctx, f, testSpec(), func(ctx context.Context) (Page, error) {
			if n++; n > after {
				cancel()
				<-ctx.Done()
				return Page{}, context.Cause(ctx)
			}
			return Page{Number: n, Rows: page.Rows, SkipFirst: true}, nil
		})
		cancel()
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, goleak.Find(eventstest.OutlivesServer()), "goroutines are left")
		require.NoError(t, f.Close())
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	pages := cutPages(benchHeader, benchRows(20_000), 500)
	_, err = WriteWorkbook(t.Context(), f, testSpec(), pagesOf(pages...))
	require.ErrorIs(t, err, os.ErrClosed)
	require.NoError(t, goleak.Find(eventstest.OutlivesServer()), "goroutines are left")
}

// peakHeap runs do and returns the growth of the heap at its peak.
func peakHeap(do func()) uint64 {
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	// The collector allows as much garbage as there is live memory, which may stem from earlier tests.
	if left := float64(before.HeapAlloc); left > 16<<20 {
		defer debug.SetGCPercent(debug.SetGCPercent(max(10, int(100*(16<<20)/left))))
	}
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var highest uint64
		for {
			select {
			case <-stop:
				peak <- highest
				return
			case <-time.After(2 * time.Millisecond):
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				highest = max(highest, now.HeapInuse)
			}
		}
	}()
	do()
	close(stop)
	if highest := <-peak; highest > before.HeapInuse {
		return highest - before.HeapInuse
	}
	return 0
}

func TestMemoryIsBounded(t *testing.T) { // not parallel: it measures the heap of the process
	eventstest.LongRunning(t) // hundreds of thousands of rows
	page := cutPages(benchHeader, benchRows(1000), 1000)[0]
	spec := testSpec()
	spec.Parallel = 2
	repeat := func(rows []byte, times int) func() {
		return func() {
			f, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
			require.NoError(t, err)
			defer f.Close()
			n := 0
			_, err = WriteWorkbook(t.Context(), f, spec, func(context.Context) (Page, error) {
				if n++; n > times {
					return Page{}, io.EOF
				}
				return Page{Number: n, Rows: bytes.Clone(rows), SkipFirst: true}, nil // a fresh copy, as if read
			})
			require.NoError(t, err)
		}
	}
	const limit = 64 << 20
	many := peakHeap(repeat(page.Rows, 200))
	t.Logf("200,000 rows: %d MiB", many>>20)
	require.Less(t, many, uint64(limit))

	// One row of 48 MiB, which makes 240 MiB of XML.
	wide := []byte(`[{"c0":"0"`)
	for i := 1; i < 1600; i++ {
		wide = fmt.Appendf(wide, `,"c%d":"%d"`, i, i)
	}
	wide = append(wide, `},{"c0":0`...)
	text := strings.Repeat("&", 31_000)
	for i := 1; i < 1600; i++ {
		wide = fmt.Appendf(wide, `,"c%d":"%s"`, i, text)
	}
	wide = append(wide, `}]`...)
	giant := peakHeap(repeat(wide, 1))
	t.Logf("a row of %d MiB: %d MiB", len(wide)>>20, giant>>20)
	bound := uint64(len(wide) + limit)
	if raceDetector {
		bound *= 2 // the race detector slows the collector more than the writer
	}
	require.Less(t, giant, bound)
}

func TestOpenpyxlReadsIt(t *testing.T) {
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
	spec := testSpec()
	spec.MaxSheetRows = 4
	_, _, xlsx := write(t, spec, cutPages(`{"a":"甲","b":"B"}`, []string{
		`{"a":1.5,"b":"=1+1"}`, `{"a":true}`, `{"b":"中文"}`, `{"a":1e5,"b":12345678901234567890}`,
	}, 2)...)
	name := filepath.Join(t.TempDir(), "out.xlsx")
	require.NoError(t, os.WriteFile(name, xlsx, 0o600))
	for _, readOnly := range []string{"False", "True"} {
		out, err := exec.Command(python, "-W", "error", "-c", `
import json, openpyxl, sys
wb = openpyxl.load_workbook(sys.argv[1], read_only=`+readOnly+`)
assert `+readOnly+` or [bool(wb["Sheet1"][c].quotePrefix) for c in ("A1", "B2", "B4")] == [False, True, False]
print(json.dumps([[ws.title, ws.max_row, ws.max_column, list(ws.values)] for ws in wb], ensure_ascii=False))
`, name).CombinedOutput()
		require.NoError(t, err, string(out))
		require.JSONEq(t, `[
			["Sheet1", 4, 2, [["甲","B"],[1.5,"=1+1"],[true,null],[null,"中文"]]],
			["Sheet2", 2, 2, [["甲","B"],[100000.0,"12345678901234567890"]]]
		]`, string(out))
	}
}
