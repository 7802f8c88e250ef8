package storage

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The name of a folder is made durable with its first file, and again after the folder was removed with its
// last file and re-created.
func TestNamesOfFoldersAreMadeDurable(t *testing.T) {
	t.Parallel()
	s, err := openFolderFiles(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	commit := func(name string) os.FileInfo {
		t.Helper()
		d, err := s.Create(t.Context())
		require.NoError(t, err)
		_, err = d.File().WriteString(name)
		require.NoError(t, err)
		require.NoError(t, s.Commit(t.Context(), d, name))
		info, err := s.root().Stat("default")
		require.NoError(t, err)
		return info
	}
	held := func() os.FileInfo {
		t.Helper()
		info, err := s.durable["default"].Stat()
		require.NoError(t, err)
		return info
	}
	first := commit("default/a.zip")
	require.True(t, os.SameFile(first, held()))
	require.NotNil(t, s.heldFolder("default"), "the second file needs no more than its own folder")

	require.NoError(t, s.Delete(t.Context(), "default/a.zip"))
	second := commit("default/b.zip")
	require.False(t, os.SameFile(first, second))
	require.True(t, os.SameFile(second, held()), "another folder of the same name")
}
