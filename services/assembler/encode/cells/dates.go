package cells

import (
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-strftime"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// clock is a time as a text or number writes it.
type clock struct {
	seconds int64 // since 1970: of the moment if zoned, else of the wall clock
	nanos   int32
	zoned   bool // the moment is known
	day     bool // without a time
}

// Walls of the years 1 to 9999.
const (
	minWall = -62_135_596_800
	maxWall = 253_402_300_799
)

// date makes a cell of type date or datetime, and reports whether the value fits.
func (r *Reader) date(cell *Cell, k *column, kind rows.Kind) bool {
	if kind != rows.String && kind != rows.Number {
		return false
	}
	t, ok := k.times.read(kind, cell.Text)
	if !ok {
		return false
	}
	return r.dates.set(cell, k.kind, t)
}

// dates turns times into dates of the zones of a sheet.
type dates struct {
	display zone
	source  zone // without location if texts without an offset are shown as they are
}

func newDates(z encode.Zones) dates {
	if z.Display == nil {
		z.Display = time.UTC
	}
	return dates{display: zone{loc: z.Display}, source: zone{loc: z.Source}}
}

// set makes a cell of a time. It reports false if the year that is shown is not from 1 to 9999.
func (d *dates) set(cell *Cell, kind Kind, t clock) bool {
	switch {
	case t.day && kind == Date: // a day is the same in all zones
	case t.zoned:
	case d.source.loc != nil:
		t.seconds, t.zoned = d.source.moment(t.seconds), true
	}
	if t.seconds < minWall-maxShift || t.seconds > maxWall+maxShift {
		return false
	}
	wall := t.seconds
	if t.zoned {
		wall += d.display.offset(t.seconds)
	}
	if wall < minWall || wall > maxWall {
		return false
	}
	cell.Kind = kind
	if kind == Date {
		wall -= mod(wall, secondsPerDay)
		cell.Unix, cell.Wall = wall, wall
		return true
	}
	cell.Unix, cell.Nanos, cell.Wall, cell.Zoned = t.seconds, t.nanos, wall, t.zoned
	return true
}

const secondsPerDay = 86_400

func mod(a, b int64) int64 { return ((a % b) + b) % b }

// zone is a location that remembers the offset of the last time, because the times of a column are mostly near.
type zone struct {
	loc *time.Location
	// The remembered offset applies from start to before end. Package time may set end too early: on December 31
	// of a leap year, it is before the time itself.
	start, end int64
	seconds    int64 // the remembered offset
}

// maxShift is more than any two offsets differ, in seconds, and less than the time between two changes.
const maxShift = 2 * secondsPerDay

// offset returns the offset at a moment, in seconds.
func (z *zone) offset(unix int64) int64 {
	if unix < z.start || unix >= z.end {
		t := time.Unix(unix, 0).In(z.loc)
		start, end := t.ZoneBounds()
		_, offset := t.Zone()
		z.start, z.end, z.seconds = 2*minWall, 2*maxWall, int64(offset)
		if !start.IsZero() {
			z.start = start.Unix()
		}
		if !end.IsZero() {
			z.end = end.Unix()
		}
	}
	return z.seconds
}

// moment returns the moment of a wall clock. Where clocks go back, a time occurs twice: the first one counts.
// Where they go forward, a time is missing: it counts as that much later, as if they had not. In both cases
// the offset before the change counts (as in RFC 5545, section 3.3.5).
func (z *zone) moment(wall int64) int64 {
	if at := wall - z.seconds; at >= z.start && at-z.start >= maxShift && at < z.end {
		return at
	}
	before, after := z.offset(wall-maxShift), z.offset(wall+maxShift)
	for _, offset := range [...]int64{before, after} {
		if z.offset(wall-offset) == offset {
			return wall - offset
		}
	}
	return wall - before // the clocks skipped it
}

// timeReader reads the times of a column.
type timeReader struct {
	unix    bool
	scale   int      // exponent of the unit of numbers: 0 for seconds, -3 for milliseconds
	layouts []string // of package time, any of which may fit; nil: ISO 8601
	zoned   bool     // the layouts hold an offset
	named   bool     // the layouts hold the name of a zone
	days    bool     // the layouts hold no time of day
}

func newTimeReader(from string) (r timeReader, err error) {
	switch from {
	case "", "auto", events.FromISO:
		return timeReader{}, nil
	case events.FromUnix:
		return timeReader{unix: true}, nil
	case events.FromUnixMS:
		return timeReader{unix: true, scale: -3}, nil
	}
	return newPatternReader(from)
}

// read reads a string or number.
func (r *timeReader) read(kind rows.Kind, text []byte) (clock, bool) {
	switch {
	case len(text) > maxTime:
		return clock{}, false
	case r.unix:
		if kind == rows.String && !isNumber(text) {
			return clock{}, false
		}
		return unixTime(text, r.scale)
	case kind != rows.String && r.layouts == nil:
		return clock{}, false
	case r.layouts == nil:
		return isoTime(text)
	}
	return r.pattern(string(text))
}

// maxTime is the maximum length of a time.
const maxTime = 128

// unixTime reads a JSON number of seconds, or of another unit of 10^scale seconds. Digits below nanoseconds do
// not fit.
func unixTime(raw []byte, scale int) (clock, bool) {
	d, ok := parseDecimal(raw)
	d.exponent += scale
	if !ok || d.n > 21 || d.exponent < -9 || d.n+d.exponent > 12 {
		return clock{}, false
	}
	// The digits and their zeros: at most 12 of seconds, at most 9 of nanoseconds.
	var seconds, nanos int64
	for i := range d.n + max(d.exponent, 0) {
		digit := int64(0)
		if i < d.n {
			digit = int64(d.digits[i] - '0')
		}
		if i < d.n+d.exponent {
			seconds = 10*seconds + digit
		} else {
			nanos = 10*nanos + digit
		}
	}
	for range 9 + min(d.exponent, 0) {
		nanos *= 10
	}
	if d.negative {
		seconds = -seconds
		if nanos > 0 {
			seconds, nanos = seconds-1, 1_000_000_000-nanos
		}
	}
	return clock{seconds: seconds, nanos: int32(nanos), zoned: true}, true
}

// isoTime reads a time of ISO 8601 or yyyy/m/d:
//
//	2026-01-05  2026-01-05T08:30  2026-01-05 08:30:00.123456789Z  2026-01-05T08:30:00,5+0800  2026/1/5 8:30
//
// The separator of the time is T or a space, that of a fraction a point or a comma, and an offset is Z, ±hh,
// ±hhmm or ±hh:mm. The years are 0001 to 9999. 24:00, a second 60 and more than nine digits of a fraction are
// no times, because not all formats can hold them.
func isoTime(b []byte) (t clock, ok bool) {
	s := timeScanner{b: b}
	year := s.number(4, 4)
	separator, least := byte('-'), 2
	if !s.skip('-') {
		if !s.skip('/') {
			return clock{}, false
		}
		separator, least = '/', 1
	}
	month := s.number(least, 2)
	if !s.skip(separator) {
		return clock{}, false
	}
	day := s.number(least, 2)
	if s.bad || year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(month, year) {
		return clock{}, false
	}
	t.seconds = time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix()
	if len(s.b) == 0 {
		t.day = true
		return t, true
	}
	if !s.skip('T') && !s.skip(' ') {
		return clock{}, false
	}
	hour := s.number(least, 2)
	if !s.skip(':') {
		return clock{}, false
	}
	minute, second := s.number(2, 2), 0
	if s.skip(':') {
		second = s.number(2, 2)
		if s.skip('.') || s.skip(',') {
			t.nanos = s.fraction()
		}
	}
	if s.bad || hour > 23 || minute > 59 || second > 59 {
		return clock{}, false
	}
	t.seconds += int64(hour*3600 + minute*60 + second)
	switch minus := s.skip('-'); {
	case minus || s.skip('+'):
		hour, minute = s.number(2, 2), 0
		if s.skip(':') || len(s.b) > 0 {
			minute = s.number(2, 2)
		}
		if hour > 23 || minute > 59 {
			return clock{}, false
		}
		offset := int64(hour*3600 + minute*60)
		if minus {
			offset = -offset
		}
		t.seconds -= offset
		t.zoned = true
	case s.skip('Z'):
		t.zoned = true
	}
	return t, !s.bad && len(s.b) == 0
}

func daysIn(month, year int) int {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	case month == 4 || month == 6 || month == 9 || month == 11:
		return 30
	}
	return 31
}

// timeScanner reads the parts of a time.
type timeScanner struct {
	b   []byte // what is left
	bad bool   // a number was missing
}

func (s *timeScanner) skip(c byte) bool {
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

// number reads as many digits as there are, up to most.
func (s *timeScanner) number(least, most int) (n int) {
	i := 0
	for ; i < most && i < len(s.b) && s.b[i] >= '0' && s.b[i] <= '9'; i++ {
		n = 10*n + int(s.b[i]-'0')
	}
	s.bad = s.bad || i < least
	s.b = s.b[i:]
	return n
}

// fraction reads up to nine digits as nanoseconds.
func (s *timeScanner) fraction() int32 {
	left := len(s.b)
	n := s.number(1, 9)
	for range 9 - (left - len(s.b)) {
		n *= 10
	}
	return int32(n)
}

// newPatternReader returns a reader of the times of an strftime pattern. As strptime does, it takes numbers
// with and without leading zeros. A fraction may follow the seconds, whether the pattern holds one or not.
func newPatternReader(pattern string) (r timeReader, err error) {
	layout, err := strftime.Layout(lenient.Replace(pattern))
	if err != nil {
		return timeReader{}, fmt.Errorf("%q is no pattern that can be read: %w", pattern, err)
	}
	r.named = strings.Contains(layout, "MST")
	r.days = !strings.ContainsAny(layout, "345") // hours, minutes and seconds of package time
	r.zoned = strings.Contains(layout, "-0700") || strings.Contains(layout, "-07:00")
	if !r.zoned {
		r.layouts = []string{layout}
		return r, nil
	}
	layout = strings.ReplaceAll(layout, "-07:00", "-0700")
	r.layouts = []string{
		strings.ReplaceAll(layout, "-0700", "Z0700"),
		strings.ReplaceAll(layout, "-0700", "Z07:00"),
	}
	return r, nil
}

// lenient replaces the directives of a pattern by those that read numbers without leading zeros. Package time
// reads a fraction after the seconds by itself.
var lenient = strings.NewReplacer("%%", "%%",
	"%S.%f", "%-S", "%S,%f", "%-S", "%S.%L", "%-S", "%S,%L", "%-S", "%S.%N", "%-S", "%S,%N", "%-S",
	"%T.%f", "%H:%-M:%-S", "%T.%L", "%H:%-M:%-S", "%T.%N", "%H:%-M:%-S",
	"%m", "%-m", "%d", "%-d", "%I", "%-I", "%M", "%-M", "%S", "%-S", "%-H", "%H",
	"%F", "%Y-%-m-%-d", "%D", "%-m/%-d/%y", "%x", "%-m/%-d/%y", "%T", "%H:%-M:%-S", "%X", "%H:%-M:%-S",
	"%R", "%H:%-M", "%r", "%-I:%-M:%-S %p", "%c", "%a %b %e %H:%-M:%-S %Y", "%+", "%a %b %e %H:%-M:%-S %Z %Y")

// pattern reads a time by the layouts. The machine's zone makes no difference.
func (r *timeReader) pattern(text string) (clock, bool) {
	for _, layout := range r.layouts {
		t, err := time.ParseInLocation(layout, text, time.UTC)
		if err != nil {
			continue
		}
		zoned := r.zoned
		if r.named && !zoned {
			// Package time takes any abbreviation and gives it the offset 0. All but two are ambiguous.
			if name, _ := t.Zone(); name != "UTC" && !strings.HasPrefix(name, "GMT") {
				return clock{}, false
			}
			zoned = true
		}
		c := clock{seconds: t.Unix(), nanos: int32(t.Nanosecond()), zoned: zoned}
		c.day = r.days && !zoned
		return c, t.Year() > 0
	}
	return clock{}, false
}
