package streams

import (
	"context"
	"slices"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// Each tenant has its own number of messages in flight, and tenants without any leave no state behind.
func TestWritersOfOneTenant(t *testing.T) {
	t.Parallel()
	w := NewWriters(false)
	var leaves []func()
	enter := func(tenant string) {
		t.Helper()
		leave, err := w.Enter(t.Context(), tenant)
		require.NoError(t, err)
		leaves = append(leaves, leave)
	}
	for range MaxPerTenant + 1 { // the first tenant is alone
		enter("first")
	}
	for range MaxPerTenant {
		enter("busy")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Enter(ended, "busy")
	require.ErrorIs(t, err, events.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	enter("other")
	leaves[MaxPerTenant+1]()
	leaves = slices.Delete(leaves, MaxPerTenant+1, MaxPerTenant+2)
	enter("busy")
	for _, leave := range leaves {
		leave()
	}
	require.Empty(t, w.tenants)
}
