package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func keyOf(n int) string { return fmt.Sprintf("%032x", n) }

// states counts the exports in each state.
func states(t *testing.T, tasks *Tasks) map[events.State]int {
	t.Helper()
	counts := map[events.State]int{}
	require.NoError(t, tasks.Each(func(x events.Export) error {
		counts[x.State]++
		return nil
	}))
	return counts
}

// logOf builds a log: it assigns events their sequences and resulting exports, and passes each through the
// wire format, so that they equal those read from the log.
type logOf struct {
	t    require.TestingT
	all  []events.Event // those not purged
	last uint64
	now  map[string]events.Export // by key
}

// add appends an event that the state of its export allows.
func (l *logOf) add(tenant, key string, at time.Time, p events.Payload) events.Event {
	x, ok := l.now[key]
	if !ok {
		x = events.Export{Tenant: tenant, Key: key}
	}
	if r, ok := p.(*events.ExportRequested); ok {
		r.ExportID = x.ID // as every retry of a request does
	}
	ev := events.Event{ID: fmt.Sprintf("e-%d", l.last+1), Tenant: tenant, Key: key, Time: at, Payload: p}
	require.NoError(l.t, x.Apply(ev))
	ev.Export = &x
	msg, err := events.Encode(ev)
	require.NoError(l.t, err)
	l.last++
	ev, err = events.Decode(msg.Subject, msg.Header, msg.Data, l.last)
	require.NoError(l.t, err)
	l.all = append(l.all, ev)
	if l.now == nil {
		l.now = map[string]events.Export{}
	}
	l.now[key] = *ev.Export
	return ev
}

// keepLast purges all events of a key except the newest, and drop purges all of them.
func (l *logOf) keepLast(key string) {
	l.all = slices.DeleteFunc(l.all, func(ev events.Event) bool {
		return ev.Key == key && ev.Sequence < l.now[key].LastSeq
	})
}

func (l *logOf) drop(key string) {
	l.all = slices.DeleteFunc(l.all, func(ev events.Event) bool { return ev.Key == key })
	delete(l.now, key)
}

func request(user string, at time.Time) *events.ExportRequested {
	return &events.ExportRequested{CreatedAt: at, Request: events.Request{
		Timestamp: at.Unix(), ExtType: "XLSX", Title: "订单", UserID: user, Callback: "http://example.com/done",
		SourceType: events.SourceHTTP, HTTP: &events.HTTPRequest{
			URL: "http://127.0.0.1:8080/demo/page", Method: "GET",
			Param: json.RawMessage(`{"limit":20,"q":"<a>"}`), Limit: 20, Conn: 5,
			Header: []string{"Authorization"},
		},
	}}
}

func completed(store string, expires time.Time) *events.ExportCompleted {
	return &events.ExportCompleted{Run: 1, Pages: 3, Rows: 60, ExpiresAt: expires,
		Files: []events.File{{Name: "订单.zip", Store: store, Size: 1000,
			SHA256: strings.Repeat("ab", 32), Rows: 60}}}
}

func openAt(t testing.TB, path string) *Tasks {
	tasks, err := OpenTasks(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { _ = tasks.Close() })
	return tasks
}

func digest(t require.TestingT, tasks *Tasks) string {
	_, sum, err := tasks.Digest()
	require.NoError(t, err)
	return sum
}

func keysOf(list []events.Export) []string {
	keys := []string{}
	for _, x := range list {
		keys = append(keys, x.Key)
	}
	return keys
}

func TestApplyShowsTheNewestState(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "made", "tasks.db"))
	log := logOf{t: t}
	log.add("default", keyOf(1), begin, request("u", begin))
	log.add("default", keyOf(1), begin.Add(time.Second), &events.ExportCrawled{Run: 1, Pages: 3})
	log.add("default", keyOf(1), begin.Add(2*time.Second), completed("default/a/1.zip", begin.Add(time.Hour)))
	require.NoError(t, tasks.Apply(log.all))

	x, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.Equal(t, events.StateCompleted, x.State)
	require.EqualValues(t, 1, x.ID)
	require.EqualValues(t, 60, x.Rows)
	require.EqualValues(t, 3, x.LastSeq)
	require.EqualValues(t, 3, tasks.Applied())

	_, err = tasks.Get(keyOf(2))
	require.ErrorIs(t, err, ErrUnknownKey)
	_, err = tasks.Get("")
	require.ErrorIs(t, err, ErrUnknownKey)
	_, err = tasks.Get(strings.Repeat("x", 100_000))
	require.ErrorIs(t, err, ErrUnknownKey)
}

// Only the newest event of a key counts, however the log is cut into batches and purged.
func TestApplyTakesTheNewestOfABatch(t *testing.T) {
	t.Parallel()
	log := logOf{t: t}
	for n := range 3 {
		log.add("default", keyOf(n), begin, request("u", begin))
	}
	log.add("default", keyOf(1), begin, &events.ExportCrawled{Run: 1, Pages: 3})
	log.add("default", keyOf(0), begin, &events.ExportFailed{Code: "X", Reason: "x"})
	log.add("default", keyOf(1), begin, completed("default/a/1.zip", begin.Add(time.Hour)))
	log.add("default", keyOf(0), begin, request("u", begin))
	all := slices.Clone(log.all)
	log.keepLast(keyOf(1))
	var sums []string
	for name, batches := range map[string][][]events.Event{
		"at once":      {all},
		"in two":       {all[:4], all[4:]},
		"twice":        {all, all},
		"overlapping":  {all[:5], all[2:]},
		"after purges": {log.all},
		"newest alone": {{all[2], all[5], all[6]}},
	} {
		tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
		for _, batch := range batches {
			require.NoError(t, tasks.Apply(batch), name)
		}
		for key, want := range log.now {
			got, err := tasks.Get(key)
			require.NoError(t, err)
			require.Equal(t, asJSON(t, want), asJSON(t, got), name)
		}
		require.EqualValues(t, 7, tasks.Applied())
		sums = append(sums, digest(t, tasks))
	}
	require.Len(t, slices.Compact(sums), 1)
}

func asJSON(t require.TestingT, x events.Export) string {
	b, err := json.Marshal(x)
	require.NoError(t, err)
	return string(b)
}

func TestEventsWithoutAnExportOfTheirKeyOnlyMoveTheSequence(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	log.add("default", keyOf(1), begin, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))

	of := func(tenant, key string) *events.Export {
		return &events.Export{Tenant: tenant, Key: key, State: events.StateCancelled, ID: 1, LastSeq: 2}
	}
	for name, ev := range map[string]events.Event{
		"not decoded":      {Tenant: "default", Key: keyOf(1)},
		"no subject":       {},
		"no export":        {Tenant: "default", Key: keyOf(1), Payload: &events.ExportCancelled{}},
		"no key":           {Tenant: "default", Key: "x", Export: of("default", "x")},
		"no tenant":        {Tenant: "A B", Key: keyOf(1), Export: of("A B", keyOf(1))},
		"another tenant's": {Tenant: "other", Key: keyOf(1), Export: of("other", keyOf(1))},
	} {
		ev.Sequence = tasks.Applied() + 1
		require.NoError(t, tasks.Apply([]events.Event{ev}), name)
		require.Equal(t, ev.Sequence, tasks.Applied(), name)
		x, err := tasks.Get(keyOf(1))
		require.NoError(t, err, name)
		require.Equal(t, events.StateRequested, x.State, name)
	}
	require.Equal(t, map[events.State]int{events.StateRequested: 1}, states(t, tasks))

	// The export in an unknown event still counts.
	x := log.now[keyOf(1)]
	x.State, x.LastSeq = "paused", tasks.Applied()+1
	require.NoError(t, tasks.Apply([]events.Event{{Tenant: "default", Key: keyOf(1),
		Sequence: x.LastSeq, Export: &x}}))
	now, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.Equal(t, x.State, now.State)
}

func TestHistoryIsOfOneUserNewestFirst(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	users := []string{"u", "u\x00", "", "u\x00\x00\x00\x00\x00\x00\x00\x01", "用户",
		strings.Repeat("长", 100_000), "a' OR '1'='1"}
	n := 0
	for round := range 3 {
		for _, user := range users {
			n++
			log.add("default", keyOf(n), begin, request(user, begin.Add(time.Duration(round)*time.Hour)))
		}
	}
	log.add("other", keyOf(1000), begin, request("u", begin))
	log.add("default", keyOf(1001), begin, &events.SubmissionRejected{Reason: "no"})
	require.NoError(t, tasks.Apply(log.all))

	for i, user := range users {
		list, err := tasks.History("default", user, time.Time{}, 0, 100)
		require.NoError(t, err)
		require.Equal(t, []string{keyOf(i + 1 + 2*len(users)), keyOf(i + 1 + len(users)), keyOf(i + 1)},
			keysOf(list), "%.20q", user)
	}
	list, err := tasks.History("other", "u", time.Time{}, 0, 100)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(1000)}, keysOf(list))

	list, err = tasks.History("default", "u", begin.Add(time.Hour), 0, 100)
	require.NoError(t, err)
	require.Len(t, list, 2, "an export of exactly since is in")
	list, err = tasks.History("default", "u", time.Time{}, 0, 1)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(1 + 2*len(users))}, keysOf(list))
	list, err = tasks.History("default", "u", time.Time{}, list[0].ID, 100)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(1 + len(users)), keyOf(1)}, keysOf(list),
		"the next page begins below the last id")
	for _, before := range []uint64{1, 1 << 63, ^uint64(0)} {
		_, err = tasks.History("default", "u", time.Time{}, before, 100)
		require.NoError(t, err)
	}
	list, err = tasks.History("default", "u", time.Time{}, 0, 0)
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestKeeperQueries(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	end := func(n int, after time.Duration, p ...events.Payload) {
		log.add("default", keyOf(n), begin, request("u", begin))
		for _, p := range p {
			log.add("default", keyOf(n), begin.Add(after), p)
		}
	}
	crawled := &events.ExportCrawled{Run: 1, Pages: 1}
	end(1, 3*time.Hour, crawled, completed("default/a/1.zip", begin.Add(5*time.Hour)))
	end(2, 1*time.Hour, crawled, completed("default/a/2.zip", begin.Add(4*time.Hour)))
	end(3, 2*time.Hour, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503"})
	end(4, 1*time.Hour, &events.ExportCancelled{})
	end(5, 0)
	log.add("default", keyOf(6), begin, &events.SubmissionRejected{Reason: "no"})
	require.NoError(t, tasks.Apply(log.all))

	late := begin.Add(1000 * time.Hour)
	expiring := func(now time.Time, limit int) []string {
		list, err := tasks.Expiring(now, limit)
		require.NoError(t, err)
		return keysOf(list)
	}
	ended := func(kind Leftover, before time.Time, limit int) []string {
		list, err := tasks.Ended(kind, before, limit)
		require.NoError(t, err)
		return keysOf(list)
	}
	named := func(store string) bool {
		ok, err := tasks.Names(store)
		require.NoError(t, err)
		return ok
	}
	require.Equal(t, []string{keyOf(2), keyOf(1)}, expiring(late, 10))
	require.Equal(t, []string{keyOf(2)}, expiring(late, 1))
	require.Equal(t, []string{keyOf(2)}, expiring(begin.Add(4*time.Hour), 10), "at the very time it is due")
	require.Empty(t, expiring(begin.Add(4*time.Hour-1), 10))
	require.Equal(t, []string{keyOf(2), keyOf(1)}, ended(LeftoverDone, late, 10))
	require.Equal(t, []string{keyOf(4), keyOf(3)}, ended(LeftoverStopped, late, 10))
	require.Equal(t, []string{keyOf(4)}, ended(LeftoverStopped, late, 1))
	require.Equal(t, []string{keyOf(4)}, ended(LeftoverStopped, begin.Add(2*time.Hour), 10))
	require.True(t, named("default/a/1.zip"))
	require.False(t, named("default/a/3.zip"))
	require.False(t, named(""))

	// Cleared entries stay off the list, whatever happens to the callback.
	list, err := tasks.Ended(LeftoverStopped, late, 1)
	require.NoError(t, err)
	require.NoError(t, tasks.Cleared(LeftoverStopped, list))
	log.add("default", keyOf(4), begin, &events.CallbackAttempted{Attempt: 1})
	log.add("default", keyOf(1), begin, &events.ExportExpired{})
	require.NoError(t, tasks.Apply(log.all))
	require.Equal(t, []string{keyOf(3)}, ended(LeftoverStopped, late, 10))
	require.Equal(t, []string{keyOf(2)}, expiring(late, 10))
	require.False(t, named("default/a/1.zip"), "an expired export names no file")
	require.Equal(t, []string{keyOf(2), keyOf(1)}, ended(LeftoverDone, late, 10), "still to be cleared")

	// A restarted export has no leftovers; when it ends it has them again.
	log.add("default", keyOf(4), begin, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))
	log.add("default", keyOf(3), begin, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))
	require.Empty(t, ended(LeftoverStopped, late, 10))
	log.add("default", keyOf(4), begin.Add(7*time.Hour), &events.ExportCancelled{})
	require.NoError(t, tasks.Apply(log.all))
	require.Equal(t, []string{keyOf(4)}, ended(LeftoverStopped, late, 10))

	require.Equal(t, map[events.State]int{
		events.StateCompleted: 1, events.StateExpired: 1, events.StateCancelled: 1, events.StateRequested: 2,
		events.StateRejected: 1,
	}, states(t, tasks))
}

func TestWaitApplied(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	for n := range 10 {
		log.add("default", keyOf(n), begin, request("u", begin))
	}
	require.NoError(t, tasks.WaitApplied(t.Context(), 0))

	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, tasks.WaitApplied(over, 1), context.Canceled)

	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			seq := uint64(i%10) + 1
			if err := tasks.WaitApplied(t.Context(), seq); err != nil {
				t.Error(err)
			}
			if _, err := tasks.Get(keyOf(int(seq) - 1)); err != nil {
				t.Errorf("missing after the wait: %v", err)
			}
		})
	}
	for _, ev := range log.all {
		require.NoError(t, tasks.Apply([]events.Event{ev}))
	}
	wg.Wait()

	done := make(chan error)
	go func() { done <- tasks.WaitApplied(t.Context(), 11) }()
	require.NoError(t, tasks.Close())
	require.ErrorIs(t, <-done, ErrTasksClosed)
	require.ErrorIs(t, tasks.Apply(logMore(&log)), ErrTasksClosed)
	_, err := tasks.Get(keyOf(0))
	require.ErrorIs(t, err, ErrTasksClosed)
	require.NoError(t, tasks.Close())
}

func logMore(l *logOf) []events.Event {
	l.add("default", keyOf(5000), begin, request("u", begin))
	return l.all
}

func TestBindEmptiesAProjectionOfAnotherLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	tasks := openAt(t, path)
	log := logOf{t: t}
	for n := range 5 {
		log.add("default", keyOf(n), begin, request("u", begin))
	}
	fill := func() {
		require.NoError(t, tasks.Apply(log.all))
		require.EqualValues(t, 5, tasks.Applied())
	}
	require.NoError(t, tasks.Bind(begin, 5))
	fill()
	require.NoError(t, tasks.Bind(begin, 5))
	require.NoError(t, tasks.Bind(begin.In(time.FixedZone("", 3600)), 7))
	require.EqualValues(t, 5, tasks.Applied(), "the same log, however its time is written")

	require.NoError(t, tasks.Bind(begin.Add(1), 5))
	require.Zero(t, tasks.Applied(), "a log created at another time")
	_, err := tasks.Get(keyOf(0))
	require.ErrorIs(t, err, ErrUnknownKey)
	list, err := tasks.History("default", "u", time.Time{}, 0, 10)
	require.NoError(t, err)
	require.Empty(t, list)

	fill()
	require.NoError(t, tasks.Bind(begin.Add(1), 4))
	require.Zero(t, tasks.Applied(), "a log that ends before the applied sequence")
	fill()
	require.NoError(t, tasks.Close())
	tasks = openAt(t, path)
	require.NoError(t, tasks.Bind(begin.Add(1), 5))
	require.EqualValues(t, 5, tasks.Applied(), "the binding is kept over a restart")
}

func TestOpenRefusesAFileInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	openAt(t, path)
	_, err := OpenTasks(path, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "another process uses "+path)
	_, err = OpenTasks(t.TempDir(), slog.New(slog.DiscardHandler))
	require.Error(t, err, "a folder")
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing was set aside")
}

// filled creates a projection of 200 exports and returns its digest.
func filled(t *testing.T, path string, clean bool) (*logOf, string) {
	tasks := openAt(t, path)
	log := &logOf{t: t}
	for n := range 200 {
		log.add("default", keyOf(n), begin, request("u", begin))
		log.add("default", keyOf(n), begin, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503"})
	}
	require.NoError(t, tasks.Apply(log.all))
	sum := digest(t, tasks)
	if clean {
		require.NoError(t, tasks.Close())
	} else {
		require.NoError(t, tasks.db.Close())
	}
	return log, sum
}

func TestOpenSetsADamagedFileAside(t *testing.T) {
	t.Parallel()
	write := func(at int64, b []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(b, at)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	truncate := func(size int64) func(*testing.T, string) {
		return func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, size)) }
	}
	meta := func(change func(*bbolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := bbolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(change))
			require.NoError(t, db.Close())
		}
	}
	ones := slices.Repeat([]byte{0xff}, 4096)
	for name, damage := range map[string]func(*testing.T, string){
		"not a database": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, ones, 0o600))
		},
		"half a page":       truncate(2000),
		"meta pages alone":  truncate(8192),
		"shortened":         truncate(100_000),
		"zeroed start":      write(0, make([]byte, 8192)),
		"pages overwritten": write(2*4096, slices.Repeat(ones, 6)),
		"later pages overwritten": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			for at := int64(8 * 4096); at+4096 < info.Size(); at += 4096 {
				write(at, ones)(t, path)
			}
		},
		"a flipped bit in an export": func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Contains(t, string(data), `"title":"订单"`)
			data = bytes.ReplaceAll(data, []byte(`"title":"订单"`), []byte(`"title":"订卖"`))
			require.NoError(t, os.WriteFile(path, data, 0o600))
		},
		"another program's bbolt file": meta(func(tx *bbolt.Tx) error {
			if err := tx.DeleteBucket(bucketMeta); err != nil {
				return err
			}
			_, err := tx.CreateBucket([]byte("other"))
			return err
		}),
		"a bucket is missing": meta(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketHistory) }),
		"another format": meta(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(metaFormat, binary.BigEndian.AppendUint64(nil, 99))
		}),
		"another version's events": meta(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(metaKnows, []byte("0123456789abcdef"))
		}),
		"no word of its events": meta(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketMeta).Delete(metaKnows)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tasks.db")
			log, sum := filled(t, path, false)
			require.NoError(t, os.WriteFile(path+".corrupt-20200101T000000Z", nil, 0o600))
			damage(t, path)

			tasks := openAt(t, path)
			require.Zero(t, tasks.Applied())
			require.NoError(t, tasks.Apply(log.all))
			require.Equal(t, sum, digest(t, tasks), "rebuilt from the log")
			require.NoError(t, tasks.Close())

			var aside []string
			entries, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			for _, e := range entries {
				if e.Name() != "tasks.db" {
					aside = append(aside, e.Name())
				}
			}
			require.Len(t, aside, 1, "only the newest is kept")
			want := "tasks.db.corrupt-2"
			switch name {
			case "another format":
				want = "tasks.db.format-99-2"
			case "another version's events", "no word of its events":
				want = fmt.Sprintf("tasks.db.format-%d-2", tasksFormat)
			}
			require.Contains(t, aside[0], want)
			require.NotContains(t, aside[0], "20200101")

			tasks = openAt(t, path)
			require.Equal(t, sum, digest(t, tasks))
		})
	}
}

func TestDamageThatShowsLaterIsAnErrorAndHealsAtTheNextStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	log, sum := filled(t, path, true)
	tasks := openAt(t, path)
	require.Equal(t, sum, digest(t, tasks))
	require.NoError(t, os.Truncate(path, 16<<10)) // behind its back, as a failing disk would

	_, _, err := tasks.Digest()
	require.ErrorIs(t, err, ErrTasksDamaged)
	_ = tasks.Close()

	tasks = openAt(t, path)
	require.NoError(t, tasks.Apply(log.all))
	require.Equal(t, sum, digest(t, tasks))
}

func TestAFileThatWasNotClosedIsTrustedAfterACheck(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	log, sum := filled(t, path, false)
	tasks := openAt(t, path)
	require.EqualValues(t, len(log.all), tasks.Applied())
	require.Equal(t, sum, digest(t, tasks))
}

// TestRebuiltEqualsLived puts exports through a random log. One projection applies it event by event. Another
// applies random batches, with repeats, crashes and a keeper that purges all but the newest event of a key
// and forgets settled keys. A third is built from the remaining events.
func TestRebuiltEqualsLived(t *testing.T) {
	t.Parallel()
	payload := func(t *rapid.T, n int) events.Payload {
		at := begin.Add(time.Duration(rapid.IntRange(-1e6, 1e6).Draw(t, "seconds")) * time.Second)
		switch rapid.IntRange(0, 11).Draw(t, "type") {
		case 0, 1, 2:
			r := request(rapid.SampledFrom([]string{"u", "", "u\x00", "\x00", "用户", "\xff"}).Draw(t, "user"),
				at)
			if rapid.Bool().Draw(t, "no callback") {
				r.Request.Callback = ""
			}
			if rapid.Bool().Draw(t, "uses other pages") {
				r.Request.From = &events.Origin{Key: rapid.SampledFrom([]string{keyOf(1), keyOf(3), "", strings.Repeat("x", 40_000)}).Draw(t, "from")}
			}
			return r
		case 3, 4:
			return &events.ExportCrawled{Run: uint64(n), Pages: n,
				Warnings: []events.Warning{{Code: "A", Message: "b"}}}
		case 5, 6:
			done := completed(fmt.Sprintf("default/%d.zip", rapid.IntRange(0, 5).Draw(t, "file")), at)
			if rapid.Bool().Draw(t, "keeps pages") {
				done.PagesUntil = at
			}
			return done
		case 7:
			return &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503 \x80", Run: uint64(n)}
		case 8:
			return &events.ExportCancelled{Reason: "enough"}
		case 9:
			return &events.ExportExpired{Files: []string{"x"}}
		case 10:
			return rapid.SampledFrom([]events.Payload{&events.CallbackAttempted{Attempt: n, Status: 500, NextAt: at},
				&events.CallbackRequested{}}).Draw(t, "callback")
		}
		return &events.CallbackDelivered{Attempt: n, Status: 200}
	}
	folder := t.TempDir()
	runs := 0
	late := begin.Add(1e9 * time.Second)
	rapid.Check(t, func(t *rapid.T) {
		runs++
		open := func(name string) *Tasks {
			tasks, err := OpenTasks(filepath.Join(folder, fmt.Sprintf("%d-%s.db", runs, name)), slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			return tasks
		}
		log := logOf{t: t}
		one, cut := open("one"), open("cut")
		defer func() { _, _ = one.Close(), cut.Close() }()
		for n := range rapid.IntRange(1, 80).Draw(t, "steps") {
			key := rapid.IntRange(1, 4).Draw(t, "key")
			tenant := []string{"default", "other"}[key%2]
			switch p := payload(t, n); {
			case rapid.IntRange(0, 15).Draw(t, "rejected") == 0:
				log.add("default", keyOf(1000+n), begin, &events.SubmissionRejected{Reason: "no"})
			case rapid.IntRange(0, 20).Draw(t, "broken") == 0:
				log.last++
				log.all = append(log.all, events.Event{Tenant: tenant, Key: keyOf(key), Sequence: log.last})
			default:
				x := log.now[keyOf(key)]
				if x.Allows(p.EventType()) != nil {
					continue
				}
				log.add(tenant, keyOf(key), begin.Add(time.Duration(n)*time.Second), p)
			}
			require.NoError(t, one.Apply(log.all[len(log.all)-1:]))
			if rapid.Bool().Draw(t, "follows") {
				seen := slices.IndexFunc(log.all, func(ev events.Event) bool {
					return ev.Sequence > cut.Applied()
				})
				require.NoError(t, cut.Apply(log.all[rapid.IntRange(0, max(seen, 0)).Draw(t, "from"):]))
			}
			switch rapid.IntRange(0, 7).Draw(t, "then") {
			case 0: // a crash
				require.NoError(t, cut.db.Close())
				cut = open("cut")
			case 1, 2: // a keeper purges leftovers
				kind := rapid.SampledFrom([]Leftover{LeftoverDone, LeftoverStopped, LeftoverEvents, LeftoverKept}).
					Draw(t, "kind")
				list, err := cut.Ended(kind, late, 2)
				require.NoError(t, err)
				for _, x := range list {
					if kind == LeftoverEvents {
						log.keepLast(x.Key)
					}
				}
				require.NoError(t, cut.Cleared(kind, list))
			case 3: // it forgets a settled export
				list, err := cut.Settled(tenant, 1)
				require.NoError(t, err)
				if len(list) == 1 && log.now[list[0].Key].LastSeq == list[0].LastSeq {
					require.NoError(t, cut.Forget(list))
					require.NoError(t, one.Forget(list))
					log.drop(list[0].Key)
				}
			}
		}
		// The log's newest event is never purged; without it, another event would advance the sequence.
		log.last++
		log.all = append(log.all, events.Event{Sequence: log.last})
		rebuilt := open("rebuilt")
		defer func() { _ = rebuilt.Close() }()
		require.NoError(t, one.Apply(log.all))
		require.NoError(t, cut.Apply(log.all))
		require.NoError(t, rebuilt.Apply(log.all))
		require.Equal(t, digest(t, one), digest(t, cut))
		require.Equal(t, digest(t, one), digest(t, rebuilt))
		require.NoError(t, cut.db.View(verify))

		// They also equal the newest event of each key, and their totals add up.
		usages, last := map[string]Usage{}, map[string]uint64{}
		for key, want := range log.now {
			got, err := cut.Get(key)
			require.NoError(t, err)
			require.Equal(t, asJSON(t, want), asJSON(t, got))
			last[key] = want.LastSeq
			u := usages[want.Tenant]
			u.Exports++
			if want.State.Terminal() && want.Callback.State != events.CallbackPending {
				u.Settled++
			}
			if !want.State.Terminal() {
				u.Unfinished++
			}
			switch want.State {
			case events.StateCompleted, events.StateExpired:
				u.Succeeded++
			case events.StateFailed, events.StateRejected:
				u.Failed++
			case events.StateCancelled:
				u.Cancelled++
			}
			for _, f := range want.Files {
				if want.State == events.StateCompleted {
					u.FileBytes += f.Size
				}
			}
			u.Bytes += int64(len(asJSON(t, want))) + 4 + eventOverhead
			usages[want.Tenant] = u
		}
		got, err := cut.Usages()
		require.NoError(t, err)
		require.Equal(t, usages, got)
		sequences := map[string]uint64{}
		require.NoError(t, cut.LastSequences(func(key string, sequence uint64) error {
			sequences[key] = sequence
			return nil
		}))
		require.Equal(t, last, sequences)
	})
}

// A settled export leaves all but its newest event behind, and does so again when its file expires.
func TestLeftoverEvents(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	late := begin.Add(1000 * time.Hour)
	left := func(before time.Time) []string {
		require.NoError(t, tasks.Apply(log.all))
		list, err := tasks.Ended(LeftoverEvents, before, 10)
		require.NoError(t, err)
		return keysOf(list)
	}
	clear := func() {
		list, err := tasks.Ended(LeftoverEvents, late, 10)
		require.NoError(t, err)
		require.NoError(t, tasks.Cleared(LeftoverEvents, list))
		require.Empty(t, left(late))
	}
	silent := func() events.Payload { r := request("u", begin); r.Request.Callback = ""; return r }
	log.add("default", keyOf(1), begin, silent())
	log.add("default", keyOf(2), begin, request("u", begin))
	log.add("default", keyOf(3), begin, &events.SubmissionRejected{Reason: "no"})
	require.Empty(t, left(late), "under way, and of one event")
	log.add("default", keyOf(1), begin, &events.ExportCrawled{Run: 1, Pages: 1})
	log.add("default", keyOf(1), begin.Add(time.Hour), completed("default/a/1.zip", begin))
	log.add("default", keyOf(2), begin, &events.ExportCancelled{})
	require.Equal(t, []string{keyOf(1)}, left(late), "the other's callback is due")
	require.Empty(t, left(begin.Add(time.Hour)), "a moment later")
	log.add("default", keyOf(2), begin, &events.CallbackAttempted{Attempt: 1, Status: 500})
	require.Equal(t, []string{keyOf(1)}, left(late))
	log.add("default", keyOf(2), begin.Add(2*time.Hour), &events.CallbackDelivered{Attempt: 2, Status: 200})
	require.Equal(t, []string{keyOf(1), keyOf(2)}, left(late))
	clear()

	log.keepLast(keyOf(1))
	log.add("default", keyOf(1), begin.Add(3*time.Hour), &events.ExportExpired{})
	require.Equal(t, []string{keyOf(1)}, left(late))
	pages, err := tasks.Ended(LeftoverDone, late, 10)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(1)}, keysOf(pages), "one kind does not clear the other")
	clear()
	log.add("default", keyOf(1), begin.Add(4*time.Hour), silent())
	require.Empty(t, left(late))
}

// A tenant forgets its settled exports in the order in which they started. The expiry of a file is not a
// start.
func TestSettledAndForget(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	cancelled := func(tenant string, n int) {
		r := request("u", begin)
		r.Request.Callback = ""
		log.add(tenant, keyOf(n), begin, r)
		log.add(tenant, keyOf(n), begin, &events.ExportCancelled{})
	}
	settled := func(tenant string, limit int) []events.Export {
		require.NoError(t, tasks.Apply(log.all))
		list, err := tasks.Settled(tenant, limit)
		require.NoError(t, err)
		return list
	}
	cancelled("default", 1)
	log.add("default", keyOf(2), begin, request("u", begin))
	r := request("u", begin)
	r.Request.Callback = ""
	log.add("default", keyOf(3), begin, r)
	log.add("default", keyOf(3), begin, &events.ExportCrawled{Run: 1})
	log.add("default", keyOf(3), begin, completed("default/a/3.zip", begin.Add(time.Hour)))
	log.add("default", keyOf(4), begin, &events.SubmissionRejected{Reason: "no"})
	cancelled("default-2", 5)
	log.add("default", keyOf(2), begin, &events.ExportCancelled{})
	require.Equal(t, []string{keyOf(1), keyOf(3), keyOf(4)}, keysOf(settled("default", 10)),
		"the callback of 2 is due")
	log.add("default", keyOf(2), begin, &events.CallbackFailed{Attempt: 10})
	log.add("default", keyOf(3), begin, &events.ExportExpired{})
	require.Equal(t, []string{keyOf(1), keyOf(2), keyOf(3), keyOf(4)}, keysOf(settled("default", 10)))
	require.Equal(t, []string{keyOf(1)}, keysOf(settled("default", 1)))
	require.Equal(t, []string{keyOf(5)}, keysOf(settled("default-2", 10)))
	below, err := tasks.Below(log.now[keyOf(5)].LastSeq, 10)
	require.NoError(t, err)
	require.Equal(t, []string{keyOf(1), keyOf(4)}, keysOf(below))
	log.add("default", keyOf(6), begin, request("u", begin))
	log.add("default", keyOf(7), begin, request("u", begin))
	log.add("default", keyOf(7), begin, &events.ExportCancelled{})
	log.add("default-2", keyOf(8), begin, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))
	below, err = tasks.Below(log.now[keyOf(8)].LastSeq, 10)
	require.NoError(t, err)
	require.Len(t, below, 7)
	require.Subset(t, keysOf(below), []string{keyOf(6), keyOf(7)}, "also one under way and one with a callback due")

	// An export that was restarted meanwhile stays.
	list := settled("default", 2)
	log.add("default", keyOf(2), begin, request("u", begin))
	require.NoError(t, tasks.Apply(log.all))
	require.NoError(t, tasks.Forget(list))
	_, err = tasks.Get(keyOf(1))
	require.ErrorIs(t, err, ErrUnknownKey)
	x, err := tasks.Get(keyOf(2))
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
	require.NoError(t, tasks.Forget(list), "forgetting unknown exports is not an error")
	log.drop(keyOf(1))
	fresh := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	require.NoError(t, fresh.Apply(log.all))
	require.Equal(t, digest(t, fresh), digest(t, tasks))
	cancelled("default", 1)
	require.NoError(t, tasks.Apply(log.all))
	x, err = tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.Equal(t, x.RequestedSeq, x.ID, "requested again it is a new export")
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
	require.NoError(t, tasks.Cleared(LeftoverStopped, []events.Export{x}))
	cleared, err = tasks.IsCleared(&x)
	require.NoError(t, err)
	require.True(t, cleared)
}

// Pages that are kept are listed by the time until when, also after the file has expired, and pages in use while
// an export that uses them has not ended.
func TestKeptAndUsedPages(t *testing.T) {
	t.Parallel()
	tasks := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
	log := logOf{t: t}
	done := completed("default/1.zip", begin)
	done.PagesUntil = begin.Add(time.Hour)
	for _, p := range []events.Payload{request("u", begin), &events.ExportCrawled{}, done} {
		log.add("default", keyOf(1), begin, p)
	}
	log.add("default", keyOf(2), begin, request("u", begin))
	uses := request("u", begin)
	uses.Request.From = &events.Origin{Key: keyOf(1)}
	log.add("default", keyOf(3), begin, uses)
	check := func(kept int, used bool) {
		t.Helper()
		require.NoError(t, tasks.Apply(log.all))
		list, err := tasks.Ended(LeftoverKept, begin.Add(time.Hour), 10)
		require.NoError(t, err)
		require.Empty(t, list, "not due")
		list, err = tasks.Ended(LeftoverKept, begin.Add(time.Hour+time.Nanosecond), 10)
		require.NoError(t, err)
		require.Len(t, list, kept)
		for n := range 5 {
			got, err := tasks.InUse(keyOf(n))
			require.NoError(t, err)
			require.Equal(t, used && n == 1, got, n)
		}
	}
	check(1, true)
	log.add("default", keyOf(3), begin, &events.ExportCrawled{})
	log.add("default", keyOf(1), begin, &events.ExportExpired{})
	check(1, true)
	log.add("default", keyOf(3), begin, &events.ExportCancelled{})
	check(1, false)
	x, err := tasks.Get(keyOf(1))
	require.NoError(t, err)
	require.NoError(t, tasks.Cleared(LeftoverDone, []events.Export{x}))
	cleared, err := tasks.IsCleared(&x)
	require.NoError(t, err)
	require.False(t, cleared)
	require.NoError(t, tasks.Cleared(LeftoverKept, []events.Export{x}))
	cleared, err = tasks.IsCleared(&x)
	require.NoError(t, err)
	require.True(t, cleared)
	log.add("default", keyOf(1), begin, request("u", begin))
	check(0, false)
}

// BenchmarkRebuild applies a log of exports of four events each, in batches as a follower receives them, and
// reports events per second.
func BenchmarkRebuild(b *testing.B) {
	const exports = 20_000
	log := logOf{t: b}
	for n := range exports {
		at := begin.Add(time.Duration(n) * time.Second)
		key := keyOf(n * 7919)
		log.add("default", key, at, request(fmt.Sprint(n%100), at))
		log.add("default", key, at, &events.ExportCrawled{Run: uint64(n), Pages: 10})
		log.add("default", key, at, completed(fmt.Sprintf("default/%s/%d.zip", key, n), at.Add(time.Hour)))
		log.add("default", key, at, &events.CallbackDelivered{Attempt: 1, Status: 200})
	}
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		path := filepath.Join(b.TempDir(), fmt.Sprintf("%d.db", i))
		tasks, err := OpenTasks(path, slog.New(slog.DiscardHandler))
		require.NoError(b, err)
		for batch := range slices.Chunk(log.all, 512) {
			require.NoError(b, tasks.Apply(batch))
		}
		require.NoError(b, tasks.db.Close()) // unlike tasks.Close, leaves it as a crash does
		b.StopTimer()
		info, err := os.Stat(path)
		require.NoError(b, err)
		b.ReportMetric(float64(info.Size())/exports, "bytes/export")
		start := time.Now()
		tasks, err = OpenTasks(path, slog.New(slog.DiscardHandler))
		require.NoError(b, err)
		b.ReportMetric(float64(time.Since(start).Milliseconds())*100_000/exports, "ms-check/100k")
		start = time.Now()
		_ = digest(b, tasks)
		b.ReportMetric(float64(time.Since(start).Milliseconds())*100_000/exports, "ms-digest/100k")
		require.NoError(b, tasks.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*4*exports/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkApplyOne measures applying a single event, which delays callers that read their own write.
func BenchmarkApplyOne(b *testing.B) {
	tasks := openAt(b, filepath.Join(b.TempDir(), "tasks.db"))
	log := logOf{t: b}
	for i := 0; b.Loop(); i++ {
		log.add("default", keyOf(i), begin, request("u", begin))
		if err := tasks.Apply(log.all[i:]); err != nil {
			b.Fatal(err)
		}
	}
}

// A file that was open when the machine went down can be read once more and is rebuilt, whatever its content.
// A file left open by a killed process is trusted.
func TestATornFileIsMadeAgain(t *testing.T) {
	t.Parallel()
	if bootID() == "" {
		t.Skip("the system does not name its runs, so all is synced")
	}
	dir := t.TempDir()
	log, sum := filled(t, filepath.Join(dir, "live.db"), false)
	data, err := os.ReadFile(filepath.Join(dir, "live.db"))
	require.NoError(t, err)
	killed, torn := filepath.Join(dir, "killed.db"), filepath.Join(dir, "torn.db")
	for _, path := range []string{killed, torn} {
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	after := openAt(t, killed)
	require.False(t, after.Torn())
	require.Equal(t, sum, digest(t, after))

	db, err := bbolt.Open(torn, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaBoot, []byte("an earlier run"))
	}))
	require.NoError(t, db.Close())
	for range 2 { // a process that ends before Reset leaves it torn
		tasks := openAt(t, torn)
		require.True(t, tasks.Torn())
		require.EqualValues(t, len(log.all), tasks.Applied())
		require.NoError(t, tasks.Close())
	}
	tasks := openAt(t, torn)
	require.NoError(t, tasks.Reset())
	require.False(t, tasks.Torn())
	require.Zero(t, tasks.Applied())
	require.NoError(t, tasks.Apply(log.all))
	require.Equal(t, sum, digest(t, tasks))
	require.NoError(t, tasks.Close())
	require.False(t, openAt(t, torn).Torn())
}
