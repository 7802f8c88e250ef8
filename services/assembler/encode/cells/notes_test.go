package cells

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// TestUnixTimesAreHinted: a column of times whose values are Unix times names the field that reads them.
func TestUnixTimesAreHinted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ column, value, want string }{
		{`{"key":"at","type":"datetime"}`, `1625106204`, `data row 1; for Unix times set from to "unix".`},
		{`{"key":"at","type":"date"}`, `"1625106204000"`, `data row 1; for Unix times in milliseconds set from to "unix_ms".`},
		{`{"key":"at","type":"datetime"}`, `16251062`, `data row 1.`},
		{`{"key":"at","type":"datetime","from":"iso"}`, `1625106204`, `data row 1.`},
		{`{"key":"at","type":"bool"}`, `1625106204`, `data row 1.`},
	} {
		var column events.Column
		require.NoError(t, json.Unmarshal([]byte(tc.column), &column))
		sheet := sheetOf(column)
		_, notes := read(t, sheet, `[{"at":`+tc.value+`}]`)
		warnings := notes.Warnings(sheet)
		require.Len(t, warnings, 1, tc)
		require.True(t, strings.HasSuffix(warnings[0].Message, tc.want), warnings[0].Message)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 50)
	sheet := sheetOf(
		events.Column{Key: "amount", Type: "number"}, events.Column{Key: "state", Map: map[string]string{"1": "one"}},
		events.Column{Key: "url", Link: "true"}, events.Column{Key: "gone"}, events.Column{Key: "null"},
	)
	page := `[{"amount":1,"state":1,"url":"https://a.example","null":null,"more":1},` +
		`{"amount":"` + long + `","state":2,"url":"x"},{"amount":"n/a","state":3}]`
	_, notes := read(t, sheet, page)
	require.NoError(t, notes.Err(sheet))
	require.Equal(t, []encode.Warning{
		{Code: "CELL_TYPE", Count: 2, First: "amount",
			Message: `2 values of column "amount" do not fit its type and are text; the first is "` + long[:80] + `…" in data row 2.`},
		{Code: "MAP_MISSED", Count: 2, First: "state",
			Message: `2 values of column "state" are not in its map and stay as they are; the first is "2" in data row 2.`},
		{Code: "LINKS_CUT", Count: 1, First: "url",
			Message: `1 cell of column "url" has no link: it is no http, https or mailto address, or has more than 2079 characters; ` +
				`the first is "x" in data row 2.`},
		{Code: "COLUMN_EMPTY", Count: 1, First: "gone", Message: `Column "gone" is empty: no row has that key.`},
	}, notes.Warnings(sheet))
	sheet.Title = "Orders"
	placed := notes.WarningsAt(sheet, func(column int, row int64) string { return fmt.Sprint(column, "/", row) })
	require.Equal(t, "0/2", placed[0].First)
	require.Equal(t, "gone", placed[3].First, "an empty column has no cell")
	for _, w := range placed {
		require.True(t, strings.HasPrefix(w.Message, `Sheet "Orders": `), w.Message)
	}
}

// A key that a link template has and no row has is named once a column, with the name that is probably meant.
func TestKeysOfLinksThatNoRowHas(t *testing.T) {
	t.Parallel()
	const no = `Column "a" has no links: no row has the key `
	for _, tc := range []struct{ claim, link, page, want string }{
		{"mistyped", "https://x/{nope}", `[{"a":1,"id":2}]`, no + `"nope" of its template.`},
		{"similar to a name", "https://x/{usr.id}", `[{"a":1,"user":{"id":2}}]`,
			no + `"usr.id" of its template; did you mean "user.id"?`},
		{"the second key", "https://x/{id}/{nope}/{other}", `[{"a":1,"id":2}]`, no + `"nope" of its template.`},
		{"the first is in no row that has a cell", "https://x/{id}", `[{"a":1},{"id":2}]`, ""},
		{"a row has it", "https://x/{id}", `[{"a":1},{"a":1,"id":2},{"a":1}]`, ""},
		{"null", "https://x/{id}", `[{"a":1,"id":null}]`, ""},
		{"nested", "https://x/{user.id}", `[{"a":1,"user":{"id":2}}]`, ""},
		{"the name of a field", "https://x/{user.id}", `[{"a":1,"user.id":2}]`, ""},
		{"the key of the column", "https://x/{a}", `[{"a":1}]`, ""},
		{"no rows", "https://x/{nope}", `[]`, ""},
		{"the value", "true", `[{"a":"https://x"}]`, ""},
	} {
		sheet := sheetOf(events.Column{Key: "a", Link: tc.link})
		sheet.Near = func(key string) string { return map[string]string{"usr.id": "user.id"}[key] }
		_, notes := read(t, sheet, tc.page)
		require.NoError(t, notes.Err(sheet), tc.claim)
		var want []encode.Warning
		if tc.want != "" {
			want = []encode.Warning{{Code: WarnLinksCut, Count: 1, First: "a", Message: tc.want}}
		}
		require.Equal(t, want, notes.Warnings(sheet), tc.claim)
	}
	sheet := sheetOf(events.Column{Key: "b", Link: "https://x/{id}"})
	_, notes := read(t, sheet, `[{"id":1}]`)
	require.Error(t, notes.Err(sheet), "the key of a link is not that of a column")
}

func TestAnEmptySheetHasNoWarnings(t *testing.T) {
	t.Parallel()
	sheet := sheetOf(events.Column{Key: "a"})
	_, notes := read(t, sheet, `[]`)
	require.Empty(t, notes.Warnings(sheet))
	require.NoError(t, notes.Err(sheet))
}

// Wrong keys must not make a file of empty cells.
func TestRowsWithoutAnyChosenKeyAreAnError(t *testing.T) {
	t.Parallel()
	sheet := sheetOf(events.Column{Key: "data.id"}, events.Column{Key: "data.no"})
	_, notes := read(t, sheet, `[{"id":1},{"no":2}]`)
	require.Equal(t, &encode.NoValuesError{Keys: []string{"data.id", "data.no"}}, notes.Err(sheet))
	_, notes = read(t, sheet, `[{"id":1},{"data":{"no":null}}]`)
	require.NoError(t, notes.Err(sheet), "null is a value that the source sent")
	_, notes = read(t, headerSheet("a"), `[{"b":1}]`)
	require.NoError(t, notes.Err(headerSheet("a")))
}

// A sheet of the widest kind whose columns are all wrong gives 100 warnings, and the last count the rest.
func TestWarningsAreAtMostAHundred(t *testing.T) {
	t.Parallel()
	var columns []events.Column
	row := []string{}
	for i := range 400 {
		columns = append(columns,
			events.Column{Key: fmt.Sprint("n", i), Type: "number", Map: map[string]string{"1": "1"}, Link: "true"},
			events.Column{Key: fmt.Sprint("e", i)})
		row = append(row, fmt.Sprintf(`"n%d":"x"`, i))
	}
	sheet := sheetOf(columns...)
	_, notes := read(t, sheet, "[{"+strings.Join(row, ",")+"},{"+strings.Join(row, ",")+"}]")
	all := notes.Warnings(sheet)
	require.LessOrEqual(t, len(all), maxWarnings)
	counts := map[string]int64{}
	for _, w := range all {
		counts[w.Code] += w.Count
	}
	require.Equal(t, map[string]int64{"CELL_TYPE": 800, "MAP_MISSED": 800, "LINKS_CUT": 800, "COLUMN_EMPTY": 400}, counts)
	require.Equal(t, "610 values of 305 further columns do not fit their type and are text.", all[95].Message)
	require.Equal(t, "400 further columns are empty: no row has their keys.", all[len(all)-1].Message)
}

// Names of rows and values in warnings are the source's: they are cut, and quoted so that they stay one line.
func TestHostileNamesInWarnings(t *testing.T) {
	t.Parallel()
	sheet := headerSheet("a")
	_, notes := read(t, sheet, `[{"a":1,"`+strings.Repeat(`\n`, 5000)+`":2}]`)
	w := notes.Warnings(sheet)[0]
	require.Equal(t, strings.Repeat("\n", 100)+"…", w.First)
	require.NotContains(t, w.Message, "\n")
	require.Less(t, len(w.Message), 400)
}

// How the rows are cut into parts makes no difference.
func TestNotesOfParts(t *testing.T) {
	t.Parallel()
	sheet := sheetOf(events.Column{Key: "a", Type: "number"}, events.Column{Key: "b", Map: map[string]string{"x": "y"}},
		events.Column{Key: "c", Link: "true"})
	sheet.Columns = append(sheet.Columns, sheetOf(events.Column{Key: "c", Link: "https://x/{k}/{n.m}/{k}"}).Columns...)
	header := headerSheet("a", "b")
	rapid.Check(t, func(t *rapid.T) {
		row := rapid.SampledFrom([]string{`{}`, `{"a":1}`, `{"a":"x","b":"x"}`, `{"a":"y","b":2}`, `{"c":"ftp://x"}`, `{"d":1}`, `{"e":1}`,
			`{"k":1,"c":"x"}`, `{"n":{"m":null}}`, `{"n.m":1}`})
		parts := rapid.SliceOfN(rapid.SliceOfN(row, 0, 4), 1, 5).Draw(t, "parts")
		for _, sheet := range []encode.Sheet{sheet, header} {
			_, whole := read2(t, sheet, "["+strings.Join(slices.Concat(parts...), ",")+"]")
			sum := &Notes{}
			for i, part := range parts {
				_, notes := read2(t, sheet, "["+strings.Join(part, ",")+"]")
				if i == 0 {
					sum = notes
				} else {
					sum.Add(notes)
				}
			}
			require.Equal(t, whole.Warnings(sheet), sum.Warnings(sheet))
			require.Equal(t, whole.Err(sheet), sum.Err(sheet))
		}
	})
}

func read2(t require.TestingT, sheet encode.Sheet, array string) (n int, notes *Notes) {
	r, err := NewReader(sheet)
	require.NoError(t, err)
	for c := rows.NewCursor([]byte(array)); c.NextRow(); n++ {
		r.Row(&c)
	}
	return n, r.Notes()
}

func TestUnknown(t *testing.T) {
	t.Parallel()
	sheet := headerSheet("a")
	_, notes := read(t, sheet, `[{"a":1},{"a":1,"b":2}]`)
	require.Equal(t, []encode.Warning{{Code: WarnColumnUnknown, Count: 1, First: "b",
		Message: `1 value was left out because the header has no column for it; the first is "b" in data row 2.`}},
		notes.Warnings(sheet))
	require.Equal(t, `2 values were left out because the header has no column for them; the first is "b" in data row 1.`,
		Unknown(2, "b", 1))
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	sheet := sheetOf(events.Column{Key: "a", Type: "date"})
	r, err := NewReader(sheet)
	require.NoError(t, err)
	c := rows.NewCursor([]byte(`[{"a":"1899-12-31"}]`))
	require.True(t, c.NextRow())
	cells := r.Row(&c)
	require.Equal(t, "date 1899-12-31", show(cells[0]))
	r.Refuse(0)
	require.Equal(t, "text 1899-12-31", show(cells[0]))
	require.Equal(t, `1 value of column "a" does not fit its type and is text; the first is "1899-12-31" in data row 1.`,
		r.Notes().Warnings(sheet)[0].Message)
}

func TestPresent(t *testing.T) {
	t.Parallel()
	r, err := NewReader(headerSheet("a", "b", "c"))
	require.NoError(t, err)
	c := rows.NewCursor([]byte(`[{"c":1,"a":null},{},{"b":1,"x":2}]`))
	for _, want := range [][]int32{{0, 2}, {}, {1}} {
		require.True(t, c.NextRow())
		r.Row(&c)
		require.Equal(t, want, r.Present())
	}
}
