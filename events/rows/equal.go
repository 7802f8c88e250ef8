package rows

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
)

// EqualRow reports whether two rows hold the same names and values, in any order. Names and strings are
// compared decoded, numbers by their exact decimal value (1, 1.0 and 10e-1 are equal), and nested values
// likewise. If a name occurs twice, the last value counts. Bytes that are not a JSON object, or nest deeper
// than 64 levels, equal nothing.
//
// EqualRow allocates for every field: use it for one row of each page at most.
func EqualRow(a, b []byte) bool {
	if !isRow(a) || !isRow(b) {
		return false
	}
	return bytes.Equal(a, b) || bytes.Equal(canonical(nil, trim(a)), canonical(nil, trim(b)))
}

func isRow(row []byte) bool {
	s := scanner{b: row, lim: Limits{}.withDefaults()}
	i := skipSpace(row, 0)
	if i >= len(row) || row[i] != '{' {
		return false
	}
	if i = s.object(i, 1, len(row)); i >= 0 {
		s.end(i)
	}
	return s.err == nil
}

func trim(b []byte) []byte { return b[skipSpace(b, 0):] }

// canonical appends a form of a checked JSON value that is equal for equal values only: sorted names, decoded
// strings with their length, normalised numbers.
func canonical(dst, raw []byte) []byte {
	switch raw[0] {
	case '{':
		fields := map[string][]byte{}
		c := Cursor{b: raw, i: 1, inRow: true}
		for {
			name, _, v, ok := c.NextField()
			if !ok {
				break
			}
			fields[string(Unquote(nil, name))] = v.Raw
		}
		dst = append(dst, '{')
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			dst = text(dst, []byte(name))
			dst = canonical(dst, fields[name])
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for i := skipSpace(raw, 1); raw[i] != ']'; {
			end := valueEnd(raw, i)
			dst = canonical(dst, raw[i:end])
			if i = skipSpace(raw, end); raw[i] == ',' {
				i = skipSpace(raw, i+1)
			}
		}
		return append(dst, ']')
	case '"':
		return text(dst, Unquote(nil, raw))
	case 't', 'f', 'n':
		return append(dst, raw[0])
	}
	d, ok := parseDecimal(raw)
	if !ok {
		return append(append(append(dst, '#'), raw...), ';')
	}
	if d.negative {
		dst = append(dst, '-')
	}
	dst = append(append(dst, 'd'), d.digits...)
	return append(strconv.AppendInt(append(dst, 'e'), int64(d.exponent), 10), ';')
}

func text(dst, s []byte) []byte {
	dst = strconv.AppendInt(append(dst, '"'), int64(len(s)), 10)
	return append(append(dst, ':'), s...)
}

// valueEnd returns the offset after the checked value at i.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		i, _ = stringEnd(b, i+1)
		return i
	case '{', '[':
		return nestedEnd(b, i)
	}
	return plainEnd(b, i)
}

// decimal is the exact value digits × 10^exponent. Its digits neither begin
// nor end with 0; zero has none, is not negative and has exponent 0.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// parseDecimal reads a checked JSON number. ok is false if its exponent is beyond a billion.
func parseDecimal(raw []byte) (d decimal, ok bool) {
	if raw[0] == '-' {
		d.negative = true
		raw = raw[1:]
	}
	mantissa, exp := raw, []byte("0")
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		mantissa, exp = raw[:i], raw[i+1:]
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	digits := slices.Concat(whole, fraction)
	trimmed := bytes.TrimRight(digits, "0")
	zeros := len(digits) - len(trimmed)
	trimmed = bytes.TrimLeft(trimmed, "0")
	if len(trimmed) == 0 {
		return decimal{}, true
	}
	e, err := strconv.Atoi(string(exp))
	if err != nil || e > 1e9 || e < -1e9 {
		return decimal{}, false
	}
	d.digits = string(trimmed)
	d.exponent = e - len(fraction) + zeros
	return d, true
}
