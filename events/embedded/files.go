package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ReplaceFile writes a small file of this machine, such as one of keys, whole or
// not at all, and returns when it and its name are on disk. A new one is readable by its
// owner alone. One that was there keeps owner, group and mode, for a service may run as
// another user than who changes its files; what cannot be kept so is not changed.
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
			return fmt.Errorf("%s is not changed, for its owner could not read it any more; do this as its owner or root: %w", name, err)
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

// LinkTarget is the file that a name leads to: the name itself, unless it is a symbolic link.
func LinkTarget(name string) (string, error) {
	target, err := filepath.EvalSymlinks(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	if _, err := os.Lstat(name); err == nil {
		return "", fmt.Errorf("%s is a symbolic link to a file that is not there", name)
	}
	return name, nil
}

// SyncFolder returns when the names of a folder are on disk.
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
