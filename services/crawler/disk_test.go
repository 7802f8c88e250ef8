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

// A disk without room stops the crawls where they are: no page is stored, none is
// asked for that was not, and none a second time. When there is room they go on.
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
	start(t, s, src.Client, Config{Disk: diskOf(func() int64 {
		if looks.Add(1) == 30 { // in the middle of the crawl
			full.Store(true)
		}
		if full.Load() {
			return 0
		}
		return 1 << 40
	})})
	requestKey(t, s, spaceKey(1), src.URL)
	require.Eventually(t, func() bool { return waits.Load() > 0 }, 20*time.Second, time.Millisecond)
	stored := func() int64 {
		space, err := s.PageSpace(t.Context())
		require.NoError(t, err)
		return space.Used
	}
	require.Eventually(t, func() bool { // what was on its way arrives
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
	require.Len(t, src.Requests(), 40, "no page was asked for twice")
}

// diskOf is a disk of that much room.
type diskOf func() int64

func (d diskOf) Room() DiskRoom { return DiskRoom{Free: d(), Most: 1 << 40} }

func (d diskOf) Hold(bytes int64) (func(), error) {
	if bytes > d() {
		return nil, errors.New("the disk is almost full")
	}
	return func() {}, nil
}

// Exports that fit into the stream but not together onto the disk go one after
// another.
func TestTheDiskBoundsWhatIsReserved(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	own := events.Reservation{Requested: 2, Remaining: limit / 2}
	claims := []events.Reservation{{Requested: 1, Remaining: limit / 4}, own}
	require.Equal(t, goOn, room{limit: limit, claims: claims}.judge(own))
	require.Equal(t, waitForSpace, room{limit: limit, lacks: limit / 2, claims: claims}.judge(own))
	require.Equal(t, goOn, room{limit: limit, lacks: limit / 2, claims: claims}.judge(claims[0]), "the oldest always may")
}
