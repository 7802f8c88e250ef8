package node

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/services/ingress"
)

// A disk keeps a reserve free for what ends exports and frees space. Workbooks in progress
// may use half of it, and a start needs a sixteenth.
func TestDiskKeepsAReserve(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tc := range []struct {
		claim         string
		size, reserve int64
	}{
		{"large", 1 << 40, 1 << 40 / 20},
		{"usual", 4 << 30, 256 * mib},
		{"small", 64 * mib, 8 * mib},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			free := tc.size
			d := newDisk("/data")
			d.measure = func(folder string) (int64, int64, bool) {
				require.Equal(t, "/data", folder)
				return tc.size, free, true
			}
			require.NoError(t, d.room(tc.size-tc.reserve))
			require.Error(t, d.room(tc.size-tc.reserve+1))
			require.NoError(t, d.roomForWorkbook(tc.size-tc.reserve/2))
			require.Error(t, d.roomForWorkbook(tc.size-tc.reserve/2+1))

			free = tc.reserve
			require.NoError(t, d.room(0))
			free--
			err := d.room(0)
			require.EqualError(t, err, "the disk of the data folder /data is full or almost full: "+ByteSize(free).String()+" free, "+ByteSize(tc.reserve).String()+" needed")
			var reported ingress.NotReady
			require.ErrorAs(t, err, &reported, "callers and /readyz may be reported")
			require.NoError(t, d.roomForWorkbook(0), "what frees pages goes on")

			free = tc.reserve / 16
			require.NoError(t, d.roomToStart())
			free--
			require.Error(t, d.roomToStart())
		})
	}
}

// Exports are accepted when the disk is unknown, and when it is a cluster's.
func TestDiskThatIsNotKnownHasRoom(t *testing.T) {
	t.Parallel()
	unknown := newDisk("/data")
	unknown.measure = func(string) (int64, int64, bool) { return 0, 0, false }
	for _, d := range []*disk{nil, unknown} {
		require.NoError(t, d.room(1<<50))
		require.NoError(t, d.roomForWorkbook(1<<50))
		require.NoError(t, d.roomToStart())
	}
}

func TestSmallDiskIsSaidSo(t *testing.T) {
	t.Parallel()
	for _, ephemeral := range []bool{false, true} {
		var log bytes.Buffer
		cfg := OneShot(t.TempDir())
		cfg.Roles, cfg.Ephemeral, cfg.MaxPagesBytes, cfg.Log = []string{roleIngress}, ephemeral, 1<<49, slog.New(slog.NewTextHandler(&log, nil))
		require.NoError(t, Use(t.Context(), cfg, func(context.Context, Info) error { return nil }))
		require.Equal(t, !ephemeral, strings.Contains(log.String(), "--max-pages-bytes"))
	}
}
