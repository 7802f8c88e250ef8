package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

// resident returns the process's memory in bytes: all, and without mapped files. It takes the minimum over a
// quarter of a minute, in which the server releases the blocks it used last.
func resident(b *testing.B) (all, anonymous float64) {
	all, anonymous = math.MaxFloat64, math.MaxFloat64
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 15 {
		<-tick.C
		debug.FreeOSMemory()
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(b, err)
		for line := range strings.Lines(string(status)) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			kib, _ := strconv.ParseFloat(fields[1], 64)
			switch fields[0] {
			case "VmRSS:":
				all = min(all, kib*1024)
			case "RssAnon:":
				anonymous = min(anonymous, kib*1024)
			}
		}
	}
	return all, anonymous
}

// finish writes the four events of an export.
func finish(streams *journal.Log, n int) error {
	x := events.Export{Tenant: events.DefaultTenant, Key: fmt.Sprintf("%032x", n*7919)}
	for _, p := range []events.Payload{
		withCallback("orders of " + x.Key),
		&events.ExportCrawled{Run: 1, Pages: 1},
		&events.ExportCompleted{Run: 1, Pages: 1, Rows: 100, ExpiresAt: time.Now().Add(time.Hour),
			Files: []events.File{{Name: "orders.zip", Store: "default/" + x.Key + "/" + events.NewID() + ".zip", Size: 5000, SHA256: strings.Repeat("ab", 32), Rows: 100}}},
		&events.CallbackDelivered{Attempt: 1, Status: 200},
	} {
		var err error
		if x, err = streams.Append(context.Background(), x, "", func(*events.Export) (events.Payload, error) { return p, nil }); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkHistory measures the memory for each further finished export in the history, with embedded server
// and projection, and the time to forget them all. Run it alone with -benchtime 1x.
func BenchmarkHistory(b *testing.B) {
	const first, further = 1000, 20_000
	node := start(b, eventstest.Server(b, ""), Config{})
	fill := func(from, to int) {
		var wg sync.WaitGroup
		for lane := range 4 {
			wg.Go(func() {
				for n := from + lane; n < to; n += 4 {
					if err := finish(node.journal, n); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		node.caughtUpTo(b)
	}
	fill(0, first)
	node.tasks.Release()
	all, anonymous := resident(b)
	fill(first, first+further)
	node.tasks.Release()
	allThen, anonymousThen := resident(b)
	b.ReportMetric((allThen-all)/further, "RSS-bytes/export")
	b.ReportMetric((anonymousThen-anonymous)/further, "RSS-without-files-bytes/export")

	s := node.keeper()
	passes(b, s, 1)
	begun := time.Now()
	passes(b, s, 1) // clears them
	b.ReportMetric(float64(time.Since(begun).Microseconds())/(first+further), "clear-µs/export")
	begun = time.Now()
	passes(b, s, 1)
	b.ReportMetric(float64(time.Since(begun).Microseconds())/1000, "idle-pass-ms")
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	begun = time.Now()
	require.NoError(b, s.deadlines.expire(b.Context()))
	b.ReportMetric(float64(time.Since(begun).Microseconds())/(first+further), "expire-µs/export")
	s.history.maxExports = 0
	begun = time.Now()
	require.NoError(b, s.history.forget(b.Context(), s.mark))
	b.ReportMetric(float64(time.Since(begun).Microseconds())/(first+further), "forget-µs/export")
	usages, err := node.tasks.Usages()
	require.NoError(b, err)
	require.LessOrEqual(b, usages[events.DefaultTenant].Exports, 1) // the newest event of the log stays
	node.tasks.Release()                                            // as a pass does
	all, _ = resident(b)
	b.ReportMetric((allThen-all)/(first+further), "RSS-bytes-back/export")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdlePass measures one pass over 100,000 ended exports with nothing due.
func BenchmarkIdlePass(b *testing.B) {
	const exports = 100_000
	node := start(b, eventstest.Server(b, ""), Config{})
	tasks, err := storage.OpenTasks(filepath.Join(b.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	defer func() { require.NoError(b, tasks.Close()) }()
	log := make([]events.Event, 0, 3*exports)
	for n := range exports {
		x := events.Export{Tenant: events.DefaultTenant, Key: fmt.Sprintf("%032x", n*7919)}
		for _, p := range []events.Payload{withCallback("orders"), &events.ExportCancelled{}, &events.CallbackDelivered{Attempt: 1}} {
			ev := events.Event{Tenant: x.Tenant, Key: x.Key, Time: time.Now(), Sequence: uint64(len(log) + 1), Payload: p}
			require.NoError(b, x.Apply(ev))
			after := x
			ev.Export = &after
			log = append(log, ev)
		}
	}
	for batch := range slices.Chunk(log, 4096) {
		require.NoError(b, tasks.Apply(batch))
	}
	s := node.keeper()
	s.tasks, s.leftovers.keepPages = tasks, time.Hour
	passes(b, s, 2)
	for b.Loop() {
		passes(b, s, 1)
	}
}
