package events

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A tenant has so many messages on their way, others have theirs, and nothing is kept of
// those that have none.
func TestWritersOfOneTenant(t *testing.T) {
	t.Parallel()
	w := newWriters(false)
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

// HoldWriters takes all that a tenant may have on its way to a stream.
func (s *Streams) HoldWriters(ctx context.Context, stream, tenant string) (leave func()) {
	w := map[string]*writers{StreamEvents: s.logWriters, StreamPages: s.pageWriters}[stream]
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
