package pages

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// Manifest sums up the pages of a run: which there are, with how many rows,
// and what is in them. The crawler computes it over the pages that it made
// durable, the assembler over the pages that it read; if the two agree, what
// was written is what was crawled.
//
// It is the SHA-256 over, for each page in order: its number and its data rows
// as 8 bytes each, big-endian, and the SHA-256 of its rows. What the record of
// a page says besides, such as its attempts, stands in the page's headers.
type Manifest struct{ h hash.Hash }

// NewManifest returns the manifest of no pages.
func NewManifest() Manifest { return Manifest{h: sha256.New()} }

// Add adds the next page. Pages must come in order.
func (m Manifest) Add(number, dataRows int, sum [sha256.Size]byte) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(number))
	binary.BigEndian.PutUint64(b[8:], uint64(dataRows))
	m.h.Write(b[:])
	m.h.Write(sum[:])
}

// Sum is the manifest in lower-case hexadecimal.
func (m Manifest) Sum() string { return hex.EncodeToString(m.h.Sum(nil)) }
