package ingress

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// BenchmarkSubmit measures the time from a REST submission to its answer, which comes when the event is on
// disk (SyncAlways). No crawler runs.
func BenchmarkSubmit(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			in := start(b, eventstest.Server(b, ""), Config{})
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
			defer client.CloseIdleConnections()
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for {
						n := int(next.Add(1)) - 1
						if n >= b.N {
							return
						}
						body := fmt.Sprintf(`{"timestamp":1700000000,"ext_type":"XLSX","title":"orders %d","user_id":"1","source_http":{"url":"http://127.0.0.1:9/orders","method":"GET","param":{"limit":1000}}}`, n)
						begun := time.Now()
						res, err := client.Post(in.url+"/v1/export/http", "application/json", strings.NewReader(body))
						if err != nil {
							b.Error(err)
							return
						}
						_ = res.Body.Close()
						took[n] = time.Since(begun)
						if res.StatusCode != http.StatusOK {
							b.Errorf("status %d", res.StatusCode)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			require.NotEmpty(b, took)
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "submissions/s")
		})
	}
}
