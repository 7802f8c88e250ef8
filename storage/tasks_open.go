package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sheaf/events"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// tasksFormat is the version of the buckets' content and of how events are folded. Increment it with any
// change to either; the projection is then rebuilt. An added event or field also causes a rebuild, without a
// new version, even if a newer version of Sheaf added it: see events.Vocabulary.
const tasksFormat = 10

// lockWait is how long OpenTasks waits for another process to release the file. A process that replaces one
// that is ending needs little.
const lockWait = time.Second

// OpenTasks opens the projection at path and creates it, with its folder, if necessary. It renames a file
// that is damaged or of another format to "<path>.corrupt-<time>" or "<path>.format-<n>-<time>", and creates
// an empty one. Following the log from Applied, 0 then, rebuilds it. Only the newest renamed file is kept.
//
// A file that was not closed is verified first: 1.4 s for 100,000 exports (measured, two cores).
//
// If the system identifies its boots, nothing is synced before Close: a killed process loses nothing, and
// after a power failure the file is rebuilt, see Torn. So the projection adds no sync to an export.
//
// The projection logs to log, which gets the attribute service=storage.
func OpenTasks(path string, log *slog.Logger) (*Tasks, error) {
	return openOrMake(path, opening{}, log.With("service", "storage"))
}

// OpenTasksForSnapshots is OpenTasks for a projection that [Snapshots] copies. It can grow while it is copied,
// so it takes 16 GiB of addresses, and its file 16 MiB at least, most of it sparse.
func OpenTasksForSnapshots(path string, log *slog.Logger) (*Tasks, error) {
	return openOrMake(path, opening{mapped: mappedSize}, log.With("service", "storage"))
}

// opening says how a projection is opened.
type opening struct {
	checked bool  // the pages of the file are known to be whole, although it was not closed
	mapped  int64 // address space that the file is mapped into at first
}

// mappedSize is the address space for projections that are copied. A file that grows beyond its mapping can
// only be mapped again while no transaction reads, and a copy reads for seconds.
const mappedSize = 16 << 30

// openOrMake opens a projection, or creates an empty one in place of an unfit one.
func openOrMake(path string, how opening, log *slog.Logger) (*Tasks, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("projection: %w", err)
	}
	t, err := openTasks(path, how, log)
	var unfit *unfitError
	if !errors.As(err, &unfit) {
		return t, err
	}
	aside, err := setAside(path, unfit.as, log)
	if err != nil {
		return nil, fmt.Errorf("projection %s is unfit for use (%w) and cannot be set aside: %w",
			path, unfit, err)
	}
	log.Warn("the projection is unfit for use; it was set aside and will be rebuilt from the log", "file",
		path, "set_aside", aside, "reason", unfit.reason)
	how.checked = false
	return openTasks(path, how, log)
}

// Torn reports whether the file was not closed and the machine has been restarted since. Its last writes may
// be on disk in part. Its structure has been verified, so it can still be read; then Reset rebuilds it from
// the log.
func (t *Tasks) Torn() bool { return t.torn }

// bootID identifies this boot of the machine, "" if the system does not provide that.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})

// unfitError describes a file that must be set aside.
type unfitError struct {
	as     string // suffix of its new name
	reason error
}

func (e *unfitError) Error() string { return e.reason.Error() }

func openTasks(path string, how opening, log *slog.Logger) (*Tasks, error) {
	var file *os.File
	var db *bbolt.DB
	err := recovered(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockWait,
			FreelistType: bbolt.FreelistMapType,
			// Where addresses have 32 bits it becomes 0, the default.
			InitialMmapSize: int(how.mapped),
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				file, err = os.OpenFile(name, flag, mode)
				return file, err
			},
		})
		return err
	})
	switch {
	case errors.Is(err, ErrTasksDamaged):
		_ = file.Close() // bbolt panicked and did not unlock it
		return nil, &unfitError{"corrupt", err}
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("projection: another process uses %s; end it, or give this process its own data folder", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch),
		errors.Is(err, berrors.ErrChecksum), err != nil && tooSmall(path):
		return nil, &unfitError{"corrupt", err}
	case err != nil:
		return nil, fmt.Errorf("projection: %w", err)
	}

	t := &Tasks{db: db, log: log, bound: make(chan struct{}), waiters: map[*waiter]struct{}{}}
	err = t.guard(func() error { return t.ready(file, how.checked) })
	if err == nil && !t.torn {
		err = t.begin(!how.checked)
	}
	if err == nil {
		return t, nil
	}
	_ = recovered(db.Close)
	var unfit *unfitError
	switch {
	case errors.As(err, &unfit):
		return nil, unfit
	case errors.Is(err, ErrTasksDamaged):
		return nil, &unfitError{"corrupt", err}
	}
	return nil, fmt.Errorf("projection %s: %w", path, err)
}

// tooSmall reports whether a file is smaller than bbolt's two meta pages, as after a power failure. bbolt has
// no error for that.
func tooSmall(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0 && info.Size() < int64(2*os.Getpagesize())
}

// ready creates the buckets of a new file, or checks those of an existing one.
func (t *Tasks) ready(file *os.File, checked bool) error {
	fresh, clean, booted := false, false, ""
	err := t.db.View(func(tx *bbolt.Tx) error {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: the file has %d bytes, its pages need %d", ErrTasksDamaged,
				info.Size(), tx.Size())
		}
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			first, _ := tx.Cursor().First()
			if fresh = first == nil; !fresh {
				return fmt.Errorf("%w: it is a bbolt file of something else", ErrTasksDamaged)
			}
			return nil
		}
		format := number(meta.Get(metaFormat))
		if format != tasksFormat {
			return &unfitError{fmt.Sprintf("format-%d", format),
				fmt.Errorf("its format is %d, this version writes %d", format, tasksFormat)}
		}
		if knows := string(meta.Get(metaKnows)); knows != events.Vocabulary() {
			return &unfitError{fmt.Sprintf("format-%d", format),
				errors.New("it was made by a version that knows other events or fields")}
		}
		clean = meta.Get(metaClean) != nil
		booted = string(meta.Get(metaBoot))
		t.applied = number(meta.Get(metaApplied))
		return nil
	})
	switch {
	case err != nil:
		return err
	case fresh:
		return t.db.Update(func(tx *bbolt.Tx) error {
			meta, err := tx.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			err = cmp.Or(
				meta.Put(metaFormat, binary.BigEndian.AppendUint64(nil, tasksFormat)),
				meta.Put(metaKnows, []byte(events.Vocabulary())))
			if err != nil {
				return err
			}
			return empty(tx)
		})
	case !clean && !checked:
		if err := t.db.View(verify); err != nil {
			return err
		}
		t.torn = booted != bootID()
	}
	return nil
}

// begin records that the file is open, and in which boot of the machine. Later writes need no sync. With sync
// the record itself is on disk, because the file there may say that it was closed.
func (t *Tasks) begin(sync bool) error {
	t.db.NoSync = !sync && bootID() != ""
	err := t.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return cmp.Or(meta.Put(metaBoot, []byte(bootID())), meta.Delete(metaClean))
	})
	t.db.NoSync = bootID() != ""
	return err
}

// empty resets the projection to one that has applied nothing.
func empty(tx *bbolt.Tx) error {
	for _, name := range append([][]byte{bucketExports, bucketUsage}, indexBuckets...) {
		if tx.Bucket(name) != nil {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	for _, name := range [][]byte{metaApplied, metaStream, metaClean} {
		if err := meta.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

// verify reads the whole file and returns the first defect.
func verify(tx *bbolt.Tx) error {
	// The first pass runs on this goroutine, which recovers faults: bbolt's own check runs on another one,
	// where a page number outside the file would end the process.
	err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(_, _ []byte) error { return nil })
	})
	if err != nil {
		return err
	}
	exports := tx.Bucket(bucketExports)
	for _, name := range indexBuckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %s is missing", ErrTasksDamaged, name)
		}
	}
	for _, name := range [][]byte{bucketExports, bucketUsage} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %s is missing", ErrTasksDamaged, name)
		}
	}
	err = exports.ForEach(func(k, v []byte) error {
		var x events.Export
		return decode(string(k), v, &x)
	})
	if err != nil {
		return err
	}
	var first error
	for err := range tx.Check() { // drained, so that bbolt's goroutine ends
		if first == nil {
			first = fmt.Errorf("%w: %w", ErrTasksDamaged, err)
		}
	}
	return first
}

// setAside renames an unfit file, and removes those set aside earlier: copies from a disk that damages the
// file repeatedly must not fill it.
func setAside(path, as string, log *slog.Logger) (aside string, err error) {
	folder, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(folder))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name+".corrupt-") || strings.HasPrefix(e.Name(), name+".format-") {
			if err := os.Remove(filepath.Join(folder, e.Name())); err != nil {
				log.Warn("removing an old projection", "error", err)
			}
		}
	}
	aside = path + "." + as + "-" + time.Now().UTC().Format("20060102T150405Z")
	return aside, os.Rename(path, aside)
}

// Close closes the file after all reads have finished. WaitApplied then returns ErrTasksClosed. A second
// Close does nothing.
func (t *Tasks) Close() error {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	for w := range t.waiters {
		close(w.done)
		delete(t.waiters, w)
	}
	t.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if !t.damaged.Load() && !t.torn {
		err = t.guard(func() error {
			// Sync everything before marking the file as closed.
			clean := func() error {
				return t.db.Update(func(tx *bbolt.Tx) error {
					return tx.Bucket(bucketMeta).Put(metaClean, []byte{1})
				})
			}
			if err := t.db.Sync(); err != nil {
				return err
			}
			if err := clean(); err != nil {
				return err
			}
			return t.db.Sync()
		})
	}
	if err := errors.Join(err, recovered(t.db.Close)); err != nil {
		return fmt.Errorf("closing the projection: %w", err)
	}
	return nil
}
