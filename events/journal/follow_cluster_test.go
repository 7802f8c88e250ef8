//go:build chaos

package journal_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// A follower whose server is cut off from the others receives each event while the log has a leader.
func TestFollowersOfAServerThatIsGone(t *testing.T) {
	t.Parallel()
	c := newServers(t)
	for i := range 3 {
		c.start(i)
	}
	nc := c.connect(c.url(1) + "," + c.url(2))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	var s *journal.Log
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s, err = journal.Provision(ctx, nc, journal.Config{
			Replicas: 3, SecretKey: eventstest.SecretKey, MaxPagesBytes: 64 << 20, MaxEventsBytes: 64 << 20,
			MaxSubmitBytes: 64 << 20,
		})
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		leader := c.leader(js, events.StreamEvents)
		if leader > 0 {
			return true
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+events.StreamEvents,
			[]byte(`{"placement":{"preferred":"s2"}}`))
		return false
	}, 30*time.Second, 200*time.Millisecond)

	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	defer func() {
		cancel()
		require.NoError(t, g.Wait())
	}()
	var applied []*atomic.Uint64
	there := func() (n int) {
		for _, server := range ephemeral(t, js) {
			if server == "s1" {
				n++
			}
		}
		return n
	}
	for there() == 0 {
		last := &atomic.Uint64{}
		applied = append(applied, last)
		g.Go(func() error {
			return s.Follow(ctx, 1, func(batch []events.Event) error {
				for _, ev := range batch {
					if ev.Sequence != last.Load()+1 {
						return fmt.Errorf("sequence %d after %d", ev.Sequence, last.Load())
					}
					last.Store(ev.Sequence)
				}
				return nil
			})
		})
		// A follower whose request had no response, or that lost its consumer, creates another, and the first
		// stays for followUnused. So there may be more consumers than followers.
		require.Eventually(t, func() bool { return len(ephemeral(t, js)) >= len(applied) }, 30*time.Second,
			10*time.Millisecond)
	}
	all := func(sequence uint64) func() bool {
		return func() bool {
			for _, a := range applied {
				if a.Load() < sequence {
					return false
				}
			}
			return true
		}
	}
	require.Eventually(t, all(appendMany(t, s, 0, 5)), 10*time.Second, time.Millisecond)

	metaLeader := c.runs[0].JetStreamIsLeader()
	n := there()
	for _, l := range c.links[0] {
		l.Cut()
	}
	defer func() {
		for _, l := range c.links[0] {
			l.Mend()
		}
	}()
	cut := time.Now()
	last := appendMany(t, s, 10, 5)
	// Two heartbeats are 2 s. An election of the cluster's leader takes 4 s and more.
	require.Eventually(t, all(last), 4*time.Second, time.Millisecond)
	t.Logf("%d of %d followers were on the server; it led the cluster: %t; all have the events after %s", n,
		len(applied), metaLeader, time.Since(cut).Round(time.Millisecond))
	require.Eventually(t, all(appendMany(t, s, 20, 600)), 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.JetStream().AccountInfo(ctx)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	require.Eventually(t, all(appendMany(t, s, 1000, 5)), 10*time.Second, time.Millisecond)
}
