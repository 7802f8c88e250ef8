package realreaders

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/services/assembler/encode"
)

// kind is the kind of a value.
type kind uint8

const (
	empty kind = iota
	text
	number
	boolean
	date
	moment // in UTC
	clock  // without a zone
	nested // JSON
)

// value is a value of a row: as the source sends it, and what it means.
type value struct {
	sent string // JSON
	kind kind
	text string    // decoded; digits of a number; compact JSON
	at   time.Time // of date, moment and clock
}

// field is a column with values on which readers fail.
type field struct {
	column events.Column
	auto   bool // the column comes from a header
	make   func(r *rand.Rand, i int) value
}

// zone is where moments are shown. Its clocks change.
var zone = func() *time.Location {
	z, err := time.LoadLocation("America/New_York")
	if err != nil {
		panic(err)
	}
	return z
}()

// oneOf returns the value at i of a few values, one after another.
func oneOf(values ...value) func(*rand.Rand, int) value {
	return func(_ *rand.Rand, i int) value { return values[i%len(values)] }
}

func null() value { return value{sent: "null"} }

func numberOf(digits string) value { return value{sent: digits, kind: number, text: digits} }

func textOf(s string) value {
	quoted, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		panic(err)
	}
	return value{sent: string(quoted), kind: text, text: s}
}

func jsonOf(compact string) value { return value{sent: compact, kind: nested, text: compact} }

func boolOf(sent string, b bool) value {
	return value{sent: sent, kind: boolean, text: strconv.FormatBool(b)}
}

// timeOf is a time as a text of the given layout.
func timeOf(k kind, layout string, at time.Time) value {
	v := textOf(at.Format(layout))
	v.kind, v.at = k, at.UTC()
	return v
}

func digits(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + r.IntN(10))
	}
	b[0] = byte('1' + r.IntN(9))
	return string(b)
}

var hostileTexts = []string{
	"", " ", "  leading and trailing  ", "one\r\ntwo", "one\ntwo", "one\rtwo", "\n", "\t", "a\tb", `"quoted", "twice"`, `"`, `""`, ",", ";", "|",
	"=1+1", "=HYPERLINK(\"http://example.com\",\"x\")", "+1", "-1", "-", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "'=1",
	"😀👨‍👩‍👧🚀", "编号，「李雷」", "שלום\u200fabc", "e\u0301 é", "\u00a0", "\u2028\u2029", "\ufeffBOM", "\u0085",
	"_x0041_ _x000A_ _x005F_", "<a href=\"x\">&amp;</a>]]>", "<script>alert(1)</script>", "&lt;&#60;", "a\\b", `C:\new\table`,
	"\x01\x02\x1f", "\x00", "\x7f", "\ufffe", "\uffff", "null", "NULL", "nan", "true", "TRUE", "007", "1e5", "1,234.50", "0x10",
	"2026-01-02", "12345678901234567890", "NaN", "Infinity", "#N/A", "#REF!", "%s%n", "$1", "${x}", "a,b\r\n\"c\"",
}

// hostileMoment returns a time at which calendars have surprises.
func hostileMoment(r *rand.Rand, i int) time.Time {
	switch i % 8 {
	case 0: // the hour that there is twice
		return time.Date(2026, 11, 1, 4, r.IntN(180), r.IntN(60), 0, time.UTC)
	case 1: // the hour that is missing
		return time.Date(2026, 3, 8, 5, r.IntN(180), r.IntN(60), 0, time.UTC)
	case 2: // around the epoch
		return time.Unix(int64(r.IntN(200_000)-100_000), 0).UTC()
	case 3: // around the first serial that spreadsheets agree on
		return time.Date(1900, 1, 1, r.IntN(24*120), 0, r.IntN(60), 0, time.UTC)
	case 4: // the ends of the calendar
		if r.IntN(2) == 0 {
			return time.Date(2, 1, 1, r.IntN(24*365), 0, 0, 0, time.UTC)
		}
		return time.Date(9998, 12, 31, r.IntN(24), r.IntN(60), 59, 0, time.UTC)
	case 5: // leap days
		return time.Date(2024, 2, 28, r.IntN(72), r.IntN(60), 0, 0, time.UTC)
	}
	return time.Unix(r.Int64N(4_000_000_000), r.Int64N(1000)*int64(time.Millisecond)).UTC()
}

var fields = []field{
	{events.Column{Key: "id"}, true, func(r *rand.Rand, i int) value {
		if i%50 == 0 {
			return []value{numberOf("9223372036854775807"), numberOf("-9223372036854775808"), numberOf("0"), numberOf("999999999999999"),
				numberOf("1000000000000000"), numberOf("9007199254740993"), null()}[i/50%7]
		}
		return numberOf(digits(r, 1+r.IntN(18)))
	}},
	{events.Column{Key: "long"}, true, func(r *rand.Rand, _ int) value { return numberOf(digits(r, 16+r.IntN(20))) }},
	{events.Column{Key: "fraction"}, true, func(r *rand.Rand, i int) value {
		if i%20 == 0 {
			return numberOf([]string{"-0", "-0.0", "0e999", "1e308", "1.7976931348623157e308", "5e-324", "2.2250738585072014e-308", "0.1", "1.50", "-2E+3",
				"0.30000000000000004", "9.99E+307", "1E-307", "123456789012345", "1e15"}[i/20%15])
		}
		f := math.Float64frombits(r.Uint64())
		if i%2 == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
			f = r.NormFloat64() * math.Pow(10, float64(r.IntN(12)))
		}
		return numberOf(strconv.FormatFloat(f, "eg"[i%2], -1, 64))
	}},
	{events.Column{Key: "exact"}, true, func(r *rand.Rand, i int) value {
		if i%30 == 0 {
			return numberOf([]string{"1e309", "1e-400", "0.30000000000000003", "1e99999"}[i/30%4])
		}
		return numberOf("0." + digits(r, 20))
	}},
	{events.Column{Key: "text"}, true, func(r *rand.Rand, i int) value {
		switch {
		case i == 777:
			return textOf(strings.Repeat("长", 32_767))
		case i%97 == 0:
			return null()
		case i%5 == 0:
			return textOf(hostileTexts[r.IntN(len(hostileTexts))] + hostileTexts[r.IntN(len(hostileTexts))])
		}
		return textOf(hostileTexts[i%len(hostileTexts)])
	}},
	{events.Column{Key: "user.name", Title: "姓名", Type: events.ColumnText}, false,
		oneOf(textOf("李雷"), value{"850.0", text, "850.0", time.Time{}}, value{"true", text, "true", time.Time{}}, textOf("007"), null(), textOf("=cmd"))},
	{events.Column{Key: "day", Title: "day", Type: events.ColumnDate}, false, func(r *rand.Rand, i int) value {
		day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		switch i % 5 {
		case 0:
			day = time.Date(1899, 12, 25, 0, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(90))
		case 1:
			day = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(3_652_058))
		case 2:
			day = day.AddDate(0, 0, r.IntN(10_000))
		case 3:
			return []value{timeOf(date, time.DateOnly, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)), null(), textOf("n/a")}[i/5%3]
		}
		return timeOf(date, time.DateOnly, day)
	}},
	{events.Column{Key: "at", Type: events.ColumnDatetime}, false, func(r *rand.Rand, i int) value {
		at := hostileMoment(r, i)
		switch r.IntN(4) {
		case 0:
			return timeOf(moment, "2006-01-02 15:04:05.999Z07:00", at)
		case 1:
			if at.Year() > 1900 { // before, the offset has seconds
				at = at.In(zone)
			}
			return timeOf(moment, "2006-01-02T15:04:05.999-0700", at)
		case 2:
			return timeOf(moment, "2006-01-02T15:04:05.999-07:00", at.In(time.FixedZone("", -6*60*60+30*60)))
		}
		return timeOf(moment, "2006-01-02T15:04:05.999Z07:00", at)
	}},
	{events.Column{Key: "clock", Type: events.ColumnDatetime}, false, func(r *rand.Rand, i int) value {
		if i%40 == 0 {
			return null()
		}
		return timeOf(clock, "2006-01-02 15:04:05.999", hostileMoment(r, i))
	}},
	{events.Column{Key: "paid", Type: events.ColumnBool}, false, oneOf(boolOf("true", true), boolOf("false", false), boolOf("0", false),
		boolOf("1", true), boolOf(`"true"`, true), boolOf(`"0"`, false), null())},
	{events.Column{Key: "amount", Type: events.ColumnNumber, Format: "#,##0.00"}, false, func(r *rand.Rand, i int) value {
		digits := fmt.Sprintf("%d.%02d", r.Int64N(1_000_000)-500_000, r.IntN(100))
		switch i % 6 {
		case 0:
			return value{`"` + digits + `"`, number, digits, time.Time{}}
		case 1:
			return []value{null(), numberOf("0"), numberOf("1e3"), numberOf("0.10"), numberOf("9999999999999.99")}[i/6%5]
		}
		return numberOf(digits)
	}},
	{events.Column{Key: "count", Type: events.ColumnNumber}, false, func(r *rand.Rand, _ int) value {
		return numberOf(strconv.FormatInt(r.Int64N(2_000_000_000_000_000)-1_000_000_000_000_000, 10))
	}},
	{events.Column{Key: "tags", Type: events.ColumnJSON}, false, oneOf(jsonOf(`["a","b,c"]`), jsonOf(`{"a":{"b":[1,null,true]}}`), null(),
		jsonOf(`[]`), jsonOf(`{"数据":"😀\"\\"}`), jsonOf(`"text"`), jsonOf(`12.50`), jsonOf(`true`))},
	{events.Column{Key: "object"}, true, oneOf(jsonOf(`{"a":1}`), jsonOf(`[1,2.50,"x\n"]`), null(), jsonOf(`{}`))},
	{events.Column{Key: "mixed"}, true, oneOf(numberOf("1.50"), textOf("=1"), boolOf("true", true), null(), jsonOf(`[1]`),
		numberOf("12345678901234567890"), boolOf("false", false), textOf(""))},
}

// columns are those of the fields.
func columns() []encode.Column {
	all := make([]encode.Column, len(fields))
	for i, f := range fields {
		all[i] = encode.Column{Name: f.column.Key, Title: f.column.Key}
		if f.column.Title != "" {
			all[i].Title = f.column.Title
		}
		if !f.auto {
			all[i].Spec = &f.column
		}
	}
	return all
}

// rowOf returns row i, counted from 0.
func rowOf(i int) []value {
	r := rand.New(rand.NewPCG(7, uint64(i)))
	row := make([]value, len(fields))
	for f := range fields {
		row[f] = fields[f].make(r, i)
	}
	return row
}

// appendRow appends row i as JSON. user.name is a member of an object.
func appendRow(b []byte, i int) []byte {
	for f, v := range rowOf(i) {
		b = append(b, ",{"[min(1, max(0, 1-f))])
		switch key := fields[f].column.Key; key {
		case "user.name":
			b = fmt.Appendf(b, `"user":{"name":%s}`, v.sent)
		default:
			b = fmt.Appendf(b, `%q:%s`, key, v.sent)
		}
	}
	return append(b, '}')
}
