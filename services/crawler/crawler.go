// Package crawler reads the pages of a source and stores each as an event.
//
// It takes ExportRequested events. For each it requests page 1, then the other pages with several requests in
// flight, and publishes every response as a PageFetched. When all pages are stored it appends ExportCrawled.
// When it must give up it appends ExportFailed with the page, the HTTP status or errcode, and the number of
// attempts.
//
// It promises:
//
//   - A stored page of a run is never requested again, neither after a crash nor by a second crawler with the
//     same export. Only a retry requests page 1 again, to check whether the rest is still valid.
//   - Responses of two crawlers never mix in a page. The crawler that loses the race for a page continues
//     with the winner's.
//   - Memory is bounded over all exports, whatever their number and pages.
//   - Exports that together exceed the page stream or its disk all end: the newer ones restart. One that
//     exceeds it alone fails.
//   - An export that crashes its process each time fails after five starts. Exports that ran beside it do not
//     fail.
//   - A cancelled export stops at once, also in the middle of a request.
package crawler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/tracing"
	"sheaf/services/crawler/source"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Config configures the crawler. The zero value works.
type Config struct {
	Exports   int                     // exports crawled at once; default 256
	Fetches   int                     // requests in flight over all exports; default 64. A request older than Policy.SlowAfter does not count
	PerHost   int                     // requests in flight to one host and port, over all exports and processes; default no limit
	PerTenant int                     // requests in flight per tenant, over all exports and processes; default no limit
	Running   int                     // exports per tenant crawled at once; default no limit
	Lead      int                     // pages that a crawl may be ahead of its lowest missing page; default 256. 16 times as many while other processes fetch pages too
	Spread    bool                    // processes that share the log fetch the pages of large exports together
	MaxPages  int                     // of one export; default 1,000,000
	MaxRows   int64                   // of one export; default 100,000,000
	MaxBytes  int64                   // of the rows of one export, as JSON; default 64 GiB
	SpaceWait time.Duration           // how long an export that runs alone may wait for space before LIMIT_BYTES; after a third of it the newest of several yields; default 15s
	BodyBytes int64                   // of responses in memory, over all exports; default 256 MiB
	MaxStarts int                     // starts without a new page before CRASHED_WORKER; default 5
	DrainFor  time.Duration           // how long requests in flight, and storing their responses, may outlast the drain; default 5s
	Policy    source.Policy           // of one page's requests
	Room      func(bytes int64) error // returns an error when the disk of the pages has no space for so many bytes; default nil
	Log       *slog.Logger            // default: nothing is logged
	Metrics   prometheus.Registerer   // default: none
}

func (c Config) withDefaults() Config {
	c.Exports = cmp.Or(c.Exports, 256)
	c.Fetches = cmp.Or(c.Fetches, 64)
	c.Lead = cmp.Or(c.Lead, 256)
	c.MaxPages = cmp.Or(c.MaxPages, 1_000_000)
	c.MaxRows = cmp.Or(c.MaxRows, 100_000_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 64<<30)
	c.SpaceWait = cmp.Or(c.SpaceWait, 15*time.Second)
	c.BodyBytes = cmp.Or(c.BodyBytes, 256<<20)
	c.MaxStarts = cmp.Or(c.MaxStarts, 5)
	c.DrainFor = cmp.Or(c.DrainFor, 5*time.Second)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "crawler")
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	return c
}

// offers is how many exports of a tenant that wait for its share are redelivered per second.
const offers = 100

// Service is the crawler role.
type Service struct {
	cfg     Config
	journal *journal.Log
	pages   *pages.Store
	client  source.Client
	turns   *turns
	memory  *source.Memory
	rests   *source.Rests
	metrics *metrics
	space   *space

	newSource func(source.Client, source.Request, source.Policy) (*source.Fetcher, error)

	running *journal.Running // set by Run
	shares  *journal.Shares
	needs   sync.Map // what this version lacks, as logged

	tempo   tempo
	helpers helpers
	id      string // names the process in reports
	send    func(owner string, report []byte) error
}

// New returns a crawler that reaches sources through client. It does no I/O.
func New(cfg Config, log *journal.Log, client source.Client) (*Service, error) {
	if log == nil || client == nil {
		return nil, errors.New("crawler: a log and client are required")
	}
	cfg = cfg.withDefaults()
	turns := newTurns(cfg.Fetches, cfg.PerHost, cfg.PerTenant, log.Leases(), cfg.Log)
	return &Service{
		cfg: cfg, journal: log, pages: log.Pages(), client: client, turns: turns,
		metrics: newMetrics(cfg.Metrics, cfg.Exports, turns.leases),
		memory:  source.NewMemory(cfg.BodyBytes), rests: source.NewRests(), space: newSpace(log, cfg.Room, cfg.SpaceWait),
		newSource: source.New, shares: journal.NewShares(cfg.Running, 0, offers),
		tempo: usualTempo, helpers: helpers{of: map[string]*helper{}}, id: events.NewID(), send: log.ReportSpan,
	}, nil
}

// Run crawls until ctx ends. Then it sends no more requests, lets those in flight finish for at most
// DrainFor, hands the exports back, and returns nil. Published pages stay, so another crawler continues after
// them.
func (s *Service) Run(ctx context.Context) error {
	var err error
	if s.running, err = s.journal.Watch(); err != nil {
		return fmt.Errorf("crawler: %w", err)
	}
	defer s.running.Close()
	defer s.helpers.close()
	// The exchange outlives the requests.
	sharing, over := context.WithCancel(context.WithoutCancel(ctx))
	var exchange errgroup.Group
	exchange.Go(func() error { return s.turns.leases.Run(sharing) })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.journal.Consume(ctx, events.StreamEvents, events.ConsumerCrawler, s.cfg.Exports, s.handle)
	})
	if s.cfg.Spread {
		g.Go(func() error {
			return s.journal.Consume(ctx, events.StreamWork, events.ConsumerSpans, spansAtOnce, s.help)
		})
	}
	err = g.Wait()
	over()
	if err := errors.Join(err, exchange.Wait()); err != nil {
		return fmt.Errorf("crawler: %w", err)
	}
	return nil
}

// handle crawls the export of one requested event.
func (s *Service) handle(ctx context.Context, d journal.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	done, err := s.shares.Enter(ev.Tenant)
	if err != nil {
		return err // another export of the tenant runs first; other tenants run beside it
	}
	defer done()
	s.metrics.busy.Inc()
	defer s.metrics.busy.Dec()
	late, over := outlive(ctx, s.cfg.DrainFor)
	defer over()
	crawlCtx, leave, err := s.running.Enter(late, ev.Key)
	if err != nil {
		return err
	}
	defer leave()
	x, err := s.journal.ReadDelivered(crawlCtx, d, ev)
	if err != nil {
		return err
	}
	if stillOpen(&x, d.Sequence) != nil {
		return nil // crawled, ended, or requested again: nothing to do for this event
	}
	d.Concerns(&x)
	if need := x.Request.UnknownNeed(); need != "" {
		return s.leave(&x, need)
	}

	begun := time.Now()
	crawlCtx, span := s.journal.Process(crawlCtx, d, ev, events.ConsumerCrawler)
	late = tracing.Adopt(late, crawlCtx)
	defer span.End("")
	c := s.newCrawl(ctx, x, d.Fresh)
	log := c.log
	crawled, err := c.traced(crawlCtx)
	if journal.Ended(crawlCtx) {
		log.Info("crawl stopped: the export has ended")
		return nil
	}
	if errors.Is(err, errYield) {
		err = c.retreat(crawlCtx)
	}
	var failure *source.Failure
	switch {
	case err == nil:
		crawled.Crawl = &events.CrawlStats{Millis: time.Since(begun).Milliseconds(), Bytes: c.bytes, Retries: c.attempt.retries.Load()}
		_, err = s.journal.Append(late, x, "", func(x *events.Export) (events.Payload, error) {
			return crawled, stillOpen(x, d.Sequence)
		})
		if err == nil {
			log.Info("export crawled", "pages", crawled.Pages, "rows", c.rows, "elapsed", time.Since(begun).Round(time.Millisecond))
		}
	case errors.As(err, &failure) && failure.Code != "" && late.Err() == nil:
		tracing.Fail(late, failure.Code)
		log.Warn("export failed", "error_code", failure.Code, "page", failure.Page, "reason", failure.Error())
		_, err = s.journal.Append(late, x, "", func(x *events.Export) (events.Payload, error) {
			return c.failed(failure), stillOpen(x, d.Sequence)
		})
	case errors.Is(err, journal.ErrTakenOver):
		log.Info("crawl left to another crawler, which took it over")
		return err
	default:
		c.attempt.takeBack()
		return err
	}
	if errors.Is(err, journal.ErrEnded) || errors.Is(err, events.ErrNotAllowed) {
		return nil
	}
	return err
}

// leave leaves an export to a process of a later version.
func (s *Service) leave(x *events.Export, need string) error {
	if _, logged := s.needs.LoadOrStore(need, true); !logged {
		x.With(s.cfg.Log).Warn("exports are left to a process of a later version", "needs", need)
	}
	return journal.RetryAfter(errNeeds, needsWait+rand.N(needsWait))
}

var errNeeds = errors.New("this version cannot read the source of the export")

// needsWait is the minimum time that an export stays with the server for another process.
const needsWait = time.Second

// outlive returns a context that ends d after ctx does.
func outlive(ctx context.Context, d time.Duration) (late context.Context, over func()) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return late, func() {
		stop()
		cancel()
	}
}

// stillOpen refuses to append to an export that has ended or restarted since it was taken.
func stillOpen(x *events.Export, requested uint64) error {
	if x.State != events.StateRequested || x.RequestedSeq != requested {
		return journal.ErrEnded
	}
	return nil
}
