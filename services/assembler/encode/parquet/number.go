package parquet

import (
	"math"
	"strconv"
)

// maxSignificant is one digit more than the shortest decimal of a float64 can have.
const maxSignificant = 18

// decimal is a JSON number as digits × 10^exp, without zeros at either end of its digits. Zero has no digits.
type decimal struct {
	digits   [maxSignificant]byte
	n        int // of digits; more than maxSignificant if there are more
	exp      int
	negative bool
}

// maxExponent bounds exponents, so that sums of them do not overflow. No column type holds such numbers.
const maxExponent = 1 << 30

// parseDecimal reads a JSON number; ok is false for anything else.
func parseDecimal(raw []byte) (d decimal, ok bool) {
	i := 0
	if i < len(raw) && raw[i] == '-' {
		d.negative = true
		i++
	}
	zeros, point, any := 0, false, false
	for ; i < len(raw); i++ {
		c := raw[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		any = true
		if point {
			d.exp--
		}
		if c == '0' {
			zeros++
			continue
		}
		if d.n > 0 {
			for ; zeros > 0; zeros-- {
				d.push('0')
			}
		}
		zeros = 0
		d.push(c)
	}
	d.exp += zeros
	if i < len(raw) && (raw[i] == 'e' || raw[i] == 'E') {
		exp, minus := 0, false
		if i++; i < len(raw) && (raw[i] == '+' || raw[i] == '-') {
			minus = raw[i] == '-'
			i++
		}
		if i == len(raw) {
			return d, false
		}
		for ; i < len(raw) && raw[i] >= '0' && raw[i] <= '9'; i++ {
			exp = min(exp*10+int(raw[i]-'0'), maxExponent)
		}
		if minus {
			exp = -exp
		}
		d.exp += exp
	}
	if d.n == 0 {
		d.exp = 0
	}
	return d, any && i == len(raw)
}

func (d *decimal) push(c byte) {
	if d.n < maxSignificant {
		d.digits[d.n] = c
	}
	d.n++
}

// whole is the number of digits before the decimal point; negative if zeros follow the point.
func (d *decimal) whole() int { return d.n + d.exp }

// scaled returns the number × 10^scale, which must be an integer of at most 18 digits.
func (d *decimal) scaled(scale int) (v int64, ok bool) {
	zeros := d.exp + scale
	if zeros < 0 && d.n > 0 || d.n+zeros > maxSignificant {
		return 0, d.n == 0
	}
	for _, c := range d.digits[:d.n] {
		v = v*10 + int64(c-'0')
	}
	for range zeros {
		v *= 10
	}
	if d.negative {
		v = -v
	}
	return v, true
}

// exactDigits is the number of significant digits that every float64 within exactExponent keeps.
const exactDigits, exactExponent = 15, 290

// float returns the float64 of a JSON number; ok reports that the number equals the shortest decimal of it.
func (d *decimal) float(raw []byte) (f float64, ok bool) {
	if d.n > maxSignificant {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return 0, false
	}
	if d.n <= exactDigits && d.whole() < exactExponent && d.whole() > -exactExponent {
		return f, true
	}
	var buf [32]byte
	shortest, _ := parseDecimal(strconv.AppendFloat(buf[:0], f, 'e', -1, 64))
	return f, shortest == *d
}

// parseInt reads an integer that is written without point and exponent. It refuses -0, because its sign would
// be lost.
func parseInt(raw []byte) (v int64, ok bool) {
	digits := raw
	if len(raw) > 0 && raw[0] == '-' {
		digits = raw[1:]
	}
	if len(digits) == 0 || len(digits) > len("9223372036854775808") {
		return 0, false
	}
	u := uint64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	if len(digits) == len(raw) {
		return int64(u), u <= math.MaxInt64
	}
	return -int64(u), u > 0 && u <= 1<<63
}
