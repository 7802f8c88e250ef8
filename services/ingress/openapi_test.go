package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/ingress/docs/contracttest"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// contract is openapi.yaml. A document that cannot be read refuses everything.
var contract = sync.OnceValue(func() *contracttest.Contract {
	c, err := contracttest.Read(openAPI)
	if err != nil {
		panic(err)
	}
	return c
})

// forPeople reports whether a path is of the pages for people, which no client calls.
func forPeople(path string) bool {
	return strings.HasPrefix(path, "/console") || strings.HasPrefix(path, "/s/")
}

// checkTraffic checks every request of this package's tests that an ingress answers against openapi.yaml. A
// request that does not fit fails.
func checkTraffic() { http.DefaultTransport = traffic{http.DefaultTransport.(*http.Transport)} }

type traffic struct{ *http.Transport }

// maxChecked is the size in bytes up to which a body is checked.
const maxChecked = 1 << 20

func (t traffic) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent *bytes.Buffer
	if req.Body != nil && req.ContentLength > 0 && req.ContentLength <= maxChecked {
		sent = &bytes.Buffer{}
		req.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(req.Body, sent), req.Body}
	}
	res, err := t.Transport.RoundTrip(req)
	if err != nil || res.Header.Get("X-Request-Id") == "" || forPeople(req.URL.Path) { // not of an ingress
		return res, err
	}
	x := contracttest.Exchange{
		Method: req.Method, Path: req.URL.Path, Query: req.URL.Query(), Status: res.StatusCode, Type: res.Header.Get("Content-Type"),
	}
	if sent != nil && int64(sent.Len()) == req.ContentLength {
		x.Request = sent.Bytes()
	}
	if strings.HasPrefix(x.Type, "application/json") && res.ContentLength > 0 && res.ContentLength <= maxChecked && req.Method != http.MethodHead {
		body, err := io.ReadAll(res.Body)
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), failing{err}), res.Body}
		if err == nil {
			x.Answer = body
		}
	}
	if x.Path == "/v1/export/preview" && x.Status == http.StatusOK {
		x.Answer = nil // the previewers of this package's tests find nothing
	}
	if err := contract().Check(x); err != nil {
		_ = res.Body.Close()
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return res, nil
}

// failing is the end of a body, or the error of reading it.
type failing struct{ error }

func (f failing) Read([]byte) (int, error) {
	if f.error == nil {
		return 0, io.EOF
	}
	return 0, f.error
}

// The check of the traffic refuses what the document does not say.
func TestTrafficIsChecked(t *testing.T) {
	t.Parallel()
	good := contracttest.Exchange{
		Method: "GET", Path: "/v1/export/detail", Query: map[string][]string{"key": {oneKey}}, Status: 404,
		Type: "application/json; charset=utf-8", Answer: []byte(`{"errcode":404,"msg":"key","data":null,"request_id":"1"}`),
	}
	require.NoError(t, contract().Check(good))
	accepted := contracttest.Exchange{
		Method: "POST", Path: "/v1/export/http", Request: []byte(eventstest.SpecHTTP), Status: 200, Type: good.Type,
		Answer: []byte(`{"errcode":0,"msg":"","data":{"hash_key":"` + oneKey + `"},"request_id":"1"}`),
	}
	require.NoError(t, contract().Check(accepted))
	for name, change := range map[string]func(*contracttest.Exchange){
		"an unknown path":      func(x *contracttest.Exchange) { x.Path = "/v1/export/other" },
		"an unknown method":    func(x *contracttest.Exchange) { x.Method = "GET" },
		"an unknown parameter": func(x *contracttest.Exchange) { x.Query = map[string][]string{"a": {"1"}} },
		"an unknown status":    func(x *contracttest.Exchange) { x.Status = 418 },
		"an unknown type":      func(x *contracttest.Exchange) { x.Type = "text/plain" },
		"a new member": func(x *contracttest.Exchange) {
			x.Answer = []byte(strings.Replace(string(x.Answer), `"data":{`, `"data":{"new":1,`, 1))
		},
		"a new member outside": func(x *contracttest.Exchange) {
			x.Answer = []byte(strings.Replace(string(x.Answer), `{`, `{"new":1,`, 1))
		},
		"a missing member": func(x *contracttest.Exchange) { x.Answer = []byte(`{"errcode":0,"msg":"","data":{},"request_id":"1"}`) },
		"an unknown errcode": func(x *contracttest.Exchange) {
			x.Status = 400
			x.Answer = []byte(`{"errcode":499,"msg":"a","data":null,"request_id":"1"}`)
		},
		"a request of two ways": func(x *contracttest.Exchange) {
			x.Request = []byte(`{"ext_type":"XLSX","source_http":{"url":"http://h/","conn":"8"}}`)
		},
	} {
		x := accepted
		change(&x)
		require.Error(t, contract().Check(x), name)
	}
	require.Error(t, contract().NATSAnswer("cancel", accepted.Answer))

	// The client of the tests uses the check.
	lie := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "1")
		w.Header().Set("Content-Type", good.Type)
		_, _ = io.WriteString(w, `{"errcode":0,"msg":"","data":{"lives":true},"request_id":"1"}`)
	}))
	t.Cleanup(lie.Close)
	res, err := http.Get(lie.URL + "/healthz")
	if err == nil {
		err = res.Body.Close()
	}
	require.ErrorContains(t, err, "openapi.yaml: the answer 200 of GET /healthz is not as documented")
	_, err = io.ReadAll(failing{errors.New("cut")})
	require.EqualError(t, err, "cut")
}

// The paths of the document are those of the router, and NATS offers the operations that it says.
func TestDocumentHasTheRoutes(t *testing.T) {
	t.Parallel()
	s := &Service{}
	var routed []string
	for _, r := range s.routes() {
		if !forPeople(r.path) {
			routed = append(routed, r.method+" "+r.path)
		}
	}
	slices.Sort(routed)
	require.Equal(t, contract().Operations(), routed)
	offered := slices.Sorted(maps.Keys(operations))
	require.Equal(t, contract().NATS(), offered)

	for name, op := range operations {
		require.Equal(t, op.scope.String(), contract().Scope(name), name)
	}

	var async struct {
		Channels map[string]struct {
			Parameters map[string]struct{ Enum []string }
		}
	}
	require.NoError(t, yaml.Unmarshal(events.AsyncAPI(), &async))
	require.ElementsMatch(t, async.Channels["api"].Parameters["operation"].Enum, offered, "of asyncapi.yaml")
}

// The document has each errcode of this package and no other.
func TestDocumentHasTheErrcodes(t *testing.T) {
	t.Parallel()
	var codes []string
	for name, value := range constants(t) {
		if strings.HasPrefix(name, "errcode") {
			codes = append(codes, value)
		}
	}
	slices.Sort(codes)
	require.Equal(t, contract().Codes("Errcode"), codes)
}

// constants returns the integer constants of this package as they are written.
func constants(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	all := map[string]string{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				if value, ok := spec.Values[0].(*ast.BasicLit); ok && value.Kind == token.INT {
					all[spec.Names[0].Name] = value.Value
				}
			}
			return true
		})
	}
	return all
}

// An errcode is always one of those constants.
func TestErrcodesAreConstants(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NotRegexp(t, `Errcode: *\d`, string(source), file)
	}
}

// The operations on lists and on the callback, and the stream, answer as the document says: the client of the
// tests checks each answer.
func TestTrafficOfLists(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{PublicURL: "https://sheaf.example"})
	body := eventstest.HTTPBody("", `"callback":"http://127.0.0.1/done"`, `"user_id":"7"`, `"share":true`, `"title":"Orders"`)
	a := in.post(t, "/v1/export/http", body)
	require.Contains(t, a.Raw, `"share_url":"https://sheaf.example/s/`)
	key := a.key(t)
	named := `{"key":"` + key + `"}`
	require.Contains(t, in.get(t, "/v1/export/list?state=queued&q=ord&user_id=7&since=1h&limit=10").Raw, key)
	require.Equal(t, 409, in.post(t, "/v1/export/redeliver", named).Status)
	require.Equal(t, 409, in.post(t, "/v1/export/bulk", `{"action":"cancel","filter":{"state":"queued"},"expect":3}`).Status)
	require.Contains(t, in.post(t, "/v1/export/bulk", `{"action":"cancel","filter":{"state":"queued"},"expect":1}`).Raw, `"done":1`)
	require.Contains(t, in.post(t, "/v1/export/bulk", `{"action":"cancel","filter":{"q":"`+key+`"},"expect":1,"tolerance":1}`).Raw, `"skipped":[{"key":"`+key)
	require.Contains(t, in.get(t, "/v1/export/list?state=cancelled").Raw, `"cancelled":1`)
	require.Contains(t, in.get(t, "/v1/export/events?key="+key).Raw, `"type":"cancelled"`)
	x := in.read(t, events.DefaultTenant, key)
	in.write(t, key, &events.CallbackFailed{Terminal: x.TerminalSeq, Attempt: 2, Reason: "gave up"})
	require.Contains(t, in.post(t, "/v1/export/redeliver", named).Raw, `"state":"pending"`)
	require.Contains(t, in.post(t, "/v1/export/share", `{"key":"`+key+`","ttl":"24h","return_url":"https://shop.example/"}`).Raw, "https://sheaf.example/s/")

	res, err := http.Get(in.url + "/v1/export/watch?key=" + key)
	require.NoError(t, err)
	defer res.Body.Close()
	stream, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	name, data, _ := strings.Cut(string(stream), "\ndata: ")
	require.Equal(t, "event: end", name)
	require.NoError(t, contract().Schema("Detail", []byte(data)))
}

// Anyone may read the documents, without an API key.
func TestDocumentsAreServed(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: func(string) (Principal, bool) { return Principal{}, false }, PublicURL: "https://sheaf.example/x"})
	for path, want := range map[string]string{
		"/docs":                        "https://sheaf.example/x/v1/export/http",
		"/docs/docs.css":               "color-scheme",
		"/openapi.yaml":                "openapi: 3.1.0",
		"/openapi.json":                `"openapi":"3.1.0"`,
		"/asyncapi.yaml":               "asyncapi: 3.0.0",
		"/schema/sheaf.export.v1.json": `"urn:sheaf:schema:sheaf.export.v1"`,
	} {
		res, err := http.Get(in.url + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, 200, res.StatusCode, path)
		require.Contains(t, string(body), want)
		require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
		require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'none'")
	}
	require.Equal(t, 404, in.get(t, "/schema/other.json").Status)
}
