package main

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"sheaf/services/ingress"

	"github.com/stretchr/testify/require"
)

// A disk keeps a reserve free for what ends exports and frees space, and has
// room again only when there is a quarter more.
func TestDiskKeepsAReserve(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tc := range []struct {
		claim         string
		size, reserve int64
	}{
		{"large", 1 << 40, 64 * mib},
		{"small", 64 * mib, 8 * mib},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			free := tc.size
			d := newDisk("/data")
			d.measure = func(folder string) (int64, int64, bool) {
				require.Equal(t, "/data", folder)
				return tc.size, free, true
			}
			release, err := d.roomFor(tc.size - tc.reserve)
			require.NoError(t, err)
			_, err = d.Hold(1)
			require.Error(t, err, "what is held is not for others")
			release()
			release()
			_, err = d.roomFor(tc.size - tc.reserve + 1)
			require.Error(t, err, "the reserve is not for new work")
			require.NoError(t, d.lacksRoom(), "what is too large alone shuts nobody else out")

			free = tc.reserve
			require.NoError(t, d.lacksRoom())
			free--
			err = d.lacksRoom()
			require.ErrorContains(t, err, "/data")
			require.ErrorContains(t, err, humanBytes(free)+" free")
			require.ErrorContains(t, err, humanBytes(tc.reserve+tc.reserve/4)+" needed")
			var told ingress.NotReady
			require.ErrorAs(t, err, &told, "callers and /readyz may be told")
			_, err = d.Hold(0)
			require.Error(t, err)
			require.Equal(t, int64(-1), d.Room().Free)
			require.NoError(t, d.roomForDrafts(0), "what frees pages goes on")

			free = tc.reserve + tc.reserve/4 - 1
			require.Error(t, d.lacksRoom(), "no flapping")
			free++
			require.NoError(t, d.lacksRoom())
			require.Equal(t, tc.reserve/4, d.Room().Free)
			require.Equal(t, tc.size-tc.reserve, d.Room().Most)
			require.False(t, d.Room().Drafts)

			free = tc.reserve/2 - 1
			require.Error(t, d.roomForDrafts(0))
			require.True(t, d.Room().Drafts, "pages make room")
			require.NoError(t, d.roomToStart())
			require.NoError(t, d.lacked(errors.New("refused")))
			require.Error(t, d.lacked(fmt.Errorf("tasks.db: %w", syscall.ENOSPC)))
			require.Error(t, d.lacked(errors.New("nats: write /x/1.blk: no space left on device")), "of JetStream's API")
			free = tc.reserve/16 - 1
			require.Error(t, d.roomToStart())
			require.Error(t, d.lacked(errors.New("refused")))
		})
	}
}

// Where nothing is known of the disk, and where it is a cluster's, exports are
// taken.
func TestDiskThatIsNotKnownHasRoom(t *testing.T) {
	t.Parallel()
	unknown := newDisk("/data")
	unknown.measure = func(string) (int64, int64, bool) { return 0, 0, false }
	for _, d := range []*disk{nil, unknown} {
		_, err := d.roomFor(1 << 50)
		require.NoError(t, err)
		_, err = d.Hold(1 << 50)
		require.NoError(t, err)
		require.NoError(t, d.roomForDrafts(0))
		require.NoError(t, d.roomToStart())
	}
}
