package main

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNoCommandFollowsARedirect(t *testing.T) {
	t.Chdir(t.TempDir())
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s came to the other server", r.Method, r.URL)
	}))
	defer other.Close()
	status := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", other.URL+"/elsewhere?token=hidden")
		w.WriteHeader(status)
	}))
	defer server.Close()
	for _, status = range []int{301, 302, 303, 307, 308} {
		for _, args := range [][]string{
			{"submit", "--url", "http://127.0.0.1:1/", "-H", "Authorization: Bearer secret"}, {"submit", "--url", "http://127.0.0.1:1/", "--wait"},
			{"status", testKey}, {"history", "--user-id", "1"}, {"watch", testKey}, {"cancel", testKey}, {"retry", testKey}, {"retry", testKey, "--wait"},
			{"download", testKey, "-o", "x.zip"}, {"export", "http://127.0.0.1:1/", "-o", "x.xlsx"}, {"seal"}, {"demo", "--rows", "1", "--out", "."},
		} {
			code, _, errs := sheaf(t, t.Context(), "secret", append(args, "--server", server.URL, "--api-key", "sheaf_key")...)
			require.Equal(t, exitFailed, code, errs)
			require.Contains(t, errs, "redirects to "+other.URL+" (HTTP ")
			require.Contains(t, errs, "name it with --server")
			require.NotContains(t, errs, "hidden")
		}
	}
	// The same holds for the link of a file.
	file := zipOf(t, "a.xlsx")
	server = answers(t, map[string]any{
		"/v1/export/detail": succeeded("/v1/down/x.zip", file),
		"/v1/down/x.zip":    http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }),
	})
	code, _, errs := sheaf(t, t.Context(), "", "download", testKey, "-o", "x.zip", "--server", server.URL)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "redirects to "+other.URL)
	onlyFiles(t)
}

// bounded returns a client of a server with the given bounds. Bounds of 0 become a minute, so that no other
// bound ends a request.
func bounded(t *testing.T, h http.HandlerFunc, short clientBounds) *client {
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections() // a handler may hang
		server.Close()
	})
	c, err := newBoundedClient(server.URL, callerFlags{}, clientBounds{
		dial: cmp.Or(short.dial, time.Minute), header: cmp.Or(short.header, time.Minute),
		answer: cmp.Or(short.answer, time.Minute), idle: cmp.Or(short.idle, time.Minute),
	})
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

// hang never returns.
func hang(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func TestAnswersHaveBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		short  clientBounds
		want   string
	}{
		"no headers": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, clientBounds{header: 100 * time.Millisecond}, "timeout awaiting response headers"},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":0,`)
			hang(w, r)
		}, clientBounds{answer: 200 * time.Millisecond}, "no whole answer within 200ms"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
		}, clientBounds{}, "larger than 8.0 MiB"},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				w.Header().Add("X", strings.Repeat("x", 1000))
			}
		}, clientBounds{}, "headers exceeded"},
		"another protocol": {func(w http.ResponseWriter, r *http.Request) {
			conn, buf, _ := http.NewResponseController(w).Hijack()
			_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = buf.Flush()
			_, _ = io.Copy(io.Discard, conn) // and says nothing
		}, clientBounds{}, "HTTP 101"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := bounded(t, c.answer, c.short)
			_, _, err := client.detail(t.Context(), testKey)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestServerThatDoesNotAccept(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := newBoundedClient("https://"+l.Addr().String(), callerFlags{}, clientBounds{dial: 50 * time.Millisecond, header: time.Minute, answer: time.Minute})
	require.NoError(t, err)
	_, _, err = c.detail(t.Context(), testKey) // the TLS handshake gets no answer
	var unreachable *unreachableError
	require.ErrorAs(t, err, &unreachable)
}

func TestDownloadsHaveBounds(t *testing.T) {
	t.Parallel()
	file := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	var whole exportDetail
	whole.Status, whole.DownURL = statusSucceeded, "/v1/down/x.zip"
	whole.Files = []exportFile{{Size: int64(len(file))}}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		short  clientBounds
		want   string
	}{
		"no end": {hang, clientBounds{idle: 200 * time.Millisecond}, "less than 30.0 KiB came in 200ms"},
		"a drip": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		}, clientBounds{idle: 200 * time.Millisecond}, "less than 30.0 KiB came in 200ms"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(file)
			}
		}, clientBounds{}, "larger than the export: 262144 bytes"},
		"larger when announced": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "262145")
			hang(w, r)
		}, clientBounds{}, "larger than the export: 262144 bytes"},
		"short": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(file[:1000]) }, clientBounds{}, "1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := bounded(t, c.answer, c.short)
			if name == "a drip" { // one attempt is enough
				_, err := client.downloadFrom(t.Context(), whole.DownURL, io.Discard, 0, int64(len(file)))
				require.ErrorContains(t, err, c.want)
				return
			}
			require.ErrorContains(t, client.download(t.Context(), whole, filepath.Join(t.TempDir(), "x")), c.want)
		})
	}
	t.Run("continues after a stall", func(t *testing.T) {
		t.Parallel()
		client := bounded(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				_, _ = w.Write(file[:1000])
				hang(w, r)
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		}, clientBounds{idle: 500 * time.Millisecond})
		name := filepath.Join(t.TempDir(), "x")
		require.NoError(t, client.download(t.Context(), whole, name))
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, file, got)
	})
	t.Run("an interruption ends it", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		client := bounded(t, func(w http.ResponseWriter, r *http.Request) {
			interrupt()
			hang(w, r)
		}, clientBounds{})
		require.ErrorIs(t, client.download(ctx, whole, filepath.Join(t.TempDir(), "x")), context.Canceled)
	})
}
