package xlsx

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// WriteWorkbook allocates per workbook and per batch, not per row. The constants were measured with 50,000
// rows of eight columns. Allocating for each row, page or block exceeds them, while a timing would be noise.
func TestWriteWorkbookAllocatesNothingPerRow(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	const (
		rowCount = 50_000
		objects  = 1_100 // a workbook of 100 rows takes 760
		// A run takes 360, or 650 if the pool lacks a compressor. Copying all pages would take 8,000.
		kibibyte = 2_000
		bound    = 1.2
	)
	pages := cutPages(benchHeader, benchRows(rowCount), 1000)
	f, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
	require.NoError(t, err)
	defer f.Close()
	run := func() {
		_, err := WriteWorkbook(context.Background(), f, testSpec(), pagesOf(pages...))
		require.NoError(t, err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	run()                                            // fills the pools
	least := runtime.MemStats{Mallocs: 1 << 62, TotalAlloc: 1 << 62}
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run()
		runtime.ReadMemStats(&after)
		least.Mallocs = min(least.Mallocs, after.Mallocs-before.Mallocs)
		least.TotalAlloc = min(least.TotalAlloc, after.TotalAlloc-before.TotalAlloc)
	}
	t.Logf("%d objects, %d KiB", least.Mallocs, least.TotalAlloc>>10)
	require.LessOrEqual(t, float64(least.Mallocs), objects*bound)
	require.LessOrEqual(t, float64(least.TotalAlloc>>10), kibibyte*bound)
}
