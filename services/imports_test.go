package services_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "sheaf/"

// pkg is what go list says of a package of this module.
type pkg struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func (p pkg) all() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, p)
	}
	require.Greater(t, len(all), 5)
	return all
}

// layer is the place of a package in the order of imports; a package may
// import those of a lower layer, and its own.
func layer(name string) int {
	top, _, _ := strings.Cut(name, "/")
	return map[string]int{"events": 1, "storage": 2, "services": 3, "cmd": 4, "deploy": 5}[top]
}

// service is the service that a package belongs to, "" for none.
func service(name string) string {
	rest, ok := strings.CutPrefix(name, "services/")
	if !ok {
		return ""
	}
	s, _, _ := strings.Cut(rest, "/")
	return s
}

// forTests reports whether a package serves tests alone.
func forTests(name string) bool { return strings.HasSuffix(name, "test") }

func TestImportOrder(t *testing.T) {
	for _, p := range packages(t) {
		require.NotZero(t, layer(p.name()), "%s stands in no place: packages live under events, storage, services, cmd or deploy", p.name())
		for _, path := range p.all() {
			used, ok := strings.CutPrefix(path, module)
			if !ok {
				continue
			}
			if layer(used) > layer(p.name()) {
				t.Errorf("%s imports %s: the order is events, storage, services, cmd/sheaf, so that the contract between the parts knows none of them", p.name(), used)
			}
			if service(p.name()) != "" && service(used) != "" && service(p.name()) != service(used) {
				t.Errorf("%s imports %s: services speak through the log alone, so that each runs on a machine of its own", p.name(), used)
			}
		}
	}
}

func TestPackagesForTestsStayInTests(t *testing.T) {
	for _, p := range packages(t) {
		for _, path := range p.Imports {
			used, ok := strings.CutPrefix(path, module)
			if ok && forTests(used) && !forTests(p.name()) {
				t.Errorf("%s imports %s outside of a test: it would be linked into the binary, with package testing", p.name(), used)
			}
		}
	}
}

func TestImportsWithOnePlace(t *testing.T) {
	for path, rule := range map[string]struct {
		places []string
		reason string
	}{
		"github.com/xuri/excelize/v2": {[]string{"services/assembler", "services/assembler/encode/xlsx", "cmd/bench", "cmd/bench/baseline"},
			"the assembler alone makes workbooks, and the benchmarks hold it against excelize; a further place would make other ones"},
		"go.etcd.io/bbolt": {[]string{"storage"},
			"the projection has one format and one owner, and any node can rebuild it"},
		"github.com/nats-io/nats-server/v2/server": {[]string{"events/embedded"},
			"the server's settings carry the promise of durability and stand in one place"},
		module + "events/embedded": {[]string{"events/eventstest", "cmd/sheaf/node"},
			"services are given a connection and cannot tell an embedded server from a cluster"},
		"github.com/go-chi/chi/v5": {[]string{"services/ingress"},
			"the ingress alone answers HTTP"},
	} {
		for _, p := range packages(t) {
			if slices.Contains(p.Imports, path) && !slices.Contains(rule.places, p.name()) {
				t.Errorf("%s imports %s: %s", p.name(), path, rule.reason)
			}
		}
	}
}

// nats.go has two JetStream interfaces. The old one hangs on the connection;
// its subscriptions acknowledge by themselves and its errors are others.
func TestOneJetStreamInterface(t *testing.T) {
	const reason = "nats.go's old JetStream interface acknowledges by itself; use package jetstream, and for messages journal.Log.Consume"
	old := []string{
		"JetStreamContext", "JetStreamManager", "PubOpt", "SubOpt", "PullOpt", "AckOpt", "StreamConfig", "ConsumerConfig",
		"KeyValueConfig", "ObjectStoreConfig", "Durable", "ManualAck", "AckExplicit", "Bind", "BindStream", "PullSubscribe", "MsgId", "ExpectLastSequence",
	}
	for _, p := range packages(t) {
		for _, file := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			nats := ""
			for _, i := range f.Imports {
				if path, _ := strconv.Unquote(i.Path.Value); path == "github.com/nats-io/nats.go" {
					nats = "nats"
					if i.Name != nil {
						nats = i.Name.Name
					}
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && nats != "" && x.Name == nats && slices.Contains(old, n.Sel.Name) {
						t.Errorf("%s uses nats.%s: %s", fset.Position(n.Pos()), n.Sel.Name, reason)
					}
				case *ast.AssignStmt: // js, err := nc.JetStream(); that of journal.Log returns one value
					if len(n.Lhs) != 2 || len(n.Rhs) != 1 {
						break
					}
					if call, ok := n.Rhs[0].(*ast.CallExpr); ok {
						if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "JetStream" {
							t.Errorf("%s calls JetStream of a connection: %s", fset.Position(n.Pos()), reason)
						}
					}
				}
				return true
			})
		}
	}
}

// A service logs to its Config's Log and counts in its Config's Metrics, so that a process can
// run two of them and a test can look at one. The journal, which works for all services, does the same.
func TestServicesUseNoGlobalLogOrRegistry(t *testing.T) {
	allowed := map[string][]string{
		"slog":       {"Logger", "DiscardHandler", "Level", "LevelDebug", "LevelInfo", "LevelWarn", "LevelError", "New", "NewLogLogger"},
		"promauto":   {"With"},
		"prometheus": nil, // all but what follows
	}
	denied := []string{"DefaultRegisterer", "DefaultGatherer", "Register", "MustRegister", "Unregister"}
	for _, p := range packages(t) {
		if service(p.name()) == "" && p.name() != "events/journal" && p.name() != "storage" || forTests(p.name()) {
			continue
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if !ok {
					return true
				}
				names, named := allowed[x.Name]
				if named && (names != nil && !slices.Contains(names, sel.Sel.Name) || names == nil && slices.Contains(denied, sel.Sel.Name)) {
					t.Errorf("%s uses %s.%s: a service is given its log and its registry", fset.Position(n.Pos()), x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// The top level is a table of contents. What Git ignores does not count.
func TestTopLevel(t *testing.T) {
	allowed := []string{"cmd", "services", "events", "storage", "deploy", "go.mod", "go.sum", "Taskfile.yml", "README.md"}
	ignored, err := os.ReadFile("../.gitignore")
	require.NoError(t, err)
	rules := strings.Split(string(ignored), "\n")
	entries, err := os.ReadDir("..")
	require.NoError(t, err)
	for _, e := range entries {
		name := e.Name()
		isIgnored := slices.ContainsFunc(rules, func(rule string) bool {
			ok, _ := filepath.Match(strings.Trim(rule, "/"), name)
			return ok
		})
		if !strings.HasPrefix(name, ".") && !isIgnored && !slices.Contains(allowed, name) {
			t.Errorf("%s stands at the top level, which holds %s and dot-files only: a reader shall find every part where its name says", name, strings.Join(allowed, ", "))
		}
	}
}
