package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// assetHash names the version of all files of static/, so that browsers keep them forever.
var assetHash = hashAssets()

func hashAssets() string {
	sum := sha256.New()
	_ = fs.WalkDir(staticFiles, ".", func(name string, d fs.DirEntry, _ error) error { // embedded: no error
		if !d.IsDir() {
			data, _ := staticFiles.ReadFile(name)
			sum.Write(data)
		}
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil))[:12]
}

// Stylesheet returns the path of the house's style sheet below the base path, for other pages of the server.
func Stylesheet() string { return "/console/static/" + assetHash + "/console.css" }

// static serves the files of static/. An old hash gets the present file, which its browser must not keep.
func static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	data, err := staticFiles.ReadFile("static/" + path.Base(name))
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if r.PathValue("hash") == assetHash {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

// pages are the templates by language and name.
type pages map[string]map[string]*template.Template

// parsePages parses the templates, which are part of the binary.
func parsePages() pages {
	all := pages{}
	names, _ := fs.Glob(templateFiles, "templates/*.html")
	for _, lang := range languages {
		all[lang] = map[string]*template.Template{}
		funcs := template.FuncMap{
			"t":      func(key string, pairs ...any) string { return word(lang, key, pairs...) },
			"number": func(n any) string { return grouped(n) },
		}
		base := template.Must(template.New("layout").Funcs(funcs).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
		for _, file := range names {
			name := strings.TrimSuffix(path.Base(file), ".html")
			if name == "layout" || name == "parts" {
				continue
			}
			all[lang][name] = template.Must(template.Must(base.Clone()).ParseFS(templateFiles, file))
		}
	}
	return all
}

// page is what every page shows around its content.
type page struct {
	Title  string
	Nav    string // the entry of the navigation that is this page
	Lang   string
	Theme  string
	Zone   string // as shown: "UTC" while unknown
	Asks   bool   // the browser may set its zone
	Keys   string
	Base   string // prefix of absolute paths
	Assets string
	Back   string // this page, for the forms of the footer
	Name   string
	Colour string
	Open   bool
	Who    Principal
	Other  bool // an admin looks at another tenant
	Flash  *flash
	Events string // URL of the page's stream, "" for none
	Data   any

	v *visit
}

func (v *visit) page(title, nav string) *page {
	p := &page{
		Title: title, Nav: nav, Lang: v.prefs.Lang, Theme: v.prefs.Theme, Zone: v.prefs.place.String(),
		Asks: v.prefs.Zone == "", Keys: v.prefs.Keys, Base: v.base, Assets: v.base + "/console/static/" + assetHash,
		Back: v.here(), Name: v.Name, Colour: v.Colour, Open: v.Open, Who: v.who, Other: v.who.Tenant != v.own, v: v,
	}
	if strings.HasPrefix(v.r.URL.Path, "/console/") {
		p.Flash = v.takeFlash()
	}
	return p
}

// URL returns a URL of the console, with the tenant that an admin has chosen.
func (p *page) URL(path string) string { return p.v.url(path, nil) }

// Can reports whether the visitor's key has a scope.
func (p *page) Can(scope string) bool {
	need := map[string]Scope{"read": ScopeRead, "submit": ScopeSubmit, "operate": ScopeOperate, "admin": ScopeAdmin}[scope]
	return need > 0 && p.Who.Scope >= need
}

// render writes a page whole or not at all.
func (v *visit) render(status int, name string, p *page) error {
	var b bytes.Buffer
	if err := v.pages[v.prefs.Lang][name].ExecuteTemplate(&b, "layout", p); err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", v.prefs.Lang)
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	v.w.WriteHeader(status)
	_, _ = v.w.Write(b.Bytes()) // an error means that the visitor has gone
	return nil
}

// fragment renders a part of a page for its stream.
func (v *visit) fragment(page, part string, data any) (string, error) {
	var b strings.Builder
	err := v.pages[v.prefs.Lang][page].ExecuteTemplate(&b, part, data)
	return b.String(), err
}

// linkable returns a URL that a page may link to, "" for any other.
func linkable(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return s
}
