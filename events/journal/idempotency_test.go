package journal_test

import (
	"fmt"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// A tenant that binds keys without end is refused at its share of the space. Other tenants can bind theirs,
// and existing bindings stay.
func TestKeysOfOneTenantLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	st, err := s.JetStream().Stream(t.Context(), events.StreamIdempotency)
	require.NoError(t, err)
	config := st.CachedInfo().Config
	config.MaxBytes = 64 << 10
	_, err = s.JetStream().UpdateStream(t.Context(), config)
	require.NoError(t, err)

	claim := journal.IdempotencyClaim{Key: testKey}
	bind := func(tenant string, n int) error {
		_, err := s.ClaimIdempotencyKey(t.Context(), tenant, fmt.Sprint(n), claim)
		return err
	}
	require.NoError(t, bind("bank", 0))
	bound := 0
	for end := time.Now().Add(time.Minute); err == nil && time.Now().Before(end); bound++ {
		err = bind("shop", bound)
	}
	require.ErrorIs(t, err, journal.ErrTooManyKeys, "after %d", bound)
	info, err := st.Info(t.Context())
	require.NoError(t, err)
	require.Less(t, info.State.Bytes, uint64(config.MaxBytes), "there is room left")
	require.Zero(t, info.State.Consumers, "counting leaves nothing behind")
	require.NoError(t, bind("bank", 1))
	require.NoError(t, bind("new", 0))
	first, ok, err := s.IdempotencyKey(t.Context(), "shop", "0")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, claim, first)
}
