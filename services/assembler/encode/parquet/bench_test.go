package parquet

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
)

// BenchmarkWrite writes 100,000 rows of eight columns, 1,000 a page.
func BenchmarkWrite(b *testing.B) {
	const n = 100_000
	sheet := sheetOf(names(mixedNames...), cut(mixedRows(n), 1000)...)
	f, err := os.Create(filepath.Join(b.TempDir(), "rows.parquet"))
	require.NoError(b, err)
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, f.Truncate(0))
		_, err := Format.Write(b.Context(), archive.Plain(f), encode.Document{Sheets: []encode.Sheet{sheet}})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
