//go:build linux || darwin || freebsd

package node

import "syscall"

// diskSpace returns the size of the disk of a folder and how much this process may still write to it, in
// bytes.
func diskSpace(folder string) (size, free int64, known bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(folder, &fs); err != nil {
		return 0, 0, false
	}
	block := int64(fs.Bsize) //nolint:unconvert // other types on other platforms
	return int64(fs.Blocks) * block, max(int64(fs.Bavail), 0) * block, true
}
