package services_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// One client asks strangers, with one set of guards. Whatever else sends a request is named here.
func TestOneClientAsksStrangers(t *testing.T) {
	t.Parallel()
	places := map[string]bool{ // whether a client is still made there
		"cmd/sheaf/egress/egress.go": false,
		"cmd/sheaf/doctor.go":        false, // asks the addresses of the operator
		"cmd/sheaf/listen.go":        false, // forwards callbacks to an address of the operator
		"events/client/client.go":    false, // asks the Sheaf that its user names, with an API key
		"events/client/rest.go":      false,
		"storage/files_s3_client.go": false, // asks the S3 server of the operator, which is no way for tenants
		// the form in which x/oauth2 takes a client; it sends through that of egress, see TestTokenServerIsGuarded
		"services/crawler/source/auth.go": false,
		"cmd/bench/export.go":             false, // benchmarks ask themselves
		"cmd/bench/cost.go":               false,
		"cmd/bench/server.go":             false,
		"cmd/bench/baseline/main.go":      false,
	}
	senders := map[string][]string{
		"net/http":                   {"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"},
		"net/http/httputil":          {"ReverseProxy", "NewSingleHostReverseProxy"},
		"golang.org/x/net/http2":     {"Transport"},
		"golang.org/x/net/websocket": {"Dial", "DialConfig"},
	}
	for _, p := range packages(t) {
		if forTests(p.name()) {
			continue
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			names := map[string][]string{}
			for _, i := range f.Imports {
				path, _ := strconv.Unquote(i.Path.Value)
				if words, ok := senders[path]; ok {
					name := filepath.Base(path)
					if i.Name != nil {
						name = i.Name.Name
					}
					names[name] = words
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if !ok || !slices.Contains(names[x.Name], sel.Sel.Name) {
					return true
				}
				place := p.name() + "/" + file
				if _, known := places[place]; !known {
					t.Errorf("%s uses %s.%s: send the request through the client of cmd/sheaf/egress, which guards addresses, headers, time and bytes",
						fset.Position(n.Pos()), x.Name, sel.Sel.Name)
				}
				places[place] = true
				return true
			})
		}
	}
	for place, used := range places {
		require.True(t, used, "%s sends no request any more: remove it here", place)
	}
}
