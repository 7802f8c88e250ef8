package archive

import (
	"encoding/binary"
	"math"
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

	// Compression methods of an entry.
	MethodStore   = 0
	MethodDeflate = 8

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

// Entry is one finished entry of a zip.
type Entry struct {
	Name   string
	Method uint16
	CRC    uint32 // of the uncompressed bytes
	Size   int64  // uncompressed
	Packed int64  // compressed
	Offset int64  // of the local header, from the start of the zip
	Large  bool   // its local header reserves space for 64-bit sizes
}

func (e Entry) needs64() bool {
	return e.Size >= math.MaxUint32 || e.Packed >= math.MaxUint32
}

// headerSize returns the length of the local header.
func (e Entry) HeaderSize() int {
	n := localHeaderSize + len(e.Name)
	if e.Large {
		n += extra64Size
	}
	return n
}

// AppendLocal appends the local header. Its length depends only on the name and on Large, so it can be
// reserved before the sizes are known. If 64-bit sizes turn out small, their space becomes padding.
func (e Entry) AppendLocal(b []byte) []byte {
	le := binary.LittleEndian
	version, size, packed := uint16(version20), uint32(e.Size), uint32(e.Packed)
	if e.needs64() {
		version, size, packed = version45, math.MaxUint32, math.MaxUint32
	}
	b = le.AppendUint32(b, localSignature)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, flagUTF8)
	b = le.AppendUint16(b, e.Method)
	b = le.AppendUint16(b, dosTime)
	b = le.AppendUint16(b, dosDate)
	b = le.AppendUint32(b, e.CRC)
	b = le.AppendUint32(b, packed)
	b = le.AppendUint32(b, size)
	b = le.AppendUint16(b, uint16(len(e.Name)))
	extra := uint16(0)
	if e.Large {
		extra = extra64Size
	}
	b = le.AppendUint16(b, extra)
	b = append(b, e.Name...)
	switch {
	case e.Large && e.needs64():
		b = le.AppendUint16(b, extraZip64)
		b = le.AppendUint16(b, extra64Size-4)
		b = le.AppendUint64(b, uint64(e.Size))
		b = le.AppendUint64(b, uint64(e.Packed))
	case e.Large:
		b = le.AppendUint16(b, extraAlignment)
		b = le.AppendUint16(b, extra64Size-4)
		b = append(b, make([]byte, extra64Size-4)...)
	}
	return b
}

// AppendDirectory appends the central directory of entries, which begins at offset at, and the end records.
// It writes 64-bit records only for values that need them.
func AppendDirectory(b []byte, entries []Entry, at int64) []byte {
	le := binary.LittleEndian
	start := len(b)
	any64 := false
	for _, e := range entries {
		version, size, packed, offset := uint16(version20), uint32(e.Size), uint32(e.Packed), uint32(e.Offset)
		var extra []byte
		if e.needs64() {
			size, packed = math.MaxUint32, math.MaxUint32
			extra = le.AppendUint64(extra, uint64(e.Size))
			extra = le.AppendUint64(extra, uint64(e.Packed))
		}
		if e.Offset >= math.MaxUint32 {
			offset = math.MaxUint32
			extra = le.AppendUint64(extra, uint64(e.Offset))
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
		b = le.AppendUint16(b, e.Method)
		b = le.AppendUint16(b, dosTime)
		b = le.AppendUint16(b, dosDate)
		b = le.AppendUint32(b, e.CRC)
		b = le.AppendUint32(b, packed)
		b = le.AppendUint32(b, size)
		b = le.AppendUint16(b, uint16(len(e.Name)))
		b = le.AppendUint16(b, uint16(len(extra)))
		b = le.AppendUint16(b, 0)            // comment
		b = le.AppendUint16(b, 0)            // disk
		b = le.AppendUint16(b, 0)            // internal attributes
		b = le.AppendUint32(b, unixMode<<16) // external attributes
		b = le.AppendUint32(b, offset)
		b = append(b, e.Name...)
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
