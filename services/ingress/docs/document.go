package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ordered is a YAML mapping in the order of the file.
type ordered[T any] []member[T]

type member[T any] struct {
	Name  string
	Value T
}

func (o *ordered[T]) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want a mapping", node.Line)
	}
	*o = make(ordered[T], len(node.Content)/2)
	for i := range *o {
		(*o)[i].Name = node.Content[2*i].Value
		if err := node.Content[2*i+1].Decode(&(*o)[i].Value); err != nil {
			return err
		}
	}
	return nil
}

// find returns the value of a name, nil if there is none.
func (o ordered[T]) find(name string) *T {
	for i := range o {
		if o[i].Name == name {
			return &o[i].Value
		}
	}
	return nil
}

// text is a description in two languages.
type text struct {
	English string `yaml:"description"`
	Chinese string `yaml:"x-zh"`
}

// openAPI is the part of an OpenAPI document that the page and the reference show.
type openAPI struct {
	Info struct {
		Title, Version string
		text           `yaml:",inline"`
	}
	Tags       []tag
	Paths      ordered[ordered[operation]]
	Webhooks   ordered[ordered[operation]]
	Components struct {
		Parameters    ordered[parameter]
		RequestBodies ordered[requestBody] `yaml:"requestBodies"`
		Responses     ordered[response]
		Schemas       ordered[schema]
	}
}

type tag struct {
	Name         string
	Title        string `yaml:"x-title"`
	ChineseTitle string `yaml:"x-title-zh"`
	text         `yaml:",inline"`
}

type operation struct {
	ID             string `yaml:"operationId"`
	NATS           string `yaml:"x-nats"`  // last token of its subject
	Scope          string `yaml:"x-scope"` // that the API key needs
	Curl           string `yaml:"x-curl"`  // further flags of curl, in examples
	Internal       bool   `yaml:"x-internal"`
	Tags           []string
	Summary        string
	ChineseSummary string `yaml:"x-summary-zh"`
	text           `yaml:",inline"`
	Security       []ordered[[]string]
	Parameters     []parameter
	RequestBody    *requestBody `yaml:"requestBody"`
	Responses      ordered[response]
}

type parameter struct {
	Ref      string `yaml:"$ref"`
	Name, In string
	Required bool
	text     `yaml:",inline"`
	Schema   schema
	Example  any
}

type requestBody struct {
	Ref      string `yaml:"$ref"`
	Required bool
	Content  ordered[content]
}

type response struct {
	Ref     string `yaml:"$ref"`
	text    `yaml:",inline"`
	Content ordered[content]
}

type content struct {
	Schema   schema
	Example  yaml.Node
	Examples ordered[example]
}

type example struct {
	Summary        string
	ChineseSummary string `yaml:"x-summary-zh"`
	Value          yaml.Node
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       yaml.Node
	text       `yaml:",inline"`
	Required   []string
	Properties ordered[schema]
	Items      *schema
	Const      yaml.Node
	Enum       []yaml.Node
	HTTP       int      `yaml:"x-http"` // status of an errcode
	AllOf      []schema `yaml:"allOf"`
	AnyOf      []schema `yaml:"anyOf"`
	OneOf      []schema `yaml:"oneOf"`
	Examples   []yaml.Node
	Deprecated bool
}

// asyncAPI is the part of an AsyncAPI document that the page and the reference show.
type asyncAPI struct {
	Info struct {
		text `yaml:",inline"`
	}
	Channels   ordered[channel]
	Components struct {
		Messages ordered[message]
	}
}

type channel struct {
	Address  string
	text     `yaml:",inline"`
	Messages ordered[struct {
		Ref string `yaml:"$ref"`
	}]
}

type message struct {
	Name    string
	Payload struct {
		Ref string `yaml:"$ref"`
	}
}

// local returns the last step of a reference such as #/components/schemas/File.
func local(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// parameter returns the parameter that p is or refers to.
func (d *openAPI) parameter(p parameter) parameter {
	if found := d.Components.Parameters.find(local(p.Ref)); p.Ref != "" && found != nil {
		return *found
	}
	return p
}

// body returns the request body of an operation, nil if it has none.
func (d *openAPI) body(op operation) *requestBody {
	if op.RequestBody != nil && op.RequestBody.Ref != "" {
		return d.Components.RequestBodies.find(local(op.RequestBody.Ref))
	}
	return op.RequestBody
}

// response returns the response that r is or refers to.
func (d *openAPI) response(r response) response {
	if found := d.Components.Responses.find(local(r.Ref)); r.Ref != "" && found != nil {
		return *found
	}
	return r
}

// schema returns the schema that s is or refers to. What stands beside the reference counts more.
func (d *openAPI) schema(s schema) schema {
	if s.Ref == "" {
		return s
	}
	found := d.Components.Schemas.find(local(s.Ref))
	if found == nil {
		return s
	}
	full := *found
	if s.English != "" {
		full.text = s.text
	}
	if len(s.Examples) > 0 {
		full.Examples = s.Examples
	}
	full.Ref, full.Deprecated = s.Ref, s.Deprecated || full.Deprecated
	return full
}

// data returns the schema of the member data of an answer: the second part of its allOf.
func data(answer schema) *schema {
	for _, part := range answer.AllOf {
		if found := part.Properties.find("data"); found != nil {
			return found
		}
	}
	return nil
}

// asJSON returns the JSON of a YAML document, with its members in the same order.
func asJSON(document []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(document, &node); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := writeJSON(&b, &node); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.DocumentNode:
		return writeJSON(b, node.Content[0])
	case yaml.MappingNode:
		return writeAll(b, "{}", node.Content, 2)
	case yaml.SequenceNode:
		return writeAll(b, "[]", node.Content, 1)
	case yaml.AliasNode:
		return writeJSON(b, node.Alias)
	}
	var value any
	if err := node.Decode(&value); err != nil {
		return err
	}
	return writeValue(b, value)
}

// writeAll writes an object, whose nodes are names and values, or an array.
func writeAll(b *bytes.Buffer, brackets string, nodes []*yaml.Node, step int) error {
	b.WriteByte(brackets[0])
	for i := 0; i < len(nodes); i += step {
		if i > 0 {
			b.WriteByte(',')
		}
		if step == 2 {
			if err := writeValue(b, nodes[i].Value); err != nil { // also of a name such as 200
				return err
			}
			b.WriteByte(':')
		}
		if err := writeJSON(b, nodes[i+step-1]); err != nil {
			return err
		}
	}
	b.WriteByte(brackets[1])
	return nil
}

func writeValue(b *bytes.Buffer, value any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the line break
	return nil
}
