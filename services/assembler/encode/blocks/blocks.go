// Package blocks writes documents whose rows are bytes that follow each other, such as CSV and NDJSON. It
// encodes and compresses rows in parallel and writes them in order.
//
//	feed → workers (encode, deflate) → Write
//
// The pages, in batches, go to the workers. The queue of batches keeps their order; each batch has a queue of
// its own for the blocks that its worker makes. Both queues are short and so bound memory.
package blocks

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"golang.org/x/sync/semaphore"

	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
)

// Encoder turns rows into bytes. It is used by one goroutine. N is the type of its notes.
type Encoder[N any] interface {
	// Row appends the row that c has just moved to. n is its number, from 0, among the data rows of the sheet.
	Row(to *Buffer, c *rows.Cursor, n int64)
	// Notes returns the notes since the last call. The encoder does not use it any more.
	Notes() N
}

// Job is a document to be written.
type Job[N any] struct {
	Sheet    encode.Sheet
	Parallel int    // number of encoders; 0: one per core. It does not change the bytes
	Head     []byte // before the rows
	New      func() (Encoder[N], error)
	Merge    func(N) // takes the notes of the encoders, in the order of the rows; Write calls it
	// Tail returns the bytes after the rows. rows is their number. Nil: there are none.
	Tail func(rows int64) []byte
}

const (
	// batchBytes is how much JSON is encoded at once. Small pages are joined.
	batchBytes = 256 << 10
	// flightBytes is how much JSON may be in the writer at once. A larger page goes through alone.
	flightBytes = 16 << 20
	// CutBytes is the size from which on encoded bytes become a block. Each block starts with an empty
	// window, so small blocks cost size.
	CutBytes = 256 << 10
	// deflateLevel is that of the text in workbooks.
	deflateLevel = 6
)

// Write writes the document and returns its number of data rows. The bytes depend on the pages and the job
// alone, not on Job.Parallel. Blocks follow the borders of pages, so rows that are cut into other pages give the
// same document, but compressed they may give other bytes.
//
// Memory is bounded: at most 16 MiB of pages, or one larger page, and three blocks for each encoder. A block
// has 256 KiB and at most one cell more. No goroutine outlives the call.
func Write[N any](ctx context.Context, out *archive.Output, job Job[N]) (int64, error) {
	n := job.Parallel
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	encoders := make([]Encoder[N], n)
	if job.Sheet.Columns != nil {
		for i := range encoders {
			e, err := job.New()
			if err != nil {
				return 0, err
			}
			encoders[i] = e
		}
	}
	head := &Buffer{B: job.Head, packs: out.Packed()}
	if err := head.writeTo(out, false); err != nil {
		return 0, err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	var (
		batches = make(chan *batch[N])
		ordered = make(chan *batch[N], 2*n)
		flight  = semaphore.NewWeighted(flightBytes)
	)
	f := &feeder[N]{
		next: job.Sheet.Open(), header: job.Sheet.Columns != nil, flight: flight, batches: batches, ordered: ordered,
	}
	running.Go(func() {
		defer close(batches)
		defer close(ordered)
		if err := f.run(ctx); err != nil {
			// Queued in order, so that errors of earlier rows win.
			_ = send(ctx, ordered, &batch[N]{err: err})
		}
	})
	for _, e := range encoders {
		if e != nil {
			running.Go(func() {
				for b := range batches {
					b.encode(ctx, e, out.Packed())
				}
			})
		}
	}
	written, err := save(ctx, out, ordered, job.Merge, flight)
	if err != nil {
		cancel(err)
		return 0, err
	}
	tail := &Buffer{packs: out.Packed()}
	if job.Tail != nil {
		tail.B = job.Tail(written)
	}
	return written, tail.writeTo(out, true)
}

// save writes the blocks of all batches and returns the number of rows.
func save[N any](ctx context.Context, out *archive.Output, ordered <-chan *batch[N], merge func(N),
	flight *semaphore.Weighted) (written int64, err error) {
	for {
		b, ok, err := receive(ctx, ordered)
		switch {
		case err != nil || !ok:
			return written, err
		case b.err != nil:
			return 0, b.err
		}
		for {
			block, ok, err := receive(ctx, b.blocks)
			if err != nil {
				return 0, err
			}
			if !ok {
				break
			}
			if err := out.WriteBlock(block.raw, block.crc, block.packed); err != nil {
				return 0, err
			}
			block.free()
		}
		if b.failed != nil {
			return 0, b.failed
		}
		merge(b.notes)
		written += int64(b.rows)
		for _, p := range b.pages {
			if p.Release != nil {
				p.Release()
			}
		}
		flight.Release(b.weight)
	}
}

// batch is a run of successive pages that are encoded together.
type batch[N any] struct {
	pages  []encode.Page
	first  int64 // number of data rows before it
	rows   int   // number of data rows in it
	weight int64 // its share of flightBytes
	err    error // the pages end with this error; all other fields are unset

	blocks chan *block // closed once the fields below are set
	notes  N
	failed error
}

// encode encodes the rows of the batch and closes its blocks.
func (b *batch[N]) encode(ctx context.Context, e Encoder[N], packs bool) {
	defer close(b.blocks)
	to := &Buffer{packs: packs, emit: func(made *block) error { return send(ctx, b.blocks, made) }}
	to.B = newBytes()
	n := b.first
	for _, p := range b.pages {
		count := 0
		c := rows.NewCursor(p.Rows) // not in the for statement, which would allocate one for each row
		for c.NextRow() {
			if count++; count == 1 && p.SkipFirst {
				continue
			}
			if count > p.RowCount {
				continue
			}
			e.Row(to, &c, n)
			n++
			if to.Cut(); to.err != nil {
				b.failed = to.err
				return
			}
		}
		if count != p.RowCount {
			b.failed = &encode.RowsError{Page: p.Number, Want: p.RowCount, Got: count}
			return
		}
	}
	if len(to.B) > 0 {
		to.send()
	} else {
		freeBytes(to.B)
	}
	b.notes, b.failed = e.Notes(), to.err
}

// Buffer receives the bytes of rows.
type Buffer struct {
	B []byte // what was appended; an encoder appends to it

	packs bool
	emit  func(*block) error
	err   error
}

// Cut may move the bytes from B into a block. An encoder calls it between the cells of a row, so that a long
// row needs no more memory than another.
func (t *Buffer) Cut() {
	if len(t.B) >= CutBytes {
		t.send()
		t.B = newBytes()
	}
}

// send makes a block of B, which it then owns.
func (t *Buffer) send() {
	made, err := newBlock(t.B, t.packs, false)
	if err == nil && t.err == nil {
		err = t.emit(made)
	}
	t.B = nil
	if t.err == nil {
		t.err = err
	}
}

// writeTo writes B as a block. last ends the document.
func (t *Buffer) writeTo(out *archive.Output, last bool) error {
	made, err := newBlock(t.B, t.packs, last)
	if err != nil {
		return err
	}
	return out.WriteBlock(made.raw, made.crc, made.packed)
}

// block is a stretch of a document.
type block struct {
	raw    []byte
	crc    uint32 // of raw
	packed []byte // raw deflated, if the output wants it
}

var bytesPool, deflaters sync.Pool

func newBytes() []byte {
	if b, ok := bytesPool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, CutBytes+CutBytes/8)
}

func freeBytes(b []byte) {
	if cap(b) >= CutBytes && cap(b) <= 4*CutBytes {
		bytesPool.Put(&b)
	}
}

// free returns the memory of a written block.
func (b *block) free() {
	freeBytes(b.raw)
	freeBytes(b.packed)
}

// appender is a byte slice that can be written to.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// newBlock makes a block of raw. The block ends at a byte border; the last one ends the deflate stream.
func newBlock(raw []byte, packs, last bool) (*block, error) {
	b := &block{raw: raw, crc: crc32.ChecksumIEEE(raw)}
	if !packs || len(raw) == 0 && !last {
		return b, nil
	}
	packed := appender(newBytes())
	w, ok := deflaters.Get().(*flate.Writer)
	if ok {
		w.Reset(&packed)
	} else {
		var err error
		if w, err = flate.NewWriter(&packed, deflateLevel); err != nil {
			return nil, err
		}
	}
	_, err := w.Write(raw)
	if err == nil {
		if last {
			err = w.Close()
		} else {
			err = w.Flush()
		}
	}
	b.packed = packed
	deflaters.Put(w)
	return b, err
}

// feeder reads the pages and groups them into batches.
type feeder[N any] struct {
	next    func(context.Context) (encode.Page, error)
	header  bool // there are columns
	flight  *semaphore.Weighted
	batches chan<- *batch[N]
	ordered chan<- *batch[N]

	b    *batch[N]
	rows int64 // data rows in all batches sent so far
}

// run feeds all pages. It returns an error once the pages before it are queued.
func (f *feeder[N]) run(ctx context.Context) error {
	f.b = &batch[N]{}
	for number := 1; ; number++ {
		page, err := f.next(ctx)
		switch {
		case errors.Is(err, io.EOF) && number == 1:
			return encode.ErrNoPages
		case errors.Is(err, io.EOF):
			return f.flush(ctx)
		case err != nil:
			err = fmt.Errorf("page %d: %w", number, err)
		case page.Number != number:
			err = fmt.Errorf("%w: page %d came where page %d should be", encode.ErrPageOrder, page.Number, number)
		default:
			err = f.add(ctx, page)
		}
		if err == nil {
			continue
		}
		if flushed := f.flush(ctx); flushed != nil {
			return flushed
		}
		return err
	}
}

// add adds a page to the batch and sends the batch once it is full.
func (f *feeder[N]) add(ctx context.Context, p encode.Page) error {
	if p.RowCount <= 0 {
		p.RowCount = 0
		for c := rows.NewCursor(p.Rows); c.NextRow(); {
			p.RowCount++
		}
	}
	if p.RowCount == 0 {
		if p.Release != nil {
			p.Release()
		}
		return nil
	}
	if !f.header {
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
func (f *feeder[N]) flush(ctx context.Context) error {
	b := f.b
	if len(b.pages) == 0 {
		return nil
	}
	f.b = &batch[N]{}
	b.first, b.blocks = f.rows, make(chan *block, 2)
	f.rows += int64(b.rows)
	if err := send(ctx, f.ordered, b); err != nil {
		return err
	}
	return send(ctx, f.batches, b)
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
