package cells

import (
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-strftime"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/times"
	"sheaf/services/assembler/encode"
)

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
func (d *dates) set(cell *Cell, kind Kind, t times.Time) bool {
	switch {
	case t.Day && kind == Date: // a day is the same in all zones
	case t.Zoned:
	case d.source.loc != nil:
		t.Seconds, t.Zoned = d.source.moment(t.Seconds), true
	}
	if t.Seconds < minWall-maxShift || t.Seconds > maxWall+maxShift {
		return false
	}
	wall := t.Seconds
	if t.Zoned {
		wall += d.display.offset(t.Seconds)
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
	cell.Unix, cell.Nanos, cell.Wall, cell.Zoned = t.Seconds, t.Nanos, wall, t.Zoned
	return true
}

const secondsPerDay = 86_400

func mod(a, b int64) int64 { return ((a % b) + b) % b }

// zone is a location that remembers the offset of the last time, because the times of a column are mostly
// near.
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
	layouts []string // in the notation of package time; a text may fit any of them. nil: ISO 8601
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
func (r *timeReader) read(kind rows.Kind, text []byte) (times.Time, bool) {
	switch {
	case len(text) > maxTime:
		return times.Time{}, false
	case r.unix:
		if kind == rows.String && !IsNumber(text) {
			return times.Time{}, false
		}
		return unixTime(text, r.scale)
	case kind != rows.String && r.layouts == nil:
		return times.Time{}, false
	case r.layouts == nil:
		return times.ISO(text)
	}
	return r.pattern(string(text))
}

// maxTime is the maximum length of a time.
const maxTime = 128

// unixTime reads a JSON number of seconds, or of another unit of 10^scale seconds. Digits below nanoseconds
// do not fit.
func unixTime(raw []byte, scale int) (times.Time, bool) {
	d, ok := parseDecimal(raw)
	d.exponent += scale
	if !ok || d.n > 21 || d.exponent < -9 || d.n+d.exponent > 12 {
		return times.Time{}, false
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
	return times.Time{Seconds: seconds, Nanos: int32(nanos), Zoned: true}, true
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
func (r *timeReader) pattern(text string) (times.Time, bool) {
	for _, layout := range r.layouts {
		t, err := time.ParseInLocation(layout, text, time.UTC)
		if err != nil {
			continue
		}
		zoned := r.zoned
		if r.named && !zoned {
			// Package time takes any abbreviation and gives it the offset 0. All but two are ambiguous.
			if name, _ := t.Zone(); name != "UTC" && !strings.HasPrefix(name, "GMT") {
				return times.Time{}, false
			}
			zoned = true
		}
		c := times.Time{Seconds: t.Unix(), Nanos: int32(t.Nanosecond()), Zoned: zoned}
		c.Day = r.days && !zoned
		return c, t.Year() > 0
	}
	return times.Time{}, false
}
