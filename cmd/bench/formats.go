//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/csv"
	"sheaf/services/assembler/encode/html"
	textjson "sheaf/services/assembler/encode/json"
	"sheaf/services/assembler/encode/parquet"
	"sheaf/services/assembler/encode/xlsx"
)

// documentFormats are the formats that the part "formats" measures. The first is that of the ratios.
var documentFormats = []encode.Format{xlsx.Format, csv.Format, csv.TSV, textjson.Lines, textjson.Format, parquet.Format,
	html.Format}

// formatCase is a line of the table.
type formatCase struct {
	name   string
	format string
	flags  []string
}

// formatCases are all formats; the first without types, and those that are compressed in a zip likewise.
func formatCases() (all []formatCase) {
	for i, f := range documentFormats {
		if i == 0 {
			all = append(all, formatCase{f.Name, f.Name, nil}, formatCase{f.Name + ", six columns typed", f.Name, []string{"-typed"}})
			continue
		}
		all = append(all, formatCase{f.Name, f.Name, nil})
		if !f.Compressed {
			all = append(all, formatCase{f.Name + " in a zip", f.Name, []string{"-zip"}})
		}
	}
	return all
}

// formats compares the formats. Each run is a process, as in writer.
func (b *bench) formats(ctx context.Context) (string, error) {
	pages := filepath.Join(b.dir, "pages")
	if err := writePages(pages, b.formatRows, exportLimit); err != nil {
		return "", err
	}
	cases := formatCases()
	results := make([][]written, len(cases))
	for i := range b.formatPairs {
		for n, c := range cases {
			progress("run %d of %d: %s", i+1, b.formatPairs, c.name)
			u, err := run(ctx, append([]string{b.self, "format", "-name", c.format, "-pages", pages, "-o",
				filepath.Join(b.dir, "written")}, c.flags...)...)
			if err != nil {
				return "", err
			}
			var w written
			if err := json.Unmarshal([]byte(u.out), &w); err != nil {
				return "", err
			}
			results[n] = append(results[n], w)
		}
	}
	seconds := func(n int) (s []float64) {
		for _, w := range results[n] {
			s = append(s, w.Seconds)
		}
		return s
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s rows of 8 mixed columns from JSON pages on disk to a finished document, each run in a separate process, "+
		"%d runs each:\n\n| | rows a second | × | processor seconds | file | peak memory |\n|---|---|---|---|---|---|\n",
		thousands(b.formatRows), b.formatPairs)
	for n, c := range cases {
		var cpu []float64
		var peaks []int64
		for _, w := range results[n] {
			cpu, peaks = append(cpu, w.CPU), append(peaks, w.Peak)
		}
		times := ""
		if n > 0 {
			times = of(seconds(0), seconds(n)).String()
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %.2f | %s | %s |\n", c.name, thousands(int(float64(b.formatRows)/median(seconds(n)))),
			times, median(cpu), megabytes(results[n][0].Size), mebibytes(slices.Max(peaks)))
	}
	typed := median(of(seconds(1), seconds(0)))
	b.target("a workbook with six typed columns against one without", "at most 1.15×", fmt.Sprintf("%.2f×", typed), typed <= 1.15)
	for n, c := range cases {
		if c.format == events.CSV.Name && c.flags == nil {
			r := median(of(seconds(0), seconds(n)))
			b.target("CSV against a workbook", "at least 3×", fmt.Sprintf("%.1f×", r), r >= 3)
		}
	}
	text.WriteString("\nThe × is the speed relative to the first line. The processes have the memory limit of a running Sheaf.\n")
	return text.String(), nil
}

// processMemory is the memory limit of a running Sheaf, see cmd/sheaf/node/gc.go.
const processMemory = 128 << 20

// typedColumns are those of sourceHeader with six types.
func typedColumns(columns []encode.Column) []encode.Column {
	types := map[string]events.Column{
		"id": {Type: events.ColumnNumber, Format: "0"}, "sn": {Type: events.ColumnText},
		"amount": {Type: events.ColumnNumber, Format: "#,##0.00"}, "paid": {Type: events.ColumnBool},
		"created_at": {Type: events.ColumnDatetime}, "city": {Type: events.ColumnText},
	}
	for i := range columns {
		spec := types[columns[i].Name]
		spec.Key, spec.Title = columns[i].Name, columns[i].Title
		columns[i].Spec = &spec
	}
	return columns
}

// writeFormat is the process "bench format": it writes one document and reports the time it took.
func writeFormat(ctx context.Context, args []string, report io.Writer) error {
	flags := flag.NewFlagSet("format", flag.ContinueOnError)
	name := flags.String("name", "", "")
	typed := flags.Bool("typed", false, "")
	zipped := flags.Bool("zip", false, "")
	pages := flags.String("pages", "", "")
	out := flags.String("o", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	i := slices.IndexFunc(documentFormats, func(f encode.Format) bool { return f.Name == *name })
	if i < 0 {
		return fmt.Errorf("-name %q", *name)
	}
	debug.SetMemoryLimit(processMemory)
	in, err := os.Open(*pages)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	open := func() func(context.Context) (encode.Page, error) {
		source := &pageFile{r: bufio.NewReaderSize(io.NewSectionReader(in, 0, info.Size()), 1<<20)}
		return func(ctx context.Context) (encode.Page, error) {
			p, err := source.next(ctx)
			p.SkipFirst = true
			return p, err
		}
	}
	first, err := open()(ctx)
	if err != nil {
		return err
	}
	sheet := encode.Sheet{Columns: encode.Columns(first.Rows), Zones: encode.Zones{Display: time.UTC}, Open: open}
	if *typed {
		sheet.Columns, sheet.Chosen = typedColumns(sheet.Columns), true
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer f.Close()

	self := &process{pid: os.Getpid()}
	before, err := self.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := writeDocument(ctx, f, documentFormats[i], encode.Document{Sheets: []encode.Sheet{sheet}, Plain: !*typed}, *zipped); err != nil {
		return err
	}
	w := written{Seconds: time.Since(begin).Seconds()}
	after, err := self.cpu()
	if err != nil {
		return err
	}
	w.CPU = (after - before).Seconds()
	if info, err = f.Stat(); err != nil {
		return err
	}
	w.Size = info.Size()
	if w.Peak, err = peakOf("self"); err != nil {
		return err
	}
	return json.NewEncoder(report).Encode(w)
}

// writeDocument writes a document with its checksum, as the assembler does: as the file, or into a zip.
func writeDocument(ctx context.Context, f *os.File, format encode.Format, doc encode.Document, zipped bool) error {
	if !zipped {
		out := archive.Plain(f)
		_, err := format.Write(ctx, out, doc)
		if err == nil {
			_, err = out.Finish(ctx)
		}
		return err
	}
	z := archive.NewZip(f)
	out, err := z.Begin("bench"+format.Ext, archive.MethodDeflate)
	if err != nil {
		return err
	}
	_, err = format.Write(ctx, out, doc)
	if err = errors.Join(err, z.End()); err == nil {
		_, _, err = z.Finish(ctx)
	}
	return err
}
