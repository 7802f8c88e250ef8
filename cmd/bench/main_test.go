//go:build linux

package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/events/eventstest"
	"sheaf/events/rows"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 … 1
	}
	for _, c := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{hundred, 50, 50}, {hundred, 90, 90}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1},
		{[]float64{7}, 1, 7}, {[]float64{7}, 99, 7},
		{[]float64{1, 2}, 50, 1}, {[]float64{1, 2}, 51, 2}, {[]float64{1, 2}, 99, 2},
		{[]float64{3, 1, 2}, 50, 2},
	} {
		require.Equal(t, c.want, percentile(c.values, c.p), "p%g of %d values", c.p, len(c.values))
	}
	require.Equal(t, float64(100), hundred[0], "the values were reordered")
}

func TestMedianAndRatios(t *testing.T) {
	require.Equal(t, 2.0, median([]float64{3, 1, 2}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.Equal(t, "2.00 (1.00 to 4.00)", of([]float64{2, 4, 8}, []float64{2, 2, 2}).String())
	require.Equal(t, "2.00", of([]float64{2}, []float64{1}).String())
	require.Equal(t, "999", thousands(999))
	require.Equal(t, "1,000,050", thousands(1_000_050))
}

// A stack counts for the first function, from the leaf up, that a stage knows.
func TestStageOf(t *testing.T) {
	for name, c := range map[string]struct {
		want  string
		stack []string // the leaf first
	}{
		"memory is moved for a caller": {stageCells,
			[]string{"runtime.memmove", "sheaf/services/assembler/encode/xlsx.(*encoder).row",
				"sheaf/services/assembler/encode/xlsx.encodeBatches"}},
		"the same scanner, two users": {stageScan,
			[]string{"sheaf/events/rows.(*scanner).str", "sheaf/events/rows.ScanResponse",
				"sheaf/services/crawler.(*crawl).ask"}},
		"... and the other": {stageCells,
			[]string{"sheaf/events/rows.(*Cursor).NextField",
				"sheaf/services/assembler/encode/xlsx.(*encoder).read"}},
		"S2 forth": {stageCompress,
			[]string{"github.com/klauspost/compress/s2.encodeBlockAsm4MB", "sheaf/events/pages.compress",
				"sheaf/events/pages.(*Store).encodePage"}},
		"S2 back": {stageDecompress,
			[]string{"github.com/klauspost/compress/s2.s2Decode", "sheaf/events/pages.decompressS2",
				"sheaf/events/pages.decodePage"}},
		"deflate": {stageDeflate,
			[]string{"github.com/klauspost/compress/flate.matchLen",
				"sheaf/services/assembler/encode/xlsx.deflate"}},
		"our own deflate": {stageDeflate,
			[]string{"sheaf/services/assembler/encode/xlsx.(*rowDeflater).walk",
				"sheaf/services/assembler/encode/xlsx.(*block).deflate",
				"sheaf/services/assembler/encode/xlsx.deflate"}},
		"a hash is a hash wherever it is made": {stageHash,
			[]string{"crypto/internal/fips140/sha256.blockSHANI", "crypto/sha256.Sum256",
				"sheaf/events/pages.(*Store).encodePage"}},
		"garbage that the encoder has to help with": {stageMemory,
			[]string{"runtime.scanObject", "runtime.gcDrain", "runtime.mallocgc",
				"sheaf/services/assembler/encode/xlsx.newChunk"}},
		"a page is stored": {stageStore,
			[]string{"internal/runtime/syscall/linux.Syscall6", "os.(*File).WriteAt",
				natsServer + "(*msgBlock).writeAt", natsServer + "(*stream).processJetStreamMsg", natsServer +
					"(*stream).internalLoop"}},
		"a page is synced": {stageSync,
			[]string{"syscall.Fsync", "os.(*File).Sync", natsServer + "(*msgBlock).flushPendingMsgsLocked"}},
		"a page is asked for": {stageConsume,
			[]string{natsServer + "(*fileStore).LoadMsg", natsServer + "(*stream).getDirectRequest",
				natsServer + "(*client).processInboundClientMsg"}},
		"a page is sent": {stageConsume,
			[]string{"net.(*pipe).write", natsServer + "(*client).flushOutbound",
				natsServer + "(*client).writeLoop"}},
		"a page is received": {stageConsume,
			[]string{"net.(*pipe).read", natsClient + ".(*Conn).readLoop"}},
		"a page is handed to the server": {stagePublish,
			[]string{"net.(*pipe).write", natsClient + ".(*Conn).flusher"}},
		"the workbook is read back": {stageFile,
			[]string{"syscall.Pread", "os.(*File).ReadAt",
				"sheaf/services/assembler/encode/xlsx.(*workbookWriter).result"}},
		"the source's bytes": {stageFetch,
			[]string{"syscall.Read", "net.(*conn).Read", "net/http.(*persistConn).readLoop"}},
		"a caller": {stageAnswer,
			[]string{"syscall.Write", "net.(*conn).Write", "net/http.(*conn).serve"}},
		"nothing to do": {stageSchedule,
			[]string{"runtime.futex", "runtime.findRunnable", "runtime.schedule", "runtime.park_m",
				"runtime.mcall"}},
		"unknown": {stageOther, []string{"main.main"}},
		"empty":   {stageOther, nil},
	} {
		require.Equal(t, c.want, stageOf(c.stack), name)
	}
	for _, r := range rules {
		require.Contains(t, stageOrder, r.stage, "the table has no line for it")
	}
}

// builtPrograms builds the programs that a test needs.
func builtPrograms(t *testing.T) *bench {
	t.Helper()
	eventstest.LongRunning(t) // builds sheaf and starts it
	b := &bench{sizes: quick, dir: t.TempDir()}
	t.Chdir("../..")
	for pkg, path := range map[string]*string{"./cmd/sheaf": &b.sheaf, "./cmd/bench/baseline": &b.baseline} {
		*path = filepath.Join(b.dir, filepath.Base(pkg))
		_, err := run(t.Context(), "go", "build", "-o", *path, pkg)
		require.NoError(t, err)
	}
	return b
}

// A renamed function would silently count as other.
func TestRulesNameExistingFunctions(t *testing.T) {
	b := builtPrograms(t)
	u, err := run(t.Context(), "go", "tool", "nm", b.sheaf)
	require.NoError(t, err)
	var names []string
	for line := range strings.Lines(u.out) {
		f := strings.Fields(line)
		names = append(names, plainName(f[len(f)-1]))
	}
	for _, r := range rules {
		for _, prefix := range []string{r.prefix, r.under} {
			require.True(t, slices.ContainsFunc(names, func(name string) bool {
				return strings.HasPrefix(name, prefix)
			}),
				"no function of sheaf begins with %q: the time of stage %q would count elsewhere",
				prefix, r.stage)
		}
	}
}

// The two compared programs must do the same work.
func TestBaselineMakesTheSameCells(t *testing.T) {
	b := builtPrograms(t)
	source := httptest.NewServer(sourceHandler())
	defer source.Close()
	const total = 1234
	url := source.URL + "/rows/" + strconv.Itoa(total)
	byHand, bySheaf := filepath.Join(b.dir, "a.zip"), filepath.Join(b.dir, "b.zip")
	u, err := run(t.Context(), b.baseline, "-o", byHand, "-limit", "100", "-conn", "3", url)
	require.NoError(t, err)
	require.Equal(t, "1234\n", u.out)
	require.NotZero(t, u.peak)
	_, err = run(t.Context(), b.sheaf, "export", url, "-o", bySheaf, "--limit", "100", "--conn", "3")
	require.NoError(t, err)
	want, got := cells(t, bySheaf), cells(t, byHand)
	require.Len(t, want, total+1)
	require.Len(t, got, total+1)
	for i := range want {
		require.Equal(t, want[i], got[i], "row %d", i+1)
	}
}

// cells returns the values of the workbook in a zip: numbers in their shortest form, all rows of equal
// length.
func cells(t *testing.T, name string) [][]string {
	t.Helper()
	z, err := zip.OpenReader(name)
	require.NoError(t, err)
	defer z.Close()
	require.Len(t, z.File, 1)
	entry, err := z.File[0].Open()
	require.NoError(t, err)
	book, err := excelize.OpenReader(entry)
	require.NoError(t, err)
	defer book.Close()
	all, err := book.GetRows("Sheet1", excelize.Options{RawCellValue: true})
	require.NoError(t, err)
	for r, row := range all {
		for c, v := range row {
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				row[c] = strconv.FormatFloat(f, 'g', -1, 64)
			}
		}
		for len(row) < len(columns) {
			row = append(row, "")
		}
		all[r] = row
	}
	return all
}

// The source's rows are one sequence, however it is cut into pages, in the format that Sheaf reads.
func TestSourceRowsDoNotDependOnPages(t *testing.T) {
	const total = 257
	var want []byte
	for i := range total {
		want = append(appendRow(want, i), ',')
	}
	for _, limit := range []int{1, 20, 100, total, 1000} {
		var got []byte
		for n := 1; n <= pageCount(limit, total); n++ {
			r, err := rows.ScanResponse(appendPage(nil, n, limit, total), rows.Limits{})
			require.NoError(t, err)
			require.True(t, r.OK())
			array, count := appendRows(nil, n, limit, total)
			checked, err := rows.Check(array, rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, count, checked)
			body := bytes.TrimPrefix(array, []byte("["+sourceHeader+","))
			got = append(append(got, body[:len(body)-1]...), ',')
		}
		require.Equal(t, string(want), string(got), "limit %d", limit)
	}
	array, count := appendRows(nil, 9, 100, total)
	require.Equal(t, 1, count, "a page beyond the end holds the header alone")
	require.Equal(t, "["+sourceHeader+"]", string(array))
}

func TestSourceRowsAreMixed(t *testing.T) {
	seen := map[string]map[string]bool{}
	for i := range 2000 {
		var row map[string]any
		require.NoError(t, json.Unmarshal(appendRow(nil, i), &row))
		require.Equal(t, float64(i+1), row["id"])
		require.Len(t, row, len(columns))
		when, ok := row["created_at"].(string)
		require.True(t, ok)
		_, err := time.Parse(time.DateTime, when)
		require.NoError(t, err)
		amount := row["amount"].(float64)
		require.Equal(t, math.Round(amount*100)/100, amount)
		for _, c := range columns {
			if seen[c] == nil {
				seen[c] = map[string]bool{}
			}
			text, _ := json.Marshal(row[c])
			seen[c][string(text)] = true
		}
	}
	require.Len(t, seen["paid"], 2)
	require.Len(t, seen["city"], len(cities))
	require.Contains(t, seen["note"], "null")
	for _, c := range []string{"sn", "name", "amount", "created_at", "note"} {
		require.Greater(t, len(seen[c]), 600, c)
	}
}

// Each way to write a sheet gives the same cells for the same pages.
func TestWritersMakeTheSameCells(t *testing.T) {
	dir := t.TempDir()
	pages := filepath.Join(dir, "pages")
	require.NoError(t, writePages(pages, 500, 40))
	book := func(way string) [][]string {
		out := filepath.Join(dir, way)
		require.NoError(t, write(t.Context(), []string{"-way", way, "-pages", pages, "-o", out}, io.Discard))
		if way == waySheaf {
			return cells(t, out)
		}
		wrapped := out + ".zip" // StreamWriter's file is the workbook itself
		f, err := os.Create(wrapped)
		require.NoError(t, err)
		z := zip.NewWriter(f)
		w, err := z.Create("a.xlsx")
		require.NoError(t, err)
		content, err := os.Open(out)
		require.NoError(t, err)
		_, err = io.Copy(w, content)
		require.NoError(t, err)
		require.NoError(t, content.Close())
		require.NoError(t, z.Close())
		require.NoError(t, f.Close())
		return cells(t, wrapped)
	}
	want := book(waySheaf)
	require.Len(t, want, 501)
	require.Equal(t, want, book(wayPages))
	require.Equal(t, want, book(wayValues))
}

// Each format is written, plain or in a zip, and reports what it took.
func TestFormatsAreWritten(t *testing.T) {
	dir := t.TempDir()
	pages := filepath.Join(dir, "pages")
	require.NoError(t, writePages(pages, 500, 40))
	for _, c := range formatCases() {
		var report bytes.Buffer
		require.NoError(t, writeFormat(t.Context(), append([]string{"-name", c.format, "-pages", pages, "-o", filepath.Join(dir, "out")},
			c.flags...), &report), c.name)
		var w written
		require.NoError(t, json.Unmarshal(report.Bytes(), &w))
		require.Greater(t, w.Size, int64(1000), c.name)
	}
}

func TestReadSyncs(t *testing.T) {
	all, err := readSyncs(strings.NewReader(`100 1700000000.000000 fsync(7) = 0 <0.002000>
101 1700000000.001000 fsync(9 <unfinished ...>
100 1700000000.004000 fdatasync(7)             = 0 <0.001000>
101 1700000000.010000 <... fsync resumed>)     = 0 <0.009000>
101 1700000000.500000 +++ exited with 0 +++
`))
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, 10*time.Millisecond, covered(all).Round(time.Microsecond),
		"spans that overlap count once")
	require.Equal(t, 9*time.Millisecond, all[2].end.Sub(all[2].begin).Round(time.Microsecond))
	require.Equal(t, time.Duration(0), covered(nil))
}

func TestTargetTable(t *testing.T) {
	b := &bench{}
	b.target("memory", "at most 1 MiB", "2 MiB", false)
	b.target("rate", "at least 1", "3", true)
	require.Equal(t, `
| target | | measured | |
|---|---|---|---|
| memory | at most 1 MiB | 2 MiB | **missed** |
| rate | at least 1 | 3 | met |
`, targetTable(b.targets))
}

func TestFileSystemOf(t *testing.T) {
	const mounts = "rootfs / rootfs rw 0 0\n/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/data xfs rw 0 0\n"
	for dir, want := range map[string]string{"/home/x": "ext4", "/tmp": "tmpfs", "/tmp/x": "tmpfs",
		"/tmpx": "ext4", "/tmp/data/1": "xfs", "/": "ext4"} {
		require.Equal(t, want, fileSystemOf(dir, mounts), dir)
	}
}

func TestWithSection(t *testing.T) {
	changed, err := withSection("a\n"+sectionBegin+"old\n"+sectionEnd+"z\n", "new\n")
	require.NoError(t, err)
	require.Equal(t, "a\n"+sectionBegin+"new\n"+sectionEnd+"z\n", changed)
	again, err := withSection(changed, "new\n")
	require.NoError(t, err)
	require.Equal(t, changed, again)
	for _, bad := range []string{"", sectionBegin, sectionEnd, sectionEnd + sectionBegin,
		sectionBegin + sectionEnd + sectionBegin + sectionEnd} {
		_, err := withSection(bad, "new\n")
		require.Error(t, err, bad)
	}
	readme, err := os.ReadFile("RESULTS.md")
	require.NoError(t, err)
	_, err = withSection(string(readme), "new\n")
	require.NoError(t, err)
}

func TestReportRefuses(t *testing.T) {
	require.ErrorContains(t, command(t.Context(), []string{"-only", "export,nothing"}), "nothing")
	require.ErrorContains(t, command(t.Context(), []string{"-only", "export", "-results"}), "needs all parts")
}

// A list has the same rows whatever names its pages.
func TestListsHaveTheSameRowsInEachWay(t *testing.T) {
	t.Parallel()
	const total, limit = 25, 10
	server := httptest.NewServer(sourceHandler())
	defer server.Close()
	type response struct {
		Items   []json.RawMessage
		Total   int
		Pages   int
		Next    string
		NextURL string `json:"next_url"`
	}
	get := func(link string) (r response) {
		res, err := server.Client().Get(server.URL + link)
		require.NoError(t, err)
		defer res.Body.Close()
		require.NoError(t, json.NewDecoder(res.Body).Decode(&r))
		require.Equal(t, total, r.Total)
		require.Equal(t, 3, r.Pages)
		if r.NextURL != "" {
			require.Equal(t, "<"+r.NextURL+`>; rel="next"`, res.Header.Get("Link"))
		} else {
			require.Empty(t, res.Header.Get("Link"))
		}
		return r
	}
	const path = "/lists/25"
	for name, next := range map[string]func(page int, before response) string{
		"page":   func(page int, _ response) string { return path + "?limit=10&page=" + strconv.Itoa(page) },
		"offset": func(page int, _ response) string { return path + "?limit=10&offset=" + strconv.Itoa((page-1)*limit) },
		"after": func(_ int, before response) string {
			if before.Next == "" {
				return path + "?limit=10"
			}
			return path + "?limit=10&after=" + before.Next
		},
		"next_url": func(_ int, before response) string {
			if before.NextURL == "" {
				return path + "?limit=10"
			}
			return before.NextURL
		},
	} {
		var r response
		for page, rows := 1, 0; page <= 3; page++ {
			r = get(next(page, r))
			for _, row := range r.Items {
				require.Equal(t, string(appendRow(nil, rows)), string(row), name)
				rows++
			}
			require.Equal(t, page < 3, r.Next != "", name)
			require.True(t, page < 3 || rows == total, name)
		}
	}
}
