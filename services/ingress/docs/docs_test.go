package docs

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/services/ingress/docs/contracttest"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"golang.org/x/net/html"
)

func document(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../openapi.yaml")
	require.NoError(t, err)
	return b
}

func served(t testing.TB) *Docs {
	t.Helper()
	return New(Config{OpenAPI: document(t), AsyncAPI: events.AsyncAPI(), Schema: events.SchemaFile, URL: "https://sheaf.example/x"})
}

// get asks a handler.
func get(t testing.TB, handler Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	require.NoError(t, handler(w, r))
	return w
}

// The document is consistent: schemas compile, references lead somewhere, everything is used, names are
// unique, and everything has a description in both languages.
func TestDocumentIsConsistent(t *testing.T) {
	t.Parallel()
	c, err := contracttest.Read(document(t))
	require.NoError(t, err)
	require.NoError(t, c.CompileAll())

	var root map[string]any
	require.NoError(t, yaml.Unmarshal(document(t), &root))
	require.Equal(t, "3.1.0", root["openapi"])
	referred, ids := map[string]int{}, map[string]bool{}
	walk(root, "", func(at string, m map[string]any) {
		if ref, ok := m["$ref"].(string); ok {
			require.NotNil(t, lookup(root, ref), "%s refers to %s", at, ref)
			referred[ref]++
		}
		if id, ok := m["operationId"].(string); ok {
			require.False(t, ids[id], "operationId %s is there twice", id)
			ids[id] = true
			require.NotEmpty(t, m["summary"], at)
			require.NotEmpty(t, m["x-summary-zh"], at)
		}
		if english, ok := m["description"].(string); ok && !strings.Contains(at, "/value") {
			require.NotEmpty(t, m["x-zh"], "%s: %q has no x-zh", at, english)
			require.NotRegexp(t, `\p{Han}`, strings.ReplaceAll(english, "姓名", ""), at)
		}
	})
	for kind, all := range root["components"].(map[string]any) {
		for name := range all.(map[string]any) {
			if kind != "securitySchemes" {
				require.NotZero(t, referred["#/components/"+kind+"/"+name], "%s %s is not used", kind, name)
			}
		}
	}
}

// Each member of an object has a description, of its own or of what it refers to.
func TestMembersAreDescribed(t *testing.T) {
	t.Parallel()
	c, err := parse(document(t), events.AsyncAPI())
	require.NoError(t, err)
	for _, s := range c.rest.Components.Schemas {
		for _, p := range s.Value.Properties {
			full := c.rest.schema(p.Value)
			require.True(t, full.English != "" || len(full.Properties) > 0, "%s.%s", s.Name, p.Name)
		}
	}
	for _, ch := range c.nats.Channels {
		require.NotEmpty(t, ch.Value.Chinese, ch.Name)
	}
}

// Examples are as the schemas say.
func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	valid, err := contracttest.Read(document(t))
	require.NoError(t, err)
	c, err := parse(document(t), events.AsyncAPI())
	require.NoError(t, err)
	count := 0
	for _, path := range c.rest.Paths {
		for _, op := range path.Value {
			body := c.rest.body(op.Value)
			if body == nil {
				continue
			}
			for _, e := range body.Content[0].Value.examples() {
				var b bytes.Buffer
				require.NoError(t, writeJSON(&b, &e.Value))
				count++
				if ref := body.Content[0].Value.Schema.Ref; ref != "" {
					require.NoError(t, valid.Schema(local(ref), b.Bytes()), "%s %s", path.Name, b.String())
				}
			}
		}
	}
	require.Greater(t, count, 5)
}

func walk(v any, at string, visit func(at string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(at, v)
		for name, member := range v {
			walk(member, at+"/"+name, visit)
		}
	case []any:
		for _, element := range v {
			walk(element, at, visit)
		}
	}
}

func lookup(root any, ref string) any {
	for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		m, _ := root.(map[string]any)
		root = m[step]
	}
	return root
}

func TestJSONIsTheSameDocument(t *testing.T) {
	t.Parallel()
	res := get(t, served(t).OpenAPIJSON, "/openapi.json")
	require.Equal(t, "application/json", res.Header().Get("Content-Type"))
	text := res.Body.String()
	require.True(t, strings.HasPrefix(text, `{"openapi":"3.1.0","info":{"title":"Sheaf"`), text[:60])
	var got, want any
	require.NoError(t, json.Unmarshal([]byte(text), &got))
	require.NoError(t, yaml.Unmarshal(document(t), &want))
	plain, err := json.Marshal(want)
	require.NoError(t, err)
	require.JSONEq(t, string(plain), text)
}

func TestPage(t *testing.T) {
	t.Parallel()
	d := served(t)
	for name, c := range map[string]struct{ query, accept, lang, shows string }{
		"the default":                {"", "", "en", "Stop an export that is under way"},
		"Chinese of the browser":     {"", "zh-CN,zh;q=0.9,en;q=0.8", "zh", "取消进行中的导出"},
		"English of the browser":     {"", "en-GB,en;q=0.9,zh;q=0.8", "en", "Stop an export that is under way"},
		"a language that it lacks":   {"", "fr", "en", "Stop an export that is under way"},
		"chosen against the browser": {"?lang=zh", "en", "zh", "取消进行中的导出"},
	} {
		res := get(t, d.Page, "/docs"+c.query, "Accept-Language", c.accept)
		require.Equal(t, c.lang, res.Header().Get("Content-Language"), name)
		require.Equal(t, "Accept-Language", res.Header().Get("Vary"))
		text := res.Body.String()
		require.True(t, strings.Contains(text, `<html lang="`+c.lang+`">`), name)
		require.True(t, strings.Contains(text, c.shows), name)
		require.Less(t, len(text), 400_000)
	}
	res := get(t, d.Page, "/docs")
	again := get(t, d.Page, "/docs", "If-None-Match", res.Header().Get("ETag"))
	require.Equal(t, http.StatusNotModified, again.Code)
}

// The page has an anchor for each operation, code and object, all links within it lead somewhere, and nothing
// in it needs what its policy forbids.
func TestPageIsWhole(t *testing.T) {
	t.Parallel()
	d := served(t)
	c, err := d.read()
	require.NoError(t, err)
	for _, lang := range []string{"en", "zh"} {
		ids, links := map[string]bool{}, []string{}
		text := get(t, d.Page, "/docs?lang="+lang).Body.String()
		root, err := html.Parse(strings.NewReader(text))
		require.NoError(t, err)
		for n := range root.Descendants() {
			if n.Type == html.ElementNode {
				require.NotContains(t, []string{"script", "style", "img", "iframe", "form"}, n.Data)
			}
			for _, a := range n.Attr {
				require.False(t, a.Key == "style" || strings.HasPrefix(a.Key, "on"), "<%s %s=%q>", n.Data, a.Key, a.Val)
				switch {
				case a.Key == "id":
					require.False(t, ids[a.Val], "the id %s is there twice", a.Val)
					ids[a.Val] = true
				case a.Key == "href":
					links = append(links, a.Val)
				}
			}
		}
		for _, link := range links {
			if anchor, ok := strings.CutPrefix(link, "#"); ok {
				require.True(t, ids[anchor], "%s: nothing has the id %s", lang, anchor)
			} else if !strings.HasPrefix(link, "https://www.standardwebhooks.com") {
				require.Regexp(t, `^(\?lang=|docs/docs\.css\?|openapi\.(yaml|json)$|asyncapi\.yaml$|schema/)`, link)
			}
		}
		for _, anchor := range []string{"SOURCE_TIMEOUT", "CELL_CUT", "errcode-40101", "channel-submit", "schema-Detail", "callback"} {
			require.True(t, ids[anchor], anchor)
		}
		for _, path := range c.rest.Paths {
			for _, op := range path.Value {
				require.True(t, ids[op.Value.ID] != op.Value.Internal, op.Value.ID)
			}
		}
		require.False(t, strings.Contains(text, "<!-- raw HTML omitted -->"), "a description has <> outside of a code span")
		require.False(t, strings.Contains(text, "ZgotmplZ"))
	}
}

func TestStyleHasTheAddressOfItsVersion(t *testing.T) {
	t.Parallel()
	d := served(t)
	link := regexp.MustCompile(`docs/docs\.css\?([0-9a-f]+)`).FindStringSubmatch(get(t, d.Page, "/docs").Body.String())
	require.NotNil(t, link)
	res := get(t, d.Style, "/docs/docs.css")
	require.Equal(t, `"`+link[1]+`"`, res.Header().Get("ETag"))
	require.Equal(t, "text/css; charset=utf-8", res.Header().Get("Content-Type"))
	require.NotContains(t, res.Body.String(), "@import")
}

// The page has the colours of the console, whose style sheet is another file.
func TestColoursAreThoseOfTheConsole(t *testing.T) {
	t.Parallel()
	colour := regexp.MustCompile(`--(\w+): (light-dark\([^)]*\))`)
	read := func(path string) map[string]string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		colours := map[string]string{}
		for _, m := range colour.FindAllStringSubmatch(string(text), -1) {
			colours[m[1]] = m[2]
		}
		return colours
	}
	own, console := read("docs.css"), read("../console/static/console.css")
	require.Len(t, own, 6)
	for name, value := range own {
		require.Equal(t, console[name], value, name)
	}
}

// Each schema that the AsyncAPI document refers to is served, and nothing else.
func TestSchemas(t *testing.T) {
	t.Parallel()
	d := served(t)
	files := regexp.MustCompile(`\./schema/([\w.]+)`).FindAllStringSubmatch(string(events.AsyncAPI()), -1)
	require.Greater(t, len(files), 8)
	for _, f := range files {
		res := get(t, func(w http.ResponseWriter, r *http.Request) error { return d.Schema(w, r, f[1]) }, "/schema/"+f[1])
		require.True(t, json.Valid(res.Body.Bytes()), f[1])
	}
	for _, name := range []string{"", "x.json", "../schema/sheaf.export.v1.json", "sheaf.export.v1", "..\\schema.json"} {
		w := httptest.NewRecorder()
		require.ErrorIs(t, d.Schema(w, httptest.NewRequest(http.MethodGet, "/", nil), name), ErrUnknown, name)
		require.Empty(t, w.Body.String())
	}
}

func TestWordsAreUsed(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("page.go")
	require.NoError(t, err)
	used := regexp.MustCompile(`(?:word |words\[)"(\w+)"`).FindAllStringSubmatch(pageTemplate+string(source), -1)
	for name := range words {
		require.True(t, slices.ContainsFunc(used, func(m []string) bool { return m[1] == name }), name)
	}
	for _, m := range used {
		require.Contains(t, words, m[1])
	}
}
