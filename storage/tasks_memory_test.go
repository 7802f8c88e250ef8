package storage

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Readers, and a writer that grows the file, keep working while the file's pages are released.
func TestReleaseDuringReadsAndWrites(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	for n := range 3000 {
		log.add("default", keyOf(n), begin, request("u", begin))
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				tasks.Release()
				if _, err := tasks.History("default", "u", time.Time{}, 0, 100); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for batch := range slices.Chunk(log.all, 100) {
		require.NoError(t, tasks.Apply(batch))
	}
	close(done)
	readers.Wait()
	sum := digest(t, tasks)
	tasks.Release()
	require.Equal(t, sum, digest(t, tasks))
	require.NoError(t, tasks.db.View(verify))
	require.NoError(t, tasks.Close())
	tasks.Release()
}
