package rows_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/rows"
)

// answers returns responses of 1,000 rows: eight mixed columns, the same with Chinese text, and the same
// indented.
func answers() map[string][]byte {
	out := map[string][]byte{}
	for name, c := range map[string]struct{ customer, note, nl string }{
		"ascii":    {"Customer of the shop", "ships on Monday, call before delivery", ""},
		"chinese":  {"北京市朝阳区建国路八十八号", "周一发货，送货前请先打电话", ""},
		"indented": {"Customer of the shop", "ships on Monday, call before delivery", "\n                "},
	} {
		var b strings.Builder
		b.WriteString(`{"errcode":0,"msg":"","data":{"data":[{"id":"ID","order_no":"Order"}`)
		for i := range 1000 {
			fmt.Fprintf(&b, `,{"id":%d,%s"order_no":"SO-2026-%08d",%s"customer":"%s %d",%s"amount":%d.%02d,%s"paid":%t,%s"created_at":"2026-11-22T10:%02d:00Z",%s"note":"%s",%s"parent":null}`,
				i, c.nl, i*7919, c.nl, c.customer, i%97, c.nl, i*13, i%100, c.nl, i%3 == 0, c.nl, i%60, c.nl,
				c.note, c.nl)
		}
		b.WriteString(`],"pagetag":{"page":1,"limit":1000,"total":1000,"total_page":1}}}`)
		out[name] = []byte(b.String())
	}
	return out
}

func BenchmarkScanResponse(b *testing.B) {
	for name, body := range answers() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rows.ScanResponse(body, rows.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkQuery scans the responses of BenchmarkScanResponse by paths.
func BenchmarkQuery(b *testing.B) {
	q := mustQuery(b, "data.data", "data.pagetag.total", "data.pagetag.total_page", "errcode", "msg")
	for name, body := range answers() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if f, err := q.Scan(body, rows.Limits{}); err != nil || f.RowsErr != nil {
					b.Fatal(err, f.RowsErr)
				}
			}
		})
	}
}

func BenchmarkCursor(b *testing.B) {
	for name, body := range answers() {
		r, err := rows.ScanResponse(body, rows.Limits{})
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(r.Rows)))
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for c := rows.NewCursor(r.Rows); c.NextRow(); {
					for {
						_, _, _, ok := c.NextField()
						if !ok {
							break
						}
						n++
					}
				}
				if n != 8002 {
					b.Fatal(n)
				}
			}
		})
	}
}

func TestScanAllocatesNothingPerRow(t *testing.T) {
	body := answers()["chinese"]
	r, err := rows.ScanResponse(body, rows.Limits{})
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(5, func() {
		_, _ = rows.Check(r.Rows, rows.Limits{})
		for c := rows.NewCursor(r.Rows); c.NextRow(); {
			for ok := true; ok; {
				_, _, _, ok = c.NextField()
			}
		}
	}))
	require.LessOrEqual(t, testing.AllocsPerRun(5, func() { _, _ = rows.ScanResponse(body, rows.Limits{}) }),
		20.0)
	q := mustQuery(t, "data.data", "data.pagetag.total")
	require.LessOrEqual(t, testing.AllocsPerRun(5, func() { _, _ = q.Scan(body, rows.Limits{}) }), 50.0)
}
