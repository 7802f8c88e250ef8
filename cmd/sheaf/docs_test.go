//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shBlock is a block of commands of a document.
type shBlock struct {
	line   int    // of its fence
	script string // without the fences
	runs   string // the address where a command serves that does not end; "" for one that ends
}

// shBlocks returns the sh blocks of a document. A comment on the line above a block marks an exception:
// <!-- not run: REASON -->, or <!-- serves HOST:PORT --> for a command that does not end.
func shBlocks(t *testing.T, text string) (blocks []shBlock) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] != "```sh" {
			continue
		}
		end := i + 1
		for lines[end] != "```" {
			end++
		}
		b := shBlock{line: i + 1, script: strings.Join(lines[i+1:end], "\n")}
		mark := strings.TrimSuffix(lines[max(i-1, 0)], " -->")
		reason, skipped := strings.CutPrefix(mark, "<!-- not run: ")
		b.runs, _ = strings.CutPrefix(mark, "<!-- serves ")
		if b.runs == mark {
			b.runs = ""
		}
		if skipped {
			require.NotEmpty(t, reason, "line %d", b.line)
		} else {
			blocks = append(blocks, b)
		}
		i = end
	}
	return blocks
}

// docsPreamble kills servers at the end of the shell. /readyz of Sheaf answers 503 while it starts. A curl that
// gets an answer which no reader should get ends the shell.
const docsPreamble = `set -euo pipefail
curl() {
  command curl -w '%{stderr}%{http_code}\n' "$@" 2>curl.code || return
  if grep -qE '^(400|404|405|415|5..)$' curl.code; then
    echo "curl got $(cat curl.code)" >&2
    return 22
  fi
}
trap 'kill -9 $(jobs -p) 2>/dev/null; wait' EXIT
serves() {
  local tries
  for ((tries = 0; tries < 400; tries++)); do
    kill -0 $!
    case $(command curl -so /dev/null -w '%{http_code}' "http://$1/readyz" || true) in 000 | 503) sleep 0.05 ;; *) return ;; esac
  done
  return 1
}
`

// docsSetup makes what the reader of a document has before its first block.
var docsSetup = map[string]string{
	"services/REFERENCE.md": `./sheaf serve &
serves 127.0.0.1:8080
export SHEAF_SERVER=http://127.0.0.1:8080
hash_key=$(curl -s http://127.0.0.1:8080/v1/export/http -d '{"ext_type": "XLSX", "options": {"keep_pages": 1},
  "source_http": {"url": "http://127.0.0.1:8080/demo/page", "param": {"limit": 100}}}' | jq -r .data.hash_key)
./sheaf watch "$hash_key"
`,
}

// docsScript runs the blocks one after another in one shell, as a reader does in a terminal.
func docsScript(name string, blocks []shBlock) string {
	var b strings.Builder
	b.WriteString(docsPreamble + docsSetup[name])
	for _, block := range blocks {
		fmt.Fprintf(&b, "echo '--- %s:%d'\n", name, block.line)
		if block.runs == "" {
			fmt.Fprintf(&b, "%s\n", block.script)
		} else {
			fmt.Fprintf(&b, "exec %s &\nserves %s\nexport SHEAF_SERVER=http://127.0.0.1:8080\n", block.script, block.runs)
		}
	}
	return b.String()
}

// docsOrders answers as the API of a reader: {"items": […], "total": n}.
func docsOrders(w http.ResponseWriter, r *http.Request) {
	const total = 5000
	page, limit := 1, 20
	if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil {
		page = n
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil {
		limit = min(n, 1000)
	}
	items := []any{}
	for i := (page - 1) * limit; i < min(page*limit, total); i++ {
		items = append(items, map[string]any{
			"id": i + 1, "user": map[string]any{"name": "李雷"}, "paid_at": "2026-11-30T08:00:00Z", "amount": 12.5,
		})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"items": items, "total": total})
}

// docsTools makes a folder of programs: sheaf is this test's binary, go run calls it, and go build copies it.
func docsTools(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	tools := t.TempDir()
	for name, text := range map[string]string{
		"sheaf": fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asCommand, self),
		"go": `#!/bin/sh
case "$*" in
"run ./cmd/sheaf "*) shift 2; exec "$(dirname "$0")/sheaf" "$@" ;;
"build -o sheaf ./cmd/sheaf") cp "$(dirname "$0")/sheaf" . ;;
*) exit 1 ;;
esac
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(tools, name), []byte(text), 0o700))
	}
	return tools
}

// docsAddresses replaces the addresses of the documents by free ones.
func docsAddresses(t *testing.T, orders string) (*strings.Replacer, []string) {
	t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		return l.Addr().String()
	}
	rest, nats := free(), free()
	env := []string{"SHEAF_HTTP=" + rest, "SHEAF_NATS_LISTEN=" + nats}
	return strings.NewReplacer(
		"127.0.0.1:8080", rest, "127.0.0.1:4222", nats, "127.0.0.1:9000", free(), "127.0.0.1:9091", free(),
		"127.0.0.1:8000", orders,
	), env
}

// The commands of the guides work as they are printed, in their order, in one folder.
func TestCommandsOfDocuments(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	documents := []string{
		"README.md", "services/REFERENCE.md", "deploy/README.md", "deploy/OPERATIONS.md", "deploy/MIGRATION.md",
		"deploy/examples/README.md",
	}
	orders := httptest.NewServer(http.HandlerFunc(docsOrders))
	t.Cleanup(orders.Close)
	tools := docsTools(t)
	for _, name := range documents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("..", "..", name))
			require.NoError(t, err)
			blocks := shBlocks(t, string(text))
			if len(blocks) == 0 {
				return // each has a reason not to run
			}
			addresses, env := docsAddresses(t, orders.Listener.Addr().String())
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-c", addresses.Replace(docsScript(name, blocks)))
			cmd.Dir = t.TempDir()
			if name != "README.md" { // which builds it
				require.NoError(t, os.Link(filepath.Join(tools, "sheaf"), filepath.Join(cmd.Dir, "sheaf")))
			}
			cmd.Env = append(os.Environ(), append(env, "PATH="+tools+":"+os.Getenv("PATH"))...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.WaitDelay = time.Second
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, cmd.Run(), "%s", &out)
		})
	}
}
