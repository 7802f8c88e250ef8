//go:build chaos && linux

package chaostest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// built are the binaries under test, made once for all tests that want them at
// the same time.
var built struct {
	mu    sync.Mutex
	users int
	dir   string
}

// build returns the path of a sheaf with failpoints, and of a nats-server of
// the version in go.mod.
func build(t testing.TB) (sheaf, natsServer string) {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.users == 0 {
		dir, err := os.MkdirTemp("", "sheaf-chaos-bin-")
		require.NoError(t, err)
		built.dir = dir
		goBuild(t, "-tags", "failpoints", "-o", filepath.Join(dir, "sheaf"), "sheaf/cmd/sheaf")
		goBuild(t, "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2")
	}
	built.users++
	t.Cleanup(func() {
		built.mu.Lock()
		defer built.mu.Unlock()
		if built.users--; built.users == 0 {
			_ = os.RemoveAll(built.dir)
		}
	})
	return filepath.Join(built.dir, "sheaf"), filepath.Join(built.dir, "nats-server")
}

func goBuild(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"build"}, args...)...).CombinedOutput()
	require.NoError(t, err, "go build %v:\n%s", args, out)
}

// freeAddress returns a loopback address that no process listens on or was given.
func freeAddress() string { return fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort()) }

// process is a real process that is started again whenever it ends, until it
// is shut down.
type process struct {
	name   string
	path   string
	args   []string
	log    string // file with all that it wrote
	mayEnd bool   // by itself, with an exit code of 1
	ended  func(p *process, how string)
	begun  func(p *process)

	mu        sync.Mutex
	cmd       *exec.Cmd
	failpoint string         // of the next start
	sent      syscall.Signal // to the run that is on, the last that ends it
	asked     bool           // a SIGTERM was among them
	starts    int
	last      *os.ProcessState // how the last run ended
	closing   bool
	done      chan struct{}
	problems  []string
}

// Why a process ended.
const (
	endKilled    = "SIGKILL"
	endFailpoint = "failpoint"
	endDrained   = "SIGTERM"
	endItself    = "by itself"
)

// start begins to supervise. failpoint is for the first run alone, "" for none.
func (p *process) start(failpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failpoint, p.closing, p.done = failpoint, false, make(chan struct{})
	go p.supervise(p.done)
}

func (p *process) supervise(done chan struct{}) {
	defer close(done)
	// The kernel ends the child when the thread ends that made it: nothing
	// outlives a test that was cut off.
	runtime.LockOSThread()
	for {
		log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			p.problem("no log: %v", err)
			return
		}
		p.mu.Lock()
		if p.closing {
			p.mu.Unlock()
			_ = log.Close()
			return
		}
		cmd := exec.Command(p.path, p.args...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		failpoint := p.failpoint
		if failpoint != "" {
			cmd.Env = append(os.Environ(), "SHEAF_FAILPOINT="+failpoint)
		}
		_, _ = fmt.Fprintf(log, "--- %s start %d, failpoint %q\n", time.Now().Format(time.StampMilli), p.starts+1, failpoint)
		p.failpoint, p.sent, p.asked = "", 0, false
		err = cmd.Start()
		if err == nil {
			p.cmd = cmd
			p.starts++
		}
		p.mu.Unlock()
		if err != nil {
			p.problem("not started: %v", err)
			_ = log.Close()
			return
		}
		if p.begun != nil {
			p.begun(p)
		}
		_ = cmd.Wait()
		_ = log.Close()
		p.judge(cmd.ProcessState, failpoint)
	}
}

// judge tells an end that the suite brought about from one of the process's own.
func (p *process) judge(state *os.ProcessState, failpoint string) {
	p.mu.Lock()
	sent, asked, mayEnd := p.sent, p.asked, p.mayEnd
	p.cmd, p.last = nil, state
	p.mu.Unlock()
	status, _ := state.Sys().(syscall.WaitStatus)
	how := ""
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGKILL && sent == syscall.SIGKILL:
		how = endKilled
	case status.Signaled() && status.Signal() == syscall.SIGKILL && failpoint != "":
		how = endFailpoint
	case asked && status.Exited() && status.ExitStatus() == 0:
		how = endDrained // a SIGKILL may have come when it had just ended
	case asked && status.Signaled() && status.Signal() == syscall.SIGTERM:
		how = endDrained // before it had set up its handling of signals
	case mayEnd && status.Exited() && status.ExitStatus() == 1:
		how = endItself
		time.Sleep(200 * time.Millisecond) // like any supervisor
	default:
		p.problem("ended by itself: %v (failpoint %q, signal sent: %v)", state, failpoint, sent)
		time.Sleep(200 * time.Millisecond) // so that a process that cannot start does not fill the disk
	}
	if p.ended != nil {
		p.ended(p, how)
	}
}

func (p *process) problem(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, p.name+": "+fmt.Sprintf(format, args...))
}

// hit sends a signal to the running process, if there is one. The next run has
// the failpoint.
func (p *process) hit(sig syscall.Signal, failpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.sent == syscall.SIGKILL {
		return // it is away, or as good as
	}
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		p.sent, p.failpoint = sig, failpoint
		p.asked = p.asked || sig == syscall.SIGTERM
	}
	_ = p.cmd.Process.Signal(sig)
	if sig == syscall.SIGTERM {
		cmd := p.cmd
		time.AfterFunc(20*time.Second, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.cmd == cmd {
				p.problems = append(p.problems, p.name+": not stopped within 20 s of SIGTERM")
				p.sent = syscall.SIGKILL
				_ = cmd.Process.Kill()
			}
		})
	}
}

// signal sends a signal that does not end the process, if it runs.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig)
	}
}

// stopped reports whether the process runs and is stopped by SIGSTOP.
func (p *process) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	// proc(5): the state follows the name, which is in parentheses.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	_, state, found := strings.Cut(string(stat), ") ")
	return err == nil && found && strings.HasPrefix(state, "T")
}

// pause stops the process without ending it.
func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d) // nothing to wait for: the time itself is the fault
	_ = cmd.Process.Signal(syscall.SIGCONT)
}

// shutdown ends the process for good with a signal.
func (p *process) shutdown(sig syscall.Signal) {
	p.mu.Lock()
	done := p.done
	p.closing = true
	p.mu.Unlock()
	if done == nil {
		return
	}
	p.hit(sig, "")
	<-done
}

// complaints are the ends that nobody brought about, and what the log says of
// panics.
func (p *process) complaints() []string {
	p.mu.Lock()
	found := append([]string(nil), p.problems...)
	p.mu.Unlock()
	text, err := os.ReadFile(p.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return append(found, err.Error())
	}
	for line := range strings.Lines(string(text)) {
		for _, bad := range []string{"panic:", "level=ERROR msg=panic", "fatal error:", "DATA RACE", "SIGSEGV"} {
			if strings.Contains(line, bad) {
				found = append(found, p.name+": "+strings.TrimSpace(line))
			}
		}
	}
	return found
}

// tail is the end of the log.
func (p *process) tail(n int) string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// eventually asks every few milliseconds until ok, and reports whether it came
// to that before the time was over.
func eventually(ctx context.Context, within, every time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok() {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
