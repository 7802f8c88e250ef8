package streams

import (
	"context"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// Each tenant has its own number of messages in flight, and tenants without any leave no state behind.
func TestWritersOfOneTenant(t *testing.T) {
	t.Parallel()
	w := NewWriters(false, TenantPages)
	var leaves []func()
	enter := func(tenant string) {
		t.Helper()
		leave, err := w.Enter(t.Context(), tenant)
		require.NoError(t, err)
		leaves = append(leaves, leave)
	}
	for range TenantPages {
		enter("busy")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Enter(ended, "busy")
	require.ErrorIs(t, err, events.ErrUnavailable)
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
