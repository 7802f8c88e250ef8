package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"sheaf/services/ingress/request"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

type route struct {
	method, path string
	handler      http.HandlerFunc
	about        string
}

// routes returns all paths, each with a line for the page that lists them.
func (s *Service) routes() []route {
	get := func(name string) http.HandlerFunc { return s.rest(name, operations[name], s.queryCall) }
	post := func(name string) http.HandlerFunc { return s.rest(name, operations[name], s.objectCall) }
	body := func(name string) http.HandlerFunc {
		return s.rest(name, operations[name], s.bodyCall(s.bodyLimit(name)))
	}
	down := s.newDownloads().ServeHTTP
	routes := []route{
		{http.MethodPost, "/v1/export/http", body("http"), "export a paginated HTTP source"},
		{http.MethodPost, "/v1/export/raw", body("raw"), "export the rows in the request"},
		{http.MethodPost, "/v1/export/preview", body("preview"), "how to export a source, found by asking it at most three times"},
		{http.MethodGet, "/v1/export/detail", get("detail"), "?key= how an export stands, and its link"},
		{http.MethodGet, "/v1/export/history", get("history"), "?user_id= a user's exports of the last seven days"},
		{http.MethodGet, "/v1/export/list", get("list"), "?state=&q= the exports of a tenant, newest first"},
		{http.MethodGet, "/v1/export/events", get("events"), "?key= what has happened to an export"},
		{http.MethodGet, "/v1/export/watch", s.watch, "?key= its progress as server-sent events"},
		{http.MethodPost, "/v1/export/cancel", post("cancel"), `{"key"} stop an export`},
		{http.MethodPost, "/v1/export/retry", post("retry"), `{"key"} run a failed, cancelled or expired export again`},
		{http.MethodPost, "/v1/export/redeliver", post("redeliver"), `{"key"} send the callback again`},
		{http.MethodPost, "/v1/export/share", post("share"), `{"key","ttl","return_url"} a link to a page that shows progress and the file`},
		{http.MethodGet, "/v1/export/tenants", get("tenants"), "the usage of every tenant; scope admin"},
		{http.MethodGet, "/v1/export/system", get("system"), "the state of the server; scope admin"},
		{http.MethodPost, "/v1/export/bulk", body("bulk"), `{"action","filter","expect"} cancel, retry or redeliver many`},
		{http.MethodPost, "/v1/export/convert", body("convert"), `{"key","ext_type"} a finished export in another format`},
		{http.MethodGet, "/v1/export/presets", s.presets, "what each preset of source_http stands for"},
		{http.MethodGet, "/v1/down/{year}/{month}/{day}/{file}", down, "a finished file, by its signed link"},
		{http.MethodHead, "/v1/down/{year}/{month}/{day}/{file}", down, ""},
		{http.MethodGet, "/v1/seal-key", s.sealKey, "the public key to seal secrets of sources with"},
		{http.MethodGet, "/demo/page", demoPage, "a source to try exports with"},
		{http.MethodPost, "/demo/page", demoPage, ""},
		{http.MethodGet, "/healthz", s.healthz, "whether the process is alive"},
		{http.MethodGet, "/readyz", s.Ready, "whether it can take requests"},
		{http.MethodGet, "/console", s.toConsole(s.index), ""},
		{http.MethodGet, "/console/*", s.people, "the console, for people"},
		{http.MethodPost, "/console/*", s.people, ""},
		{http.MethodGet, "/s/*", s.people, "the page of a share link"},
		{http.MethodGet, "/", s.toConsole(s.index), "this page; browsers get the console"},
	}
	return append(routes, s.contracts()...)
}

func (s *Service) handler() http.Handler {
	mux := chi.NewRouter()
	mux.Use(s.stripBase, s.identify, s.logRequests, s.sendAway, recoverPanics, s.protect, middleware.GetHead)
	for _, r := range s.routes() {
		mux.Method(r.method, r.path, r.handler)
	}
	notFound := func(w http.ResponseWriter, r *http.Request) {
		respond(w, r, nil, &apiError{
			Errcode: errcodeNotFound, Status: http.StatusNotFound,
			Msg: fmt.Sprintf("there is no path %q; GET / lists the paths", request.Cut(r.URL.Path, 128)),
		})
	}
	mux.NotFound(notFound)
	mux.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			if mux.Match(chi.NewRouteContext(), m, r.URL.Path) {
				allowed = append(allowed, m)
			}
		}
		if len(allowed) == 0 { // a method that no path supports
			notFound(w, r)
			return
		}
		allow := strings.Join(allowed, ", ")
		w.Header().Set("Allow", allow)
		respond(w, r, nil, &apiError{
			Errcode: errcodeMethod, Status: http.StatusMethodNotAllowed,
			Msg: fmt.Sprintf("the method %s is not allowed here; allowed: %s", request.Cut(r.Method, 16), allow),
		})
	})
	return mux
}

// Closed answers callers of a process that does not take requests yet. /healthz says that it is alive; every
// other path gets 503 with the reason.
func Closed(log *slog.Logger, why func() NotReady) http.Handler {
	s := &Service{cfg: Config{Log: log.With("service", "ingress")}, metrics: newMetrics(nil)}
	mux := chi.NewRouter()
	mux.Use(s.identify, s.logRequests, recoverPanics)
	mux.Get("/healthz", s.healthz)
	refuse := func(w http.ResponseWriter, r *http.Request) {
		respond(w, r, nil, unavailable("not ready: "+why().Error(), closedWait, nil))
	}
	mux.NotFound(refuse)
	mux.MethodNotAllowed(refuse)
	return mux
}

// rest makes a REST handler of an operation.
func (s *Service) rest(name string, op operation, read func(http.ResponseWriter, *http.Request, *call) (release func(), err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.callerOf(r)
		if err == nil {
			err = caller.require(op.scope, name)
		}
		if err != nil {
			respond(w, r, nil, err)
			return
		}
		tenant, l := caller.Tenant, lineOf(r)
		l.tenant, l.caller = tenant, caller.ID
		c := call{operation: name, tenant: tenant, requestID: requestID(r), idempotency: r.Header.Get("Idempotency-Key")}
		if err := request.CheckIdempotencyKey(c.idempotency); err != nil {
			respond(w, r, nil, err)
			return
		}
		release, err := read(w, r, &c)
		if err != nil {
			respond(w, r, nil, err)
			return
		}
		defer release()
		if err := c.authorize(caller, op); err != nil {
			respond(w, r, nil, err)
			return
		}
		l.tenant, l.key = c.tenant, c.key(nil) // an admin may have named another
		leave, err := s.turn(r.Context(), tenant, name)
		if err != nil {
			respond(w, r, nil, err)
			return
		}
		leave = sync.OnceFunc(leave)
		defer leave() // after a panic
		data, err := s.do(r.Context(), op, c)
		l.key = c.key(data)
		body, failure := seal(data, err, c.requestID)
		if len(body) > lightBody { // the answer stays in memory until the caller has read it
			sent, err := s.await(r.Context(), &s.answers, tenant, int64(len(body)))
			if err != nil {
				respond(w, r, nil, err)
				return
			}
			defer sent()
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(largeAnswerWait))
		}
		leave()
		respondSealed(w, r, body, failure)
	}
}

// queryCall reads the parameters of a GET request.
func (s *Service) queryCall(_ http.ResponseWriter, r *http.Request, c *call) (func(), error) {
	c.params = r.URL.Query()
	return func() {}, nil
}

// objectCall reads the parameters of a POST request from its JSON body.
func (s *Service) objectCall(w http.ResponseWriter, r *http.Request, c *call) (release func(), err error) {
	if release, err = s.bodyCall(s.cfg.MaxBody)(w, r, c); err != nil {
		return nil, err
	}
	if c.params, err = request.Params(c.body); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// bodyCall reads a body of at most limit bytes.
func (s *Service) bodyCall(limit int64) func(http.ResponseWriter, *http.Request, *call) (func(), error) {
	return func(w http.ResponseWriter, r *http.Request, c *call) (release func(), err error) {
		if limit > lightBody {
			c.body, release, err = s.readLargeBody(w, r, c.tenant, limit)
			return release, err
		}
		c.body, err = readBody(w, r, limit)
		return func() {}, err
	}
}

func (s *Service) sealKey(w http.ResponseWriter, r *http.Request) {
	respond(w, r, map[string]string{"key": s.journal.Keys().SealKey(), "form": "sealed:v1"}, nil)
}

func (s *Service) presets(w http.ResponseWriter, r *http.Request) {
	if _, err := s.callerOf(r); err != nil {
		respond(w, r, nil, err)
		return
	}
	respond(w, r, request.Presets(), nil)
}

func (s *Service) healthz(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Accept") == "text/event-stream" {
		s.pulse(w, r)
		return
	}
	respond(w, r, map[string]bool{"alive": true}, nil)
}

// Ready reports whether a load balancer may send requests here. Operators read the reason, which names no
// address.
func (s *Service) Ready(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("verbose") {
		s.verboseReady(w, r)
		return
	}
	var msg string
	var cause error
	lagging := s.lagging()
	switch {
	case s.draining.Load():
		msg = "not ready: shutting down"
	case !s.journal.Conn().IsConnected():
		msg = "not ready: no connection to NATS"
	case !s.onNATS.Load():
		msg = "not ready: starting"
	case lagging != "":
		msg = "not ready: " + lagging
	default:
		if cause = s.cfg.Health(); cause == nil {
			cause = s.store.health()
		}
		if cause != nil {
			msg = "not ready: the server's log says why"
			var said NotReady
			if errors.As(cause, &said) {
				msg = "not ready: " + string(said)
			}
		}
	}
	if msg != "" {
		respond(w, r, nil, unavailable(msg, time.Second, cause))
		return
	}
	respond(w, r, map[string]bool{"ready": true}, nil)
}

func (s *Service) index(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	b.WriteString("Sheaf gathers the pages of an HTTP API into a file.\n\n")
	for _, route := range s.routes() {
		if route.about != "" {
			fmt.Fprintf(&b, "%-4s %-38s %s\n", route.method, route.path, route.about)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
}

type lineKey struct{}

// lineOf returns the line that identify stored.
func lineOf(r *http.Request) *line { return lineOfContext(r.Context()) }

func lineOfContext(ctx context.Context) *line {
	if l, ok := ctx.Value(lineKey{}).(*line); ok {
		return l
	}
	return &line{log: slog.New(slog.DiscardHandler)} // a handler without identify
}

func requestID(r *http.Request) string { return lineOf(r).id }

// identify gives each request its id, and returns the id to the caller.
func (s *Service) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := chooseRequestID(r.Header.Get)
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), lineKey{}, &line{log: s.cfg.Log, id: id})))
	})
}

// logRequests counts and logs each request. It never logs a body, a header's value, the query, which can hold
// a signature, or the token of a share link.
func (s *Service) logRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		s.metrics.inFlight.Inc()
		r, span := s.trace(r)
		defer func() {
			endTrace(span, r, ww.Status())
			s.metrics.inFlight.Dec()
			level := slog.LevelDebug
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/") || ww.Status() == http.StatusUnauthorized {
				level = slog.LevelInfo
			}
			lineOf(r).logger().Log(r.Context(), level, "request", "method", r.Method, "path", request.Cut(loggedPath(r), 256),
				"status", ww.Status(), "bytes", ww.BytesWritten(), "elapsed", time.Since(begin))
			s.metrics.request(r, ww.Status(), lineOf(r).errcode, time.Since(begin))
		}()
		next.ServeHTTP(ww, r)
	})
}

// loggedPath returns the path of a request without the token of a share link.
func loggedPath(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, "/s/") {
		return "/s/…"
	}
	return r.URL.Path
}

// sendAway closes the connection with each answer while the service stops, so that the caller's next request
// reaches another process.
func (s *Service) sendAway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// recoverPanics answers 500 if nothing was written yet. Otherwise it closes the connection, so that a broken
// answer never looks complete.
func recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(http.ErrAbortHandler)
			}
			err := panicked(lineOf(r).logger(), p)
			if ww, ok := w.(middleware.WrapResponseWriter); ok && ww.Status() != 0 {
				panic(http.ErrAbortHandler)
			}
			respond(w, r, nil, err)
		}()
		next.ServeHTTP(w, r)
	})
}

// logFailure logs the details that the caller does not get.
func logFailure(ctx context.Context, log *slog.Logger, failure *apiError) {
	if failure.cause == nil {
		return
	}
	level := slog.LevelWarn
	if failure.Status == http.StatusInternalServerError {
		level = slog.LevelError
	}
	log.Log(ctx, level, "request failed", "error", failure.cause)
}
