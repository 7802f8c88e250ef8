package storage

import (
	"path/filepath"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// What each tenant takes of the log is known after every event, trimming and start,
// and by a projection that is made from what was left.
func TestLogBytesOfATenant(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "tasks.db")
	tasks := openAt(t, path)
	log := logOf{t: t}
	for n := range 3 * segmentEvents {
		tenant := "shop"
		if n%4 == 0 {
			tenant = "bank"
		}
		log.add(tenant, keyOf(n), begin, &events.SubmissionRejected{Reason: "no"})
		log.all[n].Size = int64(100 + n%2)
	}
	want := func(tasks *Tasks, from int) {
		t.Helper()
		sums := map[string]int64{}
		for _, ev := range log.all[from:] {
			sums[ev.Tenant] += ev.Size
		}
		for tenant, other := range map[string]string{"shop": "bank", "bank": "shop"} {
			own, others := tasks.LogBytes(tenant)
			require.Equal(t, sums[tenant], own, tenant)
			require.Equal(t, sums[other], others, other)
		}
		own, others := tasks.LogBytes("nobody")
		require.Zero(t, own)
		require.Equal(t, sums["shop"]+sums["bank"], others)
	}
	require.NoError(t, tasks.Apply(log.all[:100]))
	require.NoError(t, tasks.Apply(log.all), "events that were seen before are not counted twice")
	want(tasks, 0)
	u, err := tasks.Usage("bank")
	require.NoError(t, err)
	require.Equal(t, Usage{Exports: 3 * segmentEvents / 4}, u)

	// Sequences begin at 1, so the first piece has one event less than the others.
	const first = segmentEvents - 1
	for _, below := range []uint64{10, first, first + 1, first + 2, 2*segmentEvents + 5} {
		_, err := tasks.Trim(below)
		require.NoError(t, err)
		pieces := int(below) / segmentEvents
		want(tasks, max(pieces*segmentEvents-1, 0))
	}
	require.NoError(t, tasks.Close())
	again := openAt(t, path)
	want(again, 2*segmentEvents-1)

	rebuilt := openAt(t, filepath.Join(folder, "rebuilt.db"))
	_, err = rebuilt.Trim(2*segmentEvents + 5)
	require.NoError(t, err)
	require.NoError(t, rebuilt.Apply(log.all[2*segmentEvents+4:]))
	want(rebuilt, 2*segmentEvents+4)
	require.Equal(t, digest(t, again), digest(t, rebuilt), "what is left over in the first piece is no part of it")

	require.NoError(t, again.Bind(begin, 0))
	own, others := again.LogBytes("shop")
	require.Zero(t, own+others, "another log has other events")
}
