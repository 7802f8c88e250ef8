package blocks_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sheaf/events/eventstest"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/csv"
	. "sheaf/services/assembler/encode/encodetest"
	"sheaf/services/assembler/encode/html"
	"sheaf/services/assembler/encode/json"
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	eventstest.Main(m)
}

var formats = []encode.Format{csv.Format, csv.TSV, json.Format, json.Lines, html.Format}

// eachFormat runs a test for each format that uses this package.
func eachFormat(t *testing.T, test func(*testing.T, encode.Format)) {
	t.Parallel()
	for _, f := range formats {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}

func docOf(sheet encode.Sheet, parallel int) encode.Document {
	return encode.Document{Title: "export", Sheets: []encode.Sheet{sheet}, Parallel: parallel}
}

// mixedRows returns rows of random sizes, some of them larger than a block.
func mixedRows(n int) (data []string) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		size := r.IntN(60)
		if r.IntN(n/3) == 0 {
			size = 600 << 10
		}
		data = append(data, fmt.Sprintf(`{"id":%d,"text":"%s","=":"%x"}`, i, strings.Repeat("中,=", size/3), r.Uint64()))
	}
	return data
}

// The bytes do not depend on the number of encoders, and an entry of a zip holds those of a file. Of plain
// documents they do not depend on the borders of pages either.
func TestSameRowsSameBytes(t *testing.T) {
	eachFormat(t, func(t *testing.T, f encode.Format) {
		data := mixedRows(20_000)
		columns := Names("id", "text", "=")
		sheet := Sheet(t, columns, Cut(data, 500)...)
		plain, r := Write(t, f, docOf(sheet, 1))
		require.Equal(t, []int64{20_000}, r.Rows)
		again, r8 := Write(t, f, docOf(sheet, 8))
		require.Equal(t, r, r8)
		require.True(t, plain == again, "8 encoders give other bytes")
		cut, rCut := Write(t, f, docOf(Sheet(t, columns, Cut(data, 77)...), 3))
		require.Equal(t, r, rCut)
		require.True(t, plain == cut, "other pages give other bytes")

		zip1, read, rPacked := WritePacked(t, f, docOf(sheet, 1))
		require.Equal(t, r, rPacked)
		require.True(t, plain == read, "the entry of a zip has other bytes")
		zip8, _, _ := WritePacked(t, f, docOf(sheet, 8))
		require.True(t, zip1 == zip8, "8 encoders give another zip")
		require.Less(t, len(zip1), len(plain)/2+4096)
	})
}

// A document without rows or columns is complete, also in a zip.
func TestNoRows(t *testing.T) {
	eachFormat(t, func(t *testing.T, f encode.Format) {
		header := Page(1, `{"a":"A"}`)
		header.SkipFirst = true
		for name, sheet := range map[string]encode.Sheet{
			"no header":      Sheet(t, nil, Page(1), Page(2)),
			"header alone":   Sheet(t, Names("a"), header, Page(2)),
			"no header, one": Sheet(t, nil, Page(1)),
		} {
			plain, r := Write(t, f, docOf(sheet, 2))
			require.Equal(t, []int64{0}, r.Rows, name)
			require.Empty(t, r.Warnings, name)
			_, read, _ := WritePacked(t, f, docOf(sheet, 2))
			require.Equal(t, plain, read, name)
		}
	})
}

// Rows are counted if the page does not say how many it has; headers are no rows.
func TestRowCounts(t *testing.T) {
	eachFormat(t, func(t *testing.T, f encode.Format) {
		pages := Cut([]string{`{"a":"A"}`, `{"a":1}`, `{"a":"A"}`, `{"a":2}`, `{"a":"A"}`}, 2)
		for i := range pages {
			pages[i].SkipFirst = true
		}
		counted, r := Write(t, f, docOf(Sheet(t, Names("a"), pages...), 2))
		require.Equal(t, []int64{2}, r.Rows)
		for i := range pages {
			pages[i].RowCount = 0
		}
		unknown, r := Write(t, f, docOf(Sheet(t, Names("a"), pages...), 2))
		require.Equal(t, []int64{2}, r.Rows)
		require.Equal(t, counted, unknown)
	})
}

// Of several errors the one of the earliest row is returned.
func TestErrorsInOrder(t *testing.T) {
	eachFormat(t, func(t *testing.T, f encode.Format) {
		columns := Names("a")
		wrong := func(number, claimed int, rows ...string) encode.Page {
			p := Page(number, rows...)
			p.RowCount = claimed
			return p
		}
		for name, c := range map[string]struct {
			columns []encode.Column
			end     error
			pages   []encode.Page
			want    error
			message string
		}{
			"no pages":               {columns: columns, want: encode.ErrNoPages},
			"the source fails first": {columns: columns, end: ErrSource, want: ErrSource, message: "page 1: the source fails"},
			"the source fails": {columns: columns, end: ErrSource, want: ErrSource,
				pages: []encode.Page{Page(1, `{"a":1}`), Page(2, `{"a":1}`)}, message: "page 3: the source fails"},
			"a page is missing": {columns: columns, want: encode.ErrPageOrder,
				pages: []encode.Page{Page(1, `{"a":1}`), Page(3, `{"a":1}`)}, message: "page 3 came where page 2 should be"},
			"a page comes twice": {columns: columns, want: encode.ErrPageOrder,
				pages: []encode.Page{Page(1, `{"a":1}`), Page(1, `{"a":1}`)}},
			"no header": {want: encode.ErrNoHeader, pages: []encode.Page{Page(1), Page(2, `{"a":1}`)}, message: "page 2"},
			"too few rows": {columns: columns, want: &encode.RowsError{Page: 2, Want: 3, Got: 2},
				pages: []encode.Page{Page(1, `{"a":1}`), wrong(2, 3, `{"a":1}`, `{"a":2}`)}},
			"too many rows": {columns: columns, want: &encode.RowsError{Page: 1, Want: 1, Got: 2},
				pages: []encode.Page{wrong(1, 1, `{"a":1}`, `{"a":2}`)}},
			"rows, then order": {columns: columns, want: &encode.RowsError{Page: 1, Want: 2, Got: 1},
				pages: []encode.Page{wrong(1, 2, `{"a":1}`), Page(5, `{"a":1}`)}},
			"rows, then source": {columns: columns, end: ErrSource, want: &encode.RowsError{Page: 1, Want: 2, Got: 1},
				pages: []encode.Page{wrong(1, 2, `{"a":1}`)}},
			"rows twice": {columns: columns, want: &encode.RowsError{Page: 1, Want: 2, Got: 1},
				pages: []encode.Page{wrong(1, 2, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), wrong(2, 9, `{"a":1}`)}},
			"broken JSON": {columns: columns, want: &encode.RowsError{Page: 1, Want: 1, Got: 0},
				pages: []encode.Page{{Number: 1, Rows: []byte(`garbage`), RowCount: 1}}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				sheet := Sheet(t, c.columns)
				sheet.Open = Open(c.end, c.pages...)
				for _, parallel := range []int{1, 8} {
					_, _, err := TryWrite(t, f, docOf(sheet, parallel))
					var want, got *encode.RowsError
					if errors.As(c.want, &want) {
						require.ErrorAs(t, err, &got)
						require.Equal(t, want, got)
						continue
					}
					require.ErrorIs(t, err, c.want)
					require.ErrorContains(t, err, c.message)
				}
			})
		}
	})
}

// An error in the middle of many pages, a full disk, or an ended context leaves no goroutine behind.
func TestNoGoroutineOutlives(t *testing.T) {
	if testing.Short() {
		t.Skip("looks at all goroutines of the process")
	}
	pages := Cut(mixedRows(20_000), 100)
	for _, f := range formats {
		ignore := goleak.IgnoreCurrent()
		sheet := Sheet(t, Names("id", "text"))
		sheet.Open = Open(ErrSource, pages...)
		_, _, err := TryWrite(t, f, docOf(sheet, 4))
		require.ErrorIs(t, err, ErrSource)

		closed, err := os.Create(filepath.Join(t.TempDir(), "closed"))
		require.NoError(t, err)
		require.NoError(t, closed.Close())
		sheet.Open = Open(nil, pages...)
		_, err = f.Write(t.Context(), archive.Plain(closed), docOf(sheet, 4))
		require.ErrorIs(t, err, os.ErrClosed)

		ctx, cancel := context.WithCancelCause(t.Context())
		sheet.Open = func() Next {
			next := Open(nil, pages...)()
			return func(ctx context.Context) (encode.Page, error) {
				p, err := next(ctx)
				if p.Number == 100 {
					cancel(ErrSource)
					<-ctx.Done()
					return encode.Page{}, context.Cause(ctx)
				}
				return p, err
			}
		}
		file, err := os.Create(filepath.Join(t.TempDir(), "cancelled"))
		require.NoError(t, err)
		_, err = f.Write(ctx, archive.Plain(file), docOf(sheet, 4))
		require.ErrorIs(t, err, ErrSource)
		require.NoError(t, file.Close())
		goleak.VerifyNone(t, ignore)
	}
}

// All pages are released, and at most 16 MiB of them are in the writer at once.
func TestPagesAreReleased(t *testing.T) {
	eachFormat(t, func(t *testing.T, f encode.Format) {
		var held, most, released atomic.Int64
		row := `{"a":"` + strings.Repeat("x", 1<<20) + `"}`
		sheet := Sheet(t, Names("a"))
		sheet.Open = func() Next {
			number := 0
			return func(ctx context.Context) (encode.Page, error) {
				if number++; number > 60 {
					return Open(nil)()(ctx)
				}
				p := Page(number, row)
				if number%3 == 0 {
					p = Page(number)
				}
				most.Store(max(most.Load(), held.Add(1)))
				p.Release = func() { held.Add(-1); released.Add(1) }
				return p, nil
			}
		}
		_, r := Write(t, f, docOf(sheet, 32))
		require.Equal(t, []int64{40}, r.Rows)
		require.EqualValues(t, 60, released.Load())
		require.LessOrEqual(t, most.Load(), int64(17))
	})
}

// A row of 20 MiB goes through alone: memory grows with the row, not with the number of encoders or rows.
func TestHugeRows(t *testing.T) {
	const size, count = 20 << 20, 4
	row := make([]byte, 0, size+64)
	row = append(row, `[{"a":"`...)
	for len(row) < size {
		row = append(row, `中\"`...)
	}
	row = append(row, `","b":1}]`...)
	for _, f := range formats {
		t.Run(f.Name, func(t *testing.T) {
			sheet := Sheet(t, Names("a", "b"))
			var most uint64
			sheet.Open = func() Next {
				number := 0
				return func(ctx context.Context) (encode.Page, error) {
					runtime.GC()
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapAlloc)
					if number++; number > count {
						return Open(nil)()(ctx)
					}
					return encode.Page{Number: number, Rows: row, RowCount: 1}, nil
				}
			}
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			file, err := os.Create(filepath.Join(t.TempDir(), "huge"))
			require.NoError(t, err)
			defer file.Close()
			r, err := f.Write(t.Context(), archive.Plain(file), docOf(sheet, 8))
			require.NoError(t, err)
			require.Equal(t, []int64{count}, r.Rows)
			grown := int64(most) - int64(before.HeapAlloc)
			t.Logf("the heap grew by %d MiB", grown>>20)
			require.LessOrEqual(t, grown, int64(4*size))
		})
	}
}
