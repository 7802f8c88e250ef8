package crawler

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"github.com/stretchr/testify/require"
)

const (
	headerRow = `{"id":"ID","name":"Name"}`
	otherRow  = `{"id":"Nr","name":"Name"}`
)

// answer is a source's page: a pagetag and rows.
func answer(pagetag string, rowTexts ...string) string {
	return `{"errcode":0,"data":{"data":[` + strings.Join(rowTexts, ",") + `],"pagetag":` + pagetag + `}}`
}

// admit makes a ledger's plan judge an answer.
func admit(t require.TestingT, l *ledger, n int, body string) (pages.Page, *missed) {
	f, err := source.New(http.DefaultClient, source.Request{URL: "http://a/", Limit: 1}, source.Policy{})
	require.NoError(t, err)
	a, err := f.Shape.Parse([]byte(body), nil, source.Position{Page: n})
	if failure := (*source.Failure)(nil); errors.As(err, &failure) {
		failure.Page = n
		return pages.Page{}, &missed{Failure: failure}
	}
	p, m := l.plan.admit(n, a, l.limits)
	p.SHA256 = sha256.Sum256(p.Rows)
	return p, m
}

func row(n int) string { return fmt.Sprintf(`{"id":%d,"name":"n"}`, n) }

// began returns a ledger that has taken a page 1 with two rows of total.
func began(t *testing.T, limit, totalPages, total int) *ledger {
	t.Helper()
	l := newLedger(limit, 1000, 1_000_000, 1<<40)
	p, failure := admit(t, l, 1, answer(fmt.Sprintf(`{"page":1,"limit":%d,"total":%d,"total_page":%d}`, limit, total, totalPages), headerRow, row(1), row(2)))
	require.Nil(t, failure)
	require.Nil(t, l.take(p, nil))
	return l
}

func TestFirstPage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim   string
		pagetag string
		rows    []string
		code    string // of the failure, "" for an admitted page
		pages   int
		total   int64
	}{
		{"its first row is the header", `{"page":1,"limit":2,"total":4,"total_page":2}`, []string{headerRow, row(1), row(2)}, "", 2, 4},
		{"numbers may be strings", `{"page":"1","total":"4","total_page":"2"}`, []string{headerRow, row(1), row(2)}, "", 2, 4},
		{"only the header is an export of no rows", `{"page":1,"total":0,"total_page":0}`, []string{headerRow}, "", 1, 0},
		{"no rows at all with total 0 is an empty export", `{"page":1,"total":0,"total_page":0}`, nil, "", 1, 0},
		{"no rows but a total fails", `{"page":1,"total":9,"total_page":1}`, nil, events.CodeSourceIncomplete, 0, 0},
		{"no rows but more pages fails", `{"page":1,"total_page":3}`, nil, events.CodeSourceIncomplete, 0, 0},
		{"no pagetag fails", `null`, []string{headerRow, row(1)}, events.CodeSourceFormat, 0, 0},
		{"a header without columns fails", `{"page":1,"total":1,"total_page":1}`, []string{`{ }`, row(1)}, events.CodeSourceFormat, 0, 0},
		{"no total and no total_page leave the count unknown", `{"page":1}`, []string{headerRow, row(1)}, "", 0, -1},
		{"total_page is computed from total", `{"page":1,"total":5}`, []string{headerRow, row(1), row(2)}, "", 3, 5},
		{"no total is admitted", `{"page":1,"total_page":3}`, []string{headerRow, row(1), row(2)}, "", 3, -1},
		{"another page than asked for fails", `{"page":2,"total":4,"total_page":2}`, []string{headerRow, row(1)}, events.CodeSourceChanged, 0, 0},
		{"too many pages fail at once", `{"page":1,"total_page":1000000000000}`, []string{headerRow, row(1)}, events.CodeLimitPages, 0, 0},
		{"too many rows announced fail at once", `{"page":1,"total":1000000000000}`, []string{headerRow, row(1)}, events.CodeLimitPages, 0, 0},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			p, failure := admit(t, newLedger(2, 1000, 1_000_000, 1<<40), 1, answer(tc.pagetag, tc.rows...))
			if tc.code != "" {
				require.NotNil(t, failure)
				require.Equal(t, tc.code, failure.Code)
				require.NotEmpty(t, failure.Msg)
				return
			}
			require.Nil(t, failure)
			require.Equal(t, tc.pages, p.TotalPages)
			require.Equal(t, tc.total, p.Total)
			require.Equal(t, len(tc.rows) > 0, p.HeaderRow)
		})
	}
}

func TestLaterPages(t *testing.T) {
	t.Parallel()
	tag := `{"page":2,"limit":2,"total":6,"total_page":3}`
	for _, tc := range []struct {
		claim   string
		pagetag string
		rows    []string
		code    string
		header  bool
	}{
		{"the header is dropped", tag, []string{headerRow, row(3), row(4)}, "", true},
		{"in any order of its keys", tag, []string{`{"name":"Name","id":"ID"}`, row(3), row(4)}, "", true},
		{"another first row within limit is data", tag, []string{row(3), row(4)}, "", false},
		{"another first row above limit fails", tag, []string{otherRow, row(3), row(4)}, events.CodeSourceChanged, false},
		{"no rows before the last page are judged with the others", tag, nil, "", false},
		{"so is only the header", tag, []string{headerRow}, "", true},
		{"no rows on what is now the last page are admitted", `{"page":2,"total":2,"total_page":2}`, nil, "", false},
		{"no rows beyond what is now the last page are admitted", `{"page":2,"total":2,"total_page":1}`, nil, "", false},
		{"the page's own number is checked", `{"page":1,"total":6,"total_page":3}`, []string{headerRow, row(1)}, events.CodeSourceChanged, false},
		{"no pagetag fails", `null`, []string{headerRow, row(3)}, events.CodeSourceFormat, false},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			p, failure := admit(t, began(t, 2, 3, 6), 2, answer(tc.pagetag, tc.rows...))
			if tc.code != "" {
				require.NotNil(t, failure)
				require.Equal(t, tc.code, failure.Code)
				require.Equal(t, 2, failure.Page)
				return
			}
			require.Nil(t, failure)
			require.Equal(t, tc.header, p.HeaderRow)
		})
	}
}

// A source written in Go answers null for an empty list. It is an empty page, wherever [] is one.
func TestNullIsAnEmptyPage(t *testing.T) {
	t.Parallel()
	full := func(tag string) string {
		return `{"errcode":0,"data":{"data":[` + headerRow + `,` + row(1) + `,` + row(2) + `],"pagetag":` + tag + `}}`
	}
	other := func(tag string) string {
		return `{"errcode":0,"data":{"data":[` + headerRow + `,` + row(3) + `,` + row(4) + `],"pagetag":` + tag + `}}`
	}
	const uncounted, null = `{}`, `{"errcode":0,"data":{"data":null,"pagetag":{}}}`
	const bare = `{"data":{"data":null}}`
	for _, tc := range []struct {
		claim string
		pages []string // the last one repeats
		end   int      // pages of the list
		rows  int64
		code  string
	}{
		{"at the end of an uncounted list", []string{full(uncounted), other(uncounted), null}, 2, 4, ""},
		{"there without a pagetag", []string{full(uncounted), other(uncounted), bare}, 2, 4, ""},
		{"after the first page", []string{full(uncounted), bare}, 1, 2, ""},
		{"on page 1", []string{null}, 1, 0, ""},
		{"on page 1 of a counted list of nothing", []string{`{"data":{"data":null,"pagetag":{"total":0,"total_page":0}}}`}, 1, 0, ""},
		{"on page 1 without a pagetag", []string{bare}, 0, 0, events.CodeSourceFormat},
		{"on page 1 although rows are announced", []string{`{"data":{"data":null,"pagetag":{"total":9,"total_page":1}}}`}, 0, 0, events.CodeSourceIncomplete},
		{"in place of an announced page", []string{full(`{"total_page":3}`), bare, other(`{"total_page":3}`), null}, 0, 0, events.CodeSourceIncomplete},
		{"between pages of an uncounted list", []string{full(uncounted), null, other(uncounted), null}, 3, 4, ""},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			ends := map[string]string{}
			for _, empty := range []string{"null", "[]"} {
				l := newLedger(2, 20, 1000, 1<<20)
				var failure *source.Failure
				for n := 1; failure == nil && l.end == 0; n++ {
					body := tc.pages[min(n, len(tc.pages))-1]
					p, m := admit(t, l, n, strings.Replace(body, `"data":null`, `"data":`+empty, 1))
					if m == nil {
						failure = l.take(p, nil)
					} else {
						failure = m.Failure
					}
				}
				if failure == nil {
					_, failure = l.finish()
				}
				ends[empty] = fmt.Sprintf("%d pages, %d rows", l.end, l.rows)
				if tc.code != "" {
					require.NotNil(t, failure)
					require.Equal(t, tc.code, failure.Code)
					continue
				}
				require.Nil(t, failure)
				require.Equal(t, tc.end, l.end)
				require.Equal(t, tc.rows, l.rows)
			}
			require.Equal(t, ends["[]"], ends["null"])
		})
	}
}

func TestLedgerFollowsTheSource(t *testing.T) {
	t.Parallel()
	take := func(l *ledger, n int, pagetag string, rowTexts ...string) *source.Failure {
		p, failure := admit(t, l, n, answer(pagetag, rowTexts...))
		require.Nil(t, failure)
		return l.take(p, nil)
	}
	t.Run("a total_page that grows", func(t *testing.T) {
		l := began(t, 2, 2, 4)
		require.Nil(t, take(l, 2, `{"page":2,"total":6,"total_page":3}`, headerRow, row(3), row(4)))
		require.Equal(t, 3, l.bound(8))
		require.True(t, l.missing(3))
	})
	t.Run("a total_page rounded down hides a page that is found", func(t *testing.T) {
		l := began(t, 2, 2, 5)
		require.Nil(t, take(l, 2, `{"page":2,"total":5,"total_page":2}`, headerRow, row(3), row(4)))
		require.Equal(t, 3, l.bound(8))
		require.Zero(t, l.end)
		require.Nil(t, take(l, 3, `{"page":3,"total":5,"total_page":2}`, headerRow, row(5)))
		require.Equal(t, 3, l.end)
	})
	t.Run("a complete run ends", func(t *testing.T) {
		require.Equal(t, 1, began(t, 3, 1, 2).end)
	})
	t.Run("a complete run of one full page ends after the next", func(t *testing.T) {
		l := began(t, 2, 1, 2)
		require.Zero(t, l.end)
		require.Nil(t, take(l, 2, `{"page":2,"total":2,"total_page":1}`, headerRow))
		require.Equal(t, 1, l.end)
	})
	t.Run("or when that is another answer of page 1", func(t *testing.T) {
		l := began(t, 2, 1, 2)
		_, failure := admit(t, l, 2, answer(`{"page":1,"total":2,"total_page":1}`, headerRow, row(8), row(9)))
		require.Nil(t, l.miss(2, failure))
		require.Equal(t, 1, l.end)
	})
	t.Run("too many rows end the crawl", func(t *testing.T) {
		l := newLedger(2, 1000, 3, 1<<40)
		p, _ := admit(t, l, 1, answer(`{"page":1,"total":4,"total_page":2}`, headerRow, row(1), row(2)))
		require.Nil(t, l.take(p, nil))
		p, _ = admit(t, l, 2, answer(`{"page":2,"total":4,"total_page":2}`, headerRow, row(3), row(4)))
		require.Equal(t, events.CodeLimitRows, l.take(p, nil).Code)
	})
	t.Run("too many bytes end the crawl", func(t *testing.T) {
		p, _ := admit(t, newLedger(2, 1000, 1000, 1<<40), 1, answer(`{"page":1,"total":4,"total_page":2}`, headerRow, row(1), row(2)))
		require.Nil(t, newLedger(2, 1000, 1000, int64(len(p.Rows))).take(p, nil))
		require.Equal(t, events.CodeLimitBytes, newLedger(2, 1000, 1000, int64(len(p.Rows))-1).take(p, nil).Code)
	})
	t.Run("equal pages that are too many rows are a source that ignores page", func(t *testing.T) {
		l := newLedger(2, 1000, 5, 1<<40)
		tag := `{"total":40,"total_page":20}`
		require.Nil(t, take(l, 1, tag, headerRow, row(1), row(2)))
		require.Nil(t, take(l, 2, tag, headerRow, row(1), row(2)))
		require.Equal(t, events.CodePagingStuck, take(l, 3, tag, headerRow, row(1), row(2)).Code)
	})
}

// A giant export needs little memory for each page, whatever the length of the tokens.
func TestLedgerMemoryOfAPage(t *testing.T) {
	const n, most = 200_000, 200 // pages, bytes a page
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, chained := range []bool{false, true} {
		before := used()
		l := newLedger(2, n, 1<<40, 1<<60)
		for i := 1; i <= n; i++ {
			p := pages.Page{ID: pages.ID{Number: i}, Rows: fmt.Appendf(nil, `[{"a":%d},{"b":1}]`, i), RowCount: 2,
				Total: 2 * n, TotalPages: n}
			if chained && i < n {
				p.Next = fmt.Sprintf("%0300d", i)
			}
			require.Nil(t, l.take(p, nil))
		}
		require.Equal(t, n, l.end)
		each := float64(used()-before) / n
		runtime.KeepAlive(l)
		t.Logf("chained %t: %.0f bytes a page", chained, each)
		require.Less(t, each, float64(most))
	}
}
