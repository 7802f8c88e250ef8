package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"sheaf/events/journal"
	"sheaf/services/ingress"
)

// disk decides how much may be written to the disk of --data. It is the only place that does. A write error
// of JetStream persists until a restart and leaves callers without an acknowledgement (measured), so the disk
// must never be full.
//
// New exports and pages leave a reserve free. The server needs it to purge (it rewrites blocks of 8 MiB) and
// for the index of each stream. So do tasks.db and the events that end exports. Events that end exports, and
// everything that frees space, are never refused.
//
// A nil disk always has space: without an embedded server this process writes nothing that others depend on.
// A disk whose file system does not report its size always has space too.
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
	reserveRate = 20 // a large disk keeps 1/20 of it free
	maxReserve  = 8  // a small one at most 1/8
)

func reserveOf(size int64) int64 { return min(max(minReserve, size/reserveRate), size/maxReserve) }

// room returns an error unless bytes may be written without touching the reserve.
func (d *disk) room(bytes int64) error { return d.beside(1, bytes) }

// roomForWorkbook is room for a workbook in progress. It may use half of the reserve, because completing an
// export frees its pages.
func (d *disk) roomForWorkbook(bytes int64) error { return d.beside(2, bytes) }

// roomToStart returns an error unless the streams may be opened. Only a running process can purge, so a start
// needs just a small part of the reserve.
func (d *disk) roomToStart() error { return d.beside(16, 0) }

// beside returns an error unless bytes may be written without touching a part of the reserve. Asking the file
// system takes about a microsecond.
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

// waitForRoom waits until the disk has enough space to start.
func (n *node) waitForRoom(ctx context.Context) error {
	begun, warn := time.Now(), rate.Sometimes{First: 1, Interval: time.Minute}
	for waited := false; ; waited = true {
		why := n.disk.roomToStart()
		if why == nil {
			if waited {
				n.log.Info("there is room to start", "waited", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		}
		n.startup.say(why.Error())
		warn.Do(func() { n.log.Error("waiting for room on the disk of the data folder before the start", "reason", why) })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tryStartEvery):
		}
	}
}

// warnOfSmallDisk warns when the streams may outgrow the disk. Then the free space of the disk limits
// exports, not the limits of the streams, and other programs on the disk are affected. The server of a single
// command has no limits of its own.
func (n *node) warnOfSmallDisk(ctx context.Context) {
	if n.disk == nil || n.cfg.Ephemeral {
		return
	}
	_, free, known := n.disk.measure(n.disk.folder)
	account, err := n.journal.JetStream().AccountInfo(ctx)
	if !known || err != nil {
		return
	}
	limits := journal.Config{MaxPagesBytes: int64(n.cfg.MaxPagesBytes), MaxEventsBytes: int64(n.cfg.MaxLogBytes)}.MaxBytes()
	if used := int64(account.Store); free+used < limits {
		n.log.Warn("the event streams may outgrow the disk of --data, and an almost full disk takes no exports: make room, or lower --max-pages-bytes",
			"streams_at_most", limits, "streams_now", used, "free", free, "max_pages_bytes", int64(n.cfg.MaxPagesBytes))
	}
}
