package journal

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Of what waits, a group takes one event of each key, and leaves room beside a flood.
func TestGroupsOfCommits(t *testing.T) {
	t.Parallel()
	q := &commits{}
	add := func(tenant, filter string, n int) {
		for range n {
			q.waiting = append(q.waiting, &commit{tenant: tenant, filter: filter, msg: &nats.Msg{Data: make([]byte, 100)}})
		}
	}
	for n := range 100 {
		add("flood", fmt.Sprint("flood", n), 1)
	}
	add("shop", "one key", 2)
	count := func() map[string]int {
		by := map[string]int{}
		for _, c := range q.take() {
			by[c.tenant]++
		}
		return by
	}
	require.Equal(t, map[string]int{"flood": mostOfOne, "shop": 1}, count())
	require.Equal(t, map[string]int{"flood": mostOfOne, "shop": 1}, count())
	require.Equal(t, map[string]int{"flood": mostOfOne}, count())
	require.Equal(t, map[string]int{"flood": 100 - 3*mostOfOne}, count())
	require.Empty(t, count())
	require.False(t, q.busy)
	add("shop", "large", 1)
	q.waiting[0].msg.Data = make([]byte, 2*mostCommittedBytes)
	require.Len(t, q.take(), 1, "one that is larger than a group goes alone")
}
