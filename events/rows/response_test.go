package rows_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestScanResponseFindsEveryField(t *testing.T) {
	body := `{
    "errcode": 0,
    "msg": "",
    "data": {
        "data": [ {"Age":"年龄","ID":"编号"}, {"ID":0,"Age":15} ],
        "pagetag": { "page": 1, "limit": "2", "total": 500, "total_page": 250 }
    },
    "request_id": "b4ef2d59"
}`
	r, err := rows.ScanResponse([]byte(body), rows.Limits{})
	require.NoError(t, err)
	require.True(t, r.OK())
	require.Equal(t, rows.Response{
		Errcode: "0", Rows: []byte(`[ {"Age":"年龄","ID":"编号"}, {"ID":0,"Age":15} ]`), RowCount: 2,
		FirstRow:   []byte(`{"Age":"年龄","ID":"编号"}`),
		HasPagetag: true, Page: 1, Limit: 2, Total: 500, TotalPage: 250,
		HasPage: true, HasLimit: true, HasTotal: true, HasTotalPage: true,
	}, r)
}

func TestScanResponseAccepts(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       rows.Response
		ok         bool
	}{
		{"no rows", `{"data":{"data":[]}}`, rows.Response{Rows: []byte(`[]`)}, true},
		{"rows null", `{"data":{"data":null,"pagetag":{"page":3}}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, Page: 3, HasPage: true}, true},
		{"a later null replaces", `{"data":{"data":[{}],"data":null}}`, rows.Response{Rows: []byte(`[]`)},
			true},
		{"a byte order mark", "\xef\xbb\xbf {\"data\":{\"data\":[]}}\r\n", rows.Response{Rows: []byte(`[]`)},
			true},
		{"errcode null", `{"errcode":null,"data":{"data":[]}}`,
			rows.Response{Errcode: "null", Rows: []byte(`[]`)}, true},
		{"errcode in a string", `{"errcode":"0","data":{"data":[]}}`,
			rows.Response{Errcode: `"0"`, Rows: []byte(`[]`)}, true},
		{"errcode 0.0", `{"errcode":0.0,"data":{"data":[]}}`,
			rows.Response{Errcode: `0.0`, Rows: []byte(`[]`)}, true},
		{"an error without data", `{"errcode":401,"msg":"no \u2713"}`,
			rows.Response{Errcode: "401", Msg: "no ✓"}, false},
		{"an error with data null", `{"data":null,"errcode":"E1"}`, rows.Response{Errcode: `"E1"`}, false},
		{"an error with data of another form", `{"data":[1,{"data":2}],"errcode":1}`,
			rows.Response{Errcode: `1`}, false},
		{"an error with rows of another form",
			`{"data":{"data":[1],"pagetag":{"page":-1,"total":3}},"errcode":true}`,
			rows.Response{Errcode: `true`, HasPagetag: true, Total: 3, HasTotal: true}, false},
		{"a message that is no string", `{"errcode":1,"msg":{"a":1}}`, rows.Response{Errcode: "1"}, false},
		{"a message that is a number", `{"errcode":1,"msg":17}`, rows.Response{Errcode: "1", Msg: "17"},
			false},
		{"a long message", `{"errcode":1,"msg":"` + strings.Repeat(`日`, 501) + `"}`,
			rows.Response{Errcode: "1", Msg: strings.Repeat(`日`, 500)}, false},
		{"a long errcode", `{"errcode":"` + strings.Repeat(`x`, 500) + `"}`,
			rows.Response{Errcode: `"` + strings.Repeat(`x`, 127)}, false},
		{"a long errcode with wide characters", `{"errcode":"x` + strings.Repeat(`日`, 500) + `"}`,
			rows.Response{Errcode: `"x` + strings.Repeat(`日`, 42)}, false},
		{"a long errcode that only begins with zeros", `{"errcode":0.` + strings.Repeat(`0`, 500) + `1}`,
			rows.Response{Errcode: `0.` + strings.Repeat(`0`, 126)}, false},
		{"escaped names", `{"d\u0061ta":{"\u0064ata":[{}]}}`,
			rows.Response{Rows: []byte(`[{}]`), RowCount: 1, FirstRow: []byte(`{}`)}, true},
		{"names in another case are others", `{"Data":1,"data":{"DATA":2,"data":[]}}`,
			rows.Response{Rows: []byte(`[]`)}, true},
		{"a later data.data replaces", `{"data":{"data":7,"data":[{"a":1}],"data":[{}, {}]}}`,
			rows.Response{Rows: []byte(`[{}, {}]`), RowCount: 2, FirstRow: []byte(`{}`)}, true},
		{"a later data replaces whole", `{"data":{"data":[{}],"pagetag":{"page":-1}},"data":{"data":[]}}`,
			rows.Response{Rows: []byte(`[]`)}, true},
		{"a later pagetag replaces whole", `{"data":{"pagetag":{"page":1},"data":[],"pagetag":{"limit":3}}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, Limit: 3, HasLimit: true}, true},
		{"a later number replaces", `{"data":{"pagetag":{"page":"x","page":4},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, Page: 4, HasPage: true}, true},
		{"pagetag null", `{"data":{"pagetag":null,"data":[]}}`, rows.Response{Rows: []byte(`[]`)}, true},
		{"numbers in other forms", `{"data":{"pagetag":{"page":1.0,"limit":"5e2","total":9223372036854775807,"total_page":null},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, Page: 1, HasPage: true, Limit: 500,
				HasLimit: true, Total: 9223372036854775807, HasTotal: true}, true},
		{"an empty page", `{"data":{"pagetag":{"page":""},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true}, true},
		{"what counts nothing", `{"data":{"pagetag":{"limit":1e99,"total":-1,"total_page":""},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, HasLimit: true, HasTotal: true,
				HasTotalPage: true}, true},
		{"what counts nothing either",
			`{"data":{"pagetag":{"limit":"many","total":2.5,"total_page":"1 "},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, HasLimit: true, HasTotal: true,
				HasTotalPage: true}, true},
		{"nor do these", `{"data":{"pagetag":{"limit":false,"total":{"value":3},"total_page":[1]},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, HasLimit: true, HasTotal: true,
				HasTotalPage: true}, true},
		{"zero in other forms", `{"data":{"pagetag":{"page":-0,"limit":0.00,"total":"0e99999999999999999999"},"data":[]}}`,
			rows.Response{Rows: []byte(`[]`), HasPagetag: true, HasPage: true, HasLimit: true,
				HasTotal: true}, true},
	} {
		r, err := rows.ScanResponse([]byte(c.body), rows.Limits{})
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, r, c.name)
		require.Equal(t, c.ok, r.OK(), c.name)
	}
}

var badBodies = []struct{ body, want string }{
	{"", "the body is empty"},
	{" \r\n", "the body is empty"},
	{"\xef\xbb\xbf", "the body is empty"},
	{"<!DOCTYPE html><html>", "the body is HTML or XML, not JSON"},
	{"Bad Gateway", "'B' at byte 0 where a value should be"},
	{`[{}]`, "the body is an array, not an object"},
	{`"x"`, "the body is a string, not an object"},
	{`null`, "the body is null, not an object"},
	{`{"errcode":0,"data":{"data":[{"a":1},{"a"`, "row 2: the JSON is truncated at byte 41"},
	{`{"errcode":0,"data"`, "the JSON is truncated at byte 19"},
	{`{"errcode":0,"data":`, "the JSON is truncated at byte 20"},
	{`{"errcode":0`, "the JSON is truncated at byte 12"},
	{`{`, "the JSON is truncated at byte 1"},
	{`{"data":{"data":[]}} {}`, "'{' at byte 21 where the end should be"},
	{`{"data":{"data":[]},}`, "'}' at byte 20 where a name in quotes should be"},
	{`{"errcode":0}`, "data is missing"},
	{`{"data":null}`, "data is null, not an object"},
	{`{"data":[]}`, "data is an array, not an object"},
	{`{"data":{}}`, "data.data is missing"},
	{`{"data":{"data":{}}}`, "data.data is an object, not an array of rows"},
	{`{"data":{"data":[{},[],3]}}`, "row 2 is an array, not an object"},
	{`{"data":{"data":[{},"x"]},"msg":nope}`, "'o' at byte 33 where null should be"},
	{`{"data":{"data":[],"pagetag":[]}}`, "data.pagetag is an array, not an object"},
	{`{"data":{"data":[],"pagetag":{"page":-1}}}`,
		"data.pagetag.page is negative; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"page":1.5}}}`,
		"data.pagetag.page is fractional; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"page":"many"}}}`,
		"data.pagetag.page is a string without a number; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"page":" "}}}`,
		"data.pagetag.page is a string without a number; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"page":"1 "}}}`,
		"data.pagetag.page is a string without a number; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"page":true}}}`,
		"data.pagetag.page is true; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"total":9223372036854775808}}}`,
		"data.pagetag.total is too large; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"total":1e999999999}}}`,
		"data.pagetag.total is too large; it must be a whole number from 0 on"},
	{`{"data":{"data":[],"pagetag":{"total":1e99999999999999999999}}}`,
		"data.pagetag.total is too large; it must be a whole number from 0 on"},
	{`{"x":` + strings.Repeat("[", 1_000_000), "nested deeper than 64 levels at byte 68"},
	{"{\"msg\":\"\xff\"}", "invalid UTF-8 at byte 8"},
}

func TestScanResponseReportsTheError(t *testing.T) {
	for _, c := range badBodies {
		r, err := rows.ScanResponse([]byte(c.body), rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, "%.80q", c.body)
		require.Equal(t, c.want, e.Error(), "%.80q", c.body)
		require.Equal(t, rows.Response{}, r)
		require.Equal(t, strings.Contains(c.want, "truncated") || strings.Contains(c.want, "empty"),
			e.Truncated, "%.80q", c.body)
	}
}

// Every proper prefix of a response is reported as truncated, and as nothing else.
func TestScanResponseKnowsTruncation(t *testing.T) {
	body := `{"errcode":0,"msg":"a\u00e9\"","data":{"data":[{"a":-1.5e+3,"b":null},{"c":[true,{}]}],"pagetag":{"page":"1"}}}`
	for n := range len(body) {
		_, err := rows.ScanResponse([]byte(body[:n]), rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, body[:n])
		require.True(t, e.Truncated, "%s: %s", body[:n], e)
	}
}

var hugeExponent = regexp.MustCompile(`[eE][+-]?[0-9]{3,}`)

func agreeResponse(t failer, body []byte) {
	if hugeExponent.Match(body) {
		return // the reference would compute it
	}
	want, ok := referenceResponse(body)
	got, err := rows.ScanResponse(body, deep)
	if ok != (err == nil) {
		t.Fatalf("the reference accepts: %v; ScanResponse: %v; body %q", ok, err, body)
	}
	if err != nil {
		var e *rows.SyntaxError
		if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(body) || !utf8.ValidString(e.Msg) ||
			len(e.Msg) > 200 {
			t.Fatalf("bad error %#v", err)
		}
		return
	}
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("body %s\nwant %+v\n got %+v", body, want, got)
	}
}

func TestScanResponseAgreesWithEncodingJSON(t *testing.T) {
	number := []string{"0", "1", "500", `"500"`, `"x"`, "-1", "1.5", "2.0", "null", "true", "{}", `"7e1"`}
	rapid.Check(t, func(t *rapid.T) {
		members := func(label string, choices ...func() string) string {
			n := rapid.IntRange(0, len(choices)+1).Draw(t, label)
			parts := make([]string, n)
			for i := range parts {
				parts[i] = space(t) + choices[rapid.IntRange(0, len(choices)-1).Draw(t, label)]() + space(t)
			}
			return "{" + strings.Join(parts, ",") + "}"
		}
		num := func(name string) func() string {
			return func() string { return `"` + name + `":` + rapid.SampledFrom(number).Draw(t, name) }
		}
		other := func() string {
			var b strings.Builder
			b.WriteString(drawString(t) + ":")
			drawValue(t, &b, 2)
			return b.String()
		}
		body := []byte(members("body",
			func() string {
				return `"errcode":` +
					rapid.SampledFrom([]string{"0", `"0"`, "null", "1", `"E"`, "{}", "-0.0"}).
						Draw(t, "errcode")
			},
			func() string {
				return `"msg":` + rapid.SampledFrom([]string{`""`, `"日\n"`, "null", "1"}).Draw(t, "msg")
			},
			func() string {
				return `"data":` + members("data",
					func() string { return `"data":` + drawPage(t) },
					func() string { return `"d\u0061ta":` + drawPage(t) },
					func() string {
						return `"data":` + rapid.SampledFrom([]string{"null", "1", "[1]", "{}"}).
							Draw(t, "no rows")
					},
					func() string {
						return `"pagetag":` + members("pagetag", num("page"), num("limit"), num("total"),
							num("total_page"), other)
					},
					func() string { return `"pagetag":null` },
					other)
			},
			other))
		agreeResponse(t, body)
		cutAt := rapid.IntRange(0, len(body)).Draw(t, "cut")
		agreeResponse(t, body[:cutAt])
		if json.Valid(body) != (cutAt >= 0) {
			t.Fatalf("the test made bad JSON: %s", body)
		}
	})
}

func FuzzScanResponse(f *testing.F) {
	for _, c := range badBodies {
		f.Add([]byte(c.body[:min(len(c.body), 1000)])) // longer seeds only slow down the fuzzer
	}
	f.Add([]byte(`{"errcode":0,"msg":"","data":{"data":[{"a":"b"},{"a":1}],"pagetag":{"page":1,"limit":"2","total":500,"total_page":250}},"x":"y"}`))
	f.Fuzz(func(t *testing.T, body []byte) { agreeResponse(t, body) })
}
