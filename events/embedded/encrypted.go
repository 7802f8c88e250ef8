package embedded

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sheaf/events/failpoint"
)

// ErrKey is returned by [Start] when the folder was encrypted with another key. The
// server would take its streams for missing and make new ones over them (measured:
// every block was cut to nothing), so it is not started, and nothing is changed.
var ErrKey = errors.New("the store is encrypted with another secret key; start with the one that it was made with")

// markFile says that a folder is encrypted, and with which key.
const markFile = "encrypted"

// storeKey returns the key that the store of a folder is encrypted with, "" for
// none: a store that was begun in clear stays so. The server would encrypt it, but
// overwrites each block in place for that, and what stops it in the middle leaves
// a block that nobody can read.
func storeKey(dir, key string) (string, error) {
	name := filepath.Join(dir, markFile)
	mark, err := os.ReadFile(name)
	switch {
	case err == nil:
		if key == "" || !hmac.Equal([]byte(strings.TrimSpace(string(mark))), []byte(markOf(key))) {
			return "", ErrKey
		}
		return key, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	case key == "":
		return "", nil
	}
	begun, err := fs.Glob(os.DirFS(dir), "jetstream/*/streams/*") // no pattern is made of dir
	if err != nil {
		return "", err
	}
	if len(begun) > 0 {
		slog.Info("the event streams were begun in clear and stay so; a new --data folder is encrypted", "folder", dir)
		return "", nil
	}
	// The mark comes first: without it an encrypted store could be taken for none.
	return key, ReplaceFile(name, []byte(markOf(key)+"\n"))
}

// markOf tells two keys apart without giving either away.
func markOf(key string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte("sheaf store"))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// ReplaceFile writes a small file of this machine, a key or the mark of one, whole or
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
	failpoint.Hit("replace.sync.before")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	failpoint.Hit("replace.rename.before")
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	failpoint.Hit("replace.rename.after")
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
