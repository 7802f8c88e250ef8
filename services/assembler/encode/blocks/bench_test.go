package blocks_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/csv"
	. "sheaf/services/assembler/encode/encodetest"
	"sheaf/services/assembler/encode/json"
	"sheaf/services/assembler/encode/xlsx"
)

// benchPages returns 100,000 rows of eight columns, 1,000 a page: those of the workbook's benchmark.
func benchPages() []encode.Page {
	r := rand.New(rand.NewPCG(1, 2))
	cities := []string{"北京", "上海", "广州", "深圳", "杭州", "成都"}
	data := make([]string, 100_000)
	for i := range data {
		note := `null`
		if r.IntN(3) == 0 {
			note = fmt.Sprintf(`"note %x & more"`, r.Uint64())
		}
		data[i] = fmt.Sprintf(`{"id":%d,"sn":"SN%012d","name":"客户%d","amount":%d.%02d,"paid":%t,"city":"%s",`+
			`"created_at":"2026-%02d-%02d %02d:%02d:%02d","note":%s}`,
			i+1, r.Uint64N(1e12), r.IntN(50000), r.IntN(100000), r.IntN(100), r.IntN(4) > 0, cities[r.IntN(len(cities))],
			1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), note)
	}
	return Cut(data, 1000)
}

// sixTypes gives six of the columns a type.
func sixTypes(columns []encode.Column) (typed []encode.Column) {
	specs := map[string]events.Column{
		"id": {Type: "number", Format: "0"}, "sn": {Type: "text"}, "amount": {Type: "number", Format: "#,##0.00"},
		"paid": {Type: "bool"}, "created_at": {Type: "datetime"}, "city": {Type: "text"},
	}
	for _, c := range columns {
		spec := specs[c.Name]
		spec.Key, spec.Title = c.Name, c.Title
		c.Spec = &spec
		typed = append(typed, c)
	}
	return typed
}

// BenchmarkFormats writes the same pages in each format, to a file and to a compressed entry of a zip. CSV must
// be at least three times as fast as a plain workbook, and one with types must take at most 1.15 times as long.
func BenchmarkFormats(b *testing.B) {
	sheet := Sheet(b, Names("id", "sn", "name", "amount", "paid", "city", "created_at", "note"), benchPages()...)
	chosen, typed := sheet, sheet
	chosen.Chosen, typed.Chosen, typed.Columns = true, true, sixTypes(sheet.Columns)
	for _, c := range []struct {
		name   string
		format encode.Format
		doc    encode.Document
		packed bool
	}{
		{"xlsx", xlsx.Format, encode.Document{Sheets: []encode.Sheet{sheet}, Plain: true}, false},
		{"xlsx, six columns typed", xlsx.Format, encode.Document{Sheets: []encode.Sheet{typed}}, false},
		{"csv", csv.Format, encode.Document{Sheets: []encode.Sheet{sheet}}, false},
		{"csv, six columns typed", csv.Format, encode.Document{Sheets: []encode.Sheet{typed}}, false},
		{"csv in a zip", csv.Format, encode.Document{Sheets: []encode.Sheet{sheet}}, true},
		{"ndjson as sent", json.Lines, encode.Document{Sheets: []encode.Sheet{sheet}}, false},
		{"ndjson as sent, in a zip", json.Lines, encode.Document{Sheets: []encode.Sheet{sheet}}, true},
		{"json of chosen columns", json.Format, encode.Document{Sheets: []encode.Sheet{chosen}}, false},
		{"html", formats[len(formats)-1], encode.Document{Sheets: []encode.Sheet{sheet}}, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			file, err := os.Create(filepath.Join(b.TempDir(), "document"))
			require.NoError(b, err)
			defer file.Close()
			b.ReportAllocs()
			before := processorTime()
			for b.Loop() {
				require.NoError(b, file.Truncate(0))
				out := archive.Plain(file)
				if c.packed {
					out, err = archive.NewZip(file).Begin("document", archive.MethodDeflate)
					require.NoError(b, err)
				}
				_, err = c.format.Write(b.Context(), out, c.doc)
				require.NoError(b, err)
			}
			// On a busy machine this compares better than the clock.
			b.ReportMetric(float64((processorTime()-before).Milliseconds())/float64(b.N), "cpu-ms/op")
			b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// processorTime returns what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
