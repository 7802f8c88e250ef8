package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func overTCP(t *testing.T, url string) *journal.Log {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectJitter(0, 0))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	s, err := journal.Provision(t.Context(), nc,
		journal.Config{SecretKey: eventstest.SecretKey, PublishTimeout: time.Second})
	require.NoError(t, err)
	return s
}

// appendMany writes n exports and returns the last sequence.
func appendMany(t *testing.T, s *journal.Log, from, n int) uint64 {
	t.Helper()
	var last uint64
	for i := from; i < from+n; i++ {
		x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", i)}, "",
			always(requested()))
		require.NoError(t, err)
		last = x.LastSeq
	}
	return last
}

// follow collects sequences until one is reached, and checks that none is missing or repeated.
func follow(t *testing.T, s *journal.Log, from, until uint64) (batches int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next := max(from, 1)
	require.NoError(t, s.Follow(ctx, from, func(batch []events.Event) error {
		batches++
		require.NotEmpty(t, batch)
		require.LessOrEqual(t, len(batch), 512)
		for _, ev := range batch {
			require.Equal(t, next, ev.Sequence)
			next++
		}
		if next > until {
			cancel()
		}
		return nil
	}))
	require.Equal(t, until+1, next)
	return batches
}

func TestFollowIsOrderedAndComplete(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	last := appendMany(t, s, 0, 1200)
	batches := follow(t, s, 0, last)
	require.Less(t, batches, 1200, "events that are there come together")
	follow(t, s, 1, last)
	follow(t, s, 700, last)
	follow(t, s, last, last)
}

// A follower that waits at the end of the log receives each event as it is written.
func TestFollowWaitsForNewEvents(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	last := appendMany(t, s, 0, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan uint64, 10)
	done := make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, last+1, func(batch []events.Event) error {
			for _, ev := range batch {
				got <- ev.Sequence
			}
			return nil
		})
	}()
	for n := range 3 {
		written := appendMany(t, s, 10+n, 1)
		require.Equal(t, written, <-got)
	}
	cancel()
	require.NoError(t, <-done)
}

// A slow follower delays no one else and misses nothing.
func TestFollowSlowly(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	last := appendMany(t, s, 0, 700)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := true
	var next uint64 = 1
	require.NoError(t, s.Follow(ctx, 1, func(batch []events.Event) error {
		if first {
			first = false
			last = appendMany(t, s, 1000, 700) // while this one is being applied
		}
		for _, ev := range batch {
			require.Equal(t, next, ev.Sequence)
			next++
		}
		if next > last {
			cancel()
		}
		return nil
	}))
}

func TestFollowContinuesAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", MaxStore: 8 << 30,
		Ephemeral: true})
	require.NoError(t, err)
	listen := strings.TrimPrefix(srv.URL(), "nats://")
	s := overTCP(t, srv.URL())
	appendMany(t, s, 0, 10)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan uint64, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, 1, func(batch []events.Event) error {
			for _, ev := range batch {
				got <- ev.Sequence
			}
			return nil
		})
	}()
	for want := uint64(1); want <= 10; want++ {
		require.Equal(t, want, <-got)
	}
	for restart := range uint64(2) {
		srv.Stop()
		srv, err = embedded.Start(embedded.Options{Dir: dir, Listen: listen, MaxStore: 8 << 30,
			Ephemeral: true})
		require.NoError(t, err)
		t.Cleanup(srv.Stop)
		require.Eventually(t, func() bool { _, err := s.LastSequence(t.Context()); return err == nil },
			10*time.Second, 10*time.Millisecond)
		appendMany(t, s, 100+10*int(restart), 5)
		for want := 11 + 5*restart; want < 16+5*restart; want++ {
			require.Equal(t, want, <-got)
		}
	}
	cancel()
	require.NoError(t, <-done)
}

func TestFollowEndsWhenApplyFails(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	appendMany(t, s, 0, 600)
	failure := errors.New("disk")
	calls := 0
	err := s.Follow(t.Context(), 1, func([]events.Event) error {
		calls++
		return failure
	})
	require.ErrorIs(t, err, failure)
	require.Equal(t, 1, calls)
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Follow(ctx, 1, func([]events.Event) error { return nil }), "before it began")
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, s.Follow(ctx, 1, func([]events.Event) error { return nil }), "while nothing comes")
}

// Purged events may be missing; existing ones may not.
func TestFollowAcceptsOnlyRealGaps(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	last := appendMany(t, s, 0, 10)
	for _, held := range [][2]uint64{{1, 2}, {1, 4}, {last, last + 1}} {
		require.ErrorContains(t, s.NotThere(t.Context(), held[0], held[1]), "passed over")
	}
	st, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSequence(6)))
	require.NoError(t, s.NotThere(t.Context(), 1, 6))
	require.ErrorContains(t, s.NotThere(t.Context(), 1, 7), "passed over")
	require.ErrorContains(t, s.NotThere(t.Context(), last+1, last+2), "knows 10 events",
		"a leader that is behind proves nothing")

	next := uint64(6)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.NoError(t, s.Follow(ctx, 2, func(batch []events.Event) error {
		for _, ev := range batch {
			require.Equal(t, next, ev.Sequence)
			if next++; next > last {
				cancel()
			}
		}
		return nil
	}))
	require.Equal(t, last+1, next)
}

// A consumer that skips an existing event is abandoned, at its first message and later. Gaps of purged keys
// are accepted.
func TestFollowGivesUpAConsumerThatPassesOverAnEvent(t *testing.T) {
	t.Parallel()
	for _, purged := range []bool{false, true} {
		for _, from := range []uint64{1, 2} {
			s := eventstest.Journal(t)
			appendMany(t, s, 0, 4)
			st, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
			require.NoError(t, err)
			key := func(n int) string { return events.EventSubject("default", "*", fmt.Sprintf("%032x", n)) }
			cons, err := st.CreateConsumer(t.Context(),
				jetstream.ConsumerConfig{FilterSubjects: []string{key(1), key(3)},
					AckPolicy: jetstream.AckNonePolicy})
			require.NoError(t, err)
			if purged {
				require.NoError(t, s.Forget(t.Context(),
					events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", 0), LastSeq: 99}))
				require.NoError(t, s.Forget(t.Context(),
					events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", 2), LastSeq: 99}))
			}
			iter, err := cons.Messages()
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			messages := make(chan events.Event)
			ended := make(chan error, 1)
			go func() { ended <- s.Receive(ctx, iter, from, messages) }()
			if purged || from == 2 {
				require.EqualValues(t, 2, (<-messages).Sequence)
			}
			if purged {
				require.EqualValues(t, 4, (<-messages).Sequence)
				iter.Stop()
				require.ErrorIs(t, <-ended, jetstream.ErrMsgIteratorClosed)
			} else {
				require.ErrorContains(t, <-ended, "passed over")
				iter.Stop()
			}
			cancel()
		}
	}
}

// Unreadable events keep their place.
func TestFollowPassesOnUnreadableEvents(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	foreign(t, s, "sheaf.event.default.archived."+testKey, nil, `{}`)
	foreign(t, s, "sheaf.event.default.crawled."+testKey, nil, `{`)
	foreign(t, s, "sheaf.event.default.crawled.nokey", nil, `{}`)
	last := appendMany(t, s, 0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var payloads []bool
	require.NoError(t, s.Follow(ctx, 1, func(batch []events.Event) error {
		for _, ev := range batch {
			payloads = append(payloads, ev.Payload != nil)
			if ev.Sequence == last {
				cancel()
			}
		}
		return nil
	}))
	require.Equal(t, []bool{false, false, false, true}, payloads)
}

func TestCancellationsAreHeard(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	heard := make(chan string, 10)
	stop, err := s.OnCancelled(func(tenant, key string) { heard <- tenant + " " + key })
	require.NoError(t, err)
	require.NoError(t, s.Conn().Flush())
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	_, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	require.Equal(t, "default "+testKey, <-heard)
	stop()
	require.Empty(t, heard)
}

func TestProgressIsHeard(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	type told struct {
		tenant, key string
		p           events.Progress
	}
	heard := make(chan told, 10)
	stop, err := s.OnProgress(func(tenant, key string, p events.Progress) { heard <- told{tenant, key, p} })
	require.NoError(t, err)
	defer stop()
	require.NoError(t, s.Conn().Flush())
	require.NoError(t, s.Conn().Publish(events.ProgressSubject("default", testKey), []byte(`{`)))
	want := events.Progress{Phase: events.PhaseCrawling, PagesDone: 2, PagesTotal: 4, Rows: 100}
	s.PublishProgress("default", testKey, want)
	require.Equal(t, told{"default", testKey, want}, <-heard)
}

// ephemeral lists the consumers of followers, with the server of each.
func ephemeral(t *testing.T, js jetstream.JetStream) map[string]string {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, events.StreamEvents)
	require.NoError(t, err)
	on := map[string]string{}
	consumers := st.ListConsumers(ctx)
	for info := range consumers.Info() {
		if info.Config.Durable == "" {
			on[info.Name] = ""
			if info.Cluster != nil {
				on[info.Name] = info.Cluster.Leader
			}
		}
	}
	return on
}

// A follower whose consumer is removed creates another, and misses nothing.
func TestFollowMakesItsConsumerAgain(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan uint64, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, 1, func(batch []events.Event) error {
			for _, ev := range batch {
				got <- ev.Sequence
			}
			return nil
		})
	}()
	next := uint64(1)
	for round := range 3 {
		var names map[string]string
		require.Eventually(t, func() bool { names = ephemeral(t, s.JetStream()); return len(names) == 1 },
			5*time.Second, 5*time.Millisecond)
		for name := range names {
			require.NoError(t, s.JetStream().DeleteConsumer(t.Context(), events.StreamEvents, name))
		}
		appendMany(t, s, 10*round, 3)
		for range 3 {
			require.Equal(t, next, <-got)
			next++
		}
	}
	cancel()
	require.NoError(t, <-done)
}
