package docs

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sheaf/services/ingress/console/commands"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/language"
)

//go:embed page.html
var pageTemplate string

var markdown = goldmark.New(goldmark.WithExtensions(extension.Table))

// hash shortens a content to a name of its version.
func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// words are the texts of the page itself, English and Chinese.
var words = map[string][2]string{
	"codes":      {"Codes", "代码"},
	"schemas":    {"Objects", "对象"},
	"nats":       {"NATS subjects", "NATS 主题"},
	"callbacks":  {"Callbacks", "回调"},
	"request":    {"Request", "请求"},
	"parameters": {"Parameters", "参数"},
	"answers":    {"Answers", "应答"},
	"example":    {"Example", "示例"},
	"name":       {"Name", "名称"},
	"type":       {"Type", "类型"},
	"meaning":    {"Meaning", "含义"},
	"status":     {"Status", "状态"},
	"required":   {"required", "必需"},
	"public":     {"needs no API key", "不需要 API 密钥"},
	"scope":      {"scope of the API key:", "API 密钥的范围："},
	"subject":    {"by NATS:", "NATS："},
	"other":      {"中文", "English"},
	"otherLang":  {"zh", "en"},
	"skip":       {"Skip to the content", "跳到正文"},
	"contents":   {"Contents", "目录"},
	"source":     {"Documents for programs:", "供程序使用的文档："},
	"list":       {"list of ", "列表："},
	"any":        {"any", "任意"},
	"schemaFile": {"Schema", "模式"},
}

// The page as the template shows it.
type (
	view struct {
		Lang, Version, Style string
		Title                string
		About                template.HTML
		Groups               []groupView
		Callbacks            []operationView
		Codes, Objects       []schemaView
		Channels             []channelView
	}
	groupView struct {
		Name, Title string
		About       template.HTML
		Operations  []operationView
	}
	operationView struct {
		ID, Method, Path, NATS, Scope, Summary string
		About                                  template.HTML
		Public                                 bool
		Parameters                             []fieldView
		Body                                   *schemaView
		Examples                               []exampleView
		Answers                                []answerView
	}
	fieldView struct {
		Name, In, Example string
		Type, About       template.HTML
		Required          bool
	}
	exampleView struct {
		Title, Anchor string
		Forms         []commands.Form
	}
	answerView struct {
		Statuses    []string // with the same meaning
		About, Type template.HTML
	}
	schemaView struct {
		Name   string
		About  template.HTML
		Type   template.HTML
		Fields []fieldView
		Values []valueView
	}
	valueView struct {
		Value, Anchor, HTTP string
		About               template.HTML
	}
	channelView struct {
		Name, Address, Schema string
		About                 template.HTML
	}
)

// writer makes a page in one language.
type writer struct {
	*contracts
	call  commands.Call // what the examples share
	index int           // of the language
}

func (d *Docs) render(tag language.Tag) ([]byte, error) {
	c, err := d.read()
	if err != nil {
		return nil, err
	}
	w := &writer{
		contracts: c, index: slices.Index(languages, tag),
		call: commands.Call{Server: d.cfg.URL, Tenant: "default", Key: d.cfg.Keys},
	}
	v := view{
		Lang: tag.String(), Title: c.rest.Info.Title, Version: c.rest.Info.Version, Style: hash(style),
		About: w.say(c.rest.Info.text),
	}
	for _, t := range c.rest.Tags {
		v.Groups = append(v.Groups, groupView{
			Name: t.Name, Title: w.pick(t.Title, t.ChineseTitle), About: w.say(t.text), Operations: w.operations(t.Name),
		})
	}
	for _, hook := range c.rest.Webhooks {
		for _, op := range hook.Value {
			one := w.operation(op.Name, "", op.Value)
			one.Examples = nil // Sheaf sends it
			v.Callbacks = append(v.Callbacks, one)
		}
	}
	for _, s := range c.rest.Components.Schemas {
		switch one := w.schema(s.Name, s.Value); {
		case slices.Contains(codeSchemas, s.Name):
			v.Codes = append(v.Codes, one)
		default:
			v.Objects = append(v.Objects, one)
		}
	}
	for _, ch := range c.nats.Channels {
		v.Channels = append(v.Channels, w.channel(ch.Name, ch.Value))
	}
	word := func(name string) string { return words[name][w.index] }
	page, err := template.New("page").Funcs(template.FuncMap{"word": word}).Parse(pageTemplate)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// codeSchemas are the schemas whose values are codes with an anchor each.
var codeSchemas = []string{"Errcode", "ErrorCode", "WarningCode"}

// pick returns the text of the page's language, or the other one if it lacks.
func (w *writer) pick(english, chinese string) string {
	if w.index == 1 && chinese != "" || english == "" {
		return chinese
	}
	return english
}

// say returns a description as HTML.
func (w *writer) say(t text) template.HTML { return toHTML(w.pick(t.English, t.Chinese)) }

// toHTML renders Markdown. HTML in it is left out.
func toHTML(source string) template.HTML {
	var b bytes.Buffer
	if err := markdown.Convert([]byte(source), &b); err != nil { // only if b cannot be written
		return template.HTML(template.HTMLEscapeString(source)) //nolint:gosec // escaped
	}
	return template.HTML(b.String())
}

// operations returns the operations of a tag, in the order of the document.
func (w *writer) operations(name string) (list []operationView) {
	for _, path := range w.rest.Paths {
		for _, op := range path.Value {
			if slices.Contains(op.Value.Tags, name) && !op.Value.Internal {
				list = append(list, w.operation(op.Name, path.Name, op.Value))
			}
		}
	}
	return list
}

func (w *writer) operation(method, path string, op operation) operationView {
	v := operationView{
		ID: op.ID, Method: strings.ToUpper(method), Path: path, NATS: op.NATS, Scope: op.Scope,
		Summary: w.pick(op.Summary, op.ChineseSummary), About: w.say(op.text),
		Public: len(op.Security) == 1 && len(op.Security[0]) == 0,
	}
	for _, p := range op.Parameters {
		p = w.rest.parameter(p)
		v.Parameters = append(v.Parameters, fieldView{
			Name: p.Name, In: p.In, Type: w.typeOf(p.Schema), About: w.say(p.text), Required: p.Required,
		})
	}
	var bodies []example
	if body := w.rest.body(op); body != nil && len(body.Content) > 0 {
		c := body.Content[0].Value
		one := w.schema(local(c.Schema.Ref), w.rest.schema(c.Schema))
		v.Body, bodies = &one, c.examples()
	}
	v.Examples = w.examples(v, op, bodies)
	for _, r := range op.Responses {
		full := w.rest.response(r.Value)
		a := answerView{Statuses: []string{r.Name}, About: w.say(full.text)}
		if len(full.Content) > 0 {
			s := full.Content[0].Value.Schema
			if of := data(s); of != nil {
				s = *of
			}
			a.Type = w.typeOf(s)
		}
		if n := len(v.Answers); n > 0 && v.Answers[n-1].About == a.About && v.Answers[n-1].Type == a.Type {
			v.Answers[n-1].Statuses = append(v.Answers[n-1].Statuses, r.Name)
			continue
		}
		v.Answers = append(v.Answers, a)
	}
	return v
}

// examples returns the examples of an operation: one for each body, or one with the example parameters.
func (w *writer) examples(v operationView, op operation, bodies []example) (list []exampleView) {
	c := w.call
	c.Operation, c.Method, c.Path, c.Params, c.Key = op.ID, v.Method, v.Path, url.Values{}, c.Key && !v.Public
	for _, p := range op.Parameters {
		p = w.rest.parameter(p)
		value := scalar(p.Example)
		switch {
		case p.In == "path":
			c.Path = strings.Replace(c.Path, "{"+p.Name+"}", value, 1)
		case p.In == "query" && value != "":
			c.Params.Set(p.Name, value)
		}
	}
	if v.Method == http.MethodGet {
		bodies = []example{{}}
	}
	for i, body := range bodies {
		c.Body = nil
		if body.Value.Kind != 0 {
			var b bytes.Buffer
			if writeJSON(&b, &body.Value) != nil {
				continue // a test reads all examples
			}
			c.Body = b.Bytes()
		}
		list = append(list, exampleView{
			Title: w.pick(body.Summary, body.ChineseSummary), Anchor: op.ID + "-" + strconv.Itoa(i+1),
			Forms: w.forms(c, op),
		})
	}
	return list
}

// forms returns the forms of a call that fit its operation. Only curl fits an answer that is no envelope.
func (w *writer) forms(c commands.Call, op operation) (forms []commands.Form) {
	enveloped := false
	if ok := op.Responses.find("200"); ok != nil {
		if full := w.rest.response(*ok); len(full.Content) > 0 {
			enveloped = data(full.Content[0].Value.Schema) != nil
		}
	}
	for _, f := range commands.Forms(c) {
		switch {
		case f.Name == "curl" && op.Curl != "":
			f.Text = strings.Replace(f.Text, "curl ", "curl "+op.Curl+" ", 1)
		case f.Name == "nats" && op.NATS == "", f.Name != "curl" && !enveloped:
			continue
		}
		forms = append(forms, f)
	}
	return forms
}

// examples returns the examples of a content.
func (c content) examples() (list []example) {
	for _, e := range c.Examples {
		list = append(list, e.Value)
	}
	if c.Example.Kind != 0 {
		list = append(list, example{Value: c.Example})
	}
	return list
}

func (w *writer) schema(name string, s schema) schemaView {
	v := schemaView{Name: name, About: w.say(s.text), Type: w.typeOf(schema{Type: s.Type, Items: s.Items, Enum: s.Enum})}
	for _, p := range s.Properties {
		full := w.rest.schema(p.Value)
		if full.Deprecated {
			continue
		}
		v.Fields = append(v.Fields, fieldView{
			Name: p.Name, Type: w.typeOf(p.Value), About: w.say(full.text),
			Required: slices.Contains(s.Required, p.Name), Example: exampleOf(full),
		})
	}
	for _, one := range s.OneOf {
		if one.Const.Kind == 0 {
			continue
		}
		value := one.Const.Value
		item := valueView{Value: value, About: w.say(one.text)}
		switch {
		case name == "Errcode":
			item.Anchor, item.HTTP = "errcode-"+value, strconv.Itoa(one.HTTP)
		case slices.Contains(codeSchemas, name):
			item.Anchor = value
		}
		v.Values = append(v.Values, item)
	}
	return v
}

// exampleOf returns the first example of a schema as JSON, "" if it has none.
func exampleOf(s schema) string {
	if len(s.Examples) == 0 {
		return ""
	}
	return compact(&s.Examples[0])
}

// typeOf names the type of a schema, with a link to one that has a name.
func (w *writer) typeOf(s schema) template.HTML {
	switch {
	case s.Ref != "":
		name := template.HTMLEscapeString(local(s.Ref))
		return template.HTML(`<a href="#schema-` + name + `">` + name + `</a>`) //nolint:gosec // escaped
	case len(s.AnyOf) > 0:
		for _, one := range s.AnyOf {
			if one.Ref != "" {
				return w.typeOf(one)
			}
		}
	case s.Items != nil && s.Type.Value == "array":
		return template.HTML(template.HTMLEscapeString(words["list"][w.index])) + w.typeOf(*s.Items) //nolint:gosec // escaped
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			if v.Tag != "!!null" && v.Value != "" {
				values = append(values, "<code>"+template.HTMLEscapeString(v.Value)+"</code>")
			}
		}
		return template.HTML(strings.Join(values, ", ")) //nolint:gosec // escaped
	case s.Const.Kind != 0:
		return template.HTML("<code>" + template.HTMLEscapeString(compact(&s.Const)) + "</code>") //nolint:gosec // escaped
	}
	names := typeNames(s.Type)
	if len(names) == 0 {
		return template.HTML(template.HTMLEscapeString(words["any"][w.index])) //nolint:gosec // escaped
	}
	return template.HTML(template.HTMLEscapeString(strings.Join(names, ", "))) //nolint:gosec // escaped
}

// typeNames returns the types of a schema, without null: it means that the member may be absent.
func typeNames(node yaml.Node) (names []string) {
	if node.Kind == yaml.ScalarNode {
		return []string{node.Value}
	}
	for _, n := range node.Content {
		if n.Value != "null" {
			names = append(names, n.Value)
		}
	}
	return names
}

func (w *writer) channel(name string, ch channel) channelView {
	v := channelView{Name: name, Address: ch.Address, About: w.say(ch.text)}
	for _, m := range ch.Messages {
		message := w.nats.Components.Messages.find(local(m.Value.Ref))
		if message != nil && strings.HasPrefix(message.Payload.Ref, "./schema/") {
			v.Schema = strings.TrimPrefix(message.Payload.Ref, "./")
		}
	}
	return v
}

// compact returns a value as JSON in one line, with a space after commas and colons.
func compact(node *yaml.Node) string {
	var b bytes.Buffer
	if writeJSON(&b, node) != nil {
		return node.Value
	}
	return spaced(b.Bytes())
}

// scalar returns an example value as text.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int:
		return strconv.Itoa(v)
	}
	return ""
}

// spaced adds a space after each comma and colon of compact JSON outside texts.
func spaced(compact []byte) string {
	var b strings.Builder
	quoted := false
	for i, c := range compact {
		b.WriteByte(c)
		switch {
		case c == '"' && (i == 0 || compact[i-1] != '\\'):
			quoted = !quoted
		case (c == ',' || c == ':') && !quoted:
			b.WriteByte(' ')
		}
	}
	return b.String()
}
