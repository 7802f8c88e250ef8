//go:build chaos && linux

package chaostest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// While the disk of --data is full or almost full, each submission gets 503 with Retry-After promptly, and
// every acknowledged one is stored. Accepted exports can still be read. Once there is space everything
// resumes by itself; if the disk filled up suddenly, under a supervisor.
func TestChaosDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	seed := chaosSeed(t)
	orders := newOrders(rand.New(rand.NewPCG(seed, 2)), 24, 0)
	for _, o := range orders {
		o.cancel, o.broken, o.retry, o.durable, o.at, o.wide, o.hangs = 0, 0, false, false, 0, false, false
		if o.pages > 1 {
			o.pages = 5
		}
	}
	w := newWorld(t, seed, orders)
	t.Logf("CHAOS_SEED=%d", seed)
	data := filepath.Join(w.dir, "sheaf")
	require.NoError(t, os.Mkdir(data, 0o700))
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	t.Cleanup(func() { // after w.close has ended the processes; before that the folder is busy
		w.close()
		_ = syscall.Unmount(data, syscall.MNT_DETACH)
		if len(w.problems) == 0 {
			_ = os.RemoveAll(w.dir)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if w.quiet = w.quietRun(ctx); w.quiet == nil {
		return
	}
	listen, address := freeAddress(), freeAddress()
	w.ingresses, w.natsURL = []string{"http://" + listen}, "nats://"+address
	w.files = "file://" + filepath.Join(data, "files")
	p := w.serve("sheaf", "--http", listen, "--nats-listen", address, "--max-pages-bytes", "64MiB")
	p.start("")
	w.connect()
	accept := func(orders []*order) {
		for _, o := range orders {
			if err := w.submit(ctx, o); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		}
	}
	filler := filepath.Join(data, "filler")
	disturbed := func() { // a page that does not fit is requested again
		w.mu.Lock()
		defer w.mu.Unlock()
		w.disturbances = append(w.disturbances, time.Now())
	}
	free := func(next []*order) {
		freed := time.Now()
		disturbed()
		require.NoError(t, os.Remove(filler))
		accept(next)
		t.Logf("everything was accepted %s after there was room", time.Since(freed).Round(time.Millisecond))
	}

	// On a slowly filling disk the process never exits, and nothing is written without space for it.
	accept(orders[:8])
	disturbed()
	fillTo(t, filler, data, 3<<20)
	r := w.refusals(ctx, 2*time.Second, orders[8:16], func() {})
	t.Logf("on an almost full disk: %s", r)
	if r.refused != r.sent {
		w.problem("an almost full disk: %s", r)
	}
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable,
		"/v1/export/detail?key=" + orders[0].key: http.StatusOK,
		"/v1/export/history?user_id=chaos":       http.StatusOK,
	} {
		if status, a, err := w.ask(ctx, http.MethodGet, w.ingresses[0]+path, nil); status != want {
			w.problem("an almost full disk: %s was answered %d %q %v", path, status, a.Msg, err)
		}
	}
	if ends := w.ends(); ends > 0 {
		w.problem("an almost full disk ended the process %d times", ends)
	}

	// Others fill the disk to the last byte during exports.
	free(orders[8:16])
	p.mu.Lock()
	p.mayEnd = true
	p.mu.Unlock()
	disturbed()
	fill(t, filler)
	// also use the space that the process frees
	r = w.refusals(ctx, 7*time.Second, orders[16:], func() { fill(t, filler) })
	// A process that exits here restarts after 200 ms and is ready soon after. About three submissions meet a
	// closed port; all others get a response.
	ends := w.ends()
	t.Logf("on a full disk: %s; the process ended %d times", r, ends)
	if ends > 3 || r.unanswered > 5*ends {
		w.problem("a full disk: %s; the process ended %d times", r, ends)
	}
	free(orders[16:])
	w.settle(ctx)
	p.mu.Lock()
	p.mayEnd = false
	p.mu.Unlock()
	w.audit(ctx)
	w.report()
}

func (w *world) ends() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blows[endItself]
}

// refusals counts the outcomes of submissions on a full disk.
type refusals struct {
	sent, refused, unanswered int
	longest                   time.Duration
}

func (r refusals) String() string {
	return fmt.Sprintf("of %d submissions %d were refused with 503 and Retry-After, %d had no answer, the slowest took %s",
		r.sent, r.refused, r.unanswered, r.longest.Round(time.Millisecond))
}

// refusals submits orders repeatedly for a while, or until ctx ends, calling before first each time. None may
// be accepted, as the disk is full, and each must get a response soon.
func (w *world) refusals(ctx context.Context, lasts time.Duration, orders []*order,
	before func()) (r refusals) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(lasts); ctx.Err() == nil && time.Now().Before(end); <-tick.C {
		before()
		o := orders[r.sent%len(orders)]
		r.sent++
		began := time.Now()
		status, retry, body, err := send(ctx, client, w.ingresses[0]+"/v1/export/"+o.kind(), o.body(w, false))
		waited := time.Since(began)
		r.longest = max(r.longest, waited)
		if waited > 5*time.Second {
			w.problem("a disk that takes nothing was answered after %s", waited)
		}
		switch {
		case err != nil:
			r.unanswered++
		case status != http.StatusServiceUnavailable || retry == "":
			w.problem("a disk that takes nothing was answered %d, Retry-After %q: %s", status, retry, body)
		default:
			r.refused++
			if r.refused == 1 {
				w.t.Logf("%s", body)
			}
		}
	}
	return r
}

func send(ctx context.Context, client *http.Client, url string, body []byte) (status int, retryAfter,
	answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header.Get("Retry-After"), string(text), err
}

// fillTo grows a file until the disk of a folder has only free bytes left.
func fillTo(t testing.TB, name, folder string, free int64) {
	t.Helper()
	f, err := os.Create(name)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for {
		var fs syscall.Statfs_t
		require.NoError(t, syscall.Statfs(folder, &fs))
		over := int64(fs.Bavail)*fs.Bsize - free
		if over <= 0 {
			return
		}
		_, err := f.Write(make([]byte, min(over, 256<<10)))
		require.NoError(t, err)
	}
}

// fill grows a file until the disk is full.
func fill(t testing.TB, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // no space even for its name
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			return
		}
	}
}

// Every acknowledged publish is synced first. This test fails if the embedded server loses SyncAlways.
// Killing the process would not show that, because the kernel keeps all written data.
func TestChaosSyncsBeforeItAnswers(t *testing.T) {
	needStrace(t)
	orders := newOrders(rand.New(rand.NewPCG(1, 3)), 1, 0)
	orders[0].callback = ""
	w := newWorld(t, 1, orders)
	listen, address := freeAddress(), freeAddress()
	w.ingresses, w.natsURL = []string{"http://" + listen}, "nats://"+address
	p := w.serve("sheaf", "--http", listen, "--nats-listen", address)
	p.start("")
	w.connect()
	require.True(t, eventually(t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
		status, _, err := w.ask(t.Context(), http.MethodGet, w.ingresses[0]+"/readyz", nil)
		return err == nil && status == http.StatusOK
	}))

	trace := filepath.Join(w.dir, "trace")
	detach := p.strace(t, "-y", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", trace)
	type span struct {
		what      string
		from, to  time.Time
		stream    string
		submitted int
	}
	var spans []span
	for i := range 20 {
		began := time.Now()
		msg := &nats.Msg{Subject: events.SubmitSubject(events.DefaultTenant, "http"), Data: []byte("{}")}
		_, err := w.js.PublishMsg(t.Context(), msg)
		require.NoError(t, err)
		spans = append(spans, span{"durable submission", began, time.Now(), events.StreamSubmit, i})
		began = time.Now()
		status, a, err := w.ask(t.Context(), http.MethodPost, w.ingresses[0]+"/v1/export/raw",
			fmt.Appendf(nil, `{"timestamp":%d,"ext_type":"XLSX","title":"t","user_id":"u","source_raw":"[{\"a\":\"A\"},{\"a\":1}]"}`, i+1))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, a.Msg)
		for _, stream := range []string{events.StreamEvents, events.StreamPages} {
			spans = append(spans, span{"REST submission", began, time.Now(), stream, i})
		}
	}
	detach()
	p.shutdown(syscall.SIGTERM)

	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	type sync struct {
		file     string
		from, to time.Time
	}
	var syncs []sync
	begun := map[string]sync{} // calls that strace shows on two lines, by thread
	whole := regexp.MustCompile(`^(\d+) +(\d+\.\d+) f(?:data)?sync\(\d+<([^>]*)>\) += 0 <([\d.]+)>`)
	start := regexp.MustCompile(`^(\d+) +(\d+\.\d+) f(?:data)?sync\(\d+<([^>]*)> <unfinished`)
	end := regexp.MustCompile(`^(\d+) +(\d+\.\d+) <\.\.\. f(?:data)?sync resumed>\) += 0`)
	for line := range strings.Lines(string(text)) {
		if m := whole.FindStringSubmatch(line); m != nil {
			from := stamp(m[2])
			took, _ := time.ParseDuration(m[4] + "s")
			syncs = append(syncs, sync{m[3], from, from.Add(took)})
		} else if m := start.FindStringSubmatch(line); m != nil {
			begun[m[1]] = sync{file: m[3], from: stamp(m[2])}
		} else if m := end.FindStringSubmatch(line); m != nil {
			s := begun[m[1]]
			s.to = stamp(m[2])
			syncs = append(syncs, s)
		}
	}
	for _, sp := range spans {
		found := false
		for _, s := range syncs {
			if strings.Contains(s.file, "/"+sp.stream+"/") && strings.HasSuffix(s.file, ".blk") &&
				s.from.After(sp.from) && s.to.Before(sp.to) {
				found = true
				break
			}
		}
		require.True(t, found, "%s %d was answered before its block of %s was synced (%d syncs in all)",
			sp.what, sp.submitted, sp.stream, len(syncs))
	}
}

// stamp parses a time as strace prints it: seconds with a fraction.
func stamp(text string) time.Time {
	seconds, fraction, _ := strings.Cut(text, ".")
	s, _ := strconv.ParseInt(seconds, 10, 64)
	us, _ := strconv.ParseInt(fraction, 10, 64)
	return time.Unix(s, us*int64(time.Microsecond))
}
