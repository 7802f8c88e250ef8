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

// A full disk of the file store neither fails an export nor makes the assembler spin. The work is handed back
// for some seconds, does not count as a crash, and completes once there is space.
func TestFullDiskIsWaitedOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	st := stageOn(t, eventstest.Journal(t), dir)
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

// A workbook without disk space is dropped and restarted, nothing of it remains, and the progress shows the
// wait.
func TestAWorkbookWaitsForRoom(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(4, 2, 1, 2), page(4, 2, 3, 2))
	reported := make(chan events.Progress, 100)
	stop, err := st.journal.OnProgress(func(_, _ string, p events.Progress) { reported <- p })
	require.NoError(t, err)
	defer stop()
	s := st.service(Config{MaxStarts: 2})
	for _, noRoomAt := range []int{1, 2, 3} { // before the work, at the first page, at the second
		looks := 0
		s.cfg.Room = func(int64) error {
			if looks++; looks < noRoomAt {
				return nil
			}
			return errors.New("the disk is almost full")
		}
		require.ErrorContains(t, s.handle(t.Context(), st.delivery(x)), "the disk is almost full")
		require.Equal(t, events.Progress{Phase: events.PhaseWaitingForSpace, PagesDone: 2, PagesTotal: 2}, <-reported)
		require.Equal(t, events.StateCrawled, st.read().State)
		require.Empty(t, st.stored())
	}
	s.cfg.Room = func(int64) error { return nil }
	require.NoError(t, s.handle(t.Context(), st.delivery(x)))
	require.Equal(t, events.StateCompleted, st.read().State)
}

// A workbook that waits too long for disk space fails with the disk's figures, so that its pages do not fill
// the disk forever. A retry may use them.
func TestAWorkbookThatFindsNoRoomFails(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(4, 2, 1, 2), page(4, 2, 3, 2))
	s := st.service(Config{RoomWait: time.Nanosecond})
	s.cfg.Room = func(bytes int64) error {
		if bytes == 0 {
			return nil
		}
		return errors.New("1 B free, 2 B needed")
	}
	require.NoError(t, s.handle(t.Context(), st.delivery(x)))
	x = st.read()
	require.Equal(t, events.StateFailed, x.State)
	require.Equal(t, events.CodeLimitBytes, x.Failure.Code)
	require.Regexp(t, "^no room for the file within 1ns: .*1 B free, 2 B needed", x.Failure.Reason)
	require.False(t, x.Failure.RunSpoiled)
	require.Empty(t, st.stored())
}
