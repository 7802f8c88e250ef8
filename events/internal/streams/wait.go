package streams

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff returns the delay before a message is redelivered: 100 ms, doubled for each delivery, at most 30 s,
// with up to 50 % jitter.
func Backoff(delivered uint64) time.Duration {
	d := 100 * time.Millisecond << min(delivered, 9)
	d = min(d, 30*time.Second)
	return d/2 + rand.N(d/2)
}

// Wait waits for d, or until ctx ends.
func Wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
