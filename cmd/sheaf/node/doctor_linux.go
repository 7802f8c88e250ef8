package node

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// networkOrMemory names the kind of a file system whose syncs do not mean a local disk, "" for others.
func networkOrMemory(folder string) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(folder, &fs); err != nil {
		return ""
	}
	return map[int64]string{
		0x01021994: "tmpfs, which is memory", 0x858458f6: "ramfs, which is memory", 0x6969: "NFS", 0xff534d42: "CIFS", 0xfe534d42: "SMB",
		0x01021997: "9p",
	}[int64(fs.Type)] //nolint:unconvert // other types on other platforms
}

// maxMemory returns the memory limit of this process's group.
func maxMemory() (bytes int64, known bool) {
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		bytes, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return bytes, err == nil && bytes < 1<<60
	}
	return 0, false
}
