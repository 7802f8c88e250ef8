package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events/failpoint"
)

// draftsFolder is inside the store's folder, so that both are on one file system and a draft becomes a file
// without being copied.
const draftsFolder = ".drafts"

// folderFiles stores files in a local folder. All access goes through os.Root, so that no name and no
// symbolic link leads outside it.
type folderFiles struct {
	folder string // absolute
	id     string // content of markerName
	made   bool   // by this open
	drafts *drafts

	marker atomic.Pointer[fs.FileInfo] // of markerName, as it was when it held id

	mu      sync.Mutex
	roots   []*os.Root          // all that were opened, the current one last
	durable map[string]*os.File // folders whose own names are durable, held open: see syncFolders
}

// maxDurable bounds the folders that are held open, one for each tenant.
const maxDurable = 256

func openFolderFiles(folder string) (*folderFiles, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	drafts, err := openDrafts(root, draftsFolder)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s := &folderFiles{folder: folder, drafts: drafts, roots: []*os.Root{root}, durable: map[string]*os.File{}}
	if err := s.mark(); err != nil {
		return nil, errors.Join(fmt.Errorf("open files: %s in %s: %w", markerName, folder,
			classify(err)), root.Close())
	}
	return s, nil
}

func (s *folderFiles) root() *os.Root { return s.drafts.root.Load() }

// readMark returns the random name of a folder.
func readMark(root *os.Root) (id string, made bool, err error) {
	data, err := root.ReadFile(markerName)
	if err != nil {
		return "", false, err
	}
	id, made = strings.CutSuffix(strings.TrimSpace(string(data)), newMark)
	return id, made, nil
}

// mark reads the folder's random name, or creates one.
func (s *folderFiles) mark() (err error) {
	s.id, s.made, err = readMark(s.root())
	if err == nil && s.id != "" || err != nil && !absent(err) {
		return err
	}
	// If several processes do this at once, one of the links succeeds.
	if err := s.writeMark(rand.Text()+newMark, err != nil); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.id, s.made, err = readMark(s.root())
	return err
}

// writeMark writes the marker atomically. With once, an existing marker stays.
func (s *folderFiles) writeMark(text string, once bool) (err error) {
	root, draft := s.root(), path.Join(draftsFolder, rand.Text())
	f, err := root.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = root.Remove(draft) }()
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if once {
		err = root.Link(draft, markerName)
	}
	if !once || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		err = root.Rename(draft, markerName)
	}
	if err != nil || runtime.GOOS == "windows" {
		return err
	}
	folder, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *folderFiles) Made() bool { return s.made }

func (s *folderFiles) Accept() error {
	if !s.made {
		return nil
	}
	if err := s.writeMark(s.id, false); err != nil {
		return fmt.Errorf("%s in %s: %w", markerName, s.folder, classify(err))
	}
	return nil
}

func (s *folderFiles) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	root := s.root()
	at, err := os.Stat(s.folder)
	if absent(err) {
		return fmt.Errorf("%w: the folder is gone", ErrNoStore)
	}
	if err != nil {
		return fmt.Errorf("checking the file store: %w", err)
	}
	is, err := root.Stat(".")
	if err != nil {
		return fmt.Errorf("checking the file store: %w", err)
	}
	if os.SameFile(at, is) {
		return s.marked(root)
	}
	// Another folder is at the path; it may be the store, mounted again.
	if root, err = os.OpenRoot(s.folder); err != nil {
		return fmt.Errorf("checking the file store: %w", err)
	}
	if err := s.marked(root); err != nil {
		return errors.Join(err, root.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots = append(s.roots, root)
	s.drafts.root.Store(root)
	return nil
}

// marked returns nil if root is the folder of this store.
func (s *folderFiles) marked(root *os.Root) error {
	is, err := root.Lstat(markerName)
	if was := s.marker.Load(); err == nil && was != nil && unchanged(*was, is) {
		return nil
	}
	id, _, readErr := readMark(root)
	switch err := cmp.Or(err, readErr); {
	case absent(err):
		return fmt.Errorf("%w: %s is not in its folder", ErrNoStore, markerName)
	case err != nil:
		return fmt.Errorf("checking the file store: %w", err)
	case id != s.id:
		return fmt.Errorf("%w: %s in its folder belongs to another store", ErrNoStore, markerName)
	}
	s.marker.Store(&is)
	return nil
}

// unchanged reports whether two looks found the same file with the same content.
func unchanged(was, is fs.FileInfo) bool {
	return os.SameFile(was, is) && was.ModTime().Equal(is.ModTime()) && was.Size() == is.Size()
}

func (s *folderFiles) Create(ctx context.Context) (*Draft, error) {
	if err := s.Check(ctx); err != nil {
		return nil, fmt.Errorf("create draft: %w", err)
	}
	return s.drafts.create(ctx)
}

func (s *folderFiles) Commit(ctx context.Context, d *Draft, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.drafts.owns(d); err != nil {
		return fmt.Errorf("commit %s: %w", name, err)
	}
	err := s.Check(ctx)
	if err == nil {
		err = s.commit(ctx, d, name)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", name, classify(err))
	}
	d.Discard()
	return nil
}

func (s *folderFiles) commit(ctx context.Context, d *Draft, name string) error {
	if err := d.file.Sync(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.place(d, name); errors.Is(err, fs.ErrExist) {
		if err := s.equal(ctx, d, name); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	// Needed for equal content too: the Commit that placed it may have stopped before this.
	if err := s.syncFolders(path.Dir(name)); err != nil {
		return err
	}
	return nil
}

// place gives the draft its final name, or fails with fs.ErrExist.
func (s *folderFiles) place(d *Draft, name string) error {
	root := d.root
	for try := 1; ; try++ {
		made, err := link(root, d.name, name)
		if made && (err == nil || errors.Is(err, fs.ErrExist)) {
			return err
		}
		if _, lost := root.Stat(d.name); lost != nil {
			return fmt.Errorf("draft: %w", lost)
		}
		if raced := errors.Is(err, fs.ErrNotExist) || !made &&
			errors.Is(err, fs.ErrExist); raced && try < 100 {
			continue // a Delete removed the folder while it was empty
		}
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			// No hard links here (FAT, some network folders). Two processes could interfere between the two
			// calls. The event log resolves that: names contain the run, and only one event names a run's
			// file.
			if _, err := root.Stat(name); err == nil {
				return fs.ErrExist
			}
			return root.Rename(d.name, name)
		}
		return err
	}
}

// link gives a draft a second name. made reports whether the folder of that name exists. It is a hard link,
// because a rename would replace a file that another process has just placed.
func link(root *os.Root, draft, name string) (made bool, err error) {
	err = root.Link(draft, name)
	if errors.Is(err, fs.ErrNotExist) { // mostly the folder: only the first file of a tenant makes it
		if err = root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return false, err
		}
		err = root.Link(draft, name)
	}
	failpoint.Hit("file.link.after")
	return true, err
}

// equal returns nil if the file has the draft's content, ErrFileExists if not.
func (s *folderFiles) equal(ctx context.Context, d *Draft, name string) error {
	file, err := s.root().Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	placed, err := file.Stat()
	if err != nil {
		return err
	}
	if os.SameFile(info, placed) {
		return nil // an earlier Commit of this draft has linked it
	}
	if info.Size() != placed.Size() {
		return ErrFileExists
	}
	draft := io.NewSectionReader(d.file, 0, info.Size())
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(draft, a)
		if n == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if _, err := io.ReadFull(file, b[:n]); err != nil {
			return err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return ErrFileExists
		}
	}
}

// syncFolders makes a name durable, with the names of all folders up to the root, which may be new too. Once
// a folder's name is durable it need not be synced again, as long as the folder is the same. A Delete may
// have removed it and a Commit created another; holding the first one open distinguishes the two.
func (s *folderFiles) syncFolders(folder string) error {
	if runtime.GOOS == "windows" {
		return nil // a folder cannot be synced on this system
	}
	if held := s.heldFolder(folder); held != nil {
		if err := held.Sync(); !errors.Is(err, os.ErrClosed) { // closed: replaced by another Commit
			return err
		}
	}
	f, err := s.root().Open(folder)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	for above := folder; above != "."; {
		above = path.Dir(above)
		g, err := s.root().Open(above)
		if err == nil {
			err = errors.Join(g.Sync(), g.Close())
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.durable[folder]; ok {
		_ = old.Close()
	} else if len(s.durable) >= maxDurable {
		return f.Close()
	}
	s.durable[folder] = f
	return nil
}

// heldFolder returns the folder of that name if it is the one whose name is durable, nil if not.
func (s *folderFiles) heldFolder(folder string) *os.File {
	s.mu.Lock()
	held := s.durable[folder]
	s.mu.Unlock()
	if held == nil {
		return nil
	}
	was, err := held.Stat()
	if err != nil {
		return nil
	}
	is, err := s.root().Stat(folder)
	if err != nil || !os.SameFile(was, is) {
		return nil
	}
	return held
}

func (s *folderFiles) Open(ctx context.Context, name string) (File, error) {
	if err := checkFileName(name); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	// A symbolic link to another file of the folder, or a pipe, on which opening would block, is not a file
	// of the store.
	root := s.root()
	info, err := root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNoFile
	}
	var file *os.File
	if err == nil {
		file, err = root.Open(name)
	}
	if err = classify(err); errors.Is(err, ErrNoFile) {
		if gone := s.marked(root); gone != nil {
			err = gone
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if info, err = file.Stat(); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		_ = file.Close()
		return nil, fmt.Errorf("open %s: replaced meanwhile by something that is no file", name)
	}
	return &folderFile{File: file, info: info}, nil
}

func (s *folderFiles) Delete(ctx context.Context, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	info, err := s.root().Lstat(name)
	if absent(err) || (err == nil && info.IsDir()) {
		return nil
	}
	if err := s.root().Remove(name); err != nil && !absent(err) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	failpoint.Hit("file.delete.after")
	// Remove empty parent folders too, up to the first that is not empty.
	for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
		if s.root().Remove(folder) != nil {
			break
		}
	}
	return nil
}

func (s *folderFiles) List(ctx context.Context) (names []string, err error) {
	err = fs.WalkDir(s.root().FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && !absent(err): // a folder may go with its last file
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return nil
		case name == draftsFolder:
			return fs.SkipDir
		case entry.Type().IsRegular() && checkFileName(name) == nil:
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list files: %w", classify(err))
	}
	slices.Sort(names) // the walk sorts by element
	return names, nil
}

func (s *folderFiles) Sweep(ctx context.Context, keep func(name string) bool,
	olderThan time.Time) (removed int, err error) {
	removed, failed := s.drafts.sweep(ctx, olderThan)
	walk := func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if failed == nil && !errors.Is(err, fs.ErrNotExist) {
				failed = err
			}
			return nil
		}
		if entry.IsDir() {
			if name == draftsFolder {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || checkFileName(name) != nil {
			return nil // not a file of the store
		}
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(olderThan) || keep(name) {
			return nil
		}
		if err := s.Delete(ctx, name); err == nil {
			removed++
		} else if failed == nil {
			failed = err
		}
		return nil
	}
	if err := fs.WalkDir(s.root().FS(), ".", walk); err != nil && failed == nil {
		failed = err
	}
	if failed != nil {
		return removed, fmt.Errorf("sweep files: %w", failed)
	}
	return removed, nil
}

func (s *folderFiles) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for folder, f := range s.durable {
		_ = f.Close()
		delete(s.durable, folder)
	}
	var err error
	for _, root := range s.roots {
		err = errors.Join(err, root.Close())
	}
	return err
}

type folderFile struct {
	*os.File
	info fs.FileInfo
}

func (f *folderFile) Size() int64        { return f.info.Size() }
func (f *folderFile) ModTime() time.Time { return f.info.ModTime() }
