package request

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
)

var allFormats = []events.Format{events.XLSX, events.CSV, events.TSV, events.JSON, events.NDJSON, events.Parquet, events.HTML}

func parseFiles(t *testing.T, members string) (*Checked, error) {
	t.Helper()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	if !strings.Contains(members, `"ext_type"`) {
		members = `"ext_type":"XLSX",` + members
	}
	if !strings.Contains(members, `"sheets":[`) {
		members += `,"source_http":{"url":"http://h/p"}`
	}
	return Parse(keys, events.DefaultTenant, events.SourceHTTP, allFormats, []byte("{"+members+"}"))
}

// A column in an event has what the request gives, without defaults.
func TestColumnsInAnEvent(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		`{"key":"a"}`: `{"key":"a"}`,
		`{"key":"user.name","title":"姓名","type":"text","width":20}`:                     `{"key":"user.name","title":"姓名","type":"text","width":20}`,
		`{"key":"a","type":"auto","from":"auto","title":null}`:                          `{"key":"a"}`,
		`{"key":"['order id']"}`:                                                        `{"key":"order id"}`,
		`{"key":"数量(件)"}`:                                                               `{"key":"数量(件)"}`,
		`{"key":"['a.b']"}`:                                                             `{"key":"['a.b']","title":"a.b"}`,
		`{"key":"s","map":{"0":"新建","1":7,"x":true,"*":null}}`:                          `{"key":"s","map":{"*":"","0":"新建","1":"7","x":"true"}}`,
		`{"key":"t[0]","join":""}`:                                                      `{"key":"t[0]","join":""}`,
		`{"key":"u","link":true}`:                                                       `{"key":"u","link":"true"}`,
		`{"key":"u","link":"https://h/{a.b}?x={id}"}`:                                   `{"key":"u","link":"https://h/{a.b}?x={id}"}`,
		`{"key":"d","type":"date","from":"%d/%m/%Y","format":"yyyy\"年\"m月;[Red]-0.00"}`: `{"key":"d","type":"date","from":"%d/%m/%Y","format":"yyyy\"年\"m月;[Red]-0.00"}`,
		`{"key":"n","format":"#,##0.00_);[$¥-804]0E+00"}`:                               `{"key":"n","format":"#,##0.00_);[$¥-804]0E+00"}`,
	} {
		s, err := parseFiles(t, `"columns":[`+given+`]`)
		require.NoError(t, err, given)
		got, err := json.Marshal(s.Request.Columns[0])
		require.NoError(t, err)
		require.JSONEq(t, want, string(got))
		require.Equal(t, []string{events.NeedFile}, s.Request.Needs)
		if s.Request.Columns[0].Link == events.LinkValue {
			continue
		}
		again, err := parseFiles(t, `"columns":[`+string(got)+`]`)
		require.NoError(t, err, "what is stored can be given again")
		require.Equal(t, s.Request.Columns, again.Request.Columns)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	col := func(members string) string { return `"columns":[{"key":"a",` + members + `}]` }
	http := `"source_http":{"url":"http://h/p"}`
	for given, want := range map[string]string{
		`"columns":{}`:                            `columns: must be an array, not an object`,
		`"columns":["a"]`:                         `columns[0]: must be a JSON object, not a string`,
		`"columns":[{}]`:                          `columns[0].key is required`,
		`"columns":[{"key":"data..list"}]`:        `columns[0].key: "data..list" at 6: ".." is not supported; write each step`,
		`"columns":[{"key":"$"}]`:                 `columns[0].key: "$" is not in a row; give the name of a field`,
		`"columns":[{"key":"a"},{"key":"['a']"}]`: `columns[1].key repeats columns[0]; give it another title`,
		col(`"typ":"x"`):                          `columns[0].typ is not known; known: key, title, type, from, format, map, join, link, width`,
		col(`"type":"float"`):                     `columns[0].type: "float" is not known; text, number, bool, date, datetime, json, auto`,
		col(`"from":"unix"`):                      `columns[0].from needs type date or datetime`,
		col(`"type":"date","from":"unx"`):         `columns[0].from: "unx" is not known; auto, iso, unix, unix_ms, or a pattern such as %d/%m/%Y %H:%M`,
		col(`"type":"date","from":"%d/%m"`):       `columns[0].from: "%d/%m" must name the year, the month and the day, such as %Y-%m-%d`,
		col(`"type":"bool","format":"0"`):         `columns[0].format has no meaning with type bool`,
		col(`"format":"yyyy-qq"`):                 `columns[0].format: "yyyy-qq" at 6: 'q' is not allowed outside quotes`,
		col(`"format":"0\"x"`):                    `columns[0].format: "0\"x" at 2: the quote is not closed`,
		col(`"format":"[Redd]0"`):                 `columns[0].format: "[Redd]0" at 1: [Redd] is not known; want a colour, a condition, [h] or [$¥]`,
		col(`"format":"0;0;0;0;0"`):               `columns[0].format: "0;0;0;0;0" at 8: more than four sections`,
		col(`"map":{"0":{}}`):                     `columns[0].map["0"]: must be text, not an object`,
		col(`"join":7`):                           `columns[0].join: must be a string, not a number`,
		col(`"link":"javascript:alert({a})"`):     `columns[0].link: must begin with http://, https:// or mailto:`,
		col(`"link":"https://h/{a"`):              `columns[0].link: lacks a key in braces, such as {id}`,
		col(`"width":256`):                        `columns[0].width: is 256; want an integer from 1 to 255`,
		`"options":{"timezone":"GMT+8"}`:          `options.timezone: "GMT+8" is no IANA name; Asia/Shanghai?`,
		`"options":{"timezone":"asia/shanghai"}`:  `options.timezone: "asia/shanghai" is no IANA name; Asia/Shanghai?`,
		`"options":{"timezone":"Local"}`:          `options.timezone: "Local" is no IANA name; UTC?`,
		`"options":{"timezone":"../../etc/x"}`:    `options.timezone: "../../etc/x" is no IANA name; want one such as Asia/Shanghai`,
		`"options":{"source_timezone":"Tokyo"}`:   `options.source_timezone: "Tokyo" is no IANA name; Asia/Tokyo?`,
		`"options":{"csv":{"sep":";"}}`:           `options.csv.sep is not known; known: bom, delimiter, encoding, guard`,
		`"options":{"csv":{"delimiter":"x"}}`:     `options.csv.delimiter: "x" is not known; known: ",", ";", "\t", "|"`,
		`"options":{"json":{"names":"titel"}}`:    `options.json.names: "titel" is not known; title?`,
		`"options":{"max_rows":-1}`:               `options.max_rows: is -1; want an integer from 0 to `,
		`"options":{"zip":0}`:                     `options.zip: must be true or false, not a number`,
		`"ext_type":"CSV,XLSX","options":{"max_rows":1},"sheets":[{"title":"a","source_raw":[{"a":"A"}` + strings.Repeat(`,{"a":1}`, 501) + `]}]`: `options.max_rows: 1 makes 1002 files; at most 1000 are allowed`,
		`"options":{"keep_pages":99999}`:                                    `options.keep_pages: is 99999; want an integer from 0 to 8784`,
		`"ext_type":"CSV,XLSX","options":{"zip":false}`:                     `options.zip: false needs a single file, but ext_type has 2 formats, a file each`,
		`"options":{"zip":false,"max_rows":5}`:                              `options.zip: false needs a single file, but max_rows makes several files`,
		`"options":{"zip":false,"manifest":true}`:                           `options.zip: false needs a single file, but manifest adds a file`,
		`"ext_type":"ODS"`:                                                  `ext_type: "ODS" is not supported; supported: XLSX, CSV, TSV, JSON, NDJSON, PARQUET, HTML`,
		`"ext_type":["CSV","csv"]`:                                          `ext_type: names CSV twice`,
		`"ext_type":[]`:                                                     `ext_type: is required; supported: XLSX`,
		`"ext_type":["CSV",7]`:                                              `ext_type[1]: must be a string, not a number`,
		`"ext_type":"JSON","columns":[{"key":"a"},{"key":"a","title":"b"}]`: `columns[1] has the name of columns[0], which JSON cannot hold; set options.json.names to title`,
		`"columns":[{"key":"a"}],"sheets":[{}]`:                             `columns has no meaning beside sheets; give it in a sheet`,
		`"sheets":[{"title":"a",` + http + `},{"title":"b","source_http":{"url":"ftp://h"}}]`: `sheets[1].source_http.url: must begin with http:// or https://`,
		`"sheets":[{` + http + `}]`:                                                `sheets[0].title is required`,
		`"sheets":[{"title":"a"}]`:                                                 `sheets[0].source_http or source_raw is required`,
		`"sheets":[{"title":"a","source_raw":[{"a":1}],` + http + `}]`:             `sheets[0].source_raw and source_http exclude each other; give one of them`,
		`"sheets":[{"title":"a","source_raw":[]}]`:                                 `sheets[0].source_raw: is an empty array; its first row must be the header`,
		`"sheets":[{"title":"a","colums":[],` + http + `}]`:                        `sheets[0].colums is not known; known: title, source_http, source_raw, columns, row_key`,
		`"sheets":[{"title":"a",` + http + `,"columns":[{"key":"a","type":"x"}]}]`: `sheets[0].columns[0].type: "x" is not known; `,
		`"sheets":[7]`: `sheets[0]: must be a JSON object, not a number`,
		`"sheets":[` + strings.Repeat(`{"title":"a",`+http+`},`, 32) + `{}]`:                                        `sheets: has more than 32 values`,
		`"ext_type":"CSV","sheets":[{"title":"a",` + http + `},{"title":"b",` + http + `}],"options":{"zip":false}`: `options.zip: false needs a single file, but CSV has a file for each of the 2 sheets`,
		`"sheets":[{"title":"a","source_http":{"url":"http://h","header":{"A":"…"},"preset":"drf"}}]`:               `sheets[0].source_http.header["A"]: is "…", which stands for a secret that is not shown; give the secret`,
	} {
		_, err := parseFiles(t, given)
		require.Error(t, err, given)
		require.True(t, strings.HasPrefix(err.Error(), want), "%s\n%s\n%s", given, want, err)
	}
}

func TestSheetsOfARequest(t *testing.T) {
	t.Parallel()
	s, err := parseFiles(t, `"sheets":[{"title":"订单","source_http":{"url":"http://h/p","preset":"drf","header":{"A":"k1"}},"columns":[{"key":"id"}]},
		{"title":"客户","source_raw":[{"a":"\ud800","b":"B"},{"a":1,"a":2}],"row_key":"a"}]`)
	require.NoError(t, err)
	require.Equal(t, []string{events.NeedSource, events.NeedFile}, s.Request.Needs)
	require.Equal(t, events.SourceHTTP, s.Request.SourceType)
	require.Equal(t, secrets.Values{secrets.Sheet(0, "A"): "k1"}, s.Secrets)
	require.Len(t, s.Pages, 1)
	require.Equal(t, 1, s.Pages[0].Sheet)
	require.Equal(t, int64(1), s.Request.Sheets[1].Raw.Rows)
	data, err := json.Marshal(s.Request)
	require.NoError(t, err)
	require.NotContains(t, string(data), "k1")

	key := func(rows string) string {
		s, err := parseFiles(t, `"sheets":[{"title":"a","source_raw":`+rows+`}]`)
		require.NoError(t, err)
		return s.Key
	}
	require.NotEqual(t, key(`[{"a":1,"b":2}]`), key(`[{"b":2,"a":1}]`), "the order of a header's names is the order of the columns")
	require.Equal(t, key(`[{"a":1}]`), key(`"[{\"a\":1}]"`), "the same rows")
}

// Equal requests have equal keys, however their columns, formats and options are written. A request that was
// valid before these existed keeps its key.
func TestKeysOfFiles(t *testing.T) {
	t.Parallel()
	key := func(members string) string {
		s, err := parseFiles(t, members)
		require.NoError(t, err, members)
		return s.Key
	}
	sheet := func(columns string) string {
		return `"sheets":[{"title":"a","source_http":{"url":"http://h/p"}` + columns + `}]`
	}
	for _, equal := range [][]string{
		{`"title":"a"`, `"title":"a","ext_type":["XLSX"]`, `"title":"a","options":null`, `"title":"a","options":{}`,
			`"title":"a","options":{"zip":true,"max_rows":0,"csv":{"bom":true,"delimiter":","},"json":{"names":"key"},"timezone":"UTC"}`},
		{`"ext_type":"CSV"`, `"ext_type":"csv"`, `"ext_type":["Csv"]`, `"ext_type":" csv "`},
		{`"ext_type":"CSV,XLSX"`, `"ext_type":"csv, xlsx"`, `"ext_type":["CSV","xlsx"]`},
		{`"columns":[{"key":"a","title":"A"},{"key":"b"}]`,
			`"columns":[{"title":"A","type":"auto","key":"a"},{"key":"b","title":"b","from":"auto","link":false,"join":null}]`},
		{`"options":{"csv":{"bom":false},"timezone":"Asia/Shanghai"}`, `"options":{"timezone":"Asia/Shanghai","zip":true,"csv":{"bom":false,"guard":true}}`},
		{sheet(``), sheet(`,"columns":[],"row_key":null`)},
		{sheet(`,"columns":[{"key":"a"}]`), sheet(`,"columns":[{"key":"['a']","title":"a"}]`)},
	} {
		for _, members := range equal[1:] {
			require.Equal(t, key(equal[0]), key(members), "%s\n%s", equal[0], members)
		}
	}
	different := map[string]string{}
	for _, members := range []string{
		`"title":"a"`, `"ext_type":"xlsx"`, `"ext_type":"XLSX"`, `"ext_type":"CSV"`, `"ext_type":"TSV"`, `"ext_type":"CSV,XLSX"`,
		`"ext_type":"XLSX,CSV"`, `"columns":[{"key":"a"}]`, `"columns":[{"key":"a"},{"key":"b"}]`, `"columns":[{"key":"b"},{"key":"a"}]`,
		`"columns":[{"key":"a","title":"b"}]`, `"options":{"zip":false}`, `"options":{"manifest":true}`, sheet(``),
	} {
		k := key(members)
		require.Empty(t, different[k], "%s\n%s", different[k], members)
		different[k] = members
	}
	// Keys of the release before.
	require.Equal(t, "b6b3e6b1d309f511a14fc0fab5d8e34e", key(`"ext_type":"XLSX"`))
	require.Equal(t, "31dd6ff98343cf7023e401e43b57b4a2", key(`"ext_type":"xlsx","title":"a","call_back":null`))
}

// An option that changes none of the files is named.
func TestUnusedOptions(t *testing.T) {
	t.Parallel()
	date := `"columns":[{"key":"a","type":"date"}],`
	for members, want := range map[string][]string{
		`"options":{"csv":{"bom":false}}`:                                       {"options.csv changes nothing: ext_type has neither CSV nor TSV"},
		`"options":{"csv":{"bom":true}}`:                                        nil,
		`"ext_type":"XLSX,CSV","options":{"csv":{"bom":false}}`:                 nil,
		`"ext_type":"TSV","options":{"csv":{"bom":false}}`:                      {"options.csv.bom changes nothing: TSV never has one"},
		`"ext_type":"tsv","options":{"csv":{"delimiter":";"}}`:                  {"options.csv.delimiter changes nothing: TSV always has tabs"},
		`"ext_type":"TSV","options":{"csv":{"guard":false}}`:                    nil,
		`"ext_type":"CSV","options":{"json":{"names":"title"}}`:                 {"options.json changes nothing: ext_type has neither JSON nor NDJSON"},
		`"ext_type":"JSON","options":{"json":{"names":"title"}}`:                {"options.json.names changes nothing: without columns a row is written as it was sent"},
		date + `"ext_type":"JSON","options":{"json":{"names":"title"}}`:         nil,
		date + `"options":{"timezone":"Asia/Shanghai"}`:                         nil,
		`"options":{"timezone":"Asia/Tokyo","source_timezone":"Asia/Shanghai"}`: {"options.timezone changes nothing: no column has type date or datetime", "options.source_timezone changes nothing: no column has type date or datetime"},
	} {
		s, err := parseFiles(t, members)
		require.NoError(t, err, members)
		require.Equal(t, want, s.Request.Warnings, members)
		for _, w := range s.Request.Warnings {
			require.True(t, IsUnusedOption(w))
		}
	}
	s, err := parseFiles(t, `"opitons":{}`)
	require.NoError(t, err)
	require.Equal(t, []string{`unknown field "opitons" was ignored`}, s.Request.Warnings)
	require.False(t, IsUnusedOption(s.Request.Warnings[0]))
}

// A request of today needs nothing new, and options that say the default change nothing.
func TestNeedsOfFiles(t *testing.T) {
	t.Parallel()
	for given, want := range map[string][]string{
		`"title":"a"`: nil,
		`"options":{"zip":true,"csv":{"bom":true}}`: nil,
		`"ext_type":"xlsx"`:                         nil,
		`"ext_type":["xlsx","Csv"]`:                 {events.NeedFile},
		`"options":{"timezone":"Asia/Shanghai"}`:    {events.NeedFile},
		`"options":{"zip":false}`:                   {events.NeedFile},
	} {
		s, err := parseFiles(t, given)
		require.NoError(t, err, given)
		require.Equal(t, want, s.Request.Needs, given)
	}
	s, err := parseFiles(t, `"ext_type":["xlsx","Csv"]`)
	require.NoError(t, err)
	require.Equal(t, "xlsx,Csv", s.Request.ExtType)
}

func TestProposedZonesExist(t *testing.T) {
	t.Parallel()
	all := slices.Collect(zoneNames())
	for _, name := range zoneOf {
		all = append(all, name)
	}
	for _, name := range zoneCalled {
		all = append(all, name)
	}
	for _, name := range all {
		_, err := time.LoadLocation(name)
		require.NoError(t, err)
	}
}
