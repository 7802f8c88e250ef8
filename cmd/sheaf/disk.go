package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"sheaf/events"
	"sheaf/services/ingress"
	"sheaf/storage"
)

// What is kept free on the disk of --data.
const (
	// mostReserve is what has to fit beside new work: the server rewrites a
	// block of 8 MiB of a stream when it purges, and the index of each stream
	// now and then; tasks.db is copied on write; and each export under way
	// still writes a few KiB to end.
	mostReserve = 64 << 20
	// A small disk keeps a share of it free, not all of it.
	reserveShare = 8
	// draftShare of the reserve is not for workbooks in progress: completing
	// an export is what frees its pages, but a workbook can be of any size.
	draftShare = 2
	// startShare of the reserve is what a start needs: a process that runs
	// can purge and so mend what one that waits cannot.
	startShare = 16
)

// disk decides what there is room for on the disk of --data: the one place. A
// write error of JetStream stays until a restart and is silent to whoever waits
// for an acknowledgement (measured), so the disk must never be full.
//
// Below a reserve nothing new is begun, while what ends exports and what frees
// space goes on. When a quarter more than the reserve is free again all goes on.
//
// A nil disk has room: without an embedded server nothing is written here that
// others rest on. So has one whose file system does not say how it stands.
type disk struct {
	folder  string
	measure func(folder string) (size, free int64, known bool)

	mu    sync.Mutex
	short bool
}

func newDisk(folder string) *disk { return &disk{folder: folder, measure: diskSpace} }

// look returns the free bytes above the reserve, which is less than nothing when
// it is broken into, and whether the disk is short of room. It tells the log when
// that changes. Asking the file system takes about a microsecond.
func (d *disk) look() (above, reserve int64, short bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size, free, known := d.measure(d.folder)
	if !known {
		return 1 << 60, 0, false
	}
	reserve = min(size/reserveShare, mostReserve)
	was := d.short
	d.short = free < reserve || was && free < reserve+reserve/4
	switch {
	case d.short && !was:
		slog.Warn("the disk of --data is almost full: no new exports are taken until there is room",
			"folder", d.folder, "free", humanBytes(free), "kept_free", humanBytes(reserve))
	case was && !d.short:
		slog.Info("there is room on the disk of --data again", "folder", d.folder, "free", humanBytes(free))
	}
	return free - reserve, reserve, d.short
}

// roomFor reports whether bytes more of new work may be written.
func (d *disk) roomFor(bytes int64) error {
	if d == nil {
		return nil
	}
	above, reserve, short := d.look()
	if !short && bytes <= above {
		return nil
	}
	need := reserve + bytes
	if short {
		need += reserve / 4
	}
	return d.lack(above+reserve, need)
}

// roomForPages returns how many bytes of pages may be written.
func (d *disk) roomForPages() (bytes int64, err error) {
	if d == nil {
		return 1 << 60, nil
	}
	above, _, _ := d.look()
	return max(above, 0), d.roomFor(0)
}

// roomForDrafts reports whether a workbook in progress may grow.
func (d *disk) roomForDrafts() error {
	if d == nil {
		return nil
	}
	if above, reserve, _ := d.look(); above+reserve < reserve/draftShare {
		return d.lack(above+reserve, reserve/draftShare)
	}
	return nil
}

// roomToStart reports whether the streams may be opened.
func (d *disk) roomToStart() error {
	if d == nil {
		return nil
	}
	if above, reserve, _ := d.look(); above+reserve < reserve/startShare {
		return d.lack(above+reserve, reserve/startShare)
	}
	return nil
}

// lacked reports whether an error of a start comes from a full disk, and returns
// what a caller may be told. What JetStream says of one is text.
func (d *disk) lacked(err error) error {
	if d == nil {
		return nil
	}
	if why := d.roomToStart(); why != nil {
		return why
	}
	if storage.IsNoSpace(err) || strings.Contains(err.Error(), "no space left on device") {
		above, reserve, _ := d.look()
		return d.lack(above+reserve, reserve)
	}
	return nil
}

func (d *disk) lack(free, need int64) error {
	return ingress.NotReady(fmt.Sprintf("the disk of the data folder %s is full or almost full: %s free, %s needed", d.folder, humanBytes(free), humanBytes(need)))
}

// warnOfSmallDisk says so when the streams may outgrow the disk: then it is not
// their limits that hold exports back but what is left of the disk, also for
// others.
func warnOfSmallDisk(cfg Config) {
	if !cfg.embedded() {
		return
	}
	_, free, known := diskSpace(cfg.Data)
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
		slog.Warn("the event streams may outgrow the disk of --data, and an almost full disk takes no exports: make room, or lower --max-pages-bytes",
			"streams_at_most", limits, "streams_now", used, "free", free, "max_pages_bytes", int64(cfg.MaxPagesBytes))
	}
}
