//go:build chaos && linux

package chaostest

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An export crashes its process each time it is crawled. It fails after five starts; exports that ran beside
// it complete.
func TestChaosPoison(t *testing.T) {
	if testing.Short() {
		t.Skip("waits five times for work to be handed out again")
	}
	t.Parallel()
	orders := []*order{{n: 0, pages: 2, limit: 5, last: 5, poison: true, callback: "http"}}
	for n := 1; n <= 8; n++ {
		orders = append(orders, &order{n: n, pages: 2, limit: 5, last: n%5 + 1, slow: 700 * time.Millisecond,
			callback: "http"})
	}
	w := newWorld(t, chaosSeed(t), orders)
	http, address := freeAddress(), freeAddress()
	w.ingresses, w.natsURL = []string{"http://" + http}, "nats://"+address
	w.files = "file://" + filepath.Join(w.dir, "sheaf", "files")
	p := w.serve("sheaf", "--http", http, "--nats-listen", address)
	w.source.poison = func() { p.hit(syscall.SIGKILL, "") }
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if w.quiet = w.quietRun(ctx); w.quiet == nil {
		return
	}
	p.start("")
	w.connect()
	// The poison last, so that the others are running when it starts.
	for n := len(orders) - 1; n >= 0; n-- {
		require.NoError(t, w.submit(ctx, orders[n]))
	}
	w.settle(ctx)
	w.audit(ctx)
	w.source.mu.Lock()
	starts := len(w.source.asked[pageOf{0, 1}])
	w.source.mu.Unlock()
	t.Logf("the poison was asked for %d times", starts)
	if starts != 5 {
		w.problem("I3 the poison was asked for %d times, not 5", starts)
	}
	w.report()
}
