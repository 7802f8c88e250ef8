package storage

import (
	"path/filepath"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// An export counts for what it may yet write: its end, and the attempts at a callback
// that nobody takes.
func TestLogBytesThatAreOwed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tasks.db")
	tasks := openAt(t, path)
	log := logOf{t: t}
	has := func(owed int64) {
		t.Helper()
		require.NoError(t, tasks.Apply(log.all))
		own, all, _ := tasks.LogBytes("shop")
		require.EqualValues(t, len(log.all)*leastEventBytes+int(owed), own)
		require.Equal(t, own, all)
		require.NoError(t, tasks.Close())
		tasks = openAt(t, path)
		again, _, _ := tasks.LogBytes("shop")
		require.Equal(t, own, again)
	}
	log.add("shop", keyOf(1), begin, request("u", begin))
	has(owedEnd + owedCallback)
	log.add("shop", keyOf(1), begin, &events.ExportCancelled{})
	has(owedCallback)
	log.add("shop", keyOf(1), begin, &events.CallbackAttempted{Attempt: 1, Status: 500})
	has(owedCallback - leastEventBytes)
	log.add("shop", keyOf(1), begin, &events.CallbackAttempted{Attempt: 99, Status: 500})
	has(0)
	log.add("shop", keyOf(1), begin, &events.CallbackAttempted{Attempt: 2, Status: 500})
	log.add("shop", keyOf(1), begin, &events.CallbackFailed{Attempt: 2})
	has(0)
	without := request("u", begin)
	without.Request.Callback = ""
	log.add("shop", keyOf(2), begin, without)
	has(owedEnd)
	_, err := tasks.Trim(uint64(len(log.all) + 1))
	require.NoError(t, err)
	own, _, _ := tasks.LogBytes("shop")
	require.EqualValues(t, len(log.all)*leastEventBytes, own)
}

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
		log.all[n].Size = int64(leastEventBytes - 1 + n%3)
	}
	want := func(tasks *Tasks, from int) {
		t.Helper()
		sums := map[string]int64{}
		for _, ev := range log.all[from:] {
			sums[ev.Tenant] += max(ev.Size, leastEventBytes)
		}
		for _, tenant := range []string{"shop", "bank", "nobody"} {
			own, all, tenants := tasks.LogBytes(tenant)
			require.Equal(t, sums[tenant], own, tenant)
			require.Equal(t, sums["shop"]+sums["bank"], all)
			require.Equal(t, 2, tenants)
		}
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

	require.NoError(t, rebuilt.Forget())
	require.NoError(t, rebuilt.Apply(log.all[2*segmentEvents+4:]))
	want(rebuilt, 2*segmentEvents+4)

	require.NoError(t, again.Bind(begin, 0))
	own, all, tenants := again.LogBytes("shop")
	require.Zero(t, own, "another log has other events")
	require.Zero(t, all)
	require.Zero(t, tenants)
}
