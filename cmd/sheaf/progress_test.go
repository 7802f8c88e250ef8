//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal. text closes it, and returns all that was written to it.
func terminal(t testing.TB) (tty *os.File, text func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tty.Close() })
	all := make(chan string)
	go func() {
		data, _ := io.ReadAll(master) // it ends with EIO once the other side is closed
		all <- string(data)
	}()
	return tty, func() string {
		require.NoError(t, tty.Close())
		return <-all
	}
}

// shown returns the final screen for a text, line by line: \r returns to the first column, and \x1b[K erases
// from there on.
func shown(text string) (lines []string) {
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		var cells []rune
		at := 0
		for line != "" {
			switch {
			case strings.HasPrefix(line, "\r"):
				at, line = 0, line[1:]
			case strings.HasPrefix(line, "\x1b[K"), strings.HasPrefix(line, "\x1b[0K"):
				cells = cells[:min(at, len(cells))]
				_, line, _ = strings.Cut(line, "K")
			default:
				r := []rune(line)[0]
				cells = append(cells[:min(at, len(cells))], append([]rune{r}, cells[min(at+1, len(cells)):]...)...)
				at, line = at+1, line[len(string(r)):]
			}
		}
		lines = append(lines, strings.TrimRight(string(cells), " "))
	}
	return lines
}

// progressing returns a phase of an export for each request, and logs before each, as a server in the same
// process does.
func progressing(t testing.TB, phases ...string) string {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/export/detail" {
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"hash_key":%q}}`, testKey)
			return
		}
		i := n.Add(1)
		slog.Error("log line", "n", i)
		_, _ = io.WriteString(w, phases[min(int(i), len(phases))-1])
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func phase(name string, done int) string {
	return fmt.Sprintf(`{"errcode":0,"data":{"hash_key":%q,"status":1,"progress":{"phase":%q,"pages_done":%d,"pages_total":4,"rows":1234567}}}`, testKey, name, done)
}

var failedDetail = fmt.Sprintf(`{"errcode":0,"data":{"hash_key":%q,"status":3,"fail_reason":"page 4: HTTP 500","error_code":"SOURCE_HTTP",`+
	`"progress":{"phase":"done","pages_done":4,"pages_total":4,"rows":7}}}`, testKey)

func TestLogAndBarDoNotMix(t *testing.T) {
	t.Chdir(t.TempDir())
	url := progressing(t, phase("crawling", 1), phase("crawling", 3), phase("assembling", 2), failedDetail)
	tty, text := terminal(t)
	keepLog(t)
	code := run(t.Context(), []string{"export", "http://127.0.0.1:1/", "-o", "x.xlsx", "--server", url}, stdio{in: strings.NewReader(""), out: io.Discard, err: tty}, slog.SetDefault)
	require.Equal(t, exitFailed, code)
	all := text()
	require.Contains(t, all, "░", "a bar was drawn")
	lines := shown(all)
	require.Len(t, lines, 6, all)
	for i, line := range lines[:4] {
		require.Regexp(t, fmt.Sprintf(`^time=\S+ level=ERROR msg="log line" n=%d$`, i+1), line)
	}
	require.Equal(t, []string{"sheaf: the export failed: page 4: HTTP 500 (SOURCE_HTTP)", ""}, lines[4:], "once, in place of the bar")
	require.NotContains(t, all, "done")
}

func TestBarOfASuccessStays(t *testing.T) {
	file := zipOf(t, "a.xlsx")
	t.Chdir(t.TempDir())
	server := answers(t, map[string]any{
		"/v1/export/detail": func() map[string]any {
			d := succeeded("/v1/down/x.zip", file)
			d["progress"] = map[string]any{"phase": "done", "pages_done": 4, "pages_total": 4, "rows": 3}
			return d
		}(),
		"/v1/export/http": map[string]any{"hash_key": testKey},
		"/v1/down/x.zip":  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(file) }),
	})
	tty, text := terminal(t)
	keepLog(t)
	code := run(t.Context(), []string{"export", "http://127.0.0.1:1/", "-o", "x.xlsx", "--server", server.URL}, stdio{in: strings.NewReader(""), out: io.Discard, err: tty}, slog.SetDefault)
	require.Zero(t, code)
	lines := shown(text())
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], "done")
	require.Contains(t, lines[0], "100%")
	require.Regexp(t, `^3 rows in `, lines[1])
}

// A failure is printed once, whatever stderr is, by each command that waits for an export.
func TestFailureIsSaidOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	source := httptest.NewServer(http.NotFoundHandler())
	defer source.Close()
	watching := progressing(t, failedDetail)
	for _, args := range [][]string{
		{"export", source.URL, "-o", "x.xlsx"}, // in this process: its log is here too
		{"watch", testKey, "--server", watching, "--log-level", "error"},
		{"submit", "--url", source.URL, "--wait", "--server", watching},
		{"retry", testKey, "--wait", "--server", watching},
	} {
		code, out, errs := logging(t, args...)
		require.Equal(t, exitFailed, code)
		require.Equal(t, 1, strings.Count(out+errs, "HTTP "), "%s%s", out, errs)
		require.NotContains(t, errs, "done")
		require.NotContains(t, errs, "WARN")
	}
}

// The user of a one-shot command can act on all its warnings. By default there are none, and the limits that
// they name are flags of the command.
func TestOneShotWarnsOfNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	code, _, errs := logging(t, "demo", "--rows", "3", "--log-level", "warn")
	require.Zero(t, code)
	require.NotContains(t, errs, "level")

	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"data":{"data":[{"a":"A","b":"B"},{"a":1,"b":2}]}}`)
	}))
	defer source.Close()
	code, _, errs = logging(t, "export", source.URL, "-o", "x.xlsx", "--max-columns", "1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "more than 1 fields (--max-columns)")
	onlyFiles(t, "sheaf-demo")
}
