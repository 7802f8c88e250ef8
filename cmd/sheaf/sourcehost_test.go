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

// A web site can point its own name at any address, and read through a browser what answers there.
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
				ended <- run(ctx, append([]string{"source", "x.json"}, c.args...), stdio{strings.NewReader(""), started, &out}, noLog)
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
