package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// scratchPrefix begins the name of each scratch folder.
	scratchPrefix = ".sheaf-"
	// scratchLock is the file in it that its command holds locked.
	scratchLock = "lock"
)

// scratch is the temporary folder of one command. It lies beside the output: there must be room for the output
// anyway, the system's temporary folder is often memory, and a rename into place stays on one file system.
// Only its user can read it. The lock shows that its command is alive.
type scratch struct {
	path string
	lock *os.File
}

// newScratch makes a scratch folder in parent, and removes those that killed commands of this user left there.
func newScratch(parent string) (*scratch, error) {
	// A write to a pipe without a reader fails then, and does not end the process, which would leave the folder.
	signal.Ignore(syscall.SIGPIPE)
	sweepScratch(parent)
	for range 100 {
		path, err := os.MkdirTemp(parent, scratchPrefix+"*") // mode 0700
		if err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(filepath.Join(path, scratchLock), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another command has swept the folder, which was empty
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(path))
		}
		s := &scratch{path: path, lock: lock}
		if err := flock(lock, syscall.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", lock.Name(), err), s.close())
		}
		if mine, err := lock.Stat(); err == nil {
			if there, err := os.Stat(lock.Name()); err == nil && os.SameFile(mine, there) {
				return s, nil
			}
		}
		_ = lock.Close() // another command has swept it before it was locked
	}
	return nil, fmt.Errorf("no temporary folder can be made in %s", parent)
}

// file is the path of a file in the folder.
func (s *scratch) file(name string) string { return filepath.Join(s.path, name) }

// close removes the folder and all in it.
func (s *scratch) close() error {
	defer s.lock.Close()
	parent, err := os.OpenRoot(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer parent.Close()
	folder, err := parent.OpenRoot(filepath.Base(s.path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return removeScratch(parent, folder, filepath.Base(s.path))
}

// removeScratch removes a folder of parent. The lock goes last, because a folder with files and no lock is
// never swept. It tries three times: a server that did not drain in time may still write.
func removeScratch(parent, folder *os.Root, name string) (err error) {
	for range 3 {
		var entries []fs.DirEntry
		entries, err = fs.ReadDir(folder.FS(), ".")
		for _, e := range entries {
			if e.Name() != scratchLock {
				err = errors.Join(err, folder.RemoveAll(e.Name()))
			}
		}
		if err == nil {
			_ = folder.Remove(scratchLock) // what is wrong shows next
			err = parent.Remove(name)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) { // another command may have swept the empty folder
			return nil
		}
	}
	return err
}

// sweepScratch removes the scratch folders in parent whose commands are dead. It takes only real folders of
// this user that no other user can write to: in a shared folder anyone can make names and links.
func sweepScratch(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // making the new folder fails with the reason
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix) || !e.IsDir() {
			continue
		}
		if err := sweepOne(parent, e.Name()); err != nil {
			slog.Error("a temporary folder of an earlier command cannot be removed; remove it by hand",
				"folder", filepath.Join(parent, e.Name()), "error", err)
		}
	}
}

func sweepOne(parent, name string) error {
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	listed, err := root.Lstat(name)
	if err != nil || !ownFolder(listed) {
		return nil //nolint:nilerr // it is gone, or belongs to another user
	}
	folder, err := root.OpenRoot(name)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer folder.Close()
	if opened, err := folder.Stat("."); err != nil || !os.SameFile(listed, opened) {
		return nil //nolint:nilerr // it was replaced meanwhile
	}
	lock, err := folder.OpenFile(scratchLock, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		_ = root.Remove(name) // only if it is empty
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if flock(lock, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // its command is alive
	}
	return removeScratch(root, folder, name)
}

func ownFolder(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o077 == 0
}

// flock locks a file. A signal does not end the wait.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
