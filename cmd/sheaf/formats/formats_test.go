package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/services/assembler"
)

// columns are typed, renamed, in another order, and one of them is an enumeration.
const columns = `,"columns":[{"key":"no","title":"订单号","type":"text"},{"key":"status","title":"状态","map":{"0":"新建","1":"已付","*":"其他"}},
	{"key":"at","title":"下单日","type":"date"},{"key":"user.name","title":"姓名"},{"key":"amount","type":"number"}]`

// wantColumns returns the cells of row i, from 0, in those columns. A day is that of Shanghai.
func wantColumns(i int) []string {
	status := map[int]string{0: "新建", 1: "已付"}[i%4]
	if status == "" {
		status = "其他"
	}
	name := fmt.Sprintf("李雷 %d", i)
	if i%3 == 2 {
		name = ""
	}
	day := time.Date(2026, 1, i%28+2, 0, 0, 0, 0, time.UTC).Format(time.DateOnly) // 23:30Z is the next day there
	return []string{fmt.Sprint(900_000_000_000_000_000 + i), status, day, name, fmt.Sprintf("%d.5", i)}
}

const zone = `"timezone":"Asia/Shanghai"`

var titles = []string{"订单号", "状态", "下单日", "姓名", "amount"}

func wantRows(n int) (rows [][]string) {
	for i := range n {
		rows = append(rows, wantColumns(i))
	}
	return rows
}

// Each format holds every row of the source in order, with the columns of the request. It has the same bytes
// alone and in a zip with all others.
func TestEachFormatHasEveryRow(t *testing.T) {
	t.Parallel()
	const n = 130
	s, src := startSheaf(t), orders(t, n)
	var names, files []string
	for _, f := range assembler.Formats() {
		names, files = append(names, strings.ToLower(f.Name)), append(files, "订单"+f.Ext)
	}
	zip := s.succeed(t, "http", src.body(strings.Join(names, ","), columns+`,"options":{`+zone+`}`))
	require.EqualValues(t, n, zip.Rows)
	inZip := zip.entries(t)
	require.ElementsMatch(t, files, slices.Collect(maps.Keys(inZip)))
	for _, c := range zip.Files[0].Contents {
		require.EqualValues(t, n, c.Rows, c.Name)
	}
	objects := func(t testing.TB, rows []json.RawMessage) {
		require.Len(t, rows, n)
		for i, row := range rows {
			names, values := object(t, row)
			want := wantColumns(i)
			require.Equal(t, []string{"no", "status", "at", "user.name", "amount"}, names)
			name := fmt.Sprintf("%q", want[3])
			if want[3] == "" {
				name = "null"
			}
			require.Equal(t, []string{`"` + want[0] + `"`, `"` + want[1] + `"`, `"` + want[2] + `"`, name, want[4]}, values)
		}
	}
	checks := map[string]func(testing.TB, []byte){
		"xlsx": func(t testing.TB, data []byte) {
			require.Equal(t, append([][]string{titles}, wantRows(n)...), readXLSX(t, data, 0))
		},
		"csv": func(t testing.TB, data []byte) {
			require.True(t, strings.HasPrefix(string(data), "\ufeff"))
			require.Equal(t, append([][]string{titles}, wantRows(n)...), readCSV(t, data, ','))
		},
		"tsv": func(t testing.TB, data []byte) {
			require.False(t, strings.HasPrefix(string(data), "\ufeff"))
			require.Equal(t, append([][]string{titles}, wantRows(n)...), readCSV(t, data, '\t'))
		},
		"ndjson": func(t testing.TB, data []byte) { objects(t, readNDJSON(t, data)) },
		"json": func(t testing.TB, data []byte) {
			var rows []json.RawMessage
			require.NoError(t, json.Unmarshal(data, &rows))
			objects(t, rows)
		},
		"parquet": func(t testing.TB, data []byte) {
			names, rows := readParquet(t, data)
			require.Equal(t, []string{"no", "status", "at", "user.name", "amount"}, names)
			for i, row := range rows {
				want := wantColumns(i)
				day, err := time.Parse(time.DateOnly, want[2])
				require.NoError(t, err)
				want[2] = fmt.Sprint(day.Unix() / 86_400) // DATE is a number of days
				require.Equal(t, want, row)
			}
			require.Len(t, rows, n)
		},
		"html": func(t testing.TB, data []byte) {
			text := string(data)
			for _, want := range append(wantRows(n), titles) {
				for _, cell := range want {
					require.Contains(t, text, cell)
				}
			}
			require.NotContains(t, text, "<script")
		},
	}
	for _, format := range names {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			x := s.succeed(t, "http", src.body(format, columns+`,"options":{`+zone+`,"zip":false}`))
			require.Equal(t, "订单."+format, x.Files[0].Name)
			checks[format](t, x.content)
			require.True(t, bytes.Equal(inZip["订单."+format], x.content), "the zip has other bytes")
		})
	}
}

// Without columns a format has those of all pages, and JSON has the rows as they were sent.
func TestFormatsWithoutColumns(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV, events.NDJSON)
	const n = 50
	s := startSheaf(t)
	src := list(t, n, func(i int) string {
		if i == n-1 {
			return fmt.Sprintf(`{"late":1e2, "id":%d}`, i)
		}
		return fmt.Sprintf(`{"id":%d,"name":"=1+%d"}`, i, i)
	})
	x := s.succeed(t, "http", src.body("CSV,NDJSON", ""))
	in := x.entries(t)
	rows := readCSV(t, in["订单.csv"], ',')
	require.Len(t, rows, n+1)
	require.Equal(t, []string{"id", "name", "late"}, rows[0])
	require.Equal(t, []string{"3", "'=1+3", ""}, rows[4])
	require.NotEmpty(t, x.warned("CELL_GUARDED"))
	lines := readNDJSON(t, in["订单.ndjson"])
	require.Len(t, lines, n)
	require.JSONEq(t, `{"id":3,"name":"=1+3"}`, string(lines[3]))
	require.Contains(t, string(lines[n-1]), `"late":1e2`)
}

// Three sources are three sheets of one workbook, and three files of CSV.
func TestSheets(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV)
	s, first, second := startSheaf(t), orders(t, 70), list(t, 3, func(i int) string { return fmt.Sprintf(`{"id":%d,"city":"上海"}`, i) })
	body := func(extType, options string) string {
		return fmt.Sprintf(`{"ext_type":%q,"title":"店","user_id":"1","options":{%s},"sheets":[
			{"title":"订单","source_http":%s,"columns":[{"key":"id","title":"编号"}]},
			{"title":"客户","source_http":%s},
			{"title":"备注","source_raw":[{"a":"甲"},{"a":"x"}]}]}`, extType, options, first.http(), second.http())
	}
	x := s.succeed(t, "http", body("XLSX,CSV", ""))
	require.EqualValues(t, 70+3+1, x.Rows)
	in := x.entries(t)
	var names []string
	for name := range in {
		names = append(names, name)
	}
	require.ElementsMatch(t, []string{"店.xlsx", "店-订单.csv", "店-客户.csv", "店-备注.csv"}, names)
	want := [][][]string{{{"编号"}}, {{"id", "city"}, {"0", "上海"}, {"1", "上海"}, {"2", "上海"}}, {{"甲"}, {"x"}}}
	for i := range 70 {
		want[0] = append(want[0], []string{fmt.Sprint(i)})
	}
	for i, title := range []string{"订单", "客户", "备注"} {
		require.Equal(t, want[i], readXLSX(t, in["店.xlsx"], i), title)
		require.Equal(t, want[i], readCSV(t, in["店-"+title+".csv"], ','), title)
	}
	book := s.succeed(t, "http", body("xlsx", `"zip":false`))
	require.Equal(t, want[1], readXLSX(t, book.content, 1))
	code, msg := s.call(t, http.MethodPost, "/v1/export/http", body("csv", `"zip":false`), nil)
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, msg, "options.zip")
}

// A file is cut after max_rows rows. The parts together are the list.
func TestParts(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV)
	s, src := startSheaf(t), orders(t, 70)
	x := s.succeed(t, "http", src.body("CSV,XLSX", `,"columns":[{"key":"id"}],"options":{"max_rows":30}`))
	in := x.entries(t)
	require.Equal(t, 6, len(in)) // Len would print the files
	var list []string
	for i, rows := range []int{30, 30, 10} {
		part := readCSV(t, in[fmt.Sprintf("订单-%03d.csv", i+1)], ',')
		require.Equal(t, part, readXLSX(t, in[fmt.Sprintf("订单-%03d.xlsx", i+1)], 0))
		require.Equal(t, []string{"id"}, part[0])
		require.Len(t, part[1:], rows)
		for _, row := range part[1:] {
			list = append(list, row[0])
		}
	}
	for i, id := range list {
		require.Equal(t, fmt.Sprint(i), id)
	}
	for _, c := range x.Files[0].Contents {
		require.Contains(t, []int64{30, 10}, c.Rows)
	}
}

// The manifest describes the pages and files, and has no secret.
func TestManifest(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV)
	s, src := startSheaf(t), orders(t, 70)
	body := strings.Replace(src.body("CSV", `,"options":{"manifest":true}`), `"param"`, `"header":{"X-Key":"hush-hush"},"param"`, 1)
	x := s.succeed(t, "http", body)
	in := x.entries(t)
	require.Equal(t, 2, len(in))
	manifest := string(in["manifest.json"])
	require.True(t, json.Valid(in["manifest.json"]), manifest)
	require.NotContains(t, manifest, "hush")
	require.Contains(t, manifest, hexSum(in["订单.csv"]))
	require.Contains(t, manifest, src.URL)
	code, msg := s.call(t, http.MethodPost, "/v1/export/http", src.body("CSV", `,"options":{"manifest":true,"zip":false}`), nil)
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, msg, "options.zip")
}

// A finished export is converted, also one that was converted itself, and the source is not asked.
func TestConvert(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV, events.Parquet)
	const n = 70
	s, src := startSheaf(t), orders(t, n)
	first := s.succeed(t, "http", src.body("XLSX", `,"options":{"keep_pages":1}`))
	require.NotEmpty(t, first.PagesUntil)
	asked := src.asked.Load()
	require.NotZero(t, asked)
	second := s.succeed(t, "convert", fmt.Sprintf(`{"key":%q,"ext_type":"CSV","title":"again"%s,"options":{%s,"zip":false}}`, first.Key, columns, zone))
	require.NotEqual(t, first.Key, second.Key)
	require.Equal(t, "again.csv", second.Files[0].Name)
	require.Equal(t, append([][]string{titles}, wantRows(n)...), readCSV(t, second.content, ','))
	third := s.succeed(t, "convert", fmt.Sprintf(`{"key":%q,"ext_type":"PARQUET","options":{"zip":false}}`, first.Key))
	names, rows := readParquet(t, third.content)
	require.Equal(t, []string{"id", "no", "amount", "status", "paid", "at", "user", "note"}, names)
	require.Len(t, rows, n)
	require.Equal(t, "69", rows[69][0])
	require.Equal(t, asked, src.asked.Load(), "the source was asked")

	code, msg := s.call(t, http.MethodPost, "/v1/export/convert", fmt.Sprintf(`{"key":%q,"ext_type":"CSV"}`, strings.Repeat("0", 32)), nil)
	require.Equal(t, http.StatusNotFound, code, msg)
	code, msg = s.call(t, http.MethodPost, "/v1/export/convert", fmt.Sprintf(`{"key":%q,"ext_type":"ODS"}`, first.Key), nil)
	require.Equal(t, http.StatusBadRequest, code)
	require.True(t, strings.HasPrefix(msg, `ext_type: "ODS" is not supported; supported: XLSX, CSV`), msg)
}

// A list has the same bytes in each format, whether its pages are requested one after another or together.
func TestBytesAreReproducible(t *testing.T) {
	t.Parallel()
	s, src := startSheaf(t), orders(t, 70)
	var names []string
	for _, f := range assembler.Formats() {
		names = append(names, f.Name)
	}
	var files [2]map[string][]byte
	for i, conn := range []string{`"conn":1,`, `"conn":8,`} {
		body := src.body(strings.Join(names, ","), columns+`,"options":{"reproducible":true}`)
		files[i] = s.succeed(t, "http", strings.Replace(body, `"param"`, conn+`"param"`, 1)).entries(t)
	}
	require.Equal(t, len(names), len(files[0]))
	for name, content := range files[0] {
		require.True(t, bytes.Equal(content, files[1][name]), name)
	}
}

// A column that no row has is empty, and a request whose columns all miss fails with the path.
func TestColumnsThatNoRowHas(t *testing.T) {
	t.Parallel()
	needs(t, events.CSV)
	s, src := startSheaf(t), orders(t, 30)
	x := s.succeed(t, "http", src.body("CSV", `,"columns":[{"key":"id"},{"key":"nmae"}],"options":{"zip":false}`))
	rows := readCSV(t, x.content, ',')
	require.Equal(t, [][]string{{"id", "nmae"}, {"0", ""}}, rows[:2])
	require.Contains(t, x.warned("COLUMN_EMPTY"), "nmae")
	x = s.submit(t, "http", src.body("CSV", `,"columns":[{"key":"a.b"},{"key":"nmae"}]`))
	require.Equal(t, failed, x.Status)
	require.Equal(t, "SOURCE_PATH", x.ErrorCode, x.FailReason)
}
