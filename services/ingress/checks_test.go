package ingress

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// Only an admin sees the checks, because their reasons can name folders.
func TestChecksAreForAdmins(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byScope, Checks: func(context.Context) []Check {
		return []Check{RunCheck("disk", func() error { return errors.New("/data is full") })}
	}})
	for key, status := range map[string]int{"shop/operate": http.StatusForbidden, "shop/admin": http.StatusOK} {
		a := send(t, http.MethodGet, in.url+"/readyz?verbose", "", "X-API-Key", key)
		require.Equal(t, status, a.Status, a.Raw)
		if status != http.StatusOK {
			require.NotContains(t, a.Raw, "/data")
			continue
		}
		require.Contains(t, a.Raw, `"name":"disk","ok":false,`)
		require.Contains(t, a.Raw, `"reason":"/data is full"`)
		require.Contains(t, a.Raw, `"name":"projection","ok":true,`)
		require.Contains(t, a.Raw, `"ready":false`)
	}
	require.Equal(t, http.StatusUnauthorized, send(t, http.MethodGet, in.url+"/readyz?verbose", "").Status)
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, in.url+"/readyz", "").Status)
}
