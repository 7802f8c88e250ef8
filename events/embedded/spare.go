package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// A server that cannot read a stream at its start removes it, with all that it holds
// (stop after a failed setupStore, nats-server 2.15.2). So before each start every file
// of the streams gets a second name, which costs no room; afterwards a stream that is
// gone is put back, for another try, and when the tries are over its files stay aside,
// for a person. That is against removal alone: what the server writes into a file it
// writes under both names.
const (
	spareFolder      = "starting"   // the second names, from before a start until it has read all streams
	doneFolder       = "started"    // the same afterwards, to be removed
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
	if err := forgetSpare(dir); err != nil {
		return err
	}
	spare := filepath.Join(dir, spareFolder)
	streams, err := fs.Glob(os.DirFS(dir), "jetstream/*/streams/*")
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if strings.HasPrefix(path.Base(stream), ".") {
			continue // is being removed
		}
		if err := link(filepath.Join(dir, stream), filepath.Join(spare, stream)); err != nil {
			slog.Warn("a stream that cannot be read at this start would not be kept aside", "component", "nats-server", "error", err)
			return forgetSpare(dir)
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
		if err := os.Link(name, filepath.Join(to, rel)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// putBack gives the streams of which something is gone their files again. That there are
// second names says that the server did not read all of them, at the try before or in a
// process that was killed; and before it has, nobody writes.
func putBack(dir string) error {
	spare := filepath.Join(dir, spareFolder)
	streams, err := fs.Glob(os.DirFS(spare), "jetstream/*/streams/*")
	if err != nil {
		return err
	}
	for _, stream := range streams {
		from, to := filepath.Join(spare, stream), filepath.Join(dir, stream)
		lacks, err := lacksFiles(to, from)
		if err != nil {
			return err
		}
		if !lacks {
			continue
		}
		// What is left of it are names of the same files.
		if err := errors.Join(os.RemoveAll(to), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(from, to), SyncFolder(filepath.Dir(to))); err != nil {
			return err
		}
	}
	return nil
}

// lacksFiles reports whether a file of one folder is not in another.
func lacksFiles(folder, of string) (lacks bool, err error) {
	err = filepath.WalkDir(of, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(of, name)
		if err != nil {
			return err
		}
		if _, err = os.Lstat(filepath.Join(folder, rel)); errors.Is(err, fs.ErrNotExist) {
			lacks = true
			return fs.SkipAll
		}
		return err
	})
	return lacks, err
}

// forgetSpare removes the second names. First they are called otherwise: half of them
// must not be taken for all.
func forgetSpare(dir string) error {
	done := filepath.Join(dir, doneFolder)
	if err := os.RemoveAll(done); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, spareFolder), done); err != nil {
		return ifThere(err)
	}
	return os.RemoveAll(done)
}

// dropSpare removes the second names when the tries are over. Those of streams that none
// could read stay.
func dropSpare(dir string, unreadable []string) error {
	for _, name := range unreadable {
		found, err := fs.Glob(os.DirFS(dir), path.Join(spareFolder, "jetstream/*/streams", name))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			continue
		}
		aside := filepath.Join(dir, unreadableFolder, fmt.Sprintf("%s-%s", name, time.Now().UTC().Format("20060102T150405.000Z")))
		if err := errors.Join(os.MkdirAll(filepath.Dir(aside), 0o700), os.Rename(filepath.Join(dir, found[0]), aside)); err != nil {
			return err
		}
		slog.Error("a stream could not be read, and is begun anew; its files are kept aside", "component", "nats-server", "stream", name, "folder", aside)
	}
	return forgetSpare(dir)
}
