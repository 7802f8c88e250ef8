// Package xlsx writes workbooks. It takes pages of JSON rows and encodes and deflates them in parallel. The
// same rows give the same bytes on every machine, however they are cut into pages. Memory does not grow with
// the number of rows.
package xlsx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// Format is the workbook.
var Format = encode.Format{Format: events.XLSX, Compressed: true, Write: writeDocument}

func writeDocument(ctx context.Context, out *archive.Output, doc encode.Document) (Result, error) {
	spec := Spec{Title: doc.Title, Creator: doc.Creator, Created: doc.Created, Parallel: doc.Parallel}
	if !doc.Plain {
		return writeSheets(ctx, out, spec, doc.Sheets)
	}
	spec.Columns = doc.Sheets[0].Columns
	return writeWorkbook(ctx, out, spec, doc.Sheets[0].Open())
}

// The types of the seam.
type (
	Page    = encode.Page
	Result  = encode.Result
	Warning = encode.Warning
)

// ErrSheetTooLarge is returned if a single row would push a sheet's XML beyond 4 GiB, which readers of
// workbooks refuse. Rows of up to 64 MiB of JSON cannot.
var ErrSheetTooLarge = fmt.Errorf("%w: a sheet would exceed 4 GiB of XML because of a single row", encode.ErrTooLarge)

// Spec holds all inputs of a workbook besides its pages.
type Spec struct {
	Title   string    // document property
	Creator string    // document property; default "Sheaf"
	Created time.Time // document property, also as the time of the last change; default 1980-01-01
	// Columns of the header. Default: those of page 1's first row, which is then the header, see encode.Columns.
	Columns []encode.Column
	// Parallel is the number of goroutines that encode rows, and of those that deflate. It does not affect
	// the file, but each takes a few megabytes. Default GOMAXPROCS.
	Parallel int
	// MaxSheetRows is the maximum number of rows on a sheet, header included. Further rows go to a new sheet.
	// Default and maximum 1,048,576, minimum 2.
	MaxSheetRows int
	// MaxSheetXML is the size of a sheet's XML, in bytes, from which on the next row begins a new sheet.
	// Default and maximum 3.5 GiB.
	MaxSheetXML int64
	// MaxSheetLinks is the maximum number of links of a sheet. Default and maximum 65,529. A plain workbook has
	// none.
	MaxSheetLinks int
}

func (s Spec) withDefaults() Spec {
	if s.Created.IsZero() {
		s.Created = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if s.Parallel <= 0 {
		s.Parallel = runtime.GOMAXPROCS(0)
	}
	if s.MaxSheetRows <= 0 || s.MaxSheetRows > maxRows {
		s.MaxSheetRows = maxRows
	}
	s.MaxSheetRows = max(s.MaxSheetRows, 2)
	if s.MaxSheetXML <= 0 || s.MaxSheetXML > maxSheetXML {
		s.MaxSheetXML = maxSheetXML
	}
	if s.MaxSheetLinks <= 0 || s.MaxSheetLinks > maxLinks {
		s.MaxSheetLinks = maxLinks
	}
	return s
}

// maxSheetXML leaves half a gibibyte below the 4 GiB of [maxEntry] for a sheet's last row. 64 MiB of JSON,
// the longest row, make at most 320 MiB of XML.
const maxSheetXML = 7 << 29

// Warning codes.
const (
	WarnCellCut       = "CELL_CUT"       // texts too long for a cell were cut
	WarnSheetSplit    = "SHEET_SPLIT"    // the rows did not fit on one sheet
	WarnColumnUnknown = "COLUMN_UNKNOWN" // values whose name is not in the header were left out
	// Numbers in a column became text, because a number cell would lose digits; or the source sent them as text
	// beside numbers. Each of the first 20 such columns has its own warning; one more covers the rest.
	WarnNumberAsText = "NUMBER_AS_TEXT"
)

// maxNumberWarnings is the maximum number of columns with their own WarnNumberAsText. One event holds all
// warnings, and terminals print them.
const maxNumberWarnings = 20

// maxTitleShown is the maximum number of characters of a title in a warning.
const maxTitleShown = 40

const (
	// batchBytes is how much JSON is encoded at once. Small pages are joined, so that the goroutines
	// synchronise rarely.
	batchBytes = 128 << 10
	// flightBytes is how much JSON may be in the writer at once. A larger page goes through alone.
	flightBytes = 16 << 20
)

// writeWorkbook writes a plain workbook of the pages to out. How the rows are cut into pages makes no
// difference to its bytes. Memory is bounded whatever the size of a row.
func writeWorkbook(ctx context.Context, out *archive.Output, spec Spec,
	next func(context.Context) (Page, error)) (Result, error) {
	w := &workbookWriter{spec: spec.withDefaults()}
	w.entries.out = out
	if err := w.plain(ctx, next); err != nil {
		return Result{}, fmt.Errorf("write the workbook: %w", err)
	}
	if err := w.finish(); err != nil {
		return Result{}, fmt.Errorf("write the workbook: %w", err)
	}
	return w.sheets.result(), nil
}

// writeSheets writes a workbook of several sheets, one after the other, as writeWorkbook does.
func writeSheets(ctx context.Context, out *archive.Output, spec Spec, all []encode.Sheet) (r Result, err error) {
	w := &workbookWriter{spec: spec.withDefaults()}
	w.entries.out = out
	w.book = newBook(w.spec)
	heads, names := make([]*header, len(all)), make([]string, len(all))
	for i, sheet := range all {
		if heads[i], err = w.book.newTypedHeader(sheet); err != nil {
			return Result{}, fmt.Errorf("write the workbook: %w", err)
		}
		names[i] = w.book.name(sheet.Title)
	}
	number := 1
	for i, sheet := range all {
		if err := w.rows(ctx, heads[i], number, names[i], sheet.Open()); err != nil {
			return Result{}, fmt.Errorf("write the workbook: %w", err)
		}
		number = w.sheets.number + 1
		if w.sheets.notes != nil {
			if err := w.sheets.notes.Err(sheet); err != nil {
				return Result{}, err
			}
		}
		one := w.sheets.result()
		r.Rows = append(r.Rows, one.Rows...)
		r.Tables += one.Tables
		r.Warnings = append(r.Warnings, one.Warnings...)
	}
	if err := w.finish(); err != nil {
		return Result{}, fmt.Errorf("write the workbook: %w", err)
	}
	return r, nil
}

// workbookWriter is one run of writeWorkbook or writeSheets.
//
//	feed → encoders → lay (sheets) → deflaters → save (entryWriter)
//
// feed and lay are connected by the queue ordered, lay and save by the queue saved. Both are in file order;
// encoders and deflaters complete the elements in any order. The queues also bound memory.
type workbookWriter struct {
	spec     Spec
	skeleton *skeleton // of a plain workbook
	book     *book     // of any other
	sheets   *sheets   // of the rows that are written
	entries  entryWriter
}

// early are the parts written before the sheets. Tools that recognise workbooks look for them
// among the first entries.
var early = []string{"_rels/.rels", "docProps/app.xml", "docProps/core.xml", "xl/theme/theme1.xml",
	"xl/styles.xml"}

// late are the parts that depend on the number of sheets.
var late = []string{workbookPart, "xl/_rels/workbook.xml.rels", "[Content_Types].xml"}

// firstPage returns page 1.
func firstPage(ctx context.Context, next func(context.Context) (Page, error)) (Page, error) {
	first, err := next(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return first, encode.ErrNoPages
	case err != nil:
		return first, fmt.Errorf("page 1: %w", err)
	case first.Number != 1:
		return first, fmt.Errorf("%w: page %d came first", encode.ErrPageOrder, first.Number)
	}
	return first, nil
}

// plain writes all entries of a plain workbook except the late ones.
func (w *workbookWriter) plain(ctx context.Context, next func(context.Context) (Page, error)) error {
	first, err := firstPage(ctx, next)
	if err != nil {
		return err
	}
	columns := w.spec.Columns
	if columns == nil {
		columns = encode.Columns(first.Rows)
		first.SkipFirst = true
	}
	head, err := newHeader(columns)
	if err != nil {
		return err
	}
	if w.skeleton, err = newSkeleton(w.spec, head); err != nil {
		return err
	}
	return w.write(ctx, &sheets{head: head, first: 1}, first, next)
}

// rows writes the sheets of the rows that next returns. number is that of the first.
func (w *workbookWriter) rows(ctx context.Context, head *header, number int, name string,
	next func(context.Context) (Page, error)) error {
	first, err := firstPage(ctx, next)
	if err != nil {
		return err
	}
	return w.write(ctx, &sheets{head: head, first: number, number: number - 1, name: name}, first, next)
}

// write writes the entries of s. next returns the pages after the first.
func (w *workbookWriter) write(ctx context.Context, s *sheets, first Page,
	next func(context.Context) (Page, error)) error {
	head := s.head
	n := w.spec.Parallel
	encoders := make([]*encoder, n)
	if head != nil {
		for i := range encoders {
			var err error
			if encoders[i], err = newEncoder(head, w.spec.MaxSheetRows); err != nil {
				return err
			}
		}
	}

	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)

	var (
		batches   = make(chan *batch)
		ordered   = make(chan *batch, 2*n)
		deflating = make(chan *block)
		saved     = make(chan item, 4*n)
		flight    = semaphore.NewWeighted(flightBytes)
	)
	s.ctx, s.spec, s.skeleton, s.book = ctx, w.spec, w.skeleton, w.book
	w.sheets = s
	w.sheets.out = func(it item) error {
		if it.block != nil {
			if err := send(ctx, deflating, it.block); err != nil {
				return err
			}
		}
		return send(ctx, saved, it)
	}
	if head != nil {
		w.sheets.widths = make([]uint8, len(head.titles))
		w.sheets.numbers = make([]columnNumbers, len(head.titles))
		w.sheets.texts = make([]columnNumbers, len(head.titles))
		for i, title := range head.titles {
			w.sheets.widths[i] = textWidth(title)
			if w.book != nil { // the button of the filter covers the end of the title
				w.sheets.widths[i] = min(w.sheets.widths[i]+filterWidth, maxWidth)
			}
		}
	}

	f := &feeder{next: next, base: &w.sheets.base, head: head, flight: flight, batches: batches,
		ordered: ordered, page: first}
	running.Go(func() {
		defer close(batches)
		defer close(ordered)
		if err := f.run(ctx); err != nil {
			// Queued in order, so that errors of earlier rows win.
			_ = send(ctx, ordered, &batch{err: err})
		}
	})
	for _, e := range encoders {
		if head != nil {
			running.Go(func() { encodeBatches(ctx, e, batches) })
		}
		running.Go(func() {
			if err := deflate(deflating); err != nil {
				cancel(err)
			}
		})
	}
	allSaved := make(chan struct{})
	running.Go(func() {
		defer close(allSaved)
		if err := w.save(ctx, saved); err != nil {
			cancel(err)
		}
	})

	err := w.lay(ctx, ordered, flight)
	close(deflating)
	close(saved)
	if err != nil {
		cancel(err)
		return err
	}
	<-allSaved
	return context.Cause(ctx)
}

// send sends v unless ctx ends first.
func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// receive returns the next value; ok is false at the end.
func receive[T any](ctx context.Context, from <-chan T) (v T, ok bool, err error) {
	select {
	case v, ok = <-from:
		return v, ok, nil
	case <-ctx.Done():
		return v, false, context.Cause(ctx)
	}
}

// batch is a run of successive pages that are encoded together.
type batch struct {
	pages  []Page
	first  int64 // number of data rows before it
	rows   int   // number of data rows in it
	base   int64 // global index of the data row assumed to start the current sheet; see place
	weight int64 // its share of flightBytes
	err    error // the pages end with this error; all other fields are unset

	chunks chan *chunk // closed after the last
}

func (b *batch) receive(ctx context.Context) (*chunk, error) {
	c, _, err := receive(ctx, b.chunks)
	return c, err
}

// feeder calls next and groups the pages into batches.
type feeder struct {
	next    func(context.Context) (Page, error)
	base    *atomic.Int64 // of the sheets
	head    *header
	flight  *semaphore.Weighted
	batches chan<- *batch
	ordered chan<- *batch

	page Page // page 1 at first
	b    *batch
	rows int64 // data rows in all batches sent so far
}

// run feeds all pages. It queues an error behind the pages before it.
func (f *feeder) run(ctx context.Context) error {
	f.b = &batch{}
	var failed error
	for failed == nil {
		if err := f.add(ctx, f.page); err != nil {
			return err
		}
		number := f.page.Number + 1
		f.page, failed = f.next(ctx)
		switch {
		case errors.Is(failed, io.EOF):
		case failed != nil:
			failed = fmt.Errorf("page %d: %w", number, failed)
		case f.page.Number != number:
			failed = fmt.Errorf("%w: page %d came where page %d should be", encode.ErrPageOrder, f.page.Number,
				number)
		}
	}
	if err := f.flush(ctx); err != nil {
		return err
	}
	if errors.Is(failed, io.EOF) {
		return nil
	}
	return failed
}

// add adds a page to the batch and sends the batch once it is full.
func (f *feeder) add(ctx context.Context, p Page) error {
	if p.RowCount <= 0 {
		for c := rows.NewCursor(p.Rows); c.NextRow(); {
			p.RowCount++
		}
	}
	if p.RowCount == 0 {
		return nil
	}
	if f.head == nil {
		return fmt.Errorf("%w: page %d", encode.ErrNoHeader, p.Number)
	}
	weight := min(int64(len(p.Rows)), flightBytes)
	if f.b.weight > 0 && f.b.weight+weight > batchBytes {
		if err := f.flush(ctx); err != nil {
			return err
		}
	}
	if err := f.flight.Acquire(ctx, weight); err != nil {
		return context.Cause(ctx)
	}
	f.b.pages = append(f.b.pages, p)
	f.b.weight += weight
	f.b.rows += p.RowCount
	if p.SkipFirst {
		f.b.rows--
	}
	if f.b.weight >= batchBytes {
		return f.flush(ctx)
	}
	return nil
}

// flush sends the batch.
func (f *feeder) flush(ctx context.Context) error {
	b := f.b
	if len(b.pages) == 0 {
		return nil
	}
	f.b = &batch{}
	b.first, b.base = f.rows, f.base.Load()
	b.chunks = make(chan *chunk, 2)
	f.rows += int64(b.rows)
	if err := send(ctx, f.ordered, b); err != nil {
		return err
	}
	return send(ctx, f.batches, b)
}

// encodeBatches encodes batches until the channel is closed.
func encodeBatches(ctx context.Context, e *encoder, batches <-chan *batch) {
	for b := range batches {
		e.emit = func(c *chunk) error { return send(ctx, b.chunks, c) }
		if err := e.batch(b, 0); err != nil {
			_ = send(ctx, b.chunks, &chunk{err: err})
		}
		close(b.chunks)
	}
}

// lay lays all batches into sheets.
func (w *workbookWriter) lay(ctx context.Context, ordered <-chan *batch, flight *semaphore.Weighted) error {
	if err := w.sheets.open(); err != nil {
		return err
	}
	for {
		b, ok, err := receive(ctx, ordered)
		switch {
		case err != nil:
			return err
		case !ok:
			return w.sheets.end()
		case b.err != nil:
			return b.err
		}
		if err := w.sheets.batch(b); err != nil {
			return err
		}
		for _, p := range b.pages {
			if p.Release != nil {
				p.Release()
			}
		}
		flight.Release(b.weight)
	}
}

// deflate compresses blocks until the channel is closed.
func deflate(blocks <-chan *block) error {
	d := getDeflater()
	defer putDeflater(d)
	for b := range blocks {
		if err := b.deflate(d); err != nil {
			return err
		}
	}
	return nil
}

// save writes items to the file until the channel is closed.
func (w *workbookWriter) save(ctx context.Context, items <-chan item) error {
	for it := range items {
		if it.block != nil {
			if _, _, err := receive(ctx, it.block.done); err != nil {
				return err
			}
		}
		if err := w.entries.write(it); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the late parts and the central directory.
func (w *workbookWriter) finish() error {
	e, o := &w.entries, w.entries.out
	for _, name := range late {
		content, err := w.sheets.part(name)
		if err != nil {
			return err
		}
		if err := e.part(name, content); err != nil {
			return err
		}
	}
	_, err := o.Write(archive.AppendDirectory(nil, e.entries, o.Len()))
	return err
}

// result reports what was written.
func (s *sheets) result() Result {
	tables := s.number - s.first + 1
	r := Result{Rows: []int64{s.total}, Tables: tables}
	if c := s.cuts; c.n > 0 {
		ref := s.cellName(c.sheet, c.column, c.row)
		r.Warnings = append(r.Warnings, Warning{
			Code: WarnCellCut, Count: c.n, First: ref,
			Message: fmt.Sprintf("%s held more than %d characters and %s cut; the first is %s.", encode.Count(c.n, "cell"),
				maxCellText, encode.One(c.n, "was", "were"), ref),
		})
	}
	if tables > 1 {
		r.Warnings = append(r.Warnings, Warning{
			Code: WarnSheetSplit, Count: int64(tables), First: s.sheetName(s.first + 1),
			Message: fmt.Sprintf("The rows did not fit on one sheet; there are %d, each with the header.",
				tables),
		})
	}
	r.Warnings = append(r.Warnings, s.numberWarnings()...)
	if u := s.unlinked; u.n > 0 {
		ref := s.cellName(u.sheet, int(u.column), int(u.row))
		r.Warnings = append(r.Warnings, Warning{
			Code: cells.WarnLinksCut, Count: u.n, First: ref,
			Message: fmt.Sprintf("%s %s no link, because a sheet holds at most %d; the first is %s.", encode.Count(u.n, "cell"),
				encode.One(u.n, "has", "have"), s.spec.MaxSheetLinks, ref),
		})
	}
	if s.notes != nil {
		r.Warnings = append(r.Warnings, s.notes.WarningsAt(*s.head.sheet, func(column int, row int64) string {
			sheet, number := s.place(row)
			return s.cellName(sheet, column, number)
		})...)
	}
	if u := s.unknown; u.n > 0 {
		r.Warnings = append(r.Warnings, Warning{
			Code: WarnColumnUnknown, Count: u.n, First: u.name,
			Message: cells.Unknown(u.n, u.name, u.row),
		})
	}
	return r
}

// numberWarnings returns the warnings about columns with numbers that are text.
func (s *sheets) numberWarnings() []Warning {
	became := s.numbersAsText(s.numbers, "because a number cell would lose digits")
	mixed := slices.Clone(s.texts)
	for i := range mixed {
		if !s.head.numeric[i].Load() {
			mixed[i].n = 0
		}
	}
	return append(became, s.numbersAsText(mixed, "as the source sent them, beside cells that are numbers (type number makes them numbers)")...)
}

// numbersAsText returns a warning for each column with a count, and one for the columns that are too many.
func (s *sheets) numbersAsText(columns []columnNumbers, because string) (all []Warning) {
	var others, numbers int64
	for i, c := range columns {
		switch {
		case c.n == 0:
		case len(all) == maxNumberWarnings:
			others, numbers = others+1, numbers+c.n
		default:
			ref := s.cellName(c.sheet, i, c.row)
			all = append(all, Warning{
				Code: WarnNumberAsText, Count: c.n, First: ref,
				Message: fmt.Sprintf("%s in column %q %s text, %s; the first is %s.", encode.Count(c.n, "number"),
					shownText(s.head.titles[i], maxTitleShown), encode.One(c.n, "is", "are"), because, ref),
			})
		}
	}
	if others > 0 {
		all = append(all, Warning{
			Code: WarnNumberAsText, Count: numbers,
			Message: fmt.Sprintf("%d numbers in %d further columns are text, %s.", numbers, others, because),
		})
	}
	return all
}
