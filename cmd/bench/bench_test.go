//go:build linux

package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Benchmarks of single parts of "go run ./cmd/bench", smaller: go test -run '^$' -bench Stages ./cmd/bench.
// Those of the sheet writer are in services/assembler/encode/xlsx, those of the scanner in events/rows.

// openBench builds the programs and starts the source.
func openBench(b *testing.B) *bench {
	b.Helper()
	watcher = io.Discard
	x := &bench{sizes: quick}
	dir := b.TempDir()
	b.Chdir("../..")
	require.NoError(b, x.open(b.Context(), dir))
	b.Cleanup(func() { require.NoError(b, x.close()) })
	return x
}

// perRow reports the measured time per row.
func perRow(b *testing.B, rows int) {
	b.ReportMetric(float64(b.Elapsed())/float64(time.Microsecond)/float64(rows*b.N), "µs/row")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkExport measures a whole export of 100,000 rows through a running server, and the alternatives.
func BenchmarkExport(b *testing.B) {
	const rows = 100_000
	x := openBench(b)
	source := x.rowsURL(rows)
	b.Run("sheaf-serve", func(b *testing.B) {
		server, err := x.startServer(b.Context(), nil)
		require.NoError(b, err)
		n := 0
		for b.Loop() {
			n++
			_, _, err := server.export(b.Context(),
				request{fmt.Sprint("export ", n), source, exportLimit, "", nil}, rows)
			require.NoError(b, err)
		}
		perRow(b, rows)
		peak, err := server.peak()
		require.NoError(b, err)
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		require.NoError(b, server.close())
	})
	limit, conn, out := fmt.Sprint(exportLimit), fmt.Sprint(exportConn), filepath.Join(x.dir, "out.zip")
	for _, program := range []struct {
		name string
		argv []string
	}{
		{"sheaf-export", []string{x.sheaf, "export", source, "-f", "-o", out, "--limit", limit,
			"--conn", conn}},
		{"baseline", []string{x.baseline, "-o", out, "-limit", limit, "-conn", conn, source}},
		{"floor", []string{x.self, "floor", "-limit", limit, "-conn", conn, source}},
	} {
		b.Run(program.name, func(b *testing.B) {
			peak := int64(0)
			for b.Loop() {
				u, err := run(b.Context(), program.argv...)
				require.NoError(b, err)
				peak = max(peak, u.peak)
			}
			perRow(b, rows)
			b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		})
	}
}

// BenchmarkScaling exports more and more rows, each time through a new server, whose start does not count.
func BenchmarkScaling(b *testing.B) {
	x := openBench(b)
	for _, rows := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			highest := int64(0)
			took := time.Duration(0)
			for b.Loop() {
				server, err := x.startServer(b.Context(), nil)
				require.NoError(b, err)
				t, _, err := server.export(b.Context(),
					request{"scaling", x.rowsURL(rows), exportLimit, "", nil}, rows)
				require.NoError(b, err)
				took += t
				peak, err := server.peak()
				require.NoError(b, err)
				highest = max(highest, peak)
				require.NoError(b, server.close())
			}
			b.ReportMetric(float64(took)/float64(time.Microsecond)/float64(rows*b.N), "µs/row")
			b.ReportMetric(float64(highest)/(1<<20), "peak-MiB")
		})
	}
}

// BenchmarkSmallExport measures an export of 100 rows with a callback.
func BenchmarkSmallExport(b *testing.B) {
	x := openBench(b)
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			e, stop, err := x.startExporter(b.Context())
			require.NoError(b, err)
			b.ResetTimer()
			latencies, took, err := e.crowd(b.Context(), callers,
				func(started int) bool { return started >= b.N }, e.byCallback)
			b.StopTimer()
			require.NoError(b, err)
			b.ReportMetric(float64(len(latencies))/took.Seconds(), "exports/s")
			b.ReportMetric(percentile(latencies, 50).Seconds()*1000, "p50-ms")
			b.ReportMetric(percentile(latencies, 99).Seconds()*1000, "p99-ms")
			require.NoError(b, stop())
		})
	}
}

// BenchmarkFairness compares the p99 of small exports beside a large one with their p99 alone.
func BenchmarkFairness(b *testing.B) {
	x := openBench(b)
	for b.Loop() {
		f, err := x.measureFairness(b.Context())
		require.NoError(b, err)
		b.ReportMetric(f.ratio(99), "p99-ratio")
		b.ReportMetric(percentile(f.alone, 99).Seconds()*1000, "p99-alone-ms")
		b.ReportMetric(percentile(f.beside, 99).Seconds()*1000, "p99-beside-ms")
	}
}

// BenchmarkStages measures the processor time of each stage of an export.
func BenchmarkStages(b *testing.B) {
	const rows = 500_000
	x := openBench(b)
	sum := map[string]time.Duration{}
	for b.Loop() {
		c, err := x.profiled(b.Context(), request{"stages", x.rowsURL(rows), exportLimit, "", nil}, rows)
		require.NoError(b, err)
		for stage, d := range c.byStage {
			sum[stage] += d
		}
		sum["all"] += c.total
	}
	for stage, d := range sum {
		unit := strings.NewReplacer(" ", "-", ":", "", ",", "", "(", "", ")", "").Replace(stage) + "-µs/row"
		b.ReportMetric(float64(d)/float64(time.Microsecond)/float64(rows*b.N), unit)
	}
}
