package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// lostDetail is the detail of an export whose file may be lost.
type lostDetail struct {
	Status  int    `json:"status"`
	DownURL string `json:"down_url"`
	Reason  string `json:"reason"`
	Files   []struct {
		SHA256 string `json:"sha256"`
	} `json:"files"`
}

func lostDetailOf(t testing.TB, server, key string) (d lostDetail) {
	t.Helper()
	wireCall(t, http.MethodGet, server+"/v1/export/detail?key="+key, "", &d)
	return d
}

// downloaded is the response to a link, requested from the server at base.
func downloaded(t testing.TB, base, link string) (status int, body []byte) {
	t.Helper()
	res, err := http.Get(base + link[strings.Index(link, "/v1/down/"):])
	require.NoError(t, err)
	defer res.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, body
}

// serveOn starts a Sheaf on a data folder. Its secret key is in the folder.
func serveOn(t testing.TB, data string) *process {
	t.Helper()
	return startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", data)
}

// storedFile is the one finished file of a data folder.
func storedFile(t testing.TB, data string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(data, "files", "default", "*.zip"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// A start without finished files lists the lost files and then serves. Their exports expire with a reason,
// and can be made again. The same holds for a data folder that was restored from a backup.
func TestStartWithoutFinishedFiles(t *testing.T) {
	t.Parallel()
	source := httptest.NewServer(demoSource(30))
	t.Cleanup(source.Close)
	whole := filepath.Join(t.TempDir(), "whole")
	p := serveOn(t, whole)
	key := wireSubmit(t, p.http, source.URL, "", 20)
	link := wireWait(t, p.http, key).DownURL
	p.drain(t)

	removeFiles := func(t *testing.T, data string) { require.NoError(t, os.RemoveAll(filepath.Join(data, "files"))) }
	for name, c := range map[string]struct {
		change func(t *testing.T, data string)
		reason string // why the export has expired; "" if it has not
		losses bool
	}{
		"whole backup": {func(*testing.T, string) {}, "", false},
		"no files":     {removeFiles, "the finished file is missing from the file store", true},
		"no files and no projection": {func(t *testing.T, data string) {
			removeFiles(t, data)
			require.NoError(t, os.Remove(filepath.Join(data, "tasks.db")))
		}, "the finished file is missing from the file store", false},
		"an empty folder of files": {func(t *testing.T, data string) {
			removeFiles(t, data)
			require.NoError(t, os.Mkdir(filepath.Join(data, "files"), 0o700))
		}, "the finished file is missing from the file store", true},
		"no marker": {func(t *testing.T, data string) {
			require.NoError(t, os.Remove(filepath.Join(data, "files", ".sheaf-store")))
		}, "", false},
		"one file removed": {func(t *testing.T, data string) {
			require.NoError(t, os.Remove(storedFile(t, data)))
		}, "the finished file is missing from the file store", false},
		"one file cut": {func(t *testing.T, data string) { cutInHalf(t, storedFile(t, data)) }, "the finished file is damaged: it has ", false},
		"files without the log": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(filepath.Join(data, "jetstream")))
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(data, os.DirFS(whole)))
			c.change(t, data)
			p := serveOn(t, data)
			if c.losses {
				text, err := os.ReadFile(filepath.Join(data, "LOSSES.txt"))
				require.NoError(t, err)
				require.Contains(t, string(text), "1 of 1 finished files are not in it")
				require.Contains(t, string(text), key)
				require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "finished files are lost") }, 5*time.Second, 5*time.Millisecond)
				status, msg := ready(t, p.http)
				require.Equal(t, http.StatusServiceUnavailable, status, msg)
				require.NoError(t, os.Remove(filepath.Join(data, "LOSSES.txt")))
			} else {
				require.NoFileExists(t, filepath.Join(data, "LOSSES.txt"))
			}
			becomesReady(t, p.http)
			if c.reason == "" {
				d := lostDetailOf(t, p.http, key)
				require.Empty(t, d.Reason)
				status, body := downloaded(t, p.http, d.DownURL)
				require.Equal(t, http.StatusOK, status, string(body))
				requireDemo(t, workbookIn(t, body), 30)
				status, _ = downloaded(t, p.http, link)
				require.Equal(t, http.StatusOK, status)
				p.drain(t)
				return
			}
			var d lostDetail
			require.Eventually(t, func() bool { d = lostDetailOf(t, p.http, key); return d.Reason != "" }, 10*time.Second, 5*time.Millisecond)
			require.Contains(t, d.Reason, c.reason)
			require.Equal(t, []any{2, ""}, []any{d.Status, d.DownURL})
			status, body := downloaded(t, p.http, link)
			require.Equal(t, http.StatusGone, status)
			require.Contains(t, string(body), c.reason)
			code, _, errs := sheaf(t, t.Context(), "", "download", key, "--server", p.http, "-o", filepath.Join(t.TempDir(), "a.xlsx"))
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, "the file is gone: "+c.reason)
			wireCall(t, http.MethodPost, p.http+"/v1/export/retry", `{"key":"`+key+`"}`, &struct{}{})
			again := wireWait(t, p.http, key)
			require.Equal(t, 2, again.Status, again.FailReason)
			status, body = downloaded(t, p.http, again.DownURL)
			require.Equal(t, http.StatusOK, status)
			requireDemo(t, workbookIn(t, body), 30)
			p.drain(t)
			if name == "no files" {
				p = serveOn(t, data) // it is reported once
				becomesReady(t, p.http)
				require.NotContains(t, p.err.String(), "file store is gone")
				p.drain(t)
			}
		})
	}
}

// The folder of finished files is removed under a running Sheaf. Sheaf is not ready and reports why, exports
// wait, and nothing expires. The exports complete when the folder is back.
func TestFinishedFilesRemovedWhileRunning(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	demo := demoSource(30)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/held") {
			<-release
		}
		demo.ServeHTTP(w, r)
	}))
	defer source.Close()
	data, kept := t.TempDir(), t.TempDir()
	p := serveOn(t, data)
	first := wireSubmit(t, p.http, source.URL+"/first", "", 20)
	link := wireWait(t, p.http, first).DownURL
	second := wireSubmit(t, p.http, source.URL+"/held", "", 20)
	becomesReady(t, p.http)
	folder := filepath.Join(data, "files")
	require.NoError(t, os.CopyFS(kept, os.DirFS(folder)))

	require.NoError(t, os.RemoveAll(folder))
	close(release)
	begun := time.Now()
	require.Eventually(t, func() bool {
		status, msg := ready(t, p.http)
		return status == http.StatusServiceUnavailable && strings.Contains(msg, "the file store is not there")
	}, 5*time.Second, 10*time.Millisecond)
	t.Logf("noticed after %v", time.Since(begun))
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "message will be handled again") }, 5*time.Second, 5*time.Millisecond)
	status, body := downloaded(t, p.http, link)
	require.Equal(t, http.StatusServiceUnavailable, status, string(body))
	require.Empty(t, lostDetailOf(t, p.http, first).Reason)
	require.Equal(t, 1, lostDetailOf(t, p.http, second).Status)

	require.NoError(t, os.CopyFS(folder, os.DirFS(kept)))
	becomesReady(t, p.http)
	d := wireWait(t, p.http, second)
	require.Equal(t, 2, d.Status, d.FailReason)
	for _, link := range []string{link, d.DownURL} {
		status, body := downloaded(t, p.http, link)
		require.Equal(t, http.StatusOK, status, string(body))
		requireDemo(t, workbookIn(t, body), 30)
	}

	// sheaf export --server and sheaf download report the problem with a file.
	path := filepath.Join(folder, "default")
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(path, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(path, e.Name()), bytes.Repeat([]byte{7}, len(content)), 0o600))
	}
	code, _, errs := sheaf(t, t.Context(), "", "download", second, "--server", p.http, "-o", filepath.Join(t.TempDir(), "a.xlsx"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "the finished file is damaged: its checksum differs; retry the export to make it again (HTTP 410")
	p.drain(t)
}

// A plain copy of a running Sheaf is not of a single moment. It starts nevertheless, reports its losses, and
// serves correct files or none.
func TestCopyOfARunningSheaf(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	demo := demoSource(30)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/held") {
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		demo.ServeHTTP(w, r)
	}))
	defer source.Close()
	data, copied := t.TempDir(), ""
	p := serveOn(t, data)
	first := wireSubmit(t, p.http, source.URL+"/first", "", 20)
	link := wireWait(t, p.http, first).DownURL
	second := wireSubmit(t, p.http, source.URL+"/held", "", 20)
	require.Eventually(t, func() bool { // a file may be replaced while it is copied
		copied = filepath.Join(t.TempDir(), "copy")
		return os.CopyFS(copied, os.DirFS(data)) == nil
	}, 10*time.Second, time.Millisecond)
	close(release)
	p.drain(t)

	p = serveOn(t, copied)
	if err := os.Remove(filepath.Join(copied, "LOSSES.txt")); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	becomesReady(t, p.http)
	switch status, body := downloaded(t, p.http, link); status {
	case http.StatusOK:
		requireDemo(t, workbookIn(t, body), 30)
	case http.StatusGone, http.StatusNotFound: // reported, not served
	default:
		t.Fatalf("status %d: %s", status, body)
	}
	if wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+second, "", nil).Errcode != http.StatusNotFound {
		require.Contains(t, []int{1, 2}, lostDetailOf(t, p.http, second).Status)
	}
	p.drain(t)
}

// A missing bucket of finished files is reported like a missing folder.
func TestStartWithoutTheBucketOfFiles(t *testing.T) {
	t.Parallel()
	source := httptest.NewServer(demoSource(30))
	defer source.Close()
	data := t.TempDir()
	serveOn := func() *process {
		return startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", data, "--files", "nats://sheaf-files")
	}
	p := serveOn()
	key := wireSubmit(t, p.http, source.URL, "", 20)
	require.Equal(t, 2, wireWait(t, p.http, key).Status)
	p.drain(t)
	require.NoError(t, os.RemoveAll(streamFolder(t, data, "OBJ_sheaf-files")))
	p = serveOn()
	text, err := os.ReadFile(filepath.Join(data, "LOSSES.txt"))
	require.NoError(t, err)
	require.Contains(t, string(text), "1 of 1 finished files are not in it")
	require.Eventually(t, func() bool { return lostDetailOf(t, p.http, key).Reason != "" }, 10*time.Second, 5*time.Millisecond)
	wireCall(t, http.MethodPost, p.http+"/v1/export/retry", `{"key":"`+key+`"}`, &struct{}{})
	again := wireWait(t, p.http, key)
	status, body := downloaded(t, p.http, again.DownURL)
	require.Equal(t, http.StatusOK, status)
	requireDemo(t, workbookIn(t, body), 30)
	p.drain(t)
}

// A cluster refuses a new folder in place of its own, because its own may just not be mounted here.
func TestClusterRefusesAFolderWithoutMarker(t *testing.T) {
	t.Parallel()
	server := eventstest.Server(t, "127.0.0.1:0")
	files := filepath.Join(t.TempDir(), "shared")
	args := []string{"serve", "--roles", "ingress", "--http", "127.0.0.1:0", "--nats", server.URL(), "--replicas", "1",
		"--data", t.TempDir(), "--files", "file://" + files, "--secret-key", strings.Repeat("ab", 32), "--shutdown-delay", "0s"}
	p := startServe(t, args[1:]...)
	p.drain(t)
	require.NoError(t, os.Rename(files, files+"-"))
	for range 2 {
		code, _, errs := sheaf(t, t.Context(), "", args...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "the folder had no .sheaf-store")
		require.Contains(t, errs, "nats stream purge SHEAF_PRIVATE --subject sheaf.private.fingerprint")
	}
	require.NoError(t, os.RemoveAll(files))
	require.NoError(t, os.Rename(files+"-", files))
	startServe(t, args[1:]...).drain(t)

	// Follow the instructions of the message.
	require.NoError(t, os.RemoveAll(files))
	js, err := jetstream.New(eventstest.Connect(t, server))
	require.NoError(t, err)
	private, err := js.Stream(t.Context(), events.StreamPrivate)
	require.NoError(t, err)
	require.NoError(t, private.Purge(t.Context(), jetstream.WithPurgeSubject("sheaf.private.fingerprint")))
	startServe(t, args[1:]...).drain(t)
	startServe(t, args[1:]...).drain(t)
}
