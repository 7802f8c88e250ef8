//go:build chaos && linux

package chaostest

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// smallDisk is a process with its own disk as data folder, and a source of incompressible pages.
type smallDisk struct {
	*exporting
	t      *testing.T
	data   string
	p      *process
	source *httptest.Server
	stuck  atomic.Bool // a page that never arrives was requested
}

// newSmallDisk mounts a disk of mib MiB.
func newSmallDisk(t *testing.T, mib int, args ...string) *smallDisk {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	e := newExporting(t)
	d := &smallDisk{exporting: e, t: t, data: filepath.Join(e.dir, "sheaf")}
	d.source = quietServer(d)
	t.Cleanup(func() {
		d.source.CloseClientConnections()
		d.source.Close()
	})
	require.NoError(t, os.Mkdir(d.data, 0o700))
	if err := syscall.Mount("tmpfs", d.data, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	t.Cleanup(func() { // after the processes have ended; before that the folder is busy
		e.close()
		_ = syscall.Unmount(d.data, syscall.MNT_DETACH)
		_ = os.RemoveAll(e.dir)
	})
	listen, address := freeAddress(), freeAddress()
	e.ingresses, e.natsURL = []string{"http://" + listen}, "nats://"+address
	d.p = e.serve("sheaf", append([]string{"--http", listen, "--nats-listen", address}, args...)...)
	return d
}

// ServeHTTP serves /NAME/PAGES/BYTES[/growing|/stuck]. With growing, the first page is small; with stuck, the
// last one never arrives.
func (d *smallDisk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	pages, _ := strconv.Atoi(part[1])
	size, _ := strconv.Atoi(part[2])
	switch {
	case len(part) > 3 && part[3] == "growing" && page == 1:
		size = 1 << 10
	case len(part) > 3 && part[3] == "stuck" && page == pages:
		d.stuck.Store(true)
		<-r.Context().Done()
		return
	}
	const rows = 10
	random := rand.NewChaCha8([32]byte{byte(page)})
	cell := make([]byte, size/rows*3/4)
	b := []byte(`{"errcode":0,"msg":"","data":{"data":[{"id":"ID","v":"V"}`)
	for i := range rows {
		_, _ = random.Read(cell)
		b = fmt.Appendf(b, `,{"id":%d,"v":"`, page*rows+i)
		for from := 0; from < len(cell); from += 3 << 12 {
			b = base64.StdEncoding.AppendEncode(b, cell[from:min(from+3<<12, len(cell))])
		}
		b = append(b, `"}`...)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(fmt.Appendf(b, `],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, page,
		rows, pages*rows, pages))
}

// submit submits an export with pages of the given size.
func (d *smallDisk) submit(ctx context.Context, name string, pages, bytes, conn int, more string) {
	d.t.Helper()
	status, a, err := d.insist(ctx, http.MethodPost, "/v1/export/http", fmt.Appendf(nil,
		`{"timestamp":1,"ext_type":"XLSX","title":%q,"user_id":"u","source_http":{"url":"%s/%s/%d/%d%s","method":"GET","conn":%d,"param":{"limit":10}}}`,
		name, d.source.URL, name, pages, bytes, more, conn))
	require.NoError(d.t, err)
	require.Equal(d.t, http.StatusOK, status, a.Msg)
	d.accepted(name, a)
}

// submitted submits an export and waits until it has ended.
func (d *smallDisk) submitted(ctx context.Context, name string, pages, bytes, conn int, more string) detail {
	d.submit(ctx, name, pages, bytes, conn, more)
	return d.ended(ctx, name, 90*time.Second)
}

// ended waits until an export has ended.
func (d *smallDisk) ended(ctx context.Context, name string, within time.Duration) (x detail) {
	began := time.Now()
	ok := eventually(ctx, within, 20*time.Millisecond, func() bool {
		var err error
		x, err = d.detail(ctx, d.key(name))
		return err == nil && x.Status != events.StatusProcessing
	})
	require.True(d.t, ok, "%s does not end: %s\n%s", name, d.figures(), d.p.tail(3000))
	d.t.Logf("%s: %d after %s: %s", name, x.Status, time.Since(began).Round(time.Millisecond), x.Reason)
	return x
}

func (d *smallDisk) figures() string {
	var fs syscall.Statfs_t
	_ = syscall.Statfs(d.data, &fs)
	return fmt.Sprintf("%d KiB of %d KiB are free", int64(fs.Bavail)*fs.Bsize>>10,
		int64(fs.Blocks)*fs.Bsize>>10)
}

// Many large concurrent pages never fill the disk. An export that does not fit fails with the disk's figures;
// others complete.
func TestChaosPagesDoNotFillTheDisk(t *testing.T) {
	d := newSmallDisk(t, 96)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	d.p.start("")
	for _, more := range []string{"", "/growing"} {
		x := d.submitted(ctx, "giant"+strings.Trim(more, "/"), 40, 12<<20, 16, more)
		require.Equal(t, events.StatusFailed, x.Status)
		require.Contains(t, x.Reason, "there is no room for more: the disk of the data folder")
	}
	// Its pages fit once, but not twice, which they need while they are written.
	require.Equal(t, events.StatusSucceeded, d.submitted(ctx, "tight", 6, 12<<20, 16, "/growing").Status)
	require.Zero(t, d.ends(), "the process never ended\n%s", d.p.tail(3000))
}

// A process that starts on a full disk waits until there is space, then starts and resumes its export.
func TestChaosStartsOnAFullDisk(t *testing.T) {
	d := newSmallDisk(t, 96)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d.p.start("")
	d.submit(ctx, "stuck", 6, 8<<20, 1, "/stuck")
	require.True(t, eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
		return d.stuck.Load()
	}), d.p.tail(3000))
	d.p.shutdown(syscall.SIGKILL)
	filler := filepath.Join(d.data, "filler")
	fill(t, filler)
	t.Log(d.figures())
	d.p.start("")
	require.True(t, eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
		status, a, err := d.ask(ctx, http.MethodGet, d.ingresses[0]+"/readyz", nil)
		return err == nil && status == http.StatusServiceUnavailable &&
			strings.Contains(a.Msg, "the disk of the data folder")
	}), d.p.tail(3000))
	require.NoError(t, os.Remove(filler))
	status, a, err := d.insist(ctx, http.MethodPost, "/v1/export/cancel",
		fmt.Appendf(nil, `{"key":%q}`, d.key("stuck")))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, a.Msg)
	require.Zero(t, d.ends(), d.p.tail(3000))
}

// Exports that do not fit on the disk together all complete, one after another, and submissions are accepted
// again.
func TestChaosExportsShareTheDisk(t *testing.T) {
	d := newSmallDisk(t, 128)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	d.p.start("")
	const exports = 6
	for n := range exports {
		d.submit(ctx, fmt.Sprintf("export-%d", n), 24, 2<<20, 8, "")
	}
	for n := range exports {
		x := d.ended(ctx, fmt.Sprintf("export-%d", n), time.Minute)
		require.Equal(t, events.StatusSucceeded, x.Status)
	}
	require.Zero(t, d.ends(), "the process never ended\n%s", d.p.tail(3000))
}
