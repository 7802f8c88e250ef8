package eventstest

import (
	"os"
	"syscall"
)

// InMemory puts the temporary folders of a package's tests into memory, where the system has 2 GiB of it to
// spare and TMPDIR names no other place. Call it in TestMain. Starts and stops of whole processes otherwise
// spend most of their time on the disk. The tests of syncs and full disks are elsewhere, see package chaostest.
func InMemory() {
	const folder = "/dev/shm"
	var free syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(folder, &free) != nil || free.Bavail*uint64(free.Bsize) < 2<<30 {
		return
	}
	if probe, err := os.MkdirTemp(folder, "sheaf-test"); err == nil && os.Remove(probe) == nil {
		_ = os.Setenv("TMPDIR", folder)
	}
}
