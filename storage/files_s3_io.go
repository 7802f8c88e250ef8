package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

const (
	// s3Part is the size of a part, unless the file has more than maxS3Parts of them. Smaller files go up in one
	// request.
	s3Part     = 16 << 20
	maxS3Parts = 10_000 // of AWS
	// s3Parts is how many parts of one file are sent at once. They are read from the draft as they are sent, so
	// they need no memory.
	s3Parts = 4
	// s3PartWait bounds the upload of one part, with its repetitions: 56 KiB a second for one of 16 MiB.
	s3PartWait = 5 * time.Minute
	// s3CompleteWait bounds the assembly of the parts, for which some servers copy them.
	s3CompleteWait = 10 * time.Minute
	// s3ReadWait is how long a download may not advance before it is asked for again.
	s3ReadWait = 30 * time.Second
	// s3Reads is how often a download is continued that broke without a further byte.
	s3Reads = 4
)

// upload is a file cut into parts, with the checksums that the requests sign. They are known before a request
// begins, so no request needs aws-chunked or a trailer.
type upload struct {
	size, part int64
	sum        string   // SHA-256 of the file
	sums       []string // of each part
}

func planUpload(ctx context.Context, file *os.File) (*upload, error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	u := &upload{size: stat.Size()}
	u.part = max(s3Part, (u.size+maxS3Parts-1)/maxS3Parts)
	whole := sha256.New()
	for at := int64(0); at == 0 || at < u.size; at += u.part {
		part := sha256.New()
		if _, err := io.Copy(io.MultiWriter(whole, part), contextReader{ctx, u.section(file, at)}); err != nil {
			return nil, fmt.Errorf("read draft: %w", err)
		}
		u.sums = append(u.sums, hex.EncodeToString(part.Sum(nil)))
	}
	u.sum = hex.EncodeToString(whole.Sum(nil))
	return u, nil
}

func (u *upload) section(file *os.File, at int64) *io.SectionReader {
	return io.NewSectionReader(file, at, min(u.part, u.size-at))
}

// upload stores the file as an object, with its checksum as metadata.
func (s *S3Files) upload(ctx context.Context, file *os.File, name string, u *upload) error {
	opts := minio.PutObjectOptions{UserMetadata: map[string]string{s3Sum: u.sum}, DisableContentSha256: true}
	if len(u.sums) > 1 {
		return s.uploadParts(ctx, file, s.prefix+name, u, opts)
	}
	ctx, cancel := context.WithTimeout(ctx, s3PartWait)
	defer cancel()
	return s.repeat(ctx, func() error {
		_, err := s.sender.PutObject(ctx, s.bucket, s.prefix+name, u.section(file, 0), u.size, "", u.sum, opts)
		return err
	})
}

func (s *S3Files) uploadParts(ctx context.Context, file *os.File, key string, u *upload,
	opts minio.PutObjectOptions) error {
	begin, cancel := context.WithTimeout(ctx, s3Wait)
	id, err := s.client.NewMultipartUpload(begin, s.bucket, key, opts)
	cancel()
	if err != nil {
		return err
	}
	parts := make([]minio.CompletePart, len(u.sums))
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(s3Parts)
	for i, sum := range u.sums {
		group.Go(func() error {
			if err := sending.Err(); err != nil {
				return err
			}
			within, cancel := context.WithTimeout(sending, s3PartWait)
			defer cancel()
			return s.repeat(within, func() error {
				section := u.section(file, int64(i)*u.part)
				part, err := s.sender.PutObjectPart(within, s.bucket, key, id, i+1, section, section.Size(),
					minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
				parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: part.ETag}
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		// Sweep finds the upload if this fails.
		_ = s.abort(context.WithoutCancel(ctx), key, id)
		return err
	}
	// Without an answer the object may still appear, so the upload is not aborted then.
	ctx, cancel = context.WithTimeout(ctx, s3CompleteWait)
	defer cancel()
	_, err = s.client.CompleteMultipartUpload(ctx, s.bucket, key, id, parts, minio.PutObjectOptions{})
	return err
}

func (s *S3Files) file(ctx context.Context, name string, placed s3Meta) *s3File {
	return &s3File{ctx: ctx, store: s, name: name, s3Meta: placed}
}

// s3File reads with one request from each position that it is read at. A connection that breaks or stalls is
// replaced by one from the next byte.
type s3File struct {
	ctx   context.Context // passed to Open
	store *S3Files
	name  string
	s3Meta

	offset int64
	body   io.ReadCloser // at offset, or nil
	cancel context.CancelFunc
	closed bool
}

func (f *s3File) Size() int64        { return f.size }
func (f *s3File) ModTime() time.Time { return f.modTime }

func (f *s3File) Read(p []byte) (int, error) {
	switch {
	case f.closed:
		return 0, os.ErrClosed
	case len(p) == 0:
		return 0, nil
	case f.offset >= f.size:
		return 0, io.EOF
	}
	for broken := 0; ; {
		if f.body == nil {
			if err := f.open(); err != nil {
				return 0, err
			}
		}
		stalled := time.AfterFunc(s3ReadWait, f.cancel)
		n, err := f.body.Read(p[:min(int64(len(p)), f.size-f.offset)])
		stalled.Stop()
		f.offset += int64(n)
		if err != nil {
			f.drop()
		}
		if n > 0 {
			return n, nil
		}
		if ctxErr := f.ctx.Err(); ctxErr != nil {
			return 0, ctxErr
		}
		if broken++; err != nil && broken == s3Reads {
			return 0, fmt.Errorf("read at %d of %d bytes: %w", f.offset, f.size, unexpected(err))
		}
	}
}

// unexpected makes an end before the end an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open asks for the bytes from offset on.
func (f *s3File) open() error {
	opts := minio.GetObjectOptions{}
	if err := opts.SetMatchETag(f.etag); err != nil {
		return err
	}
	if f.offset > 0 {
		if err := opts.SetRange(f.offset, 0); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	late := time.AfterFunc(s3Wait, cancel)
	defer late.Stop()
	body, info, _, err := f.store.client.GetObject(ctx, f.store.bucket, f.store.prefix+f.name, opts)
	if err != nil {
		cancel()
		return f.unreadable(err)
	}
	if info.Size != f.size-f.offset {
		cancel()
		return errors.Join(fmt.Errorf("the server sends %d bytes from byte %d of %d", info.Size, f.offset, f.size),
			body.Close())
	}
	f.body, f.cancel = body, cancel
	return nil
}

// unreadable classifies the refusal of a read.
func (f *s3File) unreadable(err error) error {
	if ctxErr := f.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if err = classifyS3(err); errors.Is(err, ErrNoFile) {
		if gone := f.store.Check(f.ctx); gone != nil {
			return gone
		}
	}
	if minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
		return fmt.Errorf("%w: %w", errReplaced, err)
	}
	return err
}

func (f *s3File) drop() {
	if f.body != nil {
		_ = f.body.Close()
		f.cancel()
		f.body = nil
	}
}

func (f *s3File) Seek(offset int64, whence int) (int64, error) {
	at, err := seekTo(offset, whence, f.offset, f.size, f.closed)
	if err != nil {
		return 0, err
	}
	if at != f.offset {
		f.drop()
		f.offset = at
	}
	return at, nil
}

func (f *s3File) Close() error {
	if f.closed {
		return os.ErrClosed
	}
	f.drop()
	f.closed = true
	return nil
}
