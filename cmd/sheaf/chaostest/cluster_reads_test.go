//go:build chaos && linux

package chaostest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
)

const (
	// readsMayFail is how much longer than writes reads may fail after the loss of a server.
	readsMayFail = time.Second
	// refusedWhileReady is how long reads may be refused while /readyz returns 200.
	refusedWhileReady = 2 * time.Second
)

// attempt is one request of a probe.
type attempt struct {
	asked, answered time.Time
	ok              bool
	status          int
	msg             string
}

// probe continuously sends writes, reads and readiness checks to one ingress, without waiting for earlier
// responses.
type probe struct {
	w    *world
	base string
	last atomic.Pointer[string] // key of the newest accepted export

	mu                   sync.Mutex
	writes, reads, ready []attempt
}

// every calls ask every 50 ms until ctx ends, and waits for all responses.
func (p *probe) every(ctx context.Context, list *[]attempt,
	ask func(ctx context.Context, n int) (int, answer, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		wg.Go(func() {
			a := attempt{asked: time.Now()}
			status, said, err := ask(context.WithoutCancel(ctx), n)
			a.answered, a.status, a.msg, a.ok = time.Now(), status, said.Msg, err == nil &&
				status == http.StatusOK
			if err != nil {
				a.msg = err.Error()
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			*list = append(*list, a)
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *probe) run(ctx context.Context, round int) {
	p.mu.Lock()
	p.writes, p.reads, p.ready = nil, nil, nil
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		p.every(ctx, &p.writes, func(ctx context.Context, n int) (int, answer, error) {
			status, a, err := p.w.ask(ctx, http.MethodPost, p.base+"/v1/export/http", fmt.Appendf(nil,
				`{"ext_type":"XLSX","title":"%s %d %d","user_id":"reader","source_http":{"url":"http://127.0.0.1:1/","method":"GET"}}`, p.base, round, n))
			var data struct {
				HashKey string `json:"hash_key"`
			}
			if err == nil && status == http.StatusOK && json.Unmarshal(a.Data, &data) == nil {
				p.last.Store(&data.HashKey)
			}
			return status, a, err
		})
	})
	wg.Go(func() {
		p.every(ctx, &p.reads, func(ctx context.Context, _ int) (int, answer, error) {
			return p.w.ask(ctx, http.MethodGet, p.base+"/v1/export/detail?key="+*p.last.Load(), nil)
		})
	})
	wg.Go(func() {
		p.every(ctx, &p.ready, func(ctx context.Context, _ int) (int, answer, error) {
			return p.w.ask(ctx, http.MethodGet, p.base+"/readyz", nil)
		})
	})
	wg.Wait()
}

// quiet reports whether no request of the last seconds failed.
func (p *probe) quiet(lasts time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range [][]attempt{p.writes, p.reads, p.ready} {
		ok := false
		for _, a := range list {
			if time.Since(a.answered) < lasts {
				ok = true
				if !a.ok {
					return false
				}
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// failed returns the time between the first and the last failed request, by when they were sent, and their
// number.
func failed(list []attempt) (lasted time.Duration, count int, slowest time.Duration) {
	var first, last time.Time
	for _, a := range list {
		slowest = max(slowest, a.answered.Sub(a.asked))
		if a.ok {
			continue
		}
		count++
		if first.IsZero() || a.asked.Before(first) {
			first = a.asked
		}
		if a.asked.After(last) {
			last = a.asked
		}
	}
	return last.Sub(first), count, slowest
}

// refused returns the longest period of refused reads while /readyz returned 200.
func refused(reads, ready []attempt) (longest time.Duration) {
	type answered struct {
		at   time.Time
		what string
	}
	var all []answered
	add := func(list []attempt, yes, no string) {
		for _, a := range list {
			what := no
			if a.ok {
				what = yes
			}
			all = append(all, answered{a.answered, what})
		}
	}
	add(reads, "read", "refused")
	add(ready, "ready", "not ready")
	slices.SortFunc(all, func(a, b answered) int { return a.at.Compare(b.at) })
	var since time.Time
	isReady := true
	for _, a := range all {
		switch a.what {
		case "ready":
			isReady = true
		case "not ready":
			isReady, since = false, time.Time{}
		case "read":
			since = time.Time{}
		case "refused":
			if isReady && since.IsZero() {
				since = a.at
			}
			if isReady {
				longest = max(longest, a.at.Sub(since))
			}
		}
	}
	return longest
}

// why lists the distinct error messages of failed requests.
func why(list []attempt) string {
	var said []string
	for _, a := range list {
		if text := fmt.Sprintf("%d %s", a.status, a.msg); !a.ok && !slices.Contains(said, text) {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; ")
}

// leads lists the streams and follower consumers that a server leads.
func (c *cluster) leads(ctx context.Context, s *process) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var leads []string
	if st, err := c.js.Stream(ctx, events.StreamEvents); err == nil {
		if st.CachedInfo().Cluster.Leader == s.name {
			leads = append(leads, "the log")
		}
		consumers := st.ListConsumers(ctx)
		for info := range consumers.Info() {
			if info.Config.Durable == "" && info.Cluster != nil && info.Cluster.Leader == s.name {
				leads = append(leads, "a follower")
			}
		}
	}
	if len(leads) == 0 {
		return "nothing of the log"
	}
	return strings.Join(leads, ", ")
}

// TestClusterReads stops, kills or hangs each of three NATS servers in turn, while two ingresses serve writes
// and reads.
func TestClusterReads(t *testing.T) {
	seed := chaosSeed(t)
	w := newWorld(t, seed, nil)
	c := newCluster(t, w)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var probes []*probe
	for i := range 2 {
		address := freeAddress()
		w.ingresses = append(w.ingresses, "http://"+address)
		probes = append(probes, &probe{w: w, base: "http://" + address})
		w.serve(fmt.Sprintf("ingress-%d", i+1), "--roles", "ingress", "--nats", w.natsURL,
			"--secret-key", chaosSecret,
			"--http", address, "--public-url", "http://127.0.0.1:8080").start("")
	}
	// The ingresses wait for servers that start one after another.
	for _, s := range c.servers {
		s.start("")
	}
	w.connect()
	if !eventually(ctx, time.Minute, 50*time.Millisecond, func() bool {
		return c.ready(ctx, w.ingresses[0]) == http.StatusOK && c.ready(ctx, w.ingresses[1]) == http.StatusOK
	}) || !c.whole(ctx) {
		w.problem("I12 the cluster does not come up")
		c.report()
		return
	}
	for _, p := range probes {
		_, a, err := w.insist(ctx, http.MethodPost, "/v1/export/http",
			[]byte(`{"ext_type":"XLSX","title":"first","user_id":"reader","source_http":{"url":"http://127.0.0.1:1/","method":"GET"}}`))
		var data struct {
			HashKey string `json:"hash_key"`
		}
		if err != nil || json.Unmarshal(a.Data, &data) != nil {
			w.problem("I1 the first export was not accepted: %v", err)
			c.report()
			return
		}
		p.last.Store(&data.HashKey)
	}
	t.Logf("CHAOS_SEED=%d: all is up after %s", seed, time.Since(began).Round(100*time.Millisecond))

	lose := func(round int, s *process, how string, lost, found func()) {
		led := c.leads(ctx, s)
		probing, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, p := range probes {
			wg.Go(func() { p.run(probing, round) })
		}
		eventually(ctx, 5*time.Second, 20*time.Millisecond, func() bool {
			return probes[0].quiet(300*time.Millisecond) && probes[1].quiet(300*time.Millisecond)
		})
		lostAt := time.Now()
		lost()
		// It stays down until the others lead and serve again without it.
		if !eventually(ctx, 60*time.Second, 100*time.Millisecond, func() bool {
			return time.Since(lostAt) > 6*time.Second && probes[0].quiet(3*time.Second) &&
				probes[1].quiet(3*time.Second)
		}) {
			w.problem("I12 %s %s: requests fail for a minute", s.name, how)
		}
		stop()
		wg.Wait()
		found()
		for i, p := range probes {
			writes, writesFailed, _ := failed(p.writes)
			reads, readsFailed, slowest := failed(p.reads)
			notReady, notReadyCount, _ := failed(p.ready)
			longest := refused(p.reads, p.ready)
			t.Logf("%s, which led %s, was %s: ingress %d: writes failed for %s (%d of %d), reads for %s (%d of %d, slowest answer %s), not ready for %s (%d); reads refused while ready for %s at most",
				s.name, led, how, i+1, writes.Round(10*time.Millisecond), writesFailed, len(p.writes),
				reads.Round(10*time.Millisecond), readsFailed, len(p.reads),
				slowest.Round(10*time.Millisecond), notReady.Round(10*time.Millisecond), notReadyCount,
				longest.Round(10*time.Millisecond))
			t.Logf("  writes: %s\n  reads: %s\n  ready: %s", why(p.writes), why(p.reads), why(p.ready))
			if reads > writes+readsMayFail {
				w.problem("I12 %s %s: reads failed for %s, writes for %s", s.name, how, reads, writes)
			}
			if longest > refusedWhileReady {
				w.problem("I12 %s %s: reads were refused for %s while the ingress was ready",
					s.name, how, longest)
			}
		}
		if !c.whole(ctx) {
			w.problem("I12 the cluster is not whole again")
		}
	}
	for i, s := range c.servers {
		lose(i, s, "killed", func() { s.shutdown(syscall.SIGKILL) }, func() { s.start("") })
	}
	if leader := c.led(ctx, events.StreamEvents, nil); leader != nil {
		lose(3, leader, "stopped", func() { leader.signal(syscall.SIGSTOP) },
			func() { leader.signal(syscall.SIGCONT) })
	}
	t.Logf("done after %s", time.Since(began).Round(100*time.Millisecond))
	c.report()
}
