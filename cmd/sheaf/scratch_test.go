package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// asCommand makes the test binary run as sheaf.
const asCommand = "SHEAF_TEST_AS_COMMAND"

// command is a command line of sheaf that is to run as a process in a folder, "" for the
// package's.
func command(t testing.TB, folder string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), asCommand+"=1")
	return cmd
}

// startCommand starts a command line of sheaf in a folder. It is killed at the end of the
// test.
func startCommand(t testing.TB, folder string, args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	cmd, stderr = command(t, folder, args...), &bytes.Buffer{}
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, stderr
}

// holdingSource answers with one row once it is released, and signals a request.
func holdingSource(t testing.TB) (url string, asked <-chan struct{}, release func()) {
	heard, open := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard <- struct{}{}
		select {
		case <-open:
			fmt.Fprint(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":500,"total":1,"total_page":1}}}`)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, heard, func() { close(open) }
}

func names(t testing.TB, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func exitStatus(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return cmd.ProcessState.ExitCode()
}

func TestSignalsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(sig) {
				t.Skip("the tests were started with nohup, and so is the command")
			}
			folder := t.TempDir()
			url, asked, _ := holdingSource(t)
			cmd, stderr := startCommand(t, folder, "export", url, "-o", "x.xlsx", "-H", "Authorization: Bearer secret")
			<-asked
			require.Len(t, names(t, folder), 1, "the scratch folder")
			require.NoError(t, cmd.Process.Signal(sig))
			require.Equal(t, exitInterrupted, exitStatus(t, cmd), stderr)
			require.Contains(t, stderr.String(), "was cancelled")
			require.Empty(t, names(t, folder))
		})
	}
}

// As in sheaf export … | head -1.
func TestOutputThatNobodyReadsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	url, _, release := holdingSource(t)
	release()
	cmd := command(t, folder, "export", url, "-o", "x.xlsx")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = writer, writer
	require.NoError(t, reader.Close())
	require.NoError(t, cmd.Start())
	require.NoError(t, writer.Close())
	require.GreaterOrEqual(t, exitStatus(t, cmd), 0, "no signal ends it")
	require.Equal(t, []string{"x.xlsx"}, names(t, folder))
}

func TestIgnoredHangupStaysIgnored(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	url, asked, release := holdingSource(t)
	inner := command(t, folder, "export", url, "-o", "x.xlsx")
	cmd := exec.Command("sh", append([]string{"-c", `trap "" HUP; exec "$0" "$@"`}, inner.Args...)...)
	cmd.Dir, cmd.Env = inner.Dir, inner.Env
	require.NoError(t, cmd.Start())
	<-asked
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	release()
	require.Zero(t, exitStatus(t, cmd))
	require.Equal(t, []string{"x.xlsx"}, names(t, folder))
}

func TestNextRunRemovesWhatAKilledOneLeft(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	url, asked, release := holdingSource(t)
	var killed []string
	for range 2 {
		cmd, _ := startCommand(t, folder, "export", url, "-o", "x.xlsx")
		<-asked
		killed = names(t, folder)
		require.Len(t, killed, 1, "the second has removed what the first left")
		require.NoError(t, cmd.Process.Kill())
		require.Equal(t, -1, exitStatus(t, cmd))
	}
	// A running command keeps its folder, also while another runs and ends beside it.
	alive, stderr := startCommand(t, folder, "export", url, "-o", "a.xlsx")
	<-asked
	require.NotContains(t, names(t, folder), killed[0])
	other, _ := startCommand(t, folder, "export", url, "-o", "b.xlsx")
	<-asked
	require.Len(t, names(t, folder), 2)
	release()
	require.Zero(t, exitStatus(t, alive), stderr)
	require.Zero(t, exitStatus(t, other))
	require.Equal(t, []string{"a.xlsx", "b.xlsx"}, names(t, folder))
}

func TestSweepTakesOnlyFoldersOfDeadCommands(t *testing.T) {
	t.Parallel()
	folder, elsewhere := t.TempDir(), t.TempDir()
	keep := filepath.Join(elsewhere, "keep")
	require.NoError(t, os.WriteFile(keep, nil, 0o600))
	live, err := newScratch(folder)
	require.NoError(t, err)
	scratchOf := func(name string, mode os.FileMode, files ...string) {
		require.NoError(t, os.Mkdir(filepath.Join(folder, name), 0o700))
		for _, file := range files {
			require.NoError(t, os.WriteFile(filepath.Join(folder, name, file), nil, 0o600))
		}
		require.NoError(t, os.Chmod(filepath.Join(folder, name), mode))
	}
	scratchOf(".sheaf-scratch-dead", 0o700, "workbook")
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(folder, ".sheaf-scratch-dead", "link")))
	scratchOf(".sheaf-scratch-empty", 0o700)
	scratchOf(".sheaf-scratch-shared", 0o777, "x") // others could have put anything there
	scratchOf(".sheaf-data", 0o700, "secret.key")  // another name
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(folder, ".sheaf-scratch-link")))
	require.NoError(t, os.WriteFile(filepath.Join(folder, ".sheaf-scratch-file"), nil, 0o600))

	next, err := newScratch(folder)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		filepath.Base(live.path), filepath.Base(next.path), ".sheaf-scratch-shared", ".sheaf-data", ".sheaf-scratch-link", ".sheaf-scratch-file",
	}, names(t, folder))
	require.FileExists(t, keep)
	require.NoError(t, live.close())
	require.NoError(t, next.close())
	require.NoDirExists(t, live.path)
}

// Many concurrent commands in one folder neither lose their folders nor leave any.
func TestScratchFoldersAtOnce(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	done := make(chan error)
	for range 8 {
		go func() {
			for range 25 {
				s, err := newScratch(folder)
				if err == nil {
					err = os.WriteFile(s.file("x"), nil, 0o600)
				}
				if err == nil {
					err = s.close()
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		require.NoError(t, <-done)
	}
	require.Empty(t, names(t, folder))
}

func TestOnlyRegularFilesAreReplaced(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	server := answers(t, map[string]any{
		"/v1/export/detail": succeeded("/v1/down/x.zip", zipOf(t, "a.xlsx")),
		"/v1/down/x.zip":    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(zipOf(t, "a.xlsx")) }),
	})
	require.NoError(t, os.Symlink("nowhere", "dangling"))
	require.NoError(t, os.WriteFile("file", nil, 0o600))
	require.NoError(t, os.Symlink("file", "link"))
	require.NoError(t, unix.Mkfifo("pipe", 0o600))
	require.NoError(t, os.Mkdir("folder", 0o700))
	for name, want := range map[string]string{
		"dangling": "symbolic link", "link": "symbolic link", "pipe": "a pipe", "folder": "is a folder", "-": "stdout",
		"/dev/null": "a device", "/dev/stdout": "name", "file/x": "no folder",
	} {
		for _, args := range [][]string{
			{"download", testKey, "--server", server.URL}, {"export", "http://127.0.0.1:1/"}, {"export", "http://127.0.0.1:1/", "--server", server.URL},
		} {
			for _, force := range [][]string{nil, {"-f"}} {
				before := names(t, ".")
				code, out, errs := sheaf(t, t.Context(), "", append(append(args, "-o", name), force...)...)
				require.Equal(t, exitUsage, code, "%s: %s", name, errs)
				require.Contains(t, errs, want)
				require.Empty(t, out)
				require.Equal(t, before, names(t, "."))
			}
		}
	}
	require.NoError(t, os.Mkdir("demo", 0o700))
	require.NoError(t, os.Symlink("../file", "demo/demo-1.xlsx"))
	code, _, errs := sheaf(t, t.Context(), "", "demo", "--rows", "1", "--out", "demo")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "symbolic link")

	code, _, errs = sheaf(t, t.Context(), "", "download", testKey, "--server", server.URL, "-f", "-o", "file")
	require.Zero(t, code, errs)
	info, err := os.Lstat("file")
	require.NoError(t, err)
	require.NotZero(t, info.Size())
}

// A file that appears between the check and the end of the work is safe too.
func TestPlaceReplacesNothingUnasked(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	from, to := filepath.Join(folder, "from"), filepath.Join(folder, "to")
	require.NoError(t, os.WriteFile(from, []byte("new"), 0o600))
	require.NoError(t, os.WriteFile(to, []byte("old"), 0o600))
	require.ErrorContains(t, place(from, to, false), "exists")
	require.NoError(t, place(from, to, true))
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
}

func TestFilesHaveTheModeOfTheUmask(t *testing.T) {
	t.Parallel()
	for umask, want := range map[string]os.FileMode{"077": 0o600, "027": 0o640, "002": 0o664} {
		t.Run(umask, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			inner := command(t, folder, "demo", "--rows", "1", "--out", "demo")
			cmd := exec.Command("sh", append([]string{"-c", "umask " + umask + `; exec "$0" "$@"`}, inner.Args...)...)
			cmd.Dir, cmd.Env = inner.Dir, inner.Env
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			for name, mode := range map[string]os.FileMode{"demo/demo-1.zip": want, "demo/demo-1.xlsx": want, "demo": want | want>>2&0o111} {
				info, err := os.Stat(filepath.Join(folder, name))
				require.NoError(t, err)
				require.Equal(t, mode, info.Mode().Perm(), name)
			}
		})
	}
}
