package notifier

import (
	"context"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"
	"pgregory.net/rapid"
)

var (
	timedOut = outcome{silent: true, reason: reasonTimeout}
	answered = outcome{status: 500, reason: "HTTP 500"}
	refusal  = outcome{reason: class(syscall.ECONNREFUSED)}
	notAsked = outcome{reason: class(&net.DNSError{})} // the attempt did not reach the host
)

// enter gives a callback its turn, or a place in the queue.
func enter(t require.TestingT, hs *hosts, host string) *turn {
	turn, err := hs.enter(host, callbackWeight)
	require.NoError(t, err)
	return turn
}

func refused(t require.TestingT, hs *hosts, host string) {
	_, err := hs.enter(host, callbackWeight)
	require.ErrorIs(t, err, errPutOff)
}

func TestAHostGivesTurnsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hs := newHosts(2, time.Second)
		running := []*turn{enter(t, hs, "h:1"), enter(t, hs, "h:1")}
		gone, cancel := context.WithCancel(t.Context())
		var waiting, order []*turn
		for i := range maxHostWaiting {
			w := enter(t, hs, "h:1")
			require.True(t, w.waits)
			waiting = append(waiting, w)
			ctx := t.Context()
			if i == 1 {
				ctx = gone
			}
			go func() {
				if hs.wait(ctx, w) == nil {
					order = append(order, w)
				} else {
					hs.leave(w, outcome{aborted: true})
				}
			}()
			synctest.Wait()
		}
		refused(t, hs, "h:1")
		require.False(t, enter(t, hs, "h:2").waits, "another host is not concerned")
		cancel() // a callback that stops waiting loses its place
		synctest.Wait()
		for _, next := range slices.Delete(waiting, 1, 2) {
			hs.leave(running[0], answered)
			synctest.Wait()
			require.Same(t, next, order[len(order)-1])
			running = append(running[1:], next)
		}
	})
}

func TestQueuesOfAllHostsAreBounded(t *testing.T) {
	t.Parallel()
	hs := newHosts(1, time.Second)
	for i := 0; hs.waiting < maxWaiting; i++ {
		for range 1 + maxHostWaiting {
			enter(t, hs, fmt.Sprint("slow:", i))
		}
	}
	require.False(t, enter(t, hs, "other:1").waits, "a free host needs no queue")
	refused(t, hs, "other:1")
}

// After three timeouts without an answer one callback at a time probes the host, with growing pauses.
func TestASilentHostIsProbed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hs := newHosts(4, 15*time.Second)
		for _, answer := range []outcome{answered, refusal, {status: 204}} {
			for range maxFailures - 1 {
				hs.leave(enter(t, hs, "h:1"), timedOut)
			}
			hs.leave(enter(t, hs, "h:1"), answer)
		}
		for range maxFailures - 1 {
			hs.leave(enter(t, hs, "h:1"), timedOut)
		}
		for _, nothing := range []outcome{
			{aborted: true}, notAsked, {reason: class(ssrf.ErrProhibitedIP)}, {reason: "the body could not be made", final: true},
		} {
			hs.leave(enter(t, hs, "h:1"), nothing) // says nothing about the host
		}
		probe := enter(t, hs, "h:1")
		for _, pause := range []time.Duration{15, 30, 60, 120, 240, 300, 300} {
			hs.leave(probe, timedOut)
			<-time.After(pause*time.Second - time.Millisecond)
			refused(t, hs, "h:1")
			hs.leave(enter(t, hs, "other:1"), answered)
			<-time.After(time.Millisecond)
			probe = enter(t, hs, "h:1")
			refused(t, hs, "h:1") // one probe
		}
		hs.leave(probe, notAsked)
		refused(t, hs, "h:1")
		<-time.After(30 * time.Second) // twice the timeout
		probe = enter(t, hs, "h:1")
		refused(t, hs, "h:1") // one probe again
		hs.leave(probe, answered)
		require.False(t, enter(t, hs, "h:1").waits)
		require.False(t, enter(t, hs, "h:1").waits)
	})
}

// Callbacks that wait for a host are postponed when its breaker opens.
func TestAQueueEndsWhenItsHostIsSilent(t *testing.T) {
	t.Parallel()
	hs := newHosts(maxFailures, time.Second)
	var running []*turn
	for range maxFailures {
		running = append(running, enter(t, hs, "h:1"))
	}
	waits := enter(t, hs, "h:1")
	for _, r := range running[:maxFailures-1] {
		hs.leave(r, timedOut)
	}
	require.NoError(t, hs.wait(t.Context(), waits))
	last := enter(t, hs, "h:1")
	hs.leave(running[maxFailures-1], timedOut)
	hs.leave(waits, timedOut)
	hs.leave(last, timedOut)
	refused(t, hs, "h:1")
	require.Zero(t, hs.byName["h:1"].callbacks)
}

func TestSilentHostsTakeNoRoomFromOthers(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	hs.room, hs.silent = semaphore.NewWeighted(2*callbackWeight), semaphore.NewWeighted(callbackWeight)
	for _, host := range []string{"a:1", "b:1"} {
		hs.leave(enter(t, hs, host), timedOut)
	}
	silent := enter(t, hs, "a:1")
	refused(t, hs, "b:1")
	enter(t, hs, "c:1")
	d := enter(t, hs, "d:1")
	refused(t, hs, "e:1")
	hs.leave(d, answered)
	enter(t, hs, "e:1")
	hs.leave(silent, answered)
	enter(t, hs, "b:1")
}

// Postponed callbacks to a silent host return spread over the pause.
func TestPutOffIsSpread(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, 15*time.Second)
	for range maxFailures {
		hs.leave(enter(t, hs, "dead:1"), timedOut)
	}
	hs.byName["dead:1"].pausedUntil = time.Now().Add(maxPause)
	now := time.Now()
	within := map[time.Duration]int{}
	for range 3000 {
		wait := hs.putOff("dead:1").Sub(now)
		require.Greater(t, wait, maxPause-time.Second)
		require.Less(t, wait, 2*maxPause+time.Second)
		within[wait.Truncate(time.Minute)]++
	}
	for minute, n := range within {
		require.Less(t, n, 800, "%v", minute)
	}
	require.Less(t, hs.putOff("other:1").Sub(now), minPutOff+putOffSpread+time.Second)
}

func TestSilentHostsAreBounded(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	running := enter(t, hs, "running")
	for i := range maxHosts + 10 {
		hs.leave(enter(t, hs, fmt.Sprint(i)), timedOut)
	}
	require.Len(t, hs.byName, maxHosts)
	hs.leave(running, answered)
	require.Len(t, hs.byName, maxHosts-1)
}

// Every sequence of callbacks stays within all bounds, and leaves nothing behind.
func TestHostsKeepCount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const room, silent = 4 * callbackWeight, 2 * callbackWeight
		hs := newHosts(2, time.Nanosecond) // pauses end at once
		hs.room, hs.silent = semaphore.NewWeighted(room), semaphore.NewWeighted(silent)
		var inside []*turn
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if len(inside) > 0 && rapid.Bool().Draw(t, "leave") {
				i := rapid.IntRange(0, len(inside)-1).Draw(t, "which")
				left := inside[i]
				inside = append(inside[:i], inside[i+1:]...)
				if left.waits {
					gone, cancel := context.WithCancel(context.Background())
					cancel()
					_ = hs.wait(gone, left)
				}
				hs.leave(left, rapid.SampledFrom([]outcome{timedOut, answered, notAsked}).Draw(t, "outcome"))
			} else {
				weight := callbackWeight * rapid.Int64Range(1, 3).Draw(t, "weight")
				if a, err := hs.enter(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "host"), weight); err == nil {
					inside = append(inside, a)
				}
			}
			var weights [2]int64
			waiting := 0
			running := map[string]int{}
			for _, a := range inside {
				switch a.room {
				case nil:
					waiting++
					continue
				case hs.room:
					weights[0] += a.weight
				case hs.silent:
					weights[1] += a.weight
				}
				running[a.name]++
			}
			require.LessOrEqual(t, weights[0], int64(room))
			require.LessOrEqual(t, weights[1], int64(silent))
			require.Equal(t, waiting, hs.waiting)
			for name, n := range running {
				require.LessOrEqual(t, n, 2, name)
			}
		}
		for _, a := range inside {
			if a.waits {
				gone, cancel := context.WithCancel(context.Background())
				cancel()
				_ = hs.wait(gone, a)
			}
			hs.leave(a, answered)
		}
		for name, h := range hs.byName {
			require.NotZero(t, h.failures, name)
			require.Zero(t, h.callbacks+h.waiting)
		}
		require.Zero(t, hs.waiting)
		require.True(t, hs.room.TryAcquire(room))
		require.True(t, hs.silent.TryAcquire(silent))
	})
}
