// Package contracttest checks requests and answers against the OpenAPI document, for tests.
//
// It is stricter than the document: an object of an answer may have no member that the document does not name.
// So a new member cannot be forgotten there, while a client of today accepts answers of tomorrow.
package contracttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

type object = map[string]any

// Contract is an OpenAPI document. It is safe for concurrent use.
type Contract struct {
	doc       object
	templates []template

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by JSON pointer
}

type template struct {
	path    string // of the document
	pattern *regexp.Regexp
}

const name = "openapi.json"

// everywhere are the statuses of refusals that any path may answer.
var everywhere = []string{"401", "403", "405", "415", "421", "500", "503"}

// Read reads a document, as YAML.
func Read(document []byte) (*Contract, error) {
	var plain any
	if err := yaml.Unmarshal(document, &plain); err != nil {
		return nil, err
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := &Contract{doc: value.(object), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	closeObjects(value)
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(name, value); err != nil {
		return nil, err
	}
	parameter := regexp.MustCompile(`\\\{[^/]*\\\}`)
	for path := range c.at("paths") {
		pattern := "^" + parameter.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+") + "$"
		c.templates = append(c.templates, template{path, regexp.MustCompile(pattern)})
	}
	return c, nil
}

// closeObjects forbids unknown members where the document does not allow them.
func closeObjects(value any) {
	switch v := value.(type) {
	case object:
		if _, open := v["additionalProperties"]; v["type"] == "object" && v["properties"] != nil && !open {
			v["unevaluatedProperties"] = false
		}
		for _, member := range v {
			closeObjects(member)
		}
	case []any:
		for _, element := range v {
			closeObjects(element)
		}
	}
}

// resolve returns the object at a path of the document, nil if there is none, and its path without references.
func (c *Contract) resolve(path ...string) (steps []string, here object) {
	here = c.doc
	for _, step := range path {
		steps, here = c.follow(steps, here)
		steps = append(steps, step)
		here, _ = here[step].(object)
	}
	return steps, here
}

// follow returns what an object refers to, or the object.
func (c *Contract) follow(steps []string, here object) ([]string, object) {
	if ref, ok := here["$ref"].(string); ok {
		return c.resolve(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return steps, here
}

// at returns the object at a path of the document, nil if there is none. It follows references.
func (c *Contract) at(path ...string) object {
	_, here := c.follow(c.resolve(path...))
	return here
}

// Operations returns the operations of all paths as "GET /path", sorted.
func (c *Contract) Operations() (list []string) {
	for path := range c.at("paths") {
		for method := range c.at("paths", path) {
			list = append(list, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(list)
	return list
}

// NATS returns the operations that the document says NATS offers, sorted.
func (c *Contract) NATS() (list []string) {
	for path := range c.at("paths") {
		for method := range c.at("paths", path) {
			if token, ok := c.at("paths", path, method)["x-nats"].(string); ok {
				list = append(list, token)
			}
		}
	}
	slices.Sort(list)
	return list
}

// Scope returns the scope of an API key that an operation needs, by its operationId; "" if it needs none.
func (c *Contract) Scope(id string) string {
	for path := range c.at("paths") {
		for method := range c.at("paths", path) {
			if op := c.at("paths", path, method); op["operationId"] == id {
				scope, _ := op["x-scope"].(string)
				return scope
			}
		}
	}
	return ""
}

// Codes returns the values of a schema that lists constants, as text, sorted.
func (c *Contract) Codes(schema string) (list []string) {
	values, _ := c.at("components", "schemas", schema)["oneOf"].([]any)
	for _, v := range values {
		list = append(list, fmt.Sprint(v.(object)["const"]))
	}
	slices.Sort(list)
	return list
}

// Members returns the names of the members of a schema, sorted.
func (c *Contract) Members(schema string) []string {
	return slices.Sorted(maps.Keys(c.at("components", "schemas", schema, "properties")))
}

// Schema validates JSON against a schema of the components.
func (c *Contract) Schema(schema string, body []byte) error {
	return c.validate([]string{"components", "schemas", schema}, body)
}

// Webhook validates the body of a webhook.
func (c *Contract) Webhook(webhook string, body []byte) error {
	return c.validate([]string{"webhooks", webhook, "post", "requestBody", "content", "application/json", "schema"}, body)
}

// CompileAll compiles every schema of the components, and every one of a request or an answer.
func (c *Contract) CompileAll() error {
	for schema := range c.at("components", "schemas") {
		if _, err := c.compiled([]string{"components", "schemas", schema}); err != nil {
			return err
		}
	}
	return nil
}

// Exchange is a request and its answer.
type Exchange struct {
	Method, Path string
	Query        url.Values
	Request      []byte // nil if it is not known
	Status       int
	Type         string // Content-Type of the answer
	Answer       []byte
}

func (c *Contract) template(path string) string {
	for _, t := range c.templates {
		if t.path == path {
			return path
		}
	}
	for _, t := range c.templates {
		if t.pattern.MatchString(path) {
			return t.path
		}
	}
	return ""
}

// Check validates an exchange: the answer always, the request if it succeeded.
func (c *Contract) Check(x Exchange) error {
	path := c.template(x.Path)
	at := []string{"paths", path, strings.ToLower(x.Method)}
	op := c.at(at...)
	if op == nil && x.Method == http.MethodHead { // the answer to GET without its body
		at[2], op = "get", c.at("paths", path, "get")
	}
	if op == nil {
		if x.Status == http.StatusNotFound || x.Status == http.StatusMethodNotAllowed || slices.Contains(everywhere, strconv.Itoa(x.Status)) {
			return c.Schema("Failure", x.Answer)
		}
		return fmt.Errorf("%s %s answered %d and is not documented", x.Method, x.Path, x.Status)
	}
	if x.Status < 300 {
		if err := c.request(at, op, x); err != nil {
			return fmt.Errorf("the request of %s %s was accepted, but is not as documented: %w", x.Method, path, err)
		}
	}
	if err := c.answer(at, op, x); err != nil {
		return fmt.Errorf("the answer %d of %s %s is not as documented: %w", x.Status, x.Method, path, err)
	}
	return nil
}

func (c *Contract) request(at []string, op object, x Exchange) error {
	names := map[string]bool{}
	parameters, _ := op["parameters"].([]any)
	for _, p := range parameters {
		if _, full := c.follow(nil, p.(object)); full["in"] == "query" {
			names[full["name"].(string)] = true
		}
	}
	for q := range x.Query {
		if !names[q] {
			return fmt.Errorf("the parameter %q", q)
		}
	}
	if x.Request == nil || op["requestBody"] == nil {
		return nil
	}
	return c.validate(append(slices.Clone(at), "requestBody", "content", "application/json", "schema"), x.Request)
}

func (c *Contract) answer(at []string, op object, x Exchange) error {
	responses, _ := op["responses"].(object)
	status := strconv.Itoa(x.Status)
	if responses[status] == nil {
		if !slices.Contains(everywhere, status) {
			return fmt.Errorf("the status")
		}
		status = "default"
	}
	at = append(slices.Clone(at), "responses", status)
	contents, _ := c.at(at...)["content"].(object)
	if x.Method == http.MethodHead || len(contents) == 0 || contents["*/*"] != nil {
		return nil
	}
	media, _, err := mime.ParseMediaType(x.Type)
	if err != nil || contents[media] == nil {
		return fmt.Errorf("the Content-Type %q", x.Type)
	}
	content, _ := contents[media].(object)
	if content["schema"] == nil || media != "application/json" || x.Answer == nil {
		return nil
	}
	return c.validate(append(at, "content", media, "schema"), x.Answer)
}

// NATSAnswer validates an answer of an operation by NATS: it has no status.
func (c *Contract) NATSAnswer(operation string, body []byte) error {
	var envelope struct {
		Errcode int `json:"errcode"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return err
	}
	if envelope.Errcode != 0 {
		return c.Schema("Failure", body)
	}
	for path := range c.at("paths") {
		for method := range c.at("paths", path) {
			if c.at("paths", path, method)["x-nats"] == operation {
				return c.validate([]string{"paths", path, method, "responses", "200", "content", "application/json", "schema"}, body)
			}
		}
	}
	return fmt.Errorf("no operation has x-nats %q", operation)
}

// validate validates JSON against the schema at a path of the document.
func (c *Contract) validate(path []string, body []byte) error {
	s, err := c.compiled(path)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// compiled returns the schema at a path, which may lead through references.
func (c *Contract) compiled(path []string) (*jsonschema.Schema, error) {
	pointer := c.pointer(path)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[pointer]; s != nil {
		return s, nil
	}
	s, err := c.compiler.Compile(name + "#" + pointer)
	if err == nil {
		c.schemas[pointer] = s
	}
	return s, err
}

// pointer returns the JSON pointer of a path, as the fragment of a URL.
func (c *Contract) pointer(path []string) string {
	steps, _ := c.resolve(path...)
	var b strings.Builder
	for _, step := range steps {
		b.WriteString("/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(step)))
	}
	return b.String()
}
