package xlsx

import (
	"bytes"
	"context"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"sheaf/services/assembler/encode/archive"
)

// sheets lays the chunks of all batches, in order, into sheets and their XML into blocks. The ends of sheets
// and blocks depend on the rows alone. It is used by one goroutine.
type sheets struct {
	ctx      context.Context
	spec     Spec
	skeleton *skeleton
	head     *header
	out      func(item) error // receives everything that goes into the file, in order

	number   int   // of the current sheet, from 1
	rows     int   // on it, header included
	xml      int64 // its size in bytes
	block    *block
	reserved int // bytes reserved on each sheet for the XML before the rows
	base     atomic.Int64

	widths  []uint8
	total   int64
	cuts    cellCuts
	unknown unknownFields
	numbers []columnNumbers // by column
	rerun   *encoder
}

// columnNumbers counts the numbers of a column that became text.
type columnNumbers struct {
	n       int64
	sheet   int  // of the first, from 1
	row     int  // of the first, on its sheet, from 1
	current bool // the current sheet has some
}

// item is one thing to write into the file; exactly one group of fields is set.
type item struct {
	part    string // name of a whole entry
	content []byte // of part
	open    string // path of an entry that begins here
	reserve int    // with open: length of the XML before the rows
	block   *block
	close   []byte // ends the entry: the XML before its rows
}

// maxEntry keeps a sheet below the size from which a zip needs 64-bit records for it. Some readers of
// workbooks refuse those.
const maxEntry = math.MaxUint32 - 1

// open begins the next sheet.
func (s *sheets) open() error {
	s.number++
	if err := s.skeleton.addSheet(); err != nil {
		return err
	}
	if s.number == 1 {
		// The widest columns and the longest ranges that the head can have.
		widest := bytes.Repeat([]byte{maxWidth}, len(s.widths))
		head, _, err := s.skeleton.render(s.spec.MaxSheetRows, widest)
		if err != nil {
			return err
		}
		s.reserved = len(head)
		// The early parts do not change after the first rendering.
		for _, name := range early {
			if err := s.out(item{part: name, content: s.skeleton.parts[name]}); err != nil {
				return err
			}
		}
	}
	if err := s.out(item{open: sheetPath(s.number), reserve: s.reserved}); err != nil {
		return err
	}
	s.rows, s.xml = 0, int64(s.reserved)
	for i := range s.numbers {
		s.numbers[i].current = false
	}
	s.block = newBlock()
	if s.head == nil {
		return nil
	}
	row, cuts := s.head.appendRow(nil)
	if s.number == 1 {
		s.countCuts(cuts)
	}
	s.rows = 1
	return s.add(row, nil)
}

// end finishes the current sheet.
func (s *sheets) end() error {
	head, tail, err := s.skeleton.render(s.rows, s.shownWidths())
	if err != nil {
		return err
	}
	if tail, err = insertIgnoredErrors(tail, s.ignored()); err != nil {
		return err
	}
	if err := s.add(tail, nil); err != nil {
		return err
	}
	s.block.last = true
	if err := s.out(item{block: s.block}); err != nil {
		return err
	}
	s.block = nil
	return s.out(item{close: pad(head, s.reserved)})
}

// maxIgnored is the maximum number of column ranges per sheet that suppress Excel's number warning.
const maxIgnored = 1000

// ignored returns the ranges of the current sheet in which numbers are text, in XML's list form: whole
// columns without the header.
func (s *sheets) ignored() string {
	var ranges []string
	for i := 0; i < len(s.numbers) && len(ranges) < maxIgnored; i++ {
		if !s.numbers[i].current {
			continue
		}
		first := i
		for i+1 < len(s.numbers) && s.numbers[i+1].current {
			i++
		}
		ranges = append(ranges, columnName(first)+"2:"+columnName(i)+strconv.Itoa(s.rows))
	}
	return strings.Join(ranges, " ")
}

// pad makes a sheet's head n bytes long by adding white space after the XML declaration, where it is ignored.
func pad(head []byte, n int) []byte {
	after := bytes.Index(head, []byte("?>")) + len("?>")
	b := append(make([]byte, 0, n), head[:after]...)
	b = append(b, bytes.Repeat([]byte{' '}, max(0, n-len(head)))...)
	return append(b, head[after:]...)
}

func (s *sheets) shownWidths() []uint8 {
	shown := make([]uint8, len(s.widths))
	for i, w := range s.widths {
		shown[i] = min(max(w+widthMargin, minWidth), maxWidth)
	}
	return shown
}

func newBlock() *block { return &block{done: make(chan struct{})} }

// add appends XML to the current sheet. The XML belongs to c, or, if c is nil, to the block.
func (s *sheets) add(xml []byte, c *chunk) error {
	s.xml += int64(len(xml))
	if s.xml > maxEntry {
		return ErrSheetTooLarge
	}
	for len(xml) > 0 {
		n := min(len(xml), blockSize-s.block.n)
		if c != nil {
			c.holders.Add(1)
		}
		s.block.pieces = append(s.block.pieces, piece{xml[:n], c})
		s.block.n += n
		xml = xml[n:]
		if s.block.n == blockSize {
			if err := s.out(item{block: s.block}); err != nil {
				return err
			}
			s.block = newBlock()
		}
	}
	return nil
}

// batch lays down the chunks of a batch.
func (s *sheets) batch(b *batch) error {
	if b.base != s.base.Load() {
		// The rows were encoded with the wrong row numbers.
		return s.again(b, 0, nil)
	}
	for {
		c, err := b.receive(s.ctx)
		if c == nil || err != nil {
			return err
		}
		if c.err != nil {
			return c.err
		}
		if c.newSheet {
			if err := s.roll(); err != nil {
				return err
			}
			c.newSheet = false
			if int64(len(c.xml)) > s.spec.MaxSheetXML-s.xml {
				s.base.Store(b.first + int64(c.first)) // its first row has its final number now
			}
		}
		if !c.continues && int64(len(c.xml)) > s.spec.MaxSheetXML-s.xml {
			return s.again(b, c.first, c)
		}
		if err := s.chunk(c); err != nil {
			return err
		}
	}
}

// again re-encodes a batch row by row from row first on, because a new sheet begins within it or began before
// it. It drops the existing chunks. A few batches in gigabytes of XML need this.
func (s *sheets) again(b *batch, first int, c *chunk) error {
	for {
		if c != nil {
			c.release()
		}
		var err error
		if c, err = b.receive(s.ctx); err != nil {
			return err
		}
		if c == nil {
			break
		}
	}
	if s.rerun == nil {
		s.rerun = newEncoder(s.head, s.spec.MaxSheetRows)
		s.rerun.emit = s.chunk
		s.rerun.before = s.before
	}
	b.base = s.base.Load()
	return s.rerun.batch(b, first)
}

// before begins a new sheet before a row once the current one has reached MaxSheetXML. Every sheet has at
// least one row.
func (s *sheets) before(b *batch, global int64) error {
	_, newSheet := place(global, b.base, s.spec.MaxSheetRows)
	if newSheet || s.rows < 2 || s.xml < s.spec.MaxSheetXML {
		return nil
	}
	b.base = global
	s.base.Store(global)
	return s.roll()
}

// roll ends the current sheet and begins the next.
func (s *sheets) roll() error {
	if err := s.end(); err != nil {
		return err
	}
	return s.open()
}

// chunk lays down one chunk.
func (s *sheets) chunk(c *chunk) error {
	defer c.release()
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if c.newSheet {
		if err := s.roll(); err != nil {
			return err
		}
	}
	s.rows += c.rows
	s.total += int64(c.rows)
	s.countCuts(c.cuts)
	if c.unknown.n > 0 {
		if s.unknown.n == 0 {
			s.unknown = c.unknown
		} else {
			s.unknown.n += c.unknown.n
		}
	}
	for i, w := range c.widths {
		s.widths[i] = max(s.widths[i], w)
	}
	for i, t := range c.numbers {
		if t.n == 0 {
			continue
		}
		all := &s.numbers[i]
		if all.n == 0 {
			all.sheet, all.row = s.number, int(t.row)
		}
		all.n += int64(t.n)
		all.current = true
	}
	return s.add(c.xml, c)
}

func (s *sheets) countCuts(c cellCuts) {
	if c.n == 0 {
		return
	}
	if s.cuts.n == 0 {
		s.cuts = c
		s.cuts.sheet = s.number
	} else {
		s.cuts.n += c.n
	}
}

// entryWriter writes items into the zip of a workbook. It is used by one goroutine.
type entryWriter struct {
	out     *archive.Output
	entries []archive.Entry

	entry archive.Entry
	at    int64 // where it begins
	hole  int
	crc   uint32
	size  int64
}

func (w *entryWriter) write(it item) error {
	switch {
	case it.part != "":
		return w.part(it.part, it.content)
	case it.open != "":
		w.at = w.out.Len()
		w.entry = archive.Entry{Name: it.open, Method: archive.MethodDeflate, Offset: w.at}
		w.hole = w.out.Reserve(w.entry.HeaderSize() + storedSize(it.reserve))
		w.crc, w.size = 0, 0
		return nil
	case it.block != nil:
		b := it.block
		w.crc = archive.CombineCRC(w.crc, b.crc, int64(b.n))
		w.size += int64(b.n)
		defer b.free()
		return w.out.WriteSummed(b.packed, b.packedCRC)
	default:
		e := &w.entry
		e.CRC = archive.CombineCRC(crc32.ChecksumIEEE(it.close), w.crc, w.size)
		e.Size = w.size + int64(len(it.close))
		e.Packed = w.out.Len() - w.at - int64(e.HeaderSize())
		w.entries = append(w.entries, *e)
		return w.out.Fill(w.hole, w.at, appendStored(e.AppendLocal(nil), it.close))
	}
}

// part writes a whole entry.
func (w *entryWriter) part(name string, content []byte) error {
	p, err := packPart(name, content)
	if err != nil {
		return err
	}
	e := archive.Entry{
		Name: name, Method: archive.MethodDeflate, CRC: p.crc,
		Size: int64(len(content)), Packed: int64(len(p.packed)), Offset: w.out.Len(),
	}
	w.entries = append(w.entries, e)
	if _, err := w.out.Write(e.AppendLocal(nil)); err != nil {
		return err
	}
	return w.out.WriteSummed(p.packed, p.packedCRC)
}

// packedPart is a compressed part.
type packedPart struct {
	packed         []byte
	crc, packedCRC uint32 // of the content, and of packed
}

// packedParts caches compressed parts by their content. Most parts are the same in all workbooks; compressing
// them took a third of the time of a workbook of 100 rows (measured).
var packedParts struct {
	sync.RWMutex
	by map[string]packedPart
}

// maxPackedParts bounds packedParts, as some parts differ with the number of sheets.
const maxPackedParts = 64

func packPart(name string, content []byte) (packedPart, error) {
	packedParts.RLock()
	p, ok := packedParts.by[string(content)]
	packedParts.RUnlock()
	if ok {
		return p, nil
	}
	d := getDeflater()
	defer putDeflater(d)
	b := newBlock()
	b.other = true
	b.pieces, b.n, b.last = []piece{{content, nil}}, len(content), true
	if err := b.deflate(d); err != nil {
		return p, err
	}
	defer b.free()
	p = packedPart{packed: slices.Clone(b.packed), crc: b.crc, packedCRC: b.packedCRC}
	if name != corePart && name != workbookPart {
		packedParts.Lock()
		defer packedParts.Unlock()
		if packedParts.by == nil {
			packedParts.by = map[string]packedPart{}
		}
		if len(packedParts.by) < maxPackedParts {
			packedParts.by[string(content)] = p
		}
	}
	return p, nil
}
