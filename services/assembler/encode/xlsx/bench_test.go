package xlsx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/services/assembler/encode"
)

const benchHeader = `{"id":"编号","sn":"订单号","name":"姓名","amount":"金额","paid":"已付款","city":"城市","created_at":"下单时间","note":"备注"}`

// benchRows makes n rows of 8 mixed columns: integers, decimals, booleans,
// short and long strings, Chinese text, nulls and dates.
func benchRows(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	cities := []string{"北京", "上海", "广州", "深圳", "杭州", "成都"}
	data := make([]string, n)
	for i := range data {
		note := `null`
		if r.IntN(3) == 0 {
			note = fmt.Sprintf(`"note %x & more"`, r.Uint64())
		}
		data[i] = fmt.Sprintf(`{"id":%d,"sn":"SN%012d","name":"客户%d","amount":%d.%02d,"paid":%t,"city":"%s","created_at":"2026-%02d-%02d %02d:%02d:%02d","note":%s}`,
			i+1, r.Uint64N(1e12), r.IntN(50000), r.IntN(100000), r.IntN(100), r.IntN(4) > 0,
			cities[r.IntN(len(cities))],
			1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), note)
	}
	return data
}

const benchRowCount = 100_000

func BenchmarkWriteWorkbook(b *testing.B) {
	data := benchRows(benchRowCount)
	for _, perPage := range []int{1000, 20} {
		b.Run(fmt.Sprintf("page=%d", perPage), func(b *testing.B) {
			pages := cutPages(benchHeader, data, perPage)
			name := filepath.Join(b.TempDir(), "out.zip")
			var size int64
			b.ReportAllocs()
			for b.Loop() {
				f, err := os.Create(name)
				require.NoError(b, err)
				r, err := WriteWorkbook(context.Background(), f, testSpec(), pagesOf(pages...))
				require.NoError(b, err)
				require.NoError(b, f.Close())
				size = r.Size
			}
			b.ReportMetric(float64(benchRowCount*b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(size), "file-bytes")
		})
	}
}

// BenchmarkSmallWorkbook measures a workbook of 100 rows.
func BenchmarkSmallWorkbook(b *testing.B) {
	pages := cutPages(benchHeader, benchRows(100), 50)
	f, err := os.Create(filepath.Join(b.TempDir(), "out.zip"))
	require.NoError(b, err)
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		_, err := WriteWorkbook(context.Background(), f, testSpec(), pagesOf(pages...))
		require.NoError(b, err)
	}
}

// blocksOf returns blocks of sheet XML of n rows.
func blocksOf(b *testing.B, n int) (blocks [][]byte) {
	head, err := newHeader(encode.Columns([]byte("[" + benchHeader + "]")))
	require.NoError(b, err)
	var sheet []byte
	e, err := newEncoder(head, maxRows)
	require.NoError(b, err)
	e.emit = func(c *chunk) error { sheet = append(sheet, c.xml...); return nil }
	require.NoError(b, e.batch(&batch{pages: cutPages(benchHeader, benchRows(n), n)}, 0))
	for ; len(sheet) > blockSize; sheet = sheet[blockSize:] {
		blocks = append(blocks, sheet[:blockSize])
	}
	return blocks
}

// BenchmarkRowDeflater compresses the XML of about 20,000 rows.
func BenchmarkRowDeflater(b *testing.B) {
	blocks := blocksOf(b, 20_000)
	d, packed := new(rowDeflater), []byte(nil)
	b.SetBytes(int64(len(blocks) * blockSize))
	for b.Loop() {
		for _, block := range blocks {
			packed, _ = d.deflate(packed[:0], []piece{{block, nil}}, false)
		}
	}
}

// BenchmarkEncoder encodes 20,000 rows.
func BenchmarkEncoder(b *testing.B) {
	const n, columns = 20_000, 8
	head, err := newHeader(encode.Columns([]byte("[" + benchHeader + "]")))
	require.NoError(b, err)
	e, err := newEncoder(head, maxRows)
	require.NoError(b, err)
	e.emit = func(c *chunk) error { c.release(); return nil }
	pages := cutPages(benchHeader, benchRows(n), n)
	b.SetBytes(int64(len(pages[0].Rows)))
	for b.Loop() {
		// past the rows whose widths are measured
		if err := e.batch(&batch{pages: pages, first: widthRows}, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n/columns, "ns/cell")
}

// BenchmarkStreamWriter measures excelize's StreamWriter on the same rows. In "values" they are decoded
// before the clock starts. "pages" does all that WriteWorkbook does, with encoding/json as decoder.
func BenchmarkStreamWriter(b *testing.B) {
	pages := cutPages(benchHeader, benchRows(benchRowCount), 1000)
	name := filepath.Join(b.TempDir(), "out.xlsx")
	decoded := make([][][]any, len(pages))
	for i, p := range pages {
		decoded[i] = decodeRows(b, p)
	}
	for _, from := range []string{"values", "pages"} {
		b.Run(from, func(b *testing.B) {
			var size int64
			b.ReportAllocs()
			for b.Loop() {
				size = streamWrite(b, name, func(yield func([][]any) bool) {
					for i, p := range pages {
						values := decoded[i]
						if from == "pages" {
							values = decodeRows(b, p)
						}
						if !yield(values) {
							return
						}
					}
				})
			}
			b.ReportMetric(float64(benchRowCount*b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(size), "file-bytes")
		})
	}
}

// decodeRows returns the values of a page's rows in column order; only page 1 includes the header.
func decodeRows(t testing.TB, p Page) [][]any {
	var objects []map[string]any
	d := json.NewDecoder(bytes.NewReader(p.Rows))
	d.UseNumber()
	require.NoError(t, d.Decode(&objects))
	columns := keysOf(t, p.Rows)
	if p.Number > 1 {
		objects = objects[1:]
	}
	decoded := make([][]any, len(objects))
	for r, o := range objects {
		decoded[r] = make([]any, len(columns))
		for i, k := range columns {
			decoded[r][i] = o[k]
			if n, ok := o[k].(json.Number); ok {
				if integer, err := n.Int64(); err == nil {
					decoded[r][i] = integer
				} else {
					decoded[r][i], _ = n.Float64()
				}
			}
		}
	}
	return decoded
}

// streamWrite writes rows with excelize's StreamWriter and returns the file's size.
func streamWrite(t testing.TB, name string, pages iter.Seq[[][]any]) int64 {
	f := excelize.NewFile()
	defer f.Close()
	w, err := f.NewStreamWriter("Sheet1")
	require.NoError(t, err)
	line := 0
	for page := range pages {
		for _, values := range page {
			line++
			cell, _ := excelize.CoordinatesToCellName(1, line)
			require.NoError(t, w.SetRow(cell, values))
		}
	}
	require.NoError(t, w.Flush())
	require.NoError(t, f.SaveAs(name))
	info, err := os.Stat(name)
	require.NoError(t, err)
	return info.Size()
}

// keysOf returns the keys of the first row in order.
func keysOf(t testing.TB, page []byte) []string {
	d := json.NewDecoder(bytes.NewReader(page))
	var keys []string
	for range 2 { // [ {
		_, err := d.Token()
		require.NoError(t, err)
	}
	for d.More() {
		k, err := d.Token()
		require.NoError(t, err)
		keys = append(keys, k.(string))
		var skip json.RawMessage
		require.NoError(t, d.Decode(&skip))
	}
	return keys
}

// The file is at most 1.05 times as large as StreamWriter's of the same rows, also with 20 rows a page.
func TestFileSizeAgainstStreamWriter(t *testing.T) {
	t.Parallel()
	data := benchRows(20_000)
	want := streamWrite(t, filepath.Join(t.TempDir(), "out.xlsx"), func(yield func([][]any) bool) {
		for _, p := range cutPages(benchHeader, data, 1000) {
			if !yield(decodeRows(t, p)) {
				return
			}
		}
	})
	for _, perPage := range []int{20, 1000} {
		r, _, _ := write(t, testSpec(), cutPages(benchHeader, data, perPage)...)
		ratio := float64(r.Size) / float64(want)
		t.Logf("%d rows a page: %d bytes, StreamWriter %d, ratio %.3f", perPage, r.Size, want, ratio)
		require.LessOrEqual(t, ratio, 1.05)
	}
}
