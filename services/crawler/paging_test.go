package crawler

import (
	"fmt"
	"testing"
)

// FuzzPaging makes a source answer anything. A crawl never requests a page twice, never exceeds the maximum
// number of pages, and counts each row once.
func FuzzPaging(f *testing.F) {
	f.Add([]byte{2, 1, 4, 2, 2, 2, 4, 2}, uint8(3))
	f.Add([]byte{0, 0, 0, 0}, uint8(1))
	f.Add([]byte{9, 1, 255, 255, 9, 2, 0, 255, 9, 3, 9, 9}, uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, limit uint8) {
		const most = 40
		l := newLedger(int(limit)+1, most, 1000, 1<<20)
		counted, asked := int64(0), map[int]bool{}
		for n := 1; l.end == 0; n++ {
			if len(script) < 4 {
				break
			}
			if l.bound(1) < n {
				t.Fatalf("the list has not ended, and page %d may not be asked for", n)
			}
			count, page, total, pages := script[0]%12, script[1], int64(script[2])-1, int64(script[3])-1
			script = script[4:]
			if asked[n] || n > most {
				t.Fatalf("page %d is asked for again, or beyond the limit", n)
			}
			asked[n] = true
			body := `{"errcode":0,"data":{"data":[`
			for i := range int(count) {
				if i > 0 {
					body += ","
				}
				if i == 0 && page%3 > 0 {
					body += `{"id":"ID"}`
				} else {
					body += fmt.Sprintf(`{"id":"%d-%d"}`, n, i)
				}
			}
			body += fmt.Sprintf(`],"pagetag":{"total":%d,"total_page":%d}}}`, total, pages)
			p, refused := admit(t, l, n, body)
			if refused != nil {
				return
			}
			if p.TotalPages > most {
				t.Fatalf("%d pages are believed of at most %d", p.TotalPages, most)
			}
			if l.take(p, nil) != nil {
				return
			}
			if l.end > n || l.announced > most {
				t.Fatalf("%d pages are the whole of %d that were read; %d are announced", l.end, n, l.announced)
			}
			counted += int64(p.DataRows())
			_ = l.take(p, nil) // a duplicate page counts once
			if l.rows != counted || l.missing(n) {
				t.Fatalf("%d rows are counted of %d", l.rows, counted)
			}
		}
	})
}
