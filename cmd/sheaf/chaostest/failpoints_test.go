//go:build chaos && linux

package chaostest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events/failpoint"

	"github.com/stretchr/testify/require"
)

// TestChaosFailpoints lets one process die at each failpoint, restarts it without the failpoint, and audits.
func TestChaosFailpoints(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for a minute")
	}
	t.Parallel()
	seed, hits := chaosSeed(t), setting(t, "CHAOS_HITS", 1)
	t.Logf("CHAOS_SEED=%d: %d failpoints", seed, len(failpoint.Names))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 10) // they mostly wait: 10 s until work is redelivered
	names := slices.Clone(failpoint.Names)
	// these take longest
	slices.SortStableFunc(names, func(a, b string) int {
		return strings.Count(b, "purge.") - strings.Count(a, "purge.")
	})
	for _, name := range names {
		if only := os.Getenv("CHAOS_FAILPOINT"); only != "" && name != only {
			continue
		}
		if strings.HasPrefix(name, "losses.") {
			continue // TestAStartKilledDuringRepair covers them
		}
		most := hits
		if strings.HasPrefix(name, "append.") || strings.HasPrefix(name, "ack.") {
			most += 5 // they cover several kinds of events and deliveries
		}
		for n := range most {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				dieAt(t, seed, name, n+1)
			})
		}
	}
	wg.Wait()
}

// dieAt runs one death.
func dieAt(t *testing.T, seed uint64, name string, n int) {
	orders := []*order{
		{n: 0, pages: 3, limit: 7, last: 3, headers: true, callback: "http", refuses: 1},
		{n: 1, raw: true, pages: 1, limit: 40, last: 40, callback: "nats"},
		{n: 2, wide: true, pages: 2, limit: 200, last: 100, durable: true, callback: "http"},
	}
	// A first start is not recorded: the process must first die during an export.
	again := strings.HasPrefix(name, "starts.")
	if again {
		orders = append(orders,
			&order{n: 3, pages: 2, limit: 5, last: 5, slow: 2 * time.Second, callback: "http"})
	}
	w := newWorld(t, seed, orders)
	defer w.close()
	listen, address := freeAddress(), freeAddress()
	w.ingresses, w.natsURL = []string{"http://" + listen}, "nats://"+address
	w.files = "file://" + filepath.Join(w.dir, "sheaf", "files")
	args := []string{"--http", listen}
	if strings.HasPrefix(name, "object.") {
		_, natsServer := build(t)
		w.externalServer(natsServer, address)
		w.server.start("")
		args = append(args, "--nats", w.natsURL, "--replicas", "1", "--secret-key", chaosSecret)
	} else {
		args = append(args, "--nats-listen", address)
	}
	w.expiring = strings.Contains(name, ".delete.")
	purging := strings.HasPrefix(name, "purge.")
	if w.expiring {
		args = append(args, "--keep-files", "2s")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if w.quiet = w.quietRun(ctx); w.quiet == nil {
		return
	}
	p, within := w.serve("sheaf", args...), 20*time.Second
	point := fmt.Sprintf("%s:%d", name, n)
	if w.expiring || purging || again {
		p.start("")
	} else {
		p.start(point)
	}
	w.connect()
	for _, o := range orders {
		if err := w.submit(ctx, o); err != nil {
			w.problem("I1 order %d: %v", o.n, err)
		}
	}
	if again {
		p.hit(syscall.SIGKILL, point)
	}
	if w.expiring {
		w.settle(ctx)
		// The sweep at the start finds expired files.
		require.True(t, eventually(ctx, 30*time.Second, 100*time.Millisecond, func() bool {
			for _, o := range orders {
				if st, err := w.readLog(ctx); err != nil || storyOf(st, o) == nil ||
					storyOf(st, o).export.ExpiresAt.After(time.Now()) {
					return false
				}
			}
			return true
		}))
		p.hit(syscall.SIGKILL, point)
	}
	if purging {
		w.settle(ctx)
		// An export's pages are swept one minute after it ended, from the second pass on.
		select {
		case <-time.After(62 * time.Second):
		case <-ctx.Done():
		}
		p.hit(syscall.SIGKILL, point)
		within = 80 * time.Second
	}
	died := eventually(ctx, within, 50*time.Millisecond, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.blows[endFailpoint] > 0
	})
	if !died && n == 1 {
		w.problem("%s was never hit", point)
	}
	if w.expiring { // the next start finds the leftovers of the death
		eventually(ctx, 20*time.Second, 100*time.Millisecond, func() bool {
			stories, err := w.readLog(ctx)
			if err != nil {
				return false
			}
			for _, st := range stories {
				if !st.export.State.Terminal() || st.export.State.Status() == 2 &&
					st.export.State != "expired" {
					return false
				}
			}
			return true
		})
	}
	w.settle(ctx)
	w.audit(ctx)
	if len(w.problems) > 0 {
		w.problem("all of these at failpoint %s; the end of the log:\n%s", point, p.tail(15))
	}
	w.report()
	w.client.CloseIdleConnections()
}
