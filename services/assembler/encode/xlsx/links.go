package xlsx

import (
	"bytes"
	"encoding/xml"
	"hash/crc32"
	"strconv"

	"github.com/klauspost/compress/flate"
)

const (
	// maxLinks is the maximum number of links of a worksheet (excelize's limit; Excel's is 65,530).
	maxLinks = 65_529
	// maxLinkBytes bounds what the links of a worksheet take in memory, compressed. Only links of several
	// hundred random characters reach it.
	maxLinkBytes = 16 << 20
)

// cellLink is a cell of a chunk that links to a URL.
type cellLink struct {
	row, column int32
	url         int     // where it ends in chunk.urls
	style       int     // where the cell's style begins in chunk.xml
	linked      uint8   // length of the style there
	plain       snippet // the same style without a link
}

// addLink notes the link of the cell whose style is written next.
func (c *chunk) addLink(row int, column int32, url []byte, style int, linked, plain *snippet) {
	c.urls = append(c.urls, url...)
	c.links = append(c.links, cellLink{int32(row), column, len(c.urls), style, uint8(linked.length), *plain})
}

// unlink gives a cell the style without a link. It is not longer; blanks fill the rest of the tag.
func (c *chunk) unlink(l cellLink) {
	at := c.xml[l.style : l.style+int(l.linked)]
	for i := copy(at, l.plain.text()); i < len(at); i++ {
		at[i] = ' '
	}
}

// sheetLinks are the links of one worksheet.
type sheetLinks struct {
	n     int
	cells []byte // hyperlink elements

	packed appender // the relations, compressed
	w      *flate.Writer
	crc    uint32
	size   int64
	line   []byte
}

const relationsHead = xml.Header + `<Relationships xmlns="` + packageNamespace + `">`

// add adds a link and reports whether there was room.
func (s *sheetLinks) add(row, column int32, url []byte, limit int) (bool, error) {
	if s.n >= limit || len(s.packed) > maxLinkBytes {
		return false, nil
	}
	if s.w == nil {
		var err error
		if s.w, err = flate.NewWriter(&s.packed, flate.BestSpeed); err != nil {
			return false, err
		}
		if err := s.write([]byte(relationsHead)); err != nil {
			return false, err
		}
	}
	s.n++
	id := strconv.AppendInt(nil, int64(s.n), 10)
	s.cells = append(append(s.cells, `<hyperlink ref="`...), columnName(int(column))...)
	s.cells = strconv.AppendInt(s.cells, int64(row), 10)
	s.cells = append(append(append(s.cells, `" r:id="rId`...), id...), `"/>`...)
	line := bytes.NewBuffer(s.line[:0])
	line.WriteString(`<Relationship Id="rId`)
	line.Write(id)
	line.WriteString(`" Type="` + relationNamespace + `/hyperlink" Target="`)
	_ = xml.EscapeText(line, url) // a Buffer returns no errors
	line.WriteString(`" TargetMode="External"/>`)
	s.line = line.Bytes()
	return true, s.write(s.line)
}

func (s *sheetLinks) write(p []byte) error {
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p)
	s.size += int64(len(p))
	_, err := s.w.Write(p)
	return err
}

// end returns the part of the relations; p is nil if there are no links.
func (s *sheetLinks) end() (p *packedPart, err error) {
	if s.n == 0 {
		return nil, nil
	}
	if err := s.write([]byte(`</Relationships>`)); err != nil {
		return nil, err
	}
	if err := s.w.Close(); err != nil {
		return nil, err
	}
	return &packedPart{packed: s.packed, crc: s.crc, packedCRC: crc32.ChecksumIEEE(s.packed), size: s.size}, nil
}
