//go:build chaos && linux

package chaostest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// BenchmarkStartWithHistory measures how long a process takes from start to ready with HISTORY finished
// exports (default 100,000) of four events in the log: with its projection, and when it must rebuild a
// deleted projection from the log. Run it with -benchtime 1x.
func BenchmarkStartWithHistory(b *testing.B) {
	exports := setting(b, "HISTORY", 100_000)
	sheaf, _ := build(b)
	dir := b.TempDir()
	data, listen := filepath.Join(dir, "data"), freeAddress()
	p := &process{name: "sheaf", path: sheaf, log: filepath.Join(dir, "sheaf.log"), args: []string{
		"serve", "--data", data, "--http", listen, "--nats-listen", "none", "--log-format", "text"}}
	started := func() time.Duration {
		began := time.Now()
		p.start("")
		require.True(b, eventually(b.Context(), 5*time.Minute, 5*time.Millisecond, func() bool {
			res, err := http.Get("http://" + listen + "/readyz")
			if err != nil {
				return false
			}
			_ = res.Body.Close()
			return res.StatusCode == http.StatusOK
		}), p.tail(20))
		return time.Since(began)
	}
	stop := func() {
		p.shutdown(syscall.SIGTERM)
		require.Empty(b, p.complaints())
	}
	started()
	stop()
	last := writeHistory(b, filepath.Join(data, "jetstream"), exports)
	started() // builds the projection
	stop()
	for b.Loop() {
		with := started()
		stop()
		require.NoError(b, os.Remove(filepath.Join(data, "tasks.db")))
		without := started()
		stop()
		b.ReportMetric(with.Seconds(), "s-to-ready")
		b.ReportMetric(without.Seconds(), "s-to-ready-without-projection")
		b.ReportMetric(float64(last)/without.Seconds(), "events/s-rebuilt")
	}
	b.ReportMetric(0, "ns/op")
}

// writeHistory appends finished exports to the log of a stopped Sheaf, as if all consumers had acknowledged
// them. It returns the last sequence.
func writeHistory(b *testing.B, dir string, exports int) uint64 {
	srv, err := embedded.Start(embedded.Options{Dir: dir})
	require.NoError(b, err)
	defer srv.Stop()
	nc, err := srv.Connect()
	require.NoError(b, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	require.NoError(b, err)
	sequence := appendHistory(b, js, exports)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for _, name := range []string{events.ConsumerCrawler, events.ConsumerAssembler, events.ConsumerNotifier} {
		_, err := js.ResetConsumerToSequence(ctx, events.StreamEvents, name, sequence+1)
		require.NoError(b, err)
	}
	return sequence
}

// appendHistory appends exports that completed, each with further events, to an empty log. It returns the last
// sequence.
func appendHistory(t testing.TB, js jetstream.JetStream, exports int, further ...events.Payload) uint64 {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var sequence uint64
	begin := time.Now().Add(-24 * time.Hour).UTC()
	for n := range exports {
		at := begin.Add(time.Duration(n) * 100 * time.Millisecond)
		key := fmt.Sprintf("%032x", n*7919)
		requested := sequence + 1
		x := events.Export{Tenant: events.DefaultTenant}
		for _, payload := range append([]events.Payload{
			&events.ExportRequested{CreatedAt: at, Request: events.Request{
				ExtType: "XLSX", Title: "orders", UserID: fmt.Sprint(n % 100), SourceType: events.SourceHTTP,
				Callback: "http://127.0.0.1:9/callback",
				HTTP: &events.HTTPRequest{URL: "http://127.0.0.1:9/orders", Method: http.MethodGet,
					Limit: 1000, Conn: 4, Param: []byte(`{}`)},
			}},
			&events.ExportCrawled{Run: requested, Pages: 1},
			&events.ExportCompleted{Run: requested, Pages: 1, Rows: 100, ExpiresAt: at.Add(168 * time.Hour),
				Files: []events.File{{Name: "orders.zip", Store: "default/" + key + "/" + events.NewID() +
					".zip", Size: 5000, SHA256: strings.Repeat("ab", 32), Rows: 100}}},
			&events.CallbackDelivered{Attempt: 1, Status: http.StatusOK},
		}, further...) {
			sequence++
			ev := events.Event{ID: events.NewID(), Tenant: x.Tenant, Key: key, Time: at, Sequence: sequence,
				Payload: payload}
			require.NoError(t, x.Apply(ev))
			ev.Export = &x
			msg, err := events.Encode(ev)
			require.NoError(t, err)
			_, err = js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute))
			require.NoError(t, err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	return sequence
}
