package source

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/rows"
)

// BenchmarkParse compares the standard format with the same response read by paths.
func BenchmarkParse(b *testing.B) {
	row := `{"no":"NO-000001","amount":0.37,"customer":"客户","city":"上海","created":"2026-01-01 00:00:00","status":1,"memo":"a longer text of a row, as orders have it"}`
	body := []byte(`{"errcode":0,"msg":"","data":{"data":[` + strings.Repeat(row+",", 499) + row + `],"pagetag":{"page":1,"limit":500,"total":5000,"total_page":10}}}`)
	from := &events.HTTPRequest{
		Rows: "data.data", Error: &events.ErrorMapping{Path: "errcode", Message: "msg"},
		Paging: &events.Paging{Type: events.PagingPage, PageParam: "page", Total: "data.pagetag.total", TotalPages: "data.pagetag.total_page"},
	}
	for name, req := range map[string]Request{"standard": {Limit: 500}, "declared": {From: from}} {
		b.Run(name, func(b *testing.B) {
			e, err := newEndpoint(Request{URL: "http://a/", From: req.From})
			require.NoError(b, err)
			shape, _, err := newShape(e, req, rows.Limits{})
			require.NoError(b, err)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				a, err := shape.Parse(body, http.Header{}, Position{Page: 1})
				if err != nil || a.RowCount != 500 || a.Total != 5000 {
					b.Fatal(err)
				}
			}
		})
	}
}
