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

// scratchPrefix begins the name of each scratch folder.
const scratchPrefix = ".sheaf-scratch-"

// scratch is the temporary folder of one command. It is beside the output: there must be enough space for the
// output anyway, the system's temporary folder is often in memory, and a rename must stay on one file system.
// Only its user can read it. The folder is locked while its command is alive.
type scratch struct {
	path   string
	root   *os.Root
	folder *os.File
}

// newScratch creates a scratch folder in parent, and removes those that killed commands of this user left
// there.
func newScratch(parent string) (*scratch, error) {
	// Otherwise a write to a pipe without a reader would end the process and leave the folder.
	signal.Ignore(syscall.SIGPIPE)
	sweepScratch(parent)
	for range 100 {
		path, err := os.MkdirTemp(parent, scratchPrefix+"*") // mode 0700
		if err != nil {
			return nil, err
		}
		// Where folders cannot be locked, as on NFS, no command removes another's.
		if s, err := openScratch(path); err == nil {
			_ = flock(s.folder, syscall.LOCK_EX)
			if s.there() {
				return s, nil
			}
			s.release()
		} // another command removed the folder before it was locked
	}
	return nil, fmt.Errorf("no temporary folder can be made in %s", parent)
}

func openScratch(path string) (*scratch, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	folder, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &scratch{path, root, folder}, nil
}

// there reports whether the path still names the folder, and not a link or another folder.
func (s *scratch) there() bool {
	named, err := os.Lstat(s.path)
	opened, err2 := s.folder.Stat()
	return err == nil && err2 == nil && os.SameFile(named, opened)
}

// file returns the path of a file in the folder.
func (s *scratch) file(name string) string { return filepath.Join(s.path, name) }

func (s *scratch) release() { _, _ = s.folder.Close(), s.root.Close() }

// close removes the folder and its content. It tries three times, because a server that did not drain in time
// may still write.
func (s *scratch) close() (err error) {
	defer s.release()
	for range 3 {
		var entries []fs.DirEntry
		entries, err = fs.ReadDir(s.root.FS(), ".")
		for _, e := range entries {
			err = errors.Join(err, s.root.RemoveAll(e.Name()))
		}
		if err == nil {
			err = os.Remove(s.path)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

// sweepScratch removes the scratch folders of dead commands in parent. It takes only real folders of this
// user that no other user can write to, because anyone can create names and links in a shared folder.
func sweepScratch(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // creating the new folder fails with the reason
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix) || !e.IsDir() {
			continue
		}
		s, err := openScratch(filepath.Join(parent, e.Name()))
		if err != nil {
			continue // it is gone, or belongs to another user
		}
		info, err := s.folder.Stat()
		if err != nil || !ownFolder(info) || flock(s.folder, syscall.LOCK_EX|syscall.LOCK_NB) != nil || !s.there() {
			s.release()
			continue
		}
		if err := s.close(); err != nil {
			slog.Error("a temporary folder of an earlier command cannot be removed; remove it by hand", "folder", s.path, "error", err)
		}
	}
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
