package cells

import "strings"

// Decimals returns the least and the most digits after the decimal point that an Excel number format shows: 2 and
// 3 for 0.00#. Both are 0 if it does not say, or is none of numbers: percentages, exponents and fractions show
// another number than the value.
func Decimals(format string) (least, most int) {
	format, _, _ = strings.Cut(format, ";")
	if strings.ContainsAny(format, "%eE/?") {
		return 0, 0
	}
	before, after, _ := strings.Cut(format, ".")
	if !strings.HasSuffix(before, "0") && !strings.HasSuffix(before, "#") {
		return 0, 0 // a fraction of seconds, or a text
	}
	for most < len(after) && (after[most] == '0' || after[most] == '#') {
		if most++; after[most-1] == '0' {
			least = most
		}
	}
	return least, most
}
