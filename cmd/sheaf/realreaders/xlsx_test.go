package realreaders

import (
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode"

	"sheaf/services/assembler/encode/xlsx"
)

var xlsxFormat = format{Format: xlsx.Format, readers: []reader{{name: "openpyxl", python: true}, {name: "exceljs", blur: asExcelJS}},
	shows: showXLSX, same: sameXLSX}

// asExcelJS leaves what the streaming reader of exceljs does not spoil: it decodes XML twice, and characters at
// the borders of its chunks become U+FFFD. Only its ASCII is compared; openpyxl shows all.
func asExcelJS(s string) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return -1
		}
		return r
	}, decoded.Replace(s))
}

var decoded = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&", "&quot;", `"`, "&apos;", "'")

// holds reports whether a spreadsheet holds a number without losing digits.
func holds(digits string) bool {
	if !strings.ContainsAny(digits, ".eE") {
		return len(strings.TrimPrefix(digits, "-")) <= 15
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return false
	}
	sent, ok := new(big.Rat).SetString(digits)
	shortest, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	size := new(big.Rat).Abs(shortest)
	least, _ := new(big.Rat).SetString("1e-307")
	most, _ := new(big.Rat).SetString("9.99e307")
	return ok && sent.Cmp(shortest) == 0 && (size.Sign() == 0 || size.Cmp(least) >= 0 && size.Cmp(most) <= 0)
}

// firstSerial is the first day on which spreadsheets agree.
var firstSerial = time.Date(1900, 3, 1, 0, 0, 0, 0, time.UTC)

func showXLSX(_ field, v value) read {
	switch v.kind {
	case empty:
		return read{}
	case number:
		if !holds(v.text) {
			return read{"text", v.text}
		}
		return read{"float", asFloat(v.text)}
	case boolean:
		return read{"bool", v.text}
	case date, moment, clock:
		if shown(v).Before(firstSerial) {
			return asSent(v)
		}
		return read{"clock", shown(v).Format(micros)}
	}
	return read{"text", v.text}
}

// sameXLSX allows that a reader takes an empty text for no cell, and for what a serial number does not hold: less
// than a millisecond.
func sameXLSX(want, got read) bool {
	if want == (read{"text", ""}) {
		want = read{}
	}
	if got == (read{"text", ""}) {
		got = read{}
	}
	if want.kind == "clock" && got.kind == "clock" {
		a, err := time.Parse(micros, want.text)
		b, err2 := time.Parse(micros, got.text)
		return err == nil && err2 == nil && a.Sub(b).Abs() < time.Millisecond
	}
	if want == (read{"float", "-0"}) && got == (read{"number", "0"}) {
		return true // openpyxl reads an integer
	}
	return sameNumber(want, got)
}
