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

	"sheaf/events"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// sheets lays the chunks of all batches, in order, into sheets and their XML into blocks. The ends of sheets
// and blocks depend on the rows alone. It is used by one goroutine.
type sheets struct {
	ctx      context.Context
	spec     Spec
	skeleton *skeleton // of a plain workbook
	book     *book     // of any other
	head     *header
	out      func(item) error // receives everything that goes into the file, in order

	first    int     // number of the first sheet, from 1
	starts   []int64 // by sheet: its first data row, counted from 0
	name     string  // of the first sheet, unless the workbook is plain
	number   int     // of the current sheet, from 1
	rows     int     // on it, header included
	xml      int64   // its size in bytes
	block    *block
	reserved int // bytes reserved on each sheet for the XML before the rows
	base     atomic.Int64

	widths  []uint8
	total   int64
	cuts    cellCuts
	unknown unknownFields
	numbers []columnNumbers // by column
	texts   []columnNumbers // by column; of texts that are numbers
	rerun   *encoder

	notes    *cells.Notes
	links    sheetLinks // of the current sheet
	unlinked struct {
		n           int64
		sheet       int // of the first
		row, column int32
	}
}

// columnNumbers counts the numbers of a column that are text.
type columnNumbers struct {
	n       int64
	sheet   int  // of the first, from 1
	row     int  // of the first, on its sheet, from 1
	current bool // the current sheet has some
}

// add adds the count of a chunk on a sheet.
func (c *columnNumbers) add(t textNumbers, sheet int) {
	if c.n == 0 {
		c.sheet, c.row = sheet, int(t.row)
	}
	c.n += int64(t.n)
}

// item is one thing to write into the file; exactly one group of fields is set.
type item struct {
	part    string      // name of a whole entry
	content []byte      // of part
	packed  *packedPart // of part, instead of content
	open    string      // path of an entry that begins here
	reserve int         // with open: length of the XML before the rows
	block   *block
	close   []byte // ends the entry: the XML before its rows
}

// maxEntry keeps a sheet below the size from which a zip needs 64-bit records for it. Some readers of
// workbooks refuse those.
const maxEntry = math.MaxUint32 - 1

// open begins the next sheet.
func (s *sheets) open() error {
	s.number++
	s.starts = append(s.starts, s.total)
	if s.book != nil {
		name := s.name
		if s.number > s.first {
			name = s.book.name(s.title())
		}
		s.book.addSheet(name, s.head)
	} else if err := s.skeleton.addSheet(); err != nil {
		return err
	}
	if s.number == s.first {
		// The widest columns and the longest ranges that the head can have.
		widest := byte(maxWidth)
		if s.book != nil {
			widest = maxColumnWidth
		}
		head, _, err := s.around(s.spec.MaxSheetRows, bytes.Repeat([]byte{widest}, len(s.widths)))
		if err != nil {
			return err
		}
		s.reserved = len(head)
	}
	if s.number == 1 {
		// The early parts do not change after the first rendering.
		for _, name := range early {
			content, err := s.part(name)
			if err != nil {
				return err
			}
			if err := s.out(item{part: name, content: content}); err != nil {
				return err
			}
		}
	}
	if err := s.out(item{open: sheetPath(s.number), reserve: s.reserved}); err != nil {
		return err
	}
	s.rows, s.xml = 0, int64(s.reserved)
	for i := range s.numbers {
		// Texts that the request asks for are no mistakes either.
		s.numbers[i].current = s.book != nil && s.head.styles[i].kind == events.ColumnText
	}
	s.block = newBlock()
	if s.head == nil {
		return nil
	}
	appendRow := s.head.appendRow
	if s.book != nil {
		appendRow = s.head.appendTitles
	}
	row, cuts := appendRow(nil)
	if s.number == s.first {
		s.countCuts(cuts)
	}
	s.rows = 1
	return s.add(row, nil)
}

// end finishes the current sheet.
func (s *sheets) end() error {
	head, tail, err := s.around(s.rows, s.shownWidths())
	if err != nil {
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
	if err := s.out(item{close: pad(head, s.reserved)}); err != nil {
		return err
	}
	links, err := s.links.end()
	s.links = sheetLinks{}
	if links == nil || err != nil {
		return err
	}
	return s.out(item{part: relationsPath(s.number), packed: links})
}

// around returns the XML before and after the rows of the current sheet.
func (s *sheets) around(rowCount int, widths []uint8) (head, tail []byte, err error) {
	if s.book != nil {
		head, tail = s.book.around(rowCount, widths, s.links.cells, s.ignored())
		return head, tail, nil
	}
	if head, tail, err = s.skeleton.render(rowCount, widths); err != nil {
		return nil, nil, err
	}
	tail, err = insertIgnoredErrors(tail, s.ignored())
	return head, tail, err
}

// part returns a part that is not about one sheet.
func (s *sheets) part(name string) ([]byte, error) {
	if s.book != nil {
		return s.book.part(name)
	}
	return s.skeleton.parts[name], nil
}

// title returns the title of the rows, "" if they have none.
func (s *sheets) title() string {
	if s.head == nil || s.head.sheet == nil {
		return ""
	}
	return s.head.sheet.Title
}

// sheetName returns the name of a sheet of the rows, counted from 1 over the workbook.
func (s *sheets) sheetName(n int) string {
	if s.book != nil {
		return s.book.sheets[n-1].name
	}
	return sheetName(n)
}

// cellName returns the place of a cell, such as Sheet1!C7.
func (s *sheets) cellName(sheet, column, row int) string {
	return s.sheetName(sheet) + "!" + columnName(column) + strconv.Itoa(row)
}

// maxIgnored is the maximum number of column ranges per sheet that suppress Excel's number warning.
const maxIgnored = 1000

// ignored returns the ranges of the current sheet in which numbers are text, in XML's list form: whole
// columns without the header.
func (s *sheets) ignored() string {
	var ranges []string
	for i := 0; s.rows > 1 && i < len(s.numbers) && len(ranges) < maxIgnored; i++ {
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
		if s.book == nil {
			continue
		}
		if spec := s.head.sheet.Columns[i].Spec; spec != nil && spec.Width > 0 {
			shown[i] = uint8(min(spec.Width, maxColumnWidth))
		}
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
	var err error
	for {
		if c != nil {
			c.release()
		}
		if c, err = b.receive(s.ctx); err != nil {
			return err
		}
		if c == nil {
			break
		}
	}
	if s.rerun == nil {
		if s.rerun, err = newEncoder(s.head, s.spec.MaxSheetRows); err != nil {
			return err
		}
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
		s.numbers[i].add(t, s.number)
		s.numbers[i].current = true
	}
	for i, t := range c.texts {
		s.texts[i].add(t, s.number)
	}
	if c.notes != nil {
		if s.notes == nil {
			s.notes = c.notes
		} else {
			s.notes.Add(c.notes)
		}
	}
	if err := s.link(c); err != nil {
		return err
	}
	return s.add(c.xml, c)
}

// link adds the links of a chunk to the current sheet. Cells for whose link there is no room look like others.
func (s *sheets) link(c *chunk) error {
	begin := 0
	for _, l := range c.links {
		added, err := s.links.add(l.row, l.column, c.urls[begin:l.url], s.spec.MaxSheetLinks)
		if err != nil {
			return err
		}
		begin = l.url
		if added {
			continue
		}
		c.unlink(l)
		if s.unlinked.n++; s.unlinked.n == 1 {
			s.unlinked.sheet, s.unlinked.row, s.unlinked.column = s.number, l.row, l.column
		}
	}
	return nil
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
	case it.packed != nil:
		return w.packed(it.part, *it.packed)
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
	return w.packed(name, p)
}

// packed writes a whole entry that is compressed.
func (w *entryWriter) packed(name string, p packedPart) error {
	e := archive.Entry{
		Name: name, Method: archive.MethodDeflate, CRC: p.crc,
		Size: p.size, Packed: int64(len(p.packed)), Offset: w.out.Len(),
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
	size           int64  // of the content
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
	p = packedPart{packed: slices.Clone(b.packed), crc: b.crc, packedCRC: b.packedCRC, size: int64(len(content))}
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
