package html

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/assembler/encode"
	. "sheaf/services/assembler/encode/encodetest"
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	eventstest.Main(m)
}

func docOf(sheet encode.Sheet) encode.Document {
	return encode.Document{Title: `订单 <"&'>`, Sheets: []encode.Sheet{sheet}, Parallel: 2}
}

// page is what a parser finds.
type page struct {
	titles []string
	rows   [][]string
	links  []string
	footer string
}

// parse reads a page as a browser does. It fails for an element or attribute that a page does not need, such as
// a script or one that loads something.
func parse(t testing.TB, text string) (p page) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(text))
	require.NoError(t, err)
	allowed := " html head meta title style body h1 table thead tbody tr th td a footer "
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			require.NotEqual(t, html.CommentNode, n.Type)
			continue
		}
		require.Contains(t, allowed, " "+n.Data+" ")
		for _, a := range n.Attr {
			require.Contains(t, " charset name content class rel href ", " "+a.Key+" ")
			if a.Key == "rel" {
				require.Contains(t, a.Val, "noopener")
			}
			if a.Key == "href" {
				require.Regexp(t, `^(https?://|mailto:)`, a.Val)
				p.links = append(p.links, a.Val)
			}
		}
		switch n.Data {
		case "style":
			require.NotContains(t, textOf(n), "url(")
			require.NotContains(t, textOf(n), "@import")
		case "th":
			p.titles = append(p.titles, textOf(n))
		case "tr":
			if n.Parent.Data == "tbody" {
				p.rows = append(p.rows, []string{})
			}
		case "td":
			p.rows[len(p.rows)-1] = append(p.rows[len(p.rows)-1], textOf(n))
		case "footer":
			p.footer = textOf(n)
		}
	}
	return p
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	columns := Declared(events.Column{Key: "a", Title: `<script>alert(1)</script>`}, events.Column{Key: "n", Title: "N & 'm'"},
		events.Column{Key: "when", Title: "时间", Type: "datetime"}, events.Column{Key: "url", Title: "URL", Link: events.LinkValue},
		events.Column{Key: "b", Title: "B", Type: "bool"})
	sheet := Sheet(t, columns, Cut([]string{
		`{"a":"</td></table><script>alert(1)</script>","n":1.50,"when":"2026-01-02T03:04:05Z","url":"https://example.com/?a=1&b=\"2'","b":true}`,
		`{"a":"</script><!--","n":12345678901234567890,"when":"no date","url":"javascript:alert(1)","b":0}`,
		`{"a":"&lt;&amp;","n":"text","url":"mailto:a@example.com","b":"maybe"}`,
		`{"a":"\u0000\u001f\u007f\r\n\tx\ud800😀","n":{"<":[">"]},"url":"data:text/html,<script>"}`,
		`{}`,
	}, 2)...)
	got, r := Write(t, Format, docOf(sheet))
	require.Equal(t, []int64{5}, r.Rows)
	p := parse(t, got)
	require.Equal(t, `</td></table><script>alert(1)</script>`, p.rows[0][0])
	require.Equal(t, []string{"https://example.com/?a=1&b=%222'", "mailto:a@example.com"}, p.links)
	require.Equal(t, "5 rows", p.footer)
	for _, w := range r.Warnings {
		got += fmt.Sprintf("%s %d %s %s\n", w.Code, w.Count, w.First, w.Message)
	}
	const file = "testdata/page.html.golden"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// The page has the first 1,000 rows, 100 columns and 500 characters of a cell; all rows are counted.
func TestBounds(t *testing.T) {
	t.Parallel()
	numbered := func(n int) (data []string) {
		for i := range n {
			data = append(data, fmt.Sprintf(`{"a":%d}`, i))
		}
		return data
	}
	for n, footer := range map[int]string{
		0: "0 rows", 1: "1 row", 999: "999 rows", 1000: "1,000 rows", 1001: "The first 1,000 of 1,001 rows",
		123_456: "The first 1,000 of 123,456 rows",
	} {
		text, r := Write(t, Format, docOf(Sheet(t, Names("a"), Cut(numbered(n), 7)...)))
		p := parse(t, text)
		require.Equal(t, []int64{int64(n)}, r.Rows)
		require.Len(t, p.rows, min(n, 1000))
		for i, row := range p.rows {
			require.Equal(t, []string{fmt.Sprint(i)}, row)
		}
		require.Equal(t, footer, p.footer)
	}

	var names []string
	for i := range 16_000 {
		names = append(names, fmt.Sprint("c", i))
	}
	text, _ := Write(t, Format, docOf(Sheet(t, Names(names...), Page(1, `{"c99":1,"c100":2}`))))
	p := parse(t, text)
	require.Len(t, p.titles, 100)
	require.Len(t, p.rows[0], 100)
	require.Equal(t, "1", p.rows[0][99])
	require.Equal(t, "1 row, 100 of 16,000 columns", p.footer)

	long := strings.Repeat("中", 100_000)
	sheet := Sheet(t, []encode.Column{{Name: "a", Title: long}, {Name: "b", Title: "b"}},
		Page(1, fmt.Sprintf(`{"a":%q,"b":{"x":%q}}`, long, long), fmt.Sprintf(`{"a":%q}`, long[:1500])))
	sheet.Title = long
	text, _ = Write(t, Format, docOf(sheet))
	require.Less(t, len(text), 16<<10)
	p = parse(t, text)
	require.Equal(t, []string{long[:1500] + "…", "b"}, p.titles)
	require.Equal(t, long[:1500]+"…", p.rows[0][0])
	require.Equal(t, long[:1500], p.rows[1][0])

	text, _ = Write(t, Format, docOf(Sheet(t, nil, Page(1))))
	require.Equal(t, page{footer: "0 rows"}, parse(t, text))
}

// Any texts are shown as they are. A browser reads CRLF as LF.
func TestTextsAreReadBack(t *testing.T) {
	t.Parallel()
	texts := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"<", "&amp;", "</td>", "<!--", "]]>", "'\"", "\r\n", "&#0;"}))
	rapid.Check(t, func(rt *rapid.T) {
		title, text := texts.Draw(rt, "title"), texts.Draw(rt, "text")
		written, _ := Write(t, Format, docOf(Sheet(t, []encode.Column{{Name: "a", Title: title}}, Page(1, fmt.Sprintf(`{"a":%s}`, quote(text))))))
		p := parse(t, written)
		if p.titles[0] != shownText(title) || p.rows[0][0] != shownText(text) {
			rt.Fatalf("%q, %q became %q, %q", title, text, p.titles[0], p.rows[0][0])
		}
	})
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// shownText is what a browser shows of a text.
func shownText(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, s)
}
