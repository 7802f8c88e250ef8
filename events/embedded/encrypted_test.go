package embedded_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

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
