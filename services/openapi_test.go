package services_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/services/crawler/preview"
	"sheaf/services/ingress/docs/contracttest"
	"sheaf/services/notifier"

	"github.com/stretchr/testify/require"
)

func contract(t *testing.T) *contracttest.Contract {
	t.Helper()
	document, err := os.ReadFile("ingress/openapi.yaml")
	require.NoError(t, err)
	c, err := contracttest.Read(document)
	require.NoError(t, err)
	return c
}

// The document has each error code, warning code, callback state, phase and kind of proof, and no other.
func TestDocumentHasTheCodes(t *testing.T) {
	t.Parallel()
	c := contract(t)
	codes := constants(t, "../events", "Code")
	require.Contains(t, codes, events.CodeSourceTimeout)
	require.Equal(t, codes, c.Codes("ErrorCode"))
	require.Equal(t, constants(t, "../events", "Proof"), c.Codes("ProofKind"))
	phases := append(constants(t, "../events", "Phase"), "done")
	slices.Sort(phases)
	require.Equal(t, phases, c.Codes("Phase"))
	require.Equal(t, []string{"1", "2", "3", "4"}, c.Codes("Status"))
	require.Equal(t, constants(t, "../events", "Type"), c.Codes("EventType"))
	require.Equal(t, warnings(t), c.Codes("WarningCode"))
}

// constants returns the values of the text constants of a package whose names begin with a prefix, sorted.
func constants(t *testing.T, dir, prefix string) (values []string) {
	t.Helper()
	inspect(t, dir, func(n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, prefix) || len(spec.Values) != 1 {
			return
		}
		if value, ok := textOf(spec.Values[0]); ok {
			values = append(values, value)
		}
	})
	slices.Sort(values)
	return values
}

// warnings returns the codes of warnings about a file, sorted. They stand in constants named Warn…, as first
// argument of a function warn, or as Code of a Warning.
func warnings(t *testing.T) []string {
	t.Helper()
	code := regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`)
	found := map[string]bool{}
	note := func(e ast.Expr) {
		if value, ok := textOf(e); ok && code.MatchString(value) {
			found[value] = true
		}
	}
	for _, dir := range []string{"ingress", "crawler", "assembler", "assembler/encode", "assembler/encode/*"} {
		inspect(t, dir, func(n ast.Node) {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if strings.HasPrefix(strings.ToLower(n.Names[0].Name), "warn") && len(n.Values) == 1 {
					note(n.Values[0])
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "warn" {
					note(n.Args[0])
				}
			case *ast.CompositeLit:
				if name, ok := n.Type.(*ast.SelectorExpr); ok && name.Sel.Name == "Warning" {
					for _, e := range n.Elts {
						if pair, ok := e.(*ast.KeyValueExpr); ok && pair.Key.(*ast.Ident).Name == "Code" {
							note(pair.Value)
						}
					}
				}
			}
		})
	}
	return slices.Sorted(maps.Keys(found))
}

// inspect visits the nodes of a folder's files that are no tests.
func inspect(t *testing.T, dir string, visit func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}

func textOf(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil
}

// The bodies of callbacks are as the document says.
func TestDocumentHasTheCallbacks(t *testing.T) {
	t.Parallel()
	c := contract(t)
	files, err := filepath.Glob("notifier/testdata/callback_*.golden.json")
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, file := range files {
		body, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, c.Webhook("callback", body), file)
		var members map[string]any
		require.NoError(t, json.Unmarshal(body, &members))
		members["new"] = 1
		more, err := json.Marshal(members)
		require.NoError(t, err)
		require.Error(t, c.Webhook("callback", more), "a member that the document lacks")
	}
	for schema, typ := range map[string]reflect.Type{
		"Callback": reflect.TypeFor[notifier.Body](), "CallbackLog": reflect.TypeFor[notifier.Log](), "CallbackFile": reflect.TypeFor[notifier.File](),
		"PreviewAnswer": reflect.TypeFor[preview.Answer](), "Finding": reflect.TypeFor[preview.Finding](),
		"Other": reflect.TypeFor[preview.Other](), "Need": reflect.TypeFor[preview.Need](),
		"Proof": reflect.TypeFor[events.Proof](), "Progress": reflect.TypeFor[events.Progress](),
		"Warning": reflect.TypeFor[events.Warning](), "Content": reflect.TypeFor[events.Content](),
	} {
		require.Equal(t, members(typ), c.Members(schema), schema)
	}
}

// members returns the JSON names of a struct's fields, sorted.
func members(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
