package journal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// submit puts a durable submission on the work queue.
func submit(t *testing.T, s *journal.Log, n int) {
	t.Helper()
	_, err := s.JetStream().Publish(t.Context(), events.SubmitSubject("default", events.SourceRaw),
		fmt.Append(nil, n))
	require.NoError(t, err)
}

// consuming runs Consume on the work queue until the test ends, or stop is called.
func consuming(t *testing.T, s *journal.Log, slots int, h journal.Handler) (stop func()) {
	t.Helper()
	return consumingFrom(t, s, events.StreamSubmit, events.ConsumerSubmissions, slots, h)
}

func consumingFrom(t *testing.T, s *journal.Log, stream, consumer string, slots int,
	h journal.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Consume(ctx, stream, consumer, slots, h) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// queue returns how many messages the work queue has, and how many of them are in handlers or waiting for
// redelivery.
func queue(t *testing.T, s *journal.Log) (left, pending int) {
	t.Helper()
	c, err := s.JetStream().Consumer(t.Context(), events.StreamSubmit, events.ConsumerSubmissions)
	require.NoError(t, err)
	st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	return int(st.CachedInfo().State.Msgs), c.CachedInfo().NumAckPending
}

func TestConsumeAcknowledgesByOutcome(t *testing.T) {
	t.Parallel()
	failure := errors.New("failure")
	for name, tc := range map[string]struct {
		outcome    error // of the first delivery
		deliveries int
		min, max   time.Duration // between the first and the second
	}{
		"done":                        {nil, 1, 0, 0},
		"permanent":                   {journal.Permanent(failure), 1, 0, 0},
		"permanent, wrapped":          {fmt.Errorf("x: %w", journal.Permanent(failure)), 1, 0, 0},
		"permanent with a line break": {journal.Permanent(errors.New("a\r\nb")), 1, 0, 0},
		"later": {journal.RetryAfter(failure, 700*time.Millisecond), 2,
			700 * time.Millisecond, 3 * time.Second},
		"later, wrapped": {fmt.Errorf("x: %w",
			journal.RetryAfter(failure, 700*time.Millisecond)), 2, 700 * time.Millisecond, 3 * time.Second},
		"later by nothing": {journal.RetryAfter(failure, 0), 2, 100 * time.Millisecond,
			3 * time.Second},
		"error":                         {failure, 2, 100 * time.Millisecond, 3 * time.Second},
		"a cancelled context inside it": {context.Canceled, 2, 100 * time.Millisecond, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			submit(t, s, 1)
			type delivery struct {
				n  uint64
				at time.Time
			}
			got := make(chan delivery, 10)
			stop := consuming(t, s, 2, func(_ context.Context, d journal.Delivery) error {
				got <- delivery{d.Delivered, time.Now()}
				if d.Delivered == 1 {
					return tc.outcome
				}
				return nil
			})
			first := <-got
			require.EqualValues(t, 1, first.n)
			if tc.deliveries == 2 {
				second := <-got
				require.EqualValues(t, 2, second.n)
				require.GreaterOrEqual(t, second.at.Sub(first.at), tc.min-50*time.Millisecond)
				require.Less(t, second.at.Sub(first.at), tc.max)
			}
			stop()
			require.Empty(t, got, "no further delivery")
			require.Eventually(t, func() bool {
				left, pending := queue(t, s)
				return left == 0 && pending == 0
			}, 5*time.Second, 10*time.Millisecond)
		})
	}
}

const (
	shortAckWait = 2 * time.Second
	longWork     = 2500 * time.Millisecond
)

// Work beside the slots keeps its message alive as long as needed, uses no slot, and decides about the
// message; a drain waits for it.
func TestConsumeBesideTheSlots(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{AckWait: shortAckWait})
	const waiting = 20
	for n := range waiting {
		submit(t, s, n)
	}
	goOn, last := make(chan struct{}), make(chan struct{})
	var begun, done atomic.Int64
	stop := consuming(t, s, 1, func(_ context.Context, d journal.Delivery) error {
		begun.Add(1)
		return fmt.Errorf("x: %w", journal.Beside(func() error {
			if d.Sequence > waiting {
				<-last
			}
			<-goOn
			if d.Delivered == 1 && d.Sequence == 1 {
				return journal.RetryAfter(errors.New("once more"), time.Millisecond)
			}
			done.Add(1)
			return nil
		}))
	})
	require.Eventually(t, func() bool { return begun.Load() == waiting }, 10*time.Second, 10*time.Millisecond,
		"one slot takes them all")
	time.AfterFunc(longWork, func() { close(goOn) })
	<-goOn
	require.Eventually(t, func() bool { return done.Load() == waiting }, 10*time.Second, 10*time.Millisecond)
	require.EqualValues(t, waiting+1, begun.Load(), "only what asked for it came again")
	require.Eventually(t, func() bool { left, pending := queue(t, s); return left == 0 && pending == 0 },
		5*time.Second, 10*time.Millisecond)

	submit(t, s, waiting)
	require.Eventually(t, func() bool { return begun.Load() == waiting+2 }, 10*time.Second,
		10*time.Millisecond)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("Consume returned before the work beside it")
	case <-time.After(50 * time.Millisecond):
	}
	close(last)
	<-stopped
	require.EqualValues(t, waiting+1, done.Load())
}

// Log lines about a delivery name the export, its tenant and the request that started it.
func TestDeliveriesAreLoggedWithTheirRequest(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	s := eventstest.JournalOn(t, eventstest.Server(t, ""),
		journal.Config{Log: slog.New(slog.NewTextHandler(write, nil))})
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: testKey}, "",
		func(*events.Export) (events.Payload, error) {
			r := eventstest.Payload(events.TypeRequested, 0, "").(*events.ExportRequested)
			r.RequestID = "trace-7"
			return r, nil
		})
	require.NoError(t, err)
	require.Equal(t, "trace-7", x.RequestID)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 1,
			func(_ context.Context, d journal.Delivery) error {
				x, err := s.Read(ctx, "default", testKey)
				if err != nil {
					return err
				}
				d.Concerns(&x)
				return journal.Permanent(errors.New("no"))
			})
	}()
	line := ""
	for lines := bufio.NewScanner(read); !strings.Contains(line, "message given up") && lines.Scan(); {
		line = lines.Text()
	}
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, write.Close())
	for _, attr := range []string{"service=journal ", "tenant=default ", "hash_key=" + testKey + " ", "request_id=trace-7 "} {
		require.Contains(t, line, attr)
	}
}

func TestDelaysGrow(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	submit(t, s, 1)
	at := make(chan time.Time, 10)
	consuming(t, s, 1, func(_ context.Context, d journal.Delivery) error {
		at <- time.Now()
		if d.Delivered < 4 {
			return errors.New("again")
		}
		return nil
	})
	last := <-at
	for _, least := range []time.Duration{100, 200, 400} {
		next := <-at
		require.GreaterOrEqual(t, next.Sub(last), (least-20)*time.Millisecond)
		require.Less(t, next.Sub(last), (2*least+500)*time.Millisecond)
		last = next
	}
}

// A draining process hands its work back at once, even if its connection closes the moment after.
func TestDrainHandsBackAtOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	submit(t, s, 1)
	nc, err := srv.Connect()
	require.NoError(t, err)
	leaving, err := journal.Provision(t.Context(), nc, journal.Config{SecretKey: eventstest.SecretKey})
	require.NoError(t, err)
	begun := make(chan struct{})
	stop := consuming(t, leaving, 1, func(ctx context.Context, _ journal.Delivery) error {
		close(begun)
		<-ctx.Done()
		return journal.RetryAfter(ctx.Err(), time.Hour) // the drain takes precedence
	})
	<-begun
	taken := make(chan uint64, 1)
	consuming(t, s, 1, func(_ context.Context, d journal.Delivery) error {
		taken <- d.Delivered
		return nil
	})
	start := time.Now()
	stop()
	nc.Close()
	require.EqualValues(t, 2, <-taken)
	require.Less(t, time.Since(start), 2*time.Second)
}

// Work that a handler finishes while its process drains is acknowledged.
func TestDrainWaitsForHandlers(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	submit(t, s, 1)
	begun, finish := make(chan struct{}), make(chan struct{})
	stop := consuming(t, s, 1, func(ctx context.Context, _ journal.Delivery) error {
		close(begun)
		<-ctx.Done()
		<-finish
		return nil
	})
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("Consume returned before its handler")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	<-stopped
	require.Eventually(t, func() bool { left, _ := queue(t, s); return left == 0 }, 5*time.Second,
		10*time.Millisecond)
}

// Processes that come and go lose no message to an abandoned pull, where it would wait until its AckWait of
// 10 s.
func TestDrainLosesNoMessageOnItsWay(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	other := eventstest.JournalOn(t, srv, journal.Config{})
	var handled atomic.Int64
	count := func(context.Context, journal.Delivery) error { handled.Add(1); return nil }
	const rounds, messages = 40, 5
	for round := range rounds {
		stop := consuming(t, other, 4, count)
		for n := range messages {
			_, err := s.JetStream().PublishAsync(events.SubmitSubject("default", "raw"),
				fmt.Append(nil, round, n))
			require.NoError(t, err)
		}
		<-s.JetStream().PublishAsyncComplete()
		stop()
	}
	start := time.Now()
	consuming(t, s, 4, count)
	require.Eventually(t, func() bool { left, _ := queue(t, s); return left == 0 }, 20*time.Second,
		10*time.Millisecond)
	require.Less(t, time.Since(start), 5*time.Second)
	require.GreaterOrEqual(t, handled.Load(), int64(rounds*messages))
}

// A message goes to a free process, never to a busy one.
func TestNoMessageWaitsInABusyProcess(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	busy, free := eventstest.JournalOn(t, srv, journal.Config{}),
		eventstest.JournalOn(t, srv, journal.Config{})
	begun, release := make(chan struct{}, 2), make(chan struct{})
	consuming(t, busy, 2, func(context.Context, journal.Delivery) error {
		begun <- struct{}{}
		<-release
		return nil
	})
	defer close(release)
	submit(t, busy, 1)
	submit(t, busy, 2)
	<-begun
	<-begun
	handled := make(chan uint64, 100)
	consuming(t, free, 1, func(_ context.Context, d journal.Delivery) error {
		handled <- d.Delivered
		return nil
	})
	for n := range 20 {
		submit(t, busy, n)
		require.EqualValues(t, 1, <-handled)
	}
}

func TestProcessesShareTheWork(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	var mu sync.Mutex
	seen := map[uint64]int{}
	by := make([]int, 2)
	const messages = 200
	all := make(chan struct{})
	for i := range by {
		consuming(t, eventstest.JournalOn(t, srv, journal.Config{}), 3,
			func(_ context.Context, d journal.Delivery) error {
				mu.Lock()
				defer mu.Unlock()
				seen[d.Sequence]++
				by[i]++
				if len(seen) == messages {
					close(all)
				}
				return nil
			})
	}
	s := eventstest.JournalOn(t, srv, journal.Config{})
	for n := range messages {
		submit(t, s, n)
	}
	<-all
	mu.Lock()
	defer mu.Unlock()
	for sequence, n := range seen {
		require.Equal(t, 1, n, "sequence %d", sequence)
	}
	require.Positive(t, by[0])
	require.Positive(t, by[1])
}

// A handler may take longer than AckWait: keep-alives hold its message.
func TestLongWorkKeepsItsMessage(t *testing.T) {
	t.Parallel()
	srv, cfg := eventstest.Server(t, ""), journal.Config{AckWait: shortAckWait}
	s, other := eventstest.JournalOn(t, srv, cfg), eventstest.JournalOn(t, srv, cfg)
	submit(t, s, 1)
	deliveries := make(chan uint64, 10)
	handler := func(_ context.Context, d journal.Delivery) error {
		deliveries <- d.Delivered
		time.Sleep(longWork)
		return nil
	}
	stop, stopOther := consuming(t, s, 1, handler), consuming(t, other, 1, handler)
	require.EqualValues(t, 1, <-deliveries)
	require.Eventually(t, func() bool { left, _ := queue(t, s); return left == 0 }, 15*time.Second,
		100*time.Millisecond)
	stop()
	stopOther()
	require.Empty(t, deliveries)
}

// Consume survives an outage.
func TestConsumeSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", MaxStore: 8 << 30,
		Ephemeral: true})
	require.NoError(t, err)
	s := overTCP(t, srv.URL())
	handled := make(chan string, 10)
	consuming(t, s, 2, func(_ context.Context, d journal.Delivery) error {
		handled <- string(d.Data)
		return nil
	})
	submit(t, s, 1)
	require.Equal(t, "1", <-handled)
	listen := srv.URL()[len("nats://"):]
	srv.Stop()
	srv, err = embedded.Start(embedded.Options{Dir: dir, Listen: listen, MaxStore: 8 << 30, Ephemeral: true})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	require.Eventually(t, func() bool {
		_, err := s.JetStream().Publish(t.Context(), events.SubmitSubject("default", "raw"), []byte("2"))
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "2", <-handled)
}

func TestConsumeOfNothing(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	err := s.Consume(t.Context(), events.StreamSubmit, "nobody", 1, nil)
	require.ErrorIs(t, err, events.ErrUnavailable)
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Consume(ctx, events.StreamSubmit, events.ConsumerSubmissions, 4,
		func(context.Context, journal.Delivery) error {
			t.Error("handled after the end")
			return nil
		})
}

// A delivery that is not an event is given up instead of retried forever.
func TestDeliveryThatIsNoEvent(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	foreign(t, s, "sheaf.event.default.requested."+testKey, nil, `{`)
	foreign(t, s, "sheaf.event.default.requested.nokey", nil, `{}`)
	_, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var sequences []uint64
	require.NoError(t, s.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, 1,
		func(_ context.Context, d journal.Delivery) error {
			sequences = append(sequences, d.Sequence)
			_, err := d.Event()
			if err == nil {
				cancel()
			}
			return err
		}))
	require.Equal(t, []uint64{1, 2, 3}, sequences)
}

// A process whose server is gone still ends soon.
func TestDrainWithoutAServer(t *testing.T) {
	t.Parallel()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", MaxStore: 8 << 30,
		Ephemeral: true})
	require.NoError(t, err)
	s := overTCP(t, srv.URL())
	begun := make(chan struct{})
	stop := consuming(t, s, 3, func(ctx context.Context, _ journal.Delivery) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	submit(t, s, 1)
	<-begun
	srv.Stop()
	require.Eventually(t, func() bool { return !s.Conn().IsConnected() }, 5*time.Second, 5*time.Millisecond)
	start := time.Now()
	stop()
	require.Less(t, time.Since(start), 5*time.Second)
}
