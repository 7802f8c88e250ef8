package events

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// A tenant has so many messages on their way, others have theirs, and nothing is kept of
// those that have none.
func TestWritersOfOneTenant(t *testing.T) {
	t.Parallel()
	w := newWriters(false, tenantWrites)
	var leaves []func()
	enter := func(tenant string) {
		t.Helper()
		leave, err := w.enter(t.Context(), tenant)
		require.NoError(t, err)
		leaves = append(leaves, leave)
	}
	for range tenantWrites {
		enter("busy")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.enter(ended, "busy")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	enter("other")
	leaves[0]()
	leaves = leaves[1:]
	enter("busy")
	for _, leave := range leaves {
		leave()
	}
	require.Empty(t, w.tenants)
}

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

// HoldWriters takes all that a tenant may have on its way to SHEAF_PAGES.
func (s *Streams) HoldWriters(ctx context.Context, tenant string) (leave func()) {
	w := s.pageWriters
	var leaves []func()
	for range w.most {
		leave, err := w.enter(ctx, tenant)
		if err != nil {
			panic(err)
		}
		leaves = append(leaves, leave)
	}
	return func() {
		for _, leave := range leaves {
			leave()
		}
	}
}
