package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// noisySource serves rows of about 16,000 bytes that do not compress further.
func noisySource(t *testing.T, rows int) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		list := []string{`{"id":"编号","noise":"噪声"}`}
		noise := make([]byte, 16_000)
		for n := (page - 1) * limit; n < min(page*limit, rows); n++ {
			var seed [32]byte
			binary.LittleEndian.PutUint64(seed[:], uint64(n))
			_, _ = rand.NewChaCha8(seed).Read(noise)
			list = append(list, fmt.Sprintf(`{"id":%d,"noise":"%s"}`, n, base64.StdEncoding.EncodeToString(noise)))
		}
		fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"data":[%s],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`,
			strings.Join(list, ","), page, limit, rows, (rows+limit-1)/limit)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Three exports that each take 60 % of the page stream all complete, in one process and with two crawlers.
// One that is larger than the stream fails.
func TestExportsThatDoNotFitTogether(t *testing.T) {
	t.Parallel()
	eventstest.LongRunning(t) // services/crawler tests it on a smaller stream
	const stream = 64 << 20
	rows := stream / 16_100 * 6 / 10
	for _, tc := range []struct {
		claim string
		start func(t *testing.T) (server string)
	}{
		{"one process", func(t *testing.T) string {
			return startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir(), "--max-pages-bytes", "64MiB").http
		}},
		{"two crawlers", func(t *testing.T) string {
			key, files := strings.Repeat("5e", 32), "file://"+t.TempDir()
			first := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", t.TempDir(), "--files", files, "--secret-key", key, "--max-pages-bytes", "64MiB")
			startServe(t, "--roles", "crawler", "--nats", first.nats, "--replicas", "1", "--data", t.TempDir(), "--files", files, "--secret-key", key, "--max-pages-bytes", "64MiB")
			return first.http
		}},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			server := tc.start(t)
			var keys []string
			for n := range 3 {
				keys = append(keys, wireSubmit(t, server, noisySource(t, rows)+"/?n="+strconv.Itoa(n), "", 20))
			}
			for _, key := range keys {
				d := wireWait(t, server, key)
				require.Equal(t, 2, d.Status, d.FailReason)
				require.EqualValues(t, rows, d.Rows)
			}
			d := wireWait(t, server, wireSubmit(t, server, noisySource(t, 3*rows), "", 20))
			require.Equal(t, 3, d.Status)
			require.Regexp(t, `pages take 6\d\.\d MiB, and the page stream holds at most 64\.0 MiB`, d.FailReason)
		})
	}
}
