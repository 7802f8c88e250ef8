//go:build unix

package embedded

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the exclusive lock of a folder. Closing the file releases it, and so does every end of the
// process.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, err
	}
	return f, nil
}

// keepOwner gives a file the owner, group and mode of another one.
func keepOwner(f *os.File, as os.FileInfo) error {
	owner := as.Sys().(*syscall.Stat_t)
	return errors.Join(f.Chown(int(owner.Uid), int(owner.Gid)), f.Chmod(as.Mode().Perm()))
}
