package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"time"
)

// A server that cannot read a stream at its start removes it, with all that it holds
// (stop after a failed setupStore, nats-server 2.15.2). So before each start every file
// of the streams gets a second name, which costs no room; afterwards a stream that is
// gone is put back, for another try, and when the tries are over its files stay aside,
// for a person.
const (
	spareFolder      = "starting"   // the second names, during a start
	unreadableFolder = "unreadable" // what no start could read
)

// prepareStore makes a store ready for a start: what the try before removed, or a start
// that was killed, is put back, what can be mended is, and all gets a second name.
func prepareStore(dir string) error {
	if err := putBack(dir); err != nil {
		return err
	}
	if err := mendStore(dir); err != nil {
		return err
	}
	return spareStreams(dir)
}

// spareStreams gives all files of the streams a second name. A file system that has no
// such names is gone on without.
func spareStreams(dir string) error {
	spare := filepath.Join(dir, spareFolder)
	if err := os.RemoveAll(spare); err != nil {
		return err
	}
	streams, err := fs.Glob(os.DirFS(dir), "jetstream/*/streams/*")
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := link(filepath.Join(dir, stream), filepath.Join(spare, stream)); err != nil {
			slog.Warn("a stream that cannot be read at this start would not be kept aside", "component", "nats-server", "error", err)
			return os.RemoveAll(spare)
		}
	}
	return nil
}

// link gives all files of a folder a second name in another.
func link(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return os.Link(name, filepath.Join(to, rel))
	})
}

// putBack gives the streams that are gone their first names again.
func putBack(dir string) error {
	spare := filepath.Join(dir, spareFolder)
	streams, err := fs.Glob(os.DirFS(spare), "jetstream/*/streams/*/meta.inf")
	if err != nil {
		return err
	}
	for _, meta := range streams {
		if _, err := os.Stat(filepath.Join(dir, meta)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		stream := path.Dir(meta)
		to := filepath.Join(dir, stream)
		if err := errors.Join(os.RemoveAll(to), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
			return err
		}
		if err := link(filepath.Join(spare, stream), to); err != nil {
			return err
		}
	}
	return nil
}

// dropSpare removes the second names. Those of streams that no start could read stay.
func dropSpare(dir string, unreadable []string) error {
	var errs []error
	for _, name := range unreadable {
		found, err := fs.Glob(os.DirFS(dir), path.Join(spareFolder, "jetstream/*/streams", name))
		if err != nil || len(found) == 0 {
			continue
		}
		aside := filepath.Join(dir, unreadableFolder, fmt.Sprintf("%s-%s", name, time.Now().UTC().Format("20060102T150405Z")))
		err = errors.Join(os.MkdirAll(filepath.Dir(aside), 0o700), os.Rename(filepath.Join(dir, found[0]), aside))
		errs = append(errs, err)
		slog.Error("a stream could not be read, and is begun anew; its files are kept aside", "component", "nats-server", "stream", name, "folder", aside, "error", err)
	}
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(dir, spareFolder)))...)
}
