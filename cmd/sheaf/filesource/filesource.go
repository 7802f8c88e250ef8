// Package filesource serves a JSON, NDJSON or CSV file as a source of an export.
package filesource

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"sheaf/events/rows"
)

const (
	defaultLimit = 50     // rows per page if the request has no limit
	maxLimit     = 10_000 // maximum number of rows per page
	maxColumns   = 16_384 // columns of a worksheet (ECMA-376)
	maxBody      = 1 << 20
)

// Options configures how a Source reads and serves a file. The zero value is ready to use.
type Options struct {
	MaxLimit  int          // maximum rows per page; larger limits are reduced to it; 0 means 10,000
	Encoding  string       // name in the WHATWG Encoding Standard; "" means automatic
	Delimiter string       // of a CSV file: an ASCII character, or tab; "" means automatic
	Text      []string     // columns of a CSV file that are text even if they hold numbers
	AllText   bool         // as if Text named all columns
	Log       *slog.Logger // default: nothing is logged
}

// Source serves a file of rows as a source, in the standard page format.
//
// The file is a JSON array of objects, a sequence of JSON objects (NDJSON), or CSV with a header record. Open
// scans it and keeps 16 bytes per row; each page is read from the file on request. JSON rows are sent byte
// for byte as in the file, so numbers keep every digit. CSV values are numbers where rows.KindOfCSV says so,
// and strings otherwise.
//
// Every page begins with the header row, which titles each column with its own name and does not count
// towards limit. The columns are all names that occur in any row, in order of first appearance. A page beyond
// the end has only the header. A file without rows and columns has no header either.
//
// The file must not change while it is served: later requests fail with status 500.
//
// It serves GET, HEAD and POST on every path and is safe for concurrent use.
type Source struct {
	file     *os.File
	opened   fs.FileInfo
	data     *os.File // file, or an unnamed UTF-8 copy of it
	encoding string   // of file; the WHATWG name
	strict   bool     // U+FFFD in data means a byte sequence that encoding does not allow
	start    int64    // of the first byte of data after the byte order mark
	end      int64
	columns  []string
	header   []byte // nil if there is no header
	rows     []rowSpan
	csv      *csvDialect // nil for JSON
	copyRow  func(w *bufio.Writer, rows []rowSpan) error

	maxLimit int
	log      *slog.Logger
}

// rowSpan is where a row is in the file, and its length in a page.
type rowSpan struct {
	offset int64
	length uint32
	sent   uint32
}

// Open scans the file. It refuses a file that it cannot serve completely, with an error that names the row
// (from 1, without the header) or the line.
//
// The extensions .csv and .tsv mean CSV, and so does a delimiter in opts. Other files are recognised by their
// first character: "[" starts an array, "{" a sequence of objects. A .json file with a single object is
// refused, because that is more likely a response that wraps the rows. See findEncoding for the encoding, and
// findDelimiter.
//
// In a CSV file, an empty header name becomes column_N, and a repeated one gets _2, _3 and so on. A record
// shorter than the header lacks the last columns. In a longer record the extra fields must be empty, because
// they have no name. An empty line is a row if the file has one column; otherwise it is skipped. See
// rows.KindOfCSV for numbers.
func Open(path string, opts Options) (*Source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	s := &Source{file: file, maxLimit: opts.MaxLimit, log: opts.Log}
	if s.maxLimit <= 0 {
		s.maxLimit = maxLimit
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(strings.ToLower(filepath.Ext(path)), opts); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open source %s: %w", filepath.Base(path), err)
	}
	return s, nil
}

// OptionError means that an option does not fit the file. It names the flag of sheaf source.
type OptionError struct{ error }

func optionf(format string, args ...any) error { return OptionError{fmt.Errorf(format, args...)} }

// Describe says how a CSV file was read; "" for other files. It quotes column names unescaped.
func (s *Source) Describe() string {
	if s.csv == nil {
		return ""
	}
	return "CSV in " + s.encoding + ", " + s.csv.String()
}

// Rows returns the number of rows in the file, without the header.
func (s *Source) Rows() int { return len(s.rows) }

// Columns returns the names of the columns in the order of the header row.
func (s *Source) Columns() []string { return slices.Clone(s.columns) }

// Close closes the source. It cuts off pages in transit.
func (s *Source) Close() error {
	if s.data == nil || s.data == s.file {
		return s.file.Close()
	}
	err := errors.Join(s.data.Close(), s.file.Close())
	_ = os.Remove(s.data.Name()) // for systems where an open file cannot be unlinked
	return err
}

func (s *Source) load(extension string, opts Options) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	s.opened = info
	head := make([]byte, 512)
	n, err := s.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var delimiter byte
	switch d := opts.Delimiter; {
	case d == "tab", d == `\t`, d == "" && extension == ".tsv":
		delimiter = '\t'
	case len(d) == 1 && isDelimiter(d[0]):
		delimiter = d[0]
	case d != "":
		return optionf("--delimiter %q: want one ASCII character that is no quote, or tab", d)
	}
	isCSV := extension == ".csv" || delimiter != 0
	if !isCSV && (opts.AllText || len(opts.Text) > 0) {
		return optionf("--text is for CSV; in JSON a number in quotes is text")
	}
	if bytes.HasPrefix(head[:n], []byte("\x1f\x8b")) {
		return errors.New("the file is compressed with gzip: unpack it first")
	}
	if err := s.decode(head[:n], isCSV, opts.Encoding); err != nil {
		return err
	}
	if isCSV {
		err = s.loadCSV(opts, delimiter)
	} else {
		err = s.loadJSON(extension)
	}
	if err != nil {
		return err
	}
	if len(s.rows) == 0 && len(s.columns) == 0 {
		return nil
	}
	return s.makeHeader()
}

func (s *Source) makeHeader() error {
	s.header = append(s.header, '{')
	for i, name := range s.columns {
		quoted, err := jsontext.AppendQuote(nil, name)
		if err != nil {
			return fmt.Errorf("column %q: %w", name, err)
		}
		if i > 0 {
			s.header = append(s.header, ',')
		}
		s.header = append(s.header, quoted...)
		s.header = append(s.header, ':')
		s.header = append(s.header, quoted...)
	}
	s.header = append(s.header, '}')
	return nil
}

// --- JSON ---

func (s *Source) loadJSON(extension string) error {
	scan := &jsonScan{
		Source: s,
		// As in every page, the last of two equal names counts and half a surrogate pair becomes U+FFFD.
		// notText refuses bytes that are not UTF-8.
		dec: jsontext.NewDecoder(io.NewSectionReader(s.data, s.start, s.end-s.start),
			jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)),
		columns: map[string]bool{}, spellings: map[string]bool{},
	}
	s.copyRow = s.copyJSON
	switch scan.dec.PeekKind() {
	case '[':
		return scan.array()
	case '{':
		if err := scan.sequence(); err != nil {
			return err
		}
		if extension == ".json" && len(s.rows) == 1 {
			return errors.New("the file is one JSON object, want an array of objects (or the extension .ndjson for a file of one row)")
		}
		return nil
	}
	if _, err := scan.dec.ReadToken(); errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	return errors.New("the file does not begin with [ or {: want a JSON array of objects, NDJSON, or CSV in a file whose name ends in .csv or .tsv (or with --delimiter)")
}

type jsonScan struct {
	*Source
	dec       *jsontext.Decoder
	columns   map[string]bool
	spellings map[string]bool // raw names that belong to a known column
}

func (s *jsonScan) array() error {
	if _, err := s.dec.ReadToken(); err != nil {
		return s.sentence(err)
	}
	for {
		switch kind := s.dec.PeekKind(); kind {
		case '{':
			if err := s.row(); err != nil {
				return err
			}
		case ']':
			if _, err := s.dec.ReadToken(); err != nil {
				return s.sentence(err)
			}
			end := s.dec.InputOffset() + s.start
			if _, err := s.dec.ReadToken(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("more data after the end of the array (byte %d)", end)
			}
			return nil
		default:
			return s.notARow(kind)
		}
	}
}

func (s *jsonScan) sequence() error {
	for {
		switch kind := s.dec.PeekKind(); kind {
		case '{':
			if err := s.row(); err != nil {
				return err
			}
		default:
			if err := s.notARow(kind); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		}
	}
}

// notARow returns why the next value is not a row; io.EOF at the end of the file.
func (s *jsonScan) notARow(kind jsontext.Kind) error {
	switch kind {
	case '[', '"', '0', 'n', 't', 'f':
		return fmt.Errorf("row %d is %s, want an object", len(s.rows)+1, describeKind(kind))
	}
	_, err := s.dec.ReadToken()
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return s.sentence(err)
}

func (s *jsonScan) row() error {
	if _, err := s.dec.ReadToken(); err != nil {
		return s.sentence(err)
	}
	offset := s.dec.InputOffset() - 1
	for s.dec.PeekKind() != '}' {
		name, err := s.dec.ReadValue()
		if err != nil {
			return s.sentence(err)
		}
		if !s.spellings[string(name)] {
			if err := s.column(name); err != nil {
				return err
			}
		}
		value, err := s.dec.ReadValue()
		if err != nil {
			return s.sentence(err)
		}
		if !s.isText(value) {
			return s.notText(value)
		}
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return s.sentence(err)
	}
	length := s.dec.InputOffset() - offset
	if length > math.MaxUint32 {
		return fmt.Errorf("row %d has %d bytes, more than 4 GiB", len(s.rows)+1, length)
	}
	s.rows = append(s.rows, rowSpan{offset: s.start + offset, length: uint32(length), sent: uint32(length)})
	return nil
}

// notText returns an error for the value that the decoder has just read.
func (s *jsonScan) notText(value jsontext.Value) error {
	valid := 0
	for r, n := utf8.DecodeRune(value); r != utf8.RuneError || n > 1 &&
		!s.strict; r, n = utf8.DecodeRune(value[valid:]) {
		valid += n
	}
	at := s.start + s.dec.InputOffset() - int64(len(value)-valid)
	return fmt.Errorf("row %d is not %s (byte %d)", len(s.rows)+1, s.encodingTried(), at)
}

// column records a spelling of a name, as one name can be escaped in many ways.
func (s *jsonScan) column(spelling jsontext.Value) error {
	if !s.isText(spelling) {
		return s.notText(spelling)
	}
	if name := string(rows.Unquote(nil, spelling)); !s.columns[name] {
		if len(s.columns) == maxColumns {
			return fmt.Errorf("row %d: more than %d columns", len(s.rows)+1, maxColumns)
		}
		s.columns[name] = true
		s.Source.columns = append(s.Source.columns, name)
	}
	if len(s.spellings) < 2*maxColumns {
		s.spellings[string(spelling)] = true
	}
	return nil
}

func (s *jsonScan) sentence(err error) error {
	row := len(s.rows) + 1
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("row %d is cut off: the file ends at byte %d: %w", row, s.end, io.ErrUnexpectedEOF)
	case errors.As(err, &syntactic):
		return fmt.Errorf("row %d: %w (byte %d)", row, syntactic.Err, s.start+syntactic.ByteOffset)
	}
	return fmt.Errorf("row %d: %w", row, err)
}

func describeKind(kind jsontext.Kind) string {
	switch kind {
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return "a boolean"
}

func (s *Source) copyJSON(w *bufio.Writer, rows []rowSpan) error {
	r := bufio.NewReaderSize(s.section(rows), 64<<10)
	at := rows[0].offset
	for _, row := range rows {
		if _, err := r.Discard(int(row.offset - at)); err != nil {
			return err
		}
		_ = w.WriteByte(',') // an error is sticky and returned by the next call
		if _, err := io.CopyN(w, r, int64(row.length)); err != nil {
			return err
		}
		at = row.offset + int64(row.length)
	}
	return nil
}

func (s *Source) section(rows []rowSpan) *io.SectionReader {
	last := rows[len(rows)-1]
	return io.NewSectionReader(s.data, rows[0].offset, last.offset+int64(last.length)-rows[0].offset)
}

// --- HTTP ---

// requestError is an error whose text the client receives, with its status.
type requestError struct {
	status int
	msg    string
}

func (e *requestError) Error() string { return e.msg }

// ServeHTTP sends the page that page and limit ask for. Both come from the JSON object of a POST, otherwise
// from the query, as numbers or strings of digits. Defaults: 1 and 50.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	page, limit, err := s.pageAndLimit(w, r)
	if err == nil {
		err = s.unchanged()
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	total := int64(len(s.rows))
	pages := (total + limit - 1) / limit
	var rows []rowSpan
	if page <= pages {
		rows = s.rows[(page-1)*limit : min(page*limit, total)]
	}
	head := []byte(`{"errcode":0,"msg":"","data":{"data":[`)
	head = append(head, s.header...)
	tail := fmt.Appendf(nil,
		`],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}},"request_id":"%s"}`+"\n",
		page, limit, total, pages, uuid.NewString())
	length := int64(len(head) + len(tail))
	for _, row := range rows {
		length += 1 + int64(row.sent)
	}
	// Content-Length is sent before the rows are read, so that the client notices a page that is cut off.
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method == http.MethodHead {
		return
	}
	if err := s.send(w, head, rows, tail); err != nil && r.Context().Err() == nil {
		s.log.Error("page cut off", "page", page, "limit", limit, "error", err)
	}
}

func (s *Source) send(w io.Writer, head []byte, rows []rowSpan, tail []byte) error {
	out := bufio.NewWriterSize(w, 64<<10)
	_, _ = out.Write(head) // an error is sticky and returned by Flush
	if len(rows) > 0 {
		if err := s.copyRow(out, rows); err != nil {
			return err
		}
	}
	_, _ = out.Write(tail)
	return out.Flush()
}

func (s *Source) refuse(w http.ResponseWriter, err error) {
	refusal := &requestError{status: http.StatusInternalServerError, msg: "the file cannot be read"}
	if !errors.As(err, &refusal) {
		s.log.Error("page refused", "error", err)
	}
	body, err := json.Marshal(map[string]any{
		"errcode": refusal.status, "msg": refusal.msg, "data": nil, "request_id": uuid.NewString(),
	})
	if err != nil {
		s.log.Error("page refused", "error", err)
	}
	w.WriteHeader(refusal.status)
	_, _ = w.Write(body)
}

func (s *Source) unchanged() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != s.opened.Size() || !info.ModTime().Equal(s.opened.ModTime()) {
		return &requestError{http.StatusInternalServerError,
			"the file has changed since " + s.opened.ModTime().UTC().Format(time.RFC3339) +
				": restart the source"}
	}
	return nil
}

func (s *Source) pageAndLimit(w http.ResponseWriter, r *http.Request) (page, limit int64, err error) {
	params := r.URL.Query()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			return 0, 0, &requestError{http.StatusBadRequest, "body: cannot be read, or is larger than 1 MiB"}
		}
		var body map[string]json.RawMessage
		if len(bytes.TrimSpace(text)) > 0 && json.Unmarshal(text, &body) != nil {
			return 0, 0, &requestError{http.StatusBadRequest, "body: want a JSON object with page and limit"}
		}
		for name, value := range body {
			var digits string
			if json.Unmarshal(value, &digits) != nil { // no string, and no null
				digits = string(value)
			}
			params.Set(name, digits)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		return 0, 0, &requestError{http.StatusMethodNotAllowed, "method " + r.Method + ": want GET or POST"}
	}
	if page, err = number(params, "page", 1); err != nil {
		return 0, 0, err
	}
	limit, err = number(params, "limit", defaultLimit)
	return page, min(limit, int64(s.maxLimit)), err
}

// number also takes 1e+06, which is how some clients print a million.
func number(params url.Values, name string, absent int64) (int64, error) {
	text := params.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if f, notFloat := strconv.ParseFloat(text, 64); err != nil && notFloat == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
		n, err = int64(f), nil
	}
	if err != nil || n < 1 {
		return 0, &requestError{http.StatusBadRequest, fmt.Sprintf("%s: want a whole number from 1 up, got %.40q", name, text)}
	}
	return n, nil
}
