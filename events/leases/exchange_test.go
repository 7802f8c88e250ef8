package leases_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/leases"

	"github.com/stretchr/testify/require"
)

// source counts the requests of all processes that are in flight.
type source struct {
	mu        sync.Mutex
	now, peak int
}

func (s *source) add(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += n
	s.peak = max(s.peak, s.now)
	return s.now
}

func (s *source) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// crawler keeps as many requests in flight as it may.
type crawler struct {
	source   *source
	exchange *leases.Exchange
	limit    int
	lasts    time.Duration // of a request

	mu       sync.Mutex
	inFlight int
	wanted   int
	drains   bool
	requests sync.WaitGroup
}

func (c *crawler) serve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := []leases.Limit{{Resource: "host:x", Most: c.limit}}
	for !c.drains && c.inFlight < c.wanted && c.exchange.Begin(limit, func(string) int { return c.inFlight }) {
		c.inFlight++
		c.demand()
		c.source.add(1)
		c.requests.Go(func() {
			<-time.After(c.lasts) // a request takes so long
			c.source.add(-1)
			c.mu.Lock()
			c.inFlight--
			c.demand()
			c.mu.Unlock()
			c.serve()
		})
	}
}

func (c *crawler) demand() {
	c.exchange.Demand("host:x", leases.Demand{Limit: c.limit, InFlight: c.inFlight, Wanted: max(c.wanted, c.inFlight), Most: 64})
}

func (c *crawler) want(n int) {
	c.mu.Lock()
	c.wanted = n
	c.demand()
	c.mu.Unlock()
	c.serve()
}

// begin starts a crawler. stop ends it in order.
func begin(t *testing.T, srv *embedded.Server, s *source, limit int) (c *crawler, stop func()) {
	t.Helper()
	log := eventstest.JournalOn(t, srv, journal.Config{Shared: true})
	c = &crawler{source: s, limit: limit, lasts: 10 * time.Millisecond}
	c.exchange = leases.New(log.Leases(), slog.New(slog.DiscardHandler), c.serve)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.exchange.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		c.mu.Lock()
		c.drains, c.wanted = true, 0
		c.mu.Unlock()
		c.requests.Wait()
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return c, stop
}

func TestProcessesShareALimit(t *testing.T) {
	t.Parallel()
	const limit = 16
	srv, s := eventstest.Server(t, ""), &source{}
	full := func(why string) {
		t.Helper()
		require.Eventually(t, func() bool { return s.add(0) == limit }, 5*time.Second, 100*time.Microsecond, why)
	}
	first, stopFirst := begin(t, srv, s, limit)
	first.want(64)
	full("one process")
	second, stopSecond := begin(t, srv, s, limit)
	second.want(64)
	third, _ := begin(t, srv, s, limit)
	third.want(64)
	for _, c := range []*crawler{first, second, third} {
		require.Eventually(t, func() bool {
			share := c.exchange.Usable("host:x")
			return share == 5 || share == 6
		}, 5*time.Second, time.Millisecond)
	}
	full("three processes")
	stopFirst()
	require.Eventually(t, func() bool {
		return second.exchange.Usable("host:x") == 8 && third.exchange.Usable("host:x") == 8
	}, 5*time.Second, time.Millisecond, "what a process gives up, the others get")
	full("two processes")
	second.want(2)
	require.Eventually(t, func() bool { return third.exchange.Usable("host:x") >= 12 }, 8*time.Second, time.Millisecond)
	stopSecond()
	full("the last one")
	held, wanted := third.exchange.Sums()
	require.LessOrEqual(t, held, limit)
	require.Equal(t, 64, wanted)
	require.Equal(t, limit, s.most(), "never more")
}

// The first request of an idle process waits for one write.
func TestTheFirstRequestWaitsForOneWrite(t *testing.T) {
	t.Parallel()
	srv, s := eventstest.Server(t, ""), &source{}
	c, _ := begin(t, srv, s, 32)
	writes, err := eventstest.Connect(t, srv).SubscribeSync("sheaf.lease.*")
	require.NoError(t, err)
	c.want(1)
	require.Eventually(t, func() bool { return s.most() > 0 }, 5*time.Second, 100*time.Microsecond)
	n, _, err := writes.Pending()
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// A process without others has the whole limit.
func TestWithoutOtherProcesses(t *testing.T) {
	t.Parallel()
	log := eventstest.Journal(t)
	require.Nil(t, log.Leases())
	x := leases.New(nil, slog.New(slog.DiscardHandler), func() {})
	for inFlight := range 6 {
		begins := x.Begin([]leases.Limit{{Resource: "host:x", Most: 5}}, func(string) int { return inFlight })
		require.Equal(t, inFlight < 5, begins)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, x.Run(ctx))
}

// When the servers are away the leases are good until they expire, and then no longer.
func TestLeasesExpireWithoutServers(t *testing.T) {
	eventstest.LongRunning(t)
	t.Parallel()
	srv, s := eventstest.Server(t, ""), &source{}
	log := &eventstest.Log{}
	c, _ := begin(t, srv, s, 8)
	c.exchange = leases.New(eventstest.JournalOn(t, srv, journal.Config{Shared: true}).Leases(), log.Logger(), c.serve)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = c.exchange.Run(ctx) })
	defer done.Wait()
	defer cancel()
	c.want(20)
	require.Eventually(t, func() bool { return c.exchange.Usable("host:x") == 8 }, 5*time.Second, time.Millisecond)
	srv.Stop()
	stopped := time.Now()
	require.Eventually(t, func() bool { return c.exchange.Usable("host:x") == 0 }, 15*time.Second, time.Millisecond)
	require.Greater(t, time.Since(stopped), 8*time.Second)
	require.Eventually(t, func() bool { return len(log.With("no requests are sent")) == 1 }, 5*time.Second, 10*time.Millisecond)
	c.want(0)
}
