package journal_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// crowd is processes whose handlers last until they are released.
type crowd struct {
	mu      sync.Mutex
	taken   []int // by process, ever
	running []int
	release []chan struct{} // one value ends one handler of the process
}

func newCrowd(t *testing.T, srv *embedded.Server, processes, slots int) *crowd {
	c := &crowd{taken: make([]int, processes), running: make([]int, processes)}
	over := make(chan struct{})
	for i := range processes {
		c.release = append(c.release, make(chan struct{}))
		s := eventstest.JournalOn(t, srv, journal.Config{})
		consumingFrom(t, s, events.StreamEvents, events.ConsumerCrawler, slots,
			func(context.Context, journal.Delivery) error {
				c.add(i, 1)
				select {
				case <-c.release[i]:
				case <-over:
				}
				c.add(i, -1)
				return nil
			})
	}
	t.Cleanup(func() { close(over) }) // before the processes stop
	return c
}

func (c *crowd) add(i, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[i] += n
	if n > 0 {
		c.taken[i]++
	}
}

// waits until n handlers run, and returns how many in each process.
func (c *crowd) waits(t *testing.T, n int) (running []int) {
	t.Helper()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		running = append([]int(nil), c.running...)
		total := 0
		for _, r := range running {
			total += r
		}
		return total == n
	}, 20*time.Second, time.Millisecond, "%d handlers", n)
	return running
}

// requests puts messages in the log that the crawlers get.
func requests(t *testing.T, s *journal.Log, messages int) {
	t.Helper()
	for range messages {
		_, err := s.JetStream().Publish(t.Context(), events.EventSubject("default", events.TypeRequested, testKey), nil)
		require.NoError(t, err)
	}
}

// pulls returns how many wait on the server.
func pulls(t *testing.T, s *journal.Log) int {
	t.Helper()
	c, err := s.JetStream().Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
	require.NoError(t, err)
	return c.CachedInfo().NumWaiting
}

// waiting waits until at least so many pulls wait on the server.
func waiting(t *testing.T, s *journal.Log, least int) {
	t.Helper()
	require.Eventually(t, func() bool { return pulls(t, s) >= least }, 20*time.Second, 10*time.Millisecond,
		"%d pulls", least)
}

// A few messages reach every process, although each has slots for all of them.
func TestMessagesGoToTheProcessWithTheSmallestLoad(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	c := newCrowd(t, srv, 3, 256)
	waiting(t, s, 3*4) // 16 messages in four levels
	requests(t, s, 16)
	for _, running := range c.waits(t, 16) {
		require.GreaterOrEqual(t, running, 4)
		require.LessOrEqual(t, running, 8)
	}
	requests(t, s, 74)
	for _, running := range c.waits(t, 90) {
		require.InDelta(t, 30, running, 14, "within a level, which has 14 slots there")
	}
	// One process ends its work. The next messages are for it.
	for loaded := pulls(t, s); ; {
		c.mu.Lock()
		left := c.running[0]
		c.mu.Unlock()
		if left == 0 {
			waiting(t, s, loaded+3)
			break
		}
		c.release[0] <- struct{}{}
		require.Eventually(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.running[0] < left
		}, 5*time.Second, time.Millisecond)
	}
	c.mu.Lock()
	before := c.running[1] + c.running[2]
	c.mu.Unlock()
	requests(t, s, 12)
	running := c.waits(t, before+12)
	require.GreaterOrEqual(t, running[0], 12-2)
}

// Any number of processes gets work.
func TestTheThirtyFourthProcessTakesWork(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	const processes = 34
	c := newCrowd(t, srv, processes, 256)
	waiting(t, s, processes*4)
	requests(t, s, 4*processes)
	for i, running := range c.waits(t, 4*processes) {
		require.Equal(t, 4, running, "process %d", i)
	}
}

// An idle process costs few messages: at most a fifth of a pull and its heartbeats for each of 256 slots.
func TestAnIdleProcessIsQuiet(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	c := newCrowd(t, srv, 1, 256)
	waiting(t, s, 4)
	var asked, heartbeats atomic.Int64
	_, err := eventstest.Connect(t, srv).Subscribe(">", func(m *nats.Msg) {
		switch {
		case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.MSG.NEXT."):
			asked.Add(1)
		case m.Header.Get("Status") == "100":
			heartbeats.Add(1)
		}
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return heartbeats.Load() >= 8 }, 15*time.Second, 50*time.Millisecond,
		"two heartbeats for each pull")
	require.Zero(t, asked.Load())
	require.LessOrEqual(t, heartbeats.Load(), int64(12))
	requests(t, s, 1)
	c.waits(t, 1)
	c.release[0] <- struct{}{}
	c.waits(t, 0)
	require.LessOrEqual(t, asked.Load(), int64(1))
}

// After the loss of its pulls a process requests messages again.
func TestConsumeRepeatsPullsOfALostConsumer(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	c := newCrowd(t, srv, 2, 1)
	waiting(t, s, 2)
	require.NoError(t, s.JetStream().DeleteConsumer(t.Context(), events.StreamEvents, events.ConsumerCrawler))
	again := eventstest.JournalOn(t, srv, journal.Config{}) // creates it
	requests(t, again, 2)
	c.waits(t, 2)
}
