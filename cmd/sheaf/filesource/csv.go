package filesource

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events/rows"
)

// csvDialect is the dialect of a CSV file.
type csvDialect struct {
	delimiter byte
	numbers   []string // columns with number cells
	codes     []string // columns that are text because they contain codes

	start  int64 // of the first record
	quoted [][]byte
	kinds  []rows.CSVKind // by column: the greatest kind of a value so far
}

// String describes the dialect for log lines and the command line.
func (d *csvDialect) String() string {
	text := "delimiter " + showDelimiter(d.delimiter)
	if len(d.numbers) > 0 {
		text += "; numbers in: " + listed(d.numbers)
	}
	if len(d.codes) > 0 {
		text += "; text, because of values such as 007, +1, 1e5 or more than 15 digits: " + listed(d.codes)
	}
	return text
}

func showDelimiter(c byte) string {
	if c == '\t' {
		return "tab"
	}
	return strconv.Quote(string(c))
}

// listed joins the first few column names.
func listed(columns []string) string {
	const maxListed = 10
	if n := len(columns); n > maxListed {
		return strings.Join(columns[:maxListed], ", ") + fmt.Sprintf(" and %d more", n-maxListed)
	}
	return strings.Join(columns, ", ")
}

// csvScanner reads the records of a CSV file (RFC 4180) in UTF-8. A line ends with LF, CR, CR LF or CR CR LF.
// A line break in quotes is read as LF. A quote inside an unquoted field is an ordinary character.
type csvScanner struct {
	r         *bufio.Reader
	delimiter byte
	maxRecord int64 // bytes
	offset    int64 // of the next byte
	line      int   // of the next byte, from 1

	// The last record:
	recordLine  int   // its line
	recordStart int64 // its offset
	blank       bool  // it is an empty line
	text        []byte
	ends        []int // of its fields, in text
}

func newCSVScanner(r io.Reader, delimiter byte) *csvScanner {
	return &csvScanner{r: bufio.NewReaderSize(r, 64<<10), delimiter: delimiter,
		maxRecord: maxCSVRecord, line: 1}
}

// fields returns the number of fields of the record.
func (s *csvScanner) fields() int { return len(s.ends) }

// field returns field i of the record, valid until the next call of next.
func (s *csvScanner) field(i int) []byte {
	start := 0
	if i > 0 {
		start = s.ends[i-1]
	}
	return s.text[start:s.ends[i]]
}

var (
	errCSVQuote  = errors.New("a quote is not closed")
	errCSVAfter  = errors.New("text follows a closing quote; a quote in a quoted value is written twice")
	errCSVBefore = errors.New("there is white space before a quote")
)

// maxCSVRecord is the maximum size of a record, the same as of a row in a page.
const maxCSVRecord = 64 << 20

// next reads a record. An empty line is a record of one empty field, with blank set. The error is io.EOF at
// the end of the file, or names the line.
func (s *csvScanner) next() error {
	s.text, s.ends, s.blank, s.recordLine, s.recordStart = s.text[:0], s.ends[:0], false, s.line, s.offset
	for first := true; ; first = false {
		start := len(s.text)
		c, err := s.read()
		switch {
		case err != nil && first:
			return err // io.EOF too: the file ends before a record
		case err == nil && c == '"':
			if c, err = s.quoted(); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		case err == nil:
			s.blank = first && isLineEnd(c)
			for err == nil && c != s.delimiter && !isLineEnd(c) {
				if c == '"' && len(s.text) > start && len(bytes.TrimLeft(s.text[start:], " ")) == 0 {
					return fmt.Errorf("line %d: %w", s.line, errCSVBefore)
				}
				s.text = append(s.text, c)
				c, err = s.read()
			}
		}
		s.ends = append(s.ends, len(s.text))
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case isLineEnd(c):
			return nil
		}
	}
}

func isLineEnd(c byte) bool { return c == '\n' || c == '\r' }

// quoted reads the rest of a field that began with a quote. It returns the byte after the closing quote, a
// delimiter or a line end, or io.EOF at the end of the file.
func (s *csvScanner) quoted() (byte, error) {
	opened := s.line
	for {
		c, err := s.read()
		switch {
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("line %d: %w", opened, errCSVQuote)
		case err != nil:
			return 0, err
		case c == '\r':
			c = '\n'
		case c == '"':
			c, err = s.read()
			switch {
			case err != nil:
				return 0, err
			case c == s.delimiter || isLineEnd(c):
				return c, nil
			case c != '"':
				return 0, fmt.Errorf("line %d: %w", s.line, errCSVAfter)
			}
		}
		s.text = append(s.text, c)
	}
}

// read returns the next byte, the first one of a line end, and counts lines.
func (s *csvScanner) read() (byte, error) {
	c, err := s.r.ReadByte()
	if err != nil {
		return 0, err
	}
	if s.offset++; s.offset-s.recordStart > s.maxRecord {
		return 0, fmt.Errorf("line %d has more than %d MiB; is a quote missing?", s.recordLine,
			s.maxRecord>>20)
	}
	if c == '\r' {
		// Programs that translate line ends write CR CR LF for CR LF.
		if after, _ := s.r.Peek(2); len(after) == 2 && after[0] == '\r' && after[1] == '\n' {
			s.discard(2)
		} else if len(after) > 0 && after[0] == '\n' {
			s.discard(1)
		}
	}
	if isLineEnd(c) {
		s.line++
	}
	return c, nil
}

func (s *csvScanner) discard(n int) {
	_, _ = s.r.Discard(n) // cannot fail, the bytes are buffered
	s.offset += int64(n)
}

// csvKept is the kind of a column that is text because of --text, beyond those of its values.
const csvKept = rows.CSVCode + 1

// csvCandidates are the delimiters that findDelimiter tries.
const csvCandidates = ",;\t|"

// findDelimiter returns the file's delimiter and where its records begin. Excel reads and writes a first line
// such as sep=; that sets the delimiter. Otherwise the candidate wins with which most of the first records
// have as many fields as the header, and more than one.
func findDelimiter(head []byte, given byte) (delimiter byte, start int64) {
	lines := newCSVScanner(bytes.NewReader(head), 0)
	if lines.next() == nil && lines.fields() == 1 {
		if name := lines.field(0); len(name) == 5 && strings.EqualFold(string(name[:4]), "sep=") &&
			isDelimiter(name[4]) {
			delimiter, start = name[4], lines.offset
		}
	}
	if given != 0 {
		return given, start
	}
	if delimiter != 0 {
		return delimiter, start
	}
	const maxRecords = 50
	bestFit, bestFields := 0, 1
	delimiter = csvCandidates[0]
	for i := range len(csvCandidates) {
		s := newCSVScanner(bytes.NewReader(head), csvCandidates[i])
		header, fit := 0, 0
		for n := 0; n < maxRecords && s.next() == nil; {
			if s.blank {
				continue
			}
			if n++; n == 1 {
				header = s.fields()
			} else if s.fields() == header {
				fit++
			}
		}
		if header > 1 && (bestFields == 1 || fit > bestFit || fit == bestFit && header > bestFields) {
			delimiter, bestFit, bestFields = csvCandidates[i], fit, header
		}
	}
	return delimiter, start
}

// isDelimiter reports whether a byte can separate two values.
func isDelimiter(c byte) bool { return c == '\t' || c > ' ' && c < utf8.RuneSelf && c != '"' }

// loadCSV reads the records of the file.
func (s *Source) loadCSV(opts Options, given byte) error {
	if err := s.dropEOFMarks(); err != nil {
		return err
	}
	head := make([]byte, min(64<<10, max(0, s.end-s.start)))
	if _, err := s.data.ReadAt(head, s.start); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.IndexByte(head[:min(len(head), 512)], 0) >= 0:
		return errors.New("the file holds bytes that are 0; if it is UTF-16, give --encoding utf-16le or utf-16be")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return errors.New("the file is a workbook or a zip: save it as CSV first")
	}
	d := &csvDialect{}
	s.csv, s.copyRow = d, s.copyCSV
	d.delimiter, d.start = findDelimiter(head, given)
	d.start += s.start

	// A code below numbers makes the whole column text, so the numbers need a second scan.
	again, err := s.scanCSV(opts)
	if err == nil && again {
		s.rows = s.rows[:0]
		_, err = s.scanCSV(opts)
	}
	if err != nil {
		return err
	}
	for i, name := range s.columns {
		switch d.kinds[i] {
		case rows.CSVNumber:
			d.numbers = append(d.numbers, name)
		case rows.CSVCode:
			d.codes = append(d.codes, name)
		}
	}
	return nil
}

// dropEOFMarks cuts off the bytes 0x1A with which DOS ends a file, and line ends after them.
func (s *Source) dropEOFMarks() error {
	tail := make([]byte, min(4<<10, s.end-s.start))
	if _, err := s.data.ReadAt(tail, s.end-int64(len(tail))); err != nil {
		return err
	}
	kept := bytes.TrimRight(tail, "\x1a\r\n")
	if mark := bytes.IndexByte(tail[len(kept):], 0x1A); mark >= 0 {
		s.end -= int64(len(tail) - len(kept) - mark)
	}
	return nil
}

// scanCSV scans the file. The kinds of the columns may come from an earlier scan. again reports that this
// scan changed the kind of a column after it had used the old one.
func (s *Source) scanCSV(opts Options) (again bool, err error) {
	d := s.csv
	records := newCSVScanner(io.NewSectionReader(s.data, d.start, s.end-d.start), d.delimiter)
	if d.start > s.start {
		records.line = 2 // after sep=
	}
	var scratch []byte
	for header := true; ; {
		err := records.next()
		switch {
		case errors.Is(err, io.EOF) && header:
			return false, errors.New("the file is empty")
		case errors.Is(err, io.EOF):
			return again, nil
		case err != nil:
			return false, err
		case !s.isText(records.text):
			return false, fmt.Errorf("line %d is not %s", records.recordLine, s.encodingTried())
		case records.blank && (header || len(s.columns) > 1):
			continue
		case header:
			header = false
			if s.columns != nil {
				continue
			}
			if err := s.nameColumns(records); err != nil {
				return false, err
			}
			if d.kinds, err = s.keepText(opts); err != nil {
				return false, err
			}
			continue
		}
		for i := len(s.columns); i < records.fields(); i++ {
			if len(records.field(i)) > 0 {
				return false, fmt.Errorf("line %d has %d fields, the header has %d (the delimiter is %s; --delimiter sets another)",
					records.recordLine, records.fields(), len(s.columns), showDelimiter(d.delimiter))
			}
		}
		for i := range min(len(s.columns), records.fields()) {
			if before := d.kinds[i]; before < rows.CSVCode {
				d.kinds[i] = max(before, rows.KindOfCSV(records.field(i)))
				again = again || before == rows.CSVNumber && d.kinds[i] == rows.CSVCode
			}
		}
		if scratch, err = s.appendRecord(scratch[:0], records); err != nil {
			return false, fmt.Errorf("line %d: %w", records.recordLine, err)
		}
		s.rows = append(s.rows, rowSpan{
			offset: d.start + records.recordStart, length: uint32(records.offset - records.recordStart),
			sent: uint32(len(scratch)),
		})
	}
}

// keepText returns the columns' kinds before the first record.
func (s *Source) keepText(opts Options) ([]rows.CSVKind, error) {
	kinds := make([]rows.CSVKind, len(s.columns))
	for _, name := range opts.Text {
		i := slices.Index(s.columns, name)
		if i < 0 {
			return nil, optionf("--text: the file has no column %q; it has %s", name, listed(s.columns))
		}
		kinds[i] = csvKept
	}
	if opts.AllText {
		for i := range kinds {
			kinds[i] = csvKept
		}
	}
	return kinds, nil
}

func (s *Source) nameColumns(record *csvScanner) error {
	if record.fields() > maxColumns {
		return fmt.Errorf("the header has %d columns, more than %d", record.fields(), maxColumns)
	}
	given := map[string]bool{}
	for i := range record.fields() {
		given[string(record.field(i))] = true
	}
	taken, count := map[string]bool{}, map[string]int{}
	for i := range record.fields() {
		title := string(record.field(i))
		name := title
		if name == "" {
			name = fmt.Sprintf("column_%d", i+1)
		}
		unique := name
		// A generated name must differ from all later titles.
		for taken[unique] || unique != title && given[unique] {
			count[name] = max(count[name], 1) + 1
			unique = fmt.Sprintf("%s_%d", name, count[name])
		}
		taken[unique] = true
		quoted, err := jsontext.AppendQuote(nil, unique)
		if err != nil {
			return err
		}
		s.columns = append(s.columns, unique)
		s.csv.quoted = append(s.csv.quoted, quoted)
	}
	return nil
}

// appendRecord appends a record as a JSON row. It drops fields beyond the header.
func (s *Source) appendRecord(dst []byte, record *csvScanner) (_ []byte, err error) {
	dst = append(dst, '{')
	for i := range min(len(s.columns), record.fields()) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, s.csv.quoted[i]...)
		dst = append(dst, ':')
		value := record.field(i)
		if s.csv.kinds[i] == rows.CSVNumber && rows.KindOfCSV(value) == rows.CSVNumber {
			dst = rows.AppendCSVNumber(dst, value)
		} else if dst, err = jsontext.AppendQuote(dst, value); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func (s *Source) copyCSV(w *bufio.Writer, spans []rowSpan) error {
	records := newCSVScanner(s.section(spans), s.csv.delimiter)
	var scratch []byte
	for range spans {
		err := records.next()
		for err == nil && records.blank && len(s.columns) > 1 {
			err = records.next()
		}
		if err != nil {
			return err
		}
		if scratch, err = s.appendRecord(scratch[:0], records); err != nil {
			return err
		}
		_ = w.WriteByte(',') // an error is sticky and returned by the next call
		if _, err := w.Write(scratch); err != nil {
			return err
		}
	}
	return nil
}
