package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/ingress/console"
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

// newConsole returns the handler of the pages for people.
func (s *Service) newConsole() http.Handler {
	formats := make([]string, len(s.cfg.Formats))
	for i, f := range s.cfg.Formats {
		formats[i] = f.Name
	}
	return console.New(consoleBackend{s}, console.Options{
		PublicURL: s.cfg.PublicURL, Open: s.cfg.Authenticate == nil, Keys: s.journal.Keys(),
		Name: s.cfg.ConsoleName, Colour: s.cfg.ConsoleColour, EmbedOrigins: s.cfg.EmbedOrigins,
		Formats: formats, Previews: s.cfg.Previewer != nil, Log: s.cfg.Log,
	})
}

// people serves the pages for people.
func (s *Service) people(w http.ResponseWriter, r *http.Request) { s.console.ServeHTTP(w, r) }

// consoleBackend answers the console by the operations of the API.
type consoleBackend struct{ *Service }

// Call runs an operation as REST would.
func (b consoleBackend) Call(ctx context.Context, who console.Principal, name string, params url.Values, body []byte) (json.RawMessage, error) {
	data, err := b.run(ctx, who, name, params, body)
	if err != nil {
		return nil, consoleError(ctx, err)
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, consoleError(ctx, internal(err))
	}
	return raw, nil
}

func (b consoleBackend) run(ctx context.Context, who console.Principal, name string, params url.Values, body []byte) (data any, err error) {
	op, ok := operations[name]
	if !ok {
		return nil, &apiError{Errcode: errcodeNotFound, Status: http.StatusNotFound, Msg: "there is no operation " + name}
	}
	c := call{operation: name, requestID: lineOfContext(ctx).id, body: body, params: params}
	if params == nil {
		c.params = url.Values{}
	}
	if body != nil && !op.body {
		if c.params, err = request.Params(body); err != nil {
			return nil, err
		}
	}
	p := Principal{ID: who.ID, Tenant: who.Tenant, Scope: scopeOf(who)}
	if err := c.authorize(p, op); err != nil {
		return nil, err
	}
	l := lineOfContext(ctx)
	l.tenant, l.caller, l.key = c.tenant, who.ID, c.key(nil)
	leave, err := b.turn(ctx, c.tenant, name)
	if err != nil {
		return nil, err
	}
	defer leave()
	return b.do(ctx, op, c)
}

// Request returns what a caller may see of the request of an export.
func (b consoleBackend) Request(ctx context.Context, who console.Principal, key string) (*events.Request, error) {
	x, err := b.find(ctx, call{tenant: who.Tenant, params: url.Values{"key": {key}}})
	if err != nil {
		return nil, consoleError(ctx, err)
	}
	return visibleRequest(&x.Request, scopeOf(who)), nil
}

func (b consoleBackend) Authenticate(key string) (console.Principal, bool) {
	if b.cfg.Authenticate == nil {
		return console.Principal{}, false
	}
	p, ok := b.cfg.Authenticate(key)
	return forConsole(p), ok
}

func (b consoleBackend) KeyByID(id string) (console.Principal, bool) {
	if b.cfg.KeyByID == nil {
		return console.Principal{}, false
	}
	p, ok := b.cfg.KeyByID(id)
	return forConsole(p), ok
}

// consoleScopes are the scopes of the console by those of the API.
var consoleScopes = map[Scope]console.Scope{
	ScopeRead: console.ScopeRead, ScopeSubmit: console.ScopeSubmit, ScopeOperate: console.ScopeOperate,
	ScopeAdmin: console.ScopeAdmin,
}

func forConsole(p Principal) console.Principal {
	return console.Principal{ID: p.ID, Tenant: p.Tenant, Scope: consoleScopes[p.Scope]}
}

func scopeOf(who console.Principal) Scope {
	for scope, name := range consoleScopes {
		if name == who.Scope {
			return scope
		}
	}
	return 0
}

// Shared reads a share link's token. The export's own tenant answers.
func (b consoleBackend) Shared(ctx context.Context, token string) (console.Shared, bool) {
	share, err := secrets.ReadShareToken(b.journal.Keys(), token, time.Now())
	expired := errors.Is(err, secrets.ErrShareExpired)
	if err != nil && !expired {
		return console.Shared{}, false
	}
	if expired {
		return console.Shared{Expired: true}, true
	}
	x, err := b.tasks.Get(share.Key)
	if errors.Is(err, storage.ErrUnknownKey) && b.readYourWrites(ctx) == nil { // a submission returns links at once
		x, err = b.tasks.Get(share.Key)
	}
	if err != nil {
		return console.Shared{}, false
	}
	return console.Shared{
		Who: console.Principal{Tenant: x.Tenant, Scope: console.ScopeRead}, Key: share.Key, ReturnURL: share.ReturnURL,
	}, true
}

// Download serves a file by its signed link, which is of this server.
func (b consoleBackend) Download(w http.ResponseWriter, r *http.Request, link string) {
	u, err := url.Parse(link)
	if err != nil {
		respond(w, r, nil, internal(err))
		return
	}
	u.Path = strings.TrimPrefix(u.Path, b.basePath())
	r = r.Clone(r.Context())
	r.URL = &url.URL{Path: u.Path, RawQuery: u.RawQuery}
	b.newDownloads().ServeHTTP(w, r)
}

func (b consoleBackend) Changes(tenant, key string) (changed <-chan struct{}, stop func()) {
	return b.changes.listen(tenant, key)
}

// EnterStream counts a stream of a share page, or of the console.
func (b consoleBackend) EnterStream(share bool, tenant string) (leave func(), ok bool) {
	kind := streamConsole
	if share {
		kind = streamShare
	}
	leave, err := b.enterStream(kind, tenant)
	return leave, err == nil
}

func (b consoleBackend) Stopping() <-chan struct{} { return b.front.Done() }

// consoleError returns an error as the console shows it, and logs its cause.
func consoleError(ctx context.Context, err error) *console.Error {
	e := asAPIError(err)
	l := lineOfContext(ctx)
	l.errcode = e.Errcode
	logFailure(ctx, l.logger(), e)
	return &console.Error{Status: e.Status, Errcode: e.Errcode, Field: e.Field, Msg: e.Msg, RetryAfter: e.RetryAfter}
}

// basePath returns the path of the public URL, "" for none.
func (s *Service) basePath() string {
	u, err := url.Parse(s.cfg.PublicURL)
	if err != nil {
		return ""
	}
	return strings.TrimRight(u.Path, "/")
}

// stripBase accepts requests with the path of the public URL, as a proxy sends them that does not strip it.
func (s *Service) stripBase(next http.Handler) http.Handler {
	base := s.basePath()
	if base == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, base); ok && (rest == "" || rest[0] == '/') {
			u := *r.URL
			u.Path = "/" + strings.TrimPrefix(rest, "/")
			u.RawPath = strings.TrimPrefix(u.RawPath, base)
			r2 := *r
			r2.URL = &u
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

// toConsole sends browsers to the console. Programs that accept anything get next.
func (s *Service) toConsole(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			next(w, r)
			return
		}
		w.Header().Set("Location", s.basePath()+"/console/")
		w.WriteHeader(http.StatusSeeOther)
	}
}
