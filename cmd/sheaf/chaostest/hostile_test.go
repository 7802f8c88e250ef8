//go:build chaos && linux

package chaostest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
)

// hostile is a way for a source to do harm, and the error_code that its export must end with.
type hostile struct {
	code  string
	serve http.HandlerFunc
}

// overHTTP1 lists the attacks that need HTTP/1.1 or work differently there.
var overHTTP1 = map[string]bool{
	"a reset": true, "no HTTP": true, "another protocol": true, "a flood of headers": true,
	"a flood of 1xx": true, "a body that is announced huge": true, "less than announced": true,
}

func always(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return conn
}

// hostilePage returns a page of n rows in the standard format.
func hostilePage(page, n int, pagetag string) string {
	var b strings.Builder
	b.WriteString(`{"errcode":0,"data":{"data":[{"id":"ID"}`)
	for i := range n {
		fmt.Fprintf(&b, `,{"id":"%d-%d"}`, page, i)
	}
	b.WriteString(`],"pagetag":` + pagetag + `}}`)
	return b.String()
}

func hostileSources(t *testing.T, release <-chan struct{}) map[string]hostile {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 200 {
		_, err := z.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	paged := func(answer func(page int) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.URL.Query().Get("page"))
			_, _ = io.WriteString(w, answer(page))
		}
	}
	good := hostilePage(1, 1, `{"page":1,"limit":100,"total":1,"total_page":1}`)
	return map[string]hostile{
		"HTML": {events.CodeSourceFormat, always("<html>login</html>")},
		"a gzip bomb": {events.CodeLimitBytes, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}},
		"an endless body": {events.CodeLimitBytes, func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
		}},
		"a body that is announced huge": {events.CodeLimitBytes,
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "9223372036854775807")
				_, _ = io.WriteString(w, "{")
			}},
		"deep nesting": {events.CodeSourceFormat,
			always(`{"errcode":0,"data":{"data":[{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]",
				100_000) + `}]}}`)},
		"a wide row": {events.CodeLimitColumns,
			always(`{"errcode":0,"data":{"data":[{` + strings.Repeat(`"a":1,`, 20_000) +
				`"b":1}],"pagetag":{"total_page":1}}}`)},
		"a long row": {events.CodeLimitBytes,
			always(`{"errcode":0,"data":{"data":[{"a":"` + strings.Repeat("x", 2<<20) +
				`"}],"pagetag":{"total_page":1}}}`)},
		"a drip": {events.CodeSourceTimeout, func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write([]byte(" ")); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}},
		"silence": {events.CodeSourceTimeout, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}},
		"a reset": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}},
		"no HTTP": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			_, _ = io.WriteString(conn, "220 smtp\r\n")
			_ = conn.Close()
		}},
		"another protocol": {events.CodeSourceHTTP, func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			_, _ = io.WriteString(conn,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}},
		"a flood of headers": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			_, _ = io.WriteString(conn,
				"HTTP/1.1 200 OK\r\n"+strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1000))
			_ = conn.Close()
		}},
		"a flood of 1xx": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			conn := hijack(w)
			_, _ = io.WriteString(conn,
				strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("y", 1000)+"\r\n\r\n", 1000))
			_ = conn.Close()
		}},
		"a redirect to the metadata": {events.CodeSourceHTTP, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		}},
		"garbage behind": {events.CodeSourceFormat, always(good + `{"more":1}`)},
		"a cut answer":   {events.CodeSourceFormat, always(good[:len(good)-9])},
		"less than announced": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, good)
		}},
		"gzip that is none": {events.CodeSourceFormat, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, good)
		}},
		"an encoding in an encoding": {events.CodeSourceFormat, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip, gzip")
			_, _ = w.Write(bomb.Bytes())
		}},
		"a milliard of pages": {events.CodeLimitPages,
			always(hostilePage(1, 1, `{"page":1,"limit":100,"total":100000000000,"total_page":1000000000}`))},
		"more pages with each": {events.CodeLimitPages, paged(func(page int) string {
			return hostilePage(page, 1, fmt.Sprintf(`{"page":%d,"limit":100,"total_page":%d}`, page, page*2))
		})},
		"the same page for ever": {events.CodePagingStuck,
			paged(func(int) string { return hostilePage(1, 100, `{"limit":100,"total_page":300}`) })},
		"fewer rows than it says": {events.CodeSourceIncomplete, paged(func(page int) string {
			n := 50
			if page > 3 {
				n = 0
			}
			return hostilePage(page, n,
				fmt.Sprintf(`{"page":%d,"limit":100,"total":300,"total_page":3}`, page))
		})},
		"more rows than allowed": {events.CodeLimitRows, paged(func(page int) string {
			return hostilePage(page, 100,
				fmt.Sprintf(`{"page":%d,"limit":100,"total":30000,"total_page":300}`, page))
		})},
		"long headers": {events.CodeSourceUnreachable, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("y", 1000))
			}
			_, _ = io.WriteString(w, good)
		}},
		"500 for ever": {events.CodeSourceHTTP,
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
	}
}

// Two hundred exports from hostile sources run beside ten from healthy ones. The ten complete, each hostile
// one ends with its error code, the process stays small, and no resources of the hostile ones remain.
func TestHostileSourcesAreContained(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until sources that do not answer are given up")
	}
	t.Parallel()
	const each = 8
	release := make(chan struct{})
	sources := hostileSources(t, release)
	require.GreaterOrEqual(t, each*len(sources), 200)
	mux := http.NewServeMux()
	names := map[string]string{}
	for name, h := range sources {
		path := "/" + regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-")
		names[name] = path
		mux.HandleFunc(path, h.serve)
	}
	mux.HandleFunc("/healthy", func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		_, _ = io.WriteString(w,
			hostilePage(page, 100, fmt.Sprintf(`{"page":%d,"limit":100,"total":2000,"total_page":20}`, page)))
	})
	newServer := func() *httptest.Server {
		server := httptest.NewUnstartedServer(mux)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(server.Close)
		return server
	}
	plain := newServer()
	plain.Start()
	// Over HTTP/2 one attack may end the connection, and with it the others that share it.
	newHTTP2 := func() *httptest.Server {
		server := newServer()
		server.EnableHTTP2 = true
		server.StartTLS()
		return server
	}
	http2, harms2 := newHTTP2(), map[string]*httptest.Server{}
	for name := range sources {
		if !overHTTP1[name] {
			harms2[name] = newHTTP2()
		}
	}
	t.Cleanup(func() { close(release) }) // before the servers wait for their handlers

	dir := t.TempDir()
	authority := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(authority,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: http2.Certificate().Raw}), 0o600))
	binary, _ := build(t)
	address := freeAddress()
	start := func(name string) (cmd *exec.Cmd, quit func() string) {
		logs, err := os.Create(filepath.Join(dir, name+".log"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = logs.Close() })
		cmd = exec.Command(binary, "serve", "--http", address, "--nats-listen", "none", "--data",
			filepath.Join(dir, name), "--log-level", "warn",
			"--page-timeout", "3s", "--header-timeout", "2s", "--max-page-bytes", "8MiB", "--max-row-bytes",
			"1MiB", "--max-pages", "500", "--max-rows", "10000",
			"--conns-per-host", "0") // all of them use two hosts
		cmd.Stdout, cmd.Stderr = logs, logs
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+authority)
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, func() string { // SIGQUIT makes a process list its goroutines
			require.NoError(t, cmd.Process.Signal(syscall.SIGQUIT))
			require.Error(t, <-ended)
			dump, err := os.ReadFile(logs.Name())
			require.NoError(t, err)
			_, list, ok := strings.Cut(string(dump), "SIGQUIT")
			require.True(t, ok, "%s", dump)
			return list
		}
	}
	ask := func(method, path, body string) (status int, data json.RawMessage) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path,
			strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, nil
		}
		defer resp.Body.Close()
		var a struct{ Data json.RawMessage }
		_ = json.NewDecoder(resp.Body).Decode(&a)
		return resp.StatusCode, a.Data
	}
	ready := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			s,
				_ := ask(http.MethodGet, "/readyz", "")
			return s == http.StatusOK
		}, 30*time.Second, 20*time.Millisecond)
	}
	submit := func(title, url string) string {
		_, data := ask(http.MethodPost, "/v1/export/http",
			fmt.Sprintf(`{"timestamp":1,"ext_type":"XLSX","title":%q,"user_id":"7","source_http":{"url":%q,"param":{"limit":100}}}`, title, url))
		var accepted struct {
			Key string `json:"hash_key"`
		}
		require.NoError(t, json.Unmarshal(data, &accepted))
		require.True(t, events.ValidKey(accepted.Key), title)
		return accepted.Key
	}
	type outcome struct {
		Status    int    `json:"status"`
		ErrorCode string `json:"error_code"`
		Reason    string `json:"fail_reason"`
		Rows      int64  `json:"rows"`
	}
	detail := func(key string) (o outcome) {
		_, data := ask(http.MethodGet, "/v1/export/detail?key="+key, "")
		_ = json.Unmarshal(data, &o)
		return o
	}
	// Goroutines of an idle process are allowed after the attacks too.
	_, quit := start("idle")
	ready()
	complete := func(key string) {
		t.Helper()
		require.Eventually(t, func() bool { return detail(key).Status == events.StatusSucceeded },
			60*time.Second, 20*time.Millisecond, "a healthy export: %+v", detail(key))
	}
	for _, server := range []*httptest.Server{plain, http2} {
		complete(submit("healthy", server.URL+"/healthy"))
	}
	idle := goroutines(quit())
	cmd, quit := start("data")
	ready()
	began := time.Now()
	bad := map[string]string{} // name by key
	for n := range each {
		for name, path := range names {
			server := plain
			if n%4 == 3 && harms2[name] != nil {
				server = harms2[name]
			}
			bad[submit(fmt.Sprintf("%s %d", name, n), server.URL+path)] = name
		}
	}
	var healthy []string
	for n := range 10 {
		healthy = append(healthy,
			submit(fmt.Sprintf("healthy %d", n), []*httptest.Server{plain, http2}[n%2].URL+"/healthy"))
	}
	for _, key := range healthy {
		complete(key)
		require.EqualValues(t, 2000, detail(key).Rows)
	}
	took := time.Since(began)
	for key, name := range bad {
		require.Eventually(t, func() bool { return detail(key).Status != events.StatusProcessing },
			3*time.Minute, 50*time.Millisecond, name)
		o := detail(key)
		require.Equal(t, sources[name].code, o.ErrorCode, "%s: %s", name, o.Reason)
		for _, leaked := range []string{"login", "smtp", "169.254", "meta-data", "yyyy", "xxxx"} {
			require.NotContains(t, o.Reason, leaked, name)
		}
	}
	all := time.Since(began)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	require.NoError(t, err)
	peak, err := strconv.Atoi(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status))[1])
	require.NoError(t, err)
	t.Logf("ten healthy exports after %s, all after %s; peak resident memory %d MiB",
		took.Round(time.Millisecond), all.Round(time.Millisecond), peak>>10)
	require.Less(t, peak>>10, 512)

	for creator, n := range goroutines(quit()) {
		if strings.HasPrefix(creator, "net/http.(*") ||
			strings.HasPrefix(creator, "net/http/internal/http2.(*") {
			continue // idle connections kept for the next export, at most 128 per host
		}
		require.LessOrEqual(t, n, idle[creator]+2, "goroutines started by %s", creator)
	}
}

// goroutines counts the goroutines of a dump by the function that started them.
func goroutines(dump string) map[string]int {
	counts := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^created by (\S+)`).FindAllStringSubmatch(dump, -1) {
		counts[m[1]]++
	}
	return counts
}
