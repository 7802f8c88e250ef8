package crawler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"

	"golang.org/x/sync/errgroup"
)

// crawl is the crawling of one export, from taking it to its last page.
type crawl struct {
	*Service
	x      events.Export
	log    *slog.Logger
	source *source.Source
	drain  context.Context // ends when the process shall stop
	into   uint64          // the run that is written
	mark   string          // of the start count
	asker  asker           // whose turn it is

	counting sync.Mutex // guards what follows
	starts   int        // how often it is recorded that the crawl began at mark, this time included; 0 while this time is not

	acquit func() // lets the next suspect work: the crawl got further, or ended

	fresh bool // nobody has begun the crawl before

	progress chan struct{} // something changed; holds one

	// Of the goroutine that hands out pages.
	begun     bool      // it may ask for pages
	shared    bool      // there were other pages when it began
	waitSince time.Time // since when it waits to begin

	mu     sync.Mutex // guards what follows
	ledger *ledger
	sizes  map[int]int64 // bytes of rows of the pages taken above the lowest missing one
	ahead  int64         // their sum
	told   time.Time     // when progress was last told
	stored int64         // bytes of SHEAF_PAGES that the pages taken are
	paused bool          // it waits for room before its first page
	full   int           // pages that wait for room
	left   bool          // a page that was given out is left to the next crawler
}

// errDraining ends a crawl that hands its export back in the middle.
var errDraining = errors.New("the process stops; the missing pages are left to another")

// run crawls all pages and returns the event that says so. An error is a
// *source.Failure when the export cannot succeed, anything else when it is to be
// tried again.
func (c *crawl) run(ctx context.Context) (*events.ExportCrawled, error) {
	req := c.x.Request
	c.sizes, c.progress = map[int]int64{}, make(chan struct{}, 1)
	c.acquit = func() {}
	defer func() { c.acquit() }()
	if req.SourceType == events.SourceRaw {
		return c.raw(ctx)
	}
	if req.HTTP == nil {
		return nil, &source.Failure{Code: events.CodeInternal, Msg: "the request names no source"}
	}
	c.ledger = newLedger(req.HTTP.Limit, c.cfg.MaxPages, c.cfg.MaxRows, c.cfg.MaxBytes)

	var header secrets.Values
	param := req.HTTP.Param
	if len(req.HTTP.Header)+len(req.HTTP.SecretParam) > 0 {
		kept, err := c.journal.Headers(ctx, c.x.Tenant, c.x.Key)
		if errors.Is(err, events.ErrNoHeaders) || errors.Is(err, events.ErrSealed) {
			return nil, &source.Failure{Code: events.CodeInternal, Msg: "the source's headers are no longer kept; submit the export again"}
		}
		if err != nil {
			return nil, err
		}
		if header, param, err = c.openSecrets(kept, param); err != nil {
			return nil, err
		}
	}
	src, err := source.New(c.client, source.Request{
		URL: req.HTTP.URL, Method: req.HTTP.Method, Header: header, Param: param, SecretParam: req.HTTP.SecretParam,
		Limit: req.HTTP.Limit, TaskID: c.x.Key,
	}, c.cfg.Policy)
	if err != nil {
		return nil, &source.Failure{Code: events.CodeInternal, Msg: err.Error()}
	}
	c.asker = asker{c.x.Tenant, c.x.Key, src.Host()}
	src.Turn = c.turn
	src.Memory = c.memory
	src.Sleep = c.letOthersGo
	c.source = src

	have, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.restore(ctx, have); err != nil {
		return nil, err
	}
	c.tell(true)
	if err := c.fetchMissing(ctx); err != nil {
		return nil, err
	}
	warnings, failure := c.ledger.finish()
	if failure != nil {
		return nil, failure
	}
	c.tell(true)
	return &events.ExportCrawled{Run: c.into, Pages: c.ledger.end, Manifest: c.ledger.manifest(), Warnings: warnings}, nil
}

// openSecrets returns the source's headers, and its parameters with the secret
// ones among them.
func (c *crawl) openSecrets(kept secrets.Values, param json.RawMessage) (secrets.Values, json.RawMessage, error) {
	header, secret := secrets.Split(kept)
	open := func(value string) (string, error) {
		plain, err := c.journal.Keys().OpenValue(c.x.Tenant, value)
		if err != nil {
			err = &source.Failure{Code: events.CodeSealed, Msg: "a sealed value cannot be opened: it was sealed for another tenant or with a key that is not this server's; seal it with the key of GET /v1/seal-key and submit the export again"}
		}
		return plain, err
	}
	for name, value := range header {
		plain, err := open(value)
		if err != nil {
			return nil, nil, err
		}
		header[name] = plain
	}
	body := bytes.TrimSuffix(bytes.TrimSpace(param), []byte("}"))
	if len(body) == 0 {
		body = []byte("{")
	}
	body = slices.Clip(body)
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		value := secret[name]
		var text string
		if json.Unmarshal(value, &text) == nil {
			plain, err := open(text)
			if err != nil {
				return nil, nil, err
			}
			if plain != text {
				if value, err = json.Marshal(plain); err != nil {
					return nil, nil, err
				}
			}
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, nil, err
		}
		if len(bytes.TrimSpace(body)) > 1 {
			body = append(body, ',')
		}
		body = append(append(append(body, quoted...), ':'), value...)
	}
	return header, append(body, '}'), nil
}

// raw has nothing to fetch: the rows came with the request, as the pages of
// their own run. It reads them once, so that the manifest is of what is there.
func (c *crawl) raw(ctx context.Context) (*events.ExportCrawled, error) {
	want := 0
	if c.x.Request.Raw != nil {
		want = c.x.Request.Raw.Pages
	}
	have, err := c.pages.List(ctx, c.x.Tenant, c.x.Key, events.RawRun)
	if err != nil {
		return nil, err
	}
	if want == 0 || len(have) < want {
		return nil, &source.Failure{Code: events.CodeStore, Msg: fmt.Sprintf("%d of %d pages of the request's rows are no longer kept; submit the export again", len(have), want)}
	}
	c.into = events.RawRun
	c.ledger = newLedger(0, want, c.cfg.MaxRows, c.cfg.MaxBytes)
	c.ledger.raw = true
	if err := c.restore(ctx, have[:want]); err != nil {
		return nil, err
	}
	if _, failure := c.ledger.finish(); failure != nil {
		return nil, failure
	}
	return &events.ExportCrawled{Run: events.RawRun, Pages: want, Manifest: c.ledger.manifest()}, nil
}

// begin chooses the run and returns the pages that it has. A retry goes on
// with the newest run before it that has page 1, if page 1, asked anew, begins as
// it did then.
func (c *crawl) begin(ctx context.Context) ([]int, error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	c.into = c.x.RequestedSeq
	have, err := c.pages.List(ctx, c.x.Tenant, c.x.Key, c.into)
	if err != nil {
		return nil, err
	}
	var before []int
	if len(have) == 0 && c.x.ContinuesRun != 0 {
		// A round that was to continue a run may have begun one of its own.
		if c.x.ContinuesRun, err = c.pages.NewestRun(ctx, c.x.Tenant, c.x.Key, c.x.ContinuesRun); err != nil {
			return nil, err
		}
		if before, err = c.pages.List(ctx, c.x.Tenant, c.x.Key, c.x.ContinuesRun); err != nil {
			return nil, err
		}
	}
	if len(c.x.Timeline) > 1 && len(have) == 0 && !slices.Contains(before, 1) {
		// There were earlier rounds; what they left is not read again.
		if err := c.pages.PurgeEarlierRuns(ctx, c.x.Tenant, c.x.Key, c.into); err != nil {
			return nil, err
		}
	}
	c.mark = markAt(c.into, len(have)+len(before))
	if c.fresh && len(have)+len(before) == 0 { // nobody has begun, so no start is recorded
		return nil, nil
	}
	if len(have) > 0 {
		// A delivery that calls itself the first need not be: in a cluster the
		// count of deliveries can be lost with its leader.
		c.fresh = false
	}
	starts, err := c.journal.Starts(ctx, c.x.Tenant, c.x.Key, c.mark)
	if err != nil {
		return nil, err
	}
	if !c.fresh && len(have)+len(before) == 0 {
		starts++ // the first one is not recorded, see count
	}
	if starts >= c.cfg.MaxStarts {
		return nil, &source.Failure{Code: events.CodeCrashedWorker,
			Msg: fmt.Sprintf("crawling began %d times without getting past %d pages; the process ended each time", c.cfg.MaxStarts, len(have)+len(before))}
	}
	if starts >= journal.SuspectAfter {
		if err := c.letOthersGo(ctx, c.journal.SuspectPause(starts)); err != nil {
			return nil, err
		}
		if c.acquit, err = c.journal.Alone(ctx, aloneFor); err != nil {
			c.acquit = func() {}
			return nil, err
		}
	}
	if !slices.Contains(before, 1) {
		return have, nil
	}

	anew, done, err := c.ask(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer done()
	old, err := c.page(ctx, c.x.ContinuesRun, 1)
	if err == nil && sameStart(old, anew) {
		c.log.Info("crawl goes on with an earlier run", "run", c.x.ContinuesRun, "pages", len(before))
		c.into = c.x.ContinuesRun
		return before, nil
	}
	if err != nil && !errors.Is(err, events.ErrPageMissing) && !errors.Is(err, events.ErrPageDamaged) {
		return nil, err
	}
	c.log.Info("source changed: crawl begins anew")
	if err := c.stillMine(ctx); err != nil {
		return nil, err
	}
	if err := c.pages.PurgeEarlierRuns(ctx, c.x.Tenant, c.x.Key, c.into); err != nil {
		return nil, err
	}
	var refused *refusedPage
	if err := c.publish(ctx, anew); !errors.As(err, &refused) {
		return nil, err
	}
	return nil, nil // it is asked for once more when there is room
}

// markAt names how far the crawl of a request had come when it began.
func markAt(requested uint64, pages int) string {
	return strconv.FormatUint(requested, 10) + ":" + strconv.Itoa(pages)
}

// restore reads the pages that the run has, for what the ledger must know of
// them: the header, the announced totals and the rows.
func (c *crawl) restore(ctx context.Context, have []int) error {
	if len(have) == 0 {
		return nil
	}
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	if c.mark != "" { // of a source: reading what is there is work as well
		if err := c.count(ctx); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range have {
		g.Go(func() error {
			p, err := c.page(ctx, c.into, n)
			if errors.Is(err, events.ErrPageDamaged) {
				return &source.Failure{Page: n, Code: events.CodeStore, Msg: "a stored page is damaged; a retry crawls from the beginning"}
			}
			if err != nil {
				return err
			}
			return c.account(p, p.Stored)
		})
	}
	return g.Wait()
}

func (c *crawl) page(ctx context.Context, run uint64, n int) (pages.Page, error) {
	return c.pages.Get(ctx, pages.ID{Tenant: c.x.Tenant, Key: c.x.Key, Run: run, Number: n})
}

// fetchMissing fetches every page of the list that is missing, with the export's
// number of requests in flight. When the process shall stop it gives out no more of
// them, has those in flight finished, and returns errDraining unless they were the
// last.
func (c *crawl) fetchMissing(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// Once the list has ended, nobody needs what is asked for beyond its end.
	needed, stop := context.WithCancel(ctx)
	defer stop()
	pages := make(chan int)
	var handed error
	g.Go(func() error {
		defer close(pages)
		if handed = c.hand(ctx, pages); errors.Is(handed, errDraining) {
			return nil // an error would cut off what is in flight
		}
		if handed == nil {
			stop() // an error ends the requests itself, and must be the first
		}
		return handed
	})
	for range max(c.x.Request.HTTP.Conn, 1) {
		g.Go(func() error {
			for n := range pages {
				if err := c.fetch(needed, n); err != nil && !c.ended() && !c.leave(err) {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return handed
}

// ended reports whether all pages of the list are there.
func (c *crawl) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.end > 0
}

// leave reports whether a page that was not fetched is left to the next
// crawler, so that others in flight are not cut off for it.
func (c *crawl) leave(err error) bool {
	var failure *source.Failure
	if c.drain.Err() == nil || errors.As(err, &failure) && failure.Code != "" || errors.Is(err, journal.ErrTakenOver) {
		return false
	}
	c.mu.Lock()
	c.left = true
	c.mu.Unlock()
	c.stir()
	return true
}

// untilDrain returns a context that ends with the drain too. Waiting ends with
// it, requests and what follows from their answers go on.
func (c *crawl) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.drain, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// hand gives out the missing pages in order, until the list has ended. It stops
// while the crawl is too far ahead of its lowest missing page, and waits for room
// before the first page. Before page 1 is there it is the only one; how far the list
// may reach is for the ledger to say.
func (c *crawl) hand(ctx context.Context, pages chan<- int) error {
	lowest, next := 1, 1
	look := time.NewTicker(c.space.every)
	defer look.Stop()
	drained := c.drain.Done()
	open, err := c.mayGoOn(ctx)
	for {
		if err != nil {
			return err
		}
		c.mu.Lock()
		last := c.ledger.bound(max(c.x.Request.HTTP.Conn, 1))
		for lowest <= last && !c.ledger.missing(lowest) {
			c.ahead -= c.sizes[lowest]
			delete(c.sizes, lowest)
			lowest++
		}
		n := max(next, lowest)
		for n <= last && !c.ledger.missing(n) {
			n++
		}
		done := c.ledger.end > 0
		left := c.left || n <= last
		wait := n > last || n-lowest >= c.cfg.LeadPages || (c.ahead > c.cfg.LeadBytes && n != lowest)
		c.mu.Unlock()
		if done {
			return nil
		}
		if left && c.drain.Err() != nil {
			return errDraining
		}
		to := pages
		if wait || !open {
			to = nil
		}
		select {
		case to <- n:
			next = n + 1
		case <-c.progress:
		case <-look.C:
			open, err = c.mayGoOn(ctx)
		case <-drained:
			drained = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fetch asks for a page, publishes it and accounts for it. A page that finds no room
// is asked for again when there may be.
func (c *crawl) fetch(ctx context.Context, n int) error {
	for {
		err := c.fetchOnce(ctx, n)
		var refused *refusedPage
		if !errors.As(err, &refused) {
			return err
		}
		if err := c.awaitRoom(ctx, refused); err != nil {
			return err
		}
	}
}

func (c *crawl) fetchOnce(ctx context.Context, n int) error {
	p, done, err := c.ask(ctx, n)
	var failure *source.Failure
	if errors.As(err, &failure) && failure.Code != "" {
		return c.miss(n, failure)
	}
	if err != nil {
		return err
	}
	defer done()
	return c.publish(ctx, p)
}

// miss enters a page that the source did not give into the ledger.
func (c *crawl) miss(n int, f *source.Failure) error {
	c.mu.Lock()
	f = c.ledger.miss(n, f)
	c.mu.Unlock()
	if f != nil {
		return f
	}
	c.stir()
	return nil
}

// ask asks the source for a page and judges its answer. The page's rows are
// valid until done is called.
func (c *crawl) ask(ctx context.Context, n int) (p pages.Page, done func(), err error) {
	got, err := c.source.Fetch(ctx, n)
	c.metrics.again.Add(float64(max(got.Attempts-1, 0)))
	if err != nil {
		if ctx.Err() == nil {
			c.metrics.pages.WithLabelValues("failed").Inc()
		}
		return p, nil, err
	}
	c.mu.Lock()
	p, failure := c.ledger.admit(n, got.Response)
	c.mu.Unlock()
	if failure != nil {
		got.Release()
		failure.Attempts = got.Attempts
		return p, nil, failure
	}
	p.Tenant, p.Key, p.Attempts = c.x.Tenant, c.x.Key, got.Attempts
	return p, got.Release, nil
}

// publish makes a page durable and accounts for it. If another crawler was
// first, its answer is the one that counts.
func (c *crawl) publish(ctx context.Context, p pages.Page) error {
	p.Run = c.into
	p.SHA256 = sha256.Sum256(p.Rows)
	size, stored, err := c.pages.PublishSized(ctx, p, c.cfg.Room)
	if errors.Is(err, events.ErrNoSpace) {
		return &refusedPage{err, p.Run, size}
	}
	if err != nil {
		return err
	}
	if stored {
		c.metrics.pages.WithLabelValues("stored").Inc()
		c.metrics.rows.Add(float64(p.RowCount))
		c.metrics.bytes.Add(float64(len(p.Rows)))
	} else {
		if err := c.stillMine(ctx); err != nil {
			return err
		}
		if p, err = c.page(ctx, c.into, p.Number); err != nil {
			return err
		}
		size = p.Stored
	}
	c.acquit()
	return c.account(p, size)
}

// account enters a durable page, which takes size bytes, into the ledger.
func (c *crawl) account(p pages.Page, size int64) error {
	c.mu.Lock()
	if c.ledger.missing(p.Number) {
		c.stored += size
	}
	failure := c.ledger.take(p)
	c.sizes[p.Number] = int64(len(p.Rows))
	c.ahead += int64(len(p.Rows))
	c.mu.Unlock()
	if failure != nil {
		return failure
	}
	c.stir()
	c.tell(false)
	return nil
}

// stir has the handing out of pages look again.
func (c *crawl) stir() {
	select {
	case c.progress <- struct{}{}:
	default:
	}
}

// tellEvery bounds how often one export tells its progress.
const tellEvery = 250 * time.Millisecond

func (c *crawl) tell(now bool) {
	c.mu.Lock()
	if !now && time.Since(c.told) < tellEvery {
		c.mu.Unlock()
		return
	}
	c.told = time.Now()
	p := events.Progress{Phase: events.PhaseCrawling, PagesDone: len(c.ledger.taken), PagesTotal: c.ledger.announced, Rows: c.ledger.rows}
	if c.ledger.end > 0 {
		p.PagesDone, p.PagesTotal = c.ledger.end, c.ledger.end
	} else if p.PagesDone > p.PagesTotal {
		p.PagesTotal = 0 // the list is longer than announced
	}
	if c.paused || c.full > 0 {
		p.Phase = events.PhaseWaitingForSpace
	}
	c.mu.Unlock()
	c.journal.TellProgress(c.x.Tenant, c.x.Key, p)
}

// failed is the event that ends the export. Pages that contradict each other
// or what was announced are not used again; after any other failure a retry
// goes on where this crawl stopped.
func (c *crawl) failed(f *source.Failure) *events.ExportFailed {
	spoiled := false
	switch f.Code {
	case events.CodeSourceChanged, events.CodeSourceIncomplete, events.CodePagingStuck, events.CodeStore:
		spoiled = true
	}
	return &events.ExportFailed{
		Code: f.Code, Reason: f.Error(), Phase: events.PhaseCrawling, Run: c.into, RunSpoiled: spoiled,
		Page: f.Page, Status: f.Status, Errcode: f.Errcode, Attempts: f.Attempts,
	}
}

// turn waits for a place to make one request, and counts the start before the
// first one, see count. A crawl that only waits for its turn is not to blame when the
// process ends.
func (c *crawl) turn(ctx context.Context) (source.Place, error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	turn, err := c.turns.take(ctx, c.asker)
	if err != nil {
		return nil, err
	}
	if err := c.count(ctx); err != nil {
		turn.Done()
		return nil, err
	}
	return turn, nil
}

// aloneFor is how long a suspect keeps the others waiting at most, if it gets no further.
// A source may take longer to answer, but most answers that end a process have done so by then.
const aloneFor = 5 * time.Second

// letOthersGo waits, at most until the drain.
func (c *crawl) letOthersGo(ctx context.Context, d time.Duration) error {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	return source.Sleep(ctx, d)
}

// count records the start of the crawl, once, before its work begins. The first
// start of all is not recorded, which spares small exports a write to the disk:
// whoever finds no record although others may have begun takes it for one start.
func (c *crawl) count(ctx context.Context) (err error) {
	c.counting.Lock()
	defer c.counting.Unlock()
	if !c.fresh && c.starts == 0 {
		c.starts, err = c.journal.CountStart(ctx, c.x.Tenant, c.x.Key, c.mark)
	}
	return err
}

// stillMine is asked when a page was there already. If another crawler has begun
// since, this one was stopped for so long that its work was handed out again;
// it leaves the export to the other instead of asking for every page after it.
// A crawl whose start is not recorded records it now, so that of two that took
// each other for the only one, one leaves.
func (c *crawl) stillMine(ctx context.Context) error {
	c.counting.Lock()
	defer c.counting.Unlock()
	latest, err := c.journal.Starts(ctx, c.x.Tenant, c.x.Key, c.mark)
	if err != nil {
		return err
	}
	if latest != c.starts {
		return journal.ErrTakenOver
	}
	if c.starts == 0 {
		c.starts, err = c.journal.CountStart(ctx, c.x.Tenant, c.x.Key, c.mark)
	}
	return err
}

// handBack takes the start back: the crawl did not crash.
func (c *crawl) handBack() {
	c.counting.Lock()
	defer c.counting.Unlock()
	c.uncount()
}

// uncount takes the start back, if it is recorded. It does so also while the
// work is being cut off.
func (c *crawl) uncount() {
	if c.starts == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	switch err := c.journal.UncountStart(ctx, c.x.Tenant, c.x.Key, c.mark, c.starts); {
	case err == nil:
		c.starts = 0
	case !errors.Is(err, journal.ErrTakenOver): // which stillMine will find
		c.log.Warn("start not taken back", "error", err)
	}
}
