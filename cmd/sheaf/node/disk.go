package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"sheaf/events/journal"
	"sheaf/services/ingress"
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

// waitForRoom waits until the disk has room to start.
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

// warnOfSmallDisk says so when the streams may outgrow the disk: then it is not
// their limits that hold exports back but what is left of the disk, also for
// others. A server of one command has no limits of its own.
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
