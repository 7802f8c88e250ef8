package pages

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"sheaf/events"
)

// Manifest summarises the pages of a run: their numbers, row counts and contents. The crawler computes it
// over the pages that it made durable, the assembler over the pages that it read. If the two agree, the file
// contains the crawled rows.
//
// It is the SHA-256 over, for each page in order, page 0 included: its number and its data rows as 8 bytes each, big-endian,
// and the SHA-256 of its rows. Other metadata of a page, such as its attempts, is in the page's headers.
type Manifest struct{ h hash.Hash }

// NewManifest returns the manifest of a run without pages.
func NewManifest() Manifest { return Manifest{h: sha256.New()} }

// Add adds the next page. Pages must be added in order.
func (m Manifest) Add(number, dataRows int, sum [sha256.Size]byte) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(number))
	binary.BigEndian.PutUint64(b[8:], uint64(dataRows))
	m.h.Write(b[:])
	m.h.Write(sum[:])
}

// Clone returns a manifest of the same pages, to which others can be added.
func (m Manifest) Clone() Manifest {
	h, _ := m.h.(hash.Cloner).Clone() // SHA-256 can always be cloned
	return Manifest{h: h}
}

// Sum returns the manifest in lower-case hexadecimal.
func (m Manifest) Sum() string { return hex.EncodeToString(m.h.Sum(nil)) }

// SumSheets returns the manifest of an export with sheets: the SHA-256 over their manifests, as text, in order.
func SumSheets(sheets []events.SheetPages) string {
	h := sha256.New()
	for _, sheet := range sheets {
		h.Write([]byte(sheet.Manifest))
	}
	return hex.EncodeToString(h.Sum(nil))
}
