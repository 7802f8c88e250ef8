package archive

import (
	"crypto/sha256"
	"errors"
	"hash"
	"hash/crc32"
	"os"
)

// Output receives one document: a whole file, or an entry of a zip. It writes from front to back and computes
// the CRC-32 of all its bytes. A part can be reserved and written later. It is used by one goroutine.
type Output struct {
	f     *headed
	at    int64  // where the next byte goes, in f
	begin int64  // where the document begins, in f
	spans []span // of [begin, at), in order

	packed  bool // the entry is compressed
	rawCRC  uint32
	rawSize int64
	// hash is the SHA-256 of the document. It is nil for entries that are not compressed. It is nil for a
	// file with reserved parts too, because its bytes are not written in order.
	hash hash.Hash
}

// span is a stretch of checksummed or reserved bytes.
type span struct {
	crc      uint32
	n        int64
	reserved bool
}

var (
	errReserved = errors.New("a reserved part of the file was not filled exactly")
	errPacked   = errors.New("a compressed entry takes blocks only")
)

// Plain returns the output of a file that is one document. f must be empty.
func Plain(f *os.File) *Output {
	return &Output{f: &headed{file: f, written: true}, hash: sha256.New()}
}

func newOutput(f *headed, begin int64, packed bool) *Output {
	o := &Output{f: f, at: begin, begin: begin, packed: packed}
	if packed {
		o.hash = sha256.New()
	}
	return o
}

// Packed reports whether the document becomes a compressed entry. Then it is written by WriteBlock alone, and
// its blocks, joined, are one deflate stream: all but the last end at a byte border (RFC 1951).
func (o *Output) Packed() bool { return o.packed }

// Len returns the number of bytes written and reserved.
func (o *Output) Len() int64 { return o.at - o.begin }

// Write appends p. It implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	if err := o.WriteSummed(p, crc32.ChecksumIEEE(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteSummed appends p, whose CRC-32 is crc.
func (o *Output) WriteSummed(p []byte, crc uint32) error {
	if o.packed {
		return errPacked
	}
	return o.append(p, crc)
}

// WriteBlock appends a block of a document, whose CRC-32 is crc. packed is the same block deflated, which is
// needed if the output is packed. Empty blocks are allowed.
func (o *Output) WriteBlock(raw []byte, crc uint32, packed []byte) error {
	if !o.packed {
		return o.append(raw, crc)
	}
	o.rawCRC = CombineCRC(o.rawCRC, crc, int64(len(raw)))
	o.rawSize += int64(len(raw))
	o.hash.Write(raw)
	return o.append(packed, crc32.ChecksumIEEE(packed))
}

func (o *Output) append(p []byte, crc uint32) error {
	if _, err := o.f.WriteAt(p, o.at); err != nil {
		return err
	}
	o.at += int64(len(p))
	if o.hash != nil && !o.packed {
		o.hash.Write(p)
	}
	if last := len(o.spans) - 1; last >= 0 && !o.spans[last].reserved {
		s := &o.spans[last]
		s.crc = CombineCRC(s.crc, crc, int64(len(p)))
		s.n += int64(len(p))
	} else {
		o.spans = append(o.spans, span{crc: crc, n: int64(len(p))})
	}
	return nil
}

// Reserve skips n bytes and returns the id under which Fill writes them later.
func (o *Output) Reserve(n int) (id int) {
	o.at += int64(n)
	if !o.packed {
		o.hash = nil
	}
	o.spans = append(o.spans, span{n: int64(n), reserved: true})
	return len(o.spans) - 1
}

// Fill writes the bytes reserved as id, which begin at offset at of the document.
func (o *Output) Fill(id int, at int64, p []byte) error {
	s := &o.spans[id]
	if !s.reserved || s.n != int64(len(p)) {
		return errReserved
	}
	if _, err := o.f.WriteAt(p, o.begin+at); err != nil {
		return err
	}
	// Not merged with its neighbours, because ids are indexes into spans.
	s.crc, s.reserved = crc32.ChecksumIEEE(p), false
	return nil
}

// Sum returns the CRC-32 of all bytes as they are in the file.
func (o *Output) Sum() (uint32, error) {
	var crc uint32
	for _, s := range o.spans {
		if s.reserved {
			return 0, errReserved
		}
		crc = CombineCRC(crc, s.crc, s.n)
	}
	return crc, nil
}
