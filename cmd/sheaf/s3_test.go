//go:build unix

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"
)

// s3Flags starts an S3 server with a bucket, and returns the flags that name it.
func s3Flags(t *testing.T) (endpoint string, flags []string) {
	t.Helper()
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("sheaf"))
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	folder := t.TempDir()
	id, secret := filepath.Join(folder, "id"), filepath.Join(folder, "secret")
	require.NoError(t, os.WriteFile(id, []byte("AKIATEST"), 0o600))
	require.NoError(t, os.WriteFile(secret, []byte("sehr-geheim-und-lang"), 0o600))
	return server.URL, []string{"--files", "s3://sheaf/files", "--s3-endpoint", server.URL, "--s3-path-style",
		"--s3-access-key-file", id, "--s3-secret-key-file", secret}
}

// A whole process keeps its files in a bucket. A bucket that was emptied is reported as a lost store.
func TestFilesInABucket(t *testing.T) {
	t.Parallel()
	source := httptest.NewServer(demoSource(30))
	defer source.Close()
	_, flags := s3Flags(t)
	args := append([]string{"--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir()}, flags...)
	p := startServe(t, args...)
	key := wireSubmit(t, p.http, source.URL, "", 20)
	status, body := downloaded(t, p.http, wireWait(t, p.http, key).DownURL)
	require.Equal(t, http.StatusOK, status)
	requireDemo(t, workbookIn(t, body), 30)
	p.drain(t)
	require.NotContains(t, p.err.String(), "geheim")

	_, another := s3Flags(t)
	p = startServe(t, append(args[:len(args)-len(flags)], another...)...)
	require.Eventually(t, func() bool { return lostDetailOf(t, p.http, key).Reason != "" }, 10*time.Second, 5*time.Millisecond)
	p.drain(t)
}

// Callers do not reach the S3 server through their exports, although the process does.
func TestTenantsDoNotReachTheBucket(t *testing.T) {
	t.Parallel()
	endpoint, flags := s3Flags(t)
	p := startServe(t, append([]string{"--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir(),
		"--allow-cidr", "none"}, flags...)...)
	key := wireSubmit(t, p.http, endpoint+"/sheaf?list-type=2", "", 20)
	require.Eventually(t, func() bool { return lostDetailOf(t, p.http, key).Status == 3 }, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, p.err.String(), "the source's address may not be asked")
	p.drain(t)
}

// A start that cannot use the bucket ends with advice, and the doctor finds the same.
func TestStartWithoutABucket(t *testing.T) {
	t.Parallel()
	_, flags := s3Flags(t)
	flags[1] = "s3://another/files"
	for _, command := range []string{"serve", "doctor"} {
		code, out, errs := sheaf(t, t.Context(), "", append([]string{command, "--http", "127.0.0.1:0", "--nats-listen", "none",
			"--data", t.TempDir()}, flags...)...)
		require.NotZero(t, code)
		require.Contains(t, out+errs, "the bucket another is not at http://")
		require.NotContains(t, out+errs, "geheim")
	}
	flags[1] = "s3://sheaf/files"
	code, out, errs := sheaf(t, t.Context(), "", append([]string{"doctor", "--http", "127.0.0.1:0", "--nats-listen", "none",
		"--data", t.TempDir()}, flags...)...)
	require.Zero(t, code, out+errs)
	require.True(t, strings.Contains(out, "s3://sheaf/files can be listed, written, read and deleted from"), out)
}
