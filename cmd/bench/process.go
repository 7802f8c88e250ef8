//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopWithin is how long a process may take to end after SIGTERM. Sheaf promises 15 s.
const stopWithin = 20 * time.Second

// process is a child process that runs beside the benchmark.
type process struct {
	cmd   *exec.Cmd
	first string // first line of its stdout
	pid   int    // of the program itself, even under strace
	ended chan error
	log   string
}

// start starts a program and waits for its first line. Its stderr goes to a file in dir.
func start(ctx context.Context, dir string, argv ...string) (*process, error) {
	log, err := os.CreateTemp(dir, filepath.Base(argv[0])+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan error, 1), log: log.Name()}
	p.cmd.Stderr = log
	// Children must not outlive a benchmark that was killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	line := make(chan string, 1)
	go func() {
		r := bufio.NewReader(out)
		first, _ := r.ReadString('\n')
		line <- strings.TrimSpace(first)
		_, _ = io.Copy(io.Discard, r)
		p.ended <- p.cmd.Wait()
	}()
	select {
	case p.first = <-line:
	case <-ctx.Done():
	}
	if p.first == "" {
		_ = p.cmd.Process.Kill()
		return nil, fmt.Errorf("%s did not start: %w; it said:\n%s", argv[0],
			errors.Join(ctx.Err(), <-p.ended), p.said())
	}
	return p, nil
}

// said returns the end of the process's stderr.
func (p *process) said() []byte {
	b, _ := os.ReadFile(p.log)
	return b[max(0, len(b)-2000):]
}

// stop ends the process with SIGTERM.
func (p *process) stop() error {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("%s: %w; it said:\n%s", p.cmd.Path, err, p.said())
		}
		return nil
	case <-time.After(stopWithin):
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		return fmt.Errorf("%s did not end within %s of SIGTERM", p.cmd.Path, stopWithin)
	}
}

// peak returns the process's peak resident memory, in bytes.
func (p *process) peak() (int64, error) { return peakOf(strconv.Itoa(p.pid)) }

// peakOf returns VmHWM of a process; "self" means this one.
func peakOf(pid string) (int64, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM of process %s", pid)
}

// clockTick is the unit of processor time in /proc/PID/stat. Linux reports 100 ticks per second on every
// machine (USER_HZ).
const clockTick = time.Second / 100

// cpu returns the processor time used by the process, with a resolution of 20 ms.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name in parentheses may contain anything; utime and stime are the 14th and 15th fields
	// (proc_pid_stat(5)).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is short", p.pid)
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err, err2)
}

// usage is the resource usage of a finished program.
type usage struct {
	wall, cpu time.Duration
	peak      int64 // resident memory, in bytes
	out       string
}

// run runs a program to its end. Linux starts a child with the memory of this process, which counts towards
// the child's peak. So this process must stay small and does heavy work in children.
func run(ctx context.Context, argv ...string) (usage, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	err := cmd.Run()
	u := usage{wall: time.Since(begin), out: stdout.String()}
	if err != nil {
		said := stderr.Bytes()
		return u, fmt.Errorf("%s: %w; it said:\n%s", strings.Join(argv, " "), err,
			said[max(0, len(said)-2000):])
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	u.peak = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return u, nil
}

// childOf returns the only child of a process.
func childOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	children := strings.Fields(string(b))
	if len(children) != 1 {
		return 0, fmt.Errorf("process %d has %d children, want 1", pid, len(children))
	}
	return strconv.Atoi(children[0])
}
