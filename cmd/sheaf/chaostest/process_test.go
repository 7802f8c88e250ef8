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

// built holds the binaries under test, built once for all concurrent tests.
var built struct {
	mu    sync.Mutex
	users int
	dir   string
}

// build returns the paths of a sheaf with failpoints and of a nats-server of the version in go.mod.
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

// freeAddress returns a loopback address that is not in use and was not returned before.
func freeAddress() string { return fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort()) }

// process is a real process that is restarted whenever it ends, until it is shut down.
type process struct {
	name   string
	path   string
	args   []string
	log    string // file with all its output
	mayEnd bool   // it may exit by itself with code 1
	ended  func(p *process, how string)
	begun  func(p *process)

	mu        sync.Mutex
	cmd       *exec.Cmd
	failpoint string         // for the next start
	sent      syscall.Signal // to the current run: the last signal that ends it
	asked     bool           // a SIGTERM was among the signals
	starts    int
	last      *os.ProcessState // how the last run ended
	closing   bool
	done      chan struct{}
	problems  []string
}

// Reasons why a process ended.
const (
	endKilled    = "SIGKILL"
	endFailpoint = "failpoint"
	endDrained   = "SIGTERM"
	endItself    = "by itself"
)

// start starts and supervises the process. failpoint applies to the first run only; "" means none.
func (p *process) start(failpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failpoint, p.closing, p.done = failpoint, false, make(chan struct{})
	go p.supervise(p.done)
}

func (p *process) supervise(done chan struct{}) {
	defer close(done)
	// The kernel kills the child when the thread that created it ends, so no process outlives an aborted
	// test.
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
		_, _ = fmt.Fprintf(log, "--- %s start %d, failpoint %q\n", time.Now().Format(time.StampMilli),
			p.starts+1, failpoint)
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

// judge classifies an exit: caused by the suite, or by the process itself.
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
		how = endDrained // it had just exited when the SIGKILL arrived
	case asked && status.Signaled() && status.Signal() == syscall.SIGTERM:
		how = endDrained // it had not installed its signal handler yet
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

// hit sends a signal to the process if it is running. The next run gets the failpoint.
func (p *process) hit(sig syscall.Signal, failpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.sent == syscall.SIGKILL {
		return // it has ended, or is about to
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

// signal sends the process a signal that does not end it, if it is running.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig)
	}
}

// stopped reports whether the process is running and stopped by SIGSTOP.
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

// pause stops the process for a while.
func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d) // not waiting for anything: the duration is the fault
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

// complaints lists exits that the suite did not cause, and panics in the log.
func (p *process) complaints() []string {
	p.mu.Lock()
	found := append([]string(nil), p.problems...)
	p.mu.Unlock()
	text, err := os.ReadFile(p.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return append(found, err.Error())
	}
	for line := range strings.Lines(string(text)) {
		for _, bad := range []string{"panic:", "level=ERROR msg=panic", "fatal error:",
			"DATA RACE", "SIGSEGV"} {
			if strings.Contains(line, bad) {
				found = append(found, p.name+": "+strings.TrimSpace(line))
			}
		}
	}
	return found
}

// tail returns the last n lines of the log.
func (p *process) tail(n int) string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// eventually polls ok until it returns true, and reports whether it did so in time.
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
