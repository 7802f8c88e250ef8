package pages_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// While a tenant has its maximum of pages in flight, its next one waits; other tenants' pages do not.
func TestPagesOfATenantWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	write := func(ctx context.Context, tenant string) error {
		p := page(1, []byte(`[{"a":1}]`))
		p.Tenant = tenant
		_, err := s.Pages().Publish(ctx, p)
		return err
	}
	leave := s.Pages().HoldWriters(t.Context(), "busy")
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	require.ErrorIs(t, write(soon, "busy"), events.ErrUnavailable)
	cancel()
	require.NoError(t, write(t.Context(), "other"))
	leave()
	require.NoError(t, write(t.Context(), "busy"))
}
