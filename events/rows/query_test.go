package rows_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/theory/jsonpath"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

// mustQuery parses paths and makes their query.
func mustQuery(t testing.TB, rowsPath string, values ...string) *rows.Query {
	t.Helper()
	at, err := rows.ParseRowsPath(rowsPath)
	require.NoError(t, err, rowsPath)
	var paths []rows.Path
	for _, text := range values {
		p, err := rows.ParsePath(text)
		require.NoError(t, err, text)
		paths = append(paths, p)
	}
	return rows.NewQuery(at, paths)
}

func TestQueryFindsRowsAndValues(t *testing.T) {
	t.Parallel()
	type found struct {
		rows, first, last string
		count             int
		names             []string
		values            []string // "" for absent
	}
	for name, c := range map[string]struct {
		rows   string
		values []string
		body   string
		want   found
	}{
		"values after and before the rows": {`data.items`, []string{`total`, `data.more`, `absent`},
			`{"data":{"items":[{"a":1},{"a":2,"b":3}],"more":true},"total":"7"}`,
			found{`[{"a":1},{"a":2,"b":3}]`, `{"a":1}`, `{"a":2,"b":3}`, 2, []string{"a", "b"}, []string{`"7"`, "true", ""}}},
		"an array at the root, after a byte order mark": {``, nil, "\xef\xbb\xbf [ {\"a\":1} ] \n",
			found{"[ {\"a\":1} ]", `{"a":1}`, `{"a":1}`, 1, []string{"a"}, nil}},
		"an empty array": {`a`, []string{`a`}, `{"a":[ ]}`, found{"[ ]", "", "", 0, nil, []string{"[ ]"}}},
		"a null array":   {`a`, []string{`a`}, `{"a":null}`, found{"[]", "", "", 0, nil, []string{"null"}}},
		"null":           {`$`, nil, `null`, found{"[]", "", "", 0, nil, nil}},
		"a value that holds the rows, and one in them": {`d.r`, []string{`d`, `d.r[1].n`, `d.r[2].n`, `d.r`},
			`{"d":{"r":[{"n":1},{"n":2}]}}`,
			found{`[{"n":1},{"n":2}]`, `{"n":1}`, `{"n":2}`, 2, []string{"n"},
				[]string{`{"r":[{"n":1},{"n":2}]}`, "2", "", `[{"n":1},{"n":2}]`}}},
		"indices": {`[1][0]`, []string{`[0]`, `[1][1].x`, `[7]`}, `[9,[[{"a":1}],{"x":[]}],[{"b":1}]]`,
			found{`[{"a":1}]`, `{"a":1}`, `{"a":1}`, 1, []string{"a"}, []string{"9", "[]", ""}}},
		"names with escapes": {`['a"b']`, []string{`数据`}, `{"\u0061\"b":[{"\u0063":1},{"c":2}],"\u6570据":"\/"}`,
			found{`[{"\u0063":1},{"c":2}]`, `{"\u0063":1}`, `{"c":2}`, 2, []string{"c"}, []string{`"\/"`}}},
		"the last of a repeated name": {`d.r`, []string{`d.t`, `n`}, `{"n":1,"d":{"t":1,"r":[{"a":1}]},"n":2,"d":{"r":[{"b":1}]}}`,
			found{`[{"b":1}]`, `{"b":1}`, `{"b":1}`, 1, []string{"b"}, []string{"", "2"}}},
		"rows of another kind do not matter if the name comes again": {`r`, nil, `{"r":[1],"r":7,"r":[{"b":1}]}`,
			found{`[{"b":1}]`, `{"b":1}`, `{"b":1}`, 1, []string{"b"}, nil}},
		"one row in each element": {`e[*].node`, []string{`e[1].cursor`},
			`{"e":[ {"node" : {"a":1} ,"cursor":"x"}, {"cursor":"y","node":{"b" :[2]}}]}`,
			found{`[{"a":1},{"b" :[2]}]`, `{"a":1}`, `{"b" :[2]}`, 2, []string{"a", "b"}, []string{`"y"`}}},
		"no element": {`e[*].node`, nil, `{"e":[]}`, found{`[]`, "", "", 0, nil, nil}},
		"elements that are null as an array": {`e[*].node`, nil, `{"e":null}`,
			found{`[]`, "", "", 0, nil, nil}},
		"a row in an array in each element": {`$[*].x[1]`, nil, `[{"x":[0,{"a":1},2]},{"x":[{},{"b":1}]}]`,
			found{`[{"a":1},{"b":1}]`, `{"a":1}`, `{"b":1}`, 2, []string{"a", "b"}, nil}},
		"the last row of a repeated name": {`$[*].n`, nil, `[{"n":{"x":1},"n":{"a":1}},{"n":7,"n":{"b":1}}]`,
			found{`[{"a":1},{"b":1}]`, `{"a":1}`, `{"b":1}`, 2, []string{"a", "b"}, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := mustQuery(t, c.rows, c.values...).Scan([]byte(c.body), rows.Limits{})
			require.NoError(t, err)
			require.Nil(t, f.RowsErr)
			got := found{string(f.Rows), string(f.First), string(f.Last), f.RowCount, f.Names, nil}
			for i, v := range f.Values {
				require.Equal(t, v == nil, len(v) == 0, c.values[i])
				got.values = append(got.values, string(v))
			}
			require.Equal(t, c.want, got)
			require.Equal(t, c.want.names, rows.Names(f.Rows))
		})
	}
}

func TestQueryDescribesAnswersWithoutRows(t *testing.T) {
	t.Parallel()
	ten := `{"j":1` + strings.Repeat(`,"长`+strings.Repeat("长", 40)+`":1`, 9) + `}`
	for name, c := range map[string]struct{ rows, body, want string }{
		"an object": {`data.list`, `{"data":{"list":{"items":[{}],"n":1,"in":{"links":[]}}}}`,
			`source_http.rows "data.list" is an object; arrays there: data.list.items, data.list.in.links`},
		"an object without arrays": {`data`, `{"data":{}}`, `source_http.rows "data" is an object; no array is there`},
		"the root":                 {`$`, `{"data":{"items":[]}}`, `source_http.rows "$" is an object; arrays there: data.items`},
		"a number":                 {`$`, `7`, `source_http.rows "$" is a number; no array is there`},
		"nothing": {`data.list`, `{"data":{"items":[{},{}],"one":[1],"none":[]},"code":0,"msg":""}`,
			`source_http.rows "data.list" finds nothing; the answer has data.items (array of 2 objects), data.one (array of 1 value), data.none (empty array), data, code, msg`},
		"nothing in an array":  {`data`, `[{},{}]`, `source_http.rows "data" finds nothing; the answer is an array of 2 objects`},
		"nothing in a string":  {`data`, ` "x" `, `source_http.rows "data" finds nothing; the answer is a string`},
		"nothing in an object": {`data`, `{}`, `source_http.rows "data" finds nothing; the answer has no members`},
		"nothing in null":      {`data.orders`, `{"data":null}`, `source_http.rows "data.orders" finds nothing; the answer has data`},
		"arrays at the fifth level": {`r`, `{"a":{"b":{"c":{"d":[1],"e":{"f":[1]}}}}}`,
			`source_http.rows "r" finds nothing; the answer has a.b.c.d (array of 1 value), a`},
		"long names":            {`data`, ten, `source_http.rows "data" finds nothing; the answer has j, …, …, …, …, …, …, … and 2 more`},
		"names to be quoted":    {`data`, `{"a-b":[1],"\u202e":1}`, `source_http.rows "data" finds nothing; the answer has ['a-b'] (array of 1 value), …`},
		"a row of another kind": {`$`, `[{},{},"x",[]]`, `row 3 is a string, not an object`},
		"an element without a row": {`rows[*].doc`, `{"rows":[{"doc":{}},{"id":1}]}`,
			`row 2: source_http.rows "rows[*].doc" finds nothing in element 2 of the array`},
		"an element that is no object": {`rows[*].doc`, `{"rows":[7]}`,
			`row 1: source_http.rows "rows[*].doc" finds nothing in element 1 of the array`},
		"an element whose row is null": {`rows[*].doc`, `{"rows":[{"doc":null}]}`, `row 1 is null, not an object`},
		"an element whose last row is null": {`rows[*].doc`, `{"rows":[{"doc":{},"doc":null}]}`,
			`row 1 is null, not an object`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := mustQuery(t, c.rows, `msg`).Scan([]byte(c.body), rows.Limits{})
			require.NoError(t, err)
			require.NotNil(t, f.RowsErr)
			got := f.RowsErr.Msg
			if f.RowsErr.Hint != "" {
				got += "; " + f.RowsErr.Hint
			}
			require.Equal(t, c.want, got)
			require.Nil(t, f.Rows)
			require.Zero(t, f.RowCount)
			require.Nil(t, f.Names)
			require.Len(t, f.Values, 1)
			if strings.Contains(c.body, `"msg":""`) {
				require.Equal(t, `""`, string(f.Values[0]), "the other values are found")
			}
		})
	}
}

func TestQueryChecksTheWholeBody(t *testing.T) {
	t.Parallel()
	q := mustQuery(t, `rows[*].doc`, `a[1]`, `n`)
	for body, want := range map[string]string{
		``:                     "the body is empty",
		"\xef\xbb\xbf":         "the body is empty",
		` <html>`:              "the body is HTML or XML, not JSON",
		`{"a":[1,}`:            "'}' at byte 8 where a value should be",
		`{"a":[1,2}`:           "'}' at byte 9 where ',' or ']' should be",
		`{"a":[0,1`:            "the JSON is truncated at byte 9",
		`{"a":[0,`:             "the JSON is truncated at byte 8",
		`{"rows":[{"doc":`:     "row 1: the JSON is truncated at byte 16",
		`{"rows":[{"doc":{}},`: "row 2: the JSON is truncated at byte 20",
		`{"rows":[{}]`:         "the JSON is truncated at byte 12",
		`{"n":1}x`:             "'x' at byte 7 where the end should be",
		`{"x":01}`:             "a number with a leading zero at byte 6",
		"{\"x\":\"\xff\"}":     "invalid UTF-8 at byte 6",
		`{"a":[0,[[[[1]]]]]}`:  "nested deeper than 5 levels at byte 11",
	} {
		f, err := q.Scan([]byte(body), rows.Limits{MaxDepth: 5})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, want, e.Msg, body)
		require.Equal(t, strings.Contains(want, "truncated") || strings.Contains(want, "empty"), e.Truncated, body)
		require.Equal(t, rows.Found{}, f, body)
	}
	_, err := q.Scan([]byte("{\"n\":1}\n{\"n\":2}\n"), rows.Limits{})
	var e *rows.SyntaxError
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, `set source_http.format to "ndjson"`)
}

func TestQueryKeepsLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rows, body string
		lim        rows.Limits
		want       error // nil: accepted
	}{
		"rows":              {`$`, `[{},{}]`, rows.Limits{MaxRows: 2}, nil},
		"a row more":        {`$`, `[{},{},{}]`, rows.Limits{MaxRows: 2}, rows.ErrTooManyRows},
		"elements":          {`$[*].a`, `[{"a":{}},{"a":{}}]`, rows.Limits{MaxRows: 2}, nil},
		"an element more":   {`$[*].a`, `[{"a":{}},{"a":{}},{"a":{}}]`, rows.Limits{MaxRows: 2}, rows.ErrTooManyRows},
		"fields":            {`$[*].a`, `[{"b":{"x":1,"y":2,"z":3},"a":{"x":1,"y":2}}]`, rows.Limits{MaxFields: 2}, nil},
		"a field more":      {`$[*].a`, `[{"a":{"x":1,"y":2,"z":3}}]`, rows.Limits{MaxFields: 2}, rows.ErrTooManyFields},
		"a long row":        {`$[*].a`, `[{"a":{"x":1}}]`, rows.Limits{MaxRowBytes: 6}, rows.ErrRowTooLong},
		"a row":             {`$[*].a`, `[{"b":12345678,"a":{"x":1}}]`, rows.Limits{MaxRowBytes: 7}, nil},
		"depth of a row":    {`a.b.c`, `{"a":{"b":{"c":[{"x":[1]}]}}}`, rows.Limits{MaxDepth: 3}, nil},
		"a deeper row":      {`a.b.c`, `{"a":{"b":{"c":[{"x":[[1]]}]}}}`, rows.Limits{MaxDepth: 3}, rows.ErrTooDeep},
		"depth on the way":  {`a.b.c`, `{"a":{"b":{"c":[]}}}`, rows.Limits{MaxDepth: 2}, rows.ErrTooDeep},
		"depth in elements": {`$[*].a.b`, `[{"a":{"b":{}}}]`, rows.Limits{MaxDepth: 2}, rows.ErrTooDeep},
	} {
		_, err := mustQuery(t, c.rows).Scan([]byte(c.body), c.lim)
		require.ErrorIs(t, err, c.want, name)
	}
}

func TestQueryForgetsRowsThatARepeatedNameReplaces(t *testing.T) {
	t.Parallel()
	f, err := mustQuery(t, `d.r`, `d.n`).Scan([]byte(`{"d":{"r":[{}],"n":1},"d":{"x":1}}`), rows.Limits{})
	require.NoError(t, err)
	require.NotNil(t, f.RowsErr)
	require.Nil(t, f.Rows)
	require.Nil(t, f.Values[0])
}

// The names of rows with thousands of columns, and of rows that share none, are exact up to the limit.
func TestQueryNamesOfWideRows(t *testing.T) {
	t.Parallel()
	var body strings.Builder
	body.WriteString(`{"meta":{"c1":1,"c2":2},"rows":[`)
	var want []string
	for row := range 3 {
		if row > 0 {
			body.WriteByte(',')
		}
		body.WriteByte('{')
		for k := range 200 {
			if k%(row+2) == 1 {
				continue
			}
			if k > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `"c%d":%d`, k, k)
		}
		body.WriteByte('}')
	}
	body.WriteString(`]}`)
	for row := range 3 {
		for k := range 200 {
			name := fmt.Sprintf("c%d", k)
			if k%(row+2) != 1 && !strings.Contains(" "+strings.Join(want, " ")+" ", " "+name+" ") {
				want = append(want, name)
			}
		}
	}
	f, err := mustQuery(t, `rows`).Scan([]byte(body.String()), rows.Limits{})
	require.NoError(t, err)
	require.Equal(t, want, f.Names)
	require.Equal(t, want, rows.Names(f.Rows))

	body.Reset()
	body.WriteString(`[{}`)
	for k := range 20_000 {
		fmt.Fprintf(&body, `,{"n%d":1}`, k)
	}
	body.WriteByte(']')
	f, err = mustQuery(t, ``).Scan([]byte(body.String()), rows.Limits{})
	require.NoError(t, err)
	require.Len(t, f.Names, 16_385)
	require.Equal(t, "n16384", f.Names[16_384])
	require.Equal(t, f.Names, rows.Names([]byte(body.String())))
}

func TestNamesAreTheUnionInOrder(t *testing.T) {
	t.Parallel()
	q := mustQuery(t, `a.b`)
	rapid.Check(t, func(t *rapid.T) {
		page := []byte(drawPage(t))
		all, ok := referenceRows(page)
		if !ok {
			t.Fatalf("no page: %q", page)
		}
		var want []string
		seen := map[string]bool{}
		for _, row := range all {
			for _, f := range row {
				if !seen[f.Name] {
					seen[f.Name] = true
					want = append(want, f.Name)
				}
			}
		}
		f, err := q.Scan(fmt.Appendf(nil, `{"c":{"a":1},"a":{"x":%s,"b":%s,"y":{"a":1}},"d":{"other":1}}`, page, page), rows.Limits{})
		if err != nil || !reflect.DeepEqual(f.Names, want) || !reflect.DeepEqual(rows.Names(page), want) {
			t.Fatalf("names of %s: want %q, got %q and %q: %v", page, want, f.Names, rows.Names(page), err)
		}
	})
}

func TestQueryMayBeShared(t *testing.T) {
	t.Parallel()
	q := mustQuery(t, `d.r`, `d.n`, `d.r[0].a`)
	for i := range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			body := fmt.Appendf(nil, `{"d":{"r":[{"a":%d}],"n":%d}}`, i, i)
			for range 100 {
				f, err := q.Scan(body, rows.Limits{})
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), string(f.Values[0]))
				require.Equal(t, fmt.Sprint(i), string(f.Values[1]))
			}
		})
	}
}

// selected returns what JSONPath selects in a document. Numbers keep their digits.
func selected(t failer, doc, path string) []any {
	p, err := jsonpath.Parse(standardForm(path))
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	return p.Select(decode(t, []byte(doc)))
}

func decode(t failer, raw []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return v
}

func sameValue(t failer, raw []byte, want any) {
	if got := decode(t, raw); !reflect.DeepEqual(got, want) {
		t.Fatalf("found %s, want %v", raw, want)
	}
}

// agreeWithJSONPath compares what a query finds with what JSONPath selects.
func agreeWithJSONPath(t failer, body []byte, rowsPath string, values []string) {
	at, err := rows.ParseRowsPath(rowsPath)
	if err != nil {
		return
	}
	var paths []rows.Path
	for _, text := range values {
		p, err := rows.ParsePath(text)
		if err != nil {
			return
		}
		paths = append(paths, p)
	}
	f, err := rows.NewQuery(at, paths).Scan(body, deep)
	doc := bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if valid := json.Valid(doc) && utf8.Valid(doc); valid != (err == nil) {
		t.Fatalf("valid %v, error %v", valid, err)
	}
	if err != nil {
		return
	}
	for k, p := range paths {
		want := selected(t, string(doc), p.String())
		if (f.Values[k] != nil) != (len(want) == 1) {
			t.Fatalf("%s in %s: found %q, want %v", p, doc, f.Values[k], want)
		}
		if f.Values[k] != nil {
			sameValue(t, f.Values[k], want[0])
			if !bytes.Contains(body, f.Values[k]) {
				t.Fatalf("%q is no part of the body", f.Values[k])
			}
		}
	}
	head, tail, gathered := strings.Cut(at.String(), "[*]")
	arrays := selected(t, string(doc), head)
	var elements []any
	isRows := len(arrays) == 1
	if isRows {
		elements, isRows = arrays[0].([]any)
		isRows = isRows || arrays[0] == nil
	}
	var want []any
	for _, e := range elements {
		if gathered {
			p, err := jsonpath.Parse("$" + tail)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if nodes := p.Select(e); len(nodes) == 1 {
				e = nodes[0]
			} else {
				e = nil
			}
		}
		_, isObject := e.(map[string]any)
		isRows = isRows && isObject
		want = append(want, e)
	}
	if isRows != (f.RowsErr == nil) || isRows != (f.Rows != nil) {
		t.Fatalf("%s in %s: %v, want rows %v", at, doc, f.RowsErr, want)
	}
	if f.RowsErr != nil {
		if len(f.RowsErr.Msg)+len(f.RowsErr.Hint) > 8000 || strings.Contains(f.RowsErr.Hint, "\n") ||
			!utf8.ValidString(f.RowsErr.Hint) {
			t.Fatalf("bad error %+v", f.RowsErr)
		}
		return
	}
	if n, err := rows.Check(f.Rows, deep); err != nil || n != f.RowCount || n != len(want) {
		t.Fatalf("%s: %d rows, want %d: %v", f.Rows, n, len(want), err)
	}
	if n := len(want); n > 0 {
		sameValue(t, f.Rows, want)
		sameValue(t, f.First, want[0])
		sameValue(t, f.Last, want[n-1])
	} else if f.First != nil || f.Last != nil {
		t.Fatalf("rows %q and %q of none", f.First, f.Last)
	}
	if !reflect.DeepEqual(f.Names, rows.Names(f.Rows)) {
		t.Fatalf("names %q, want %q", f.Names, rows.Names(f.Rows))
	}
}

var queryNames = []string{"a", "b", "数据", "c-d"}

// drawDocument draws a JSON text of few names, some of them twice.
func drawDocument(t *rapid.T) string {
	var b strings.Builder
	var value func(depth int)
	value = func(depth int) {
		kind := rapid.IntRange(0, 9).Draw(t, "kind")
		switch {
		case depth > 0 && kind < 5:
			b.WriteString("{" + space(t))
			for k := range rapid.IntRange(0, 4).Draw(t, "members") {
				if k > 0 {
					b.WriteString("," + space(t))
				}
				name := rapid.SampledFrom([]string{`"a"`, `"b"`, `"\u0061"`, `"数据"`, `"\u6570据"`, `"c-d"`, `"x"`}).Draw(t, "name")
				b.WriteString(name + space(t) + ":" + space(t))
				value(depth - 1)
				b.WriteString(space(t))
			}
			b.WriteString("}")
		case depth > 0 && kind < 9:
			b.WriteString("[" + space(t))
			for k := range rapid.IntRange(0, 3).Draw(t, "elements") {
				if k > 0 {
					b.WriteString("," + space(t))
				}
				value(depth - 1)
				b.WriteString(space(t))
			}
			b.WriteString("]")
		default:
			b.WriteString(rapid.SampledFrom([]string{"{}", "[]", "null", "1.50", `"x\"]"`, "true"}).Draw(t, "leaf"))
		}
	}
	b.WriteString(space(t))
	value(5)
	b.WriteString(space(t))
	return b.String()
}

// drawPath draws a path in the names of drawDocument.
func drawPath(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("$")
	for range rapid.IntRange(0, 4).Draw(t, "steps") {
		if rapid.Bool().Draw(t, "index") {
			fmt.Fprintf(&b, "[%d]", rapid.IntRange(0, 2).Draw(t, "at"))
		} else {
			fmt.Fprintf(&b, "['%s']", rapid.SampledFrom(queryNames).Draw(t, "name"))
		}
	}
	return b.String()
}

func TestQueryFindsWhatJSONPathFinds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rowsPath := drawPath(t)
		if rapid.IntRange(0, 2).Draw(t, "gather") == 0 {
			rowsPath += "[*]" + strings.TrimPrefix(drawPath(t), "$")
		}
		values := rapid.SliceOfN(rapid.Custom(drawPath), 0, 4).Draw(t, "values")
		agreeWithJSONPath(t, []byte(drawDocument(t)), rowsPath, values)
	})
}

// On any body a query finds what JSONPath selects.
func FuzzQuery(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[{"x":1},{"x":2}],"n":7}}`), "a.b", "a.n", "a.b[1].x")
	f.Add([]byte(`{"e":[{"node":{"a":1}},{"node":{"b":[]},"node":{}}],"e":[]}`), "e[*].node", "e", "$")
	f.Add([]byte("\xef\xbb\xbf[[{\"\\u0061\":null}],{}]"), "[0]", "[0][0].a", "[1]")
	f.Add([]byte(`{"a":null,"a":{"b":[1]}}`), "a.b", "a", "a.b")
	f.Fuzz(func(t *testing.T, body []byte, rowsPath, first, second string) {
		agreeWithJSONPath(t, body, rowsPath, []string{first, second})
	})
}
