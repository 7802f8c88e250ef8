package ingress

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// BenchmarkListOfMany measures 50 of 100,000 exports as REST and the console answer them over a socket. The
// projection gets the exports directly, because the log is not what a list reads.
func BenchmarkListOfMany(b *testing.B) {
	in := start(b, eventstest.Server(b, ""), newTestKeys().config(Config{}))
	const exports = 100_000
	begin := time.Now().Add(-24 * time.Hour)
	var batch []events.Event
	sequence := in.tasks.Applied()
	for n := range exports {
		x := events.Export{Tenant: "shop"}
		at := begin.Add(time.Duration(n) * 500 * time.Millisecond)
		r := requestOf(fmt.Sprint("Orders ", n))
		r.CreatedAt, r.Request.UserID = at, fmt.Sprint(n%100)
		payloads := []events.Payload{r, failure("HTTP 503")}
		if n%100 > 0 {
			payloads = []events.Payload{r, &events.ExportCrawled{Run: sequence + 1, Pages: 1},
				&events.ExportCompleted{Run: sequence + 1, Pages: 1, Rows: 100, ExpiresAt: at.Add(168 * time.Hour)}}
		}
		for _, p := range payloads {
			sequence++
			e := events.Event{ID: events.NewID(), Tenant: x.Tenant, Key: fmt.Sprintf("%032x", n*7919), Time: at,
				Sequence: sequence, Payload: p}
			require.NoError(b, x.Apply(e))
			now := x
			e.Export = &now
			batch = append(batch, e)
		}
	}
	for part := range slices.Chunk(batch, 4096) {
		require.NoError(b, in.tasks.Apply(part))
	}
	console := in.browse(b, "shop-key")
	for name, get := range map[string]func() shown{
		"REST":    func() shown { return console.get("/v1/export/list?limit=50", "X-API-Key", "shop-key") },
		"console": func() shown { return console.get("/console/") },
		"failed":  func() shown { return console.get("/console/?state=failed") },
		"search":  func() shown { return console.get("/console/?q=nothing") },
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				require.Equal(b, http.StatusOK, get().StatusCode)
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}
