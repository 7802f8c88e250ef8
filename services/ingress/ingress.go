// Package ingress is how callers reach Sheaf: REST, a NATS micro service and
// durable submissions, all three thin shells around the same operations.
//
// # What it promises
//
//   - A submission is answered only after the event that begins its export is
//     on disk, with everything that the event refers to.
//   - Equal requests of a tenant have one key, and at most one export of a key
//     is under way, however many ingresses are asked at once.
//   - Read your writes: detail, history, cancel and retry see every event that
//     was acknowledged before the question, through whichever ingress, or the
//     answer is 503.
//   - Every answer, also to a wrong path or after a panic, is the envelope
//     {"errcode","msg","data","request_id"}; but not a file, the list of paths
//     at /, and what net/http answers by itself to a request that is not HTTP or
//     to a range that cannot be served. It never holds an internal address or a
//     secret.
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
	"sheaf/services/ingress/request"
	"sheaf/storage"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
)

// Config of the service. The zero value works.
type Config struct {
	PublicURL  string // base of the links it hands out, without a slash at its end; default http:// and the listener's address
	MaxHistory int    // exports of one tenant that are remembered, beyond which its settled ones are forgotten; default 100,000
	// MaxLag is how far the projection may be behind the log before /readyz says so.
	// Default 3s.
	MaxLag time.Duration
	Health func() error // of what this process rests on, such as the embedded server; nil is healthy; default always healthy
	// ShutdownDelay is how long a service that shall stop still takes requests,
	// while /readyz says that it is not ready and each answer ends its
	// connection: load balancers notice, and no request meets a connection that
	// is being closed. Default 0.
	ShutdownDelay time.Duration
	// Room returns an error when the disk has no room for so many bytes of a new
	// export. Callers read its text. Default: there is room.
	Room func(bytes int64) error
	// Authenticate returns whose API key it is. It is called for every request,
	// and does no I/O. Default: nobody needs a key, and all are of
	// events.DefaultTenant.
	Authenticate func(key string) (tenant string, ok bool)
	Formats      []events.Format // of finished files that can be asked for; default events.XLSX
	Quota        Quota           // of each tenant; default no limits
	MaxSkew      time.Duration   // how far a request's timestamp may be from the clock; default any
	MaxBody      int64           // bytes of a request without rows; default 256 KiB
	MaxRawBody   int64           // bytes of a request with rows; default 64 MiB
	// ReadTimeout bounds a body that no handler reads, of a request that is refused,
	// say: net/http reads on before it answers. Handlers set their own. Default 10s.
	ReadTimeout time.Duration
	// HeaderTimeout is how long a caller may take to send the headers; default 5s.
	HeaderTimeout time.Duration
	// BodyWait is how long a large body waits for its turn; default 5s.
	BodyWait time.Duration
	// TurnWait is how long a call waits for others of its tenant; default 5s.
	TurnWait time.Duration
	// OperationWait bounds an operation: a caller that waits longer gets 503. Each MiB
	// of rows adds a second, for what takes a few milliseconds. Default 5s.
	OperationWait time.Duration
	Log           *slog.Logger          // default: nothing is logged
	Metrics       prometheus.Registerer // default: none
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
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	return c
}

func (c Config) check() error {
	if c.MaxHistory < 0 || c.MaxLag < 0 || c.ShutdownDelay < 0 {
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
	// drainWait is how long requests may take to end once the process shall
	// stop; the whole process has 15 s.
	drainWait = 10 * time.Second
	// retryEvery is the pause before an inner loop that lost the streams
	// begins again.
	retryEvery = time.Second
	// answerWait is how long a request may take from its headers to the last byte
	// of its answer: a body of a minute, what is done with it, and a caller that
	// reads slowly. Downloads have their own time, see downloadWait.
	answerWait = 5 * time.Minute
	// largeAnswerWait is how long a caller may take to read an answer larger than
	// lightBody.
	largeAnswerWait = 30 * time.Second
	// maxConnections bounds the connections of callers, who else could take all
	// files that the process may open. Beyond it they wait to be let in.
	maxConnections = 4096
	// maxConnectionsOfOne bounds those of one address: it takes some to keep
	// everybody else out.
	maxConnectionsOfOne = maxConnections / 4
	// lightBody is the size up to which a body is not counted against the memory for
	// bodies: 256 MiB if every connection had one.
	lightBody = 64 << 10
	// maxTenantCalls bounds the calls of one tenant that are worked on at once, by REST
	// and NATS together, and maxCalls those of all. Further ones wait.
	maxTenantCalls = 32
	maxCalls       = 128
	// maxReads bounds the calls that read much; a tenant has one at a time: the
	// history, and files that are checked. They take milliseconds of a processor each.
	maxReads = 8
	// maxTenantAnswers bounds the bytes of one tenant's answers above lightBody that are
	// being sent by REST, and maxAnswers those of all. Further ones wait.
	maxTenantAnswers = 8 << 20
	maxAnswers       = 32 << 20
)

// Service answers callers. It is made by [New] and lives through one call of
// [Service.Run].
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
	progress     *progressCache
	availability availability
	admission    admission
	bodies       *bodyMemory
	turns        pool // of calls at work
	reads        pool // of those that read much
	answers      pool // bytes of large answers
	submissions  *journal.Shares
	caughtUp     atomic.Bool // the projection has seen what was in the log at the start
	onNATS       atomic.Bool // the NATS servers know that this process answers requests
	lag          lag
	draining     atomic.Bool
}

// New makes a service on a listener that is already bound. It does no I/O.
// The service closes the listener at the end of Run; streams, tasks and files
// stay open.
func New(cfg Config, listener net.Listener, log *journal.Log, tasks *storage.Tasks, files storage.Files) (*Service, error) {
	cfg = cfg.withDefaults(listener)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Service{
		cfg: cfg, listener: listener, journal: log, pages: log.Pages(), tasks: tasks, files: files, metrics: newMetrics(cfg.Metrics),
		backlog: newBacklog(), progress: newProgressCache(),
		// A body of rows is in memory twice, as received and without the escapes of
		// its string, and the garbage of the one before may still be there: 252 MB
		// for one of 64 MiB, 325 MB after two (measured).
		bodies:      newBodyMemory(cfg.MaxRawBody),
		turns:       newPool(maxTenantCalls, maxCalls),
		reads:       newPool(1, maxReads),
		answers:     newPool(maxTenantAnswers, maxAnswers),
		admission:   admission{room: cfg.Room, usage: tasks.Usage, quota: cfg.Quota, maxHistory: cfg.MaxHistory},
		submissions: journal.NewShares(tenantSubmissions, submissionSlots, submissionOffers),
	}, nil
}

// Run serves until ctx ends, then drains: not ready, no new work once the
// ShutdownDelay is over, the requests in flight are answered, nil. It returns an
// error when a part of it cannot go on, such as a projection that cannot be
// written; an outage of the streams is none.
func (s *Service) Run(ctx context.Context) error {
	// What takes work in ends first. What answers rest on ends last.
	front, stopFront := context.WithCancelCause(ctx)
	defer stopFront(nil)
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
		wait = 0 // what waits for the streams would wait in vain: say so now
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

// serveHTTP serves REST until front ends, then answers what is in flight.
func (s *Service) serveHTTP(front, back context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      answerWait,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" gets the envelope as well
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
	case <-back.Done(): // callers could not be answered
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

// untilDone runs fn again and again while the streams are unavailable, until
// ctx ends or fn fails for another reason.
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

// reserve takes room for a large body of a tenant, and waits a little for it.
func (s *Service) reserve(ctx context.Context, tenant string, size int64) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BodyWait)
	defer cancel()
	if release, err = s.bodies.acquire(ctx, tenant, size); err != nil {
		return nil, unavailable("too many large requests are under way; try again", s.cfg.BodyWait, err)
	}
	return release, nil
}

// turn waits until a call of a tenant may be worked on. Its own calls keep it waiting,
// and hardly those of others: one tenant that calls without end takes its part of the
// processors, and no more.
func (s *Service) turn(ctx context.Context, tenant, operation string) (leave func(), err error) {
	if operation == "history" || operation == "retry" {
		return s.readTurn(ctx, tenant)
	}
	return s.await(ctx, &s.turns, tenant, 1)
}

// readTurn waits until a tenant may read much. After leave the tenant's next such call
// waits for as long as this one took, so that it never takes all of a processor.
func (s *Service) readTurn(ctx context.Context, tenant string) (leave func(), err error) {
	done, err := s.await(ctx, &s.reads, tenant, 1)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	return sync.OnceFunc(func() { time.AfterFunc(min(time.Since(begin), time.Second), done) }), nil
}

// await takes a part of a pool, for which it waits at most TurnWait.
func (s *Service) await(ctx context.Context, p *pool, tenant string, size int64) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TurnWait)
	defer cancel()
	if leave, err = p.acquire(ctx, tenant, size); err != nil {
		return nil, unavailable("too many requests of yours are under way; try again", retryEvery, nil)
	}
	return leave, nil
}
