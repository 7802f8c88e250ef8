package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A web site can point its own name at any address, and read the answers there through a browser.
func TestSourceAnswersUnderItsOwnHostsOnly(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("x.json", []byte(`[{"id":1}]`), 0o600))
	machine, err := os.Hostname()
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args []string
		want map[string]int
	}{
		"loopback": {[]string{"--listen", "127.0.0.1:0"}, map[string]int{
			"evil.example": 421, "evil.example:80": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421,
			"localhost": 200, "LOCALHOST.:80": 200, "127.0.0.1": 200, "[::1]:8090": 200, machine: 200,
		}},
		"every address": {[]string{"--listen", "0.0.0.0:0", "--host", "source,files.example"}, map[string]int{
			"evil.example": 421, "10.0.0.1.evil.example:80": 421,
			"10.0.0.1:8090": 200, "[fd00::1]": 200, "localhost:1": 200, "source:8090": 200, "Files.example": 200, machine: 200,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			var out output
			started, ended := &firstWrite{Writer: &out, done: make(chan struct{})}, make(chan int, 1)
			go func() {
				ended <- run(ctx, append([]string{"source", "x.json"}, c.args...), stdio{in: strings.NewReader(""), out: started, err: &out}, noLog)
			}()
			<-started.done
			_, port, err := net.SplitHostPort(strings.Trim(strings.TrimPrefix(strings.Fields(out.String())[0], "http:"), "/"))
			require.NoError(t, err)
			for host, want := range c.want {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+"/?page=1", nil)
				require.NoError(t, err)
				req.Host = host
				res, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				require.Equal(t, want, res.StatusCode, host)
			}
			http.DefaultClient.CloseIdleConnections()
			stop()
			require.Zero(t, <-ended)
		})
	}
}

// firstWrite closes done after the first write.
type firstWrite struct {
	io.Writer
	once sync.Once
	done chan struct{}
}

func (f *firstWrite) Write(p []byte) (int, error) {
	defer f.once.Do(func() { close(f.done) })
	return f.Writer.Write(p)
}

func TestSourceCommandReadsCSV(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("a.csv", []byte("编号;zip;n\n1;01234;2\n"), 0o600))
	require.NoError(t, os.WriteFile("a.txt", []byte("a,b\n1,2\n"), 0o600))
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"a.csv"}, "1 rows, 3 columns\nCSV in utf-8, delimiter \";\"; numbers in: 编号, n; text, because of values such as 007, +1, 1e5 or more than 15 digits: zip\n"},
		{[]string{"a.csv", "--text"}, "CSV in utf-8, delimiter \";\"\n"},
		{[]string{"--text", "a.csv"}, "CSV in utf-8, delimiter \";\"\n"},
		{[]string{"--text", "n", "a.csv"}, "numbers in: 编号; text"},
		{[]string{"a.csv", "--text=n,编号"}, "delimiter \";\"; text, because"},
		{[]string{"a.csv", "--text", "--max-limit", "5"}, "CSV in utf-8, delimiter \";\"\n"},
		{[]string{"a.txt", "--delimiter", "tab"}, "1 columns\nCSV in utf-8, delimiter tab\n"},
		{[]string{"a.txt", "--delimiter", ",", "--encoding", "gbk"}, "2 columns\nCSV in gbk, delimiter \",\"; numbers in: a, b\n"},
	} {
		code, out, errs := sheaf(t, stopped, "", append([]string{"source", "--listen", "127.0.0.1:0"}, c.args...)...)
		require.Zero(t, code, errs)
		require.Contains(t, out, c.want, c.args)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give a file"},
		{[]string{"--text"}, "give a file"},
		{[]string{"a.csv", "--text", "x"}, `no column "x"`},
		{[]string{"a.csv", "--delimiter", ";;"}, "--delimiter"},
		{[]string{"a.csv", "--delimiter", "；"}, "--delimiter"},
		{[]string{"a.csv", "--delimiter", "\""}, "--delimiter"},
		{[]string{"a.csv", "--encoding", "x"}, "--encoding"},
		{[]string{"a.csv", "--listen", "127.0.0.1"}, "want HOST:PORT"},
		{[]string{"a.csv", "--listen", ""}, "want HOST:PORT"},
	} {
		code, _, errs := sheaf(t, stopped, "", append([]string{"source", "--listen", "127.0.0.1:0"}, c.args...)...)
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, c.want)
	}
	code, out, _ := sheaf(t, t.Context(), "", "source", "--help")
	require.Zero(t, code)
	for _, want := range []string{"--text", "--delimiter", "--encoding", "007", "An empty line is a row"} {
		require.Contains(t, out, want)
	}
}
