// Package times reads times as sources write them. The preview of a source and the file of an export must
// read the same texts as times.
package times

// Time is a time as a text or number writes it.
type Time struct {
	Seconds int64 // since 1970: of the moment if Zoned, else of the wall clock taken as UTC
	Nanos   int32
	Zoned   bool // the moment is known
	Day     bool // without a time of day
}

// ISO reads a time of ISO 8601 or yyyy/m/d:
//
//	2026-01-05  2026-01-05T08:30  2026-01-05 08:30:00.123456789Z  2026-01-05T08:30:00,5+0800  2026/1/5 8:30
//
// The separator of the time is T or a space, that of a fraction a point or a comma, and an offset is Z, ±hh,
// ±hhmm or ±hh:mm. The years are 0001 to 9999. 24:00, a second 60 and more than nine digits of a fraction are
// no times, because not all formats can hold them.
func ISO(b []byte) (t Time, ok bool) {
	if t, ok = usual(b); ok {
		return t, true
	}
	s := timeScanner{b: b}
	year := s.number(4, 4)
	separator, least := byte('-'), 2
	if !s.skip('-') {
		if !s.skip('/') {
			return Time{}, false
		}
		separator, least = '/', 1
	}
	month := s.number(least, 2)
	if !s.skip(separator) {
		return Time{}, false
	}
	day := s.number(least, 2)
	if s.bad || year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(month, year) {
		return Time{}, false
	}
	t.Seconds = daysSince1970(year, month, day) * secondsPerDay
	if len(s.b) == 0 {
		t.Day = true
		return t, true
	}
	if !s.skip('T') && !s.skip(' ') {
		return Time{}, false
	}
	hour := s.number(least, 2)
	if !s.skip(':') {
		return Time{}, false
	}
	minute, second := s.number(2, 2), 0
	if s.skip(':') {
		second = s.number(2, 2)
		if s.skip('.') || s.skip(',') {
			t.Nanos = s.fraction()
		}
	}
	if s.bad || hour > 23 || minute > 59 || second > 59 {
		return Time{}, false
	}
	t.Seconds += int64(hour*3600 + minute*60 + second)
	switch minus := s.skip('-'); {
	case minus || s.skip('+'):
		hour, minute = s.number(2, 2), 0
		if s.skip(':') || len(s.b) > 0 {
			minute = s.number(2, 2)
		}
		if hour > 23 || minute > 59 {
			return Time{}, false
		}
		offset := int64(hour*3600 + minute*60)
		if minus {
			offset = -offset
		}
		t.Seconds -= offset
		t.Zoned = true
	case s.skip('Z'):
		t.Zoned = true
	}
	return t, !s.bad && len(s.b) == 0
}

// usual reads yyyy-mm-dd hh:mm:ss, with T or a space in the middle and perhaps a Z, which most sources send.
func usual(b []byte) (t Time, ok bool) {
	const layout = "2026-01-05 08:30:15"
	if len(b) != len(layout) && (len(b) != len(layout)+1 || b[len(layout)] != 'Z') ||
		b[4] != '-' || b[7] != '-' || b[10] != ' ' && b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return Time{}, false
	}
	bad := byte(0)
	two := func(i int) int {
		tens, ones := b[i]-'0', b[i+1]-'0'
		bad = max(bad, tens, ones)
		return int(tens)*10 + int(ones)
	}
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if bad > 9 || year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(month, year) ||
		hour > 23 || minute > 59 || second > 59 {
		return Time{}, false
	}
	t.Seconds = daysSince1970(year, month, day)*secondsPerDay + int64(hour*3600+minute*60+second)
	t.Zoned = len(b) > len(layout)
	return t, true
}

const secondsPerDay = 86_400

// daysSince1970 returns the number of days from 1970-01-01 to a day of the Gregorian calendar.
func daysSince1970(year, month, day int) int64 {
	if month -= 2; month <= 0 { // the year begins in March, so that a leap day is its last
		month, year = month+12, year-1
	}
	return int64(365*year+year/4-year/100+year/400+367*month/12+day) - 719_499
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
	b   []byte // the rest of the text
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
