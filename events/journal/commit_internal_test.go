package journal

import (
	"fmt"
	"testing"

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
