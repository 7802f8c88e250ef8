package storage

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Uses a really full disk. It needs the right to mount, and is skipped without it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(folder, syscall.MNT_DETACH)) })
	files := openTestFiles(t, "file://"+folder, "", nil)
	put(t, files, name, noise(1, 100<<10))

	full, err := files.Create(t.Context())
	require.NoError(t, err)
	_, err = full.File().Write(noise(2, 1<<20))
	require.Error(t, err)
	require.True(t, IsNoSpace(err), "%v", err)
	require.Len(t, get(t, files, name), 100<<10)

	full.Discard()
	put(t, files, "default/after.zip", noise(3, 100<<10))
}
