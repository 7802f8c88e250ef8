package node

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// smallProcess is the memory, as the Go runtime counts it, below which the
	// garbage collector works as it likes. Some 25 MiB resident come on top.
	smallProcess = 128 << 20
	// heapRoom is what a process with a large live heap may take beside that and
	// a quarter of it, so that collecting never takes most of its time. Of a large
	// export up to 100 MiB are live, most of it in blocks of 8 MiB of JetStream's,
	// which cost the collector nothing to go through; with more room there are more.
	heapRoom = 8 << 20
	// heapEvery is how often the limit follows the live heap. That takes 10 µs.
	heapEvery = 250 * time.Millisecond
)

// keepSmall has the garbage collector keep the process small, until ctx ends.
//
// The embedded JetStream keeps the blocks of files that it has touched for ten
// seconds, by references that let the collector take them. So they are no part
// of the live heap, and the collector, which by default waits for it to double,
// comes late: an export of 5,000,000 rows grew to 240 to 325 MiB resident. With
// a limit it takes 150 to 184, in the same processor time (measured).
//
// The limit grows with what is really in use. GOMEMLIMIT in the environment is
// the operator's word, and nothing is done then.
func keepSmall(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetMemoryLimit(smallProcess)
	defer debug.SetMemoryLimit(math.MaxInt64) // the default
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(live)
		debug.SetMemoryLimit(memoryLimit(live[0].Value.Uint64()))
	}
}

// memoryLimit is the limit of a process whose last collection left live bytes.
func memoryLimit(live uint64) int64 {
	return max(smallProcess, int64(live+live/4)+heapRoom)
}
