package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoFile means that the store is there and holds no file of that name: it was
// never committed, or it was deleted. Both drivers answer it only from a source
// that cannot lag: the file system, or the leader of the bucket's stream.
var ErrNoFile = errors.New("no such file")

// ErrFileExists means that the name is taken by a file with other content. A
// name is written once; the file that is there stays.
var ErrFileExists = errors.New("file exists with other content")

// ErrFileName means that a name is not made of id elements (see [Files]).
var ErrFileName = errors.New("not a file name of this store")

// ErrNoSpace means that the disk, a quota or a JetStream limit is full. Nothing
// of the file is visible; the same Commit may be tried again once there is room.
var ErrNoSpace = errors.New("no space left for files")

// Files keeps finished workbooks.
//
// A name is made from ids alone: elements of [a-z0-9_-], joined by "/", the last
// one with an optional extension, at most 200 bytes in all, as in
// "default/5ad5f7b92a816b76e70a21e4154c2485/17.zip". Anything else is refused
// with [ErrFileName], so no title or other caller's text ever becomes a path.
//
// A name is written once. What Open returns is whole: no reader ever sees a part
// of a file. After Commit has returned nil the file outlives a power failure, as
// far as the disk (or the cluster's sync settings) keep their word.
//
// All methods may be called from several goroutines, and several processes may
// share one folder or bucket.
type Files interface {
	// Create opens a draft. Whoever calls it calls [Draft.Discard] too; after a
	// successful Commit that does nothing.
	Create(ctx context.Context) (*Draft, error)

	// Commit makes the draft durable and visible under name, and takes it over.
	// Equal content that is there already is a success; other content is
	// [ErrFileExists]. After an error the draft is as it was, and Commit may be
	// called again, also after one whose outcome is unknown (a timeout).
	Commit(ctx context.Context, d *Draft, name string) error

	// Open returns [ErrNoFile] when name is absent, and [ErrNoStore] when the store
	// is. ctx bounds the reads of the file too. The file suits http.ServeContent with ranges.
	Open(ctx context.Context, name string) (File, error)

	// Delete removes a file. An absent one is no error. Who has it open may be
	// cut off with [ErrNoFile].
	Delete(ctx context.Context, name string) error

	// Sweep removes what a crash left behind: drafts and half-stored files that
	// were last written before olderThan, and files that were committed before
	// olderThan and for which keep is false. What it cannot prove to be an orphan,
	// it leaves. olderThan must lie further back than the longest time between
	// two writes to a draft, and between a Commit and the event that names the
	// file; a day is plenty. Of what it could not remove it reports the first
	// error, after it has tried the rest.
	Sweep(ctx context.Context, keep func(name string) bool, olderThan time.Time) (removed int, err error)

	// Check returns nil while the store is there, and [ErrNoStore] when it is not.
	// Any other error means that this cannot be known now. A folder that was gone
	// and is back under its path is used again.
	Check(ctx context.Context) error

	// Made reports that the store was not there when it was opened: it is new, or
	// what it held is lost. Accept ends that for later opens.
	Made() bool
	Accept() error

	// Close gives the store's handles back. Open files and drafts stay usable.
	Close() error
}

// File is an open finished file. It is for one goroutine.
type File interface {
	io.ReadSeekCloser
	Size() int64        // in bytes
	ModTime() time.Time // when it was finished
}

// OpenFiles opens the store that url names, and makes it if need be:
//
//   - file://PATH: a folder, absolute (file:///var/lib/sheaf/files) or relative
//     to the working directory. PATH is taken as it stands, without %-decoding.
//   - nats://BUCKET: a bucket of the JetStream Object Store, which every process
//     of a cluster sees. js is its connection and replicas the count that a new
//     bucket gets; an existing bucket keeps its own. Drafts live in
//     dataDir/drafts.
func OpenFiles(ctx context.Context, url, dataDir string, js jetstream.JetStream, replicas int) (Files, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case ok && scheme == "file" && rest != "":
		return openFolderFiles(rest)
	case ok && scheme == "nats" && rest != "":
		if js == nil {
			return nil, fmt.Errorf("open files %q: no NATS connection", url)
		}
		return openNATSFiles(ctx, rest, dataDir, js, replicas)
	}
	return nil, fmt.Errorf("open files %q: want file://PATH (a folder) or nats://BUCKET (a JetStream Object Store)", url)
}

// IsNoSpace tells whether err is [ErrNoSpace], or the bare error of a write to a
// draft whose disk or quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// classify gives errors of the operating system their sentinel.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case IsNoSpace(err) && !errors.Is(err, ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case absent(err) && !errors.Is(err, ErrNoFile):
		return fmt.Errorf("%w: %w", ErrNoFile, err)
	}
	return err
}

// absent also covers a/b where a is a file.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

const maxFileName = 200

// An element cannot begin with a dot, so no name reaches draftsFolder.
var fileName = regexp.MustCompile(`^([a-z0-9_-]+/)*[a-z0-9_-]+(\.[a-z0-9]+)?$`)

func checkFileName(name string) error {
	if len(name) > maxFileName || !fileName.MatchString(name) {
		return fmt.Errorf("%w: %.250q", ErrFileName, name)
	}
	return nil
}

// Draft is a file in the making: local, seekable, writable, and invisible to
// readers until Commit. It is for one goroutine.
type Draft struct {
	file *os.File
	root *os.Root // that name is in
	name string
	in   *drafts
	done bool
}

// File is the draft's file, open for reading and writing.
func (d *Draft) File() *os.File { return d.file }

// Discard gives the draft up. After Commit, or a second time, it does nothing.
func (d *Draft) Discard() {
	if d.done {
		return
	}
	d.done = true
	_ = d.file.Close()
	_ = d.root.Remove(d.name) // what stays behind, Sweep removes
}

// drafts is a folder of temporary files.
type drafts struct {
	root   atomic.Pointer[os.Root]
	folder string
}

func openDrafts(root *os.Root, folder string) (*drafts, error) {
	if err := root.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of drafts: %w", classify(err))
	}
	s := &drafts{folder: folder}
	s.root.Store(root)
	return s, nil
}

func (s *drafts) create(ctx context.Context) (*Draft, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("create draft: %w", err)
	}
	root, name := s.root.Load(), path.Join(s.folder, rand.Text())
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // somebody removed the folder of drafts
		if err = root.MkdirAll(s.folder, 0o700); err == nil {
			file, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create draft: %w", classify(err))
	}
	return &Draft{file: file, root: root, name: name, in: s}, nil
}

// owns refuses a draft of another store, or one that is committed or discarded.
func (s *drafts) owns(d *Draft) error {
	switch {
	case d.in != s:
		return errors.New("draft belongs to another store")
	case d.done:
		return fmt.Errorf("draft: %w", os.ErrClosed)
	}
	return nil
}

func (s *drafts) sweep(ctx context.Context, olderThan time.Time) (removed int, err error) {
	root := s.root.Load()
	entries, err := fs.ReadDir(root.FS(), s.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var failed error
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().Before(olderThan) {
			continue // gone since, not a draft, or perhaps in use
		}
		if err := root.Remove(path.Join(s.folder, entry.Name())); err == nil {
			removed++
		} else if failed == nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
	}
	return removed, failed
}
