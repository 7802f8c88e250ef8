package assembler

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// A full disk of the file store neither fails an export nor makes the assembler
// spin: the work is handed back with a growing delay, is not counted as a crash,
// and ends once there is room.
func TestFullDiskIsWaitedOut(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	st := stageOn(t, eventstest.Streams(t), dir)
	x := st.crawled(page(2, 1, 1, 2))
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	require.NoError(t, err)
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())

	s := st.service(Config{MaxStarts: 2})
	for range 5 { // more often than it may crash
		err := s.handle(t.Context(), st.delivery(x))
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.Equal(t, events.StateCrawled, st.read().State)
	}
	require.NoError(t, os.Remove(filler))

	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	require.Eventually(t, func() bool { return st.read().State == events.StateCompleted }, 10*time.Second, 10*time.Millisecond)
	cancel()
	if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	require.Len(t, st.stored(), 1, "and no draft is left")
}
