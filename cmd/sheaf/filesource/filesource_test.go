package filesource

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type sourcePage struct {
	Errcode int    `json:"errcode"`
	Msg     string `json:"msg"`
	Data    *struct {
		Data    []json.RawMessage `json:"data"`
		PageTag struct {
			Page      int64 `json:"page"`
			Limit     int64 `json:"limit"`
			Total     int64 `json:"total"`
			TotalPage int64 `json:"total_page"`
		} `json:"pagetag"`
	} `json:"data"`
	RequestID string `json:"request_id"`
}

func (p sourcePage) rows() []string {
	rows := []string{}
	for _, row := range p.Data.Data {
		rows = append(rows, string(row))
	}
	return rows
}

func writeSource(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func openTestSource(t testing.TB, name, content string) *Source {
	t.Helper()
	s, err := Open(writeSource(t, name, content), Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func ask(t testing.TB, h http.Handler, method, target, body string) (int, sourcePage) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	var page sourcePage
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page), "%s", w.Body)
	require.Equal(t, "application/json; charset=utf-8", w.Header().Get("Content-Type"))
	_, err := uuid.Parse(page.RequestID)
	require.NoError(t, err)
	if n := w.Header().Get("Content-Length"); n != "" {
		require.Equal(t, fmt.Sprint(w.Body.Len()), n)
	}
	return w.Code, page
}

func TestSourcePageIsTheStandardFormat(t *testing.T) {
	t.Parallel()
	s := openTestSource(t, "a.json", `[{"ID":0,"Name":"Demo"},{"ID":1,"Name":"Demo"},{"ID":2,"Name":"李雷"}]`)
	srv := httptest.NewServer(s)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + "/demo/page?page=2&limit=2")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var page sourcePage
	require.NoError(t, json.Unmarshal(body, &page))
	require.Equal(t, `{"errcode":0,"msg":"","data":{"data":[{"ID":"ID","Name":"Name"},{"ID":2,"Name":"李雷"}],`+
		`"pagetag":{"page":2,"limit":2,"total":3,"total_page":2}},"request_id":"`+page.RequestID+
		"\"}\n", string(body))
}

func TestSourcePages(t *testing.T) {
	t.Parallel()
	s := openTestSource(t, "a.json", `[{"a":1},{"a":2},{"a":3},{"a":4},{"a":5}]`)
	header := `{"a":"a"}`
	for _, c := range []struct {
		name, method, target, body string
		page, limit, pages         int64
		rows                       []string
	}{
		{"defaults", "GET", "/", "", 1, 50, 1,
			[]string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`, `{"a":5}`}},
		{"empty values are absent", "GET", "/?page=&limit=", "", 1, 50, 1,
			[]string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`, `{"a":5}`}},
		{"any path", "GET", "/x/y?page=1&limit=2", "", 1, 2, 3, []string{`{"a":1}`, `{"a":2}`}},
		{"last, partial page", "GET", "/?page=3&limit=2", "", 3, 2, 3, []string{`{"a":5}`}},
		{"beyond the end", "GET", "/?page=4&limit=2", "", 4, 2, 3, nil},
		{"far beyond the end", "GET", "/?page=9223372036854775807&limit=2", "",
			9223372036854775807, 2, 3, nil},
		{"limit equals the rows", "GET", "/?limit=5", "", 1, 5, 1,
			[]string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`, `{"a":5}`}},
		{"limit is capped", "GET", "/?limit=1e%2B06", "", 1, 10_000, 1,
			[]string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`, `{"a":5}`}},
		{"JSON body, numbers", "POST", "/", `{"page":2,"limit":4,"other":[]}`, 2, 4, 2, []string{`{"a":5}`}},
		{"JSON body, strings", "POST", "/", `{"page":"2","limit":"4"}`, 2, 4, 2, []string{`{"a":5}`}},
		{"JSON body, null is absent", "POST", "/?limit=7", `{"page":null}`, 1, 7, 1,
			[]string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`, `{"a":5}`}},
		{"body goes before query", "POST", "/?page=1&limit=1", `{"page":5}`, 5, 1, 5, []string{`{"a":5}`}},
		{"POST without a body", "POST", "/?page=5&limit=1", "", 5, 1, 5, []string{`{"a":5}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, page := ask(t, s, c.method, c.target, c.body)
			require.Equal(t, http.StatusOK, status, page.Msg)
			require.Zero(t, page.Errcode)
			require.Equal(t, append([]string{header}, c.rows...), page.rows())
			tag := page.Data.PageTag
			require.Equal(t, []int64{c.page, c.limit, 5, c.pages},
				[]int64{tag.Page, tag.Limit, tag.Total, tag.TotalPage})
		})
	}
}

func TestSourceRefusesBadRequests(t *testing.T) {
	t.Parallel()
	s := openTestSource(t, "a.json", `[{"a":1}]`)
	for _, c := range []struct{ method, target, body, msg string }{
		{"GET", "/?page=0", "", "page: "},
		{"GET", "/?page=-1", "", "page: "},
		{"GET", "/?page=1.5", "", "page: "},
		{"GET", "/?page=1e99", "", "page: "},
		{"GET", "/?page=NaN", "", "page: "},
		{"GET", "/?page=x", "", "page: "},
		{"GET", "/?limit=0", "", "limit: "},
		{"GET", "/?limit=99999999999999999999", "", "limit: "},
		{"POST", "/", `{"page":true}`, "page: "},
		{"POST", "/", `{"limit":[5]}`, "limit: "},
		{"POST", "/", `{"limit":{}}`, "limit: "},
		{"POST", "/", `[1]`, "body: "},
		{"POST", "/", `{"page":`, "body: "},
		{"POST", "/", strings.Repeat(" ", maxBody+1), "body: "},
	} {
		status, page := ask(t, s, c.method, c.target, c.body)
		require.Equal(t, http.StatusBadRequest, status, "%s %s", c.target, c.body)
		require.Equal(t, http.StatusBadRequest, page.Errcode)
		require.Contains(t, page.Msg, c.msg)
		require.Nil(t, page.Data)
	}
	status, page := ask(t, s, "DELETE", "/", "")
	require.Equal(t, http.StatusMethodNotAllowed, status)
	require.Contains(t, page.Msg, "DELETE")
}

func TestSourceReadsEachFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, content string
		columns             []string
		rows                []string
	}{
		{"numbers keep every digit", "a.json", `[{"n":12345678901234567890.10,"e":1E400}]`,
			[]string{"n", "e"}, []string{`{"n":12345678901234567890.10,"e":1E400}`}},
		{"rows keep their bytes", "a.json",
			"\t[ {\n \"a\" : \"\\u0041\\/\" ,\"b\":{\"c\":[1,{}]} } ,\r\n{} ]\n",
			[]string{"a", "b"}, []string{"{\n \"a\" : \"\\u0041\\/\" ,\"b\":{\"c\":[1,{}]} }", "{}"}},
		{"columns of all rows, first appearance first", "a.json", `[{"b":1},{"a":1,"b":2},{"c":{"d":1}}]`,
			[]string{"b", "a", "c"}, []string{`{"b":1}`, `{"a":1,"b":2}`, `{"c":{"d":1}}`}},
		{"one name in two spellings is one column", "a.json", `[{"\u0061":1},{"a":2},{"\u0061":3}]`,
			[]string{"a"}, []string{`{"\u0061":1}`, `{"a":2}`, `{"\u0061":3}`}},
		{"names that need escapes", "a.json", `[{"\"\n":1,"":2}]`, []string{"\"\n", ""},
			[]string{`{"\"\n":1,"":2}`}},
		{"byte order mark", "a.json", "\xef\xbb\xbf[{\"a\":1}]", []string{"a"}, []string{`{"a":1}`}},
		{"NDJSON", "a.ndjson", "{\"a\":1}\n\n{\"b\":2}\r\n", []string{"a", "b"},
			[]string{`{"a":1}`, `{"b":2}`}},
		{"NDJSON, no newline at the end", "a.jsonl", `{"a":1}`, []string{"a"}, []string{`{"a":1}`}},
		{"objects in a .json file", "a.json", "{\"a\":1}\n{\"a\":2}", []string{"a"},
			[]string{`{"a":1}`, `{"a":2}`}},
		{"array in an .ndjson file", "a.ndjson", `[{"a":1}]`, []string{"a"}, []string{`{"a":1}`}},
		{"any other extension", "a.txt", `[{"a":1}]`, []string{"a"}, []string{`{"a":1}`}},
		{"CSV", "a.csv", "id,name\r\n007,\"a \"\"b\"\"\r\nc\"\r\n1e5,\n", []string{"id", "name"},
			[]string{`{"id":"007","name":"a \"b\"\nc"}`, `{"id":"1e5","name":""}`}},
		{"CSV, byte order mark, extension in capitals", "A.CSV", "\xef\xbb\xbf编号\n1", []string{"编号"},
			[]string{`{"编号":1}`}},
		{"CSV, short records and blank lines", "a.csv", "a,b,c\n\n1\n\n1,2\n1,2,3\n", []string{"a", "b", "c"},
			[]string{`{"a":1}`, `{"a":1,"b":2}`, `{"a":1,"b":2,"c":3}`}},
		{"CSV, names made unique", "a.csv", "a,,a,a_2,a,\n1,2,3,4,5,6\n",
			[]string{"a", "column_2", "a_3", "a_2", "a_4", "column_6"},
			[]string{`{"a":1,"column_2":2,"a_3":3,"a_2":4,"a_4":5,"column_6":6}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openTestSource(t, c.file, c.content)
			require.Equal(t, c.columns, s.Columns())
			require.Equal(t, len(c.rows), s.Rows())
			_, page := ask(t, s, "GET", "/", "")
			require.Equal(t, c.rows, page.rows()[1:])
			var header map[string]string
			require.NoError(t, json.Unmarshal(page.Data.Data[0], &header))
			require.Len(t, header, len(c.columns))
			for _, column := range c.columns {
				require.Equal(t, column, header[column])
			}
			for i, row := range c.rows { // each row alone, as from the middle of the file
				_, page := ask(t, s, "GET", fmt.Sprintf("/?limit=1&page=%d", i+1), "")
				require.Equal(t, row, page.rows()[1])
			}
		})
	}
}

func TestSourceWithoutRows(t *testing.T) {
	t.Parallel()
	s := openTestSource(t, "a.json", " [ ] ")
	_, page := ask(t, s, "GET", "/", "")
	require.Empty(t, page.rows())
	require.Zero(t, page.Data.PageTag.Total)
	require.Zero(t, page.Data.PageTag.TotalPage)

	s = openTestSource(t, "a.csv", "a,b\n")
	_, page = ask(t, s, "GET", "/", "")
	require.Equal(t, []string{`{"a":"a","b":"b"}`}, page.rows())
	require.Zero(t, page.Data.PageTag.TotalPage)
}

func TestSourceRefusesBadFiles(t *testing.T) {
	t.Parallel()
	wide := strings.Builder{}
	for i := range maxColumns + 1 {
		fmt.Fprintf(&wide, ",c%d", i)
	}
	for _, c := range []struct{ name, file, content, msg string }{
		{"empty", "a.json", "", "the file is empty"},
		{"blank", "a.json", " \n", "the file is empty"},
		{"long blank", "a.json", strings.Repeat(" ", 9999), "the file is empty"},
		{"empty CSV", "a.csv", "", "the file is empty"},
		{"one object", "a.json", `{"data":[{"a":1}]}`, "one JSON object, want an array"},
		{"a number", "a.json", "17", "does not begin with [ or {"},
		{"a workbook", "a.xlsx", "PK\x03\x04", "does not begin with [ or {"},
		{"gzip", "a.json", "\x1f\x8b\x08", "unpack it first"},
		{"UTF-16, cut off", "a.csv", "\xff\xfea\x00b", "the file is UTF-16 and cut off"},
		{"row is an array", "a.json", `[{"a":1},[2]]`, "row 2 is an array, want an object"},
		{"row is a number", "a.json", `[1]`, "row 1 is a number, want an object"},
		{"row is a string", "a.ndjson", "{}\n\"x\"", "row 2 is a string, want an object"},
		{"row is null", "a.json", `[{},{},null]`, "row 3 is null, want an object"},
		{"row is a boolean", "a.json", `[true]`, "row 1 is a boolean, want an object"},
		{"cut off in a row", "a.json", `[{"a":1},{"a":`, "row 2 is cut off: the file ends at byte 14"},
		{"cut off in a string", "a.json", `[{"a":"x`, "row 1 is cut off"},
		{"cut off between rows", "a.json", `[{"a":1},`, "row 2 is cut off"},
		{"cut off before the end of the array", "a.json", `[{"a":1}`, "row 2 is cut off"},
		{"cut off NDJSON", "a.ndjson", "{\"a\":1}\n{\"a\"", "row 2 is cut off"},
		{"more after the array", "a.json", `[{"a":1}] [`, "more data after the end of the array (byte 9)"},
		{"missing comma", "a.json", `[{"a":1}{"a":2}]`, "row 2: "},
		{"not JSON inside", "a.json", `[{"a":1},{"a":NaN}]`, "row 2: "},
		{"invalid UTF-8", "a.json", "[{\"a\":\"\xff\"}]",
			"row 1 is not UTF-8 (--encoding sets another encoding) (byte 7)"},
		{"invalid UTF-8 in CSV", "a.csv", "a\nx\n\xff\n", "line 3 is not GB18030, and the file is not UTF-8"},
		{"invalid UTF-8 in a CSV header", "a.csv", "\xff\n",
			"line 1 is not GB18030, and the file is not UTF-8"},
		{"CSV record too long", "a.csv", "a,b\n1,2\n\"3\n\",4,5\n", "line 3 has 3 fields, the header has 2"},
		{"CSV quote not closed", "a.csv", "a,b\n\"1,2\n", "line 2: a quote is not closed"},
		{"CSV, too many columns", "a.csv", wide.String(), "more than 16384"},
		{"too deep", "a.json", "[{\"a\":" + strings.Repeat("[", 20_000), "row 1: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(writeSource(t, c.file, c.content), Options{})
			require.ErrorContains(t, err, c.msg)
			require.ErrorContains(t, err, c.file)
		})
	}
	_, err := Open(t.TempDir(), Options{})
	require.ErrorContains(t, err, "not a regular file")
	_, err = Open(filepath.Join(t.TempDir(), "absent.json"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSourceBoundsColumns(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range maxColumns + 1 {
		fmt.Fprintf(&b, "{\"c%d\":1}\n", i)
	}
	_, err := Open(writeSource(t, "a.ndjson", b.String()), Options{})
	require.ErrorContains(t, err, "row 16385: more than 16384 columns")
}

func TestSourceRefusesAChangedFile(t *testing.T) {
	t.Parallel()
	path := writeSource(t, "a.json", `[{"a":1}]`)
	s, err := Open(path, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	status, page := ask(t, s, "GET", "/", "")
	require.Equal(t, http.StatusInternalServerError, status)
	require.Contains(t, page.Msg, "has changed since")
}

func TestSourceCutOffIsNoticedByTheCaller(t *testing.T) {
	t.Parallel()
	path := writeSource(t, "a.json", `[{"a":1},{"a":2}]`)
	s, err := Open(path, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, os.Truncate(path, 5))
	// As if the file had been truncated after the check.
	s.opened, err = s.file.Stat()
	require.NoError(t, err)
	srv := httptest.NewServer(s)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// For any page size, all pages together hold all rows of the file.
func TestSourcePagesAddUp(t *testing.T) {
	t.Parallel()
	var want []string
	for i := range 257 {
		want = append(want, fmt.Sprintf(`{"i":%d,"s":%q}`, i, strings.Repeat("x", i)))
	}
	sources := []*Source{
		openTestSource(t, "a.json", "["+strings.Join(want, " ,\n")+"]"),
		openTestSource(t, "a.ndjson", strings.Join(want, "\n")),
		openTestSource(t, "a.csv",
			"i,s\n"+strings.NewReplacer(`{"i":`, "", `"s":`, "", "}", "").Replace(strings.Join(want, "\n"))),
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := sources[rapid.IntRange(0, 2).Draw(rt, "source")]
		limit := rapid.IntRange(1, 300).Draw(rt, "limit")
		var got []string
		for page, pages := int64(1), int64(1); page <= pages; page++ {
			_, p := ask(t, s, "GET", fmt.Sprintf("/?page=%d&limit=%d", page, limit), "")
			pages = p.Data.PageTag.TotalPage
			got = append(got, p.rows()[1:]...)
		}
		require.Equal(rt, want, got)
	})
}

// Every file that Open accepts is served completely and as valid JSON.
func FuzzSource(f *testing.F) {
	for _, content := range []string{
		"", "[]", `[{"a":1},{"b":[2,{"c":null}]}]`, "{\"a\":1}\n{\"\\u0061\":2}", "\xef\xbb\xbf[{}]",
		`[{"a":`, `[1]`, "[{}]x",
		"a,b\n1,2\n", "a,a,\n\"1\n\",2\n", "\xef\xbb\xbfa\r\n\r\n1", "\"a", ",\n,\n,,",
		"sep=;\na;b\r007;-.5\r\r\n1;2\x1a", "a\n\n1\n\n", "a\tb\n+1\t1e-05\n\t",
		"\xff\xfea\x00\n\x001\x00\x00\xd8", "\xfe\xff\x00[\x00]",
		"\xb1\xe0\xba\xc5,\xd0\xd5\xc3\xfb\n1,\xc0\xee\xc0\xd7\n", "编号\xff,b\n", `[{"\ud800":"\udc00"}]`,
		"a|b\n\"x\ry\"|z\r",
	} {
		f.Add(content, true)
		f.Add(content, false)
	}
	path := filepath.Join(f.TempDir(), "fuzz")
	f.Fuzz(func(t *testing.T, content string, csv bool) {
		path := path + ".json"
		if csv {
			path += ".csv"
		}
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		s, err := Open(path, Options{})
		if err != nil {
			return
		}
		defer func() { require.NoError(t, s.Close()) }()
		columns, served := s.Columns(), 0
		for page := 1; page <= (s.Rows()+2)/3; page++ {
			status, p := ask(t, s, "GET", fmt.Sprintf("/?limit=3&page=%d", page), "")
			require.Equal(t, http.StatusOK, status)
			for i, row := range p.Data.Data {
				var fields map[string]json.RawMessage
				require.NoError(t, json.Unmarshal(row, &fields))
				for name := range fields {
					require.True(t, slices.Contains(columns, name), "%q", name)
				}
				if i == 0 {
					require.Len(t, fields, len(columns))
				}
			}
			served += len(p.Data.Data) - 1
		}
		require.Equal(t, s.Rows(), served)
	})
}

// 171,000 rows of 8 columns, about 28 MB.
func BenchmarkOpenSource(b *testing.B) {
	var content strings.Builder
	content.WriteString("[")
	for i := range 171_000 {
		if i > 0 {
			content.WriteString(",\n")
		}
		fmt.Fprintf(&content, `{"id":%d,"order":"ORD-%012d","name":"Customer %d","city":"上海","amount":%d.%02d,"paid":%t,"note":null,"at":"2026-11-22T21:48:%02dZ"}`,
			i, i, i, i*7, i%100, i%2 == 0, i%60)
	}
	content.WriteString("]")
	path := writeSource(b, "a.json", content.String())
	b.SetBytes(int64(content.Len()))
	b.ReportAllocs()
	for b.Loop() {
		s, err := Open(path, Options{})
		require.NoError(b, err)
		require.Equal(b, 171_000, s.Rows())
		require.NoError(b, s.Close())
	}
}

func BenchmarkSourcePage(b *testing.B) {
	rows := strings.Repeat(`{"id":1,"order":"ORD-000000000001","name":"Customer 1","amount":7.01},`+"\n",
		10_000)
	s := openTestSource(b, "a.json", "["+rows[:len(rows)-2]+"]")
	b.SetBytes(int64(len(rows)))
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/?limit=10000", nil))
		require.Equal(b, http.StatusOK, w.Code)
	}
}
