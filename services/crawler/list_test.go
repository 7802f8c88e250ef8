package crawler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The list has the same pages and warnings, or fails for the same reason, for any answers in any order, any
// number of concurrent requests and any number of restarts.
func TestTheEndOfAListDependsOnTheSourceAlone(t *testing.T) {
	t.Parallel()
	const maxPages, limit = 12, 3
	rapid.Check(t, func(t *rapid.T) {
		tag := rapid.SampledFrom([]string{``, `"total":0,"total_page":1`, `"total":%d`, `"total_page":%d`, `"total":%d,"total_page":4`, `"limit":2,"total":9`})
		tags := []string{tag.Draw(t, "tag")}
		tags = append(tags, tags[0], tags[0], tag.Draw(t, "other tag")) // most pages agree
		bodies := map[int]string{}                                      // "" for a page that the source fails to return
		var last string
		for n := 1; n <= maxPages+20; n++ {
			count := rapid.SampledFrom([]int{3, 3, 3, 2, 1, 0}).Draw(t, "rows")
			all := []string{`{"id":"ID"}`}
			for i := range count {
				all = append(all, fmt.Sprintf(`{"id":%d}`, n*10+i))
			}
			list := strings.Join(all, ",")
			switch rapid.SampledFrom([]string{"own", "own", "own", "own", "last", "last", "fails"}).Draw(t, "answer") {
			case "last":
				if last != "" {
					list = last
				}
			case "fails":
				if n > 1 {
					continue
				}
			}
			last = list
			text := tags[rapid.IntRange(0, 3).Draw(t, "which tag")]
			if strings.Contains(text, "%d") {
				text = fmt.Sprintf(text, rapid.IntRange(0, 20).Draw(t, "number"))
			}
			if page := rapid.SampledFrom([]int{0, 0, n, n, n - 1}).Draw(t, "page"); page > 0 {
				text = strings.TrimPrefix(text+fmt.Sprintf(`,"page":%d`, page), ",")
			}
			bodies[n] = `{"errcode":0,"data":{"data":[` + list + `],"pagetag":{` + text + `}}}`
		}
		// ask is one request; stored are the pages that are durable.
		ask := func(l *ledger, n int, stored map[int]pages.Page) *source.Failure {
			if bodies[n] == "" {
				return l.miss(n, &missed{Failure: &source.Failure{Page: n, Code: events.CodeSourceHTTP, Status: 404 + n%2*96}})
			}
			p, m := admit(t, l, n, bodies[n])
			if m != nil {
				return l.miss(n, m)
			}
			stored[n] = p
			return l.take(p, nil)
		}
		outcome := func(l *ledger, f *source.Failure) string {
			var warnings []events.Warning
			if f == nil {
				warnings, f = l.finish()
			}
			if f != nil {
				return fmt.Sprintf("%s page %d: %s", f.Code, f.Page, f.Msg)
			}
			return fmt.Sprintf("%d pages, %d rows, %s %v", l.end, l.rows, l.manifest(), warnings)
		}
		crawl := func(conn int, next func(most int) int, restarts func() bool) string {
			stored := map[int]pages.Page{}
			l := newLedger(limit, maxPages, 1000, 1<<20)
			var flying []int
			asked := map[int]bool{}
			for {
				for n := 1; l.end == 0 && n <= l.bound(conn) && len(flying) < conn; n++ {
					if !asked[n] {
						asked[n] = true
						flying = append(flying, n)
					}
				}
				if l.end > 0 {
					return outcome(l, nil)
				}
				if len(flying) == 0 {
					t.Fatalf("the list has not ended after page %d, and nothing may be asked for", l.read)
				}
				if restarts() {
					l, flying, asked = newLedger(limit, maxPages, 1000, 1<<20), nil, map[int]bool{}
					var f *source.Failure
					for n, p := range stored { // in any order
						asked[n] = true
						if f = l.take(p, nil); f != nil {
							return outcome(l, f)
						}
					}
					continue
				}
				i := next(len(flying))
				n := flying[i]
				flying = slices.Delete(flying, i, i+1)
				if f := ask(l, n, stored); f != nil {
					return outcome(l, f)
				}
			}
		}
		want := crawl(1, func(int) int { return 0 }, func() bool { return false })
		for range 5 {
			left := rapid.IntRange(0, 3).Draw(t, "restarts")
			got := crawl(rapid.IntRange(1, 8).Draw(t, "conn"),
				func(most int) int { return rapid.IntRange(0, most-1).Draw(t, "which answer comes") },
				func() bool {
					if left == 0 || rapid.IntRange(0, 3).Draw(t, "restart") > 0 {
						return false
					}
					left--
					return true
				})
			require.Equal(t, want, got)
		}
	})
}

// A retry continues an earlier run of an uncounted list only if page 1 has the same rows, because no total
// would show that they moved.
func TestSameStart(t *testing.T) {
	t.Parallel()
	page := func(total int64, rowTexts ...string) pages.Page {
		return pages.Page{Rows: []byte("[" + strings.Join(rowTexts, ",") + "]"), RowCount: len(rowTexts), HeaderRow: true, Total: total}
	}
	for _, tc := range []struct {
		claim    string
		old, new pages.Page
		want     bool
	}{
		{"equal", page(-1, headerRow, row(1)), page(-1, headerRow, row(1)), true},
		{"other rows, no total", page(-1, headerRow, row(1)), page(-1, headerRow, row(2)), false},
		{"more rows, no total", page(-1, headerRow, row(1)), page(-1, headerRow, row(1), row(2)), false},
		{"other rows, the same total", page(9, headerRow, row(1)), page(9, headerRow, row(2)), true},
		{"another total", page(9, headerRow, row(1)), page(8, headerRow, row(1)), false},
		{"another header", page(9, headerRow, row(1)), page(9, otherRow, row(1)), false},
	} {
		require.Equal(t, tc.want, sameStart(tc.old, tc.new, false), tc.claim)
	}
}
