package parquet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// pagesOf returns an Open that yields the pages.
func pagesOf(pages ...encode.Page) func() func(context.Context) (encode.Page, error) {
	return func() func(context.Context) (encode.Page, error) {
		i := 0
		return func(context.Context) (encode.Page, error) {
			if i == len(pages) {
				return encode.Page{}, io.EOF
			}
			i++
			return pages[i-1], nil
		}
	}
}

func page(number int, rows ...string) encode.Page {
	return encode.Page{Number: number, Rows: []byte("[" + strings.Join(rows, ",") + "]"), RowCount: len(rows)}
}

// cut cuts rows into pages.
func cut(rows []string, perPage int) (pages []encode.Page) {
	for len(rows) > 0 || len(pages) == 0 {
		n := min(perPage, len(rows))
		pages = append(pages, page(len(pages)+1, rows[:n]...))
		rows = rows[n:]
	}
	return pages
}

func sheetOf(columns []encode.Column, pages ...encode.Page) encode.Sheet {
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		panic(err)
	}
	return encode.Sheet{Columns: columns, Zones: encode.Zones{Display: shanghai}, Open: pagesOf(pages...)}
}

// names returns columns of type auto.
func names(names ...string) (columns []encode.Column) {
	for _, name := range names {
		columns = append(columns, encode.Column{Name: name, Title: name})
	}
	return columns
}

// declared returns a column that a request lists.
func declared(c events.Column) encode.Column {
	return encode.Column{Name: c.Key, Title: c.Title, Spec: &c}
}

// tryWrite writes a file and returns its name.
func tryWrite(t testing.TB, sheet encode.Sheet, parallel int) (encode.Result, string, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "rows.parquet"))
	require.NoError(t, err)
	defer f.Close()
	r, err := Format.Write(t.Context(), archive.Plain(f), encode.Document{Sheets: []encode.Sheet{sheet}, Parallel: parallel})
	return r, f.Name(), err
}

// write writes a file and opens it.
func write(t testing.TB, sheet encode.Sheet) (encode.Result, *parquet.File) {
	t.Helper()
	r, name, err := tryWrite(t, sheet, 2)
	require.NoError(t, err)
	return r, open(t, name)
}

func open(t testing.TB, name string) *parquet.File {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	require.NoError(t, err)
	file, err := parquet.OpenFile(f, info.Size())
	require.NoError(t, err)
	return file
}

// readAll returns the values of all rows.
func readAll(t testing.TB, file *parquet.File) (all [][]parquet.Value) {
	t.Helper()
	r := parquet.NewGenericReader[any](file)
	defer r.Close()
	batch := make([]parquet.Row, 100)
	for {
		n, err := r.ReadRows(batch)
		for _, row := range batch[:n] {
			all = append(all, row.Clone())
		}
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
	}
}

// show writes a value of any type.
func show(v parquet.Value) string {
	switch v.Kind() {
	case parquet.ByteArray:
		return fmt.Sprintf("%q", v.ByteArray())
	case parquet.Double:
		return fmt.Sprintf("%v", v.Double())
	}
	return v.String()
}

// The type of a column follows from its declared type and all its values. <null> is a value that does not fit.
func TestTypeOfAColumn(t *testing.T) {
	t.Parallel()
	const decimal2 = "int64 x (DECIMAL(18,2))"
	for name, c := range map[string]struct {
		column events.Column
		values string // JSON
		want   string // type
		cells  string
		misfit int64
	}{
		"integers":             {events.Column{}, `1 -2 0`, "int64 x (INT(64,true))", `1 -2 0`, 0},
		"integers, and none":   {events.Column{}, `1 null`, "int64 x (INT(64,true))", `1 <null>`, 0},
		"the largest integers": {events.Column{}, `9223372036854775807 -9223372036854775808`, "int64 x (INT(64,true))", `9223372036854775807 -9223372036854775808`, 0},
		"beyond 64 bits":       {events.Column{}, `1 9223372036854775808`, "binary x (STRING)", `"1" "9223372036854775808"`, 0},
		"long ids":             {events.Column{}, `1 12345678901234567891`, "binary x (STRING)", `"1" "12345678901234567891"`, 0},
		"an integer that no float64 holds, with a fraction": {events.Column{}, `9007199254740993 0.5`, "binary x (STRING)", `"9007199254740993" "0.5"`, 0},
		"fractions":             {events.Column{}, `1 0.1 1.50 2E3`, "double x", `1 0.1 1.5 2000`, 0},
		"a whole fraction":      {events.Column{}, `1 850.0`, "double x", `1 850`, 0},
		"minus zero":            {events.Column{}, `1 -0`, "double x", `1 -0`, 0},
		"the range of a double": {events.Column{}, `5e-324 1.7976931348623157e308 0e999`, "double x", `5e-324 1.7976931348623157e+308 0`, 0},
		"beyond a double":       {events.Column{}, `1 1e309`, "binary x (STRING)", `"1" "1e309"`, 0},
		"below a double":        {events.Column{}, `1 1e-400`, "binary x (STRING)", `"1" "1e-400"`, 0},
		"too exact":             {events.Column{}, `0.1 0.30000000000000003`, "binary x (STRING)", `"0.1" "0.30000000000000003"`, 0},
		"seventeen digits":      {events.Column{}, `0.30000000000000004`, "double x", `0.30000000000000004`, 0},
		"texts":                 {events.Column{}, `"" "=1+1" "\r\n😀"`, "binary x (STRING)", `"" "=1+1" "\r\n😀"`, 0},
		"texts of dates":        {events.Column{}, `"2026-01-02"`, "binary x (STRING)", `"2026-01-02"`, 0},
		"booleans":              {events.Column{}, `true false null`, "boolean x", `true false <null>`, 0},
		"nested":                {events.Column{}, `{"a":[1,"x"]} [] null`, "binary x (JSON)", `"{\"a\":[1,\"x\"]}" "[]" <null>`, 0},
		"mixed":                 {events.Column{}, `1.50 "a" true [1] null`, "binary x (STRING)", `"1.50" "a" "true" "[1]" <null>`, 0},
		"nothing":               {events.Column{}, `null`, "binary x (STRING)", `<null>`, 0},

		"text":                  {events.Column{Type: "text"}, `850.0 true "a" [1]`, "binary x (STRING)", `"850.0" "true" "a" "[1]"`, 0},
		"json":                  {events.Column{Type: "json"}, `1.50 true "a" [1] null`, "binary x (JSON)", `"1.50" "true" "\"a\"" "[1]" <null>`, 0},
		"number of integers":    {events.Column{Type: "number"}, `1 "2"`, "int64 x (INT(64,true))", `1 2`, 0},
		"number of fractions":   {events.Column{Type: "number"}, `1 "2.5"`, "double x", `1 2.5`, 0},
		"number that is none":   {events.Column{Type: "number"}, `1 "n/a" true`, "int64 x (INT(64,true))", `1 <null> <null>`, 2},
		"number, digits kept":   {events.Column{Type: "number"}, `12345678901234567891 "n/a"`, "binary x (STRING)", `"12345678901234567891" <null>`, 1},
		"number, none yet":      {events.Column{Type: "number"}, `null`, "double x", `<null>`, 0},
		"money":                 {events.Column{Type: "number", Format: "#,##0.00"}, `1 "2.5" -0.05 1E2 -0`, decimal2, `100 250 -5 10000 0`, 0},
		"the most money":        {events.Column{Type: "number", Format: "0.00"}, `9999999999999999.99 -9999999999999999.99`, decimal2, `999999999999999999 -999999999999999999`, 0},
		"too much money":        {events.Column{Type: "number", Format: "0.00"}, `10000000000000000 0.5`, "double x", `1e+16 0.5`, 0},
		"money, more decimals":  {events.Column{Type: "number", Format: "0.00"}, `0.125 1`, "double x", `0.125 1`, 0},
		"money, none yet":       {events.Column{Type: "number", Format: "0.00"}, `null`, decimal2, `<null>`, 0},
		"rates":                 {events.Column{Type: "number", Format: "0.0000"}, `0.1234`, "int64 x (DECIMAL(18,4))", `1234`, 0},
		"percent":               {events.Column{Type: "number", Format: "0.00%"}, `0.1234`, "double x", `0.1234`, 0},
		"number without format": {events.Column{Type: "number", Format: "#,##0"}, `7`, "int64 x (INT(64,true))", `7`, 0},
		"bool":                  {events.Column{Type: "bool"}, `true 0 "1" "yes" null`, "boolean x", `true false true <null> <null>`, 1},
		"dates":                 {events.Column{Type: "date"}, `"1970-01-02" "1969-12-31" "0001-01-01" "9999-12-31" "no"`, "int32 x (DATE)", `1 -1 -719162 2932896 <null>`, 1},
		"the day of a moment":   {events.Column{Type: "date"}, `"2026-01-01T20:00:00Z"`, "int32 x (DATE)", `20455`, 0}, // in Shanghai
		"moments":               {events.Column{Type: "datetime"}, `"1970-01-01T00:00:01.5Z" "1969-12-31T23:59:59.000001+00:00" "x"`, "int64 x (TIMESTAMP(isAdjustedToUTC=true,unit=MICROS))", `1500000 -999999 <null>`, 1},
		"finer than it holds":   {events.Column{Type: "datetime"}, `"1970-01-01T00:00:00.000001999Z"`, "int64 x (TIMESTAMP(isAdjustedToUTC=true,unit=MICROS))", `1`, 0},
		"times without a zone":  {events.Column{Type: "datetime"}, `"1970-01-01 00:00:01" null`, "int64 x (TIMESTAMP(isAdjustedToUTC=false,unit=MICROS))", `1000000 <null>`, 0},
		"times of both sorts":   {events.Column{Type: "datetime"}, `"1970-01-01 00:00:01" "1970-01-01T00:00:00Z"`, "int64 x (TIMESTAMP(isAdjustedToUTC=false,unit=MICROS))", `1000000 28800000000`, 0}, // what clocks show in Shanghai
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var data []string
			for v := range strings.FieldsSeq(c.values) {
				if v == `20:00:00Z"` || v == `00:00:01"` { // a blank in a time
					data[len(data)-1] = strings.TrimSuffix(data[len(data)-1], "}") + " " + v + "}"
					continue
				}
				data = append(data, `{"x":`+v+`}`)
			}
			c.column.Key = "x"
			column := declared(c.column)
			if c.column.Type == "" {
				column = names("x")[0]
			}
			r, file := write(t, sheetOf([]encode.Column{column}, cut(data, 2)...))
			require.Equal(t, "message rows {\n\toptional "+c.want+";\n}", file.Schema().String())
			var shown []string
			for _, row := range readAll(t, file) {
				shown = append(shown, show(row[0]))
			}
			require.Equal(t, c.cells, strings.Join(shown, " "))
			require.Equal(t, []int64{int64(len(data))}, r.Rows)
			misfits := int64(0)
			for _, w := range r.Warnings {
				require.Equal(t, cells.WarnCellType, w.Code)
				require.Contains(t, w.Message, "empty")
				misfits += w.Count
			}
			require.Equal(t, c.misfit, misfits)
		})
	}
}

// Columns keep their order and names, which the file needs to be different.
func TestSchema(t *testing.T) {
	t.Parallel()
	columns := names("z", "a", "订单.编号", "")
	for _, c := range []events.Column{{Key: "amount", Type: "number", Format: "0.00"}, {Key: "day", Type: "date"},
		{Key: "at", Type: "datetime"}, {Key: "a"}, {Key: "a_2"}, {Key: "a"}, {Key: "tags", Type: "json"}} {
		columns = append(columns, declared(c))
	}
	_, file := write(t, sheetOf(columns, page(1, `{"z":1,"a":"x","订单.编号":true,"":0.5,"amount":1,"day":"2026-01-02","at":"2026-01-02T00:00:00Z","a_2":1}`)))
	golden, err := os.ReadFile("testdata/schema.txt")
	require.NoError(t, err)
	require.Equal(t, string(golden), file.Schema().String()+"\n")
	require.Equal(t, "Sheaf", file.Metadata().CreatedBy)
	require.Empty(t, file.Metadata().KeyValueMetadata)
}

func TestUniqueNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"a", "a_3", "a_2", "column", "column_2", "b"}, uniqueNames([]string{"a", "a", "a_2", "", "", "b"}))
	same := uniqueNames(make([]string, maxColumns))
	require.Equal(t, fmt.Sprintf("column_%d", maxColumns), same[maxColumns-1])
}

// A file without rows has its columns, and one without columns can be opened: DuckDB refuses none.
func TestNoRows(t *testing.T) {
	t.Parallel()
	r, file := write(t, sheetOf(names("a", "b"), page(1)))
	require.Equal(t, []int64{0}, r.Rows)
	require.Equal(t, "message rows {\n\toptional binary a (STRING);\n\toptional binary b (STRING);\n}", file.Schema().String())
	require.Zero(t, file.NumRows())
	_, file = write(t, sheetOf(nil, page(1), page(2)))
	require.Equal(t, "message rows {\n\toptional binary column (STRING);\n}", file.Schema().String())

	header := page(1, `{"a":"A"}`)
	header.SkipFirst = true
	r, file = write(t, sheetOf(names("a"), header))
	require.Equal(t, []int64{0}, r.Rows)
	require.Zero(t, file.NumRows())
}

// mixedRows returns rows of eight columns.
func mixedRows(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"id":%d,"sn":"NO-%09d","name":"客户 %d","amount":%d.%02d,"paid":%t,"city":"c%d","at":"2026-01-%02d 10:%02d:%02d","note":null}`,
			i, i*7919%1_000_000_007, i%10_000, i%977, i%100, i%3 == 0, i%50, i%28+1, i%60, i%59)
	}
	return all
}

var mixedNames = []string{"id", "sn", "name", "amount", "paid", "city", "at", "note"}

// Pages, goroutines and runs leave no trace in the bytes.
func TestSameRowsSameBytes(t *testing.T) {
	t.Parallel()
	data := mixedRows(70_000)
	sum := func(perPage, parallel int) string {
		_, name, err := tryWrite(t, sheetOf(names(mixedNames...), cut(data, perPage)...), parallel)
		require.NoError(t, err)
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(b)
	}
	want := sum(1000, 1)
	for _, c := range [][2]int{{1000, 8}, {7, 2}, {70_000, 3}} {
		require.True(t, want == sum(c[0], c[1]), "pages of %d rows, %d goroutines", c[0], c[1])
	}
}

// Row groups end after 65,536 rows or with the row that makes 32 MiB, and are compressed.
func TestRowGroups(t *testing.T) {
	t.Parallel()
	data := make([]string, 2*groupRows+1)
	for i := range data {
		data[i] = fmt.Sprintf(`{"id":%d}`, i)
	}
	_, file := write(t, sheetOf(names("id", "none"), cut(data, 10_000)...))
	var counts []int64
	for _, g := range file.Metadata().RowGroups {
		counts = append(counts, g.NumRows)
		for _, c := range g.Columns {
			require.Equal(t, "ZSTD", c.MetaData.Codec.String())
		}
	}
	require.Equal(t, []int64{groupRows, groupRows, 1}, counts)
	all := readAll(t, file)
	require.Len(t, all, 2*groupRows+1)
	for i, row := range all {
		require.EqualValues(t, i, row[0].Int64())
	}

	long := `{"a":"` + strings.Repeat("x", 3<<20) + `"}`
	_, file = write(t, sheetOf(names("a"), cut([]string{long, long, long, long, long, long, long, long, long, long, long, long}, 5)...))
	counts = nil
	for _, g := range file.Metadata().RowGroups {
		counts = append(counts, g.NumRows)
	}
	require.Equal(t, []int64{11, 1}, counts)
}

// Columns of few different texts have a dictionary, and lose it when the texts differ after all.
func TestDictionary(t *testing.T) {
	t.Parallel()
	var data []string
	for i := range groupRows {
		v := i % 10
		if i > 2*chunkRows {
			v = i
		}
		data = append(data, fmt.Sprintf(`{"few":"city %d","many":"%060d","later":"%060d"}`, i%10, i, v))
	}
	_, file := write(t, sheetOf(names("few", "many", "later"), cut(data, 1000)...))
	for i, row := range readAll(t, file) {
		require.Equal(t, fmt.Sprintf("city %d", i%10), string(row[0].ByteArray()))
		require.Equal(t, fmt.Sprintf("%060d", i), string(row[1].ByteArray()))
		if i > 2*chunkRows {
			require.Equal(t, fmt.Sprintf("%060d", i), string(row[2].ByteArray()))
		}
	}
	uses := func(column int) string {
		return fmt.Sprint(file.Metadata().RowGroups[0].Columns[column].MetaData.Encoding)
	}
	require.Contains(t, uses(0), "RLE_DICTIONARY")
	require.NotContains(t, uses(1), "RLE_DICTIONARY")
}

func TestErrors(t *testing.T) {
	t.Parallel()
	failsWith := func(want error, sheet encode.Sheet) {
		t.Helper()
		_, _, err := tryWrite(t, sheet, 2)
		require.ErrorIs(t, err, want)
	}
	failsWith(encode.ErrNoPages, sheetOf(names("a")))
	failsWith(encode.ErrPageOrder, sheetOf(names("a"), page(2, `{"a":1}`)))
	failsWith(encode.ErrPageOrder, sheetOf(names("a"), page(1, `{"a":1}`), page(3, `{"a":1}`)))
	failsWith(encode.ErrNoHeader, sheetOf(nil, page(1), page(2, `{"a":1}`)))

	wrong := page(1, `{"a":1}`)
	wrong.RowCount = 2
	_, _, err := tryWrite(t, sheetOf(names("a"), wrong), 2)
	var count *encode.RowsError
	require.ErrorAs(t, err, &count)
	require.Equal(t, encode.RowsError{Page: 1, Want: 2, Got: 1}, *count)

	_, _, err = tryWrite(t, sheetOf(make([]encode.Column, maxColumns+1), page(1)), 2)
	var columns *encode.TooManyColumnsError
	require.ErrorAs(t, err, &columns)

	chosen := sheetOf([]encode.Column{declared(events.Column{Key: "b"})}, page(1, `{"a":1}`))
	chosen.Chosen = true
	_, _, err = tryWrite(t, chosen, 2)
	var none *encode.NoValuesError
	require.ErrorAs(t, err, &none)
	require.Equal(t, []string{"b"}, none.Keys)

	// A page that cannot be read, in each of the two readings.
	gone := errors.New("page 2 is gone")
	for reading := range int32(2) {
		var opened atomic.Int32
		sheet := sheetOf(names("a"), page(1, `{"a":1}`))
		all := sheet.Open
		sheet.Open = func() func(context.Context) (encode.Page, error) {
			next, this := all(), opened.Add(1)-1
			return func(ctx context.Context) (encode.Page, error) {
				p, err := next(ctx)
				if errors.Is(err, io.EOF) && this == reading {
					err = gone
				}
				return p, err
			}
		}
		failsWith(gone, sheet)
	}

	// The disk is full.
	f, err := os.Create(filepath.Join(t.TempDir(), "rows.parquet"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Format.Write(t.Context(), archive.Plain(f), encode.Document{Sheets: []encode.Sheet{
		sheetOf(names(mixedNames...), cut(mixedRows(100), 1000)...)}})
	require.ErrorIs(t, err, os.ErrClosed)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	_, err = Format.Write(ctx, nil, encode.Document{Sheets: []encode.Sheet{sheetOf(names("a"), page(1, `{"a":1}`))}})
	require.ErrorIs(t, err, gone)
}

// Every page is released, in each of the two readings.
func TestPagesAreReleased(t *testing.T) {
	t.Parallel()
	var released atomic.Int32
	pages := cut(mixedRows(100), 10)
	for i := range pages {
		pages[i].Release = func() { released.Add(1) }
	}
	write(t, sheetOf(names(mixedNames...), pages...))
	require.EqualValues(t, 2*len(pages), released.Load())
}

// Memory is bounded, whatever the rows.
func TestMemoryIsBounded(t *testing.T) { //nolint:paralleltest // it measures the heap
	const maxBytes = 144 << 20
	for name, c := range map[string]struct {
		columns []string
		row     string
		rows    int
	}{
		"mixed":          {mixedNames, "", 100_000},
		"wide":           {wideNames(2000), wideRow(2000), 3000},
		"widest, sparse": {wideNames(maxColumns), `{"c1":1}`, 1000},
		"long texts":     {[]string{"a"}, `{"a":"` + strings.Repeat("长", 100_000) + `"}`, 300},
	} {
		if len(c.columns) > 100 && !eventstest.Full {
			continue // takes long
		}
		row := func(i int) string { return c.row }
		if c.row == "" {
			some := mixedRows(10_000)
			row = func(i int) string { return some[i%len(some)] }
		}
		sheet := sheetOf(names(c.columns...))
		perPage := min(1000, c.rows/50)
		sheet.Open = func() func(context.Context) (encode.Page, error) {
			n := 0
			return func(context.Context) (encode.Page, error) {
				if n == c.rows/perPage {
					return encode.Page{}, io.EOF
				}
				all := make([]string, perPage)
				for i := range all {
					all[i] = row(n*perPage + i)
				}
				n++
				return page(n, all...), nil
			}
		}
		runtime.GC()
		debug.FreeOSMemory()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		done, peak := make(chan struct{}), make(chan uint64)
		go func() {
			most := uint64(0)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					var now runtime.MemStats
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapAlloc)
				case <-done:
					peak <- most
					return
				}
			}
		}()
		old := debug.SetGCPercent(20)
		_, _, err := tryWrite(t, sheet, 2)
		debug.SetGCPercent(old)
		close(done)
		grown := int64(<-peak) - int64(before.HeapAlloc)
		require.NoError(t, err)
		t.Logf("%s: %d MiB", name, grown>>20)
		require.Less(t, grown, int64(maxBytes), name)
	}
}

func wideNames(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("c%d", i))
	}
	return all
}

func wideRow(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"c%d":%d.5`, i, i)
	}
	return "{" + b.String()[1:] + "}"
}
