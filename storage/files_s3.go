package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// s3Wait bounds a request without a file's content, with its repetitions.
	s3Wait = 30 * time.Second
	// s3Attempts is how often a request is sent that meets a broken connection, 503 SlowDown or another error
	// that passes. The pauses grow to a second, some 4 s in all.
	s3Attempts = 8
	s3Pause    = 100 * time.Millisecond // before the second attempt
	// s3Page is the most entries of one answer to a listing.
	s3Page = 1000
	// maxS3Link is how long a link of [S3Files.Link] works at most: it cannot be revoked.
	maxS3Link = time.Hour

	s3Mark = "the files of Sheaf"
	// s3Sum is the key of an object's user metadata that holds the SHA-256 of its bytes, in hexadecimal.
	s3Sum = "Sha256"
)

// S3Files stores files as objects PREFIX/NAME of a bucket of an S3 server. It uses no more than what AWS,
// MinIO, versitygw, OSS, COS and OBS share: no trailing checksums, no conditions, no deletes in bulk.
//
// An object becomes visible at once, when its last byte is stored. Commit then asks for its size and checksum,
// and reads it back. No condition protects a name: Commit looks whether it exists. When commits of one name
// race, each uploads the whole object and the last one stays. Sheaf's names contain the run, whose file has
// the same bytes in each attempt.
//
// The object PREFIX/.sheaf-store distinguishes the store from another or an emptied bucket.
type S3Files struct {
	drafts         *drafts
	root           *os.Root
	client         minio.Core
	sender         minio.Core // repeats nothing, see repeat
	closeIdle      func()     // connections
	endpoint       string
	bucket, prefix string // the prefix is "" or ends with a slash
	made           bool   // by this open, or not accepted yet
}

func openS3Files(ctx context.Context, url, dataDir string, cfg S3) (_ *S3Files, err error) {
	s, err := newS3Files(url, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.closeIdle()
			err = fmt.Errorf("open files %s: %w", url, err)
		}
	}()
	if err := s.mark(ctx); err != nil {
		return nil, s.advise(err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	if s.root, err = os.OpenRoot(dataDir); err != nil {
		return nil, err
	}
	if s.drafts, err = openDrafts(s.root, "drafts"); err != nil {
		return nil, errors.Join(err, s.root.Close())
	}
	return s, nil
}

// mark reads the store's marker, or creates it. It also lists, so that a missing permission is found at the
// start and not by the first search for orphans.
func (s *S3Files) mark(ctx context.Context) error {
	text, err := s.get(ctx, markerName)
	if errors.Is(err, ErrNoFile) {
		text = s3Mark + newMark + "\n"
		err = s.put(ctx, markerName, []byte(text))
	}
	if err != nil {
		return err
	}
	s.made = strings.HasSuffix(strings.TrimSpace(text), newMark)
	return s.list(ctx)
}

// list asks for one object.
func (s *S3Files) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	for entry := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix,
		Recursive: true, MaxKeys: 1}) {
		return classifyS3(entry.Err)
	}
	return nil
}

// ProbeS3 lists a store, and writes, reads and removes an object there. It returns an error with advice if one
// of that fails. The store itself is not made.
func ProbeS3(ctx context.Context, url string, cfg S3) error {
	s, err := newS3Files(url, cfg)
	if err != nil {
		return err
	}
	defer s.closeIdle()
	name := ".sheaf-probe-" + strings.ToLower(rand.Text())
	err = s.put(ctx, name, []byte(name))
	if err == nil {
		_, err = s.get(ctx, name)
	}
	if err == nil {
		err = s.list(ctx)
	}
	if err == nil {
		err = s.remove(ctx, name)
	}
	return s.advise(err)
}

// get returns the content of a small object.
func (s *S3Files) get(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	body, _, _, err := s.client.GetObject(ctx, s.bucket, s.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return "", classifyS3(err)
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(io.LimitReader(body, 1<<20))
	return string(data), err
}

// put stores a small object and replaces an earlier one.
func (s *S3Files) put(ctx context.Context, name string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	sum := sha256.Sum256(data)
	return classifyS3(s.repeat(ctx, func() error {
		_, err := s.sender.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(data), int64(len(data)), "",
			hex.EncodeToString(sum[:]), minio.PutObjectOptions{DisableContentSha256: true})
		return err
	}))
}

func (s *S3Files) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	err := classifyS3(s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNoFile) {
		return nil
	}
	return err
}

func (s *S3Files) Made() bool { return s.made }

func (s *S3Files) Accept() error {
	if !s.made {
		return nil
	}
	return s.put(context.Background(), markerName, []byte(s3Mark+"\n"))
}

func (s *S3Files) Check(ctx context.Context) error {
	_, err := s.get(ctx, markerName)
	switch {
	case errors.Is(err, ErrNoFile):
		return fmt.Errorf("%w: %s is not in the bucket %s", ErrNoStore, s.prefix+markerName, s.bucket)
	case err != nil && !errors.Is(err, ErrNoStore):
		return fmt.Errorf("checking the file store: %w", err)
	}
	return err
}

// Create removes the draft's name at once, as for a bucket of NATS.
func (s *S3Files) Create(ctx context.Context) (*Draft, error) { return s.drafts.createUnnamed(ctx) }

func (s *S3Files) Commit(ctx context.Context, d *Draft, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.drafts.owns(d); err != nil {
		return fmt.Errorf("commit %s: %w", name, err)
	}
	if err := s.commit(ctx, d, name); err != nil {
		return fmt.Errorf("commit %s: %w", name, classifyS3(err))
	}
	d.Discard()
	return nil
}

func (s *S3Files) commit(ctx context.Context, d *Draft, name string) error {
	u, err := planUpload(ctx, d.file)
	if err != nil {
		return err
	}
	placed, err := s.meta(ctx, name)
	if errors.Is(err, ErrNoFile) {
		if failed := s.upload(ctx, d.file, name, u); failed != nil {
			// The answer may have been lost after the object was stored.
			if placed, err = s.meta(ctx, name); err != nil || placed.sum != u.sum {
				return failed
			}
		} else {
			placed, err = s.meta(ctx, name)
		}
	}
	if err != nil {
		return err
	}
	for range maxReplaced {
		if err = s.verify(ctx, name, placed, u); !errors.Is(err, errReplaced) {
			return err
		}
		if placed, err = s.meta(ctx, name); err != nil {
			return err
		}
	}
	return err
}

// errReplaced means that another commit replaced an object while it was read.
var errReplaced = errors.New("replaced while it was read")

// maxReplaced is how often other commits may replace an object before its own commit gives up. Each is a run of the
// same export, so more than a few is no race.
const maxReplaced = 10

// verify returns nil if the object has the planned content, ErrFileExists if not. It removes an object that
// differs from its own checksum.
func (s *S3Files) verify(ctx context.Context, name string, placed s3Meta, u *upload) error {
	if placed.size != u.size || placed.sum != "" && placed.sum != u.sum {
		return ErrFileExists
	}
	file := s.file(ctx, name, placed)
	defer func() { _ = file.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, file}); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	switch got := hex.EncodeToString(h.Sum(nil)); {
	case got == u.sum:
		return nil
	case placed.sum == "":
		return ErrFileExists
	default:
		return errors.Join(fmt.Errorf("read back: stored bytes have SHA-256 %s, want %s", got, u.sum),
			s.remove(ctx, name))
	}
}

// s3Meta is what the server says of an object.
type s3Meta struct {
	size    int64
	modTime time.Time
	etag    string
	sum     string // SHA-256 in hexadecimal; "" if Sheaf did not store the object
}

// meta returns ErrNoFile only if the store exists.
func (s *S3Files) meta(ctx context.Context, name string) (s3Meta, error) {
	within, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	info, err := s.client.StatObject(within, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	if err = classifyS3(err); errors.Is(err, ErrNoFile) {
		// An answer to HEAD has no body that distinguishes a missing object from a missing bucket.
		if gone := s.Check(ctx); gone != nil {
			err = gone
		}
	}
	if err != nil {
		return s3Meta{}, err
	}
	return s3Meta{size: info.Size, modTime: info.LastModified, etag: info.ETag, sum: info.UserMetadata[s3Sum]}, nil
}

func (s *S3Files) Open(ctx context.Context, name string) (File, error) {
	if err := checkFileName(name); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	placed, err := s.meta(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return s.file(ctx, name, placed), nil
}

func (s *S3Files) Delete(ctx context.Context, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := s.remove(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// Link returns a URL of the server at which anyone can read the file, whole or in ranges, until the given time
// and for at most an hour. The answers have these headers.
func (s *S3Files) Link(ctx context.Context, name string, until time.Time, mediaType,
	disposition string) (string, error) {
	if err := checkFileName(name); err != nil {
		return "", fmt.Errorf("link: %w", err)
	}
	left := min(time.Until(until), maxS3Link).Truncate(time.Second)
	u, err := s.client.PresignedGetObject(ctx, s.bucket, s.prefix+name, left, url.Values{
		"response-content-type": {mediaType}, "response-content-disposition": {disposition},
		"response-cache-control": {"private"},
	})
	if err != nil {
		return "", fmt.Errorf("link to %s: %w", name, err)
	}
	return u.String(), nil
}

func (s *S3Files) List(ctx context.Context) (names []string, err error) {
	for entry := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix,
		Recursive: true, MaxKeys: s3Page}) {
		if entry.Err != nil {
			return nil, fmt.Errorf("list files: %w", classifyS3(entry.Err))
		}
		if name := strings.TrimPrefix(entry.Key, s.prefix); checkFileName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, ctx.Err()
}

func (s *S3Files) Sweep(ctx context.Context, keep func(name string) bool,
	olderThan time.Time) (removed int, err error) {
	removed, failed := s.drafts.sweep(ctx, olderThan)
	for _, sweep := range []func() (int, error){
		func() (int, error) { return s.sweepObjects(ctx, keep, olderThan) },
		func() (int, error) { return s.sweepUploads(ctx, olderThan) },
	} {
		n, err := sweep()
		removed += n
		if failed == nil {
			failed = err
		}
	}
	if failed != nil {
		return removed, fmt.Errorf("sweep files: %w", failed)
	}
	return removed, nil
}

func (s *S3Files) sweepObjects(ctx context.Context, keep func(name string) bool,
	olderThan time.Time) (removed int, failed error) {
	for entry := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix,
		Recursive: true, MaxKeys: s3Page}) {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if entry.Err != nil {
			return removed, errors.Join(failed, classifyS3(entry.Err))
		}
		name := strings.TrimPrefix(entry.Key, s.prefix)
		if checkFileName(name) != nil || !entry.LastModified.Before(olderThan) || keep(name) {
			continue
		}
		if err := s.remove(ctx, name); err == nil {
			removed++
		} else if failed == nil {
			failed = err
		}
	}
	return removed, failed
}

// sweepUploads aborts uploads in parts that began before olderThan. Their parts cost space and are in no
// listing.
func (s *S3Files) sweepUploads(ctx context.Context, olderThan time.Time) (removed int, failed error) {
	for key, id := "", ""; ; {
		page, err := s.uploads(ctx, key, id)
		if err != nil {
			return removed, errors.Join(failed, classifyS3(err))
		}
		for _, u := range page.Uploads {
			if checkFileName(strings.TrimPrefix(u.Key, s.prefix)) != nil || !u.Initiated.Before(olderThan) {
				continue
			}
			if err := s.abort(ctx, u.Key, u.UploadID); err == nil {
				removed++
			} else if failed == nil {
				failed = err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return removed, failed
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// uploads returns a page of the unfinished uploads after a key and an upload.
func (s *S3Files) uploads(ctx context.Context, key, id string) (minio.ListMultipartUploadsResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	page, err := s.client.ListMultipartUploads(ctx, s.bucket, s.prefix, key, id, "", s3Page)
	if minio.ToErrorResponse(err).Code == minio.NoSuchUpload { // some servers say so of an empty list
		err = nil
	}
	return page, err
}

func (s *S3Files) abort(ctx context.Context, key, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s3Wait)
	defer cancel()
	err := s.client.AbortMultipartUpload(ctx, s.bucket, key, id)
	if minio.ToErrorResponse(err).Code == minio.NoSuchUpload {
		return nil
	}
	return classifyS3(err)
}

func (s *S3Files) Close() error {
	s.closeIdle()
	return s.root.Close()
}
