package crawler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"

	"golang.org/x/sync/errgroup"
)

// crawl is the crawl of one export, from its start to its last page.
type crawl struct {
	*Service
	x       events.Export
	log     *slog.Logger
	drain   context.Context // ends when the process must stop
	attempt *attempt
	source  *source.Fetcher
	asker   asker  // the export that takes turns
	into    uint64 // the run to write
	have    *inventory
	gate    gate
	line    *line        // pages that wait for their first turn, while the crawl is dealt out
	dealt   atomic.Bool  // other processes may fetch pages too
	first   []string     // the names of the rows of page 1, where pages have no header
	helps   bool         // another process owns the crawl
	crowd   atomic.Int32 // processes that fetch pages
	told    atomic.Int64 // last progress report, in Unix nanoseconds
	rows    int64        // data rows of the whole list
	bytes   int64        // of these rows, as JSON

	// Of a request with sheets; zero for others.
	several bool   // it is the crawl of one of them
	sheet   int    // from 0
	label   string // names the sheet
	used    amount // what the sheets before hold
	unseen  int    // sheets after it

	restored  int          // pages that were there at the start, in an unbroken row
	begun     bool         // the round began again, because its source refused a kept token
	rewritten atomic.Bool  // the source names its next pages by another scheme or port
	until     atomic.Int64 // when the source is asked again, in Unix nanoseconds; 0 while it does not ask for a pause
}

// errDraining ends a crawl that hands its export back unfinished.
var errDraining = errors.New("the process stops; the missing pages are left to another")

func (s *Service) newCrawl(drain context.Context, x events.Export, fresh bool) *crawl {
	log := x.With(s.cfg.Log)
	return &crawl{
		Service: s, x: x, log: log, drain: drain, line: newLine(),
		attempt: &attempt{journal: s.journal, log: log, tenant: x.Tenant, key: x.Key, fresh: fresh, further: func() {}},
	}
}

// run crawls all pages and returns the event that reports it. The error is a *Failure if the export cannot
// succeed; after any other error a retry may help.
func (c *crawl) run(ctx context.Context) (*events.ExportCrawled, error) {
	defer func() { c.attempt.further() }()
	switch {
	case c.x.Request.From != nil:
		return c.convert(ctx)
	case len(c.x.Request.Sheets) > 0:
		return c.crawlSheets(ctx)
	}
	return c.list(ctx)
}

// list is run for one list: of the whole request, or of one sheet.
func (c *crawl) list(ctx context.Context) (*events.ExportCrawled, error) {
	if c.x.Request.SourceType == events.SourceRaw {
		return c.raw(ctx)
	}
	if c.used.pages >= c.cfg.MaxPages {
		return nil, &source.Failure{Code: events.CodeLimitPages, Msg: fmt.Sprintf("an export may have %d pages (--max-pages)", c.cfg.MaxPages)}
	}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	have, err := c.chooseRun(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.restore(ctx, have); err != nil {
		return nil, err
	}
	c.tell(true)
	if err := c.fetchAll(ctx); err != nil {
		return nil, err
	}
	crawled, failure := c.have.finish()
	if failure != nil {
		return nil, failure
	}
	if err := c.publishColumns(ctx); err != nil {
		return nil, err
	}
	c.tell(true)
	crawled.Run, c.rows, c.bytes = c.into, c.have.sum().rows, c.have.json()
	if c.rewritten.Load() {
		crawled.Warnings = append(crawled.Warnings, events.Warning{Code: "NEXT_URL_REWRITTEN",
			Message: "the source names its next pages by another scheme or port; those of the url were used"})
	}
	return crawled, nil
}

// fetchAll fetches the pages that are missing, until the list ends.
func (c *crawl) fetchAll(ctx context.Context) error {
	if !c.chained() {
		return c.fetchMissing(ctx)
	}
	err := c.fetchChain(ctx)
	if f := (*keptTokenError)(nil); errors.As(err, &f) {
		if err = c.beginAgain(ctx, f); err == nil {
			err = c.fetchChain(ctx)
		}
	}
	return err
}

// declared reports whether the request describes its source, and chained, whether each page names the next
// one.
func (c *crawl) declared() bool {
	return c.x.Request.HTTP != nil && c.x.Request.HTTP.Paging != nil
}

func (c *crawl) chained() bool { return c.declared() && isChained(c.x.Request.HTTP.Paging) }

// raw fetches nothing: the rows came with the request, as the pages of their own run. It reads them once, so
// that the manifest describes the stored pages. A drain interrupts it, and another crawler starts over.
func (c *crawl) raw(ctx context.Context) (*events.ExportCrawled, error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	want := 0
	if c.x.Request.Raw != nil {
		want = c.x.Request.Raw.Pages
	}
	have, err := c.pages.List(ctx, c.x.Tenant, c.x.Key, events.RawRun, c.sheet)
	if err != nil {
		return nil, err
	}
	if want == 0 || len(have) < want {
		return nil, &source.Failure{Code: events.CodeStore, Msg: fmt.Sprintf("%d of %d pages of the request's rows are no longer kept; submit the export again", len(have), want)}
	}
	c.into = events.RawRun
	manifest := pages.NewManifest()
	lim := limits{rows: c.cfg.MaxRows - c.used.rows, bytes: c.cfg.MaxBytes - c.used.bytes}
	for n := 1; n <= want; n++ {
		p, err := c.stored(ctx, n)
		if err != nil {
			return nil, err
		}
		c.rows, c.bytes = c.rows+int64(p.DataRows()), c.bytes+int64(len(p.Rows))
		if f := lim.exceeded(n, c.rows, c.bytes); f != nil {
			return nil, f
		}
		if f := headerFits(&c.x.Request, p); f != nil {
			return nil, f
		}
		manifest.Add(n, p.DataRows(), p.SHA256)
		p.Release()
	}
	return &events.ExportCrawled{Run: c.into, Pages: want, Manifest: manifest.Sum()}, nil
}

// chooseRun chooses the run and returns its stored pages. A retry continues the newest earlier run that has
// page 1, if page 1, requested again, begins as before.
func (c *crawl) chooseRun(ctx context.Context) (have []int, err error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	c.into = c.x.RequestedSeq
	if c.chained() && !c.attempt.fresh {
		if have, err = c.pages.List(ctx, c.x.Tenant, c.x.Key, c.secondRun(), c.sheet); err != nil {
			return nil, err
		}
		if len(have) > 0 {
			c.into, c.begun = c.secondRun(), true
		}
	}
	if !c.begun && !(c.attempt.fresh && c.journal.Embedded()) { // only a cluster may hide a delivery
		if have, err = c.pages.List(ctx, c.x.Tenant, c.x.Key, c.into, c.sheet); err != nil {
			return nil, err
		}
	}
	var before []int
	if len(have) == 0 && c.x.ContinuesRun != 0 {
		// A round that was meant to continue a run may have begun its own.
		if c.x.ContinuesRun, err = c.pages.NewestRun(ctx, c.x.Tenant, c.x.Key, c.sheet, c.x.ContinuesRun); err != nil {
			return nil, err
		}
		if before, err = c.pages.List(ctx, c.x.Tenant, c.x.Key, c.x.ContinuesRun, c.sheet); err != nil {
			return nil, err
		}
	}
	resumes := slices.Contains(before, 1)
	if len(c.x.Timeline) > 1 && len(have) == 0 && !resumes {
		// There were earlier rounds; their pages are not read again.
		if err := c.pages.PurgeEarlierRuns(ctx, c.x.Tenant, c.x.Key, c.sheet, c.into); err != nil {
			return nil, err
		}
	}
	if !c.several { // see crawlSheets
		err = c.attempt.begin(ctx, c.x.RequestedSeq, len(have), len(before), c.cfg.MaxStarts, c.letOthersGo)
	}
	if err != nil || !resumes {
		return have, err
	}

	again, done, err := c.ask(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer done()
	old, err := c.page(ctx, c.x.ContinuesRun, 1)
	if c.declared() && c.x.Request.HTTP.Paging.Estimate {
		old.Total = again.Total
	}
	if err == nil && sameStart(old, again.Page, c.declared()) {
		c.log.Info("crawl goes on with an earlier run", "run", c.x.ContinuesRun, "pages", len(before))
		c.into = c.x.ContinuesRun
		return before, nil
	}
	if err != nil && !errors.Is(err, events.ErrPageMissing) && !errors.Is(err, events.ErrPageDamaged) {
		return nil, err
	}
	c.log.Info("the source changed: the crawl starts again")
	if err := c.attempt.stillMine(ctx); err != nil {
		return nil, err
	}
	if err := c.pages.PurgeEarlierRuns(ctx, c.x.Tenant, c.x.Key, c.sheet, c.into); err != nil {
		return nil, err
	}
	var refused *refusedPage
	if err := c.publish(ctx, again); !errors.As(err, &refused) {
		return nil, err
	}
	return nil, nil // it is requested again when there is space
}

// restore reads the stored pages of the run. The ledger needs their headers, totals and rows.
func (c *crawl) restore(ctx context.Context, have []int) error {
	if len(have) == 0 {
		return nil
	}
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	if err := c.attempt.count(ctx); err != nil { // reading stored pages is work as well
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range have {
		g.Go(func() error {
			p, err := c.stored(ctx, n)
			if err != nil {
				return err
			}
			defer p.Release()
			return c.account(p, c.namesOf(p))
		})
	}
	err := g.Wait()
	c.restored = c.have.sum().read
	return err
}

// stored reads a page of the run.
func (c *crawl) stored(ctx context.Context, n int) (pages.Page, error) {
	p, err := c.page(ctx, c.into, n)
	if errors.Is(err, events.ErrPageDamaged) {
		err = &source.Failure{Page: n, Code: events.CodeStore, Msg: "a stored page is damaged; a retry crawls from the beginning"}
	}
	return p, err
}

// page reads a page. The token of the next one is sealed in the stream: it can be a URL with a password.
func (c *crawl) page(ctx context.Context, run uint64, n int) (pages.Page, error) {
	p, err := c.pages.Get(ctx, pages.ID{Tenant: c.x.Tenant, Key: c.x.Key, Run: run, Sheet: c.sheet, Number: n})
	if err != nil || p.Next == "" {
		return p, err
	}
	sealed, err := base64.StdEncoding.DecodeString(p.Next)
	if err != nil {
		return p, fmt.Errorf("%w: page %d: the token of the next page: %w", events.ErrPageDamaged, n, err)
	}
	next, err := c.journal.Keys().Open(c.x.Tenant, c.x.Key, sealed)
	if err != nil {
		return p, fmt.Errorf("%w: page %d: the token of the next page: %w", events.ErrPageDamaged, n, err)
	}
	p.Next = string(next)
	return p, nil
}

// fetchMissing fetches every missing page of the list, with the export's number of requests in flight. When
// the process must stop, it starts no more requests and lets those in flight finish.
func (c *crawl) fetchMissing(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	needed, end := context.WithCancel(ctx) // once the list has ended, pages beyond its end are useless
	defer end()
	pages := make(chan int)
	g.Go(func() error {
		defer close(pages)
		err := c.handOut(ctx, g, pages)
		if c.have.ended() {
			end()
		}
		return err
	})
	for range c.conn() {
		g.Go(func() error {
			for n := range pages {
				err := c.fetch(needed, n)
				c.line.leave(n)
				if c.have.ended() {
					end()
				} else if err != nil && !c.leaves(err) {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || c.have.ended() {
		return err
	}
	return errDraining
}

func (c *crawl) conn() int { return max(c.x.Request.HTTP.Conn, 1) }

// handOut hands out the missing pages in order, until the list has ended or the process must stop. It waits
// for space before the first page, and while the crawl is too far ahead of its lowest missing page. Of a large
// list it deals out spans to other processes.
func (c *crawl) handOut(ctx context.Context, g *errgroup.Group, pages chan<- int) error {
	look := time.NewTicker(c.space.every)
	defer look.Stop()
	d := newDealer(c, func(work func() error) { g.Go(work) })
	defer d.close()
	open, err := c.mayGoOn(ctx)
	for err == nil && !c.have.ended() && c.drain.Err() == nil {
		to, n := pages, 0
		if open && !c.line.full() {
			n = d.lowest()
		}
		if n == 0 {
			to = nil
		}
		select {
		case to <- n:
			d.hand(n)
		case <-c.have.changed:
		case <-c.line.moved:
		case <-look.C:
			open, err = c.mayGoOn(ctx)
		case <-d.beat():
			d.deal(ctx, open)
		case report := <-d.inbox:
			err = d.hear(ctx, report, open)
		case back := <-d.returned:
			d.takeBack(back)
		case <-c.drain.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// leaves reports whether a page that was not fetched is left to the next crawler. Otherwise its error would
// cancel the requests in flight.
func (c *crawl) leaves(err error) bool {
	var failure *source.Failure
	return c.drain.Err() != nil && !(errors.As(err, &failure) && failure.Code != "") && !errors.Is(err, journal.ErrTakenOver)
}

// fetch requests a page, publishes it and records it. A page without space is requested again when there may
// be space.
func (c *crawl) fetch(ctx context.Context, n int) error {
	for {
		p, done, err := c.ask(ctx, n)
		if m := (*missed)(nil); errors.As(err, &m) && m.Code != "" {
			if f := c.have.miss(n, m); f != nil {
				return f
			}
			return nil
		}
		if err != nil {
			return err
		}
		err = c.publish(ctx, p)
		done()
		var refused *refusedPage
		if !errors.As(err, &refused) {
			return err
		}
		if err := c.awaitRoom(ctx, refused); err != nil {
			return err
		}
	}
}

// ask requests a page from the source and judges its response. The page's rows are valid until done is
// called. An error of the source is a *missed.
func (c *crawl) ask(ctx context.Context, n int) (p admitted, done func(), err error) {
	at, plan := c.have.position(n)
	return c.askAt(ctx, at, plan)
}

// admitted is a page that was judged, with the names of its rows where pages have no header.
type admitted struct {
	pages.Page
	names []string
}

// askAt is ask for a page that begins at a position.
func (c *crawl) askAt(ctx context.Context, at source.Position, plan *plan) (p admitted, done func(), err error) {
	got, err := c.source.Fetch(ctx, at)
	if f := (*source.Failure)(nil); errors.As(err, &f) {
		if ctx.Err() == nil {
			c.metrics.pages.WithLabelValues("failed").Inc()
		}
		return p, nil, &missed{Failure: f}
	}
	if err != nil {
		return p, nil, err
	}
	var refused *missed
	if c.declared() {
		p.Page, refused = plan.admitDeclared(at.Page, got.Answer)
	} else {
		p.Page, refused = plan.admit(at.Page, got.Answer, c.have.limits())
	}
	if refused != nil {
		got.Release()
		refused.Attempts = got.Attempts
		return p, nil, refused
	}
	p.Tenant, p.Key, p.Sheet, p.Attempts, p.names = c.x.Tenant, c.x.Key, c.sheet, got.Attempts, got.Names
	if got.Rewritten {
		c.rewritten.Store(true)
	}
	return p, got.Release, nil
}

// namesOf returns the names of the rows of a stored page, nil where pages have a header.
func (c *crawl) namesOf(p pages.Page) []string {
	if !c.x.Request.HasColumnsPage() {
		return nil
	}
	return rows.Names(p.Rows)
}

// publish makes a page durable and records it. If another crawler was first, its response counts.
func (c *crawl) publish(ctx context.Context, p admitted) error {
	_, err := c.publishFirst(ctx, p)
	return err
}

// publishFirst is publish that also reports whether p is the page that counts.
func (c *crawl) publishFirst(ctx context.Context, p admitted) (first bool, err error) {
	kept, first, err := c.keep(ctx, p)
	if err != nil {
		return false, err
	}
	c.attempt.further()
	return first, c.account(kept.Page, kept.names)
}

// keep makes a page durable. It returns the page that counts: p, or that of another crawler, which was first.
func (c *crawl) keep(ctx context.Context, p admitted) (kept admitted, first bool, err error) {
	p.Run, p.SHA256 = c.into, sha256.Sum256(p.Rows)
	record := p.Page
	if p.Next != "" {
		sealed, err := c.journal.Keys().Seal(p.Tenant, p.Key, []byte(p.Next))
		if err != nil {
			return p, false, err
		}
		record.Next = base64.StdEncoding.EncodeToString(sealed)
	}
	size, stored, err := c.pages.PublishSized(ctx, record, c.cfg.Room)
	if errors.Is(err, events.ErrNoSpace) {
		return p, false, &refusedPage{err, p.Run, size}
	}
	if err != nil {
		return p, false, err
	}
	p.Stored = size
	if stored {
		c.metrics.pages.WithLabelValues("stored").Inc()
		c.metrics.rows.Add(float64(p.RowCount))
		c.metrics.bytes.Add(float64(len(p.Rows)))
	} else {
		if !c.helps {
			if err := c.attempt.stillMine(ctx); err != nil {
				return p, false, err
			}
		}
		winner, err := c.page(ctx, c.into, p.Number)
		if err != nil {
			return p, false, err
		}
		stored = winner.SHA256 == p.SHA256 && winner.Next == p.Next && winner.Last == p.Last && winner.Total == p.Total
		p = admitted{winner, c.namesOf(winner)}
	}
	return p, stored, nil
}

// account records a durable page in the inventory.
func (c *crawl) account(p pages.Page, names []string) error {
	if f := headerFits(&c.x.Request, p); f != nil {
		return f
	}
	if p.Number == 1 {
		c.first = names
	}
	if f := c.have.add(p, names); f != nil {
		return f
	}
	c.tell(false)
	return nil
}

// tellEvery is the minimum interval between two progress reports of one export.
const tellEvery = 250 * time.Millisecond

// mayTell reports whether a progress report is due, or may be sent now. The caller then sends it.
func (c *crawl) mayTell(now bool) bool {
	last := c.told.Load()
	return (now || time.Since(time.Unix(0, last)) >= tellEvery) && (c.told.CompareAndSwap(last, time.Now().UnixNano()) || now)
}

func (c *crawl) tell(now bool) {
	if !c.mayTell(now) {
		return
	}
	have := c.have.sum()
	p := events.Progress{Phase: events.PhaseCrawling, PagesDone: have.pages, PagesTotal: have.announced, Rows: have.rows}
	if have.end > 0 {
		p.PagesDone, p.PagesTotal = have.end, have.end
	} else if p.PagesDone > p.PagesTotal {
		p.PagesTotal = 0 // the list is longer than announced
	}
	if p.PagesTotal > 0 {
		p.PagesTotal += c.used.pages
	}
	if c.unseen > 0 {
		p.PagesTotal = 0 // how long the later sheets are is not known yet
	}
	p.PagesDone, p.Rows = p.PagesDone+c.used.pages, p.Rows+c.used.rows
	switch until := c.until.Load(); {
	case c.gate.waits():
		p.Phase = events.PhaseWaitingForSpace
	case until != 0:
		p.Phase, p.Until = events.PhaseWaitingForSource, time.Unix(0, until).UTC().Truncate(time.Millisecond)
	}
	p.Crawlers = int(c.crowd.Load())
	c.journal.PublishProgress(c.x.Tenant, c.x.Key, p)
}

// waits shows until when the source asked the crawl to wait, the zero time for no longer.
func (c *crawl) waits(until time.Time) {
	var at int64
	if !until.IsZero() {
		at = until.UnixNano()
	}
	c.until.Store(at)
	c.tell(true)
}

// failed returns the event that ends the export. Pages that contradict each other or the announced totals are
// not used again. After any other failure a retry continues where this crawl stopped.
func (c *crawl) failed(f *source.Failure) *events.ExportFailed {
	spoiled := slices.Contains([]string{events.CodeSourceChanged, events.CodeSourceIncomplete, events.CodePagingStuck, events.CodePagingLoop, events.CodeSourceCursor, events.CodeStore}, f.Code)
	run := c.into
	if len(c.x.Request.Sheets) > 0 { // a later sheet may have pages in the oldest run
		run = cmp.Or(c.x.ContinuesRun, c.x.RequestedSeq)
	}
	return &events.ExportFailed{
		Code: f.Code, Reason: f.Error(), Phase: events.PhaseCrawling, Run: run, RunSpoiled: spoiled,
		Page: f.Page, Status: f.Status, Errcode: f.Errcode, Attempts: f.Attempts,
	}
}

// turn waits for a place for one request, and counts the attempt before the first one. A crawl that only
// waits for its turn cannot be the cause of a crash.
func (c *crawl) turn(ctx context.Context) (source.Place, error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	of := c.asker
	if c.dealt.Load() {
		of.conn = c.conn() // over all processes
	}
	place, err := c.turns.take(ctx, of)
	if err != nil {
		return nil, err
	}
	if err := c.attempt.count(ctx); err != nil {
		place.Done()
		return nil, err
	}
	return place, nil
}

// letOthersGo waits, at most until the drain.
func (c *crawl) letOthersGo(ctx context.Context, d time.Duration) error {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	return source.Sleep(ctx, d)
}

// untilDrain returns a context that ends with the drain too. It is for waiting: requests and the processing
// of their responses continue.
func (c *crawl) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.drain, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
