package filesource

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// decode sets data to the file, or to a UTF-8 copy of it. head is the start of the file.
func (s *Source) decode(head []byte, isCSV bool, name string) error {
	s.data, s.end = s.file, s.opened.Size()
	e, err := s.findEncoding(head, isCSV, name)
	if err != nil {
		return err
	}
	if s.encoding == "utf-8" {
		return nil
	}
	wide := s.encoding == "utf-16le" || s.encoding == "utf-16be"
	if wide && s.end%2 != 0 {
		return errors.New("the file is UTF-16 and cut off: its last byte is half a character")
	}
	s.strict = !wide // half a surrogate pair becomes U+FFFD, as in JSON
	copied, err := os.CreateTemp("", "sheaf-source-*")
	if err != nil {
		return fmt.Errorf("a copy of the file in UTF-8: %w", err)
	}
	s.data = copied
	_ = os.Remove(copied.Name()) // the open file survives; Close removes it where this fails
	in := transform.NewReader(bufio.NewReader(s.file), unicode.BOMOverride(e.NewDecoder()))
	if s.end, err = io.Copy(copied, in); err != nil {
		return fmt.Errorf("a copy of the file in UTF-8: %w", err)
	}
	return nil
}

// findEncoding sets encoding, and sets start if the file needs no copy. A byte order mark decides, then the
// given name. A CSV file without either is UTF-8 if it is valid, otherwise GB18030, which includes GBK. A few
// invalid bytes in a file that is mostly UTF-8 do not make it GB18030.
func (s *Source) findEncoding(head []byte, isCSV bool, name string) (encoding.Encoding, error) {
	s.encoding = "utf-8"
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		s.start = 3
		return nil, nil
	case bytes.HasPrefix(head, []byte("\xff\xfe")):
		name = "utf-16le"
	case bytes.HasPrefix(head, []byte("\xfe\xff")):
		name = "utf-16be"
	case name == "" && isCSV:
		characters, others, err := s.countUTF8()
		if err != nil {
			return nil, err
		}
		if others == 0 || characters > others {
			return nil, nil
		}
		name = "gb18030"
	case name == "":
		return nil, nil
	}
	e, err := htmlindex.Get(name)
	if err != nil {
		return nil, optionf("--encoding %q is not known; known are utf-8, gbk, gb18030, big5, windows-1252, utf-16le and others of the WHATWG standard", name)
	}
	s.encoding, err = htmlindex.Name(e)
	return e, err
}

// countUTF8 counts the multi-byte characters of a file, and the bytes outside any character.
func (s *Source) countUTF8() (characters, others int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, s.end), 64<<10)
	for {
		c, n, err := r.ReadRune()
		switch {
		case errors.Is(err, io.EOF):
			return characters, others, nil
		case err != nil:
			return 0, 0, err
		case c == utf8.RuneError && n == 1:
			others++
		case n > 1:
			characters++
		}
	}
}

// isText reports whether data is valid text in the file's encoding.
func (s *Source) isText(piece []byte) bool {
	return utf8.Valid(piece) && !(s.strict && bytes.Contains(piece, []byte("\uFFFD")))
}

// encodingTried names the encoding that the file was read in, for errors.
func (s *Source) encodingTried() string {
	switch s.encoding {
	case "utf-8":
		return "UTF-8 (--encoding sets another encoding)"
	case "gb18030":
		return "GB18030, and the file is not UTF-8 (--encoding sets another encoding)"
	}
	return s.encoding + " (--encoding sets another encoding)"
}
