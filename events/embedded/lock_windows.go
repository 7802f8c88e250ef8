package embedded

import (
	"errors"
	"os"
	"syscall"
)

// lock opens a file exclusively until it is closed or the process ends.
func lock(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	const shareNothing = 0
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, shareNothing, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		const sharingViolation = syscall.Errno(32)
		if errors.Is(err, sharingViolation) {
			err = ErrInUse
		}
		return nil, err
	}
	return os.NewFile(uintptr(h), path), nil
}

// keepOwner does nothing: files inherit their permissions from the folder.
func keepOwner(*os.File, os.FileInfo) error { return nil }
