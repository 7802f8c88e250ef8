package assembler

import (
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// An export that needs what this version does not know is left to another process, and one line says so.
func TestUnknownNeedsAreLeftToAnother(t *testing.T) {
	t.Parallel()
	for need, left := range map[string]bool{"source/99": true, events.NeedSource: false} {
		t.Run(need, func(t *testing.T) {
			var log eventstest.Log
			st := newStage(t)
			x := st.append(events.Export{}, &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
				ExtType: "XLSX", SourceType: events.SourceHTTP, Needs: []string{need},
				HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: 2, Conn: 1},
			}})
			x = st.append(x, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1, Manifest: pages.NewManifest().Sum()})
			s := st.service(Config{Log: log.Logger()})
			for range 2 {
				err := s.handle(t.Context(), st.delivery(x))
				if !left {
					require.NotErrorIs(t, err, errNeeds)
					return
				}
				require.ErrorIs(t, err, errNeeds)
			}
			require.Equal(t, events.StateCrawled, st.read().State)
			require.Len(t, log.With(`needs=source/99`), 1)
		})
	}
}
