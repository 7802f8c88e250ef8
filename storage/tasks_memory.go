package storage

import (
	"log/slog"
	"unsafe"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Release takes the pages of the projection's file out of this process's
// resident memory. They stay in the system's page cache, from where the next
// read has them back for a minor fault, so that an operator who bounds or
// watches the process sees what it holds, not what it once looked at. It is safe
// at any time.
func (t *Tasks) Release() {
	// A transaction keeps the file mapped where it is.
	err := t.view(func(tx *bbolt.Tx) error {
		first := t.db.Info().Data
		if first == 0 || tx.Size() <= 0 {
			return nil
		}
		// A shared mapping of a file that is written by write alone: nothing is
		// lost with it.
		mapped := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), first)), tx.Size())
		return unix.Madvise(mapped, unix.MADV_DONTNEED)
	})
	if err != nil {
		slog.Debug("projection's pages not released", "error", err)
	}
}
