package rows

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/encoding/simplifiedchinese"
)

// Decode returns body in UTF-8. charset is utf-8, gbk or gb18030, in any case; "" is utf-8. us-ascii and
// gb2312 are accepted as the sets that hold them. Bytes that charset lacks are an error that names the line.
// UTF-8 is returned as it is: the readers check it.
func Decode(body []byte, charset string) ([]byte, error) {
	e := simplifiedchinese.GBK
	switch strings.ToLower(charset) {
	case "", "utf-8", "utf8", "us-ascii":
		return body, nil
	case "gbk", "gb2312":
	case "gb18030":
		e = simplifiedchinese.GB18030
	default:
		return nil, fmt.Errorf("charset %q is not supported; supported: utf-8, gbk, gb18030", charset)
	}
	text, err := e.NewDecoder().Bytes(body)
	if err != nil {
		return nil, fmt.Errorf("the body is not %s: %w", charset, err)
	}
	if i := bytes.IndexRune(text, utf8.RuneError); i >= 0 { // a broken character becomes this one
		return nil, fmt.Errorf("line %d is not %s", 1+bytes.Count(text[:i], []byte("\n")), charset)
	}
	return text, nil
}

// FromCSV appends the records of body to dst as an array of n rows. body is CSV as RFC 4180 has it, in UTF-8,
// with the names of the columns in its first line. A byte order mark and blank lines are ignored, but in a
// file of one column a blank line is a row with an empty value.
//
// A value becomes a number if it is a JSON number that a float64 holds exactly: no code such as 007, 1e5 or
// more than 15 digits (see [KindOfCSV]). Each other value is a string; an empty value is "".
//
// names are the names of the columns. They must differ. Every record must have a value for each of them.
// Every error is a [*SyntaxError]; it names the line unless it is about the whole body.
func FromCSV(dst, body []byte, delimiter rune, lim Limits) (array []byte, names []string, n int, err error) {
	lim = lim.withDefaults()
	bom := len(body) - len(trimBOM(body))
	if err := checkCSV(body, bom); err != nil {
		return nil, nil, 0, err
	}
	c := csvReader{r: csv.NewReader(bytes.NewReader(body[bom:])), start: bom, nextLine: 1}
	c.r.Comma = delimiter
	c.r.FieldsPerRecord = -1
	c.r.ReuseRecord = true
	header, err := c.next()
	if err != nil {
		return nil, nil, 0, err
	}
	quoted, err := c.header(header, lim)
	if err != nil {
		return nil, nil, 0, err
	}
	names = append(names, header...)
	array = append(dst, '[')
	add := func(record []string) error {
		if n++; n > lim.MaxRows {
			return c.beyond(ErrTooManyRows, n, "the page has more than %d rows", lim.MaxRows)
		}
		if n > 1 {
			array = append(array, ',')
		}
		start := len(array)
		for k, value := range record {
			array = append(append(array, "{,"[min(k, 1)]), quoted[k]...)
			array = append(array, ':')
			if isCSVNumber(value) {
				array = append(array, value...)
			} else {
				array, _ = jsontext.AppendQuote(array, value) // cannot fail, the body is UTF-8
			}
			switch {
			case len(array)-start >= lim.MaxRowBytes:
				return c.beyond(ErrRowTooLong, n, "line %d: more than %d bytes", c.line, lim.MaxRowBytes)
			case len(array)-len(dst) >= lim.MaxBytes:
				return c.beyond(ErrTooManyBytes, n, "line %d: the rows have more than %d bytes", c.line, lim.MaxBytes)
			}
		}
		array = append(array, '}')
		return nil
	}
	blank := func(lines int) error {
		for range lines {
			if len(names) == 1 {
				if err := add([]string{""}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for {
		record, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, nil, 0, err
		}
		if err := blank(c.blank); err != nil {
			return nil, nil, 0, err
		}
		if len(record) != len(names) {
			return nil, nil, 0, &SyntaxError{Offset: c.offset(), Row: n + 1,
				Msg: fmt.Sprintf("line %d has %d values, but the header has %d columns", c.line, len(record), len(names))}
		}
		if err := add(record); err != nil {
			return nil, nil, 0, err
		}
	}
	lines := bytes.Count(body, []byte("\n"))
	if body[len(body)-1] != '\n' {
		lines++
	}
	if err := blank(lines + 1 - c.nextLine); err != nil {
		return nil, nil, 0, err
	}
	return append(array, ']'), names, n, nil
}

// checkCSV refuses a body that is no text, or text of another format. Its text begins at i.
func checkCSV(body []byte, i int) error {
	text := bytes.TrimLeft(body[i:], " \t\r\n")
	if len(text) == 0 {
		return &SyntaxError{Offset: len(body), Msg: "the body is empty; the names of the columns must be in its first line",
			Truncated: true}
	}
	if text[0] == '<' {
		head := strings.ToLower(string(text[:min(len(text), 16)]))
		for _, tag := range []string{"<!doctype", "<html", "<?xml"} {
			if strings.HasPrefix(head, tag) {
				return &SyntaxError{Offset: i, Msg: "the body is HTML or XML, not CSV"}
			}
		}
	}
	if text[0] == '{' || text[0] == '[' {
		s := scanner{b: text, lim: Limits{MaxDepth: math.MaxInt}.withDefaults()}
		if end := s.value(0, 0); end >= 0 {
			if s.end(end); s.err == nil {
				return &SyntaxError{Offset: i, Msg: "the body is JSON, not CSV"}
			}
		}
	}
	if !utf8.Valid(body) {
		for i < len(body) {
			r, size := utf8.DecodeRune(body[i:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			i += size
		}
		return &SyntaxError{Offset: i, Msg: fmt.Sprintf("line %d is not UTF-8; options.source_charset sets another encoding",
			1+bytes.Count(body[:i], []byte("\n")))}
	}
	return nil
}

// csvReader reads the records of a CSV file and their lines.
type csvReader struct {
	r     *csv.Reader
	start int // of the text in the body

	line     int // of the last record, from 1
	blank    int // lines before it that are blank
	nextLine int // after it
}

// offset returns how much of the body is read.
func (c *csvReader) offset() int { return c.start + int(c.r.InputOffset()) }

// next reads a record, valid until the next call.
func (c *csvReader) next() ([]string, error) {
	record, err := c.r.Read()
	var e *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return nil, err
	case errors.As(err, &e):
		msg := "a quote is not closed, or text follows a closing quote; a quote in a quoted value is written twice"
		if errors.Is(e.Err, csv.ErrBareQuote) {
			msg = "a quote is inside a value without quotes; quote the value and write its quotes twice"
		}
		return nil, &SyntaxError{Offset: c.offset(), Msg: fmt.Sprintf("line %d: %s", e.Line, msg)}
	case err != nil: // the delimiter
		return nil, &SyntaxError{Msg: err.Error()}
	}
	c.line, _ = c.r.FieldPos(0)
	c.blank = c.line - c.nextLine
	last := len(record) - 1
	end, _ := c.r.FieldPos(last)
	c.nextLine = end + strings.Count(record[last], "\n") + 1
	return record, nil
}

func (c *csvReader) beyond(limit error, row int, format string, args ...any) error {
	return &SyntaxError{Offset: c.offset(), Row: row, Msg: fmt.Sprintf(format, args...), limit: limit}
}

// header checks the names of the columns and returns them as JSON strings.
func (c *csvReader) header(names []string, lim Limits) (quoted [][]byte, err error) {
	fail := func(format string, args ...any) *SyntaxError {
		return &SyntaxError{Offset: c.offset(), Msg: fmt.Sprintf("line %d: ", c.line) + fmt.Sprintf(format, args...)}
	}
	if len(names) > lim.MaxFields {
		e := fail("more than %d columns", lim.MaxFields)
		e.limit = ErrTooManyFields
		return nil, e
	}
	columns := make(map[string]int, len(names))
	for k, name := range names {
		switch first, repeated := columns[name]; {
		case name == "":
			return nil, fail("column %d has no name", k+1)
		case repeated:
			e := fail("columns %d and %d have the same name", first, k+1)
			e.Hint = "the name is " + quoteName([]byte(name))
			return nil, e
		case strings.Contains(name, "\r"):
			return nil, fail("column %d has a carriage return in its name; lines end with LF or CR LF", k+1)
		}
		columns[name] = k + 1
		q, err := jsontext.AppendQuote(nil, name)
		if err != nil {
			return nil, err
		}
		quoted = append(quoted, q)
	}
	return quoted, nil
}

// maxCSVDigits is the maximum number of digits that a float64 holds for every number, and of an integer that
// is no code.
const maxCSVDigits = 15

// isCSVNumber reports whether a value is a JSON number that a float64 holds exactly.
func isCSVNumber(value string) bool {
	if strings.HasPrefix(value, ".") || strings.HasPrefix(value, "-.") || strings.Trim(value, " ") != value ||
		KindOfCSV([]byte(value)) != CSVNumber {
		return false
	}
	digits, exponent := 0, false
	for _, c := range []byte(value) {
		if exponent = c|0x20 == 'e'; exponent {
			break
		}
		if c >= '0' && c <= '9' && (digits > 0 || c != '0') {
			digits++
		}
	}
	if digits > maxCSVDigits {
		return false
	}
	if exponent {
		f, err := strconv.ParseFloat(value, 64)
		const smallestNormal = 0x1p-1022
		return err == nil && (digits == 0 || math.Abs(f) >= smallestNormal)
	}
	return true
}

// CSVKind is what the text of a CSV value can become without losing a digit.
type CSVKind int

// The kinds of CSV values.
const (
	CSVText   CSVKind = iota
	CSVNumber         // a JSON number, except that the zero before its point may be missing
	CSVCode           // digits, but not written as a number
)

// KindOfCSV returns the kind of a value, ignoring spaces around it.
//
//	number  12  -3  0  -0  1.50  .5  -.5  1e-05  1.5E3  3.3000000000000003
//	code    007  -01  00.5  +5  1234567890123456  1e5  12E45
//	text    5.  1,000  1_000  0x10  NaN  inf  50%  １２  1-2  TRUE  and everything else
//
// A code is digits that a number cell would change: a leading zero, a plus sign, more than 15 digits, or an
// exponent as no program writes it. A fraction of any length is a number, and the workbook keeps its digits.
func KindOfCSV(value []byte) CSVKind {
	v := bytes.Trim(value, " ")
	plus := false
	if len(v) > 0 && (v[0] == '-' || v[0] == '+') {
		plus = v[0] == '+'
		v = v[1:]
	}
	whole := digitsOf(v)
	v = v[len(whole):]
	var fraction, exponent []byte
	if len(v) > 0 && v[0] == '.' {
		if fraction = digitsOf(v[1:]); len(fraction) == 0 {
			return CSVText
		}
		v = v[1+len(fraction):]
	}
	if len(whole)+len(fraction) == 0 {
		return CSVText
	}
	marked := len(fraction) > 0 // 1e5 may be a name; 1e-05, 1e+20 and 1.5E3 are numbers
	if len(v) > 0 && v[0]|0x20 == 'e' {
		if v = v[1:]; len(v) > 0 && (v[0] == '-' || v[0] == '+') {
			marked = true
			v = v[1:]
		}
		if exponent = digitsOf(v); len(exponent) == 0 {
			return CSVText
		}
		v = v[len(exponent):]
	}
	switch {
	case len(v) > 0:
		return CSVText
	case plus, len(whole) > 1 && whole[0] == '0':
		return CSVCode
	case exponent != nil && !marked:
		return CSVCode
	case fraction == nil && exponent == nil && len(whole) > maxCSVDigits:
		return CSVCode
	}
	return CSVNumber
}

func digitsOf(v []byte) []byte {
	n := 0
	for n < len(v) && v[n]-'0' <= 9 {
		n++
	}
	return v[:n]
}

// AppendCSVNumber appends a [CSVNumber] as JSON.
func AppendCSVNumber(dst, value []byte) []byte {
	v := bytes.Trim(value, " ")
	if v[0] == '-' {
		dst = append(dst, '-')
		v = v[1:]
	}
	if v[0] == '.' {
		dst = append(dst, '0')
	}
	return append(dst, v...)
}
