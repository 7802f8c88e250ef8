package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ReplaceFile replaces a small local file, such as a key file, atomically. It returns once the file and its
// name are on disk. Only the owner can read a new file. An existing file keeps owner, group and mode, because
// a service may run as another user than the one who edits its files. If it cannot keep them, ReplaceFile
// fails and changes nothing.
func ReplaceFile(name string, data []byte) error {
	name, err := LinkTarget(name)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if was, err := os.Stat(name); err == nil {
		if err := keepOwner(tmp, was); err != nil {
			return fmt.Errorf("%s is unchanged, because its owner could no longer read it; run this as its owner or root: %w", name, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(name))
}

// LinkTarget returns the file that a symbolic link points to, or the name itself if it is not a link.
func LinkTarget(name string) (string, error) {
	target, err := filepath.EvalSymlinks(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	if _, err := os.Lstat(name); err == nil {
		return "", fmt.Errorf("%s is a symbolic link to a missing file", name)
	}
	return name, nil
}

// SyncFolder returns once the names in a folder are on disk.
func SyncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("syncing the folder: %w", err)
	}
	return nil
}
