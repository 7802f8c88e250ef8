package xlsx

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
)

func codes(warnings []Warning) (all []string) {
	for _, w := range warnings {
		all = append(all, w.Code)
	}
	return all
}

// ignoredRanges returns the ranges in which a sheet suppresses Excel's warning about numbers stored as text.
func ignoredRanges(t *testing.T, xlsx []byte, sheet int) string {
	t.Helper()
	_, after, ok := strings.Cut(string(partOf(t, xlsx, sheetPath(sheet))), "</sheetData>")
	require.True(t, ok)
	if !strings.Contains(after, "ignoredError") {
		return ""
	}
	_, after, ok = strings.Cut(after, `</autoFilter><ignoredErrors><ignoredError sqref="`)
	require.True(t, ok, after)
	ranges, after, ok := strings.Cut(after, `"`)
	require.True(t, ok)
	require.Equal(t, ` numberStoredAsText="1"/></ignoredErrors></worksheet>`, after)
	return ranges
}

// Each sheet lists exactly the columns that hold numbers as text on it; the warnings count over all sheets.
func TestNumbersStoredAsTextAreReportedByColumn(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 3
	const long = "12345678901234567890"
	data := []string{
		`{"a":1,"b":` + long + `,"c":0.30000000000000003,"d":"` + long + `"}`,
		`{"a":0.1,"b":` + long + `,"e":1.5}`,
		`{"c":1e400}`,
		`{"a":1}`,
		`{"a":1,"e":[` + long + `]}`,
		`{"e":-` + long + `,"a":1e-400}`,
	}
	var first []byte
	for _, perPage := range []int{1, 2, 6} {
		spec.Parallel = perPage
		r, file, xlsx := write(t, spec,
			cutPages(`{"a":"A","b":"Order \"no\"","c":null,"d":"D","e":"E"}`, data, perPage)...)
		var got []Warning
		for _, w := range r.Warnings {
			if w.Code == WarnNumberAsText {
				got = append(got, w)
			}
		}
		require.Equal(t, []Warning{
			{Code: WarnNumberAsText, Count: 1, First: "Sheet3!A3",
				Message: `1 number in column "A" is text, because a number cell would lose digits; the first is Sheet3!A3.`},
			{Code: WarnNumberAsText, Count: 2, First: "Sheet1!B2",
				Message: `2 numbers in column "Order \"no\"" are text, because a number cell would lose digits; the first is Sheet1!B2.`},
			{Code: WarnNumberAsText, Count: 2, First: "Sheet1!C2",
				Message: `2 numbers in column "c" are text, because a number cell would lose digits; the first is Sheet1!C2.`},
			{Code: WarnNumberAsText, Count: 1, First: "Sheet3!E3",
				Message: `1 number in column "E" is text, because a number cell would lose digits; the first is Sheet3!E3.`},
		}, got)
		require.Equal(t, "B2:C3", ignoredRanges(t, xlsx, 1))
		require.Equal(t, "C2:C3", ignoredRanges(t, xlsx, 2))
		require.Equal(t, "A2:A3 E2:E3", ignoredRanges(t, xlsx, 3))
		if first == nil {
			first = file
		}
		require.Equal(t, first, file)
	}
}

func TestASheetWithoutNumbersThatAreTextMarksNothing(t *testing.T) {
	t.Parallel()
	r, _, xlsx := write(t, testSpec(),
		cutPages(`{"a":"A"}`, []string{`{"a":1.50}`, `{"a":"007"}`, `{"a":3.3000000000000003}`}, 1)...)
	require.Empty(t, r.Warnings)
	require.Empty(t, ignoredRanges(t, xlsx, 1))
}

// A column of numbers that a source sent partly as text sums only some of them, and says so: in a plain workbook
// and in one of chosen columns, over worksheets.
func TestNumbersSentAsTextBesideNumbers(t *testing.T) {
	t.Parallel()
	data := []string{
		`{"a":"13.60","b":"1","c":1,"d":"2","m":1,"e":1}`,
		`{"a":40.5,"b":"2","c":"007","d":2,"m":"2","e":"1,5"}`,
		`{"a":"-2.50","b":"3","c":"2026-01-02","d":"x","m":"3","e":"1\u0030"}`,
		`{"a":"1e3","b":"4","c":"","d":"2"}`,
	}
	warning := func(title, first string, n int64, numbers string) Warning {
		return Warning{Code: WarnNumberAsText, Count: n, First: first, Message: numbers + ` in column "` + title + `" ` + map[bool]string{true: "is", false: "are"}[n == 1] +
			" text, as the source sent them, beside cells that are numbers (type number makes them numbers); the first is " + first + "."}
	}
	spec := testSpec()
	spec.MaxSheetRows = 3
	for _, perPage := range []int{1, 2, 4} {
		r, _, _ := write(t, spec, cutPages(`{"a":"A","b":"B","c":"C","d":"D","e":"E"}`, data, perPage)...)
		var got []Warning
		for _, w := range r.Warnings {
			if w.Code == WarnNumberAsText {
				got = append(got, w)
			}
		}
		require.Equal(t, []Warning{warning("A", "Sheet1!A2", 3, "3 numbers"), warning("D", "Sheet1!D2", 2, "2 numbers"),
			warning("E", "Sheet2!E2", 1, "1 number")}, got)

		columns := []events.Column{{Key: "a", Title: "A"}, {Key: "b"}, {Key: "d", Type: events.ColumnNumber},
			{Key: "m", Map: map[string]string{"x": "5"}}, {Key: "d", Type: events.ColumnText}, {Key: "e"}}
		typed, _ := writeTyped(t, testSpec(), sheetOf("Orders", columns, dataPages(data, perPage)...))
		got = nil
		for _, w := range typed.Warnings {
			if w.Code == WarnNumberAsText {
				got = append(got, w)
			}
		}
		require.Equal(t, []Warning{warning("A", "Orders!A2", 3, "3 numbers"), warning("e", "Orders!F4", 1, "1 number")}, got)
	}
}

// Any number of columns gives a bounded number of warnings and ranges.
func TestManyColumnsOfNumbersThatAreText(t *testing.T) {
	t.Parallel()
	const columns = 2*maxIgnored + 2*maxNumberWarnings
	var titles, values []string
	for i := range columns {
		titles = append(titles, fmt.Sprintf(`"c%d":"%s"`, i, strings.Repeat("长", 2*maxTitleShown)))
		value := "1"
		if i%2 == 0 {
			value = "1234567890123456"
		}
		values = append(values, fmt.Sprintf(`"c%d":%s`, i, value))
	}
	row := "{" + strings.Join(values, ",") + "}"
	r, _, xlsx := write(t, testSpec(), cutPages("{"+strings.Join(titles, ",")+"}", []string{row, row}, 1)...)
	require.Len(t, r.Warnings, maxNumberWarnings+1)
	require.Contains(t, r.Warnings[0].Message, `"`+strings.Repeat("长", maxTitleShown)+`…"`)
	require.Equal(t, Warning{
		Code: WarnNumberAsText, Count: 2 * maxIgnored,
		Message: "2000 numbers in 1000 further columns are text, because a number cell would lose digits.",
	}, r.Warnings[maxNumberWarnings])
	ranges := strings.Fields(ignoredRanges(t, xlsx, 1))
	require.Len(t, ranges, maxIgnored)
	require.Equal(t, "C2:C3", ranges[1])
}

// A null or empty title becomes the column's name; any other title is shown unchanged.
func TestTitlesThatAreMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ header, want string }{
		{`{"b":null,"a":"A"}`, "b A"},
		{`{"b":"","a":""}`, "b a"},
		{`{"\u540d":null}`, "名"},
		{`{"a":"A","a":null}`, "a"},
		{`{"a":null,"a":"A"}`, "A"},
		{`{"a":" ","b":"\t"}`, "  \t"},
		{`{"a":"T","b":"T"}`, "T T"},
		{`{"a":{"x": null},"b":[ ]}`, `{"x":null} []`},
		{`{"a":false,"b":0,"c":1.50}`, "false 0 1.50"},
		{`{"=a":null}`, "=a"},
		{`{"a":"A","":null}`, "A"}, // there is nothing to show
	} {
		for _, sheetRows := range []int{0, 2} {
			spec := testSpec()
			spec.MaxSheetRows = sheetRows
			_, _, xlsx := write(t, spec, cutPages(c.header, []string{`{}`, `{}`}, 1)...)
			f := open(t, xlsx)
			for _, sheet := range f.GetSheetList() {
				require.Equal(t, c.want, strings.Join(cellsOf(t, f, sheet)[0], " "), c.header)
			}
		}
	}
}

func TestWidthOfAMissingTitle(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 30)
	_, _, xlsx := write(t, testSpec(), cutPages(`{"`+name+`":null}`, []string{`{}`}, 1)...)
	width, err := open(t, xlsx).GetColWidth("Sheet1", "A")
	require.NoError(t, err)
	require.EqualValues(t, 30+widthMargin, width)
}

func BenchmarkCellNumber(b *testing.B) {
	for _, digits := range []int{5, 15, 16, 17, 18} {
		raw := []byte("3." + strings.Repeat("1", digits-2) + "3")
		b.Run(strconv.Itoa(digits), func(b *testing.B) {
			for b.Loop() {
				cellNumber(raw)
			}
		})
	}
}
