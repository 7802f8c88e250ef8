package node

import (
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"sheaf/events/journal"
	"sheaf/services/ingress"
	"sheaf/storage"
)

// disk decides what there is room for on the disk of --data: the one place. A write error
// of JetStream stays until a restart and leaves callers waiting for an acknowledgement
// (measured), so the disk must never be full.
//
// New exports and pages leave a reserve free. It is what the server needs to purge (it
// rewrites blocks of 8 MiB) and for the index of each stream, what tasks.db needs, and what
// ends exports. Events that end exports and all that frees space is never refused.
//
// A nil disk has room: without an embedded server nothing is written here that others rest
// on. So has one whose file system does not report its size.
type disk struct {
	folder  string
	measure func(folder string) (size, free int64, known bool)
	warn    rate.Sometimes
}

func newDisk(folder string) *disk {
	return &disk{folder: folder, measure: diskSpace, warn: rate.Sometimes{First: 1, Interval: time.Minute}}
}

const (
	minReserve  = 256 << 20
	reserveRate = 20 // a large disk keeps a 20th of it free
	maxReserve  = 8  // a small one an eighth at most
)

func reserveOf(size int64) int64 { return min(max(minReserve, size/reserveRate), size/maxReserve) }

// room returns an error unless bytes may be written beside the reserve.
func (d *disk) room(bytes int64) error { return d.beside(1, bytes) }

// roomForWorkbook is room for a workbook in progress. It may use half of the reserve, for
// completing an export frees its pages.
func (d *disk) roomForWorkbook(bytes int64) error { return d.beside(2, bytes) }

// roomToStart returns an error unless the streams may be opened: only a process that runs
// can purge, so it needs a small part of the reserve.
func (d *disk) roomToStart() error { return d.beside(16, 0) }

// beside returns an error unless bytes may be written beside a part of the reserve. Asking
// the file system takes about a microsecond.
func (d *disk) beside(part, bytes int64) error {
	if d == nil {
		return nil
	}
	size, free, known := d.measure(d.folder)
	need := reserveOf(size)/part + bytes
	if !known || free >= need {
		return nil
	}
	return ingress.NotReady(fmt.Sprintf("the disk of the data folder %s is full or almost full: %s free, %s needed", d.folder, ByteSize(free), ByteSize(need)))
}

// watch writes to the log, once a minute, that the disk has no room.
func (d *disk) watch() {
	if err := d.room(0); err != nil {
		d.warn.Do(func() { slog.Warn("no new exports are taken until there is room", "reason", err) })
	}
}

// lacked reports whether an error of a start comes from a full disk, and returns what a
// caller may be told. JetStream reports a full disk as text.
func (d *disk) lacked(err error) error {
	if d == nil {
		return nil
	}
	if why := d.roomToStart(); why != nil {
		return why
	}
	if storage.IsNoSpace(err) || strings.Contains(err.Error(), "no space left on device") {
		return ingress.NotReady(fmt.Sprintf("the disk of the data folder %s is full", d.folder))
	}
	return nil
}

// warnOfSmallDisk says so when the streams may outgrow the disk: then it is not
// their limits that hold exports back but what is left of the disk, also for
// others. A server of one command has no limits of its own.
func warnOfSmallDisk(cfg Config) {
	if !cfg.embedded() || cfg.Ephemeral {
		return
	}
	_, free, known := diskSpace(cfg.Data)
	if !known {
		return
	}
	limits := journal.Config{MaxPagesBytes: int64(cfg.MaxPagesBytes), MaxEventsBytes: int64(cfg.MaxLogBytes)}.MaxBytes()
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
		slog.Warn("the event streams may outgrow the disk of --data, and an almost full disk takes no exports: make room, or lower --max-pages-bytes",
			"streams_at_most", limits, "streams_now", used, "free", free, "max_pages_bytes", int64(cfg.MaxPagesBytes))
	}
}
