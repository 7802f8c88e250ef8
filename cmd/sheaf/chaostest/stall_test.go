//go:build chaos && linux

package chaostest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestChaosStalls stops a process right before a write, for so long that another process does all its work,
// and then lets it continue. The fences must refuse the late write, or it must be identical.
func TestChaosStalls(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for work to be handed out again")
	}
	t.Parallel()
	seed := chaosSeed(t)
	points := []string{"page.before:1", "page.before:3", "starts.after:1", "object.meta.after:1",
		"ack.before:2", "post-callback.after:1"}
	for n := 1; n <= 6; n++ { // events of several kinds
		points = append(points, fmt.Sprintf("append.before:%d", n))
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 13) // stalls mostly wait
	for _, point := range points {
		if only := os.Getenv("CHAOS_FAILPOINT"); only != "" && !strings.HasPrefix(point, only) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			stallAt(t, seed, point)
		})
	}
	wg.Wait()
}

// stallAt runs one stall.
func stallAt(t *testing.T, seed uint64, point string) {
	orders := []*order{
		{n: 0, pages: 4, limit: 7, last: 3, headers: true, callback: "http"},
		{n: 1, raw: true, pages: 1, limit: 40, last: 40, callback: "http"},
		{n: 2, wide: true, pages: 2, limit: 200, last: 100, callback: "http"},
	}
	// A first start is not recorded: the process must first die during an export.
	again := strings.HasPrefix(point, "starts.")
	if again {
		orders = append(orders,
			&order{n: 3, pages: 2, limit: 5, last: 5, slow: 2 * time.Second, callback: "http"})
	}
	w := newWorld(t, seed, orders)
	defer w.close()
	_, natsServer := build(t)
	w.externalServer(natsServer, freeAddress())
	both := []*process{}
	for i := range 2 {
		http := freeAddress()
		w.ingresses = append(w.ingresses, "http://"+http)
		both = append(both, w.serve(fmt.Sprintf("sheaf-%d", i+1), "--http", http, "--public-url",
			w.ingresses[0],
			"--nats", w.natsURL, "--replicas", "1", "--secret-key", chaosSecret))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if w.quiet = w.quietRun(ctx); w.quiet == nil {
		return
	}
	w.server.start("")
	if again {
		both[0].start("")
	} else {
		both[0].start(point + ":stop")
	}
	w.connect()
	var submitting sync.WaitGroup
	for _, o := range orders {
		submitting.Go(func() {
			if err := w.submit(ctx, o); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		})
	}
	if again {
		submitting.Wait()
		both[0].hit(syscall.SIGKILL, point+":stop")
	}
	if !eventually(ctx, 30*time.Second, 20*time.Millisecond, both[0].stopped) {
		w.problem("%s was never hit", point)
	}
	w.disturbed()
	stalled := time.Now()
	both[1].start("")
	submitting.Wait()
	w.settle(ctx)
	t.Logf("%s: the other was through after %s", point, time.Since(stalled).Round(time.Second))
	w.disturbed()
	both[0].signal(syscall.SIGCONT)
	w.settle(ctx)
	w.audit(ctx)
	if len(w.problems) > 0 {
		w.problem("all of these after a stall at %s; the end of its log:\n%s", point, both[0].tail(15))
	}
	w.report()
}
