package main

import (
	"io/fs"
	"log/slog"
	"path/filepath"

	"sheaf/events"
)

// warnOfSmallDisk says so when the streams may outgrow the disk. A stream that
// reaches its limit refuses what is new, callers are told to come back, and all
// goes on when there is room. A full disk ends the process, and the next ones,
// until there is.
func warnOfSmallDisk(cfg Config) {
	if !cfg.embedded() {
		return
	}
	free, known := freeBytes(cfg.Data)
	if !known {
		return
	}
	limits := events.Config{MaxPagesBytes: int64(cfg.MaxPagesBytes)}.MaxBytes()
	used := int64(0)
	_ = filepath.WalkDir(filepath.Join(cfg.Data, "jetstream"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				used += info.Size()
			}
		}
		return nil // what cannot be read counts for nothing
	})
	if free+used < limits {
		slog.Warn("the event streams may outgrow the disk of --data, and a full disk ends the process: make room, or lower --max-pages-bytes",
			"streams_at_most", limits, "streams_now", used, "free", free, "max_pages_bytes", int64(cfg.MaxPagesBytes))
	}
}
