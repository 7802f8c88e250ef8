package journal_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// store is a data folder on which servers are started and stopped.
type store struct {
	dir string
	srv *embedded.Server
	*journal.Log
}

func startStore(t testing.TB, dir string) *store {
	t.Helper()
	s := &store{dir: dir}
	var err error
	s.srv, err = embedded.Start(embedded.Options{Dir: dir, MaxStore: 8 << 30, Ephemeral: true})
	require.NoError(t, err)
	nc, err := s.srv.Connect()
	require.NoError(t, err)
	s.Log, err = journal.Provision(t.Context(), nc, journal.Config{SecretKey: eventstest.SecretKey})
	if err != nil {
		s.stop()
	}
	require.NoError(t, err)
	return s
}

func (s *store) stop() {
	if s.Log != nil {
		s.Conn().Close()
	}
	s.srv.Stop()
}

// folder returns the server's folder of a stream.
func folder(t testing.TB, dir, stream string) (found string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == stream {
			found = path
		}
		return err
	}))
	require.NotEmpty(t, found)
	return found
}

func block(t testing.TB, dir, stream string) string {
	return filepath.Join(folder(t, dir, stream), "msgs", "1.blk")
}

func flip(t testing.TB, path string, bit int) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[bit/8] ^= 1 << (bit % 8)
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func size(t testing.TB, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return int(info.Size())
}

func key(n int) string { return fmt.Sprintf("%032x", n) }

// lived writes exports in every state, works through the consumers, and returns a projection's exports.
func lived(t testing.TB, s *store) (exports []events.Export) {
	t.Helper()
	ends := [][]events.Type{
		{},
		{events.TypeCrawled},
		{events.TypeCrawled, events.TypeCompleted},
		{events.TypeCrawled, events.TypeCompleted, events.TypeCallbackDelivered},
		{events.TypeFailed, events.TypeCallbackAttempted, events.TypeCallbackFailed},
		{events.TypeCancelled},
		{events.TypeCrawled, events.TypeCompleted, events.TypeExpired},
		{events.TypeFailed, events.TypeRequested, events.TypeCrawled, events.TypeCompleted},
	}
	for n, types := range ends {
		x := events.Export{Tenant: "default", Key: key(n)}
		for i, typ := range append([]events.Type{events.TypeRequested}, types...) {
			var err error
			p := eventstest.Payload(typ, uint64(10*n+i+1), "http://callback")
			switch p := p.(type) {
			case *events.ExportCrawled:
				p.Manifest = "m"
			case *events.ExportCompleted:
				p.Manifest, p.Warnings = "m", []events.Warning{{Code: "C", Message: "w"}}
			}
			x, err = s.Append(t.Context(), x, "order-7", always(p))
			require.NoError(t, err)
		}
		exports = append(exports, x)
	}
	for consumer, stream := range map[string]string{
		events.ConsumerCrawler: events.StreamEvents, events.ConsumerAssembler: events.StreamEvents,
		events.ConsumerNotifier: events.StreamEvents,
	} {
		c, err := s.JetStream().Consumer(t.Context(), stream, consumer)
		require.NoError(t, err)
		for c.CachedInfo().NumPending > 0 || c.CachedInfo().NumAckPending > 0 {
			batch, err := c.Fetch(100, jetstream.FetchMaxWait(100*time.Millisecond), jetstream.FetchPriorityGroup("load"))
			require.NoError(t, err)
			for m := range batch.Messages() {
				require.NoError(t, m.DoubleAck(t.Context()))
			}
			_, err = c.Info(t.Context())
			require.NoError(t, err)
		}
	}
	return exports
}

// found returns the damage that a start finds, with these exports in the projection.
func (s *store) found(t testing.TB, marks journal.Marks, known ...events.Export) (texts []string) {
	t.Helper()
	damage, err := s.Check(t.Context(), marks)
	require.NoError(t, err)
	for _, d := range damage {
		require.NotEmpty(t, d.Stream)
		if d.Harmless {
			texts = append(texts, "harmless: "+d.What)
		} else {
			texts = append(texts, d.What)
		}
	}
	readable, err := s.Readable(t.Context())
	require.NoError(t, err)
	require.True(t, slices.IsSorted(readable))
	for _, x := range known {
		if !slices.Contains(readable, x.LastSeq) {
			texts = append(texts, x.Key+" is unreadable")
		}
	}
	return texts
}

// now returns exports from the log.
func (s *store) now(t testing.TB, exports []events.Export) (now []events.Export) {
	t.Helper()
	for _, x := range exports {
		got, err := s.Read(t.Context(), x.Tenant, x.Key)
		require.NoError(t, err)
		now = append(now, got)
	}
	return now
}

// mend restores exports, and requires that they are unchanged and a second pass restores nothing.
func (s *store) mend(t testing.TB, exports []events.Export) {
	t.Helper()
	for _, x := range exports {
		_, err := s.Restore(t.Context(), x)
		require.NoError(t, err, "%s %s", x.Key, x.State)
	}
	require.NoError(t, s.Redeliver(t.Context()))
	for _, x := range exports {
		again, err := s.Restore(t.Context(), x)
		require.NoError(t, err)
		require.False(t, again, "%s %s", x.Key, x.State)
	}
	for i, got := range s.now(t, exports) {
		requireSameExport(t, exports[i], got)
	}
}

// requireSameExport ignores fields that change when an export is restored. One in progress may have to be
// crawled again.
func requireSameExport(t testing.TB, want, got events.Export) {
	t.Helper()
	require.Equal(t, want.Timeline, got.Timeline[:len(want.Timeline)])
	if !want.State.Terminal() {
		require.False(t, got.State.Terminal())
		require.Equal(t, []any{want.ID, want.CreatedAt, want.RequestedAt, want.Request, want.CorrelationID},
			[]any{got.ID, got.CreatedAt, got.RequestedAt, got.Request, got.CorrelationID})
		return
	}
	plain := func(x events.Export) events.Export {
		x.LastSeq, x.LastID, x.TerminalSeq, x.Timeline = 0, "", 0, nil
		return x
	}
	require.Equal(t, plain(want), plain(got))
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
}

// Damage to the files of the log, with the index of an orderly stop and without it, as after a crash.
func TestEveryLossOfTheLogIsFound(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	s := startStore(t, whole)
	half := lived(t, s)
	s.stop()
	older := t.TempDir()
	copyFolder(t, whole, older)
	s = startStore(t, whole)
	newer, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key(99)}, "",
		always(eventstest.Payload(events.TypeRequested, 99, "")))
	require.NoError(t, err)
	exports := append(half, newer)
	marks, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	again, err := s.Marks(t.Context(), marks)
	require.NoError(t, err)
	require.Equal(t, marks, again)
	require.NoError(t, again.Contradicts(marks))
	s.stop()

	for name, damage := range map[string]func(t *testing.T, dir string) (want string){
		"a flipped bit in a length": func(t *testing.T, dir string) string {
			blk := block(t, dir, events.StreamEvents)
			data, err := os.ReadFile(blk)
			require.NoError(t, err)
			// The length of a record is 20 bytes before the length of its subject.
			at := strings.LastIndex(string(data[:len(data)/2]), "sheaf.event.") - 22
			flip(t, blk, 8*(at+1)+1)
			return ""
		},
		"a flipped bit in the data": func(t *testing.T, dir string) string {
			blk := block(t, dir, events.StreamEvents)
			flip(t, blk, 4*size(t, blk))
			return ""
		},
		"a truncated block": func(t *testing.T, dir string) string {
			blk := block(t, dir, events.StreamEvents)
			require.NoError(t, os.Truncate(blk, int64(size(t, blk)/2)))
			return ""
		},
		"an empty block": func(t *testing.T, dir string) string {
			require.NoError(t, os.Truncate(block(t, dir, events.StreamEvents), 0))
			return ""
		},
		"a missing block": func(t *testing.T, dir string) string {
			require.NoError(t, os.Remove(block(t, dir, events.StreamEvents)))
			return ""
		},
		"a missing stream": func(t *testing.T, dir string) string {
			require.NoError(t, os.RemoveAll(folder(t, dir, events.StreamEvents)))
			return "re-created"
		},
		"a missing description of the stream": func(t *testing.T, dir string) string {
			require.NoError(t, os.Remove(filepath.Join(folder(t, dir, events.StreamEvents), "meta.inf")))
			return ""
		},
		"an older copy of the whole store": func(t *testing.T, dir string) string {
			copyFolder(t, older, dir)
			return "although"
		},
	} {
		for _, index := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, index %t", name, index), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				copyFolder(t, whole, dir)
				want := damage(t, dir)
				if !index {
					_ = os.Remove(filepath.Join(dir, "jetstream", "$G", "streams", events.StreamEvents,
						"msgs", "index.db"))
				}
				s := startStore(t, dir)
				defer func() { s.stop() }()
				found := s.found(t, marks, exports...)
				if want != "" || !slices.EqualFunc(exports, s.now(t, exports), same) {
					require.NotEmpty(t, found)
				} // else an event was hit that no export needs
				require.Contains(t, strings.Join(found, "\n"), want)
				t.Log(strings.Join(found, "; "))
				s.mend(t, exports)
				// The repair survives the next start.
				before, err := s.Marks(t.Context(), nil)
				require.NoError(t, err)
				mended := s.now(t, exports)
				s.stop()
				s = startStore(t, dir)
				require.Empty(t, s.found(t, before, mended...))
				s.mend(t, exports)
			})
		}
	}
}

func same(a, b events.Export) bool { return reflect.DeepEqual(a, b) }

// Flips any single bit of the log; only bits of superseded events may go unnoticed.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	s := startStore(t, whole)
	exports := lived(t, s)
	marks, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	s.stop()
	bits := 8 * size(t, block(t, whole, events.StreamEvents))
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		copyFolder(t, whole, dir)
		bit, index := rnd.IntN(bits), rnd.IntN(2) == 0
		flip(t, block(t, dir, events.StreamEvents), bit)
		if !index {
			require.NoError(t, os.Remove(filepath.Join(folder(t, dir, events.StreamEvents),
				"msgs", "index.db")))
		}
		s := startStore(t, dir)
		if !slices.EqualFunc(exports, s.now(t, exports), same) {
			require.NotEmpty(t, s.found(t, marks, exports...), "bit %d of %d, index %t", bit, bits, index)
		}
		s.mend(t, exports)
		s.stop()
	}
}

// Damage to the other streams, by ways in which a server's files can suffer.
func TestLossesOfOtherStreamsAreFound(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	s := startStore(t, whole)
	lived(t, s)
	for n := range 10 {
		_, err := s.JetStream().Publish(t.Context(), events.SubmitSubject("default", "http"),
			[]byte(fmt.Sprint(n)))
		require.NoError(t, err)
		_, err = s.Pages().Publish(t.Context(),
			pages.Page{ID: pages.ID{Tenant: "default", Key: key(1), Run: 1, Number: n + 1},
				Rows: []byte(`[]`)})
		require.NoError(t, err)
		require.NoError(t, s.SaveHeaders(t.Context(), "default", key(n), map[string]string{"A": "b"}))
		require.NoError(t, s.ScheduleCallback(t.Context(), "default", key(n), time.Now().Add(time.Hour)))
	}
	marks, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	s.stop()
	for _, stream := range []string{events.StreamSubmit, events.StreamPages, events.StreamPrivate,
		events.StreamTimers} {
		for name, damage := range map[string]func(t *testing.T, dir string){
			"cut": func(t *testing.T, dir string) {
				blk := block(t, dir, stream)
				require.NoError(t, os.Truncate(blk, int64(size(t, blk)/2)))
				require.NoError(t, os.Remove(filepath.Join(filepath.Dir(blk), "index.db")))
			},
			"gone": func(t *testing.T, dir string) {
				require.NoError(t, os.RemoveAll(folder(t, dir, stream)))
			},
		} {
			t.Run(stream+" "+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				copyFolder(t, whole, dir)
				damage(t, dir)
				s := startStore(t, dir)
				defer s.stop()
				damaged, err := s.Check(t.Context(), marks)
				require.NoError(t, err)
				require.NotEmpty(t, damaged)
				require.Equal(t, stream, damaged[0].Stream)
				require.False(t, damaged[0].Harmless)
			})
		}
	}
}

// A consumer that forgot its deliveries redelivers them: that is reported, but not as a loss.
func TestLostConsumerStateIsHarmless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startStore(t, dir)
	lived(t, s)
	marks, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	require.NotZero(t, marks[events.StreamEvents].Floors[events.ConsumerCrawler])
	s.stop()
	for _, lose := range []string{"o.dat", ""} {
		require.NoError(t, os.RemoveAll(filepath.Join(folder(t, dir, events.StreamEvents), "obs",
			events.ConsumerCrawler, lose)))
		s = startStore(t, dir)
		found := s.found(t, marks)
		require.Len(t, found, 1)
		require.Contains(t, found[0], "harmless: the consumer crawler goes back")
		c, err := s.JetStream().Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
		require.NoError(t, err)
		require.NotZero(t, c.CachedInfo().NumPending)
		s.stop()
	}
}

// An export from a projection is republished once, whatever its state, and however often and by however many
// processes it is restored.
func TestRestore(t *testing.T) {
	t.Parallel()
	s := startStore(t, t.TempDir())
	defer s.stop()
	exports := lived(t, s)
	rejected, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key(50)}, "order-7",
		always(eventstest.Payload(events.TypeRejected, 50, "")))
	require.NoError(t, err)
	for _, x := range append(exports, rejected) {
		require.NoError(t, s.Forget(t.Context(), x))
		var restored atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if done, err := s.Restore(t.Context(), x); err != nil {
					t.Error(err)
				} else if done {
					restored.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, restored.Load(), x.State)
		done, err := s.Restore(t.Context(), x)
		require.NoError(t, err)
		require.False(t, done)
		msgs := eventstest.Stored(t, s.Log, events.StreamEvents, "sheaf.event.*.*."+x.Key)
		require.Len(t, msgs, 1)
		got, err := s.Read(t.Context(), x.Tenant, x.Key)
		require.NoError(t, err)
		require.Len(t, got.Timeline, len(x.Timeline)+1)
		require.Equal(t, x.Callback, got.Callback, "only a due callback is delivered again")
		require.Equal(t, x.CorrelationID, msgs[0].Header.Get("ce-correlationid"))
		if !x.State.Terminal() { // it is resumed with the pages that exist
			run := x.RequestedSeq
			if x.State == events.StateCrawled {
				run = x.Run
			}
			require.Equal(t, []any{events.StateRequested, got.LastSeq, run},
				[]any{got.State, got.RequestedSeq, got.ContinuesRun})
			require.Equal(t, []string{"requested"}, typesOf(msgs))
			requireSameExport(t, x, got)
			continue
		}
		require.Equal(t, []string{string(x.State)}, typesOf(msgs))
		if x.State == events.StateRejected {
			got.ID = x.ID // a rejected submission has no id but its sequence
		}
		requireSameExport(t, x, got)
	}

	// Pages that came with a request are not crawled, so no run continues from them.
	raw, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), raw))
	done, err := s.Restore(t.Context(), raw)
	require.NoError(t, err)
	require.True(t, done)
	raw, err = s.Read(t.Context(), raw.Tenant, raw.Key)
	require.NoError(t, err)
	require.Zero(t, raw.ContinuesRun)

	// Nothing is restored for an unknown export or for a name with a wildcard.
	done, err = s.Restore(t.Context(), events.Export{Tenant: "default", Key: key(60)})
	require.NoError(t, err)
	require.False(t, done)
	_, err = s.Restore(t.Context(), events.Export{Tenant: "default", Key: "*"})
	require.Error(t, err)
}

// The log lost the newest event of an export but has an older one: the newest is republished. An event that
// the projection has not applied yet stays.
func TestRestoreGoesForwardOnly(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	old, err := s.Append(t.Context(), fresh(), "", always(eventstest.Payload(events.TypeRequested, 1, "")))
	require.NoError(t, err)
	x, err := s.Append(t.Context(), old, "", always(eventstest.Payload(events.TypeCrawled, 2, "")))
	require.NoError(t, err)
	done, err := s.Restore(t.Context(), old)
	require.NoError(t, err)
	require.False(t, done, "the projection is behind")

	st, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, st.Purge(t.Context(),
		jetstream.WithPurgeSubject(events.EventSubject(x.Tenant, events.TypeCrawled, x.Key))))
	got, err := s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, old, got)
	done, err = s.Restore(t.Context(), x)
	require.NoError(t, err)
	require.True(t, done)
	require.Equal(t, []string{"requested", "requested"},
		typesOf(eventstest.Stored(t, s, events.StreamEvents, ">")))

	// Another writer ended the export meanwhile, which is newer than the projection.
	x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	done, err = s.Restore(t.Context(), old)
	require.NoError(t, err)
	require.False(t, done)
	got, err = s.Read(t.Context(), x.Tenant, x.Key)
	require.NoError(t, err)
	require.Equal(t, x, got)
}

// The server, and so the fence, treats a key with an unreadable newest event as new. Only the check at the
// start detects that.
func TestUnreadableNewestEvent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startStore(t, dir)
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	s.stop()
	blk := block(t, dir, events.StreamEvents)
	flip(t, blk, 8*size(t, blk)-100)
	s = startStore(t, dir)
	defer s.stop()
	got, err := s.Read(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, events.StateNone, got.State)
	require.Equal(t, []string{testKey + " is unreadable"}, s.found(t, nil, x))
	restored, err := s.Restore(t.Context(), x)
	require.NoError(t, err)
	require.True(t, restored)
	_, err = s.Append(t.Context(), fresh(), "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
}

// A stored but unreadable page is damaged, not temporarily missing: its export must not wait for it.
func TestUnreadablePage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startStore(t, dir)
	id := pages.ID{Tenant: "default", Key: testKey, Run: 1, Number: 1}
	_, err := s.Pages().Publish(t.Context(), pages.Page{ID: id, Rows: []byte(`[{"a":1}]`), RowCount: 1})
	require.NoError(t, err)
	s.stop()
	blk := block(t, dir, events.StreamPages)
	flip(t, blk, 8*size(t, blk)-100)
	s = startStore(t, dir)
	defer s.stop()
	_, err = s.Pages().Get(t.Context(), id)
	require.ErrorIs(t, err, events.ErrPageDamaged)
}

func TestIntactStreamsAreNotReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startStore(t, dir)
	require.Empty(t, s.found(t, nil), "no marks and empty streams")
	empty, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	exports := lived(t, s)
	grown, err := s.Marks(t.Context(), empty)
	require.NoError(t, err)
	require.NoError(t, grown.Contradicts(empty), "a log may grow from nothing")
	require.NoError(t, s.SaveHeaders(t.Context(), "default", key(1), map[string]string{"A": "b"}))
	marks, err := s.Marks(t.Context(), nil)
	require.NoError(t, err)
	// Purged messages are not losses.
	eventstest.Purge(t, s.Log, events.StreamPrivate, "sheaf.private.*.default."+key(1))
	require.NoError(t, s.Pages().Purge(t.Context(), "default", key(1)))
	require.NoError(t, s.Forget(t.Context(), exports[0]))
	require.NoError(t, s.KeepLast(t.Context(), "default", key(3)))
	purged, err := s.Marks(t.Context(), grown)
	require.NoError(t, err)
	require.NoError(t, purged.Contradicts(grown))
	exports = exports[1:]
	s.stop()
	s = startStore(t, dir)
	defer s.stop()
	require.Empty(t, s.found(t, marks, exports...))
	require.Empty(t, s.found(t, nil, exports...))
	for _, x := range exports {
		restored, err := s.Restore(t.Context(), x)
		require.NoError(t, err)
		require.False(t, restored)
	}
	// A lagging projection does not revert the log.
	old := exports[0]
	require.Equal(t, events.StateCrawled, old.State)
	_, err = s.Append(t.Context(), old, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	restored, err := s.Restore(t.Context(), old)
	require.NoError(t, err)
	require.False(t, restored)
	require.NoError(t, s.JetStream().DeleteStream(t.Context(), events.StreamTimers))
	_, err = s.Marks(t.Context(), nil)
	require.ErrorIs(t, err, events.ErrUnavailable)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

// A process that joins a cluster checks streams that others write to.
func TestGrowingStreamsAreNotReported(t *testing.T) {
	t.Parallel()
	s := startStore(t, t.TempDir())
	defer s.stop()
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			_, _ = s.JetStream().Publish(ctx,
				events.SubmitSubject(events.DefaultTenant, "http"), []byte("{}"))
		}
	})
	others.Go(func() {
		_ = s.Consume(ctx, events.StreamSubmit, events.ConsumerSubmissions, 4,
			func(context.Context, journal.Delivery) error {
				return nil
			})
	})
	for range 60 {
		require.Empty(t, s.found(t, nil))
	}
}
