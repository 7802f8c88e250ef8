package xlsx

import (
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/flate"
)

// deflateLevel applies to blocks with much text. At 6, files are about as large as those of excelize's
// StreamWriter; DESIGN.md has the measurement.
const deflateLevel = 6

// blockSize is how much of a sheet's XML one deflate block holds. Each block starts with an empty window, so
// small blocks cost file size: less than one percent at 256 KiB (measured, see DESIGN.md).
const blockSize = 256 << 10

// block is a stretch of a sheet's XML that is deflated on its own. The blocks of an entry, joined, are one
// deflate stream: all but the last end at a byte border with a sync marker (RFC 1951, section 3.2.4: an empty
// stored block).
type block struct {
	pieces []piece
	n      int  // bytes in pieces
	last   bool // ends the deflate stream
	other  bool // not the XML of rows

	done      chan struct{} // closed when the fields below are set
	crc       uint32        // of the XML
	packed    []byte
	packedCRC uint32
}

// piece is a part of a block, borrowed from chunk; if chunk is nil, the block owns it.
type piece struct {
	xml  []byte
	from *chunk
}

// deflater compresses blocks. It takes about a megabyte, two once it has met text. Its output does not depend
// on earlier input.
type deflater struct {
	rows    rowDeflater
	general *flate.Writer // nil until needed
}

var deflaters, packedBuffers sync.Pool

// appender is a byte slice that can be written to.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// deflate compresses b's pieces, releases them, and closes done.
func (b *block) deflate(d *deflater) error {
	defer close(b.done)
	out, ok := packedBuffers.Get().(*appender)
	if !ok {
		out = new(appender)
	}
	*out = (*out)[:0]
	for _, p := range b.pieces {
		b.crc = crc32.Update(b.crc, crc32.IEEETable, p.xml)
	}
	packed := false
	if !b.other {
		*out, packed = d.rows.deflate(*out, b.pieces, b.last)
	}
	if !packed {
		if err := d.deflate(out, b.pieces, b.last); err != nil {
			return err
		}
	}
	for _, p := range b.pieces {
		if p.from != nil {
			p.from.release()
		}
	}
	b.pieces = nil
	b.packed = *out
	b.packedCRC = crc32.ChecksumIEEE(b.packed)
	return nil
}

// deflate compresses any bytes.
func (d *deflater) deflate(out *appender, pieces []piece, last bool) error {
	if d.general == nil {
		var err error
		if d.general, err = flate.NewWriter(out, deflateLevel); err != nil {
			return err
		}
	}
	w := d.general
	w.Reset(out)
	for _, p := range pieces {
		if _, err := w.Write(p.xml); err != nil {
			return err
		}
	}
	if last {
		return w.Close()
	}
	return w.Flush()
}

// free returns the buffer to its pool.
func (b *block) free() {
	a := appender(b.packed)
	b.packed = nil
	packedBuffers.Put(&a)
}

func getDeflater() *deflater {
	if d, ok := deflaters.Get().(*deflater); ok {
		return d
	}
	return new(deflater)
}

func putDeflater(d *deflater) { deflaters.Put(d) }

// storedSize returns the length of appendStored's output for n bytes.
func storedSize(n int) int { return n + (n+maxStored-1)/maxStored*5 }

const maxStored = 65535

// appendStored appends p as stored deflate blocks, none of them the last (RFC 1951, section 3.2.4). Their
// length depends only on p's, so a file can reserve space for them.
func appendStored(b, p []byte) []byte {
	for len(p) > 0 {
		n := min(len(p), maxStored)
		b = append(b, 0)
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint16(b, ^uint16(n))
		b = append(b, p[:n]...)
		p = p[n:]
	}
	return b
}
