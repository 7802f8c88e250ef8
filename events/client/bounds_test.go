package client

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

func TestMain(m *testing.M) { eventstest.Main(m) }

const testKey = "5ad5f7b92a816b76e70a21e4154c2485"

// bounded returns a client of a server with the given bounds. Bounds of 0 become a minute, so that no other
// bound ends a request.
func bounded(t *testing.T, h http.HandlerFunc, short bounds) *Client {
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections() // a handler may hang
		server.Close()
	})
	c, err := newBounded(server.URL, Options{Patience: -1}, bounds{
		dial: cmp.Or(short.dial, time.Minute), header: cmp.Or(short.header, time.Minute),
		answer: cmp.Or(short.answer, time.Minute), idle: cmp.Or(short.idle, time.Minute),
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
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
		short  bounds
		want   string
	}{
		"no headers": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, bounds{header: 100 * time.Millisecond}, "timeout awaiting response headers"},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":0,`)
			hang(w, r)
		}, bounds{answer: 200 * time.Millisecond}, "no whole answer within 200ms"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
		}, bounds{}, "more than 8 MiB"},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				w.Header().Add("X", strings.Repeat("x", 1000))
			}
		}, bounds{}, "headers exceeded"},
		"another protocol": {func(w http.ResponseWriter, r *http.Request) {
			conn, buf, _ := http.NewResponseController(w).Hijack()
			_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = buf.Flush()
			_, _ = io.Copy(io.Discard, conn) // and says nothing
		}, bounds{}, "HTTP 101"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := bounded(t, c.answer, c.short)
			_, err := client.Detail(t.Context(), testKey)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestServerThatDoesNotAccept(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := newBounded("https://"+l.Addr().String(), Options{Patience: -1}, bounds{dial: 50 * time.Millisecond, header: time.Minute, answer: time.Minute})
	require.NoError(t, err)
	_, err = c.Detail(t.Context(), testKey) // the TLS handshake gets no answer
	var unreachable *UnreachableError
	require.ErrorAs(t, err, &unreachable)
}

func TestDownloadsHaveBounds(t *testing.T) {
	t.Parallel()
	file := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	var whole Export
	whole.Status, whole.DownURL = Succeeded, "/v1/down/x.zip"
	whole.Files = []File{{Size: int64(len(file))}}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		short  bounds
		want   string
	}{
		"no end": {hang, bounds{idle: 200 * time.Millisecond}, "less than 30 KiB came in 200ms"},
		"a drip": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		}, bounds{idle: 200 * time.Millisecond}, "less than 30 KiB came in 200ms"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(file)
			}
		}, bounds{}, "larger than the export: 262144 bytes"},
		"larger when announced": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "262145")
			hang(w, r)
		}, bounds{}, "larger than the export: 262144 bytes"},
		"short": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(file[:1000]) }, bounds{}, "1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := bounded(t, c.answer, c.short)
			if name == "a drip" { // one attempt is enough
				_, err := client.fetchFrom(t.Context(), whole.DownURL, io.Discard, 0, int64(len(file)))
				require.ErrorContains(t, err, c.want)
				return
			}
			require.ErrorContains(t, client.Fetch(t.Context(), &whole, io.Discard), c.want)
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
		}, bounds{idle: 500 * time.Millisecond})
		var got bytes.Buffer
		require.NoError(t, client.Fetch(t.Context(), &whole, &got))
		require.True(t, bytes.Equal(file, got.Bytes()))
	})
	t.Run("an interruption ends it", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		client := bounded(t, func(w http.ResponseWriter, r *http.Request) {
			interrupt()
			hang(w, r)
		}, bounds{})
		require.ErrorIs(t, client.Fetch(ctx, &whole, io.Discard), context.Canceled)
	})
}
