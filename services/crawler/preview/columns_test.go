package preview

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// column returns the proposed column of values under a name, "" if none has a type.
func column(t *testing.T, name string, values ...string) (column, why string) {
	t.Helper()
	var list []string
	for _, v := range values {
		list = append(list, fmt.Sprintf(`{%q:%s}`, name, v))
	}
	columns, findings := (&run{}).columns([]byte("["+strings.Join(list, ",")+"]"), false)
	if columns == nil {
		require.Empty(t, findings)
		return "", ""
	}
	require.Equal(t, "columns", findings[0].Field)
	require.Equal(t, "columns[0].type", findings[1].Field)
	for _, f := range findings {
		require.Equal(t, Seen, f.How)
	}
	return strings.Trim(string(columns), "[]"), findings[1].Why
}

func TestTypesOfColumns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, column, why string }{
		{"at", `"2026-01-05T08:30:00Z"`, `{"key":"at","type":"datetime"}`, "5 of 5 values are ISO 8601 with Z"},
		{"x", `"2026-01-05 08:30:00.123Z"`, `{"key":"x","type":"datetime"}`, "5 of 5 values are ISO 8601 with Z"},
		{"x", `"2026-01-05T08:30:00+08:00"`, `{"key":"x","type":"datetime"}`, "5 of 5 values are ISO 8601 with an offset"},
		{"x", `"2026-01-05 08:30:00"`, `{"key":"x","type":"datetime"}`, "5 of 5 values are ISO 8601 without an offset"},
		{"x", `"2026-01-05"`, `{"key":"x","type":"date"}`, "5 of 5 values are ISO 8601 without a time"},
		{"x", `"2026\/1\/5"`, `{"key":"x","type":"date"}`, "5 of 5 values are dates such as 2026/1/5 without a time"},
		{"createdAt", `1767600000`, `{"key":"createdAt","type":"datetime","from":"unix"}`,
			"5 of 5 values are seconds since 1970 in the years 2000 to 2099, and the name says time"},
		{"update_time", `1767600000123`, `{"key":"update_time","type":"datetime","from":"unix_ms"}`,
			"5 of 5 values are milliseconds since 1970 in the years 2000 to 2099, and the name says time"},
		{"下单时间", `1767600000123`, `{"key":"下单时间","type":"datetime","from":"unix_ms"}`,
			"5 of 5 values are milliseconds since 1970 in the years 2000 to 2099, and the name says time"},
		{"order at", `"2026-01-05"`, `{"key":"['order at']","title":"order at","type":"date"}`, "5 of 5 values are ISO 8601 without a time"},
		{"a.b", `"2026-01-05"`, `{"key":"a.b","type":"date"}`, "5 of 5 values are ISO 8601 without a time"},
		{"phone", `1767600000`, "", ""}, // plausible, but nothing says that it is a time
		{"rate", `1767600000`, "", ""},
		{"status", `1767600000123`, "", ""},
		{"created_at", `20260105`, "", ""},
		{"created_at", `1767600000.5`, "", ""},
		{"created_at", `"1767600000"`, "", ""},
		{"id", `12345678901234567890`, "", ""},
		{"id", `"12345678901234567890"`, "", ""},
		{"paid", `true`, "", ""},
		{"paid", `"true"`, "", ""},
		{"day", `"05.01.2026"`, "", ""},
		{"day", `"20260105"`, "", ""},
		{"day", `""`, "", ""},
		{"day", `null`, "", ""},
		{"day", `{"at":"2026-01-05"}`, "", ""},
	} {
		got, why := column(t, c.name, c.value, c.value, c.value, c.value, c.value)
		require.Equal(t, c.column, got, "%s of %s", c.value, c.name)
		require.Equal(t, c.why, why, "%s of %s", c.value, c.name)
	}
}

func TestTypesOfMixedColumns(t *testing.T) {
	t.Parallel()
	const day, at, utc = `"2026-01-05"`, `"2026-01-05T08:30:00"`, `"2026-01-05T08:30:00Z"`
	got, why := column(t, "x", day, "null", utc, `""`, at, day)
	require.Equal(t, `{"key":"x","type":"datetime"}`, got)
	require.Equal(t, "4 of 4 values are ISO 8601", why)
	for _, values := range [][]string{
		{day, day, day, day, `"soon"`}, {day, day, day, day, "1"}, {day, day, "null", "null", "null"}, {day, day, day, day},
	} {
		got, _ := column(t, "x", values...)
		require.Empty(t, got, "%v", values)
	}
}

// A request with columns leaves other names out, so page 1 must show that its rows have all names.
func TestColumnsAreProposedOnlyIfAllRowsHaveThem(t *testing.T) {
	t.Parallel()
	r := &run{}
	row := `{"id":1,"at":"2026-01-05","note":"x"}`
	columns, findings := r.columns([]byte("["+strings.Repeat(row+",", 5)+row+"]"), false)
	require.Equal(t, `[{"key":"id"},{"key":"at","type":"date"},{"key":"note"}]`, string(columns))
	require.Equal(t, []Finding{
		{"columns", 3, Seen, "each of the 6 rows of page 1 has these names; others on later pages would be left out"},
		{"columns[1].type", "date", Seen, "6 of 6 values are ISO 8601 without a time"},
	}, findings)
	for name, last := range map[string]string{
		"a name is missing": `{"id":1,"at":"2026-01-05"}`,
		"a name is new":     `{"id":1,"at":"2026-01-05","note":"x","more":1}`,
		"a name twice":      `{"id":1,"at":"2026-01-05","at":"2026-01-05","note":"x"}`,
		"a row is empty":    `{}`,
	} {
		columns, _ := r.columns([]byte("["+strings.Repeat(row+",", 5)+last+"]"), false)
		require.Nil(t, columns, name)
	}
	for name, r := range map[string]*run{
		"columns are given": {submission: object{{"columns", []byte(`[]`)}}},
		"sheets are given":  {submission: object{{"sheets", []byte(`[]`)}}},
		"a name is secret":  {secrets: []string{"note"}},
	} {
		columns, _ := r.columns([]byte("["+strings.Repeat(row+",", 5)+row+"]"), false)
		require.Nil(t, columns, name)
	}
}

func TestTitlesOfProposedColumns(t *testing.T) {
	t.Parallel()
	rows := `[{"id":"编号","at":"","n":5}` + strings.Repeat(`,{"id":1,"at":"2026-01-05","n":7}`, 5) + `]`
	columns, findings := (&run{}).columns([]byte(rows), true)
	require.Equal(t, `[{"key":"id","title":"编号"},{"key":"at","type":"date"},{"key":"n"}]`, string(columns))
	require.Equal(t, "5 of 5 values are ISO 8601 without a time", findings[1].Why)
}

// A page of many names or of long values takes no longer than reading it.
func TestColumnsOfHostilePages(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf(`"n%d":"2026-01-05"`, i))
	}
	row := "{" + strings.Join(names, ",") + "}"
	columns, _ := (&run{}).columns([]byte("["+strings.Repeat(row+",", 5)+row+"]"), false)
	require.Nil(t, columns)
	got, _ := column(t, "at", slicesOf(`"2026-01-05`+strings.Repeat("5", 1<<20)+`"`, 6)...)
	require.Empty(t, got)
}

func slicesOf(value string, n int) (list []string) {
	for range n {
		list = append(list, value)
	}
	return list
}
