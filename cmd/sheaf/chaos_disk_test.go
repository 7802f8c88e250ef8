//go:build linux

package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
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

// While the disk of --data is full nothing is answered with success that is
// not there afterwards, and once there is room everything goes on by itself
// under a supervisor.
func TestChaosDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
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
	t.Cleanup(func() { // after w.close has ended the processes; before it the folder is busy
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
	p.mayEnd = true
	p.start("")
	w.connect()
	third := len(orders) / 3
	for _, o := range orders[:third] {
		if err := w.submit(ctx, o); err != nil {
			w.problem("I1 order %d: %v", o.n, err)
		}
	}

	filler := filepath.Join(data, "filler")
	fill(t, filler)
	refused, down := 0, 0
	deadline := time.Now().Add(12 * time.Second) // a stream that cannot be written needs 3 s to end the process
	for i := 0; time.Now().Before(deadline); i++ {
		o := orders[third+i%third]
		if o.accepted {
			continue
		}
		begun := time.Now()
		kind := "http"
		if o.raw {
			kind = "raw"
		}
		status, a, err := w.ask(ctx, http.MethodPost, w.ingresses[0]+"/v1/export/"+kind, o.body(w, false))
		switch {
		case err != nil:
			down++
			time.Sleep(50 * time.Millisecond) // until the supervisor has started it again
		case status == http.StatusServiceUnavailable:
			refused++
		case status == http.StatusOK:
			// There was room for it. If not, the audit misses it.
			if err := o.answered(status, a); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		default:
			w.problem("a full disk was answered %d %q", status, a.Msg)
		}
		if waited := time.Since(begun); waited > 7*time.Second {
			w.problem("a full disk was answered after %s", waited)
		}
		fill(t, filler) // what the process gave up is taken as well
	}
	w.mu.Lock()
	ends := w.blows[endItself]
	w.mu.Unlock()
	t.Logf("while the disk was full: %d submissions refused with 503, %d without an answer, process ended %d times", refused, down, ends)
	if refused+down == 0 {
		w.problem("the disk was full and every submission was accepted")
	}

	freed := time.Now()
	require.NoError(t, os.Remove(filler))
	for _, o := range orders {
		if !o.accepted {
			if err := w.submit(ctx, o); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		}
	}
	t.Logf("everything was accepted %s after there was room", time.Since(freed).Round(time.Millisecond))
	w.settle(ctx)
	p.mu.Lock()
	p.mayEnd = false
	p.mu.Unlock()
	w.audit(ctx)
	w.report()
}

// fill makes a file grow until the disk has no byte left.
func fill(t testing.TB, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // not even room for its name
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

// Every acknowledged publish was synced first. This is what breaks when the
// embedded server loses its SyncAlways: a killed process would not show it, for
// the kernel still has what was written.
func TestChaosSyncsBeforeItAnswers(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
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
	p.mu.Lock()
	tracer := exec.CommandContext(t.Context(), strace, "-f", "-y", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", trace, "-p", strconv.Itoa(p.cmd.Process.Pid))
	p.mu.Unlock()
	said, err := tracer.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, tracer.Start())
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		_ = tracer.Wait()
		t.Skipf("strace cannot attach: %s", lines.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, said)
	}()

	type span struct {
		what      string
		from, to  time.Time
		stream    string
		submitted int
	}
	var spans []span
	for i := range 20 {
		begun := time.Now()
		msg := &nats.Msg{Subject: events.SubmitSubject(events.DefaultTenant, "http"), Data: []byte("{}")}
		_, err := w.js.PublishMsg(t.Context(), msg)
		require.NoError(t, err)
		spans = append(spans, span{"durable submission", begun, time.Now(), events.StreamSubmit, i})
		begun = time.Now()
		status, a, err := w.ask(t.Context(), http.MethodPost, w.ingresses[0]+"/v1/export/raw",
			fmt.Appendf(nil, `{"timestamp":%d,"ext_type":"XLSX","title":"t","user_id":"u","source_raw":"[{\"a\":\"A\"},{\"a\":1}]"}`, i+1))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, a.Msg)
		for _, stream := range []string{events.StreamEvents, events.StreamPages} {
			spans = append(spans, span{"REST submission", begun, time.Now(), stream, i})
		}
	}
	require.NoError(t, tracer.Process.Signal(syscall.SIGINT)) // detaches
	<-drained
	_ = tracer.Wait()
	p.shutdown(syscall.SIGTERM)

	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	type sync struct {
		file     string
		from, to time.Time
	}
	var syncs []sync
	begun := map[string]sync{} // of calls that are shown in two lines, by thread
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
			if strings.Contains(s.file, "/"+sp.stream+"/") && strings.HasSuffix(s.file, ".blk") && s.from.After(sp.from) && s.to.Before(sp.to) {
				found = true
				break
			}
		}
		require.True(t, found, "%s %d was answered before its block of %s was synced (%d syncs in all)", sp.what, sp.submitted, sp.stream, len(syncs))
	}
}

// stamp reads a time that strace wrote: seconds with a fraction.
func stamp(text string) time.Time {
	seconds, fraction, _ := strings.Cut(text, ".")
	s, _ := strconv.ParseInt(seconds, 10, 64)
	us, _ := strconv.ParseInt(fraction, 10, 64)
	return time.Unix(s, us*int64(time.Microsecond))
}
