//go:build chaos && linux

package chaostest

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// needStrace skips a test that cannot attach strace.
func needStrace(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
}

// strace attaches strace to the running process until detach is called or the process ends. However strace
// ends, the kernel resumes the process.
func (p *process) strace(t testing.TB, args ...string) (detach func()) {
	t.Helper()
	p.mu.Lock()
	tracer := exec.CommandContext(t.Context(), "strace",
		append([]string{"-f", "-p", strconv.Itoa(p.cmd.Process.Pid)}, args...)...)
	p.mu.Unlock()
	said, err := tracer.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, tracer.Start())
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		_ = tracer.Process.Kill()
		_ = tracer.Wait()
		t.Skipf("strace may not attach to a process here (ptrace): %s", lines.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, said)
	}()
	detach = sync.OnceFunc(func() {
		_ = tracer.Process.Signal(syscall.SIGINT)
		<-drained
		_ = tracer.Wait()
	})
	t.Cleanup(detach)
	return detach
}

// failSyncs fails every fsync, or, if only is not "", those of that file or folder.
func (p *process) failSyncs(t testing.TB, only string) (detach func()) {
	t.Helper()
	args := []string{"-o", "/dev/null", "-e", "inject=fsync,fdatasync:error=EIO"} // bbolt calls fdatasync
	if only != "" {
		args = append(args, "-P", only)
	}
	return p.strace(t, args...)
}

// On a disk that fails every fsync, nothing is accepted, because cached data of a file need not be on disk.
// Callers get Retry-After, and the process soon exits with an error. On a working disk, the next process
// completes all accepted exports and accepts the refused ones.
func TestChaosFsyncFails(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	needStrace(t)
	t.Parallel()
	const log = "jetstream/jetstream/$G/streams/" + events.StreamEvents + "/msgs/1.blk"
	for _, c := range []struct {
		name    string
		only    string // file
		answers bool   // with at least one 503: nothing else fails earlier
		stops   bool   // it was sent SIGTERM just before
	}{
		{name: "all"},
		{name: "all as it stops", stops: true},
		{name: "log", only: log, answers: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var orders []*order
			for n := range 9 {
				o := &order{n: n, pages: 4, limit: 5, last: 3, callback: "nats"}
				switch {
				case n%3 == 0:
					o.raw, o.pages, o.last = true, 1, 5
				case n < 5 && n%3 == 1 && !c.answers:
					o.slow = 400 * time.Millisecond // still running when the disk fails
				}
				orders = append(orders, o)
			}
			before, meanwhile := orders[:5], orders[5:]
			w := newWorld(t, chaosSeed(t), orders)
			listen, address := freeAddress(), freeAddress()
			w.ingresses, w.natsURL = []string{"http://" + listen}, "nats://"+address
			w.files = "file://" + filepath.Join(w.dir, "sheaf", "files")
			p := w.serve("sheaf", "--http", listen, "--nats-listen", address)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if w.quiet = w.quietRun(ctx); w.quiet == nil {
				return
			}
			p.start("")
			w.connect()
			for _, o := range before {
				require.NoError(t, w.submit(ctx, o))
			}
			if c.answers {
				w.settle(ctx)
			}

			p.mu.Lock()
			p.mayEnd, p.closing = true, true // do not restart it
			ended := p.done
			p.mu.Unlock()
			if c.only != "" {
				c.only = filepath.Join(w.dir, "sheaf", c.only)
			}
			p.failSyncs(t, c.only)
			began := time.Now()
			if c.stops {
				p.hit(syscall.SIGTERM, "")
			}
			lives, dead := context.WithCancel(ctx)
			var callers sync.WaitGroup
			var refused atomic.Int64
			for _, o := range meanwhile {
				callers.Go(func() {
					r := w.refusals(lives, time.Minute, []*order{o}, func() {})
					refused.Add(int64(r.refused))
				})
			}
			select {
			case <-ended:
			case <-time.After(4 * time.Second): // a page waits 5 s for its acknowledgement
				w.problem("I12 not ended within 4 s of the first error")
				p.shutdown(syscall.SIGKILL)
			}
			took := time.Since(began)
			dead()
			callers.Wait()
			t.Logf("ended after %s, %d refused: %s", took.Round(time.Millisecond), refused.Load(), p.tail(2))
			if c.answers && refused.Load() == 0 {
				w.problem("I12 no caller got 503")
			}
			if why := p.tail(2); p.last.ExitCode() != 1 || !strings.HasPrefix(why, "sheaf: ") ||
				!strings.Contains(why, syscall.EIO.Error()) {
				w.problem("I12 the process ended with %v and said: %s", p.last, p.tail(15))
			}

			p.mayEnd = false
			p.start("")
			// The replay saves waiting until the server redelivers a dead process's work.
			w.strike(ctx, blow{kind: "replay"})
			for _, o := range meanwhile {
				if !o.accepted {
					require.NoError(t, w.submit(ctx, o))
				}
			}
			w.settle(ctx)
			t.Logf("settled %s after the first error", time.Since(began).Round(time.Millisecond))
			w.audit(ctx)
			w.report()
		})
	}
}

// On a disk that cannot make a finished workbook or its name durable, the export is not completed. It is
// retried with a new file, and the earlier files are deleted.
func TestChaosFsyncOfAWorkbookFails(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	needStrace(t)
	t.Parallel()
	orders := []*order{{n: 0, raw: true, pages: 1, limit: 5, last: 5}, {n: 1, pages: 2, limit: 5, last: 3}}
	w := newWorld(t, chaosSeed(t), orders)
	_, natsServer := build(t)
	w.externalServer(natsServer, freeAddress()) // so that the process below syncs nothing else
	files, listen := filepath.Join(w.dir, "files"), freeAddress()
	w.ingresses, w.files = []string{"http://" + listen}, "file://"+files
	args := []string{"--nats", w.natsURL, "--replicas", "1", "--secret-key", chaosSecret, "--files", w.files,
		"--public-url", w.ingresses[0]}
	w.serve("ingress", append([]string{"--roles", "ingress", "--http", listen}, args...)...)
	p := w.serve("worker", append([]string{"--roles", "crawler,assembler,notifier"}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if w.quiet = w.quietRun(ctx); w.quiet == nil {
		return
	}
	w.server.start("")
	w.connect()
	for _, p := range w.processes {
		p.start("")
	}
	status := func(o *order) int {
		d, err := w.detail(ctx, o.key)
		require.NoError(t, err)
		return d.Status
	}
	require.True(t, eventually(ctx, 20*time.Second, 20*time.Millisecond, func() bool {
		return strings.Contains(p.tail(100), "roles ") // it has started
	}), p.tail(15))
	folder := filepath.Join(files, events.DefaultTenant)
	for i, c := range []struct{ only, said string }{
		{"", "sync " + files + "/.drafts/"},
		{folder, "sync " + folder + ": "},
	} {
		detach := p.failSyncs(t, c.only)
		require.NoError(t, w.submit(ctx, orders[i]))
		require.True(t, eventually(ctx, 10*time.Second, 20*time.Millisecond, func() bool {
			return strings.Count(p.tail(1000), c.said) >= 2
		}), p.tail(15))
		require.Equal(t, events.StatusProcessing, status(orders[i]))
		detach()
		require.True(t, eventually(ctx, 20*time.Second, 20*time.Millisecond, func() bool {
			return status(orders[i]) == events.StatusSucceeded
		}), p.tail(15))
		require.Len(t, w.namesInStore(ctx), i+1)
	}
	w.settle(ctx)
	w.audit(ctx)
	w.report()
}
