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
	t.Parallel()
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
	own, _, tenants := tasks.LogBytes("shop")
	require.Zero(t, own)
	require.Zero(t, tenants)
}

// What was carried on counts once while it lies in the log twice, and for what it is
// worth when the older events are gone.
func TestLogBytesOfWhatWasCarried(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	has := func(bytes, tenants int) {
		t.Helper()
		require.NoError(t, tasks.Apply(log.all))
		own, all, n := tasks.LogBytes("shop")
		require.Equal(t, [3]int64{int64(bytes), int64(bytes), int64(tenants)}, [3]int64{own, all, int64(n)})
	}
	var x events.Export
	add := func(p events.Payload, size int64) {
		if p == nil {
			p = &events.ExportCarried{Export: x}
		}
		ev := log.add("shop", keyOf(1), begin, p)
		log.all[len(log.all)-1].Size = size
		require.NoError(t, x.Apply(ev))
	}
	r := request("u", begin)
	r.Request.Callback = ""
	x = events.Export{Tenant: "shop", Key: keyOf(1)}
	add(r, 0)
	add(&events.ExportCancelled{}, 0)
	fill := func(upTo int) { // with what is of no tenant
		for len(log.all) < upTo {
			log.all = append(log.all, events.Event{Sequence: uint64(len(log.all) + 1)})
		}
	}
	fill(segmentEvents)
	has(2*leastEventBytes, 1)
	add(nil, leastEventBytes)
	has(2*leastEventBytes, 1)
	fill(2 * segmentEvents)
	add(nil, 9*leastEventBytes) // far more than there was
	has(10*leastEventBytes, 1)
	pieces, err := tasks.LogPieces()
	require.NoError(t, err)
	require.Equal(t, []LogPiece{{segmentEvents, "shop", leastEventBytes}, {3 * segmentEvents, "shop", 9 * leastEventBytes}}, pieces)
	_, err = tasks.Trim(2 * segmentEvents)
	require.NoError(t, err)
	has(9*leastEventBytes, 1)
	got, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, got.State)
}

// What each tenant takes of the log is known after every event, trimming and start,
// and by a projection that is made from what was left.
func TestLogBytesOfATenant(t *testing.T) {
	t.Parallel()
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
			require.InDelta(t, sums[tenant], own, 2*leastEventBytes, tenant)
			require.InDelta(t, sums["shop"]+sums["bank"], all, 2*leastEventBytes)
			require.Equal(t, 2, tenants)
		}
	}
	require.NoError(t, tasks.Apply(log.all[:100]))
	require.NoError(t, tasks.Apply(log.all), "events that were seen before are not counted twice")
	want(tasks, 0)
	u, err := tasks.Usage("bank")
	require.NoError(t, err)
	require.Equal(t, Usage{Exports: 3 * segmentEvents / 4}, u)

	for _, below := range []uint64{10, segmentEvents - 1, segmentEvents, segmentEvents + 1, 2*segmentEvents + 5, 2*segmentEvents + 9} {
		_, err := tasks.Trim(below)
		require.NoError(t, err)
		want(tasks, int(below)-1)
	}
	require.NoError(t, tasks.Close())
	again := openAt(t, path)
	want(again, 2*segmentEvents+8)

	rebuilt := openAt(t, filepath.Join(folder, "rebuilt.db"))
	_, err = rebuilt.Trim(2*segmentEvents + 9)
	require.NoError(t, err)
	require.NoError(t, rebuilt.Apply(log.all[2*segmentEvents+8:]))
	want(rebuilt, 2*segmentEvents+8)
	require.Equal(t, digest(t, again), digest(t, rebuilt), "what is estimated is no part of it")

	require.NoError(t, rebuilt.Forget())
	require.NoError(t, rebuilt.Apply(log.all[2*segmentEvents+8:]))
	want(rebuilt, 2*segmentEvents+8)

	require.NoError(t, again.Bind(begin, 0))
	own, all, tenants := again.LogBytes("shop")
	require.Zero(t, own, "another log has other events")
	require.Zero(t, all)
	require.Zero(t, tenants)
}
