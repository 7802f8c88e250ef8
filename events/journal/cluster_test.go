//go:build chaos

package journal_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// servers are three NATS servers of one cluster, not started yet.
type servers struct {
	t     testing.TB
	opts  []*server.Options
	runs  []*server.Server
	links [][]*eventstest.Link // by the two servers that they connect
	urls  string
}

func newServers(t testing.TB) *servers {
	c := &servers{t: t, runs: make([]*server.Server, 3), links: make([][]*eventstest.Link, 3)}
	for i := range 3 {
		o := &server.Options{
			ServerName: fmt.Sprintf("s%d", i+1), Host: "127.0.0.1", Port: eventstest.FreePort(),
			NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30, MaxPayload: 8 << 20,
			Cluster: server.ClusterOpts{Name: "sheaf", Host: "127.0.0.1", Port: eventstest.FreePort()},
		}
		// Nothing listens on the advertised address, so that all connections use the links.
		o.Cluster.Advertise = fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
		c.opts = append(c.opts, o)
		c.urls += c.url(i) + ","
	}
	for i, from := range c.opts {
		for j, to := range c.opts {
			if i != j {
				link := eventstest.NewLink(t, "", fmt.Sprintf("127.0.0.1:%d", to.Cluster.Port))
				from.Routes = append(from.Routes, &url.URL{Scheme: "nats", Host: link.Address()})
				c.links[i], c.links[j] = append(c.links[i], link), append(c.links[j], link)
			}
		}
	}
	t.Cleanup(func() {
		for i := range c.runs {
			c.stop(i)
		}
	})
	return c
}

func (c *servers) start(i int) {
	srv, err := server.NewServer(c.opts[i].Clone())
	require.NoError(c.t, err)
	srv.Start()
	c.runs[i] = srv
}

func (c *servers) stop(i int) {
	if c.runs[i] != nil {
		c.runs[i].Shutdown()
		c.runs[i].WaitForShutdown()
		c.runs[i] = nil
	}
}

func (c *servers) url(i int) string { return fmt.Sprintf("nats://127.0.0.1:%d", c.opts[i].Port) }

func (c *servers) connect(urls string) *nats.Conn {
	var nc *nats.Conn
	require.Eventually(c.t, func() (ok bool) {
		var err error
		nc, err = nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	c.t.Cleanup(nc.Close)
	return nc
}

// leader returns the index of a stream's leader once the other two are current; else -1.
func (c *servers) leader(js jetstream.JetStream, stream string) int {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return -1
	}
	cluster := st.CachedInfo().Cluster
	if len(cluster.Replicas) != 2 ||
		slices.ContainsFunc(cluster.Replicas, func(r *jetstream.PeerInfo) bool {
			return r.Offline ||
				!r.Current
		}) {
		return -1
	}
	return slices.IndexFunc(c.opts, func(o *server.Options) bool { return o.ServerName == cluster.Leader })
}

// Processes that start together all come up, even while a server is down. When the leader dies, no replica
// reports data as missing.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newServers(t)
	for i := range 3 {
		c.start(i)
	}
	nc := c.connect(c.urls)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond, "no leader")

	c.stop(2)
	handles := make([]*journal.Log, 5)
	var g errgroup.Group
	for i := range handles {
		nc := c.connect(c.urls)
		g.Go(func() (err error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			handles[i], err = journal.Provision(ctx, nc, journal.Config{
				Replicas: 3, SecretKey: eventstest.SecretKey, MaxPagesBytes: 64 << 20,
				MaxEventsBytes: 64 << 20, MaxSubmitBytes: 64 << 20,
			})
			return err
		})
	}
	begun := time.Now()
	require.NoError(t, g.Wait())
	t.Logf("provisioned after %s", time.Since(begun).Round(10*time.Millisecond))
	c.start(2)

	s := handles[0]
	page := pages.Page{
		ID: pages.ID{Tenant: events.DefaultTenant, Key: "0000000000000000000000000000000a",
			Run: 1, Number: 1},
		Rows: []byte(`[{"a":1}]`), RowCount: 1, Total: 1, TotalPages: 1, Attempts: 1,
	}
	stored, err := s.Pages().Publish(t.Context(), page)
	require.NoError(t, err)
	require.True(t, stored)
	// The server that was down has no vote before it has the stream.
	leader := -1
	require.Eventually(t, func() bool {
		leader = c.leader(js, events.StreamPages)
		return leader >= 0
	}, 30*time.Second, 50*time.Millisecond)
	require.NoError(t, s.Quorum(t.Context()))

	begun = time.Now()
	c.stop(leader)
	unavailable := 0
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		have, err := s.Pages().List(ctx, page.Tenant, page.Key, page.Run, 0)
		if err != nil {
			require.ErrorIs(t, err, events.ErrUnavailable)
			unavailable++
			return false
		}
		require.Equal(t, []int{1}, have)
		return true
	}, time.Minute, 10*time.Millisecond)
	t.Logf("after the leader went, pages were listed after %s and %d answers that the stream has no leader",
		time.Since(begun).Round(10*time.Millisecond), unavailable)
	_, err = s.Pages().Get(t.Context(), page.ID)
	require.NoError(t, err)

	// Without a quorum nothing is accepted, and callers get an error.
	c.stop((leader + 1) % 3)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return errors.Is(s.Quorum(ctx), events.ErrUnavailable)
	}, 30*time.Second, 50*time.Millisecond)
	page.Number = 2
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.Pages().Publish(ctx, page)
	require.ErrorIs(t, err, events.ErrUnavailable)
}

// A leader that is cut off from the others believes that it leads for ten seconds and more, while another is
// elected. Its answers are not trusted.
func TestALeaderThatWasCutOffIsNotTrusted(t *testing.T) {
	t.Parallel()
	c := newServers(t)
	for i := range 3 {
		c.start(i)
	}
	handle := func(urls string) (s *journal.Log, js jetstream.JetStream) {
		nc := c.connect(urls)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s, err = journal.Provision(ctx, nc, journal.Config{
				PublishTimeout: time.Second, // the old leader acknowledges no publish
				Replicas:       3, SecretKey: eventstest.SecretKey, MaxPagesBytes: 64 << 20,
				MaxEventsBytes: 64 << 20, MaxSubmitBytes: 64 << 20,
			})
			return err == nil
		}, time.Minute, 50*time.Millisecond)
		return s, js
	}
	alone, js := handle(c.url(0))
	others, _ := handle(c.url(1) + "," + c.url(2))
	request(t, others, "0000000000000000000000000000000a")
	for _, stream := range []string{events.StreamEvents, events.StreamPages} {
		require.Eventually(t, func() bool {
			if c.leader(js, stream) == 0 {
				return true
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream,
				[]byte(`{"placement":{"preferred":"s1"}}`))
			return false
		}, 30*time.Second, 200*time.Millisecond)
	}
	before, err := alone.LastSequence(t.Context())
	require.NoError(t, err)

	for _, l := range c.links[0] {
		l.Cut()
	}
	defer func() {
		for _, l := range c.links[0] {
			l.Mend()
		}
	}()
	begun := time.Now()
	page := pages.Page{
		ID: pages.ID{Tenant: events.DefaultTenant, Key: "0000000000000000000000000000000a",
			Run: 1, Number: 1},
		Rows: []byte(`[{"a":1}]`), RowCount: 1, Total: 1, TotalPages: 1, Attempts: 1,
	}
	require.Eventually(t, func() bool {
		_, err := others.Pages().Publish(t.Context(), page)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		now, err := others.LastSequence(t.Context())
		return err == nil && now == before
	}, 30*time.Second, 50*time.Millisecond)
	request(t, others, "0000000000000000000000000000000b")
	t.Logf("the others have written after %s", time.Since(begun).Round(10*time.Millisecond))

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = alone.LastSequence(ctx)
	assert.ErrorIs(t, err, events.ErrUnavailable, "the log has a newer event")
	_, err = alone.Pages().List(ctx, page.Tenant, page.Key, page.Run, 0)
	assert.ErrorIs(t, err, events.ErrUnavailable, "there is a page")
	_, err = alone.Pages().Get(ctx, page.ID)
	assert.ErrorIs(t, err, events.ErrUnavailable, "there is a page")
	_, err = alone.Marks(ctx, nil)
	require.ErrorIs(t, err, events.ErrUnavailable)
}
