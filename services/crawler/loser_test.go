package crawler

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// While one crawler waits for its answer another stores the page. From then on the stored page counts: its
// number of pages, its header, its rows.
func TestTheLoserOfAPageGoesOnWithTheWinners(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	requested := make(chan struct{})
	var run uint64
	src := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-requested
		winners := []byte(`[{"id":"ID"},{"id":0}]`)
		_, err := s.Pages().Publish(r.Context(), pages.Page{
			ID:   pages.ID{Tenant: "default", Key: key, Run: run, Number: 1},
			Rows: winners, RowCount: 2, HeaderRow: true, Total: 1, TotalPages: 1, Attempts: 1,
		})
		if err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprint(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":7}],"pagetag":{"page":1,"limit":1,"total":2,"total_page":2}}}`)
	}))
	defer src.Close()
	start(t, s, src.Client(), Config{})
	x := request(t, s, events.Export{}, src.URL, 1, 0)
	run = x.RequestedSeq
	close(requested)
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	crawled, ok := ev.Payload.(*events.ExportCrawled)
	require.True(t, ok, "%+v", ev.Payload)
	require.Equal(t, 1, crawled.Pages, "the winner's answer has one page")
	require.Equal(t, wantRows(1), dataRows(t, s, crawled.Run, crawled.Pages))
}
