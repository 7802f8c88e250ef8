package storage

import (
	"unsafe"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Release removes the pages of the projection's file from this process's resident memory. They stay in the
// system's page cache, so the next read costs a minor fault. Operators who watch or limit the process then
// see the memory that it needs, not everything that it has read. It is safe at any time.
func (t *Tasks) Release() {
	// The transaction keeps the file mapped at this address.
	err := t.view(func(tx *bbolt.Tx) error {
		first := t.db.Info().Data
		if first == 0 || tx.Size() <= 0 {
			return nil
		}
		// The file is written only with write, never through this shared mapping, so no change is lost.
		mapped := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), first)), tx.Size())
		return unix.Madvise(mapped, unix.MADV_DONTNEED)
	})
	if err != nil {
		t.log.Debug("projection's pages not released", "error", err)
	}
}
