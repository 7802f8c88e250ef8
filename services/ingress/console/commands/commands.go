// Package commands writes a call of the API in the forms that people copy: curl, nats, sheaf, Go and Python.
// The console and the documentation share it, so that both show the same commands.
package commands

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Secret is the text of a JSON value that each form replaces by the environment variable TOKEN.
const Secret = "$TOKEN"

// Call is one call of the API.
type Call struct {
	Server    string          // base of the API, such as https://sheaf.example, without a final slash
	Tenant    string          // for the NATS subject
	Operation string          // last token of the NATS subject
	Method    string          // GET or POST
	Path      string          // such as /v1/export/http
	Params    url.Values      // of a GET
	Body      json.RawMessage // of a POST
	Key       bool            // the server requires an API key, which is in the environment as SHEAF_API_KEY
}

// Form is a call in one language.
type Form struct {
	Name string // curl, nats, sheaf, go or python
	Text string // ends with a line break
}

// Forms returns all forms of a call, in the order in which they are shown. Every text in the call is quoted
// for its language, so none of it runs when a reader pastes a form.
func Forms(c Call) []Form {
	forms := []Form{{"curl", c.curl()}, {"nats", c.nats()}}
	if text := c.sheaf(); text != "" {
		forms = append(forms, Form{"sheaf", text})
	}
	return append(forms, Form{"go", c.golang()}, Form{"python", c.python()})
}

func (c Call) url() string {
	if len(c.Params) == 0 {
		return c.Server + c.Path
	}
	return c.Server + c.Path + "?" + c.Params.Encode()
}

// json returns the body, or the parameters of a GET as an object, which is what NATS takes.
func (c Call) json(indent bool) string {
	var b bytes.Buffer
	body := []byte(c.Body)
	if c.Method == http.MethodGet {
		o := map[string]string{}
		for name := range c.Params {
			o[name] = c.Params.Get(name)
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(o) // strings always encode
		body = bytes.Clone(bytes.TrimSpace(b.Bytes()))
		b.Reset()
	}
	if !indent {
		if json.Compact(&b, body) != nil {
			return string(body)
		}
		return b.String()
	}
	if json.Indent(&b, body, "", "  ") != nil {
		return string(body)
	}
	return b.String()
}

func (c Call) curl() string {
	var b strings.Builder
	b.WriteString("curl -sS " + shellQuote(c.url()))
	if c.Key {
		b.WriteString(` -H "Authorization: Bearer $SHEAF_API_KEY"`)
	}
	if c.Method != http.MethodGet {
		b.WriteString(" -H 'Content-Type: application/json' -d @- <<END\n" + inHeredoc(c.json(true)) + "\nEND")
	}
	return b.String() + "\n"
}

func (c Call) nats() string {
	subject := shellQuote("sheaf.api." + c.Tenant + "." + c.Operation)
	return "nats req " + subject + " <<END\n" + inHeredoc(c.json(true)) + "\nEND\n"
}

// sheaf returns a command of the command line, "" if none makes this call.
func (c Call) sheaf() string {
	server := ""
	if c.Server != "" {
		server = " --server " + shellQuote(c.Server)
	}
	switch c.Operation {
	case "http", "raw":
		return "sheaf submit -" + server + " --wait <<END\n" + inHeredoc(c.json(true)) + "\nEND\n"
	case "cancel", "retry", "redeliver", "share", "detail", "events":
		var body struct{ Key string }
		if json.Unmarshal([]byte(c.json(false)), &body) != nil || body.Key == "" {
			return ""
		}
		name := strings.Replace(c.Operation, "detail", "status", 1)
		return "sheaf " + name + server + " " + shellQuote(body.Key) + "\n"
	case "history", "list":
		return "sheaf " + c.Operation + server + "\n"
	}
	return ""
}

func (c Call) golang() string {
	var b strings.Builder
	body := "nil"
	if c.Method != http.MethodGet {
		body = "strings.NewReader(" + goQuote(c.json(true)) + ")"
	}
	fmt.Fprintf(&b, "req, err := http.NewRequest(%q, %s, %s)\n", c.Method, strconv.Quote(c.url()), body)
	b.WriteString("if err != nil {\n\treturn err\n}\n")
	if c.Method != http.MethodGet {
		b.WriteString("req.Header.Set(\"Content-Type\", \"application/json\")\n")
	}
	if c.Key {
		b.WriteString("req.Header.Set(\"Authorization\", \"Bearer \"+os.Getenv(\"SHEAF_API_KEY\"))\n")
	}
	b.WriteString("resp, err := http.DefaultClient.Do(req)\nif err != nil {\n\treturn err\n}\ndefer resp.Body.Close()\n")
	return b.String()
}

func (c Call) python() string {
	var b strings.Builder
	headers := []string{}
	if c.Method != http.MethodGet {
		headers = append(headers, `"Content-Type": "application/json"`)
	}
	if c.Key {
		headers = append(headers, `"Authorization": "Bearer " + os.environ["SHEAF_API_KEY"]`)
	}
	data := ""
	if c.Method != http.MethodGet {
		fmt.Fprintf(&b, "body = %s\n", pythonQuote(c.json(true)))
		data = ", body.encode()"
	}
	fmt.Fprintf(&b, "request = urllib.request.Request(%s%s, {%s})\n", asciiQuote(c.url()), data, strings.Join(headers, ", "))
	b.WriteString("with urllib.request.urlopen(request) as answer:\n    print(json.load(answer)[\"data\"])\n")
	imports := "import json\nimport urllib.request\n\n"
	if c.Key || strings.Contains(b.String(), "os.environ") {
		imports = "import json\nimport os\nimport urllib.request\n\n"
	}
	return imports + b.String()
}

// shellQuote quotes a word for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// quotedSecret is how JSON writes Secret.
const quotedSecret = `"` + Secret + `"`

// inHeredoc quotes text for a here-document in which the shell replaces $TOKEN alone. A line of JSON never
// is the word END.
func inHeredoc(s string) string {
	parts := strings.Split(s, quotedSecret)
	for i, part := range parts {
		parts[i] = strings.NewReplacer(`\`, `\\`, `$`, `\$`, "`", "\\`").Replace(part)
	}
	return strings.Join(parts, quotedSecret)
}

// goQuote returns a Go expression of a text.
func goQuote(s string) string {
	parts := strings.Split(s, quotedSecret)
	for i, part := range parts {
		if i > 0 {
			part = `"` + part
		}
		if i < len(parts)-1 {
			part += `"`
		}
		if strings.Contains(part, "`") || strings.Contains(part, "\r") {
			parts[i] = strconv.Quote(part)
		} else {
			parts[i] = "`" + part + "`"
		}
	}
	return strings.Join(parts, ` + os.Getenv("TOKEN") + `)
}

// pythonQuote returns a Python expression of a text.
func pythonQuote(s string) string {
	parts := strings.Split(s, quotedSecret)
	for i, part := range parts {
		if i > 0 {
			part = `"` + part
		}
		if i < len(parts)-1 {
			part += `"`
		}
		if strings.Contains(part, `\`) || strings.Contains(part, "'''") || strings.HasSuffix(part, "'") {
			parts[i] = asciiQuote(part)
		} else {
			parts[i] = "'''" + part + "'''"
		}
	}
	return strings.Join(parts, ` + os.environ["TOKEN"] + `)
}

// asciiQuote returns a string literal that Python and JSON read alike.
func asciiQuote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // strings always encode
	return strings.TrimSpace(b.String())
}
