//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xuri/excelize/v2"

	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/xlsx"
)

// columns are the keys of sourceHeader in order.
var columns = []string{"id", "sn", "name", "amount", "paid", "city", "created_at", "note"}

// The compared ways to write a sheet.
const (
	waySheaf  = "sheaf"         // pages to workbook: xlsx.Format
	wayPages  = "stream-pages"  // the same, with encoding/json and excelize's StreamWriter
	wayValues = "stream-values" // only StreamWriter: rows are Go values before the clock starts
)

// written is the report of the child "bench write", as JSON.
type written struct {
	Seconds float64
	CPU     float64 // processor seconds
	Size    int64
	Peak    int64 // resident bytes
}

// writer compares the sheet writers. Each run is a process that reads the pages one by one from a file, so
// the pages do not count as its memory.
func (b *bench) writer(ctx context.Context) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s rows of 8 mixed columns from JSON pages on disk to a finished workbook, each run in a separate process, %d runs each:\n\n"+
		"| | seconds | × | processor seconds | file | × | peak memory |\n|---|---|---|---|---|---|---|\n",
		thousands(b.writerRows), b.writerPairs)
	for _, limit := range []int{1000, 20} {
		pages := filepath.Join(b.dir, "pages")
		if err := writePages(pages, b.writerRows, limit); err != nil {
			return "", err
		}
		ways := []string{wayPages, waySheaf, wayValues}
		results := map[string][]written{}
		for i := range b.writerPairs {
			for _, way := range ways {
				progress("%d rows a page, run %d of %d: %s", limit, i+1, b.writerPairs, way)
				u, err := run(ctx, b.self, "write", "-way", way, "-pages", pages, "-o",
					filepath.Join(b.dir, "written"))
				if err != nil {
					return "", err
				}
				var w written
				if err := json.Unmarshal([]byte(u.out), &w); err != nil {
					return "", err
				}
				results[way] = append(results[way], w)
			}
		}
		took := func(way string) (s []float64) {
			for _, w := range results[way] {
				s = append(s, w.Seconds)
			}
			return s
		}
		used := func(way string) (s []float64) {
			for _, w := range results[way] {
				s = append(s, w.CPU)
			}
			return s
		}
		row := func(name, way string, against bool) {
			var peaks []int64
			for _, w := range results[way] {
				peaks = append(peaks, w.Peak)
			}
			size := results[way][0].Size
			times, ratio := "", ""
			if against {
				times = of(took(way), took(waySheaf)).String()
				ratio = fmt.Sprintf("%.3f", float64(results[waySheaf][0].Size)/float64(size))
			}
			fmt.Fprintf(&text, "| %s, %s rows a page | %.2f | %s | %.2f | %s | %s | %s |\n",
				name, thousands(limit), median(took(way)), times, median(used(way)), megabytes(size), ratio,
				mebibytes(slices.Max(peaks)))
		}
		for _, against := range []struct{ way, from string }{{wayPages, "from the same pages"},
			{wayValues, "its rows decoded before"}} {
			r := median(of(took(against.way), took(waySheaf)))
			b.target(fmt.Sprintf("the sheet writer against StreamWriter, %s, %s rows a page", against.from,
				thousands(limit)), "at least 8×", fmt.Sprintf("%.1f×", r), r >= 8)
		}
		size := float64(results[waySheaf][0].Size) / float64(results[wayPages][0].Size)
		b.target(fmt.Sprintf("its file against StreamWriter's, %s rows a page", thousands(limit)),
			"at most 1.05×", fmt.Sprintf("%.3f×", size), size <= 1.05)
		row("Sheaf", waySheaf, false)
		row("encoding/json and StreamWriter", wayPages, true)
		row("StreamWriter, rows decoded before the clock starts", wayValues, true)
	}
	text.WriteString("\nThe first × is the time relative to Sheaf's, the second the size of Sheaf's file relative to this one. " +
		"StreamWriter with decoded rows holds all values in memory, which counts towards its peak.\n")
	return text.String(), nil
}

// writePages writes pages to a file, each preceded by its length and number of rows.
func writePages(name string, total, limit int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	var page []byte
	for n := 1; n <= pageCount(limit, total); n++ {
		var rows int
		page, rows = appendRows(page[:0], n, limit, total)
		var head [8]byte
		binary.LittleEndian.PutUint32(head[:], uint32(len(page)))
		binary.LittleEndian.PutUint32(head[4:], uint32(rows))
		if _, err := w.Write(head[:]); err != nil {
			return err
		}
		if _, err := w.Write(page); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// pageFile reads a file written by writePages. As in the assembler, released pages are used again.
type pageFile struct {
	r     *bufio.Reader
	n     int
	spare sync.Pool
}

func (p *pageFile) next(context.Context) (encode.Page, error) {
	var head [8]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return encode.Page{}, err // io.EOF at the end
	}
	p.n++
	size := int(binary.LittleEndian.Uint32(head[:]))
	rows, _ := p.spare.Get().(*[]byte)
	if rows == nil || cap(*rows) < size {
		rows = new(make([]byte, size, size+size/8))
	}
	*rows = (*rows)[:size]
	page := encode.Page{
		Number: p.n, SkipFirst: p.n > 1, RowCount: int(binary.LittleEndian.Uint32(head[4:])),
		Rows: *rows, Release: func() { p.spare.Put(rows) },
	}
	_, err := io.ReadFull(p.r, page.Rows)
	return page, err
}

// write is the process "bench write": it writes one workbook and reports the time it took.
func write(ctx context.Context, args []string, report io.Writer) error {
	flags := flag.NewFlagSet("write", flag.ContinueOnError)
	way := flags.String("way", "", "")
	pages := flags.String("pages", "", "")
	out := flags.String("o", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	in, err := os.Open(*pages)
	if err != nil {
		return err
	}
	defer in.Close()
	source := &pageFile{r: bufio.NewReaderSize(in, 1<<20)}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer f.Close()

	var decoded [][][]any
	if *way == wayValues {
		for {
			rows, err := decodePage(ctx, source)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			decoded = append(decoded, rows)
		}
	}
	self := &process{pid: os.Getpid()}
	before, err := self.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	switch *way {
	case waySheaf:
		err = writeWorkbook(ctx, f, source)
	case wayPages:
		err = streamWrite(f, func() ([][]any, error) { return decodePage(ctx, source) })
	case wayValues:
		n := 0
		err = streamWrite(f, func() ([][]any, error) {
			if n++; n > len(decoded) {
				return nil, io.EOF
			}
			return decoded[n-1], nil
		})
	default:
		return fmt.Errorf("-way %q", *way)
	}
	if err != nil {
		return err
	}
	w := written{Seconds: time.Since(begin).Seconds()}
	after, err := self.cpu()
	if err != nil {
		return err
	}
	w.CPU = (after - before).Seconds()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Size = info.Size()
	if w.Peak, err = peakOf("self"); err != nil {
		return err
	}
	return json.NewEncoder(report).Encode(w)
}

// decodePage returns the values of the next page's rows in column order; only page 1 includes the header.
func decodePage(ctx context.Context, source *pageFile) ([][]any, error) {
	p, err := source.next(ctx)
	if err != nil {
		return nil, err
	}
	var objects []map[string]any
	if err := json.Unmarshal(p.Rows, &objects); err != nil {
		return nil, err
	}
	if p.SkipFirst {
		objects = objects[1:]
	}
	rows := make([][]any, len(objects))
	all := make([]any, len(objects)*len(columns))
	for r, object := range objects {
		rows[r], all = all[:len(columns)], all[len(columns):]
		for i, column := range columns {
			rows[r][i] = object[column]
		}
	}
	return rows, nil
}

// writeWorkbook writes a zip with the workbook of the pages, as the assembler does.
func writeWorkbook(ctx context.Context, f *os.File, source *pageFile) error {
	first, err := source.next(ctx)
	if err != nil {
		return err
	}
	columns := encode.Columns(first.Rows)
	first.SkipFirst = true
	pages := func(ctx context.Context) (p encode.Page, err error) {
		if first.Rows == nil {
			return source.next(ctx)
		}
		p, first.Rows = first, nil
		return p, nil
	}
	z := archive.NewZip(f)
	out, err := z.Begin("bench.xlsx", archive.MethodStore)
	if err != nil {
		return err
	}
	doc := encode.Document{Sheets: []encode.Sheet{{
		Columns: columns, Zones: encode.Zones{Display: time.UTC},
		Open: func() func(context.Context) (encode.Page, error) { return pages },
	}}}
	if _, err := xlsx.Format.Write(ctx, out, doc); err != nil {
		return err
	}
	if err := z.End(); err != nil {
		return err
	}
	_, _, err = z.Finish(ctx)
	return err
}

// streamWrite writes pages as a workbook with excelize's StreamWriter, until next returns io.EOF.
func streamWrite(f *os.File, next func() ([][]any, error)) error {
	book := excelize.NewFile()
	defer book.Close()
	w, err := book.NewStreamWriter("Sheet1")
	if err != nil {
		return err
	}
	for line := 0; ; {
		rows, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for _, values := range rows {
			line++
			cell, err := excelize.CoordinatesToCellName(1, line)
			if err != nil {
				return err
			}
			if err := w.SetRow(cell, values); err != nil {
				return err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return book.Write(f)
}
