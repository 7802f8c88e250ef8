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

// ErrNoFile means that the store exists but has no file of that name: it was never committed, or was deleted.
// All drivers read this from a source that cannot lag: the file system, the leader of the bucket's stream, or
// an S3 server, whose reads follow its writes.
var ErrNoFile = errors.New("no such file")

// ErrFileExists means that a file with other content has this name. A name is written once; the existing file
// stays.
var ErrFileExists = errors.New("file exists with other content")

// ErrFileName means that a name does not consist of id elements (see [Files]).
var ErrFileName = errors.New("not a file name of this store")

// ErrNoSpace means that the disk, a quota or a JetStream limit is full. No part of the file is visible.
// Commit can be retried once there is space.
var ErrNoSpace = errors.New("no space left for files")

// Files stores finished workbooks.
//
// A name consists of ids: elements of [a-z0-9_-], joined by "/", the last one with an optional extension, at
// most 200 bytes in all, as in "default/5ad5f7b92a816b76e70a21e4154c2485/17.zip". Other names are refused
// with [ErrFileName], so text from callers, such as a title, never becomes a path.
//
// A name is written once. Readers never see a partial file. Once Commit has returned nil the file survives a
// power failure, provided that the disk (or the cluster's sync setting) really syncs.
//
// All methods are safe for concurrent use, and several processes may share one folder or bucket.
type Files interface {
	// Create creates a draft. The caller must call [Draft.Discard]; after a successful Commit that does
	// nothing.
	Create(ctx context.Context) (*Draft, error)

	// Commit makes the draft durable and visible under name, and takes ownership of it. If equal content
	// exists already, Commit succeeds; if other content does, it returns [ErrFileExists]. Of commits of other
	// content that race, one succeeds; on S3 several may, and the last stays. After an error the
	// draft is unchanged and Commit can be retried, even if the outcome is unknown (a timeout).
	Commit(ctx context.Context, d *Draft, name string) error

	// Open returns [ErrNoFile] if name does not exist, and [ErrNoStore] if the store does not. ctx also
	// bounds reads of the file. The file works with http.ServeContent and ranges.
	Open(ctx context.Context, name string) (File, error)

	// Delete removes a file. Deleting a missing file is not an error. Readers that have it open may get
	// [ErrNoFile].
	Delete(ctx context.Context, name string) error

	// Sweep removes leftovers of crashes: drafts and half-stored files last written before olderThan, and
	// files committed before olderThan for which keep is false. It leaves everything that is not provably an
	// orphan. olderThan must be longer ago than the longest time between two writes to a draft, and between a
	// Commit and the event that names the file; a day is plenty. If some removals fail, Sweep tries the rest
	// and returns the first error.
	Sweep(ctx context.Context, keep func(name string) bool, olderThan time.Time) (removed int, err error)

	// List returns the names of all files, sorted. It reads the whole store, so it suits small stores such as
	// that of [OpenSnapshotFiles].
	List(ctx context.Context) ([]string, error)

	// Check returns nil if the store exists, and [ErrNoStore] if it does not. After any other error that is
	// unknown. A folder that reappears under its path is used again.
	Check(ctx context.Context) error

	// Made reports that the store did not exist when it was opened: it is new, or its content is lost. After
	// Accept, later opens report false.
	Made() bool
	Accept() error

	// Close releases the store's handles. Open files and drafts stay usable.
	Close() error
}

// File is an open finished file. It is for one goroutine.
type File interface {
	io.ReadSeekCloser
	Size() int64        // in bytes
	ModTime() time.Time // when it was finished
}

// FilesConfig is what the stores of [OpenFiles] need besides their URL.
type FilesConfig struct {
	DataDir   string              // drafts of a bucket are in its folder drafts
	JetStream jetstream.JetStream // of nats://
	Replicas  int                 // of a new bucket of nats://; an existing one keeps its own
	S3        S3                  // of s3://
}

// seekTo returns the new position in a file of size bytes that is at position at.
func seekTo(offset int64, whence int, at, size int64, closed bool) (int64, error) {
	switch {
	case closed:
		return 0, os.ErrClosed
	case whence == io.SeekCurrent:
		offset += at
	case whence == io.SeekEnd:
		offset += size
	case whence != io.SeekStart:
		return 0, fmt.Errorf("seek: unknown whence %d", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d: before the start", offset)
	}
	return offset, nil
}

// OpenFiles opens the store that url names, and creates it if necessary:
//
//   - file://PATH: a folder, absolute (file:///var/lib/sheaf/files) or relative to the working directory.
//     PATH is used literally, without %-decoding.
//   - nats://BUCKET: a bucket of the JetStream Object Store, shared by every process of a cluster.
//   - s3://BUCKET/PREFIX: a bucket of an S3 server, shared by every process of a cluster. The bucket must exist.
func OpenFiles(ctx context.Context, url string, cfg FilesConfig) (Files, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case ok && scheme == "file" && rest != "":
		return openFolderFiles(rest)
	case ok && scheme == "nats" && rest != "":
		if cfg.JetStream == nil {
			return nil, fmt.Errorf("open files %q: no NATS connection", url)
		}
		return openNATSFiles(ctx, rest, cfg.DataDir, cfg.JetStream, cfg.Replicas)
	case ok && scheme == "s3":
		return openS3Files(ctx, url, cfg.DataDir, cfg.S3)
	}
	return nil, fmt.Errorf("open files %q: want file://PATH (a folder), nats://BUCKET (a JetStream Object Store) "+
		"or s3://BUCKET/PREFIX", url)
}

// OpenSnapshotFiles opens the store for snapshots of the projection that belongs to a file store: the folder
// or prefix "projection" in it, or a bucket of its own, so that List reads only snapshots.
func OpenSnapshotFiles(ctx context.Context, url string, cfg FilesConfig) (Files, error) {
	separator := "/"
	if strings.HasPrefix(url, "nats://") {
		separator = "-"
	}
	return OpenFiles(ctx, strings.TrimSuffix(url, "/")+separator+"projection", cfg)
}

// IsNoSpace reports whether err is [ErrNoSpace], or the bare error of writing to a draft on a full disk or
// quota.
func IsNoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// classify wraps errors of the operating system in their sentinel errors.
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

// Draft is an unfinished file: local, seekable, writable, and invisible to readers until Commit. It is for
// one goroutine.
type Draft struct {
	file *os.File
	root *os.Root // contains name
	name string
	in   *drafts
	done bool
}

// File returns the draft's file, open for reading and writing.
func (d *Draft) File() *os.File { return d.file }

// Discard deletes the draft. After Commit, or a second time, it does nothing.
func (d *Draft) Discard() {
	if d.done {
		return
	}
	d.done = true
	_ = d.file.Close()
	_ = d.root.Remove(d.name) // Sweep removes it if this fails
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
	if errors.Is(err, fs.ErrNotExist) { // the folder of drafts was removed
		if err = root.MkdirAll(s.folder, 0o700); err == nil {
			file, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create draft: %w", classify(err))
	}
	return &Draft{file: file, root: root, name: name, in: s}, nil
}

// createUnnamed removes the draft's name at once, so that a process that is killed leaves nothing: the keeper
// that would sweep it may run on another machine. Where an open file cannot be removed (Windows), sweep finds
// it.
func (s *drafts) createUnnamed(ctx context.Context) (*Draft, error) {
	d, err := s.create(ctx)
	if err == nil {
		_ = d.root.Remove(d.name)
	}
	return d, err
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
			continue // gone, not a draft, or possibly in use
		}
		if err := root.Remove(path.Join(s.folder, entry.Name())); err == nil {
			removed++
		} else if failed == nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
	}
	return removed, failed
}
