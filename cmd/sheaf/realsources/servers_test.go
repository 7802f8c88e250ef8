package realsources

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

// server is a program that .ci/sources installs.
type server struct {
	folder  string
	command []string
	ready   string // path that it answers once it has all rows
}

var (
	pocketbase  = server{"pocketbase", []string{"./pocketbase"}, "/api/collections/orders/records"}
	jsonServer0 = server{"json-server-0", []string{"node", "start.mjs"}, "/orders?_limit=1"}
	jsonServer1 = server{"json-server-1", []string{"node", "start.mjs"}, "/orders?_page=1"}
	graphqlYoga = server{"graphql-yoga", []string{"node", "start.mjs"}, "/graphql?query={orders{totalCount}}"}
	feathers    = server{"feathers", []string{"node", "start.mjs"}, "/orders"}
	drf         = server{"drf", []string{"/usr/bin/python3", "start.py"}, "/page/"}
)

// start starts the server on a free port and returns its URL. The test is skipped if it is not installed.
func (s server) start(t *testing.T) string {
	t.Helper()
	installed := os.Getenv("SHEAF_SOURCES")
	if installed == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		installed = filepath.Join(home, ".cache", "sheaf-sources")
	}
	folder := filepath.Join(installed, s.folder)
	if _, err := os.Stat(filepath.Join(folder, ".installed")); err != nil {
		t.Skipf("%s is not installed; run .ci/sources", s.folder)
	}
	port := eventstest.FreePort()
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), s.command[0], s.command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = folder, &log, &log
	cmd.Env = append(os.Environ(), "PORT="+strconv.Itoa(port), "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel ends the process with the thread that started it, so it does not outlive an aborted
		// test.
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", s.folder, log.String())
		}
	})
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	require.Eventually(t, func() bool {
		res, err := direct.Get(url + s.ready)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err == nil && res.StatusCode == http.StatusOK
	}, time.Minute, 20*time.Millisecond, "%s does not answer", s.folder)
	return url
}

// direct asks sources without Sheaf. It keeps no connection.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// rowsOf asks for pages until they have n rows, and returns the rows as sent. The path leads to the array of
// each response; page i begins after the rows before it.
func rowsOf(t testing.TB, n int, page func(i int) *http.Request, path ...string) (rows []json.RawMessage) {
	t.Helper()
	for i := 0; len(rows) < n; i++ {
		res, err := direct.Do(page(i).WithContext(t.Context()))
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, res.Body.Close())
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, "%s", body)
		at := json.RawMessage(body)
		for _, name := range path {
			var members map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(at, &members))
			at = members[name]
		}
		var more []json.RawMessage
		require.NoError(t, json.Unmarshal(at, &more))
		require.NotEmpty(t, more)
		rows = append(rows, more...)
	}
	require.Len(t, rows, n)
	return rows
}

// from counts pages from n.
func from(n int) func(i int) int { return func(i int) int { return i + n } }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// get makes pages of a URL with two verbs: the page or offset, and the page size.
func get(t testing.TB, format string, at func(i int) int, size int) func(i int) *http.Request {
	return func(i int) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf(format, at(i), size), http.NoBody)
		require.NoError(t, err)
		return req
	}
}

// member is one name of a row with its value.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of a JSON object in their order.
func members(t testing.TB, row json.RawMessage) (all []member) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(row))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		name, err := d.Token()
		require.NoError(t, err)
		var value json.RawMessage
		require.NoError(t, d.Decode(&value))
		all = append(all, member{name.(string), value})
	}
	return all
}

// requireRows fails unless the cells are exactly the rows: the header is the union of their names, in order
// of first appearance.
func requireRows(t testing.TB, rows []json.RawMessage, cells [][]string) {
	t.Helper()
	var header []string
	columns := map[string]int{}
	parsed := make([][]member, len(rows))
	for i, row := range rows {
		parsed[i] = members(t, row)
		for _, m := range parsed[i] {
			if _, known := columns[m.name]; !known {
				columns[m.name] = len(header)
				header = append(header, m.name)
			}
		}
	}
	require.NotEmpty(t, cells)
	require.Equal(t, header, cells[0])
	require.Len(t, cells[1:], len(rows))
	for i, row := range parsed {
		want := make([]json.RawMessage, len(header))
		for _, m := range row {
			want[columns[m.name]] = m.value
		}
		for column, value := range want {
			if got := cells[i+1][column]; !isCell(t, value, got) {
				t.Fatalf("row %d, column %s: %q is not %s", i+1, header[column], got, value)
			}
		}
	}
}

// isCell reports whether a cell holds a JSON value: text and digits as they are, nested values as compact
// JSON.
func isCell(t testing.TB, value json.RawMessage, cell string) bool {
	t.Helper()
	switch {
	case len(value) == 0 || string(value) == "null":
		return cell == ""
	case string(value) == "true" || string(value) == "false":
		return cell == strings.ToUpper(string(value)) || cell == map[string]string{"true": "1", "false": "0"}[string(value)]
	case value[0] == '"':
		var text string
		require.NoError(t, json.Unmarshal(value, &text))
		return cell == text
	case value[0] == '{' || value[0] == '[':
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, value))
		return cell == compact.String()
	}
	want, ok := new(big.Rat).SetString(string(value))
	require.True(t, ok, "%s", value)
	got, ok := new(big.Rat).SetString(cell)
	return ok && want.Cmp(got) == 0
}
