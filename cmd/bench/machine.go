//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes the hardware and system that the figures depend on.
type machine struct {
	cpu        string
	cores      int
	memory     int64 // bytes
	kernel     string
	fileSystem string
	load       string // 1-minute average before the first part
	goVersion  string
	when       time.Time
}

// describe inspects this machine and the file system of dir. It refuses a file system in memory, where
// nothing would be durable.
func describe(dir string) (m machine, err error) {
	m = machine{cores: runtime.NumCPU(), goVersion: runtime.Version(), when: time.Now()}
	m.cpu = after("/proc/cpuinfo", "model name")
	total, _, _ := strings.Cut(after("/proc/meminfo", "MemTotal"), " ")
	kib, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.memory = kib << 10
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return m, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return m, err
	}
	m.fileSystem = fileSystemOf(dir, string(mounts))
	if m.fileSystem == "tmpfs" || m.fileSystem == "ramfs" {
		return m, fmt.Errorf("%s is a %s, where nothing is durable: name a folder on a disk with -dir",
			dir, m.fileSystem)
	}
	loads, err := os.ReadFile("/proc/loadavg")
	m.load, _, _ = strings.Cut(string(loads), " ")
	return m, err
}

// after returns the value of the first line "KEY : VALUE" of a file.
func after(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// fileSystemOf returns the type of the file system that contains dir, from the mount table.
func fileSystemOf(dir, mounts string) string {
	longest, kind := -1, "unknown file system"
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		below, ok := strings.CutPrefix(dir, f[1])
		if ok && (f[1] == "/" || below == "" || below[0] == '/') && len(f[1]) >= longest {
			longest, kind = len(f[1]), f[2]
		}
	}
	return kind
}

// String returns the first paragraph of the report.
func (m machine) String() string {
	return fmt.Sprintf("Measured on %s by `task bench`: %s, %d cores, %.0f GB of memory, %s, %s, %s. "+
		"Load before the run: %s. The source, Sheaf and the caller share the cores. "+
		"Sheaf runs with its defaults: an embedded NATS server, every message synced to disk before it is acknowledged. "+
		"Compared programs ran in turns; ratios are medians of neighbouring runs, with minimum and maximum.\n",
		m.when.Format(time.DateOnly), m.cpu, m.cores, float64(m.memory)/1e9, m.kernel, m.fileSystem,
		m.goVersion, m.load)
}
