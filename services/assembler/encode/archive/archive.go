// Package archive writes finished files: a document as it is, or a zip of documents. The zip has sizes in its
// local headers, so that streaming readers can read it, and 64-bit records only where they are needed.
//
// The bytes depend on nothing but the names and the documents. Nothing is synced.
package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
)

// Zip writes a zip to a file, entry by entry. It is used by one goroutine.
type Zip struct {
	f       *headed
	at      int64
	entries []Entry
	sums    [][sha256.Size]byte // of packed entries, before compression
	out     *Output             // of the entry being written
}

// Document describes a finished document.
type Document struct {
	Name string // of the entry; "" if the file is the document
	Size int64  // bytes, uncompressed
	// SHA256 is zero for the only entry of a zip if it is stored: the zip has a checksum, and hashing twice
	// would take 3 ms for each 100,000 rows of a workbook.
	SHA256 [sha256.Size]byte
}

// NewZip returns a writer of a zip. f must be empty and open for reading and writing. A small zip is written by
// Finish alone.
func NewZip(f *os.File) *Zip { return &Zip{f: &headed{file: f}} }

var errOpen = errors.New("an entry of the zip was not ended")

// Begin begins an entry. method is MethodStore or MethodDeflate. The output is valid until End.
func (z *Zip) Begin(name string, method uint16) (*Output, error) {
	if z.out != nil {
		return nil, errOpen
	}
	if len(name) > math.MaxUint16 {
		return nil, fmt.Errorf("the entry name has %d bytes, more than a zip can hold", len(name))
	}
	e := Entry{Name: name, Method: method, Offset: z.at, Large: true}
	z.entries = append(z.entries, e)
	z.out = newOutput(z.f, z.at+int64(e.HeaderSize()), method == MethodDeflate)
	return z.out, nil
}

// End ends the entry.
func (z *Zip) End() error {
	o, e := z.out, &z.entries[len(z.entries)-1]
	z.out = nil
	crc, err := o.Sum()
	if err != nil {
		return err
	}
	var sum [sha256.Size]byte
	e.CRC, e.Size, e.Packed = crc, o.Len(), o.Len()
	if o.packed {
		e.CRC, e.Size = o.rawCRC, o.rawSize
		o.hash.Sum(sum[:0])
	}
	z.sums = append(z.sums, sum)
	z.at = o.at
	_, err = z.f.WriteAt(e.AppendLocal(nil), e.Offset)
	return err
}

// Documents returns the entries written so far. It reads stored ones back for their SHA-256.
func (z *Zip) Documents(ctx context.Context) ([]Document, error) {
	if z.out != nil {
		return nil, errOpen
	}
	documents := make([]Document, len(z.entries))
	for i, e := range z.entries {
		if z.sums[i] == ([sha256.Size]byte{}) {
			one := sha256.New()
			begin := e.Offset + int64(e.HeaderSize())
			if err := hashFile(ctx, z.f, begin, begin+e.Packed, one); err != nil {
				return nil, err
			}
			one.Sum(z.sums[i][:0])
		}
		documents[i] = Document{Name: e.Name, Size: e.Size, SHA256: z.sums[i]}
	}
	return documents, nil
}

// Finish writes the directory and reads the file back for its checksums. whole describes the zip itself.
func (z *Zip) Finish(ctx context.Context) (whole Document, documents []Document, err error) {
	if z.out != nil {
		return whole, nil, errOpen
	}
	end := AppendDirectory(nil, z.entries, z.at)
	if _, err := z.f.WriteAt(end, z.at); err != nil {
		return whole, nil, err
	}
	whole.Size = z.at + int64(len(end))
	all := sha256.New()
	at := int64(0)
	for i, e := range z.entries {
		d := Document{Name: e.Name, Size: e.Size, SHA256: z.sums[i]}
		begin := e.Offset + int64(e.HeaderSize())
		if err := hashFile(ctx, z.f, at, begin, all); err != nil {
			return whole, nil, err
		}
		at = begin + e.Packed
		if len(z.entries) > 1 && d.SHA256 == ([sha256.Size]byte{}) {
			one := sha256.New()
			err = hashFile(ctx, z.f, begin, at, all, one)
			one.Sum(d.SHA256[:0])
		} else {
			err = hashFile(ctx, z.f, begin, at, all)
		}
		if err != nil {
			return whole, nil, err
		}
		documents = append(documents, d)
	}
	if err := hashFile(ctx, z.f, at, whole.Size, all); err != nil {
		return whole, nil, err
	}
	all.Sum(whole.SHA256[:0])
	return whole, documents, z.f.flush()
}

// Finish describes a finished plain file. It reads the file back for its checksum if a part was reserved.
func (o *Output) Finish(ctx context.Context) (Document, error) {
	d := Document{Size: o.Len()}
	if _, err := o.Sum(); err != nil {
		return d, err
	}
	h := o.hash
	if h == nil {
		h = sha256.New()
		if err := hashFile(ctx, o.f, o.begin, o.at, h); err != nil {
			return d, err
		}
	}
	h.Sum(d.SHA256[:0])
	return d, nil
}

// hashFile adds the bytes [from, to) of a file to hashes.
func hashFile(ctx context.Context, f io.ReaderAt, from, to int64, hashes ...hash.Hash) error {
	buf := make([]byte, min(256<<10, to-from))
	for from < to {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		if err != nil {
			return fmt.Errorf("read the file back: %w", err)
		}
		for _, h := range hashes {
			h.Write(buf[:n])
		}
		from += int64(n)
	}
	return nil
}
