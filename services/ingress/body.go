package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sheaf/services/ingress/request"
)

// bodyReadWait bounds the time to send a body.
const bodyReadWait = time.Minute

// readBody reads a body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	src, err := openBody(w, r, limit)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(src)
	return body, bodyError(err)
}

// readLargeBody reads a body of at most limit bytes. A large one waits for memory, which release returns.
func (s *Service) readLargeBody(w http.ResponseWriter, r *http.Request, tenant string, limit int64) (body []byte, release func(), err error) {
	src, err := openBody(w, r, limit)
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	size, release := r.ContentLength, func() {}
	// A body without a length reserves memory as it grows.
	for _, step := range []int64{lightBody, min(mediumBody, limit), limit} {
		if size >= 0 || int64(b.Len()) >= limit {
			break
		}
		more, err := s.reserve(r.Context(), tenant, step)
		release()
		if err != nil {
			return nil, nil, err
		}
		release = more
		switch _, err := io.CopyN(&b, src, step-int64(b.Len())); {
		case errors.Is(err, io.EOF):
			return b.Bytes(), release, nil
		case err != nil:
			release()
			return nil, nil, bodyError(err)
		}
	}
	if size >= 0 {
		if release, err = s.reserve(r.Context(), tenant, size); err != nil {
			return nil, nil, err
		}
	}
	if r.ContentLength >= 0 {
		b.Grow(int(size) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(src); err != nil {
		release()
		return nil, nil, bodyError(err)
	}
	return b.Bytes(), release, nil
}

// openBody returns the body. Reading beyond limit fails. A slow sender loses the connection; net/http lifts
// the deadline at the body's end.
func openBody(w http.ResponseWriter, r *http.Request, limit int64) (src io.Reader, err error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, &apiError{
			Errcode: errcodeEncoding, Status: http.StatusUnsupportedMediaType, Field: "body",
			Msg: fmt.Sprintf("body: Content-Encoding %q is not supported; send it uncompressed", request.Cut(enc, 32)),
		}
	}
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	conn := http.NewResponseController(w) // a test's recorder has no deadlines
	_ = conn.SetReadDeadline(time.Now().Add(bodyReadWait))
	return http.MaxBytesReader(w, r.Body, limit), nil
}

// bodyError converts a read error of a body into the caller's answer.
func bodyError(err error) error {
	var tooMany *http.MaxBytesError
	if err == nil || errors.As(err, &tooMany) {
		return err
	}
	return request.Invalid("body", "could not be read to its end")
}
