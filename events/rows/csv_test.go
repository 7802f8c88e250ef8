package rows_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding/simplifiedchinese"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestNumbersInCSV(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   rows.CSVKind
		values []string
	}{
		{rows.CSVNumber, []string{
			"0", "-0", "7", "-12", "0.5", "1.50", "-0.00", ".5", "-.5", " 12", "12 ", "999999999999999",
			"-999999999999999",
			"3.3000000000000003", "0.1234567890123456789", "1e-05", "1E+20", "1.5E3", "-1.5e300", "1.0e400",
			"0e-3", ".5e+1",
		}},
		{rows.CSVCode, []string{
			"007", "00", "-01", "00.5", "+5", "+0.5", "+8613812345678", "1234567890123456",
			"-1234567890123456", "1e5", "12E45", "0123e-1",
		}},
		{rows.CSVText, []string{
			"", " ", "-", "+", ".", "5.", "-5.", "1,000", "1.000,5", "1_000", "1 000", "1'000", "0x10", "0b1",
			"NaN", "nan", "inf", "-Infinity",
			"50%", "$5", "(5)", "5-", "--5", "1-2", "1.2.3", "2026-11-29", "12:30", "１２", "٣", "TRUE", "null",
			"1e", "1e+", "e5", "1.e5",
			"\t12", "12\n", "12\u00a0", "1f", "12a", "1.5E3.2", "−5",
		}},
	} {
		for _, value := range c.values {
			require.Equal(t, c.kind, rows.KindOfCSV([]byte(value)), "%q", value)
			if c.kind == rows.CSVNumber {
				require.True(t, json.Valid(rows.AppendCSVNumber(nil, []byte(value))), value)
			}
		}
	}
	require.Equal(t, "-0.5", string(rows.AppendCSVNumber(nil, []byte(" -.5"))))
	require.Equal(t, "1.50", string(rows.AppendCSVNumber(nil, []byte("1.50 "))))
}

func TestFromCSVReadsRecords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body      string
		delimiter rune
		names     []string
		want      string // of the array
	}{
		"numbers and text": {"id,name\n1,a\n007,\n", ',', []string{"id", "name"}, `[{"id":1,"name":"a"},{"id":"007","name":""}]`},
		"CR LF, quotes and a byte order mark": {"\xef\xbb\xbf\"a\",b\r\n\"x,\"\"y\"\"\r\nz\",\"1\"\r\n", ',', []string{"a", "b"},
			`[{"a":"x,\"y\"\nz","b":1}]`},
		"tabs":           {"数据\tb c\n1,5\t韩\n", '\t', []string{"数据", "b c"}, `[{"数据":"1,5","b c":"韩"}]`},
		"no end of line": {"a,b\n1,2", ',', []string{"a", "b"}, `[{"a":1,"b":2}]`},
		"no rows":        {"a,b\n", ',', []string{"a", "b"}, `[]`},
		"blank lines":    {"\n\na,b\n\n1,2\n\r\n3,4\n\n", ',', []string{"a", "b"}, `[{"a":1,"b":2},{"a":3,"b":4}]`},
		"blank lines in one column": {"\na\n\n\"x\n\ny\"\n\n1\n", ',', []string{"a"},
			`[{"a":""},{"a":"x\n\ny"},{"a":""},{"a":1}]`},
		"blank lines at the end of one column": {"a\n1\n\n\n", ',', []string{"a"}, `[{"a":1},{"a":""},{"a":""}]`},
		"one column without rows":              {"a", ',', []string{"a"}, `[]`},
		"names as they are":                    {" a ,\"b\nc\",it\"\n", ',', nil, ``},
		"names that look alike":                {"a,A, a\n1,2,3\n", ',', []string{"a", "A", " a"}, `[{"a":1,"A":2," a":3}]`},
		"a name with a line break and a quote": {"\"b\nc\",\"d\"\"\"\n1,2\n", ',', []string{"b\nc", `d"`}, `[{"b\nc":1,"d\"":2}]`},
		"what begins like JSON":                {"{a},b\n1,2\n", ',', []string{"{a}", "b"}, `[{"{a}":1,"b":2}]`},
	} {
		array, names, n, err := rows.FromCSV([]byte("x"), []byte(c.body), c.delimiter, rows.Limits{})
		if c.want == "" {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, "x"+c.want, string(array), name)
		require.Equal(t, c.names, names, name)
		count, err := rows.Check(array[1:], rows.Limits{})
		require.NoError(t, err, name)
		require.Equal(t, count, n, name)
	}
}

func TestFromCSVRefusesWithTheLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"empty":            {"\xef\xbb\xbf\r\n", "the body is empty; the names of the columns must be in its first line"},
		"HTML":             {" <!DOCTYPE html><p>", "the body is HTML or XML, not CSV"},
		"XML":              {"<?xml version='1.0'?>", "the body is HTML or XML, not CSV"},
		"JSON":             {"{\"error\": [\"x\"]}\n", "the body is JSON, not CSV"},
		"a missing value":  {"a,b\n1,2\n\n3\n", "line 4 has 1 values, but the header has 2 columns"},
		"a value too many": {"a,b\n\"1\n\",2\n3,4,\n", "line 4 has 3 values, but the header has 2 columns"},
		"no name":          {"a,,b\n", "line 1: column 2 has no name"},
		"a repeated name":  {"\nb,a,c,a\n", "line 2: columns 2 and 4 have the same name; the name is \"a\""},
		"a quote inside":   {"a,b\n1,2\nx\"y,2\n", "line 3: a quote is inside a value without quotes; quote the value and write its quotes twice"},
		"an open quote":    {"a,b\n1,\"2\n", "line 2: a quote is not closed, or text follows a closing quote; a quote in a quoted value is written twice"},
		"text after":       {"a,b\n1,\"2\"x\n", "line 2: a quote is not closed, or text follows a closing quote; a quote in a quoted value is written twice"},
		"another charset":  {"a,b\n1,\xff\n", "line 2 is not UTF-8; options.source_charset sets another encoding"},
		"old line ends":    {"a,b\r1,2\r", "line 1: column 2 has a carriage return in its name; lines end with LF or CR LF"},
	} {
		array, names, n, err := rows.FromCSV(nil, []byte(c.body), ',', rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, c.want, strings.TrimSuffix(e.Msg+"; "+e.Hint, "; "), name)
		require.Nil(t, array, name)
		require.Nil(t, names, name)
		require.Zero(t, n, name)
	}
	_, _, _, err := rows.FromCSV(nil, []byte("a"), '"', rows.Limits{})
	require.Error(t, err)
}

func TestConversionsKeepLimits(t *testing.T) {
	t.Parallel()
	fromCSV := func(body string) func(rows.Limits) error {
		return func(lim rows.Limits) error {
			_, _, _, err := rows.FromCSV([]byte("before"), []byte(body), ',', lim)
			return err
		}
	}
	fromNDJSON := func(body string) func(rows.Limits) error {
		return func(lim rows.Limits) error {
			_, _, err := rows.FromNDJSON([]byte("before"), []byte(body), lim)
			return err
		}
	}
	flatten := func(array string) func(rows.Limits) error {
		return func(lim rows.Limits) error {
			_, err := rows.Flatten([]byte("before"), []byte(array), 1, lim)
			return err
		}
	}
	for name, c := range map[string]struct {
		read func(rows.Limits) error
		lim  rows.Limits
		want error // nil: accepted
	}{
		"CSV rows":           {fromCSV("a\n1\n2\n"), rows.Limits{MaxRows: 2}, nil},
		"CSV rows more":      {fromCSV("a\n1\n2\n3\n"), rows.Limits{MaxRows: 2}, rows.ErrTooManyRows},
		"CSV blank rows":     {fromCSV("a\n1\n2\n\n"), rows.Limits{MaxRows: 2}, rows.ErrTooManyRows},
		"CSV columns":        {fromCSV("a,b\n1,2\n"), rows.Limits{MaxFields: 2}, nil},
		"CSV columns more":   {fromCSV("a,b,c\n"), rows.Limits{MaxFields: 2}, rows.ErrTooManyFields},
		"CSV row":            {fromCSV("a\n12\n"), rows.Limits{MaxRowBytes: 8}, nil},
		"CSV row longer":     {fromCSV("a\n123\n"), rows.Limits{MaxRowBytes: 7}, rows.ErrRowTooLong},
		"CSV bytes":          {fromCSV("a\n1\n2\n"), rows.Limits{MaxBytes: 17}, nil},
		"CSV bytes more":     {fromCSV("a\n1\n2\n3\n"), rows.Limits{MaxBytes: 17}, rows.ErrTooManyBytes},
		"NDJSON rows":        {fromNDJSON("{}\n{}\n\n"), rows.Limits{MaxRows: 2}, nil},
		"NDJSON rows more":   {fromNDJSON("{}\n{}\n{}"), rows.Limits{MaxRows: 2}, rows.ErrTooManyRows},
		"NDJSON fields":      {fromNDJSON(`{"a":1,"b":1}`), rows.Limits{MaxFields: 2}, nil},
		"NDJSON fields more": {fromNDJSON(`{"a":1,"b":1,"c":1}`), rows.Limits{MaxFields: 2}, rows.ErrTooManyFields},
		"NDJSON row":         {fromNDJSON(`  {"a":1}  `), rows.Limits{MaxRowBytes: 7}, nil},
		"NDJSON row longer":  {fromNDJSON(`{"a":11}`), rows.Limits{MaxRowBytes: 7}, rows.ErrRowTooLong},
		"NDJSON depth":       {fromNDJSON(`{"a":[1]}`), rows.Limits{MaxDepth: 3}, nil},
		"NDJSON depth more":  {fromNDJSON(`{"a":[[1]]}`), rows.Limits{MaxDepth: 3}, rows.ErrTooDeep},
		"NDJSON bytes":       {fromNDJSON("{}\n{}\n"), rows.Limits{MaxBytes: 7}, nil},
		"NDJSON bytes more":  {fromNDJSON("{}\n{}\n{}\n"), rows.Limits{MaxBytes: 7}, rows.ErrTooManyBytes},
		"flat fields":        {flatten(`[{"a":{"x":1,"y":1}}]`), rows.Limits{MaxFields: 2}, nil},
		"flat fields more":   {flatten(`[{"a":{"x":1,"y":1,"z":1}}]`), rows.Limits{MaxFields: 2}, rows.ErrTooManyFields},
		"flat row":           {flatten(`[{"a":{"x":1}}]`), rows.Limits{MaxRowBytes: 10}, nil},
		"flat row longer":    {flatten(`[{"a":{"x":11}}]`), rows.Limits{MaxRowBytes: 9}, rows.ErrRowTooLong},
		"flat bytes":         {flatten(`[{"a":{"x":1}},{"a":1}]`), rows.Limits{MaxBytes: 20}, nil},
		"flat bytes more":    {flatten(`[{"a":{"x":1}},{"a":1}]`), rows.Limits{MaxBytes: 17}, rows.ErrTooManyBytes},
	} {
		require.ErrorIs(t, c.read(c.lim), c.want, name)
	}
}

func TestNumbersFromCSVLoseNothing(t *testing.T) {
	t.Parallel()
	for value, number := range map[string]bool{
		"0": true, "-0": true, "-12": true, "1.50": true, "0.000123456789012345": true, "123456789012345": true,
		"12345678901234.5": true, "1e-05": true, "-1.5e300": true, "0e-3": true, "0.0e-999": true,
		"1234567890123456": false, "12345678901234.56": false, "3.3000000000000003": false, "1.5e-320": false,
		"1.5e999": false, "1e5": false, "007": false, "+1": false, ".5": false, "-.5": false, "5.": false, " 12": false, "12 ": false,
		"": false, "-": false, "NaN": false, "true": false, "null": false, "1_000": false, "- 1": false, "1e": false,
	} {
		array, _, _, err := rows.FromCSV(nil, []byte("a,b\n"+value+",\n"), ',', rows.Limits{})
		require.NoError(t, err, value)
		want := `"` + value + `"`
		if number {
			want = value
		}
		require.Equal(t, `[{"a":`+want+`,"b":""}]`, string(array), value)
	}
}

// checkFromCSV compares an array with the records that encoding/csv reads.
func checkFromCSV(t failer, body []byte, delimiter rune) {
	array, names, n, err := rows.FromCSV(nil, body, delimiter, rows.Limits{})
	if err != nil {
		var e *rows.SyntaxError
		if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(body) || e.Msg == "" || len(e.Msg) > 200 || !utf8.ValidString(e.Hint) {
			t.Fatalf("bad error %#v", err)
		}
		return
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))))
	r.Comma = delimiter
	records, err := r.ReadAll()
	if err != nil || len(records) == 0 || fmt.Sprint(records[0]) != fmt.Sprint(names) {
		t.Fatalf("%q is refused by encoding/csv: %v", body, err)
	}
	all, ok := referenceRows(array)
	if !ok || len(all) != n || n < len(records)-1 || n > len(records)-1 && len(names) > 1 {
		t.Fatalf("%q: %s with %d rows of %d", body, array, n, len(records)-1)
	}
	next := 1
	for _, row := range all {
		if len(names) == 1 && row[0].Raw == `""` && (next == len(records) || records[next][0] != "") {
			continue // a blank line
		}
		for k, f := range row {
			text := f.Raw
			if f.Raw[0] == '"' {
				_ = json.Unmarshal([]byte(f.Raw), &text)
			} else if number, err := strconv.ParseFloat(text, 64); err != nil || !equalNumbers(number, text) {
				t.Fatalf("%q is no number", text)
			}
			if f.Name != names[k] || text != records[next][k] {
				t.Fatalf("%q: row %v, want %q", body, row, records[next])
			}
		}
		next++
	}
	if next != len(records) {
		t.Fatalf("%q: %d records of %d", body, next, len(records))
	}
}

// equalNumbers reports whether the shortest text of a float64 is the same number.
func equalNumbers(f float64, text string) bool {
	a, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	b, alsoOK := new(big.Rat).SetString(text)
	return ok && alsoOK && a.Cmp(b) == 0
}

func TestFromCSVReadsWhatWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.IntRange(1, 4).Draw(t, "columns")
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		w.UseCRLF = rapid.Bool().Draw(t, "CR LF")
		header := []string{"a", "数据", "b,\"c", "d e"}[:columns]
		_ = w.Write(header)
		n := rapid.IntRange(0, 5).Draw(t, "rows")
		for range n {
			record := make([]string, columns)
			for k := range record {
				record[k] = rapid.OneOf(rapid.SampledFrom([]string{"", "1", "-0.5", "007", "x\ny", "\"", ",", "韩", "1e5", "12345678901234567"}),
					rapid.StringMatching(`-?[0-9]{1,17}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?`)).Draw(t, "value")
			}
			_ = w.Write(record)
		}
		w.Flush()
		_, _, got, err := rows.FromCSV(nil, b.Bytes(), ',', rows.Limits{})
		if err != nil || got != n {
			t.Fatalf("%q: %d rows of %d, %v", b.String(), got, n, err)
		}
		checkFromCSV(t, b.Bytes(), ',')
	})
}

func FuzzFromCSV(f *testing.F) {
	for _, body := range []string{"a,b\n1,2\n", "a\n\n1\n", "a\tb\r\n\"x\ty\"\t1.5e3\r\n", "\xef\xbb\xbfa,b\n\"1\n\",2", "a,a\n", "{\"a\":1}", "a,b\n1\n"} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, tabs bool) {
		delimiter := ','
		if tabs {
			delimiter = '\t'
		}
		checkFromCSV(t, body, delimiter)
	})
}

func TestDecodeReadsCharsets(t *testing.T) {
	t.Parallel()
	const text = "编号,名称\n1,韩\n"
	for charset, body := range map[string]string{
		"": text, "UTF-8": text, "utf8": text, "us-ascii": text,
		"GBK": "", "gb2312": "", "GB18030": "",
	} {
		if body == "" {
			body, _ = simplifiedchinese.GBK.NewEncoder().String(text)
		}
		got, err := rows.Decode([]byte(body), charset)
		require.NoError(t, err, charset)
		require.Equal(t, text, string(got), charset)
	}
	four, err := simplifiedchinese.GB18030.NewEncoder().String("𠮷")
	require.NoError(t, err)
	got, err := rows.Decode([]byte(four), "gb18030")
	require.NoError(t, err)
	require.Equal(t, "𠮷", string(got))

	_, err = rows.Decode([]byte("a\nb\n\x81"), "gbk")
	require.EqualError(t, err, "line 3 is not gbk")
	_, err = rows.Decode([]byte(text), "latin1")
	require.EqualError(t, err, `charset "latin1" is not supported; supported: utf-8, gbk, gb18030`)
}
