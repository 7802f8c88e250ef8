package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"sheaf/events"
	"sheaf/events/journal"

	"go.etcd.io/bbolt"
)

// Watermarks is a small file with the last known positions of the streams. It is separate from JetStream and
// from the projection, so it can prove the loss of either. It is for one goroutine.
type Watermarks struct {
	path  string
	marks journal.Marks
}

// ErrWatermarks means that the file of watermarks cannot be read. The next Save rewrites it; losses before
// that go unnoticed.
var ErrWatermarks = errors.New("watermarks cannot be read")

// OpenWatermarks reads the file at path. If the file does not exist, there are no marks. With ErrWatermarks
// the returned Watermarks is usable and has no marks.
func OpenWatermarks(path string) (*Watermarks, error) {
	w := &Watermarks{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, fmt.Errorf("%w: %w", ErrWatermarks, err)
	}
	if err := json.Unmarshal(data, &w.marks); err != nil {
		w.marks = nil
		return w, fmt.Errorf("%w: %s: %w", ErrWatermarks, path, err)
	}
	return w, nil
}

// Marks returns the last saved marks; nil if there are none.
func (w *Watermarks) Marks() journal.Marks { return w.marks }

// Save replaces the file atomically and returns once it is on disk. Unchanged marks cost nothing.
func (w *Watermarks) Save(marks journal.Marks) error {
	if reflect.DeepEqual(marks, w.marks) {
		return nil
	}
	data, err := json.MarshalIndent(marks, "", " ")
	if err != nil {
		return fmt.Errorf("saving watermarks: %w", err)
	}
	if err := replaceFile(w.path, append(data, '\n')); err != nil {
		return fmt.Errorf("saving watermarks: %w", err)
	}
	w.marks = marks
	return nil
}

// replaceFile writes a temporary file next to path, syncs it, and renames it to path.
func replaceFile(path string, data []byte) error {
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return classify(err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return classify(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return classify(err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Bound returns the creation time of the projection's log, zero if it is not bound yet, and the last applied
// sequence.
func (t *Tasks) Bound() (logCreated time.Time, applied uint64, err error) {
	return boundOf(t.view)
}

func boundOf(view func(func(*bbolt.Tx) error) error) (logCreated time.Time, applied uint64, err error) {
	err = view(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		applied = number(meta.Get(metaApplied))
		text := meta.Get(metaStream)
		if text == nil {
			return nil
		}
		logCreated, err = time.Parse(time.RFC3339Nano, string(text))
		return err
	})
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("projection: %w", err)
	}
	return logCreated, applied, nil
}

// pageOfExports is the number of exports that Each reads at once.
const pageOfExports = 256

// Each calls fn with every export, in key order, until fn fails. No transaction is open meanwhile, so fn may
// be slow.
func (t *Tasks) Each(fn func(events.Export) error) error { return t.EachAfter("", fn) }

// EachAfter is Each, starting after a given key.
func (t *Tasks) EachAfter(key string, fn func(events.Export) error) error {
	var last []byte
	if key != "" {
		last = append([]byte(key), 0)
	}
	for {
		var list []events.Export
		err := t.view(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketExports).Cursor()
			for k, v := c.Seek(last); k != nil && len(list) < pageOfExports; k, v = c.Next() {
				var x events.Export
				if err := decode(string(k), v, &x); err != nil {
					return err
				}
				list = append(list, x)
			}
			return nil
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, x := range list {
			if err := fn(x); err != nil {
				return err
			}
		}
		last = append([]byte(list[len(list)-1].Key), 0)
	}
}

// Reset empties the projection. Following the log from its beginning rebuilds it.
func (t *Tasks) Reset() error {
	if err := t.update(empty); err != nil {
		return fmt.Errorf("emptying the projection: %w", err)
	}
	t.emptied()
	if t.torn {
		t.torn = false
		return t.begin(true)
	}
	return nil
}
