package cells

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// sheetOf is a sheet of chosen columns, shown in UTC.
func sheetOf(columns ...events.Column) encode.Sheet {
	s := encode.Sheet{Chosen: true, Zones: encode.Zones{Display: time.UTC}}
	for _, c := range columns {
		title := c.Title
		if title == "" {
			title = c.Key
		}
		s.Columns = append(s.Columns, encode.Column{Name: c.Key, Title: title, Spec: &c})
	}
	return s
}

// headerSheet is a sheet whose columns are those of a header.
func headerSheet(names ...string) encode.Sheet {
	s := encode.Sheet{Zones: encode.Zones{Display: time.UTC}}
	for _, name := range names {
		s.Columns = append(s.Columns, encode.Column{Name: name, Title: name})
	}
	return s
}

// read returns the cells of the rows of an array, shown by show, and the notes.
func read(t testing.TB, sheet encode.Sheet, array string) (cells [][]string, notes *Notes) {
	t.Helper()
	_, err := rows.Check([]byte(array), rows.Limits{})
	require.NoError(t, err, array)
	r, err := NewReader(sheet)
	require.NoError(t, err)
	c := rows.NewCursor([]byte(array))
	for c.NextRow() {
		var row []string
		for _, cell := range r.Row(&c) {
			row = append(row, show(cell))
		}
		cells = append(cells, row)
	}
	return cells, r.Notes()
}

// one returns the cell of one value in a column, and whether it fits.
func one(t testing.TB, column events.Column, zones encode.Zones, value string) (cell string, fits bool) {
	t.Helper()
	column.Key = "v"
	sheet := sheetOf(column)
	sheet.Zones = zones
	cells, notes := read(t, sheet, `[{"v":`+value+`}]`)
	return cells[0][0], notes.column(0).misfits.n == 0
}

// show writes a cell as a test expects it.
func show(c Cell) string {
	var text string
	switch c.Kind {
	case Empty:
		text = "-"
	case Text:
		text = "text " + string(c.Text)
	case Number:
		text = "number " + string(c.Text)
	case Bool:
		text = fmt.Sprint(c.Bool)
	case JSON:
		text = "json " + string(c.Text)
	case Date:
		text = "date " + time.Unix(c.Wall, 0).UTC().Format(time.DateOnly)
	case Datetime:
		text = "time " + time.Unix(c.Wall, int64(c.Nanos)).UTC().Format("2006-01-02T15:04:05.999999999")
		if c.Zoned {
			text += " = " + time.Unix(c.Unix, 0).UTC().Format(time.RFC3339)
		}
	}
	if c.Link != nil {
		text += " -> " + string(c.Link)
	}
	return text
}

func TestValuesByType(t *testing.T) {
	t.Parallel()
	const no = "!" // before a cell: the value does not fit
	types := []string{"auto", "text", "number", "bool", "json"}
	for value, want := range map[string][]string{
		`null`:  {"-", "-", "-", "-", "-"},
		`""`:    {"text ", "text ", "-", "-", `json ""`},
		`"x"`:   {"text x", "text x", "!text x", "!text x", `json "x"`},
		`850.0`: {"number 850.0", "text 850.0", "number 850.0", "!text 850.0", "json 850.0"},
		`1`:     {"number 1", "text 1", "number 1", "true", "json 1"},
		`1.0`:   {"number 1.0", "text 1.0", "number 1.0", "true", "json 1.0"},
		`-0`:    {"number -0", "text -0", "number -0", "false", "json -0"},
		`1e308`: {"number 1e308", "text 1e308", "number 1e308", "!text 1e308", "json 1e308"},
		`0.12345678901234567`: {"number 0.12345678901234567", "text 0.12345678901234567",
			"number 0.12345678901234567", "!text 0.12345678901234567", "json 0.12345678901234567"},
		`true`:           {"true", "text true", "!text true", "true", "json true"},
		`false`:          {"false", "text false", "!text false", "false", "json false"},
		`"true"`:         {"text true", "text true", "!text true", "true", `json "true"`},
		`"0"`:            {"text 0", "text 0", "number 0", "false", `json "0"`},
		`"TRUE"`:         {"text TRUE", "text TRUE", "!text TRUE", "!text TRUE", `json "TRUE"`},
		`"-1.5E+3"`:      {"text -1.5E+3", "text -1.5E+3", "number -1.5E+3", "!text -1.5E+3", `json "-1.5E+3"`},
		`"007"`:          {"text 007", "text 007", "!text 007", "!text 007", `json "007"`},
		`"+7"`:           {"text +7", "text +7", "!text +7", "!text +7", `json "+7"`},
		`" 7"`:           {"text  7", "text  7", "!text  7", "!text  7", `json " 7"`},
		`"NaN"`:          {"text NaN", "text NaN", "!text NaN", "!text NaN", `json "NaN"`},
		`"1,000"`:        {"text 1,000", "text 1,000", "!text 1,000", "!text 1,000", `json "1,000"`},
		`{"a": [1, 2]}`:  {`json {"a":[1,2]}`, `text {"a":[1,2]}`, `!text {"a":[1,2]}`, `!text {"a":[1,2]}`, `json {"a":[1,2]}`},
		`"\ud83d\ude00"`: {"text 😀", "text 😀", "!text 😀", "!text 😀", `json "😀"`},
		`"\ud83d"`:       {"text \ufffd", "text \ufffd", "!text \ufffd", "!text \ufffd", `json "\ud83d"`},
		`"a\"\n"`:        {"text a\"\n", "text a\"\n", "!text a\"\n", "!text a\"\n", `json "a\"\n"`},
	} {
		for i, kind := range types {
			cell, fits := one(t, events.Column{Type: kind}, encode.Zones{Display: time.UTC}, value)
			if !fits {
				cell = no + cell
			}
			require.Equal(t, want[i], cell, "%s as %s", value, kind)
		}
	}
}

func TestColumnsFindTheirValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keys []string
		row  string
		want []string
	}{
		"in column order":                 {[]string{"b", "a"}, `{"a":1,"b":2}`, []string{"number 2", "number 1"}},
		"the last of a repeated name":     {[]string{"a"}, `{"a":1,"a":2}`, []string{"number 2"}},
		"nested":                          {[]string{"a.b.c", "a.b", "a.x"}, `{"a":{"b":{"c":1}}}`, []string{"number 1", `json {"c":1}`, "-"}},
		"the last of a repeated object":   {[]string{"a.b", "a.c"}, `{"a":{"b":1},"a":{"c":2}}`, []string{"-", "number 2"}},
		"elements":                        {[]string{"t[1]", "t[0].x", "t[9]"}, `{"t":[{"x":1},2]}`, []string{"number 2", "number 1", "-"}},
		"a whole name wins":               {[]string{"a.b"}, `{"a":{"b":1},"a.b":2}`, []string{"number 2"}},
		"a whole name wins, in any order": {[]string{"a.b"}, `{"a.b":2,"a":{"b":1}}`, []string{"number 2"}},
		"a whole name wins with null":     {[]string{"a.b"}, `{"a.b":null,"a":{"b":1}}`, []string{"-"}},
		"quoted names":                    {[]string{"['@id']", `['a.b']`}, `{"@id":1,"a.b":2}`, []string{"number 1", "number 2"}},
		"a name that is no path":          {[]string{"order id", "a..b"}, `{"order id":1,"a..b":2}`, []string{"number 1", "number 2"}},
		"escaped names":                   {[]string{"é.b"}, `{"\u00e9":{"\u0062":1}}`, []string{"number 1"}},
		"a key twice":                     {[]string{"a", "a"}, `{"a":1}`, []string{"number 1", "number 1"}},
		"a member of an array":            {[]string{"a.b", "a[0]"}, `{"a":[1]}`, []string{"-", "number 1"}},
		"an element of an object":         {[]string{"a[0]"}, `{"a":{"0":1}}`, []string{"-"}},
		"the row itself":                  {[]string{"$", "$[0]"}, `{"a":1}`, []string{"-", "-"}},
		"white space":                     {[]string{"a.b", "t[1]"}, "{ \"a\" : {\n \"b\" : 1 } , \"t\" : [ 1 , 2 ] }", []string{"number 1", "number 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var columns []events.Column
			for _, key := range c.keys {
				columns = append(columns, events.Column{Key: key})
			}
			// Rows before and after show that nothing stays.
			cells, _ := read(t, sheetOf(columns...), `[{"z":9},`+c.row+`,{},`+c.row+`]`)
			require.Equal(t, c.want, cells[1])
			require.Equal(t, strings.Repeat("-", len(c.keys)), strings.Join(cells[2], ""))
			require.Equal(t, c.want, cells[3])
		})
	}
}

func TestColumnsOfAHeaderAreNamesAndNoPaths(t *testing.T) {
	t.Parallel()
	cells, notes := read(t, headerSheet("a", "a.b"), `[{"a":{"b":1},"x":2},{"a.b":3,"y":4}]`)
	require.Equal(t, [][]string{{`json {"b":1}`, "-"}, {"-", "number 3"}}, cells)
	require.Equal(t, []encode.Warning{{
		Code: WarnColumnUnknown, Count: 2, First: "x",
		Message: `2 values were left out because the header has no column for them; the first is "x" in data row 1.`,
	}}, notes.Warnings(headerSheet("a", "a.b")))
}

// A row has the same cells and notes whatever rows the reader has seen before.
func TestCellsDoNotDependOnEarlierRows(t *testing.T) {
	t.Parallel()
	join := "+"
	fields := []string{"a", "b", "n", "yes", "at", "o", "tags", "link", "unknown", `\u0061`}
	values := []string{`null`, `""`, `"x"`, `"a\nb"`, `12`, `-1.50`, `true`, `false`, `"true"`, `"2026-01-05 08:30:15"`,
		`"0001-01-01"`, `{"k": 1}`, `[1, "z"]`, `"https://a.example/"`}
	spec := []events.Column{{Key: "a"}, {Key: "b", Type: "text"}, {Key: "n", Type: "number"}, {Key: "yes", Type: "bool"},
		{Key: "at", Type: "datetime"}, {Key: "o.k"}, {Key: "tags", Join: &join}, {Key: "link", Link: "true"}}
	header := headerSheet("a", "b", "n", "yes", "at", "o", "tags", "link")
	someColumns := sheetOf(spec[:4]...)
	rapid.Check(t, func(rt *rapid.T) {
		sheet := rapid.SampledFrom([]encode.Sheet{header, sheetOf(spec...), someColumns}).Draw(rt, "sheet")
		orders := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(fields), 0, 6), 1, 3).Draw(rt, "orders")
		orders = append(orders, fields[:4], fields[:8])
		var data []string
		for range rapid.IntRange(1, 12).Draw(rt, "rows") {
			var row []string
			for _, name := range rapid.SampledFrom(orders).Draw(rt, "names") {
				row = append(row, `"`+name+`":`+rapid.SampledFrom(values).Draw(rt, "value"))
			}
			data = append(data, "{"+strings.Join(row, rapid.SampledFrom([]string{",", " , "}).Draw(rt, "comma"))+"}")
		}
		together, notes := read(t, sheet, "["+strings.Join(data, ",")+"]")
		var apart *Notes
		for i, row := range data {
			alone, noted := read(t, sheet, "["+row+"]")
			require.Equal(rt, alone[0], together[i], "row %d of %v", i, data)
			if apart == nil {
				apart = noted
			} else {
				apart.Add(noted)
			}
		}
		require.Equal(rt, apart.Warnings(sheet), notes.Warnings(sheet), "%v", data)
		require.Equal(rt, apart.found, notes.found, "%v", data)
	})
}
