package storage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

// discard is an S3 server that keeps no bytes: each file consists of zeros.
func discard(size int64, sum *atomic.Value) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("ETag", `"0"`)
		h.Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		switch query := r.URL.Query(); {
		case r.Method == http.MethodPost && query.Has("uploads"):
			sum.Store(r.Header.Get("X-Amz-Meta-Sha256"))
			_, _ = fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
		case r.Method == http.MethodPost:
			h.Set("X-Done", "1")
			_, _ = fmt.Fprint(w, "<CompleteMultipartUploadResult><Bucket>b</Bucket><ETag>0</ETag></CompleteMultipartUploadResult>")
		case !isFile(r) || r.Method == http.MethodPut:
			_, _ = fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
		case sum.Load() == nil:
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprint(w, "<Error><Code>NoSuchKey</Code></Error>")
		default:
			h.Set("X-Amz-Meta-Sha256", sum.Load().(string))
			h.Set("Content-Length", fmt.Sprint(size))
			if r.Method == http.MethodGet {
				_, _ = io.CopyN(w, zeros{}, size)
			}
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A file goes up, and is read back, without being in memory.
func TestS3NeedsLittleMemory(t *testing.T) {
	eventstest.LongRunning(t)
	const size, allowed = 2 << 30, 64 << 20
	var sum atomic.Value
	server := httptest.NewServer(discard(size, &sum))
	defer server.Close()
	keys := useS3(t, startS3Bare(t)).S3
	keys.Endpoint = server.URL
	files, err := OpenFiles(t.Context(), s3TestURL, FilesConfig{DataDir: t.TempDir(), S3: keys})
	require.NoError(t, err)
	defer func() { require.NoError(t, files.Close()) }()
	d, err := files.Create(t.Context())
	require.NoError(t, err)
	defer d.Discard()
	require.NoError(t, d.File().Truncate(size))

	runtime.GC()
	before, most := memory(), uint64(0)
	ctx, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			most = max(most, memory())
			<-tick.C
		}
	}()
	begun := time.Now()
	require.NoError(t, files.Commit(t.Context(), d, name))
	stop()
	<-watched
	require.Len(t, strings.TrimSpace(sum.Load().(string)), 64)
	t.Logf("%d MiB more for %d MiB, in %s", int64(most-before)>>20, size>>20, time.Since(begun).Round(time.Millisecond))
	require.Less(t, int64(most-before), int64(allowed))
}

// memory returns the bytes that this process has of the system, without those it has given back.
func memory() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys - m.HeapReleased
}
