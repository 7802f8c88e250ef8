// Package docs serves the contracts of a server: its OpenAPI and AsyncAPI documents as they are, and a page for
// people in English and Chinese that is made from them. The page needs no script and no other site.
package docs

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/text/language"
)

// Config configures the pages.
type Config struct {
	OpenAPI  []byte // document of the REST API
	AsyncAPI []byte // document of the NATS subjects
	// Schema returns the JSON Schema of an event by its file name, nil for an unknown one.
	Schema func(name string) []byte
	URL    string // of the server, for the examples; without a slash at the end
	Keys   bool   // callers need an API key
}

// Docs serves the documents. Their paths are relative to each other, so any prefix works.
type Docs struct {
	cfg   Config
	json  func() ([]byte, error)
	read  func() (*contracts, error)
	pages map[language.Tag]func() ([]byte, error)
}

// contracts are the two documents.
type contracts struct {
	rest openAPI
	nats asyncAPI
}

//go:embed docs.css
var style []byte

// languages are those of the page. The first one is the default.
var languages = []language.Tag{language.English, language.Chinese}

var matcher = language.NewMatcher(languages)

// New returns the pages. It reads the documents at the first request.
func New(cfg Config) *Docs {
	d := &Docs{cfg: cfg, pages: map[language.Tag]func() ([]byte, error){}}
	d.json = sync.OnceValues(func() ([]byte, error) { return asJSON(cfg.OpenAPI) })
	d.read = sync.OnceValues(func() (*contracts, error) { return parse(cfg.OpenAPI, cfg.AsyncAPI) })
	for _, tag := range languages {
		d.pages[tag] = sync.OnceValues(func() ([]byte, error) { return d.render(tag) })
	}
	return d
}

func parse(rest, nats []byte) (*contracts, error) {
	c := &contracts{}
	if err := yaml.Unmarshal(rest, &c.rest); err != nil {
		return nil, fmt.Errorf("OpenAPI document: %w", err)
	}
	if err := yaml.Unmarshal(nats, &c.nats); err != nil {
		return nil, fmt.Errorf("AsyncAPI document: %w", err)
	}
	return c, nil
}

// ErrUnknown is returned for a schema that does not exist.
var ErrUnknown = errors.New("no such schema")

// Handler answers a request, or returns an error without having written anything.
type Handler = func(w http.ResponseWriter, r *http.Request) error

// OpenAPI serves the document of the REST API as YAML.
func (d *Docs) OpenAPI(w http.ResponseWriter, r *http.Request) error {
	return serve(w, r, "application/yaml", d.cfg.OpenAPI)
}

// OpenAPIJSON serves the document of the REST API as JSON.
func (d *Docs) OpenAPIJSON(w http.ResponseWriter, r *http.Request) error {
	body, err := d.json()
	if err != nil {
		return err
	}
	return serve(w, r, "application/json", body)
}

// AsyncAPI serves the document of the NATS subjects as YAML.
func (d *Docs) AsyncAPI(w http.ResponseWriter, r *http.Request) error {
	return serve(w, r, "application/yaml", d.cfg.AsyncAPI)
}

// Schema serves the schema of an event, which the AsyncAPI document refers to. The error is ErrUnknown if there
// is none of the name.
func (d *Docs) Schema(w http.ResponseWriter, r *http.Request, name string) error {
	body := d.cfg.Schema(name)
	if body == nil {
		return ErrUnknown
	}
	return serve(w, r, "application/schema+json", body)
}

// Style serves the style sheet of the page.
func (d *Docs) Style(w http.ResponseWriter, r *http.Request) error {
	return serve(w, r, "text/css; charset=utf-8", style)
}

// Page serves the page. Its language is that of the parameter lang, or else of Accept-Language.
func (d *Docs) Page(w http.ResponseWriter, r *http.Request) error {
	_, i := language.MatchStrings(matcher, r.URL.Query().Get("lang"), r.Header.Get("Accept-Language"))
	body, err := d.pages[languages[i]]()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Language", languages[i].String())
	h.Set("Vary", "Accept-Language")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	return serve(w, r, "text/html; charset=utf-8", body)
}

// serve answers with a body that changes only with the version of the program.
func serve(w http.ResponseWriter, r *http.Request, mediaType string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", strconv.Quote(hash(body)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	return nil
}
