package rows

import (
	"bytes"
	"fmt"
)

// FromNDJSON appends the lines of body, each of them one JSON object, to dst as an array of n rows. Lines end
// with LF or CR LF. Blank lines and a byte order mark are ignored. The objects keep their bytes. A body
// without lines is an array without rows.
//
// Every error is a [*SyntaxError] that names the line.
func FromNDJSON(dst, body []byte, lim Limits) (array []byte, n int, err error) {
	s := scanner{lim: lim.withDefaults()}
	start := len(body) - len(trimBOM(body))
	if i := skipSpace(body, start); i < len(body) && body[i] == '<' {
		return nil, 0, &SyntaxError{Offset: i, Msg: "the body is HTML or XML, not NDJSON"}
	}
	array = append(dst, '[')
	for line := 1; start < len(body); line++ {
		size := bytes.IndexByte(body[start:], '\n')
		last := size < 0
		if last {
			size = len(body) - start
		}
		s.b = body[:start+size] // the object ends within the line
		i := skipSpace(s.b, start)
		start += size + 1
		if i == len(s.b) {
			continue
		}
		n++
		end := -1
		switch {
		case n > s.lim.MaxRows:
			s.beyond(ErrTooManyRows, i, "the page has more than %d rows", s.lim.MaxRows)
			return nil, 0, s.err
		case s.b[i] == '{':
			end = s.object(i, 2, s.lim.MaxFields)
		case kindOf(s.b[i]) == Array:
			s.fail(i, "an array, not an object")
			s.err.Hint = "a JSON array of rows is source_http.format json"
		default:
			if s.value(i, 1) >= 0 {
				s.fail(i, "%s, not an object", kindOf(s.b[i]))
			}
		}
		if end >= 0 {
			s.end(end)
		}
		if s.err == nil && end-i > s.lim.MaxRowBytes {
			s.beyond(ErrRowTooLong, i, "%d bytes, at most %d are allowed", end-i, s.lim.MaxRowBytes)
		}
		if s.err != nil {
			s.err.Msg = fmt.Sprintf("line %d: %s", line, s.err.Msg)
			s.err.Row = n
			if s.err.Truncated && !last {
				s.err.Truncated = false
				s.err.Hint = "each line must hold a whole object"
			}
			return nil, 0, s.err
		}
		if n > 1 {
			array = append(array, ',')
		}
		if array = append(array, s.b[i:end]...); len(array)-len(dst) >= s.lim.MaxBytes {
			s.beyond(ErrTooManyBytes, i, "line %d: the rows have more than %d bytes", line, s.lim.MaxBytes)
			return nil, 0, s.err
		}
	}
	return append(array, ']'), n, nil
}
