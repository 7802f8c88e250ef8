// Package ingress answers callers. REST, a NATS micro service and durable submissions are three thin adapters
// of the same operations.
//
// # What it promises
//
//   - A submission is answered only after the event that begins its export is on disk, with all data that
//     the event refers to.
//   - Equal requests of a tenant have one key. At most one export of a key is under way, even if several
//     ingresses get the request concurrently.
//   - Read your writes: detail, history, cancel and retry see every event that was acknowledged before the
//     call, by any ingress. Otherwise the answer is 503.
//   - Every answer is the envelope {"errcode","msg","data","request_id"}, also for a wrong path or after a
//     panic. Exceptions are files, the list of paths at /, and net/http's own answers to invalid requests and
//     ranges. An answer never holds an internal address or a secret.
package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/ingress/docs"
	"sheaf/services/ingress/request"
	"sheaf/storage"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
)

// Config configures the service. The zero value works.
type Config struct {
	PublicURL  string // base of the links, without a final slash; default http:// and the listener's address
	MaxHistory int    // exports per tenant; the oldest settled ones are then forgotten; default 100,000
	// MaxLag is the lag of the projection above which the service is not ready. Default 3s.
	MaxLag time.Duration
	Health func() error // health of dependencies such as the embedded server; nil is healthy; default healthy
	// Checks returns the checks of dependencies, for operators. Default: none.
	Checks func(context.Context) []Check
	// ShutdownDelay is how long a stopping service still accepts requests. /readyz is not ready meanwhile,
	// and each answer closes its connection. Load balancers notice, and no request meets a closing
	// connection. Default 0.
	ShutdownDelay time.Duration
	// Room returns an error when the disk has no space for this many bytes of a new export. Callers see its
	// text. Default: there is space.
	Room func(bytes int64) error
	// Host describes the process and its machine, for operators. Default: nothing is known.
	Host func() Host
	// Authenticate returns the owner of an API key. It is called for every request and must do no I/O.
	// Default: no key is required, and every caller is an admin of events.DefaultTenant.
	Authenticate func(key string) (Principal, bool)
	// KeyByID returns the owner of the API key with an id while the key is valid. Sessions of the console end
	// with their key. Required with Authenticate for such sessions; it must do no I/O.
	KeyByID func(id string) (Principal, bool)
	// Link returns an address at which the file store itself serves a file until the given time, with these
	// headers. Downloads of files above 4 MiB are redirected there. Default: the ingress sends all files.
	Link func(ctx context.Context, store string, until time.Time, mediaType, disposition string) (string, error)
	// ConsoleName and ConsoleColour name the installation on the pages of the console, such as PROD in red.
	// Colours are those of console.Colours.
	ConsoleName, ConsoleColour string
	// EmbedOrigins are the origins whose pages may show share pages and read their progress.
	EmbedOrigins []string
	KeepFiles    time.Duration   // that finished files are kept, so the longest validity of a share link; default 168h
	Formats      []events.Format // formats of finished files; default events.XLSX
	Quota        Quota           // of each tenant; default no limits
	Previewer    Previewer       // answers previews; default: they get 404
	MaxKeepPages time.Duration   // that a request may keep its pages for; default 168h
	MaxSkew      time.Duration   // between a request's timestamp and the clock; default any
	MaxBody      int64           // bytes of a request without rows; default 256 KiB
	MaxRawBody   int64           // bytes of a request with rows; default 64 MiB
	// ReadTimeout bounds the reading of a body that no handler reads, as of a refused request: net/http reads
	// it before it answers. Handlers set their own. Default 10s.
	ReadTimeout time.Duration
	// HeaderTimeout bounds the time to send the headers; default 5s.
	HeaderTimeout time.Duration
	// BodyWait is how long a large body waits for its turn; default 5s.
	BodyWait time.Duration
	// TurnWait is how long a call waits for other calls of its tenant; default 5s.
	TurnWait time.Duration
	// OperationWait bounds an operation, which then answers 503. Each MiB of rows adds a second, although it
	// takes only a few milliseconds. Default 5s.
	OperationWait time.Duration
	Log           *slog.Logger          // default: nothing is logged
	Metrics       prometheus.Registerer // default: none
	// MetricsTenants is the number of tenants, the largest first, that have metrics of their own. Default: 0.
	MetricsTenants int
}

func (c Config) withDefaults(listener net.Listener) Config {
	if c.PublicURL == "" {
		c.PublicURL = "http://" + listener.Addr().String()
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	if c.Formats == nil {
		c.Formats = []events.Format{events.XLSX}
	}
	c.MaxHistory = cmp.Or(c.MaxHistory, 100_000)
	c.MaxKeepPages = cmp.Or(c.MaxKeepPages, 168*time.Hour)
	c.KeepFiles = cmp.Or(c.KeepFiles, 168*time.Hour)
	c.MaxLag = cmp.Or(c.MaxLag, 3*time.Second)
	c.MaxBody = cmp.Or(c.MaxBody, 256<<10)
	c.MaxRawBody = cmp.Or(c.MaxRawBody, 64<<20)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, 10*time.Second)
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 5*time.Second)
	c.BodyWait = cmp.Or(c.BodyWait, 5*time.Second)
	c.TurnWait = cmp.Or(c.TurnWait, 5*time.Second)
	c.OperationWait = cmp.Or(c.OperationWait, 5*time.Second)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "ingress")
	if c.Health == nil {
		c.Health = func() error { return nil }
	}
	if c.Checks == nil {
		c.Checks = func(context.Context) []Check { return nil }
	}
	if c.Host == nil {
		c.Host = func() Host { return Host{} }
	}
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	return c
}

func (c Config) check() error {
	if c.MaxHistory < 0 || c.MaxKeepPages < 0 || c.KeepFiles < 0 || c.MaxLag < 0 || c.ShutdownDelay < 0 {
		return errors.New("ingress: a duration or number to keep is negative")
	}
	if c.MaxBody < 0 || c.MaxRawBody < 0 {
		return errors.New("ingress: a limit on bodies is negative")
	}
	if err := request.URL("public URL", c.PublicURL, 2048); err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	return nil
}

const (
	// drainWait bounds requests in flight at shutdown; the whole process has 15 s.
	drainWait = 10 * time.Second
	// retryEvery is the pause before an internal loop restarts after it lost the streams.
	retryEvery = time.Second
	// answerWait bounds a request from its headers to the last byte of its answer. It covers a body of a
	// minute, the operation and a slow reader. Downloads have their own limit, see downloadWait.
	answerWait = 5 * time.Minute
	// largeAnswerWait bounds the time to read an answer larger than lightBody.
	largeAnswerWait = 30 * time.Second
	// maxConnections limits the connections of callers, which could otherwise use all file descriptors.
	// Further ones wait.
	maxConnections = 4096
	// maxConnectionsOfOne limits those of one address, so that one address alone cannot block all others.
	maxConnectionsOfOne = maxConnections / 4
	// lightBody is the size up to which a body does not count against the memory for bodies: 256 MiB if every
	// connection had one.
	lightBody = 64 << 10
	// maxTenantCalls limits one tenant's concurrent calls, by REST and NATS together, and maxCalls those of
	// all. Further ones wait.
	maxTenantCalls = 32
	maxCalls       = 128
	// maxReads limits the calls that read much: the history, and files to check. A tenant has one at a time.
	// Each takes milliseconds of a processor.
	maxReads = 8
	// maxTenantAnswers limits the bytes of one tenant's answers above lightBody that REST is sending, and
	// maxAnswers those of all. Further ones wait.
	maxTenantAnswers = 8 << 20
	maxAnswers       = 32 << 20
)

// Service answers callers. [New] makes it, and it lives through one call of [Service.Run].
type Service struct {
	cfg      Config
	listener net.Listener
	journal  *journal.Log
	pages    *pages.Store
	tasks    *storage.Tasks
	files    storage.Files
	metrics  *metrics

	backlog      *backlog
	store        fileStore
	docs         *docs.Docs
	console      http.Handler
	progress     *progressCache
	changes      *changes
	availability availability
	admission    admission
	bodies       *bodyMemory
	turns        pool // of concurrent calls
	reads        pool // of calls that read much
	previews     pool
	bulks        pool
	streams      pool            // of server-sent events
	shareStreams pool            // of those of share pages
	front        context.Context // ends when the service drains; set by Run
	answers      pool            // bytes of large answers
	submissions  *journal.Shares
	caughtUp     atomic.Bool // the projection has applied the log as it was at start-up
	onNATS       atomic.Bool // the NATS servers know the subscriptions of this process
	lag          lag
	draining     atomic.Bool
	pulses       atomic.Int32 // pulses that are being sent
}

// New makes a service on a bound listener. It does no I/O. The service closes the listener at the end of Run;
// streams, tasks and files stay open.
func New(cfg Config, listener net.Listener, log *journal.Log, tasks *storage.Tasks, files storage.Files) (*Service, error) {
	cfg = cfg.withDefaults(listener)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, listener: listener, journal: log, pages: log.Pages(), tasks: tasks, files: files, metrics: newMetrics(cfg.Metrics),
		backlog: newBacklog(), progress: newProgressCache(), changes: newChanges(), docs: newDocs(cfg),
		// A body of rows is in memory twice: as received, and unescaped. Garbage of the previous one may
		// remain: 252 MB for a body of 64 MiB, 325 MB after two (measured).
		bodies:       newBodyMemory(cfg.MaxRawBody),
		turns:        newPool(maxTenantCalls, maxCalls),
		reads:        newPool(1, maxReads),
		previews:     newPool(maxTenantPreviews, maxPreviews),
		answers:      newPool(maxTenantAnswers, maxAnswers),
		bulks:        newPool(1, maxBulkCalls),
		streams:      newPool(maxTenantStreams, maxStreams),
		shareStreams: newPool(maxTenantShareStreams, maxShareStreams),
		front:        context.Background(),
		admission: admission{room: cfg.Room, usage: tasks.Usage, quota: cfg.Quota, maxHistory: cfg.MaxHistory,
			noKeys: cfg.Authenticate == nil, rates: map[string]*rate.Limiter{}},
		submissions: journal.NewShares(tenantSubmissions, submissionSlots, submissionOffers),
	}
	s.submissions.Pause(s.admission.pause)
	s.console = s.newConsole()
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(gauges{s})
	}
	return s, nil
}

// Run serves until ctx ends and then drains. It reports not ready, takes no more work after ShutdownDelay,
// answers the requests in flight and returns nil. It returns an error if a part fails for good, such as a
// projection that cannot be written. An outage of the streams is not an error.
func (s *Service) Run(ctx context.Context) error {
	// The parts that accept work stop first, and the parts that answers need stop last.
	front, stopFront := context.WithCancelCause(ctx)
	defer stopFront(nil)
	s.front = front
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	var atFront, atBack sync.WaitGroup
	start := func(group *sync.WaitGroup, ctx context.Context, run func(context.Context) error) {
		group.Go(func() {
			if err := run(ctx); err != nil {
				stopFront(err)
			}
		})
	}

	start(&atBack, back, s.project)
	start(&atBack, back, s.watchLag)
	start(&atBack, back, s.watchProgress)
	start(&atBack, back, s.watchAvailability)
	start(&atFront, front, s.takeSubmissions)
	start(&atFront, front, s.watchStore)
	start(&atFront, front, func(front context.Context) error { return s.serveMicro(front, back) })
	start(&atFront, front, func(front context.Context) error { return s.serveHTTP(front, back) })

	<-front.Done()
	s.draining.Store(true)
	wait := s.cfg.ShutdownDelay + drainWait
	if s.broken() {
		wait = 0 // the streams are down, so waiting calls fail now
	}
	overdue := time.AfterFunc(wait, stopBack)
	atFront.Wait()
	overdue.Stop()
	stopBack()
	atBack.Wait()
	if ctx.Err() != nil && errors.Is(context.Cause(front), context.Cause(ctx)) {
		return nil
	}
	return fmt.Errorf("ingress: %w", context.Cause(front))
}

// serveHTTP serves REST until front ends, then answers the requests in flight.
func (s *Service) serveHTTP(front, back context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      answerWait,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" gets the envelope too
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               16 << 10,
		BaseContext:                  func(net.Listener) context.Context { return back },
		ErrorLog:                     slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	go func() {
		stopped <- server.Serve(netutil.LimitListener(limitPerAddress(s.listener, maxConnectionsOfOne), maxConnections))
	}()
	select {
	case err := <-stopped:
		_ = server.Close()
		return fmt.Errorf("serving HTTP: %w", err)
	case <-front.Done():
	}
	select {
	case <-time.After(s.cfg.ShutdownDelay):
	case <-back.Done(): // no caller could get an answer
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(front), drainWait)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.cfg.Log.Warn("requests were cut off", "error", err)
		_ = server.Close()
	}
	if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP: %w", err)
	}
	return nil
}

// untilDone repeats fn while the streams are unavailable, until ctx ends or fn fails for another reason.
func (s *Service) untilDone(ctx context.Context, what string, fn func(context.Context) error) error {
	for {
		err := fn(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			return nil
		case !errors.Is(err, events.ErrUnavailable):
			return fmt.Errorf("%s: %w", what, err)
		}
		s.cfg.Log.Warn("trying again", "what", what, "error", err)
		pause(ctx, retryEvery)
	}
}

// reserve reserves memory for a large body of a tenant, and waits for at most BodyWait.
func (s *Service) reserve(ctx context.Context, tenant string, size int64) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BodyWait)
	defer cancel()
	if release, err = s.bodies.acquire(ctx, tenant, size); err != nil {
		return nil, unavailable("too many large requests are under way; try again", s.cfg.BodyWait, err)
	}
	return release, nil
}

// turn waits until a call of a tenant may run. Mostly its own calls delay it, so a tenant that floods Sheaf
// gets its part of the processors and no more.
func (s *Service) turn(ctx context.Context, tenant, name string) (leave func(), err error) {
	if operations[name].heavy {
		return s.readTurn(ctx, tenant)
	}
	switch name {
	case previewOperation:
		return s.await(ctx, &s.previews, tenant, 1)
	case bulkOperation:
		return s.await(ctx, &s.bulks, tenant, 1)
	}
	return s.await(ctx, &s.turns, tenant, 1)
}

// readTurn waits until a tenant may read much. After leave, the tenant's next such call waits as long as this
// one took, so that the tenant never occupies a whole processor.
func (s *Service) readTurn(ctx context.Context, tenant string) (leave func(), err error) {
	done, err := s.await(ctx, &s.reads, tenant, 1)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	return sync.OnceFunc(func() { time.AfterFunc(min(time.Since(begin), time.Second), done) }), nil
}

// await acquires a part of a pool within TurnWait.
func (s *Service) await(ctx context.Context, p *pool, tenant string, size int64) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TurnWait)
	defer cancel()
	if leave, err = p.acquire(ctx, tenant, size); err != nil {
		return nil, unavailable("too many requests of yours are under way; try again", retryEvery, nil)
	}
	return leave, nil
}
