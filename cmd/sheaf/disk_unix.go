//go:build linux || darwin || freebsd

package main

import "syscall"

// freeBytes is how much this process may still write to the disk of a folder.
func freeBytes(folder string) (free int64, known bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(folder, &fs); err != nil {
		return 0, false
	}
	return int64(fs.Bavail) * int64(fs.Bsize), true //nolint:unconvert // other types on other platforms
}
