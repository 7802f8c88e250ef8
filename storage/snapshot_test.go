package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// snapshotOf is a log with a projection, and the store of its snapshots.
type snapshotOf struct {
	journal *journal.Log
	tasks   *Tasks
	files   Files
}

// write appends an event, and applies it once the log has it.
func (s *snapshotOf) write(t testing.TB, n int, p events.Payload) events.Export {
	t.Helper()
	x, err := s.journal.Read(t.Context(), "default", keyOf(n))
	require.NoError(t, err)
	x, err = s.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(t, err)
	return x
}

// follow applies the log to a projection up to its end.
func follow(t testing.TB, log *journal.Log, tasks *Tasks) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tasks.Follow(ctx, log, func([]events.Event) {}) }()
	last, err := log.LastSequence(t.Context())
	require.NoError(t, err)
	require.NoError(t, tasks.WaitApplied(t.Context(), last))
	cancel()
	require.NoError(t, <-done)
}

// newSnapshotOf makes a log of exports in every state, with a projection that has applied it.
func newSnapshotOf(t *testing.T, files Files) *snapshotOf {
	s := &snapshotOf{journal: eventstest.Journal(t), tasks: openAt(t, filepath.Join(t.TempDir(), "tasks.db")),
		files: files}
	for n := range 40 {
		s.write(t, n, request(fmt.Sprintf("user-%d", n%3), begin.Add(time.Duration(n)*time.Second)))
		switch n % 4 {
		case 0:
			s.write(t, n, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503", Phase: events.PhaseCrawling})
		case 1:
			s.write(t, n, &events.ExportCrawled{Run: 1, Pages: 3})
			s.write(t, n, completed(fmt.Sprintf("default/a/%d.zip", n), begin.Add(time.Hour)))
		case 2:
			s.write(t, n, &events.ExportCancelled{})
		}
	}
	follow(t, s.journal, s.tasks)
	return s
}

func (s *snapshotOf) snapshots(t testing.TB, log *slog.Logger) *Snapshots {
	snapshots := NewSnapshots(s.files, t.TempDir(), log)
	snapshots.Min = 1
	return snapshots
}

// contents returns everything that a projection holds, by bucket and key, except the state of its file.
func contents(t testing.TB, tasks *Tasks) map[string]string {
	all := map[string]string{}
	require.NoError(t, tasks.view(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				all[string(name)+" "+string(k)] = string(v)
				return nil
			})
		})
	}))
	delete(all, "meta clean")
	return all
}

// A projection that begins with a snapshot and follows the log equals one that read the whole log.
func TestAProjectionFromASnapshotEqualsOneFromTheLog(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		s := newSnapshotOf(t, open(t))
		require.NoError(t, s.snapshots(t, slog.New(slog.DiscardHandler)).Save(t.Context(), s.tasks, s.journal))
		made := s.tasks.Applied()
		// Exports go on after the snapshot, and older events of ended ones are purged.
		s.write(t, 3, &events.ExportCancelled{})
		s.write(t, 1, events.Expired(new(s.write(t, 40, request("new", begin))), ""))
		require.NoError(t, s.journal.KeepLast(t.Context(), "default", keyOf(2)))

		var log eventstest.Log
		path := filepath.Join(t.TempDir(), "tasks.db")
		restored, err := s.snapshots(t, log.Logger()).Restore(t.Context(), openAt(t, path), s.journal)
		require.NoError(t, err)
		t.Cleanup(func() { _ = restored.Close() })
		require.Equal(t, made, restored.Applied())
		require.Empty(t, log.With("WARN"))
		follow(t, s.journal, restored)
		whole := openAt(t, filepath.Join(t.TempDir(), "tasks.db"))
		follow(t, s.journal, whole)
		require.Equal(t, contents(t, whole), contents(t, restored))
		require.False(t, restored.Torn())
	})
}

// After a power failure nothing of a restored projection is trusted.
func TestARestoredProjectionIsTornByAPowerFailure(t *testing.T) {
	t.Parallel()
	s := newSnapshotOf(t, openTestFiles(t, "file://"+t.TempDir(), "", nil))
	copied := filepath.Join(t.TempDir(), "tasks.db")
	_, applied, err := s.tasks.copyTo(t.Context(), copied)
	require.NoError(t, err)
	require.Equal(t, s.tasks.Applied(), applied)
	require.True(t, openAt(t, copied).Torn())
}

// A snapshot holds nothing that its projection has forgotten, not even on free pages.
func TestASnapshotForgets(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := newSnapshotOf(t, openTestFiles(t, "file://"+folder, "", nil))
	const secret = "forgotten-and-gone"
	asked := request(secret, begin)
	asked.Request.Title = secret
	s.write(t, 50, asked)
	x := s.write(t, 50, &events.ExportCancelled{})
	s.write(t, 51, request("u", begin))
	follow(t, s.journal, s.tasks)
	require.NoError(t, s.tasks.Forget([]events.Export{x}))
	raw, err := os.ReadFile(s.tasks.db.Path())
	require.NoError(t, err)
	require.True(t, bytes.Contains(raw, []byte(secret)), "the projection's own file has free pages")
	require.NoError(t, s.snapshots(t, slog.New(slog.DiscardHandler)).Save(t.Context(), s.tasks, s.journal))
	names, err := s.files.List(t.Context())
	require.NoError(t, err)
	require.Len(t, names, 1)
	stored := get(t, s.files, names[0])
	_, body, _ := bytes.Cut(stored, []byte("\n"))
	z, err := zstd.NewReader(bytes.NewReader(body))
	require.NoError(t, err)
	defer z.Close()
	plain, err := io.ReadAll(z)
	require.NoError(t, err)
	require.True(t, bytes.Contains(plain, []byte("user-1")))
	require.False(t, bytes.Contains(plain, []byte(secret)))
	require.False(t, bytes.Contains(stored, []byte(secret)))
}

// A snapshot that is damaged, or of another log or version, is reported once and not used.
func TestUnusableSnapshots(t *testing.T) {
	t.Parallel()
	flip := func(at func(size int) int) func(*testing.T, *snapshotOf, string) {
		return func(t *testing.T, s *snapshotOf, name string) {
			content := get(t, s.files, name)
			content[at(len(content))] ^= 1
			require.NoError(t, s.files.Delete(t.Context(), name))
			put(t, s.files, name, content)
		}
	}
	rename := func(part int, to string) func(*testing.T, *snapshotOf, string) {
		return func(t *testing.T, s *snapshotOf, name string) {
			parts := strings.Split(name, "-")
			parts[part] = to
			put(t, s.files, strings.Join(parts, "-"), get(t, s.files, name))
			require.NoError(t, s.files.Delete(t.Context(), name))
		}
	}
	for what, c := range map[string]struct {
		spoil  func(*testing.T, *snapshotOf, string)
		reason string
	}{
		"a flipped bit":             {flip(func(size int) int { return size / 2 }), ""},
		"a flipped bit at the end":  {flip(func(size int) int { return size - 2 }), ""},
		"a flipped bit of the head": {flip(func(int) int { return 15 }), "its head"},
		"cut short": {func(t *testing.T, s *snapshotOf, name string) {
			content := get(t, s.files, name)
			require.NoError(t, s.files.Delete(t.Context(), name))
			put(t, s.files, name, content[:len(content)-1])
		}, ""},
		"without a head": {func(t *testing.T, s *snapshotOf, name string) {
			require.NoError(t, s.files.Delete(t.Context(), name))
			put(t, s.files, name, noise(1, maxSnapshotHead+1))
		}, "its head"},
		"another version":  {rename(1, "00000000"), "another version"},
		"another log":      {rename(2, "00000000"), "another log"},
		"beyond the log":   {rename(3, fmt.Sprintf("%020d", 1000)), "the log at"},
		"another sequence": {rename(3, fmt.Sprintf("%020d", 3)), "contradicts its name"},
		"a log that lost its end": {func(t *testing.T, s *snapshotOf, name string) {
			require.NoError(t, s.files.Delete(t.Context(), name))
			head := snapshotHead{Version: tasksVersion()}
			var err error
			head.Log, err = s.journal.MarkAt(t.Context(), s.tasks.Applied())
			require.NoError(t, err)
			head.Log.SHA256 = strings.Repeat("0", 64)
			copied := filepath.Join(t.TempDir(), "copy")
			_, _, err = s.tasks.copyTo(t.Context(), copied)
			require.NoError(t, err)
			file, err := os.Open(copied)
			require.NoError(t, err)
			defer func() { require.NoError(t, file.Close()) }()
			_, err = s.snapshots(t, slog.New(slog.DiscardHandler)).store(t.Context(), name, &head, file)
			require.NoError(t, err)
		}, "is another one now"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newSnapshotOf(t, openTestFiles(t, "file://"+t.TempDir(), "", nil))
			require.NoError(t, s.snapshots(t, slog.New(slog.DiscardHandler)).Save(t.Context(), s.tasks, s.journal))
			names, err := s.files.List(t.Context())
			require.NoError(t, err)
			require.Len(t, names, 1)
			c.spoil(t, s, names[0])

			var log eventstest.Log
			snapshots := s.snapshots(t, log.Logger())
			tasks, err := snapshots.Restore(t.Context(), openAt(t, filepath.Join(t.TempDir(), "tasks.db")), s.journal)
			require.NoError(t, err)
			require.Zero(t, tasks.Applied())
			require.Len(t, log.With("WARN"), 1)
			require.Len(t, log.With(c.reason), 1)
			left, err := os.ReadDir(snapshots.dataDir)
			require.NoError(t, err)
			require.Empty(t, left)
			follow(t, s.journal, tasks)
			require.Equal(t, digest(t, s.tasks), digest(t, tasks))
		})
	}
}

// A damaged snapshot does not keep an older one from being used.
func TestTheOlderSnapshotIsUsed(t *testing.T) {
	t.Parallel()
	s := newSnapshotOf(t, openTestFiles(t, "file://"+t.TempDir(), "", nil))
	snapshots := s.snapshots(t, slog.New(slog.DiscardHandler))
	require.NoError(t, snapshots.Save(t.Context(), s.tasks, s.journal))
	older, err := s.journal.MarkAt(t.Context(), s.tasks.Applied())
	require.NoError(t, err)
	put(t, s.files, newSnapshotName(time.Now().Add(time.Hour), older).text, []byte("{}\n"))
	tasks, err := snapshots.Restore(t.Context(), openAt(t, filepath.Join(t.TempDir(), "tasks.db")), s.journal)
	require.NoError(t, err)
	defer func() { require.NoError(t, tasks.Close()) }()
	require.Equal(t, s.tasks.Applied(), tasks.Applied())
}

// A log that is made again does not get the exports of the former one.
func TestASnapshotOfAFormerLog(t *testing.T) {
	t.Parallel()
	s := newSnapshotOf(t, openTestFiles(t, "file://"+t.TempDir(), "", nil))
	snapshots := s.snapshots(t, slog.New(slog.DiscardHandler))
	require.NoError(t, snapshots.Save(t.Context(), s.tasks, s.journal))
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), MaxStore: 1 << 40, Ephemeral: true})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	s.journal = eventstest.JournalOn(t, srv, journal.Config{})
	s.write(t, 1, request("u", begin))
	tasks, err := snapshots.Restore(t.Context(), openAt(t, filepath.Join(t.TempDir(), "tasks.db")), s.journal)
	require.NoError(t, err)
	require.Zero(t, tasks.Applied())
	require.ErrorContains(t, snapshots.Save(t.Context(), s.tasks, s.journal), "was replaced")
}

func TestWhenASnapshotIsDue(t *testing.T) {
	t.Parallel()
	at := begin
	n := snapshotName{at: at, sequence: 1_000_000}
	for _, c := range []struct {
		age  time.Duration
		more int64
		due  bool
	}{
		{0, 0, false},
		{snapshotSoon, snapshotMany - 1, false},
		{snapshotSoon, snapshotMany, true},
		{snapshotSoon - time.Second, snapshotMany, false},
		{snapshotEvery, snapshotEvents - 1, false},
		{snapshotEvery, snapshotEvents, true},
		{snapshotLast - time.Second, 0, false},
		{snapshotLast, 0, true},
		{snapshotEvery, -1, false}, // another ingress was first
	} {
		require.Equal(t, c.due, n.followed(uint64(1_000_000+c.more), at.Add(c.age)), "%+v", c)
	}
}

// The newest two snapshots stay, those of other logs and versions for a day.
func TestOldSnapshotsAreRemoved(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		s := newSnapshotOf(t, open(t))
		snapshots := s.snapshots(t, slog.New(slog.DiscardHandler))
		mark, err := s.journal.MarkAt(t.Context(), 1)
		require.NoError(t, err)
		name := func(age time.Duration, of string) string {
			n := newSnapshotName(time.Now().Add(-age), mark).text
			if of != "" {
				n = strings.Replace(n, logName(mark.Created), of, 1)
			}
			put(t, s.files, n, []byte("any"))
			return n
		}
		name(50*time.Hour, "")
		name(49*time.Hour, "")
		own := name(48*time.Hour, "")
		name(25*time.Hour, "00000000")
		other := name(23*time.Hour, "00000000")
		put(t, s.files, "something-else.zip", []byte("any"))
		require.NoError(t, snapshots.keep(t.Context(), s.tasks, s.journal))
		names, err := s.files.List(t.Context())
		require.NoError(t, err)
		require.Len(t, names, 4)
		require.Subset(t, names, []string{own, other, "something-else.zip"})
		require.NoError(t, snapshots.keep(t.Context(), s.tasks, s.journal))
		again, err := s.files.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, names, again, "the next one is not due yet")
	})
}

// The search for orphaned files leaves the snapshots, which are in the same folder.
func TestSnapshotsAreBesideTheFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	files := openTestFiles(t, "file://"+folder, "", nil)
	snapshots, err := OpenSnapshotFiles(t.Context(), "file://"+folder+"/", FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, snapshots.Close()) })
	put(t, files, name, []byte("file"))
	n := newSnapshotName(time.Now(), journal.Mark{}).text
	put(t, snapshots, n, []byte("snapshot"))
	list, err := snapshots.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{n}, list)
	require.Equal(t, []byte("snapshot"), get(t, files, "projection/"+n))
}

// A projection that grows while it is copied does not wait for the copy.
func TestAProjectionGrowsWhileItIsRead(t *testing.T) {
	t.Parallel()
	tasks, err := OpenTasksForSnapshots(filepath.Join(t.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tasks.Close()) })
	log := logOf{t: t}
	for n := range 2000 {
		asked := request("u", begin)
		asked.Request.Title = strings.Repeat("x", 20_000)
		log.add("default", keyOf(n), begin, asked)
	}
	require.NoError(t, tasks.view(func(*bbolt.Tx) error {
		applied := make(chan error, 1)
		go func() { applied <- tasks.Apply(log.all) }()
		select {
		case err := <-applied:
			return err
		case <-time.After(time.Minute):
			return context.DeadlineExceeded
		}
	}))
}
