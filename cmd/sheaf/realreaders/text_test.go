package realreaders

import (
	"regexp"
	"strings"
	"time"

	"sheaf/services/assembler/encode/csv"
	"sheaf/services/assembler/encode/html"
	"sheaf/services/assembler/encode/json"
)

var (
	tableReaders  = []reader{{name: "csv", python: true}, {name: "papaparse"}}
	objectReaders = []reader{{name: "json", python: true}, {name: "JSON.parse"}}

	csvFormat    = format{Format: csv.Format, readers: tableReaders, shows: showCSV}
	tsvFormat    = format{Format: csv.TSV, readers: tableReaders, shows: showCSV}
	ndjsonFormat = format{Format: json.Lines, readers: objectReaders, shows: showJSON, same: sameJSON}
	jsonFormat   = format{Format: json.Format, readers: objectReaders, shows: showJSON, same: sameJSON}
	htmlFormat   = format{Format: html.Format, readers: []reader{{name: "html.parser", python: true}}, rows: 1000,
		shows: showHTML}
)

// iso writes a time with the digits of its fraction that are not zero.
func iso(at time.Time, layout string) string { return at.Format(layout + ".999999999") }

// plainNumber is text with a sign that is no formula.
var plainNumber = regexp.MustCompile(`^[+-]([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

// showText is the text of a value.
func showText(v value) string {
	switch v.kind {
	case date:
		return v.at.Format(time.DateOnly)
	case moment, clock:
		return iso(shown(v), time.DateTime)
	}
	return v.text
}

// showCSV is the text of a value. Text that a spreadsheet would take for a formula is guarded. Numbers in a column
// with a number format have the zeros that it shows.
func showCSV(f field, v value) read {
	s := showText(v)
	if _, decimals, ok := strings.Cut(f.column.Format, "."); ok && v.kind == number && !strings.Contains(s, "e") {
		whole, fraction, _ := strings.Cut(s, ".")
		s = whole + "." + fraction + strings.Repeat("0", max(0, len(decimals)-len(fraction)))
	}
	if v.kind == text && s != "" && strings.Contains("=+-@\t\r", s[:1]) && !plainNumber.MatchString(s) {
		s = "'" + s
	}
	return read{"text", s}
}

// showJSON is the value with its kind. Numbers keep their digits.
func showJSON(_ field, v value) read {
	switch v.kind {
	case empty:
		return read{}
	case number:
		return read{"number", v.text}
	case boolean:
		return read{"bool", v.text}
	case date:
		return read{"text", v.at.Format(time.DateOnly)}
	case moment:
		// Offsets before about 1900 have seconds, which ISO 8601 cannot say: the moment counts, not the clock.
		_, offset := v.at.In(zone).Zone()
		return read{"text", v.at.In(time.FixedZone("", offset/60*60)).Format("2006-01-02T15:04:05.999999999Z07:00")}
	case clock:
		return read{"text", iso(v.at, "2006-01-02T15:04:05")}
	case nested:
		switch v.text { // scalars in the column of type json
		case `"text"`:
			return read{"text", "text"}
		case "12.50":
			return read{"number", v.text}
		case "true":
			return read{"bool", v.text}
		}
		return read{"json", v.text}
	}
	return read{"text", v.text}
}

// sameJSON compares what JSON.parse reads by float64: it loses digits. Python's reader keeps them all.
func sameJSON(want, got read) bool {
	return want.kind == "number" && got.kind == "float" && asFloat(want.text) == asFloat(got.text)
}

// showHTML is the text of a value, without control characters. Long text is cut.
func showHTML(_ field, v value) read {
	if v.kind == number {
		return read{"number", v.text}
	}
	all := []rune(showText(v))
	if len(all) > 500 {
		all = append(all[:500], '…')
	}
	for i, c := range all {
		if c < ' ' && !strings.ContainsRune("\t\n\r", c) || c == 0x7f {
			all[i] = '\uFFFD'
		}
	}
	return read{"text", string(all)}
}
