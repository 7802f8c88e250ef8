package csv

import (
	"strings"
	"time"
	"unicode/utf8"

	"sheaf/services/assembler/encode/cells"
)

// layout is how dates of a column are written; nil is ISO 8601.
type layout []part

// part is a literal, or a part of a date in Go's notation.
type part struct {
	literal string
	of      string // "" for a literal; "h" is the hour without a leading zero
}

// parts are those of Excel's number formats. A month between hours and seconds is minutes.
var parts = map[string]string{
	"yyyy": "2006", "yy": "06", "mmmm": "January", "mmm": "Jan", "mm": "01", "m": "1", "dddd": "Monday",
	"ddd": "Mon", "dd": "02", "d": "2", "hh": "15", "h": "h", "ss": "05", "s": "5",
}

const amPM = "am/pm"

// parseLayout reads an Excel number format of dates. Others, such as 0.00, give nil.
func parseLayout(format string) layout {
	var l layout
	found := false
	for rest := format; rest != ""; {
		n := 1
		switch c := rest[0]; {
		case len(rest) >= len(amPM) && strings.EqualFold(rest[:len(amPM)], amPM):
			l, n, found = append(l, part{of: "PM"}), len(amPM), true
		case strings.IndexByte("ymdhsYMDHS", c) >= 0:
			for n < len(rest) && rest[n]|0x20 == c|0x20 {
				n++
			}
			of, ok := parts[strings.ToLower(rest[:n])]
			if !ok {
				return nil
			}
			l, found = append(l, part{of: of}), true
		case c == '"':
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return nil
			}
			l, n = append(l, part{literal: rest[1 : 1+end]}), end+2
		case c == '\\' && len(rest) > 1:
			n = 1 + runeLen(rest[1:])
			l = append(l, part{literal: rest[1:n]})
		case c == ';': // what follows is for negative numbers and texts; Excel's own formats end with ;@
			n = len(rest)
		case strings.IndexByte("-/:., ", c) >= 0:
			l = append(l, part{literal: rest[:1]})
		case c >= utf8.RuneSelf: // such as 年
			n = runeLen(rest)
			l = append(l, part{literal: rest[:n]})
		default:
			return nil
		}
		rest = rest[n:]
	}
	if !found {
		return nil
	}
	l.findMinutes()
	return l
}

func runeLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// findMinutes tells minutes from months, and hours of 12 from hours of 24.
func (l layout) findMinutes() {
	var of []int
	twelve := false
	for i, p := range l {
		if p.of != "" {
			of = append(of, i)
		}
		twelve = twelve || p.of == "PM"
	}
	hour := func(s string) bool { return s == "15" || s == "h" }
	second := func(s string) bool { return s == "05" || s == "5" }
	for k, i := range of {
		if m := l[i].of; (m == "01" || m == "1") &&
			(k > 0 && hour(l[of[k-1]].of) || k+1 < len(of) && second(l[of[k+1]].of)) {
			l[i].of = map[string]string{"01": "04", "1": "4"}[m]
		}
	}
	for _, i := range of {
		if twelve && hour(l[i].of) {
			l[i].of = map[string]string{"15": "03", "h": "3"}[l[i].of]
		}
	}
}

// append appends a Date or Datetime.
func (l layout) append(b []byte, cell *cells.Cell) []byte {
	t := time.Unix(cell.Wall, int64(cell.Nanos)).UTC()
	if l == nil {
		return appendISO(b, t, cell.Kind == cells.Datetime)
	}
	for _, p := range l {
		switch p.of {
		case "":
			b = append(b, p.literal...)
		case "h":
			if h := t.Hour(); h < 10 {
				b = append(b, byte('0'+h))
			} else {
				b = t.AppendFormat(b, "15")
			}
		default:
			b = t.AppendFormat(b, p.of)
		}
	}
	return b
}

// appendISO appends a date, and the time of day with the digits of its fraction. Package time takes three times
// as long.
func appendISO(b []byte, t time.Time, clock bool) []byte {
	year, month, day := t.Date()
	b = appendTwo(appendTwo(b, year/100), year%100)
	b = appendTwo(append(b, '-'), int(month))
	b = appendTwo(append(b, '-'), day)
	if !clock {
		return b
	}
	hour, minute, second := t.Clock()
	b = appendTwo(append(b, ' '), hour)
	b = appendTwo(append(b, ':'), minute)
	b = appendTwo(append(b, ':'), second)
	if t.Nanosecond() == 0 {
		return b
	}
	return t.AppendFormat(b, ".999999999")
}

// appendTwo appends two digits.
func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }
