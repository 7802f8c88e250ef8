package journal

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// A group takes one event of each key from the queue, and leaves space for other tenants during a flood.
func TestGroupsOfCommits(t *testing.T) {
	t.Parallel()
	q := &commits{}
	add := func(tenant, filter string, n int) {
		for range n {
			q.waiting = append(q.waiting,
				&commit{tenant: tenant, filter: filter, msg: &nats.Msg{Data: make([]byte, 100)}})
		}
	}
	for n := range 100 {
		add("flood", fmt.Sprint("flood", n), 1)
	}
	add("shop", "one key", 2)
	count := func() map[string]int {
		by := map[string]int{}
		for _, c := range q.nextBatch() {
			by[c.tenant]++
		}
		return by
	}
	require.Equal(t, map[string]int{"flood": maxBatchPerTenant, "shop": 1}, count())
	require.Equal(t, map[string]int{"flood": maxBatchPerTenant, "shop": 1}, count())
	require.Equal(t, map[string]int{"flood": maxBatchPerTenant}, count())
	require.Equal(t, map[string]int{"flood": 100 - 3*maxBatchPerTenant}, count())
	require.Empty(t, count())
	require.False(t, q.busy)
	add("shop", "large", 1)
	q.waiting[0].msg.Data = make([]byte, 2*maxBatchBytes)
	require.Len(t, q.nextBatch(), 1, "one that is larger than a group goes alone")
}

// A group is a batch where the measured time of its messages exceeds twice that of a batch. Now and then a group
// is written separately, so that a disk that became fast is noticed.
func TestBatchesOnSlowDisks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size        int
		each, batch time.Duration
		batches     int // of 32 groups
	}{
		{1, time.Second, 0, 0},
		{2, 0, 0, 0},
		{2, 5 * time.Millisecond, 0, 0},
		{3, 5 * time.Millisecond, 0, 31},
		{64, 100 * time.Microsecond, 0, 0},
		{64, 200 * time.Microsecond, 0, 31},
		{30, 2 * time.Millisecond, 30 * time.Millisecond, 0},
		{30, 5 * time.Millisecond, 30 * time.Millisecond, 31},
	} {
		q := &commits{each: c.each, batch: c.batch}
		batches := 0
		for range measureEvery {
			if q.batched(c.size) {
				batches++
			}
		}
		require.Equal(t, c.batches, batches, "%+v", c)
	}
}
