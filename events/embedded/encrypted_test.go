package embedded_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	const canary = "canary-5f1e"
	visit := func(dir, key string, write bool) error {
		t.Helper()
		srv, err := embedded.Start(embedded.Options{Dir: dir, Key: key})
		if err != nil {
			return err
		}
		defer srv.Stop()
		nc, err := srv.Connect()
		require.NoError(t, err)
		defer nc.Close()
		s, err := events.Provision(t.Context(), nc, events.Config{SecretKey: eventstest.SecretKey})
		require.NoError(t, err)
		if write {
			_, err := s.JetStream().Publish(t.Context(), "sheaf.submit."+canary+".http", []byte(canary))
			require.NoError(t, err)
		}
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		m, err := st.GetMsg(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, canary, string(m.Data))
		return nil
	}
	dir := t.TempDir()
	require.NoError(t, visit(dir, "right", true))
	require.False(t, holds(t, dir, canary))
	for _, wrong := range []string{"wrong", ""} {
		require.ErrorIs(t, visit(dir, wrong, false), embedded.ErrKey)
		require.NoError(t, visit(dir, "right", false))
	}

	clear := t.TempDir()
	require.NoError(t, visit(clear, "", true))
	require.True(t, holds(t, clear, canary))
	require.NoError(t, visit(clear, "right", false), "a store that was begun in clear")
	require.NoError(t, visit(clear, "", false))
}

// A process that is killed while the server writes a configuration finds its streams
// and consumers again.
func TestAConfigurationWithoutItsChecksum(t *testing.T) {
	for name, blow := range map[string]func(sum string) error{
		"of the one before": func(sum string) error { return os.WriteFile(sum, []byte("57db7250baa12fd7"), 0o600) },
		"none yet":          os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			visit := func(look func(*events.Streams)) {
				t.Helper()
				srv, err := embedded.Start(embedded.Options{Dir: dir, Key: "key"})
				require.NoError(t, err)
				defer srv.Stop()
				nc, err := srv.Connect()
				require.NoError(t, err)
				defer nc.Close()
				s, err := events.Provision(t.Context(), nc, events.Config{SecretKey: eventstest.SecretKey})
				require.NoError(t, err)
				look(s)
			}
			var created [2]time.Time // of the stream, and of its consumer
			look := func(s *events.Streams) (at [2]time.Time) {
				st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
				require.NoError(t, err)
				require.EqualValues(t, 1, st.CachedInfo().State.Msgs)
				cons, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
				require.NoError(t, err)
				return [2]time.Time{st.CachedInfo().Created, cons.CachedInfo().Created}
			}
			visit(func(s *events.Streams) {
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
				require.NoError(t, blow(filepath.Join(f, "meta.sum")))
			}
			visit(func(s *events.Streams) {
				require.Equal(t, created, look(s))
				require.Equal(t, are, sums(), "the server's own, to the byte")
			})

			// One that somebody changed is refused all the same.
			meta := filepath.Join(folder, "meta.inf")
			data, err := os.ReadFile(meta)
			require.NoError(t, err)
			data[len(data)/2] ^= 1
			require.NoError(t, os.WriteFile(meta, data, 0o600))
			visit(func(s *events.Streams) {
				st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
				require.NoError(t, err)
				require.NotEqual(t, created[0], st.CachedInfo().Created)
			})
		})
	}
}
