package main

import (
	cryptorand "crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/services/crawler"
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
	// ballastShare of the reserve is a file that is removed to start on a disk that
	// is full: with it a process can start, cancel, purge and fail exports, also
	// where nobody else makes room. It is made again when there is room.
	ballastShare = 4
	ballastName  = "room-to-start"
	// pressFor is how long after a workbook in progress found no room pages make
	// room, and idleAfter after how long without any in progress no longer: one
	// that was given up comes again after 6 s at most.
	pressFor  = time.Minute
	idleAfter = 15 * time.Second
	// draftWait is how long a workbook in progress waits for pages that are being
	// written, and draftEvery how often it looks.
	draftWait  = 5 * time.Second
	draftEvery = 20 * time.Millisecond
)

// disk decides what there is room for on the disk of --data: the one place. A
// write error of JetStream stays until a restart and is silent to whoever waits
// for an acknowledgement (measured), so the disk must never be full.
//
// Below a reserve nothing new is begun, while what ends exports and what frees
// space goes on. When a quarter more than the reserve is free again all goes on.
//
// What is about to be written is held first, with its size, and is held until it
// is acknowledged. What is held never exceeds what is free above the reserve, so
// however many write at once, the reserve stays. What is written and not yet
// acknowledged counts twice: that errs on the safe side, for a moment.
//
// A nil disk has room: without an embedded server nothing is written here that
// others rest on. So has one whose file system does not say how it stands.
type disk struct {
	folder  string
	measure func(folder string) (size, free int64, known bool)

	mu      sync.Mutex
	short   bool
	held    int64
	drafts  int       // that wait for what is held to be written
	asked   time.Time // when a workbook in progress last asked for room
	refused time.Time // and when there was none
}

func newDisk(folder string) *disk { return &disk{folder: folder, measure: diskSpace} }

// look returns the free bytes above the reserve, which is less than nothing when
// it is broken into, and whether the disk is short of room. It tells the log when
// that changes. Asking the file system takes about a microsecond.
func (d *disk) look() (above, reserve int64, short bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, above, reserve, short = d.lookLocked()
	return above, reserve, short
}

func (d *disk) lookLocked() (size, above, reserve int64, short bool) {
	size, free, known := d.measure(d.folder)
	if !known {
		return 1 << 60, 1 << 60, 0, false
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
	return size, free - reserve, reserve, d.short
}

// roomFor holds bytes of new exports until release. Of none it says whether
// there is room for new exports at all.
func (d *disk) roomFor(bytes int64) (release func(), err error) {
	if d == nil {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, above, reserve, short := d.lookLocked()
	if !short && (bytes == 0 || bytes <= above-d.held) {
		return d.hold(bytes), nil
	}
	need := reserve + bytes + d.held
	if short {
		need += reserve / 4
	}
	return nil, d.lack(above+reserve, need)
}

// hold sets bytes aside. The caller holds mu.
func (d *disk) hold(bytes int64) (release func()) {
	d.held += bytes
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held -= bytes
	})
}

// lacksRoom returns an error while there is no room for new exports.
func (d *disk) lacksRoom() error {
	release, err := d.roomFor(0)
	if err == nil {
		release()
	}
	return err
}

// Room says how much of the disk pages may take. Pages need no more than is free
// above the reserve: an export that is under way is not new.
func (d *disk) Room() crawler.DiskRoom {
	if d == nil {
		return crawler.DiskRoom{Free: 1 << 60, Most: 1 << 60}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	size, above, reserve, _ := d.lookLocked()
	return crawler.DiskRoom{
		Free: above - d.held, Most: size - reserve,
		Drafts: time.Since(d.refused) < pressFor && time.Since(d.asked) < idleAfter,
	}
}

// Hold holds bytes of pages until release.
func (d *disk) Hold(bytes int64) (release func(), err error) {
	if d == nil {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, above, reserve, _ := d.lookLocked()
	if d.drafts == 0 && bytes <= above-d.held {
		return d.hold(bytes), nil
	}
	return nil, d.lack(above+reserve, reserve+d.held+bytes)
}

// roomForDrafts reports whether a workbook in progress may grow by so many
// bytes. It waits a while for what is held to be written, for that comes before.
func (d *disk) roomForDrafts(bytes int64) error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drafts++
	defer func() { d.drafts-- }()
	for end := time.Now().Add(draftWait); ; {
		_, above, reserve, _ := d.lookLocked()
		d.asked = time.Now()
		need := reserve/draftShare + bytes
		switch free := above + reserve; {
		case free-d.held >= need:
			return nil
		case free < need || d.asked.After(end):
			d.refused = d.asked
			return d.lack(free, need)
		}
		d.mu.Unlock()
		time.Sleep(draftEvery)
		d.mu.Lock()
	}
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

// keepBallast makes the file that dropBallast removes, if there is room for it
// beside the reserve.
func (d *disk) keepBallast() {
	if d == nil {
		return
	}
	above, reserve, short := d.look()
	size := reserve / ballastShare
	if short || size == 0 || above < 2*size {
		return
	}
	name := filepath.Join(d.folder, ballastName)
	if info, err := os.Stat(name); err == nil && info.Size() == size {
		return
	}
	random := make([]byte, size) // zeros may take no room
	var seed [32]byte            // the same as another's may take none either
	_, _ = cryptorand.Read(seed[:])
	_, _ = rand.NewChaCha8(seed).Read(random)
	failpoint.Hit("ballast.before")
	if err := os.WriteFile(name, random, 0o600); err != nil {
		slog.Warn("no room set aside for a start on a full disk", "error", err)
		_ = os.Remove(name) // it would be room that nobody has
	}
	failpoint.Hit("ballast.after")
}

// dropBallast makes room for a start, and reports whether there was any to make.
func (d *disk) dropBallast() bool {
	if d == nil || os.Remove(filepath.Join(d.folder, ballastName)) != nil {
		return false
	}
	slog.Warn("the disk of --data is full: the room that was set aside for a start is used", "folder", d.folder)
	return true
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
// others. A server of one command has no limits of its own.
func warnOfSmallDisk(cfg Config) {
	if !cfg.embedded() || cfg.passing {
		return
	}
	_, free, known := diskSpace(cfg.Data)
	if !known {
		return
	}
	limits := events.Config{MaxPagesBytes: int64(cfg.MaxPagesBytes), MaxEventsBytes: int64(cfg.MaxLogBytes)}.MaxBytes()
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
