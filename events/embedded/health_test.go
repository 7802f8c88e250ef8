package embedded_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"sheaf/events/embedded"

	"github.com/stretchr/testify/require"
)

// A busy machine must not make an idle process look unhealthy and get it killed.
func TestABusyServerIsHealthy(t *testing.T) {
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	defer srv.Stop()
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 8 * runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	defer busy.Wait()
	defer close(stop)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		require.NoError(t, srv.Health())
	}
}
