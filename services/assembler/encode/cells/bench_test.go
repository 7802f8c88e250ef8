package cells

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// orders is a page of n rows of eight fields.
func orders(n int) []byte {
	b := []byte{'['}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"id":%d,"no":"NO-%06d","amount":%d.%02d,"paid":%t,"at":"2026-03-%02dT08:%02d:00.250Z",`+
			`"day":"2026-03-%02d","status":%d,"note":"订单备注 %d"}`, 1_000_000+i, i, i, i%100, i%2 == 0, i%28+1, i%60, i%28+1, i%4, i)
	}
	return append(b, ']')
}

var (
	autoSheet  = headerSheet("id", "no", "amount", "paid", "at", "day", "status", "note")
	typedSheet = func() encode.Sheet {
		s := sheetOf(
			events.Column{Key: "id", Type: "text"}, events.Column{Key: "no"}, events.Column{Key: "amount", Type: "number"},
			events.Column{Key: "paid", Type: "bool"}, events.Column{Key: "at", Type: "datetime"},
			events.Column{Key: "day", Type: "date"},
			events.Column{Key: "status", Map: map[string]string{"0": "新建", "1": "已付", "*": "其他"}},
			events.Column{Key: "note"},
		)
		s.Zones.Display = mustZone("Asia/Shanghai")
		return s
	}()
)

func mustZone(name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return loc
}

func BenchmarkReader(b *testing.B) {
	page := orders(1000)
	measure := func(name string, row func(c *rows.Cursor)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(page)))
			for b.Loop() {
				for c := rows.NewCursor(page); c.NextRow(); {
					row(&c)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
		})
	}
	measure("scan", func(*rows.Cursor) {})
	for name, sheet := range map[string]encode.Sheet{"auto": autoSheet, "typed": typedSheet} {
		r, err := NewReader(sheet)
		require.NoError(b, err)
		measure(name, func(c *rows.Cursor) { r.Row(c) })
	}
}

// A row costs no memory, whatever the types: a million rows of garbage would be collected all the time.
func TestRowAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	join := ", "
	sheet := sheetOf(append(columnsOf(typedSheet),
		events.Column{Key: "user.name"}, events.Column{Key: "tags", Join: &join}, events.Column{Key: "tags[1]"},
		events.Column{Key: "unix", Type: "datetime", From: "unix"}, events.Column{Key: "german", Type: "datetime", From: "%d.%m.%Y %H:%M"},
		events.Column{Key: "url", Link: "true"}, events.Column{Key: "no", Link: "https://shop.example/{no}/{user.name}"},
		events.Column{Key: "misfit", Type: "number"}, events.Column{Key: "code", Map: map[string]string{"1": "x"}},
		events.Column{Key: "user", Type: "json"})...)
	sheet.Zones = encode.Zones{Display: mustZone("Asia/Shanghai"), Source: mustZone("America/New_York")}
	page := bytes.ReplaceAll(orders(200), []byte(`{"id"`), []byte(`{"user":{"name":"\u97e9 x"},"tags":["a",1,null],`+
		`"unix":1700000000.25,"german":"05.03.2026 08:30","url":"https://a.example/x?y=1","misfit":"n/a","code":7.0,"id"`))
	r, err := NewReader(sheet)
	require.NoError(t, err)
	read := func() {
		for c := rows.NewCursor(page); c.NextRow(); {
			r.Row(&c)
		}
	}
	read()
	require.Zero(t, testing.AllocsPerRun(20, read))
}

func columnsOf(sheet encode.Sheet) (columns []events.Column) {
	for _, c := range sheet.Columns {
		columns = append(columns, *c.Spec)
	}
	return columns
}
