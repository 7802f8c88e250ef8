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
	// smallProcess is the memory, as the Go runtime counts it, below which the garbage collector works as
	// usual. About 25 MiB of resident memory come on top.
	smallProcess = 128 << 20
	// heapRoom is the memory that a process with a large live heap may use beside that heap and a quarter of
	// it, so that collection never dominates its time. A large export has up to 100 MiB live, mostly
	// JetStream's blocks of 8 MiB, which cost the collector nothing to scan. More room makes JetStream keep
	// more of them.
	heapRoom = 8 << 20
	// heapEvery is how often the limit follows the live heap. One update takes 10 µs.
	heapEvery = 250 * time.Millisecond
)

// keepSmall limits the memory of the process through the garbage collector, until ctx ends.
//
// The embedded JetStream caches the blocks of files for ten seconds, by weak references. They are not part of
// the live heap. By default the collector waits until that heap doubles, so it frees them late: an export of
// 5,000,000 rows grew to 240 to 325 MiB resident. With a limit it takes 150 to 184, in the same processor
// time (measured).
//
// The limit grows with the live heap. keepSmall does nothing if the operator sets GOMEMLIMIT.
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

// memoryLimit returns the limit for a process whose last collection left live bytes.
func memoryLimit(live uint64) int64 {
	return max(smallProcess, int64(live+live/4)+heapRoom)
}
