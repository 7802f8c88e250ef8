package ingress

import (
	"bufio"
	"io"
	"net/http"
	"testing"
	"time"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// A pulse is two events, a second apart. At most maxPulses are sent at once, and each that ends makes room.
func TestPulse(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	pulse := func(status int, read func(io.Reader)) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.url+"/healthz", nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, status, resp.StatusCode)
		read(resp.Body)
	}
	two := func(body io.Reader) {
		lines := bufio.NewReader(body)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "event: alive\n", line)
		begun := time.Now()
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.Equal(t, "data: 1\n\nevent: alive\ndata: 2\n\n", string(rest))
		require.Greater(t, time.Since(begun), pulseEvery/2)
	}
	pulse(http.StatusOK, two)
	in.pulses.Store(maxPulses)
	pulse(http.StatusServiceUnavailable, func(io.Reader) {})
	in.pulses.Store(0)
	pulse(http.StatusOK, two)
}
