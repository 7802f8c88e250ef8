package storage

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func TestTrimForgetsWhatBeganBelow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	tasks := openAt(t, path)
	log := logOf{t: t}
	end := func(n int, p ...events.Payload) {
		for _, p := range p {
			log.add("default", keyOf(n), begin, p)
		}
	}
	crawled := &events.ExportCrawled{Run: 1, Pages: 1}
	end(1, request("u", begin), crawled, completed("default/a/1.zip", begin)) // 1 to 3
	end(2, &events.SubmissionRejected{Reason: "no"})                          // 4
	end(3, request("u", begin), &events.ExportFailed{Code: "X", Reason: "x"}) // 5, 6
	end(4, request("u", begin))                                               // 7
	end(3, request("u", begin))                                               // 8
	end(1, &events.ExportExpired{})                                           // 9
	end(5, request("u", begin), crawled)                                      // 10, 11
	require.NoError(t, tasks.Apply(log.all))

	oldest := func(limit int) []string {
		list, err := tasks.Oldest(0, limit)
		require.NoError(t, err)
		return keysOf(list)
	}
	require.Equal(t, []string{keyOf(1), keyOf(2), keyOf(4), keyOf(3), keyOf(5)}, oldest(10), "the newest round counts")
	require.Equal(t, []string{keyOf(1), keyOf(2)}, oldest(2))
	from, err := tasks.Oldest(8, 10)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(3), keyOf(5)}, keysOf(from))
	overdue, err := tasks.Overdue(begin.Add(1), 10)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(3), keyOf(4), keyOf(5)}, keysOf(overdue))
	overdue, err = tasks.Overdue(begin, 10)
	require.NoError(t, err)
	require.Empty(t, overdue)

	forgotten, err := tasks.Trim(1)
	require.NoError(t, err)
	require.Zero(t, forgotten)
	forgotten, err = tasks.Trim(8)
	require.NoError(t, err)
	require.Equal(t, 3, forgotten)
	require.Equal(t, []string{keyOf(3), keyOf(5)}, oldest(10))
	for _, again := range []uint64{8, 3, 0} {
		forgotten, err = tasks.Trim(again)
		require.NoError(t, err)
		require.Zero(t, forgotten)
	}
	_, err = tasks.Get(keyOf(1))
	require.ErrorIs(t, err, ErrUnknownKey)
	list, err := tasks.History("default", "u", time.Time{}, 0, 10)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(5), keyOf(3)}, keysOf(list))
	list, err = tasks.Ended(LeftoverDone, begin.Add(1000*time.Hour), 10)
	require.NoError(t, err)
	require.Empty(t, list)
	counts, err := tasks.Counts()
	require.NoError(t, err)
	require.Equal(t, map[events.State]int{events.StateRequested: 1, events.StateCrawled: 1}, counts)

	// Requested again, a forgotten key is a new export.
	end(1, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))
	x, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.EqualValues(t, 12, x.ID)

	// One that is far behind leaves out what was removed before it read it.
	behind := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	require.NoError(t, behind.Bind(begin, 12))
	require.NoError(t, behind.Apply(log.all[:5]))
	forgotten, err = behind.Trim(8)
	require.NoError(t, err)
	require.Equal(t, 3, forgotten)
	require.NoError(t, behind.Apply(log.all))
	require.Equal(t, digest(t, tasks), digest(t, behind))

	// What is bound to a log that ends below the trimming is of another log.
	require.NoError(t, behind.Bind(begin, 12))
	require.EqualValues(t, 12, behind.Applied())
	fresh := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	require.NoError(t, fresh.Bind(begin, 12))
	_, err = fresh.Trim(8)
	require.NoError(t, err)
	require.NoError(t, fresh.Bind(begin, 5))
	require.NoError(t, fresh.Apply(log.all[:5]))
	_, err = fresh.Get(keyOf(1))
	require.NoError(t, err)

	require.NoError(t, tasks.Close())
	_, err = tasks.Trim(10)
	require.ErrorIs(t, err, ErrTasksClosed)
}

func TestIsCleared(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	log.add("default", keyOf(1), begin, request("u", begin))
	log.add("default", keyOf(1), begin, &events.ExportCancelled{})
	require.NoError(t, tasks.Apply(log.all))
	x, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	cleared, err := tasks.IsCleared(&x)
	require.NoError(t, err)
	require.False(t, cleared)
	require.NoError(t, tasks.Cleared([]events.Export{x}))
	cleared, err = tasks.IsCleared(&x)
	require.NoError(t, err)
	require.True(t, cleared)
}

// TestATrimmedLogGivesTheSameProjection lets one projection live through random
// trimmings of a random log, which it may learn of late, and makes another one
// from what is left.
func TestATrimmedLogGivesTheSameProjection(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		open := func(name string) *Tasks {
			tasks, err := OpenTasks(filepath.Join(folder, fmt.Sprintf("%d-%s.db", runs, name)))
			require.NoError(t, err)
			tasks.Passing()
			return tasks
		}
		lived := open("lived")
		defer func() { _ = lived.Close() }()
		log := logOf{t: t}
		states := map[string]*events.Export{}
		below := uint64(0)
		for n := range rapid.IntRange(1, 60).Draw(t, "events") {
			at := begin.Add(time.Duration(n) * time.Second)
			key := keyOf(rapid.IntRange(1, 6).Draw(t, "key"))
			if states[key] == nil {
				states[key] = &events.Export{Tenant: "default", Key: key}
			}
			x := states[key]
			var p events.Payload
			switch rapid.IntRange(0, 10).Draw(t, "type") {
			case 0, 1, 2:
				r := request("u", at)
				if x.State != events.StateNone {
					r.ExportID = x.ID // as whoever asks again writes it
				}
				p = r
			case 3:
				p = &events.ExportCrawled{Run: uint64(n), Pages: n}
			case 4:
				p = completed(fmt.Sprintf("default/%d.zip", n), at)
			case 5:
				p = &events.ExportFailed{Code: "X", Reason: "x"}
			case 6:
				p = &events.ExportExpired{}
			case 7:
				p = &events.CallbackDelivered{Attempt: n, Status: 200}
			case 8:
				// Its key is made from the submission and has nothing else.
				key, p = keyOf(1000+n), &events.SubmissionRejected{Reason: "no"}
			default:
				if !x.State.Terminal() {
					continue
				}
				p = &events.ExportCarried{Export: *x}
			}
			ev := log.add("default", key, at, p)
			if key == x.Key {
				_ = x.Apply(ev)
			}
			if rapid.Bool().Draw(t, "follow") {
				from := rapid.IntRange(0, min(int(lived.Applied()), len(log.all)-1)).Draw(t, "from")
				require.NoError(t, lived.Apply(log.all[from:]))
			}
			if rapid.IntRange(0, 3).Draw(t, "trim") == 0 {
				below = max(below, uint64(rapid.IntRange(0, len(log.all)).Draw(t, "below")))
				if rapid.Bool().Draw(t, "learns") {
					_, err := lived.Trim(below)
					require.NoError(t, err)
				}
			}
		}
		require.NoError(t, lived.Apply(log.all))
		_, err := lived.Trim(below)
		require.NoError(t, err)

		rebuilt := open("rebuilt")
		defer func() { _ = rebuilt.Close() }()
		left := log.all[max(below, 1)-1:]
		if rapid.Bool().Draw(t, "not yet removed") {
			left = log.all
		}
		_, err = rebuilt.Trim(below)
		require.NoError(t, err)
		require.NoError(t, rebuilt.Apply(left))
		require.Equal(t, digest(t, rebuilt), digest(t, lived))
		require.NoError(t, lived.db.View(verify))

		// And both hold what the leader's fold of the rest says.
		folds := map[string]*events.Export{}
		for _, ev := range log.all[max(below, 1)-1:] {
			if folds[ev.Key] == nil {
				folds[ev.Key] = &events.Export{Tenant: ev.Tenant, Key: ev.Key}
			}
			_ = folds[ev.Key].Apply(ev)
		}
		sums := map[string]int64{}
		require.NoError(t, lived.db.View(func(tx *bbolt.Tx) (err error) {
			sums, err = sumLogBytes(tx)
			return err
		}))
		own, all, tenants := lived.LogBytes("default")
		require.Equal(t, [3]int64{sums["default"], sums["default"], int64(len(sums))}, [3]int64{own, all, int64(tenants)})
		known := 0
		for key, want := range folds {
			if want.State == events.StateNone {
				continue
			}
			known++
			got, err := lived.Get(key)
			require.NoError(t, err)
			a, _ := json.Marshal(want)
			b, _ := json.Marshal(got)
			require.JSONEq(t, string(a), string(b))
		}
		list, err := lived.Oldest(0, 1000)
		require.NoError(t, err)
		require.Len(t, list, known)
	})
}

// Readers and a writer that makes the file grow go on while its pages are
// released under them.
func TestReleaseDisturbsNobody(t *testing.T) {
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
