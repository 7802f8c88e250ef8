package filesource

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/encoding/unicode"
)

// csvRows opens a CSV file and returns the rows of its pages. They are the same on one page and on single-row
// pages.
func csvRows(t testing.TB, name, content string, opts Options) (*Source, []string) {
	t.Helper()
	s, err := Open(writeSource(t, name, content), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	_, page := ask(t, s, "GET", "/?limit=1000", "")
	rows := page.rows()[1:]
	require.Equal(t, s.Rows(), len(rows))
	for i, row := range rows {
		_, page := ask(t, s, "GET", fmt.Sprintf("/?limit=1&page=%d", i+1), "")
		require.Equal(t, row, page.rows()[1])
	}
	return s, rows
}

// A column holds numbers, or it is text as a whole if one of its values is a code. A mixed column would
// change values or leave some out of sums.
func TestCSVColumnsOfNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, content string
		opts           Options
		rows           []string
		dialect        string
	}{
		{"numbers beside texts", "a\n1\nNaN\n-2.50\n\"3\"\n\" 4\"\nn/a\n5.\n", Options{},
			[]string{`{"a":1}`, `{"a":"NaN"}`, `{"a":-2.50}`, `{"a":3}`, `{"a":4}`, `{"a":"n/a"}`,
				`{"a":"5."}`}, `delimiter ","; numbers in: a`},
		{"a leading zero after a number", "zip,n\n98765,1\n01234,2\n5,3\n", Options{},
			[]string{`{"zip":"98765","n":1}`, `{"zip":"01234","n":2}`, `{"zip":"5","n":3}`},
			`delimiter ","; numbers in: n; text, because of values such as 007, +1, 1e5 or more than 15 digits: zip`},
		{"a leading zero before a number", "zip\n01234\n98765\n", Options{},
			[]string{`{"zip":"01234"}`, `{"zip":"98765"}`},
			`delimiter ","; text, because of values such as 007, +1, 1e5 or more than 15 digits: zip`},
		{"phones, ids, parts", "p,i,k\n13812345678,1,12\n+8613812345678,1234567890123456,12E45\n", Options{},
			[]string{`{"p":"13812345678","i":"1","k":"12"}`,
				`{"p":"+8613812345678","i":"1234567890123456","k":"12E45"}`},
			`delimiter ","; text, because of values such as 007, +1, 1e5 or more than 15 digits: p, i, k`},
		{"white space stays in texts", "a\n 1 \n x \n", Options{}, []string{`{"a":1}`, `{"a":" x "}`},
			`delimiter ","; numbers in: a`},
		{"no number", "a\nx\n", Options{}, []string{`{"a":"x"}`}, `delimiter ","`},
		{"--text", "a,b\n1,2\n", Options{AllText: true}, []string{`{"a":"1","b":"2"}`}, `delimiter ","`},
		{"--text of columns", "a,b,b\n1, 2,3\n", Options{Text: []string{"b", "b_2"}},
			[]string{`{"a":1,"b":" 2","b_2":"3"}`}, `delimiter ","; numbers in: a`},
	} {
		s, rows := csvRows(t, "a.csv", c.content, c.opts)
		require.Equal(t, c.rows, rows, c.claim)
		require.Equal(t, c.dialect, s.csv.String(), c.claim)
	}
	_, err := Open(writeSource(t, "a.csv", "a,b\n1,2\n"), Options{Text: []string{"c"}})
	require.ErrorContains(t, err, `--text: the file has no column "c"; it has a, b`)
	_, err = Open(writeSource(t, "a.json", `[{"a":1}]`), Options{AllText: true})
	require.ErrorContains(t, err, "--text is for CSV")
}

func TestCSVLines(t *testing.T) {
	t.Parallel()
	ab := []string{`{"a":"x","b":"y"}`, `{"a":"z"}`}
	for _, c := range []struct {
		claim, content string
		rows           []string
	}{
		{"LF", "a,b\nx,y\nz\n", ab},
		{"CR LF", "a,b\r\nx,y\r\nz\r\n", ab},
		{"CR", "a,b\rx,y\rz\r", ab},
		{"CR CR LF", "a,b\r\r\nx,y\r\r\nz\r\r\n", ab},
		{"mixed", "a,b\nx,y\rz\r\n", ab},
		{"no end of the last line", "a,b\rx,y\rz", ab},
		{"empty lines among columns", "\n\r\na,b\n\nx,y\r\r\rz\n\n\n", ab},
		{"quoted line breaks are LF", "a,b\r\n\"1\r\n2\",\"\r\"\r\n", []string{`{"a":"1\n2","b":"\n"}`}},
		{"quoted line breaks in a file of CR", "a\r\"x\ry\"\r", []string{`{"a":"x\ny"}`}},
		{"empty lines of one column", "a\nx\n\ny\n\n\n",
			[]string{`{"a":"x"}`, `{"a":""}`, `{"a":"y"}`, `{"a":""}`, `{"a":""}`}},
		{"empty lines of one column, CR LF", "a\r\n\r\nx\r\n\r\n",
			[]string{`{"a":""}`, `{"a":"x"}`, `{"a":""}`}},
		{"empty lines of one column, CR", "a\rx\r\ry\r", []string{`{"a":"x"}`, `{"a":""}`, `{"a":"y"}`}},
		{"empty lines of one column, CR CR LF", "a\r\r\nx\r\r\n\r\r\n", []string{`{"a":"x"}`, `{"a":""}`}},
		{"empty lines before one column", "\n\na\nx\n", []string{`{"a":"x"}`}},
		{"an empty value in quotes", "a,b\n\"\"\n", []string{`{"a":""}`}},
		{"the mark of DOS", "a\nx\n\x1a", []string{`{"a":"x"}`}},
		{"marks of DOS", "a\nx\x1a\x1a\x1a", []string{`{"a":"x"}`}},
		{"a mark of DOS and line ends", "a\nx\n\n\x1a\r\n\x1a\n", []string{`{"a":"x"}`, `{"a":""}`}},
		{"line ends without a mark of DOS", "a\nx\n\n", []string{`{"a":"x"}`, `{"a":""}`}},
		{"a mark of DOS within", "a\nx\x1ay\n", []string{`{"a":"x\u001ay"}`}},
		{"a NUL", "a,b\n" + strings.Repeat("x,y\n", 200) + "\x00,\n",
			append(repeat(`{"a":"x","b":"y"}`, 200), `{"a":"\u0000","b":""}`)},
		{"doubled quotes", "a,b\n\"\"\"x\"\"\",\"\"\"\"\n", []string{`{"a":"\"x\"","b":"\""}`}},
		{"a quote within a value", "a,b\n27\" screen,5'11\"\n", []string{`{"a":"27\" screen","b":"5'11\""}`}},
		{"empty fields beyond the header", "a,b\nx,y,,\n", []string{`{"a":"x","b":"y"}`}},
		{"only empty fields", "a,b\n,\n,,\n", []string{`{"a":"","b":""}`, `{"a":"","b":""}`}},
		{"a header without a line end", "a,b", []string{}},
	} {
		_, rows := csvRows(t, "a.csv", c.content, Options{})
		require.Equal(t, c.rows, rows, c.claim)
	}
}

func repeat(row string, n int) (rows []string) {
	for range n {
		rows = append(rows, row)
	}
	return rows
}

func TestCSVDelimiters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, file, content string
		given                string
		delimiter            byte
		columns              []string
		rows                 []string
	}{
		{"semicolons, decimal commas", "a.csv", "a;b\n1,5;x\n2,5;y\n", "", ';', []string{"a", "b"},
			[]string{`{"a":"1,5","b":"x"}`, `{"a":"2,5","b":"y"}`}},
		{"tabs", "a.csv", "a\tb\nx, y\tz\n", "", '\t', []string{"a", "b"}, []string{`{"a":"x, y","b":"z"}`}},
		{"bars", "a.csv", "a|b\nx|z\n", "", '|', []string{"a", "b"}, []string{`{"a":"x","b":"z"}`}},
		{"sep=", "a.csv", "sep=;\r\na,1;b\r\nx;y\r\n", "", ';', []string{"a,1", "b"},
			[]string{`{"a,1":"x","b":"y"}`}},
		{"sep= after a mark, in quotes and capitals", "a.csv", "\xef\xbb\xbf\"SEP=|\"\na|b\nx|y\n", "", '|',
			[]string{"a", "b"}, []string{`{"a":"x","b":"y"}`}},
		{"sep= tab", "a.csv", "sep=\t\na\tb\nx\ty\n", "", '\t', []string{"a", "b"},
			[]string{`{"a":"x","b":"y"}`}},
		{"sep=, as the only delimiter", "a.csv", "sep=,\na;b\nx;y\n", "", ',', []string{"a;b"},
			[]string{`{"a;b":"x;y"}`}},
		{"a title like sep", "a.csv", "sep=x,b\n1,2\n", "", ',', []string{"sep=x", "b"},
			[]string{`{"sep=x":1,"b":2}`}},
		{"given", "a.csv", "a,b;c\nx,y;z\n", ";", ';', []string{"a,b", "c"},
			[]string{`{"a,b":"x,y","c":"z"}`}},
		{"given, and sep=", "a.csv", "sep=;\na,b;c\nx,y;z\n", ",", ',', []string{"a", "b;c"},
			[]string{`{"a":"x","b;c":"y;z"}`}},
		{"given, another ending", "a.txt", "a^b\nx^y\n", "^", '^', []string{"a", "b"},
			[]string{`{"a":"x","b":"y"}`}},
		{".tsv", "a.tsv", "a,b\tc\nx,y\tz\n", "", '\t', []string{"a,b", "c"},
			[]string{`{"a,b":"x,y","c":"z"}`}},
		{".tsv with commas alone", "a.tsv", "a,b\nx,y\n", "", '\t', []string{"a,b"},
			[]string{`{"a,b":"x,y"}`}},
		{"more commas in the titles", "a.csv", "id;name, first, last\n1;Li\n2;Han\n", "", ';',
			[]string{"id", "name, first, last"},
			[]string{`{"id":1,"name, first, last":"Li"}`, `{"id":2,"name, first, last":"Han"}`}},
		{"other delimiters in quotes", "a.csv", "\"a;1;2\",\"b\tx\"\n\"x;y;z\",1\n", "", ',',
			[]string{"a;1;2", "b\tx"}, []string{`{"a;1;2":"x;y;z","b\tx":1}`}},
		{"short records", "a.csv", "a,b,c\nx\ny,z\n", "", ',', []string{"a", "b", "c"},
			[]string{`{"a":"x"}`, `{"a":"y","b":"z"}`}},
		{"a header alone", "a.csv", "a;b;c\n", "", ';', []string{"a", "b", "c"}, []string{}},
		{"one column", "a.csv", "a\nx;y\nz|1\n", "", ',', []string{"a"},
			[]string{`{"a":"x;y"}`, `{"a":"z|1"}`}},
		{"one column, semicolons given", "a.csv", "a\n1,5\n2\n", ";", ';', []string{"a"},
			[]string{`{"a":"1,5"}`, `{"a":2}`}},
	} {
		s, rows := csvRows(t, c.file, c.content, Options{Delimiter: c.given})
		require.Equal(t, string(c.delimiter), string(s.csv.delimiter), c.claim)
		require.Equal(t, c.columns, s.Columns(), c.claim)
		require.Equal(t, c.rows, rows, c.claim)
	}
}

func TestSourceEncodings(t *testing.T) {
	t.Parallel()
	encode := func(e encoding.Encoding, text string) string {
		b, err := e.NewEncoder().String(text)
		require.NoError(t, err)
		return b
	}
	utf16 := func(order unicode.Endianness, bom unicode.BOMPolicy) encoding.Encoding {
		return unicode.UTF16(order, bom)
	}
	const text = "编号;名称\r\n1;李雷，“甲”\r\n2;\"韩\n梅梅\"\r\n"
	want := []string{`{"编号":1,"名称":"李雷，“甲”"}`, `{"编号":2,"名称":"韩\n梅梅"}`}
	for _, c := range []struct{ claim, file, content, given, found string }{
		{"UTF-8", "a.csv", text, "", "utf-8"},
		{"UTF-8 with a mark", "a.csv", "\xef\xbb\xbf" + text, "", "utf-8"},
		{"UTF-8 with a mark, another given", "a.csv", "\xef\xbb\xbf" + text, "gbk", "utf-8"},
		{"GBK", "a.csv", encode(simplifiedchinese.GBK, text), "", "gb18030"},
		{"GBK, given", "a.csv", encode(simplifiedchinese.GBK, text), "GBK", "gbk"},
		{"GB2312, given", "a.csv", encode(simplifiedchinese.GBK, text), "gb2312", "gbk"},
		{"GB18030", "a.csv", encode(simplifiedchinese.GB18030, text), "", "gb18030"},
		{"UTF-16, little-endian", "a.csv", encode(utf16(unicode.LittleEndian, unicode.UseBOM), text),
			"", "utf-16le"},
		{"UTF-16, big-endian", "a.csv", encode(utf16(unicode.BigEndian, unicode.UseBOM), text),
			"", "utf-16be"},
		{"UTF-16 without a mark, given", "a.csv", encode(utf16(unicode.BigEndian, unicode.IgnoreBOM), text),
			"utf-16be", "utf-16be"},
		{"a mark wins", "a.csv", encode(utf16(unicode.BigEndian, unicode.UseBOM), text),
			"utf-16le", "utf-16be"},
		{"UTF-16 and the mark of DOS", "a.csv",
			encode(utf16(unicode.LittleEndian, unicode.UseBOM), text+"\x1a"), "", "utf-16le"},
		{"JSON in UTF-16", "a.json",
			encode(utf16(unicode.LittleEndian, unicode.UseBOM), "["+strings.Join(want, ",")+"]"),
			"", "utf-16le"},
		{"NDJSON in GBK, given", "a.ndjson",
			encode(simplifiedchinese.GBK, strings.Join(want, "\n")), "gbk", "gbk"},
	} {
		s, rows := csvRows(t, c.file, c.content, Options{Encoding: c.given})
		require.Equal(t, want, rows, c.claim)
		require.Equal(t, c.found, s.encoding, c.claim)
		require.NoError(t, s.Close(), c.claim)
	}
	for _, c := range []struct{ claim, content, given, row string }{
		{"GB18030 beyond GBK", encode(simplifiedchinese.GB18030, "a\n😀 ɐ 编号\n"), "", `{"a":"😀 ɐ 编号"}`},
		{"the euro of GBK", "a\n\x80 \xb1\xe0\xba\xc5\n", "", `{"a":"€ 编号"}`},
		{"Big5", encode(traditionalchinese.Big5, "a\n編號\n"), "big5", `{"a":"編號"}`},
		{"Windows-1252", encode(charmap.Windows1252, "a\nMüller € 5\n"), "windows-1252",
			`{"a":"Müller € 5"}`},
		{"Latin-1", encode(charmap.ISO8859_1, "a\nMüller\n"), "latin1", `{"a":"Müller"}`},
		{"half a surrogate pair in UTF-16", "\xff\xfea\x00\n\x00x\x00\x00\xd8y\x00", "",
			`{"a":"x` + "\ufffd" + `y"}`},
		{"U+FFFD in UTF-8", "a\n\ufffd\n", "", `{"a":"` + "\ufffd" + `"}`},
	} {
		_, rows := csvRows(t, "a.csv", c.content, Options{Encoding: c.given})
		require.Equal(t, []string{c.row}, rows, c.claim)
	}
	for _, c := range []struct{ claim, file, content, given, msg string }{
		{"UTF-8 with a bad byte is no GB18030", "a.csv", "编号,名称\n1,李雷\n2,韩\xe6梅\n", "",
			"line 3 is not UTF-8 (--encoding"},
		{"UTF-8 cut off", "a.csv", "编号,名称\n1,李\xe9\x9b", "", "line 2 is not UTF-8"},
		{"a bad byte after a mark", "a.csv", "\xef\xbb\xbfa\n\xb1\xe0\xba\xc5\n", "", "line 2 is not UTF-8"},
		{"neither", "a.csv", "a\nb\n\xb1\xe0\xba\n", "", "line 3 is not GB18030, and the file is not UTF-8"},
		{"not as given", "a.csv", "a\n\"x\n\xff\"\n", "gbk", "line 2 is not gbk (--encoding"},
		{"UTF-8 given", "a.csv", "a\n\xb1\xe0\n", "utf-8", "line 2 is not UTF-8"},
		{"JSON in GBK", "a.json", "[{\"a\":\"\xb1\xe0\"}]", "",
			"row 1 is not UTF-8 (--encoding sets another encoding) (byte 7)"},
		{"UTF-16 without a mark", "a.csv", "a\x00\n\x00", "", "give --encoding utf-16le or utf-16be"},
		{"half a character", "a.csv", "\xff\xfea\x00b", "", "the file is UTF-16 and cut off"},
		{"unknown", "a.csv", "a\n", "klingon", `--encoding "klingon" is not known; known are utf-8, gbk`},
		{"a workbook", "a.csv", "PK\x03\x04\x14", "", "the file is a workbook or a zip"},
	} {
		_, err := Open(writeSource(t, c.file, c.content), Options{Encoding: c.given})
		require.ErrorContains(t, err, c.msg, c.claim)
	}
}

func TestCSVRefusesAmbiguousFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ claim, content, msg string }{
		{"text after a closing quote", "a,b\nx,y\n\"x\"y,z\n", "line 3: text follows a closing quote"},
		{"white space after a closing quote", "a,b\n\"x\" ,z\n", "line 2: text follows a closing quote"},
		{"white space before a quote", "a,b,c\n1, \"Li, Lei\"\n",
			"line 2: there is white space before a quote"},
		{"an open quote", "a,b\nx,y\n\"x,y\nz,1\n", "line 3: a quote is not closed"},
		{"a value without a title", "a,b\nx,y\n1,2,3\n",
			"line 3 has 3 fields, the header has 2 (the delimiter is \",\"; --delimiter sets another)"},
		{"lines are counted in CR", "a,b\r\"x\ry\",\rx,y,z\r", "line 4 has 3 fields"},
		{"lines are counted after sep=", "sep=;\na;b\n1;2;3\n",
			"line 3 has 3 fields, the header has 2 (the delimiter is \";\""},
		{"decimal commas in one column", "a\n1,5\n", "line 2 has 2 fields, the header has 1"},
		{"a line of marks", "\x1a\x1a", "the file is empty"},
		{"empty lines", "\n\r\n\r", "the file is empty"},
		{"sep= alone", "sep=;\n", "the file is empty"},
	} {
		_, err := Open(writeSource(t, "a.csv", c.content), Options{})
		require.ErrorContains(t, err, c.msg, c.claim)
	}
}

func TestCSVRecordsHaveABound(t *testing.T) {
	t.Parallel()
	for _, content := range []string{strings.Repeat("x", 1<<20+1), "\"" + strings.Repeat("x\n", 1<<19),
		strings.Repeat(",", 1<<20+1)} {
		s := newCSVScanner(strings.NewReader("a\n"+content), ',')
		require.EqualValues(t, maxCSVRecord, s.maxRecord)
		s.maxRecord = 1 << 20
		require.NoError(t, s.next())
		require.ErrorContains(t, s.next(), "line 2 has more than 1 MiB; is a quote missing?")
	}
}

// The UTF-8 copy has no name while it is served, and is gone afterwards.
func TestSourceLeavesNoCopy(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	path := writeSource(t, "a.csv", "\xb1\xe0\xba\xc5\n1\n")
	s, err := Open(path, Options{})
	require.NoError(t, err)
	require.NotSame(t, s.file, s.data)
	require.NoError(t, s.Close())
	_, err = Open(writeSource(t, "a.csv", "\xb1\xe0\xba\n\xff"), Options{})
	require.Error(t, err)
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, entry := range left {
		require.NotContains(t, entry.Name(), "sheaf-source")
	}
}

// The scanner reads all that encoding/csv reads, with the same result, plus the empty lines.
func FuzzCSVScanner(f *testing.F) {
	for _, content := range []string{"a,b\n1,\"2\n\"\"\"\n\n3\n", "a\r\n\r\n\"\"\r\n", ",,\n\"\",\n",
		"\"a\"b", "x\"y\n", "a\n\"b", "\n\n"} {
		f.Add([]byte(content), byte(','))
		f.Add([]byte(strings.ReplaceAll(content, ",", ";")), byte(';'))
	}
	f.Fuzz(func(t *testing.T, content []byte, delimiter byte) {
		if !isDelimiter(delimiter) {
			return
		}
		s := newCSVScanner(bytes.NewReader(content), delimiter)
		var got [][]string
		var err error
		for {
			if err = s.next(); err != nil {
				break
			}
			require.LessOrEqual(t, s.recordStart, s.offset)
			if s.blank {
				require.Equal(t, 1, s.fields())
				require.Empty(t, s.field(0))
				continue
			}
			var record []string
			for i := range s.fields() {
				record = append(record, string(s.field(i)))
			}
			got = append(got, record)
		}
		if errors.Is(err, io.EOF) {
			require.EqualValues(t, len(content), s.offset)
		}
		if bytes.Contains(bytes.ReplaceAll(content, []byte("\r\n"), nil), []byte("\r")) {
			return // encoding/csv does not support CR
		}
		theirs := csv.NewReader(bytes.NewReader(content))
		theirs.Comma, theirs.FieldsPerRecord = rune(delimiter), -1
		if want, problem := theirs.ReadAll(); problem == nil {
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, want, got)
		}
	})
}

func BenchmarkOpenCSV(b *testing.B) {
	var content strings.Builder
	content.WriteString("id,order,name,amount,note\n")
	for i := range 200_000 {
		fmt.Fprintf(&content, "%d,ORD-%012d,\"Customer, %d\",%d.%02d,上海\n", i, i, i, i*7, i%100)
	}
	path := filepath.Join(b.TempDir(), "a.csv")
	require.NoError(b, os.WriteFile(path, []byte(content.String()), 0o600))
	b.SetBytes(int64(content.Len()))
	for b.Loop() {
		s, err := Open(path, Options{})
		require.NoError(b, err)
		require.Equal(b, 200_000, s.Rows())
		require.NoError(b, s.Close())
	}
}
