package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// ErrNoStore means that the store itself is missing: its folder is gone, not mounted or replaced by another
// one, or its bucket was deleted. It proves nothing about a single file.
var ErrNoStore = errors.New("the file store is not there")

// DamagedError means that a file exists, but with other content than was committed.
type DamagedError struct {
	What  string // describes the damage without naming the store
	cause error
}

func (e *DamagedError) Error() string {
	if e.cause != nil {
		return "the file is damaged: " + e.What + ": " + e.cause.Error()
	}
	return "the file is damaged: " + e.What
}

func (e *DamagedError) Unwrap() error { return e.cause }

// IsLost reports whether err proves that a file is missing or damaged. A missing store, a refused permission,
// a read error or a time-out prove nothing.
func IsLost(err error) bool {
	var damaged *DamagedError
	return !errors.Is(err, ErrNoStore) && (errors.Is(err, ErrNoFile) || errors.As(err, &damaged))
}

// CheckedFile is a [File] that knows its committed checksum. When it is read from first to last byte it
// verifies the checksum. If that differs, the reader gets a [DamagedError] instead of the last bytes. Partial
// reads are not verified.
type CheckedFile struct {
	File
	sha256 string

	offset, hashed int64 // hashed is the number of bytes from the start that sum includes
	sum            hash.Hash
	err            atomic.Pointer[error]
}

// OpenChecked opens a file that was committed with this size and SHA-256, in hexadecimal. If the size
// differs, the error is a [DamagedError].
func OpenChecked(ctx context.Context, files Files, name string, size int64,
	sha256Hex string) (*CheckedFile, error) {
	file, err := files.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	if file.Size() != size {
		return nil, errors.Join(&DamagedError{What: fmt.Sprintf("it has %d bytes, it was completed with %d",
			file.Size(), size)}, file.Close())
	}
	return &CheckedFile{File: file, sha256: sha256Hex, sum: sha256.New()}, nil
}

func (f *CheckedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if f.offset == f.hashed && n > 0 {
		f.sum.Write(p[:n])
		f.hashed += int64(n)
	}
	f.offset += int64(n)
	switch {
	case errors.Is(err, io.EOF) && f.offset < f.Size():
		err = &DamagedError{What: fmt.Sprintf("it ends after %d bytes of %d", f.offset, f.Size())}
	case (err == nil || errors.Is(err, io.EOF)) && f.hashed == f.Size():
		if got := hex.EncodeToString(f.sum.Sum(nil)); got != f.sha256 {
			n, err = 0, &DamagedError{What: "its checksum differs"}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.err.Store(&err)
	}
	return n, err
}

func (f *CheckedFile) Seek(offset int64, whence int) (int64, error) {
	at, err := f.File.Seek(offset, whence)
	if err != nil {
		return at, err
	}
	if f.offset = at; at == 0 {
		f.sum.Reset()
		f.hashed = 0
	}
	return at, nil
}

// Err returns the last error of a Read other than io.EOF, or nil.
func (f *CheckedFile) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Verify reads the file to its end and seeks back to its start. It reads at most rate bytes a second; 0 means
// unlimited. [IsLost] reports whether its error proves damage.
func (f *CheckedFile) Verify(ctx context.Context, rate int64) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	start, read := time.Now(), int64(0)
	block := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(block)
		read += int64(n)
		if errors.Is(err, io.EOF) {
			_, err = f.Seek(0, io.SeekStart)
			return err
		}
		if err != nil {
			return err
		}
		if rate > 0 {
			due := start.Add(time.Duration(float64(read) / float64(rate) * float64(time.Second)))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
			}
		}
	}
}

// markerName is a file in a store's folder that holds the folder's random name. The name distinguishes the
// folder from others under the same path, above all from an empty mount point.
const markerName = ".sheaf-store"

// newMark follows the name until [Files.Accept].
const newMark = " new"

// StoreName returns a name for the store of url, so that the processes of a cluster can compare their stores.
// A folder's name is the random name in it: it may be mounted elsewhere, and two machines may have different
// folders under one path. made reports that the folder had no name yet: it is new, or its content is lost.
func StoreName(url string) (name string, made bool, err error) {
	folder, ok := strings.CutPrefix(url, "file://")
	if !ok {
		return url, false, nil
	}
	s, err := openFolderFiles(folder)
	if err != nil {
		return "", false, err
	}
	return "folder:" + s.id, s.made, s.Close()
}
