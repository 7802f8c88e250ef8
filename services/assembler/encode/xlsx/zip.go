package xlsx

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"os"
)

// Zip records as in PKWARE's APPNOTE.TXT 6.3.10. archive/zip does not fit: it writes a data descriptor after
// each entry whose size it does not know in advance. Streaming readers such as Java's ZipInputStream refuse a
// stored entry with a descriptor.
const (
	localSignature   = 0x04034b50
	centralSignature = 0x02014b50
	end64Signature   = 0x06064b50
	locatorSignature = 0x07064b50
	endSignature     = 0x06054b50

	methodStore   = 0
	methodDeflate = 8

	flagUTF8 = 1 << 11

	version20 = 20 // deflate
	version45 = 45 // zip64

	dosTime = 0               // 00:00:00
	dosDate = 0<<9 | 1<<5 | 1 // 1980-01-01, the first day that a zip can represent

	// madeByUnix keeps Info-ZIP's unzip from converting names. It converts those of entries made on FAT,
	// UTF-8 or not, from a DOS code page if the locale is not UTF-8 (measured).
	madeByUnix = 3 << 8
	unixMode   = 0o100644 // a regular file

	extraZip64     = 0x0001
	extraAlignment = 0xd935 // padding that readers skip
	extra64Size    = 4 + 16 // header, uncompressed size, compressed size

	localHeaderSize = 30
)

// zipEntry is one finished entry of a zip.
type zipEntry struct {
	name   string
	method uint16
	crc    uint32 // of the uncompressed bytes
	size   int64  // uncompressed
	packed int64  // compressed
	offset int64  // of the local header, from the start of the zip
	large  bool   // its local header reserves space for 64-bit sizes
}

func (e zipEntry) needs64() bool {
	return e.size >= math.MaxUint32 || e.packed >= math.MaxUint32
}

// headerSize returns the length of the local header.
func (e zipEntry) headerSize() int {
	n := localHeaderSize + len(e.name)
	if e.large {
		n += extra64Size
	}
	return n
}

// appendLocal appends the local header. Its length depends only on the name and on large, so it can be
// reserved before the sizes are known. If 64-bit sizes turn out small, their space becomes padding.
func (e zipEntry) appendLocal(b []byte) []byte {
	le := binary.LittleEndian
	version, size, packed := uint16(version20), uint32(e.size), uint32(e.packed)
	if e.needs64() {
		version, size, packed = version45, math.MaxUint32, math.MaxUint32
	}
	b = le.AppendUint32(b, localSignature)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, flagUTF8)
	b = le.AppendUint16(b, e.method)
	b = le.AppendUint16(b, dosTime)
	b = le.AppendUint16(b, dosDate)
	b = le.AppendUint32(b, e.crc)
	b = le.AppendUint32(b, packed)
	b = le.AppendUint32(b, size)
	b = le.AppendUint16(b, uint16(len(e.name)))
	extra := uint16(0)
	if e.large {
		extra = extra64Size
	}
	b = le.AppendUint16(b, extra)
	b = append(b, e.name...)
	switch {
	case e.large && e.needs64():
		b = le.AppendUint16(b, extraZip64)
		b = le.AppendUint16(b, extra64Size-4)
		b = le.AppendUint64(b, uint64(e.size))
		b = le.AppendUint64(b, uint64(e.packed))
	case e.large:
		b = le.AppendUint16(b, extraAlignment)
		b = le.AppendUint16(b, extra64Size-4)
		b = append(b, make([]byte, extra64Size-4)...)
	}
	return b
}

// appendDirectory appends the central directory of entries, which begins at offset at, and the end records.
// It writes 64-bit records only for values that need them.
func appendDirectory(b []byte, entries []zipEntry, at int64) []byte {
	le := binary.LittleEndian
	start := len(b)
	any64 := false
	for _, e := range entries {
		version, size, packed, offset := uint16(version20), uint32(e.size), uint32(e.packed), uint32(e.offset)
		var extra []byte
		if e.needs64() {
			size, packed = math.MaxUint32, math.MaxUint32
			extra = le.AppendUint64(extra, uint64(e.size))
			extra = le.AppendUint64(extra, uint64(e.packed))
		}
		if e.offset >= math.MaxUint32 {
			offset = math.MaxUint32
			extra = le.AppendUint64(extra, uint64(e.offset))
		}
		if len(extra) > 0 {
			version, any64 = version45, true
			head := le.AppendUint16(nil, extraZip64)
			extra = append(le.AppendUint16(head, uint16(len(extra))), extra...)
		}
		b = le.AppendUint32(b, centralSignature)
		b = le.AppendUint16(b, madeByUnix|version)
		b = le.AppendUint16(b, version)
		b = le.AppendUint16(b, flagUTF8)
		b = le.AppendUint16(b, e.method)
		b = le.AppendUint16(b, dosTime)
		b = le.AppendUint16(b, dosDate)
		b = le.AppendUint32(b, e.crc)
		b = le.AppendUint32(b, packed)
		b = le.AppendUint32(b, size)
		b = le.AppendUint16(b, uint16(len(e.name)))
		b = le.AppendUint16(b, uint16(len(extra)))
		b = le.AppendUint16(b, 0)            // comment
		b = le.AppendUint16(b, 0)            // disk
		b = le.AppendUint16(b, 0)            // internal attributes
		b = le.AppendUint32(b, unixMode<<16) // external attributes
		b = le.AppendUint32(b, offset)
		b = append(b, e.name...)
		b = append(b, extra...)
	}
	size := int64(len(b) - start)
	count, size32, at32 := uint16(len(entries)), uint32(size), uint32(at)
	if any64 || len(entries) >= math.MaxUint16 || at >= math.MaxUint32 {
		end := at + size
		b = le.AppendUint32(b, end64Signature)
		b = le.AppendUint64(b, 56-12) // of the rest of this record
		b = le.AppendUint16(b, version45)
		b = le.AppendUint16(b, version45)
		b = le.AppendUint32(b, 0) // this disk
		b = le.AppendUint32(b, 0) // disk of the directory
		b = le.AppendUint64(b, uint64(len(entries)))
		b = le.AppendUint64(b, uint64(len(entries)))
		b = le.AppendUint64(b, uint64(size))
		b = le.AppendUint64(b, uint64(at))
		b = le.AppendUint32(b, locatorSignature)
		b = le.AppendUint32(b, 0)
		b = le.AppendUint64(b, uint64(end))
		b = le.AppendUint32(b, 1)
		count = uint16(min(len(entries), math.MaxUint16))
		at32 = uint32(min(at, math.MaxUint32))
	}
	b = le.AppendUint32(b, endSignature)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, count)
	b = le.AppendUint16(b, count)
	b = le.AppendUint32(b, size32)
	b = le.AppendUint32(b, at32)
	return le.AppendUint16(b, 0)
}

// output writes a file from front to back and computes the CRC-32 of all bytes since begin. A part can be
// reserved and written later.
type output struct {
	f     *os.File
	at    int64  // where the next byte goes
	begin int64  // where the checksummed part begins
	spans []span // of [begin, at), in order
}

// span is a stretch of checksummed or reserved bytes.
type span struct {
	crc      uint32
	n        int64
	reserved bool
}

var errReserved = errors.New("a reserved part of the file was not filled exactly")

// write appends p.
func (o *output) write(p []byte) error { return o.writeSummed(p, crc32.ChecksumIEEE(p)) }

// writeSummed appends p, whose CRC-32 is crc.
func (o *output) writeSummed(p []byte, crc uint32) error {
	if _, err := o.f.WriteAt(p, o.at); err != nil {
		return err
	}
	o.at += int64(len(p))
	if last := len(o.spans) - 1; last >= 0 && !o.spans[last].reserved {
		s := &o.spans[last]
		s.crc = combineCRC(s.crc, crc, int64(len(p)))
		s.n += int64(len(p))
	} else {
		o.spans = append(o.spans, span{crc: crc, n: int64(len(p))})
	}
	return nil
}

// reserve skips n bytes and returns the id under which fill writes them later.
func (o *output) reserve(n int) (id int) {
	o.at += int64(n)
	o.spans = append(o.spans, span{n: int64(n), reserved: true})
	return len(o.spans) - 1
}

// fill writes the bytes reserved as id, which begin at offset at.
func (o *output) fill(id int, at int64, p []byte) error {
	s := &o.spans[id]
	if !s.reserved || s.n != int64(len(p)) {
		return errReserved
	}
	if _, err := o.f.WriteAt(p, at); err != nil {
		return err
	}
	// Not merged with its neighbours, because ids are indexes into spans.
	s.crc, s.reserved = crc32.ChecksumIEEE(p), false
	return nil
}

// sum returns the CRC-32 of all bytes from begin on.
func (o *output) sum() (uint32, error) {
	var crc uint32
	for _, s := range o.spans {
		if s.reserved {
			return 0, errReserved
		}
		crc = combineCRC(crc, s.crc, s.n)
	}
	return crc, nil
}
