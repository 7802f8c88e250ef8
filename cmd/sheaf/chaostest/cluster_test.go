//go:build chaos && linux

package chaostest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// cluster is three nats-servers that can each be killed, stopped, and cut off from the other two.
type cluster struct {
	*world
	servers []*process
	clients []string             // client addresses, by server
	links   [][]*eventstest.Link // by the two servers that they connect
}

// newCluster creates a world on three servers that are not started yet.
func newCluster(t testing.TB, w *world) *cluster {
	_, natsServer := build(t)
	c := &cluster{world: w}
	var listen []string
	for range 3 {
		c.clients = append(c.clients, freeAddress())
		listen = append(listen, freeAddress())
	}
	c.links = make([][]*eventstest.Link, 3)
	for i := range 3 {
		var routes []string
		for j := range 3 {
			if i != j {
				link := eventstest.NewLink(t, freeAddress(), listen[j])
				routes = append(routes, link.Address())
				c.links[i], c.links[j] = append(c.links[i], link), append(c.links[j], link)
			}
		}
		name := fmt.Sprintf("nats-%d", i+1)
		config := filepath.Join(w.dir, name+".conf")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
			server_name: %s
			listen: %s
			max_payload: 8MB
			jetstream { store_dir: %q, sync_interval: always, max_file_store: 64GB }
			# Nobody listens where the servers tell each other to find them, so that all goes by the links.
			cluster { name: sheaf, listen: %s, advertise: %s, routes: ["nats://%s"] }
			`, name, c.clients[i], filepath.Join(w.dir, name), listen[i], freeAddress(), strings.Join(routes, `", "nats://`)), 0o600))
		c.servers = append(c.servers, w.newProcess(name, natsServer, "-c", config))
	}
	w.natsURL, w.files = strings.Join(c.clients, ","), "nats://sheaf-files"
	t.Cleanup(func() {
		for _, s := range c.servers {
			s.shutdown(syscall.SIGKILL)
		}
	})
	return c
}

// leader returns the leader of a stream, nil while there is none.
func (c *cluster) leader(ctx context.Context, stream string) *process {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := c.js.Stream(ctx, stream)
	if err != nil || st.CachedInfo().Cluster == nil {
		return nil
	}
	for _, s := range c.servers {
		if s.name == st.CachedInfo().Cluster.Leader {
			return s
		}
	}
	return nil
}

// whole waits until every stream has a leader and two current replicas.
func (c *cluster) whole(ctx context.Context) bool {
	return eventually(ctx, time.Minute, 100*time.Millisecond, func() bool {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		streams := c.js.ListStreams(ctx)
		count := 0
		for info := range streams.Info() {
			if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
				return false
			}
			for _, r := range info.Cluster.Replicas {
				if r.Offline || !r.Current {
					return false
				}
			}
			count++
		}
		return streams.Err() == nil && count >= 9
	})
}

// once submits an order to an ingress without retries.
func (c *cluster) once(ctx context.Context, base string, o *order) (status int, retryAfter string,
	a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/export/"+o.kind(),
		bytes.NewReader(o.body(c.world, false)))
	if err != nil {
		return 0, "", a, err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return 0, "", a, err
	}
	defer func() { _ = res.Body.Close() }()
	return res.StatusCode, res.Header.Get("Retry-After"), a, json.NewDecoder(res.Body).Decode(&a)
}

func (c *cluster) ready(ctx context.Context, base string) int {
	status, _, err := c.ask(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return 0
	}
	return status
}

// led waits until a stream has a leader other than the given one.
func (c *cluster) led(ctx context.Context, stream string, other *process) (leader *process) {
	if !eventually(ctx, 30*time.Second, 20*time.Millisecond, func() bool {
		leader = c.leader(ctx, stream)
		return leader != nil && leader != other
	}) {
		c.problem("I12 %s has no leader", stream)
		return nil
	}
	return leader
}

// overtake stops the leader of a stream, or cuts it off from the other two, for longer than an election
// takes. The old leader still believes that it leads: a stopped one after it resumes, one that is cut off all
// the time. Clients stay connected to both. Orders are submitted meanwhile, the first one by NATS, to the old
// leader too.
func (c *cluster) overtake(ctx context.Context, stream string, cut bool, lasts time.Duration,
	orders []*order) {
	leader := c.led(ctx, stream, nil)
	if leader == nil {
		return
	}
	at := slices.Index(c.servers, leader)
	direct, err := nats.Connect(c.clients[at], nats.IgnoreDiscoveredServers())
	if err != nil {
		c.problem("I12 %s: %v", leader.name, err)
		return
	}
	defer direct.Close()
	how := "stopped"
	if cut {
		how = "cut off"
		for _, l := range c.links[at] {
			l.Cut()
		}
	} else {
		leader.signal(syscall.SIGSTOP)
		if !eventually(ctx, 5*time.Second, time.Millisecond, leader.stopped) { // shortly after the signal
			c.problem("I12 %s does not stop", leader.name)
		}
	}
	c.disturbed()
	begun := time.Now()
	over, cancel := context.WithTimeout(ctx, lasts) // the duration is the fault
	defer cancel()
	if c.nc.ConnectedServerName() == leader.name {
		_ = c.nc.ForceReconnect() // the suite observes from the side with a quorum
	}
	var wg sync.WaitGroup
	refused, acceptedAfter := 0, make([]time.Duration, len(orders))
	for i, o := range orders {
		wg.Go(func() {
			if err := c.submit(ctx, o); err != nil {
				c.problem("I1 order %d: %v", o.n, err)
			}
			acceptedAfter[i] = time.Since(begun).Round(10 * time.Millisecond)
		})
	}
	var elected sync.WaitGroup
	var now *process
	var electedAfter time.Duration
	elected.Go(func() {
		now = c.led(ctx, stream, leader)
		electedAfter = time.Since(begun)
	})
	for js, _ := jetstream.New(direct); over.Err() == nil; refused++ {
		// With the id of an order that is submitted anyway it is the same submission, whenever it is written.
		try, cancel := context.WithTimeout(over, time.Second)
		if _, err := js.PublishMsg(try, c.submission(orders[0])); err == nil {
			c.problem("I1 %s acknowledged a submission while it was %s", leader.name, how)
		}
		cancel()
	}
	elected.Wait()
	if cut {
		for _, l := range c.links[at] {
			l.Mend()
		}
	} else {
		leader.signal(syscall.SIGCONT)
	}
	c.disturbed()
	wg.Wait()
	if now != nil {
		c.t.Logf("%s, the leader of %s, was %s for %s: %s led after %s, submissions accepted after %v, %d not acknowledged by the old leader",
			leader.name, stream, how, lasts, now.name, electedAfter.Round(10*time.Millisecond),
			acceptedAfter, refused)
	}
}

// killLeader kills the leader of a stream for a while. An order submitted at that moment is accepted once
// there is a new leader.
func (c *cluster) killLeader(ctx context.Context, stream string, away time.Duration, o *order) {
	leader := c.led(ctx, stream, nil)
	if leader == nil {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	leader.shutdown(syscall.SIGKILL)
	killed := time.Now()
	back.Go(func() {
		time.Sleep(time.Until(killed.Add(away))) // the duration is the fault
		leader.start("")
	})
	// Only a leader answers. The old one can only if it was elected again.
	c.led(ctx, stream, nil)
	electedAfter := time.Since(killed)
	if err := c.submit(ctx, o); err != nil {
		c.problem("I1 order %d: %v", o.n, err)
	}
	c.t.Logf("%s, the leader of %s, was killed: a new one after %s, a submission accepted after %s",
		leader.name, stream, electedAfter.Round(10*time.Millisecond),
		time.Since(killed).Round(10*time.Millisecond))
}

// loseQuorum stops two of the servers for a while. All requests meanwhile are refused.
func (c *cluster) loseQuorum(ctx context.Context, lasts time.Duration, orders []*order) {
	stopped := c.servers[:2]
	for _, s := range stopped {
		s.shutdown(syscall.SIGKILL)
	}
	lost := time.Now()
	notReady := make([]time.Duration, len(c.ingresses))
	var mu sync.Mutex
	refused, slowest := 0, time.Duration(0)
	var asking sync.WaitGroup
	for i, base := range c.ingresses {
		asking.Go(func() {
			n := i
			eventually(ctx, lasts, 200*time.Millisecond, func() bool { // retry like a caller
				asked := time.Now()
				status, retryAfter, a, err := c.once(ctx, base, orders[n%len(orders)])
				if err != nil || status != http.StatusServiceUnavailable || retryAfter == "" {
					c.problem("I1 without a quorum a submission was answered %d %q, Retry-After %q, %v",
						status, a.Msg, retryAfter, err)
				}
				mu.Lock()
				refused, slowest = refused+1, max(slowest, time.Since(asked))
				mu.Unlock()
				n++
				return false // as long as there is no quorum
			})
		})
		asking.Go(func() {
			if eventually(ctx, lasts, 50*time.Millisecond,
				func() bool { return c.ready(ctx, base) == http.StatusServiceUnavailable }) {
				notReady[i] = time.Since(lost)
			}
		})
	}
	asking.Wait()
	for i, after := range notReady {
		if after == 0 {
			c.problem("I12 %s stays ready without a quorum", c.ingresses[i])
		}
	}
	for _, s := range stopped {
		s.start("")
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, o := range orders {
		wg.Go(func() {
			if err := c.submit(ctx, o); err != nil {
				c.problem("I1 order %d: %v", o.n, err)
			}
		})
	}
	wg.Wait()
	accepted := time.Since(began)
	ready := eventually(ctx, 30*time.Second, 50*time.Millisecond, func() bool {
		for _, base := range c.ingresses {
			if c.ready(ctx, base) != http.StatusOK {
				return false
			}
		}
		return true
	})
	if !ready {
		c.problem("I12 not ready again after the servers are back")
	}
	c.t.Logf("without a quorum for %s: not ready after %v; %d submissions refused, the slowest after %s; accepted %s after the servers were started",
		time.Since(lost).Round(time.Second), notReady, refused, slowest.Round(time.Millisecond),
		accepted.Round(10*time.Millisecond))
}

// TestCluster runs separate processes on three NATS servers with three replicas of everything. Leaders are
// cut off and stopped until others take their role, and killed; then two servers are stopped at once. The
// invariants are those of the chaos suite.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and kills processes for a minute")
	}
	t.Parallel()
	seed := chaosSeed(t)
	r := rand.New(rand.NewPCG(seed, 3))
	const spread = 60 * time.Second // of the submissions: over six elections
	count := setting(t, "CHAOS_EXPORTS", 40)
	orders := newOrders(r, count, spread)
	extra := newOrders(r, 6+4*3, 0) // submitted at specific moments
	for i, o := range extra {
		o.n, o.durable, o.cancel, o.broken, o.retry = count+i, i%3 == 0 && i >= 6, 0, 0, false
	}
	orders = append(orders, extra...)
	for _, o := range orders {
		o.hangs = false // for 15 s, which the chaos suite covers
		// A submission whose leader dies is written but gets 503, so it is repeated. If its export were
		// broken, it would have failed by then and would start again, which the auditor cannot distinguish
		// from a fault.
		o.broken, o.retry = 0, o.retry && o.cancel > 0
	}
	w := newWorld(t, seed, orders)
	c := newCluster(t, w)
	t.Logf("CHAOS_SEED=%d: %d exports on three servers, in %s", seed, len(orders), w.dir)
	began := time.Now()
	if w.quiet = w.quietRun(t.Context()); w.quiet == nil {
		return
	}
	t.Logf("undisturbed: %s", time.Since(began).Round(100*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	for _, s := range c.servers {
		s.start("")
	}
	for role, copies := range map[string]int{"ingress": 2, "crawler": 2, "assembler": 2, "notifier": 1} {
		for i := range copies {
			args := []string{"--roles", role, "--nats", w.natsURL, "--secret-key", chaosSecret}
			if role == "ingress" {
				http := freeAddress()
				w.ingresses = append(w.ingresses, "http://"+http)
				args = append(args, "--http", http)
			}
			w.serve(fmt.Sprintf("%s-%d", role, i+1), append(args, "--public-url", "http://127.0.0.1:8080")...)
		}
	}
	for _, p := range w.processes {
		p.start("")
	}
	w.connect()
	if !eventually(ctx, time.Minute, 50*time.Millisecond, func() bool {
		return c.ready(ctx, w.ingresses[0]) == http.StatusOK && c.ready(ctx, w.ingresses[1]) == http.StatusOK
	}) || !c.whole(ctx) {
		w.problem("I12 the cluster does not come up")
		c.report()
		return
	}
	t.Logf("all is up after %s", time.Since(began).Round(100*time.Millisecond))
	begun := time.Now()
	var wg sync.WaitGroup
	for _, o := range orders[:count] {
		wg.Go(func() {
			if err := w.live(ctx, o); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		})
	}
	for i, stream := range []string{events.StreamEvents, events.StreamEvents, events.StreamPages,
		events.StreamEvents} {
		c.overtake(ctx, stream, i == 0, 10*time.Second, extra[6+3*i:][:3])
		if !c.whole(ctx) {
			w.problem("I12 the cluster is not whole again")
		}
	}
	for i, stream := range []string{events.StreamEvents, events.StreamPages} {
		c.killLeader(ctx, stream, 2*time.Second, extra[i])
		if !c.whole(ctx) {
			w.problem("I12 the cluster is not whole again")
		}
	}
	c.loseQuorum(ctx, 8*time.Second, extra[2:6])
	wg.Wait()
	t.Logf("all submitted after %s", time.Since(begun).Round(100*time.Millisecond))
	w.settle(ctx)
	t.Logf("settled after %s", time.Since(begun).Round(100*time.Millisecond))
	w.audit(ctx)
	t.Logf("audited after %s; blows %v", time.Since(began).Round(100*time.Millisecond), w.blows)
	c.report()
}

func (c *cluster) report() {
	for _, s := range c.servers {
		for _, complaint := range s.complaints() {
			c.problem("I12 %s", complaint)
		}
	}
	c.world.report()
}
