package notifier

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// entered counts an attempt in that must be admitted.
func entered(t require.TestingT, hs *hosts, host string) *attempt {
	a, err := hs.enter(host, attemptWeight)
	require.NoError(t, err)
	return a
}

func TestAKeyIsLookedAtByOne(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	require.True(t, hs.claim("a"))
	require.False(t, hs.claim("a"))
	require.True(t, hs.claim("b"))
	hs.unclaim("a")
	require.True(t, hs.claim("a"))
}

func TestHostsGiveTurnsInOrder(t *testing.T) {
	t.Parallel()
	hs := newHosts(2, time.Second)
	var all []*attempt
	for i := range 2 + hostQueue {
		all = append(all, entered(t, hs, "h:1"))
		require.Equal(t, i >= 2, hs.queued(all[i]))
	}
	_, err := hs.enter("h:1", attemptWeight)
	require.ErrorIs(t, err, errPutOff)
	other := entered(t, hs, "h:2")
	require.False(t, hs.queued(other), "another host is not concerned")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, hs.awaitTurn(gone, all[3]), context.Canceled)
	hs.leave(all[3], outcome{}) // one that waits no longer loses its place
	hs.leave(all[0], outcome{})
	require.NoError(t, hs.awaitTurn(t.Context(), all[2]))
	hs.leave(all[1], outcome{})
	require.NoError(t, hs.awaitTurn(t.Context(), all[4]))
	require.True(t, hs.queued(all[5]))
}

func TestTheLongestQueueGivesWay(t *testing.T) {
	t.Parallel()
	hs := newHosts(1, time.Second)
	fill := func(host string, waiting int) (last *attempt) {
		for range 1 + waiting {
			last = entered(t, hs, host)
		}
		return last
	}
	newest := fill("long:0", hostQueue)
	for i := 1; hs.waiting < mostWaiting; i++ {
		fill(fmt.Sprintf("long:%d", i), min(hostQueue-1, mostWaiting-hs.waiting))
	}
	fill("short:1", 1)
	require.Equal(t, mostWaiting, hs.waiting)
	require.ErrorIs(t, hs.awaitTurn(t.Context(), newest), errPutOff)
	hs.leave(newest, outcome{})
	require.Equal(t, mostWaiting, hs.waiting)
	_, err := hs.enter("long:0", attemptWeight)
	require.ErrorIs(t, err, errPutOff, "it has the longest queue")
}

func TestTheOldestUnansweredGivesWay(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	hs.most, hs.patience = 2*attemptWeight, 50*time.Millisecond
	begin := func(host string) (*attempt, context.Context) {
		a := entered(t, hs, host)
		ctx, err := hs.begin(t.Context(), t.Context(), a)
		require.NoError(t, err)
		return a, ctx
	}
	a, actx := begin("a:1")
	b, bctx := begin("b:1")
	c, cctx := begin("c:1")
	require.GreaterOrEqual(t, time.Since(a.begun), hs.patience, "it had its time")
	require.Error(t, actx.Err())
	require.True(t, hs.wasCut(a))
	require.NoError(t, bctx.Err())
	hs.leave(a, outcome{attempt: 1, gaveWay: true})
	hs.leave(b, outcome{attempt: 1})
	begin("d:1")
	require.NoError(t, cctx.Err(), "there was room")
	hs.leave(c, outcome{attempt: 1, silent: true})

	// Silent hosts have one attempt at a time, in room of their own.
	a, actx = begin("a:1")
	require.True(t, hs.queued(entered(t, hs, "a:1")))
	begin("e:1")
	e, _ := begin("f:1")
	require.NoError(t, actx.Err())
	hs.leave(e, outcome{})
	hs.silently = attemptWeight
	c = entered(t, hs, "c:1")
	_, err := hs.begin(t.Context(), t.Context(), c)
	require.ErrorIs(t, err, errPutOff)
	hs.leave(c, outcome{})
	require.Contains(t, hs.silent, "c:1", "nobody asked it")

	// An answer, of any kind, ends the silence.
	hs.leave(a, outcome{attempt: 2, status: 500, reason: "HTTP 500"})
	require.NotContains(t, hs.silent, "a:1")
}

func TestBeginEndsWithItsContext(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	hs.most, hs.patience = attemptWeight, time.Hour
	_, err := hs.begin(t.Context(), t.Context(), entered(t, hs, "a:1"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	b := entered(t, hs, "b:1")
	_, err = hs.begin(ctx, t.Context(), b)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	hs.leave(b, outcome{})
	require.Equal(t, attemptWeight, hs.weight)
}

// What is put off for one silent host comes back over as long as that host
// needs, and holds up no other's.
func TestPutOffIsSpread(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, 15*time.Second)
	hs.markSilent("dead:1")
	now := time.Now()
	within := map[time.Duration]int{}
	for range 3000 {
		wait := hs.putOff("dead:1").Sub(now)
		require.GreaterOrEqual(t, wait, postponeLeast)
		require.Less(t, wait, postponeLeast+postponeSilent+postponeMost)
		within[wait.Truncate(time.Minute)]++
	}
	for minute, n := range within {
		require.Less(t, n, 400, "%v", minute)
	}
	require.Less(t, hs.putOff("other:1").Sub(now), postponeMost+time.Second)
}

func TestSilentHostsAreBounded(t *testing.T) {
	t.Parallel()
	hs := newHosts(4, time.Second)
	for i := range mostSilentHosts + 10 {
		hs.markSilent(fmt.Sprint(i))
	}
	require.Len(t, hs.silent, mostSilentHosts)
}

// Whatever attempts come and go, the counts agree with what is inside, no bound
// is passed, and nothing is left when all have left.
func TestHostsKeepCount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hs := newHosts(2, time.Second)
		hs.most, hs.silently, hs.patience = 4*attemptWeight, 2*attemptWeight, 0
		begun := map[*attempt]bool{}
		var inside []*attempt
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if len(inside) > 0 && rapid.Bool().Draw(t, "leave") {
				i := rapid.IntRange(0, len(inside)-1).Draw(t, "which")
				a := inside[i]
				inside = append(inside[:i], inside[i+1:]...)
				o := outcome{attempt: 1, silent: rapid.Bool().Draw(t, "silent")}
				if !begun[a] {
					o = outcome{}
				}
				hs.leave(a, o)
			} else {
				weight := attemptWeight * rapid.IntRange(1, 9).Draw(t, "weight")
				a, err := hs.enter(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "host"), weight)
				require.NoError(t, err)
				inside = append(inside, a)
			}
			for _, a := range inside {
				if begun[a] || hs.queued(a) {
					continue
				}
				if _, err := hs.begin(context.Background(), context.Background(), a); err == nil {
					begun[a] = true
				}
			}
			weight, quiet, waiting := 0, 0, 0
			turns := map[string]int{}
			for _, a := range inside {
				if a.element != nil {
					weight += a.weight
				}
				if a.quiet {
					quiet += a.weight
				}
				if a.hasTurn {
					turns[a.host.name]++
				} else {
					waiting++
				}
			}
			require.Equal(t, weight, hs.weight)
			require.Equal(t, quiet, hs.quiet)
			require.Equal(t, waiting, hs.waiting)
			require.LessOrEqual(t, weight, hs.most)
			require.LessOrEqual(t, quiet, hs.silently)
			for name, n := range turns {
				require.LessOrEqual(t, n, 2, name)
			}
		}
		for _, a := range inside {
			hs.leave(a, outcome{})
		}
		require.Empty(t, hs.byName)
		require.Zero(t, hs.weight+hs.quiet+hs.waiting+hs.running.Len())
	})
}
