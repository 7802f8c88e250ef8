// Package parquet writes Apache Parquet. A column has one type for all rows of the file, so the rows are read
// twice: first to find the types, then to write them.
package parquet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parquet-go/parquet-go"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// Format is Parquet, with one sheet a file.
//
// All columns are optional, and their names are the keys of the rows. A column of type auto, or of a header,
// gets the narrowest type that holds all its values as sent: INT64, DOUBLE if each number equals the shortest
// decimal of its float64, BOOLEAN, JSON for objects and arrays, else STRING. A declared type is kept; numbers
// are DECIMAL if the format of the column shows decimals and all numbers have no more, else as above. A date
// is DATE, and a datetime TIMESTAMP in microseconds, adjusted to UTC unless one of the column has no zone:
// then it holds the wall clock that is shown. Finer fractions of a second are cut. A value that does not fit
// a declared type is null; the warning CELL_TYPE counts them.
var Format = encode.Format{Format: events.Parquet, Compressed: true, Write: writeDocument}

// Sizes of a file's parts, and limits. Memory is that of one row group, 4 KiB to 20 KiB for each column, and
// the directory of the row groups before.
const (
	groupRows  = 65_536   // of a row group
	groupBytes = 32 << 20 // of a row group in memory; the row that exceeds it is the last
	cellBytes  = 16       // of a cell in memory, besides its text
	pageBytes  = 1 << 20  // of a data page
	chunkRows  = 1024     // that are handed to the columns at once
	chunkCells = 64 << 10 // likewise, of rows with many columns
	dictionary = 1 << 20  // bytes from which on the further texts of a column are written one by one

	maxEntries = 1 << 18 // in the directory, which has one of 0.9 KiB for each column of each row group
)

// Compressed pages of a column grow by one buffer. All columns together have allBuffers, if they can.
const minBuffer, maxBuffer, allBuffers = 512, 32 << 10, 8 << 20

// maxColumns is low because a column takes memory even if it is empty.
var maxColumns = events.Parquet.MaxColumns

// Texts of CELL_TYPE, in place of cells.AreText and cells.IsText.
const areEmpty, isEmpty = " and are empty" + oneType, " and is empty" + oneType

const oneType = " in Parquet, whose columns have one type"

func writeDocument(ctx context.Context, out *archive.Output, doc encode.Document) (encode.Result, error) {
	r, err := writeSheet(ctx, out, doc.Sheets[0], doc.Parallel)
	if err != nil {
		return encode.Result{}, fmt.Errorf("write the Parquet file: %w", err)
	}
	return r, nil
}

func writeSheet(ctx context.Context, out io.Writer, sheet encode.Sheet, parallel int) (encode.Result, error) {
	if len(sheet.Columns) > maxColumns {
		return encode.Result{}, &encode.TooManyColumnsError{Columns: len(sheet.Columns), Max: maxColumns}
	}
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	columns, err := columnsOf(ctx, sheet)
	if err != nil {
		return encode.Result{}, err
	}
	w := &writer{out: out, columns: columns, parallel: min(parallel, len(columns))}
	notes, total, err := w.rows(ctx, sheet)
	if err != nil {
		return encode.Result{}, err
	}
	warnings := notes.Warnings(sheet)
	for i := range warnings {
		if warnings[i].Code == cells.WarnCellType {
			warnings[i].Message = strings.NewReplacer(cells.AreText, areEmpty, cells.IsText, isEmpty).Replace(warnings[i].Message)
		}
	}
	return encode.Result{Rows: []int64{total}, Tables: 1, Warnings: warnings}, nil
}

// columnsOf reads all rows to find the types of the columns.
func columnsOf(ctx context.Context, sheet encode.Sheet) ([]column, error) {
	all := make([]seen, len(sheet.Columns))
	reader, err := cells.NewReader(sheet)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, sheet, func(c *rows.Cursor) error {
		row := reader.Row(c)
		for i := range row {
			all[i].add(&row[i])
		}
		return nil
	})
	if err == nil {
		err = reader.Notes().Err(sheet)
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(sheet.Columns))
	for i, c := range sheet.Columns {
		names[i] = c.Name
	}
	names = uniqueNames(names)
	columns := make([]column, len(sheet.Columns))
	for i := range columns {
		columns[i].name = names[i]
		columns[i].kind, columns[i].scale = all[i].typeOf(&sheet.Columns[i])
	}
	if len(columns) == 0 {
		columns = []column{{name: "column"}} // DuckDB refuses a file without columns
	}
	return columns, nil
}

// eachRow reads the pages and calls do with a cursor at each data row.
func eachRow(ctx context.Context, sheet encode.Sheet, do func(*rows.Cursor) error) error {
	next := sheet.Open()
	for number := 1; ; number++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		p, err := next(ctx)
		switch {
		case errors.Is(err, io.EOF) && number == 1:
			return encode.ErrNoPages
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("page %d: %w", number, err)
		case p.Number != number:
			return fmt.Errorf("%w: page %d came where page %d should be", encode.ErrPageOrder, p.Number, number)
		}
		n := 0
		for c := rows.NewCursor(p.Rows); c.NextRow(); n++ {
			if n == 0 && p.SkipFirst {
				continue
			}
			if len(sheet.Columns) == 0 {
				return fmt.Errorf("%w: page %d", encode.ErrNoHeader, number)
			}
			if err := do(&c); err != nil {
				return err
			}
		}
		if p.RowCount > 0 && n != p.RowCount {
			return &encode.RowsError{Page: number, Want: p.RowCount, Got: n}
		}
		if p.Release != nil {
			p.Release()
		}
	}
}

// writer is the second reading of a sheet. One goroutine turns rows into chunks of values, and the columns
// of the chunk before are encoded in the meantime.
type writer struct {
	out      io.Writer
	columns  []column
	parallel int
	file     *parquet.GenericWriter[any]
	groups   int // row groups written
}

// chunk holds the values of some rows, column by column.
type chunk struct {
	rows     int
	values   [][]parquet.Value
	text     []byte // that the values point into, or into what it was before it grew
	endGroup bool   // the row group ends behind it
}

// rows writes all rows and returns their number.
func (w *writer) rows(ctx context.Context, sheet encode.Sheet) (*cells.Notes, int64, error) {
	reader, err := cells.NewReader(sheet)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel(nil)

	filled, empty := make(chan *chunk), make(chan *chunk, 2)
	for range cap(empty) {
		empty <- &chunk{values: make([][]parquet.Value, len(w.columns))}
	}
	total, failed := int64(0), error(nil)
	reading.Go(func() {
		defer close(filled)
		total, failed = w.read(ctx, sheet, reader, filled, empty)
	})
	for c := range filled {
		if err := w.write(c); err != nil {
			cancel(err)
			return nil, 0, err
		}
		c.reset()
		empty <- c
	}
	if failed != nil {
		return nil, 0, failed
	}
	if w.file == nil {
		w.open(nil)
	}
	return reader.Notes(), total, w.file.Close()
}

// read turns all rows into chunks. Where they and the row groups end depends on the rows alone.
func (w *writer) read(ctx context.Context, sheet encode.Sheet, reader *cells.Reader, filled chan<- *chunk,
	empty <-chan *chunk) (total int64, err error) {
	maxRows := max(1, min(chunkRows, chunkCells/max(1, len(w.columns))))
	inGroup, size := 0, 0 // of the row group
	c := <-empty
	send := func() error {
		select {
		case filled <- c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case c = <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return nil
	}
	err = eachRow(ctx, sheet, func(at *rows.Cursor) error {
		before := len(c.text)
		row := reader.Row(at)
		for i := range row {
			v, level := w.columns[i].value(c, &row[i]), 1
			if v.IsNull() {
				level = 0
			}
			c.values[i] = append(c.values[i], v.Level(0, level, i))
		}
		total++
		c.rows++
		inGroup++
		size += len(c.text) - before + cellBytes*len(w.columns)
		if inGroup == groupRows || size >= groupBytes {
			c.endGroup, inGroup, size = true, 0, 0
		}
		if c.endGroup || c.rows == maxRows || len(c.text) >= pageBytes {
			return send()
		}
		return nil
	})
	if err == nil && c.rows > 0 {
		c.endGroup = true
		err = send()
	}
	return total, err
}

func (c *chunk) reset() {
	for i := range c.values {
		c.values[i] = c.values[i][:0]
	}
	c.rows, c.text, c.endGroup = 0, c.text[:0], false
	if cap(c.text) > 2*pageBytes {
		c.text = nil
	}
}

// open begins the file. first is the first chunk, nil if there are no rows.
func (w *writer) open(first *chunk) {
	if first != nil {
		for i := range w.columns {
			w.columns[i].repeats = w.columns[i].kind == stringKind && repeat(first.values[i])
		}
	}
	w.file = parquet.NewGenericWriter[any](w.out, &parquet.WriterConfig{
		CreatedBy:            "Sheaf",
		ColumnPageBuffers:    parquet.NewChunkBufferPool(max(minBuffer, min(maxBuffer, allBuffers/len(w.columns)))),
		ColumnIndexSizeLimit: func([]string) int { return parquet.DefaultColumnIndexSizeLimit },
		PageBufferSize:       pageBytes,
		WriteBufferSize:      256 << 10,
		DataPageVersion:      1,
		DataPageStatistics:   true,
		Schema:               schemaOf(w.columns),
		Compression:          &parquet.Zstd,
		DictionaryMaxBytes:   dictionary,
		MaxRowsPerRowGroup:   2 * groupRows,
	})
}

// repeat reports whether at most half of the values differ.
func repeat(values []parquet.Value) bool {
	different := map[string]struct{}{}
	for _, v := range values {
		different[string(v.ByteArray())] = struct{}{}
	}
	return len(different) <= len(values)/2
}

// write encodes the columns of a chunk.
func (w *writer) write(c *chunk) error {
	if w.file == nil {
		w.open(c)
	}
	if (w.groups+1)*len(w.columns) > maxEntries {
		return fmt.Errorf("%w: more than %d row groups of %d columns", encode.ErrTooLarge, w.groups, len(w.columns))
	}
	columns := w.file.ColumnWriters()
	var next atomic.Int64
	errs := make([]error, w.parallel)
	work := func(n int) {
		for errs[n] == nil {
			i := int(next.Add(1)) - 1
			if i >= len(columns) {
				return
			}
			if _, errs[n] = columns[i].WriteRowValues(c.values[i]); errs[n] == nil && c.endGroup {
				errs[n] = columns[i].Flush()
			}
		}
	}
	var working sync.WaitGroup
	for n := 1; n < w.parallel; n++ {
		working.Go(func() { work(n) })
	}
	work(0)
	working.Wait()
	if err := errors.Join(errs...); err != nil || !c.endGroup {
		return err
	}
	w.groups++
	return w.file.Flush()
}
