// Package console serves Sheaf's pages for people: the console of operators, and the share page of a user who
// waits for a file.
//
// Every page works from its URL alone and without JavaScript. Only POST changes something, and it answers
// with 303. Pages show what the operations of the API answer, so the console, REST and NATS cannot differ.
package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"sheaf/events"
)

// Scope is what a key allows. Each scope includes those before it.
type Scope int

// The scopes.
const (
	ScopeRead Scope = iota + 1
	ScopeSubmit
	ScopeOperate
	ScopeAdmin
)

// Principal is a caller.
type Principal struct {
	ID     string // of the API key; "" where no key is required
	Tenant string
	Scope  Scope
}

// Error is a failed operation, as a caller of the API sees it.
type Error struct {
	Status     int // of HTTP
	Errcode    int
	Field      string // at fault; "" if there is none
	Msg        string
	RetryAfter time.Duration // 0 means never
}

func (e *Error) Error() string { return e.Msg }

// Shared is what a share link allows.
type Shared struct {
	Who       Principal // who may read the tenant's exports
	Key       string    // of the one export
	ReturnURL string    // where the user came from; "" if unknown
	Expired   bool      // the link was valid once
}

// Backend is the service behind the pages.
type Backend interface {
	// Call runs an operation of the API and returns its data. The error is an *Error.
	Call(ctx context.Context, who Principal, operation string, params url.Values, body []byte) (json.RawMessage, error)
	// Request returns what a caller may see of the request of an export. The error is an *Error.
	Request(ctx context.Context, who Principal, key string) (*events.Request, error)
	// Authenticate returns the owner of an API key, and KeyByID that of the valid key with an id.
	Authenticate(key string) (Principal, bool)
	KeyByID(id string) (Principal, bool)
	// Shared reads a share link's token. ok is false for a token that was never issued.
	Shared(ctx context.Context, token string) (s Shared, ok bool)
	// Download serves a finished file by its signed link.
	Download(w http.ResponseWriter, r *http.Request, link string)
	// Changes reports events and progress of a tenant's exports, or of one of them if key is not "". Several
	// changes may be reported as one.
	Changes(tenant, key string) (changed <-chan struct{}, stop func())
	// EnterStream counts a stream of a tenant's share pages, or of its console. ok is false while there are
	// too many.
	EnterStream(share bool, tenant string) (leave func(), ok bool)
	// Stopping is closed when the process drains.
	Stopping() <-chan struct{}
}

// Sealer seals cookies. A *secrets.Keyring is one.
type Sealer interface {
	Seal(tenant, key string, plain []byte) ([]byte, error)
	Open(tenant, key string, sealed []byte) ([]byte, error)
}

// Options configure the pages.
type Options struct {
	PublicURL    string   // base of all links, without a final slash; its path is the base path of the pages
	Open         bool     // no key is required, and there is no login
	Keys         Sealer   // for cookies; required
	Name         string   // of the installation, such as PROD; default none
	Colour       string   // of the name: one of Colours; default grey
	EmbedOrigins []string // origins whose pages may show share pages and the progress of a share link
	Formats      []string // that a new export can choose
	Previews     bool     // POST /v1/export/preview exists
	Log          *slog.Logger
}

// Colours are the values of Options.Colour.
var Colours = []string{"grey", "red", "orange", "green", "blue"}

// Console serves the pages. [New] makes it; it is safe for concurrent use.
type Console struct {
	Options
	backend Backend
	base    string // path of the public URL, "" for none
	public  *url.URL
	pages   pages
	logouts *logouts
	streams *streams
	reads   *reads
	mux     *http.ServeMux
}

// New returns a handler of /console/ and /s/. It does no I/O.
func New(backend Backend, o Options) http.Handler {
	c := &Console{Options: o, backend: backend, pages: parsePages(), logouts: newLogouts(time.Now()), streams: newStreams(), reads: newReads(), mux: http.NewServeMux()}
	c.public, _ = url.Parse(o.PublicURL)
	c.public = cmp.Or(c.public, &url.URL{})
	c.base = strings.TrimRight(c.public.Path, "/")
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.Colour = cmp.Or(c.Colour, Colours[0])
	c.routes()
	return c
}

func (c *Console) routes() {
	read := func(h handler) http.HandlerFunc { return c.visitor(ScopeRead, h) }
	operate := func(h handler) http.HandlerFunc { return c.visitor(ScopeOperate, h) }
	submit := func(h handler) http.HandlerFunc { return c.visitor(ScopeSubmit, h) }
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /console/{$}":                  read((*visit).list),
		"GET /console/events":               read((*visit).listStream),
		"GET /console/x/{key}":              read((*visit).detail),
		"GET /console/x/{key}/events":       read((*visit).detailStream),
		"GET /console/x/{key}/cancel":       operate((*visit).confirmCancel),
		"POST /console/x/{key}/cancel":      operate(act("cancel")),
		"POST /console/x/{key}/retry":       operate(act("retry")),
		"POST /console/x/{key}/redeliver":   operate(act("redeliver")),
		"GET /console/x/{key}/share":        operate((*visit).shareForm),
		"POST /console/x/{key}/share":       operate((*visit).makeShare),
		"GET /console/new":                  submit((*visit).newExport),
		"POST /console/new":                 submit((*visit).submitNew),
		"GET /console/bulk":                 operate((*visit).bulk),
		"POST /console/bulk":                operate((*visit).runBulk),
		"GET /console/system":               c.visitor(ScopeAdmin, (*visit).system),
		"GET /console/login":                c.anyone((*visit).loginForm),
		"POST /console/login":               c.anyone((*visit).login),
		"POST /console/logout":              c.anyone((*visit).logout),
		"POST /console/set":                 c.anyone((*visit).set),
		"GET /console/static/{hash}/{file}": static,
		"GET /s/static/{hash}/{file}":       static,
		"GET /s/progress.js":                c.widget,
		"GET /s/{token}":                    c.shared((*visit).sharePage),
		"GET /s/{token}/progress":           c.shared((*visit).shareProgress),
		"GET /s/{token}/events":             c.shared((*visit).shareStream),
		"GET /s/{token}/file":               c.shared((*visit).shareFile),
		"/console/":                         read((*visit).notFound),
		"/s/":                               c.anyone((*visit).unknownShare),
	} {
		c.mux.HandleFunc(pattern, h)
	}
}

// policy is the Content-Security-Policy of all pages. Nothing is inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors "

func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy+"'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Cache-Control", "no-store")
	if path.Clean(r.URL.Path) != strings.TrimSuffix(r.URL.Path, "/") { // the mux would redirect, without the base path
		c.anyone((*visit).notFound)(w, r)
		return
	}
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	}
	c.mux.ServeHTTP(w, r)
}

// maxForm bounds the body of a form.
const maxForm = 256 << 10

// visit is one request for a page.
type visit struct {
	*Console
	w     http.ResponseWriter
	r     *http.Request
	who   Principal // Tenant is the one that the page shows
	own   string    // tenant of the key
	prefs prefs
	share Shared // of /s/ alone
}

// handler serves a visit. An error becomes a page.
type handler func(v *visit) error

// anyone serves visitors without a session too.
func (c *Console) anyone(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &visit{Console: c, w: w, r: r, prefs: prefsOf(r)}
		v.who, _ = c.session(r)
		v.own = v.who.Tenant
		if err := r.ParseForm(); r.Method == http.MethodPost && err != nil {
			v.fail(&Error{Status: http.StatusRequestEntityTooLarge, Msg: v.t("new.large")})
			return
		}
		v.answer(h)
	}
}

// visitor serves visitors with a session and a scope. Others get the login page.
func (c *Console) visitor(need Scope, h handler) http.HandlerFunc {
	return c.anyone(func(v *visit) error {
		if v.who.Tenant == "" {
			return v.askForLogin()
		}
		if v.who.Scope < need {
			return v.forbidden()
		}
		if other := v.r.FormValue("tenant"); other != "" && other != v.own {
			if v.who.Scope < ScopeAdmin || !events.ValidTenant(other) {
				return v.forbidden()
			}
			v.who.Tenant = other
		}
		return h(v)
	})
}

func (v *visit) answer(h handler) {
	err := h(v)
	if err == nil {
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		v.Log.ErrorContext(v.r.Context(), "a page failed", "error", err)
		e = &Error{Status: http.StatusInternalServerError}
	}
	v.fail(e)
}

// fail answers with the page of an error.
func (v *visit) fail(e *Error) {
	if e.RetryAfter > 0 {
		v.w.Header().Set("Retry-After", seconds(e.RetryAfter))
	}
	name := "error"
	if e.Status == http.StatusNotFound {
		name = "missing"
	}
	p := v.page(v.t("error.title"), "")
	p.Data = struct {
		*Error
		Wait string
	}{e, seconds(e.RetryAfter)}
	if err := v.render(e.Status, name, p); err != nil {
		v.Log.ErrorContext(v.r.Context(), "a page failed", "error", err)
	}
}

func (v *visit) notFound() error { return &Error{Status: http.StatusNotFound} }

func (v *visit) forbidden() error {
	return &Error{Status: http.StatusForbidden, Msg: v.t("error.scope")}
}

// call runs an operation and decodes its data.
func (v *visit) call(operation string, params url.Values, body, data any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	answer, err := v.backend.Call(v.r.Context(), v.who, operation, params, raw)
	if err != nil || data == nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(answer))
	d.UseNumber() // a long number in a row stays exact
	return d.Decode(data)
}

// url returns the URL of a page, with the tenant that an admin has chosen.
func (v *visit) url(path string, query url.Values) string {
	if v.who.Tenant != v.own && v.who.Tenant != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("tenant", v.who.Tenant)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return v.base + path
}

// seeOther answers a form that changed something.
func (v *visit) seeOther(path string) error {
	v.w.Header().Set("Location", path)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}
