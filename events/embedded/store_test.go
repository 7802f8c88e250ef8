package embedded_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
)

func visit(t *testing.T, dir string, look func(*journal.Log)) {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: dir, Ephemeral: true})
	require.NoError(t, err)
	defer srv.Stop()
	nc, err := srv.Connect()
	require.NoError(t, err)
	defer nc.Close()
	s, err := journal.Provision(t.Context(), nc, journal.Config{SecretKey: eventstest.SecretKey})
	require.NoError(t, err)
	look(s)
}

// A folder that an older version encrypted is refused and stays unchanged.
func TestAnEncryptedFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mark := filepath.Join(dir, "encrypted")
	require.NoError(t, os.WriteFile(mark, []byte("5f1e"), 0o600))
	_, err := embedded.Start(embedded.Options{Dir: dir})
	require.ErrorContains(t, err, "start with a new data folder")
	require.NoDirExists(t, filepath.Join(dir, "jetstream"))
	require.FileExists(t, mark)
}

// A process killed while the server writes a configuration finds its streams and consumers again, whatever
// the name of its folder.
func TestAConfigurationWithoutItsChecksum(t *testing.T) {
	t.Parallel()
	torn := func(sum string) error { return os.WriteFile(sum, []byte("57db7250baa12fd7"), 0o600) }
	for name, tc := range map[string]struct {
		folder string
		blow   func(sum string) error
	}{
		"of the one before":       {"data", torn},
		"none yet":                {"data", os.Remove},
		"in a folder like a glob": {"data[1]", torn},
		"in half a glob":          {"data[x", torn},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), tc.folder)
			var created [2]time.Time // of the stream, and of its consumer
			look := func(s *journal.Log) (at [2]time.Time) {
				st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
				require.NoError(t, err)
				require.EqualValues(t, 1, st.CachedInfo().State.Msgs)
				cons, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
				require.NoError(t, err)
				return [2]time.Time{st.CachedInfo().Created, cons.CachedInfo().Created}
			}
			visit(t, dir, func(s *journal.Log) {
				_, err := s.JetStream().Publish(t.Context(), "sheaf.submit.shop.http", []byte("{}"))
				require.NoError(t, err)
				created = look(s)
			})
			sums := func() map[string]string {
				found := map[string]string{}
				require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
					if err != nil || filepath.Base(path) != "meta.sum" ||
						filepath.Base(filepath.Dir(filepath.Dir(path))) == "obs" {
						return err
					}
					data, err := os.ReadFile(path)
					found[path] = string(data)
					return err
				}))
				return found
			}
			are := sums()
			require.Len(t, are, 7) // every start writes a consumer
			folder := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit)
			for _, f := range []string{folder, filepath.Join(folder, "obs", events.ConsumerSubmissions)} {
				require.NoError(t, tc.blow(filepath.Join(f, "meta.sum")))
			}
			visit(t, dir, func(s *journal.Log) {
				require.Equal(t, created, look(s))
				require.Equal(t, are, sums(), "the server's own, to the byte")
			})
		})
	}
}

// onLog passes log records to fn, see [eventstest.SetLog].
func onLog(t *testing.T, fn func(slog.Record)) { eventstest.SetLog(t, onRecord(fn)) }

type onRecord func(slog.Record)

func (onRecord) Enabled(context.Context, slog.Level) bool        { return true }
func (f onRecord) Handle(_ context.Context, r slog.Record) error { f(r); return nil }
func (f onRecord) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f onRecord) WithGroup(string) slog.Handler                 { return f }

// A process killed while the server creates or deletes a consumer, file by file, starts again, and the
// consumer delivers all messages.
func TestHalfAConsumer(t *testing.T) {
	t.Parallel()
	files := []string{"meta.inf", "meta.sum", "o.dat"}
	for left := range 1 << len(files) {
		t.Run(fmt.Sprintf("left %03b", left), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			visit(t, dir, func(s *journal.Log) {
				for range 2 {
					_, err := s.JetStream().Publish(t.Context(), "sheaf.submit.shop.http", []byte("{}"))
					require.NoError(t, err)
				}
				c, err := s.JetStream().Consumer(t.Context(), events.StreamSubmit, events.ConsumerSubmissions)
				require.NoError(t, err)
				m, err := c.Next()
				require.NoError(t, err)
				require.NoError(t, m.DoubleAck(t.Context()))
			})
			folder := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit, "obs",
				events.ConsumerSubmissions)
			for i, name := range files {
				if left>>i&1 == 0 {
					require.NoError(t, os.RemoveAll(filepath.Join(folder, name)))
				}
			}
			for range 2 {
				visit(t, dir, func(s *journal.Log) {
					c, err := s.JetStream().Consumer(t.Context(), events.StreamSubmit,
						events.ConsumerSubmissions)
					require.NoError(t, err)
					info, err := c.Info(t.Context())
					require.NoError(t, err)
					require.EqualValues(t, 1, info.NumPending)
				})
			}
		})
	}
}

// A replaced file stays readable for the same users: a service may run as another user than the one who
// changes its keys.
func TestReplaceFileKeepsOwnerAndMode(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, embedded.ReplaceFile(name, []byte("new")))
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())

	require.NoError(t, os.Chmod(name, 0o640))
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 65534, 65533
		require.NoError(t, os.Chown(name, uid, gid))
	}
	require.NoError(t, embedded.ReplaceFile(name, []byte("changed")))
	info, err = os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), info.Mode())
	owner := info.Sys().(*syscall.Stat_t)
	require.Equal(t, []int{uid, gid}, []int{int(owner.Uid), int(owner.Gid)})
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, "changed", string(data))
}
