package embedded_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
)

// holds reports whether a file below dir has text in it.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return err
	}))
	return found
}

// What is stored cannot be read from the disk, and comes back with the right key.
// With another, or none, the server does not start and nothing is lost.
func TestStoreIsEncrypted(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f1e"
	write := func(s *events.Streams) {
		_, err := s.JetStream().Publish(t.Context(), "sheaf.submit."+canary+".http", []byte(canary))
		require.NoError(t, err)
	}
	read := func(s *events.Streams) {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		m, err := st.GetMsg(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, canary, string(m.Data))
	}
	dir := t.TempDir()
	visit(t, dir, "right", write)
	require.False(t, holds(t, dir, canary))
	for _, wrong := range []string{"wrong", ""} {
		_, err := embedded.Start(embedded.Options{Dir: dir, Key: wrong})
		require.ErrorIs(t, err, embedded.ErrKey)
		visit(t, dir, "right", read)
	}

	clear := t.TempDir()
	visit(t, clear, "", write)
	require.True(t, holds(t, clear, canary))
	visit(t, clear, "right", read) // a store that was begun in clear
	visit(t, clear, "", read)
}

// visit starts a server in a folder, with the streams of Sheaf, for a look.
func visit(t *testing.T, dir, key string, look func(*events.Streams)) {
	t.Helper()
	visitWith(t, embedded.Options{Dir: dir, Key: key, Passing: true}, look)
}

func visitWith(t *testing.T, o embedded.Options, look func(*events.Streams)) {
	t.Helper()
	srv, err := embedded.Start(o)
	require.NoError(t, err)
	defer srv.Stop()
	nc, err := srv.Connect()
	require.NoError(t, err)
	defer nc.Close()
	s, err := events.Provision(t.Context(), nc, events.Config{SecretKey: eventstest.SecretKey})
	require.NoError(t, err)
	look(s)
}

// A process that is killed while the server writes a configuration finds its streams
// and consumers again: encrypted or not, and whatever its folder is called.
func TestAConfigurationWithoutItsChecksum(t *testing.T) {
	t.Parallel()
	torn := func(sum string) error { return os.WriteFile(sum, []byte("57db7250baa12fd7"), 0o600) }
	for name, tc := range map[string]struct {
		key, folder string
		blow        func(sum string) error
	}{
		"of the one before":       {"key", "data", torn},
		"none yet":                {"key", "data", os.Remove},
		"in clear, of the before": {"", "data", torn},
		"in clear, none yet":      {"", "data", os.Remove},
		"in a folder like a glob": {"key", "data[1]", torn},
		"in half a glob":          {"key", "data[x", torn},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), tc.folder)
			var created [2]time.Time // of the stream, and of its consumer
			look := func(s *events.Streams) (at [2]time.Time) {
				st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
				require.NoError(t, err)
				require.EqualValues(t, 1, st.CachedInfo().State.Msgs)
				cons, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
				require.NoError(t, err)
				return [2]time.Time{st.CachedInfo().Created, cons.CachedInfo().Created}
			}
			visit(t, dir, tc.key, func(s *events.Streams) {
				_, err := s.JetStream().Publish(t.Context(), "sheaf.submit.shop.http", []byte("{}"))
				require.NoError(t, err)
				created = look(s)
			})
			sums := func() map[string]string {
				found := map[string]string{}
				require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
					if err != nil || filepath.Base(path) != "meta.sum" || filepath.Base(filepath.Dir(filepath.Dir(path))) == "obs" {
						return err
					}
					data, err := os.ReadFile(path)
					found[path] = string(data)
					return err
				}))
				return found
			}
			are := sums()
			require.Len(t, are, 7) // a consumer is written at every start
			folder := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit)
			for _, f := range []string{folder, filepath.Join(folder, "obs", events.ConsumerSubmissions)} {
				require.NoError(t, tc.blow(filepath.Join(f, "meta.sum")))
			}
			visit(t, dir, tc.key, func(s *events.Streams) {
				require.Equal(t, created, look(s))
				require.Equal(t, are, sums(), "the server's own, to the byte")
			})

			if tc.key == "" {
				return
			}
			// One that somebody changed is refused all the same.
			meta := filepath.Join(folder, "meta.inf")
			data, err := os.ReadFile(meta)
			require.NoError(t, err)
			data[len(data)/2] ^= 1
			require.NoError(t, os.WriteFile(meta, data, 0o600))
			visit(t, dir, tc.key, func(s *events.Streams) {
				st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
				require.NoError(t, err)
				require.NotEqual(t, created[0], st.CachedInfo().Created)
			})
		})
	}
}

// A stream that cannot be read at the first try is looked for again, and is itself.
func TestAStreamThatIsReadOnlyAtTheSecondTry(t *testing.T) {
	dir := t.TempDir()
	var created time.Time
	look := func(s *events.Streams) (at time.Time) {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		require.EqualValues(t, 1, st.CachedInfo().State.Msgs)
		return st.CachedInfo().Created
	}
	visit(t, dir, "key", func(s *events.Streams) {
		_, err := s.JetStream().Publish(t.Context(), "sheaf.submit.shop.http", []byte("{}"))
		require.NoError(t, err)
		created = look(s)
	})
	meta := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit, "meta.inf")
	whole, err := os.ReadFile(meta)
	require.NoError(t, err)
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 1
	require.NoError(t, os.WriteFile(meta, damaged, 0o600))
	mended := false
	onLog(t, func(r slog.Record) {
		if strings.Contains(r.Message, "could not be read") {
			mended = true
			require.NoError(t, os.WriteFile(meta, whole, 0o600))
		}
	})
	visit(t, dir, "key", func(s *events.Streams) { require.Equal(t, created, look(s)) })
	require.True(t, mended)
}

// emptyBlock makes the next block of a stream as a process leaves it that is killed
// between making the file and its key.
func emptyBlock(t *testing.T, dir, stream string) (name string) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", "*.blk"))
	require.NoError(t, err)
	last := 0
	for _, b := range blocks {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(b), ".blk"))
		require.NoError(t, err)
		last = max(last, n)
	}
	require.NotZero(t, last)
	name = filepath.Join(filepath.Dir(blocks[0]), strconv.Itoa(last+1)+".blk")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	return name
}

// unreadableBlock makes the next block of a stream one that nobody can read, and that no
// kill leaves.
func unreadableBlock(t *testing.T, dir, stream string) (name string) {
	t.Helper()
	name = emptyBlock(t, dir, stream)
	require.NoError(t, os.Remove(name))
	require.NoError(t, os.Mkdir(name, 0o700))
	return name
}

// some publishes a few submissions and takes all but the last, and returns when the
// stream was made.
func some(t *testing.T, s *events.Streams) (created time.Time) {
	t.Helper()
	st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	c, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
	require.NoError(t, err)
	for n := range 4 {
		_, err := s.JetStream().Publish(t.Context(), "sheaf.submit.shop.http", []byte("{}"))
		require.NoError(t, err)
		if n > 0 {
			m, err := c.Next()
			require.NoError(t, err)
			require.NoError(t, m.DoubleAck(t.Context()))
		}
	}
	return st.CachedInfo().Created
}

// holdsSome checks that a stream is the one that some made, whole.
func holdsSome(t *testing.T, created time.Time) func(*events.Streams) {
	return func(s *events.Streams) {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		require.Equal(t, created, st.CachedInfo().Created)
		require.EqualValues(t, 4, st.CachedInfo().State.LastSeq)
		require.EqualValues(t, 1, st.CachedInfo().State.Msgs)
	}
}

// A process that is killed while the server begins a block finds the stream whole. The
// server would find it corrupt and remove it.
func TestABlockWithoutItsKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "key"} {
		t.Run("key "+key, func(t *testing.T) {
			dir := t.TempDir()
			var created time.Time
			visit(t, dir, key, func(s *events.Streams) { created = some(t, s) })
			emptyBlock(t, dir, events.StreamSubmit)
			for range 2 {
				visit(t, dir, key, holdsSome(t, created))
			}
			require.NoDirExists(t, filepath.Join(dir, "starting"))
		})
	}
}

// A stream that the server cannot read, and so removes, is put back for the next try;
// and when no try can read it its files are kept.
func TestAStreamThatTheServerRemovesIsKept(t *testing.T) {
	dir := t.TempDir()
	var created time.Time
	visit(t, dir, "key", func(s *events.Streams) { created = some(t, s) })
	block := unreadableBlock(t, dir, events.StreamSubmit)
	folder := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit)
	whole := filepath.Join(t.TempDir(), "whole")
	require.NoError(t, os.CopyFS(whole, os.DirFS(dir)))

	removed := 0
	mend := false
	onLog(t, func(r slog.Record) {
		if !strings.Contains(r.Message, "starts once more") {
			return
		}
		if _, err := os.Stat(folder); os.IsNotExist(err) {
			removed++
		}
		if mend { // as somebody would, by its second name
			spare := filepath.Join(dir, "starting", "jetstream", "$G", "streams", events.StreamSubmit, "msgs")
			require.NoError(t, os.Remove(filepath.Join(spare, filepath.Base(block))))
		}
	})
	visit(t, dir, "key", func(s *events.Streams) {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		require.NotEqual(t, created, st.CachedInfo().Created, "it is made anew")
	})
	require.Equal(t, 2, removed, "the server removes it at each try")
	kept, err := filepath.Glob(filepath.Join(dir, "unreadable", events.StreamSubmit+"-*", "msgs", "*.blk"))
	require.NoError(t, err)
	require.NotEmpty(t, kept)
	require.NoDirExists(t, filepath.Join(dir, "starting"))

	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(whole)))
	mend = true
	visit(t, dir, "key", holdsSome(t, created))

	// A start that is killed when the server has removed it leaves the second names.
	spare := filepath.Join(dir, "starting", "jetstream", "$G", "streams")
	require.NoError(t, os.MkdirAll(spare, 0o700))
	require.NoError(t, os.Rename(folder, filepath.Join(spare, events.StreamSubmit)))
	visit(t, dir, "key", holdsSome(t, created))

	// And one that is killed while it removes it leaves a part of the first ones.
	for _, gone := range []string{"meta.inf", "meta.key", "msgs", "obs"} {
		require.NoError(t, os.CopyFS(filepath.Join(spare, events.StreamSubmit), os.DirFS(folder)))
		require.NoError(t, os.RemoveAll(filepath.Join(folder, gone)))
		visit(t, dir, "key", holdsSome(t, created))
		require.NoDirExists(t, filepath.Join(dir, "starting"))
	}
}

// Nobody from outside meets a server that has not found all its streams: a stream that
// a caller makes in place of a missing one would be taken for it, and that one dropped.
func TestNobodyIsLetInDuringTheTries(t *testing.T) {
	dir := t.TempDir()
	var created time.Time
	visit(t, dir, "key", func(s *events.Streams) { created = some(t, s) })
	block := unreadableBlock(t, dir, events.StreamSubmit)
	address := fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	tries := 0
	onLog(t, func(r slog.Record) {
		if !strings.Contains(r.Message, "starts once more") {
			return
		}
		tries++
		if conn, err := net.Dial("tcp", address); !assert.Error(t, err, "a server that lacks a stream listens") {
			_ = conn.Close()
		}
		spare := filepath.Join(dir, "starting", "jetstream", "$G", "streams", events.StreamSubmit, "msgs")
		require.NoError(t, os.Remove(filepath.Join(spare, filepath.Base(block))))
	})
	letIn := make(chan struct{})
	caller, err := nats.Connect(address, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ConnectHandler(func(nc *nats.Conn) {
			defer close(letIn)
			assert.NoDirExists(t, filepath.Join(dir, "starting"), "what is written now would be put back after a kill")
			if js, err := jetstream.New(nc); assert.NoError(t, err) {
				_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamSubmit, Subjects: []string{"sheaf.submit.*.*"}})
				assert.Error(t, err)
			}
		}))
	require.NoError(t, err)
	defer caller.Close()
	visitWith(t, embedded.Options{Dir: dir, Key: "key", Listen: address}, func(s *events.Streams) {
		<-letIn // when the streams are there
		caller.Close()
		holdsSome(t, created)(s)
	})
	require.Equal(t, 1, tries)
}

// onLog has fn see what is logged, see [eventstest.SetLog].
func onLog(t *testing.T, fn func(slog.Record)) { eventstest.SetLog(t, onRecord(fn)) }

type onRecord func(slog.Record)

func (onRecord) Enabled(context.Context, slog.Level) bool        { return true }
func (f onRecord) Handle(_ context.Context, r slog.Record) error { f(r); return nil }
func (f onRecord) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f onRecord) WithGroup(string) slog.Handler                 { return f }

// A process that is killed while the server makes or removes a consumer, one file after
// the other, starts again, and the consumer delivers what is there.
func TestHalfAConsumer(t *testing.T) {
	t.Parallel()
	files := []string{"meta.key", "meta.inf", "meta.sum", "o.dat"}
	for _, key := range []string{"", "key"} {
		for left := range 1 << len(files) {
			t.Run(fmt.Sprintf("key %q, left %04b", key, left), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				visit(t, dir, key, func(s *events.Streams) {
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
				folder := filepath.Join(dir, "jetstream", "$G", "streams", events.StreamSubmit, "obs", events.ConsumerSubmissions)
				for i, name := range files {
					if left>>i&1 == 0 {
						require.NoError(t, os.RemoveAll(filepath.Join(folder, name)))
					}
				}
				for range 2 {
					visit(t, dir, key, func(s *events.Streams) {
						c, err := s.JetStream().Consumer(t.Context(), events.StreamSubmit, events.ConsumerSubmissions)
						require.NoError(t, err)
						info, err := c.Info(t.Context())
						require.NoError(t, err)
						require.EqualValues(t, 1, info.NumPending)
					})
				}
			})
		}
	}
}

// A file that is replaced stays readable for whom it was: a service runs as another user
// than who changes its keys.
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
