package crawler

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// A full disk pauses a crawl: no page is stored, and the source gets no requests. When there is space the
// crawl continues.
func TestCrawlsWaitForRoomOnTheDisk(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	src := noisySource(t, 2000)
	assemble(t, s)
	var looks, waits atomic.Int64
	var full atomic.Bool
	stop, err := s.OnProgress(func(_, _ string, p events.Progress) {
		if p.Phase == events.PhaseWaitingForSpace {
			waits.Add(1)
		}
	})
	require.NoError(t, err)
	defer stop()
	cfg := Config{SpaceWait: time.Minute}
	cfg.Room = func(int64) error {
		if looks.Add(1) == 30 { // in the middle of the crawl
			full.Store(true)
		}
		if full.Load() {
			return errors.New("the disk is almost full")
		}
		return nil
	}
	start(t, s, src.Client, cfg)
	requestKey(t, s, spaceKey(1), src.URL)
	require.Eventually(t, func() bool { return waits.Load() > 0 }, 20*time.Second, time.Millisecond)
	stored := func() int64 {
		space, err := s.Pages().Space(t.Context())
		require.NoError(t, err)
		return space.Used
	}
	require.Eventually(t, func() bool { // the response in flight arrives
		before, seen := stored(), waits.Load()
		require.Eventually(t, func() bool { return waits.Load() > seen }, 20*time.Second, time.Millisecond)
		return stored() == before
	}, 20*time.Second, time.Millisecond)
	asked := len(src.Requests())
	require.Less(t, asked, 40)
	x, err := s.Read(t.Context(), "default", spaceKey(1))
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)

	full.Store(false)
	x = awaitEnds(t, s, spaceKey(1))[spaceKey(1)]
	require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	require.LessOrEqual(t, len(src.Requests()), 40+4, "only the pages that were refused are asked for twice")
}
