package crawler

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
)

// dealer hands out the pages of one crawl, each once: to the workers of the process and, in spans, to other
// processes. What a span did not bring goes to the workers. It is used by one goroutine.
type dealer struct {
	c    *crawl
	goes func(func() error) // runs work beside; an error ends the crawl

	next int   // no page from here on was handed out
	back []int // pages below next that only this process may fetch, ascending

	ticker    *time.Ticker // nil: the list is never dealt out
	measured  time.Time    // since when the rate is measured, zero before page 1
	base      int          // pages then
	perSecond float64      // pages of this process alone, 0 while unknown

	owner    string // the subject of reports, "" while nothing is dealt out
	stop     func()
	over     chan struct{}
	inbox    chan incoming
	before   []int      // pages that were handed out before the limit of all processes held
	returned chan []int // pages that a lost span left
	spans    map[int]*dealtSpan
	made     int
}

// dealtSpan is a span that has not ended.
type dealtSpan struct {
	id      int
	pages   []int        // ascending
	open    map[int]bool // not reported yet
	helper  string       // "" while no crawler has taken it
	workers int
	at      time.Time // of the last report, before it was taken when it was made
}

type incoming struct {
	data   []byte
	answer func([]byte)
}

func newDealer(c *crawl, goes func(func() error)) *dealer {
	d := &dealer{c: c, goes: goes, next: 1, over: make(chan struct{}), returned: make(chan []int),
		spans: map[int]*dealtSpan{}, stop: func() {}}
	if c.cfg.Spread {
		d.ticker = time.NewTicker(c.tempo.beat)
	}
	return d
}

// close ends all spans: their helpers get no answer any more.
func (d *dealer) close() {
	if d.ticker != nil {
		d.ticker.Stop()
	}
	d.stop()
	close(d.over)
}

func (d *dealer) beat() <-chan time.Time {
	if d.ticker == nil {
		return nil
	}
	return d.ticker.C
}

func (d *dealer) lead() int {
	if d.owner != "" {
		return leadFactor * d.c.cfg.Lead
	}
	return d.c.cfg.Lead
}

// lowest returns the lowest page that this process may request now, 0 without one. When there is none it takes back
// a span that no crawler has taken.
func (d *dealer) lowest() int {
	for {
		if d.back = d.c.have.lacks(d.back); len(d.back) > 0 {
			return d.back[0]
		}
		if n := d.c.have.next(d.next, d.c.conn(), d.lead()); n > 0 {
			return n
		}
		untaken := d.untaken()
		if len(untaken) == 0 {
			return 0
		}
		d.withdraw(untaken[0])
	}
}

// hand notes that a worker has a page.
func (d *dealer) hand(n int) {
	if len(d.back) > 0 && d.back[0] == n {
		d.back = d.back[1:]
	} else {
		d.next = n + 1
	}
	if d.ticker != nil {
		d.c.line.join(n)
	}
}

func (d *dealer) takeBack(numbers []int) {
	d.back = append(d.back, numbers...)
	slices.Sort(d.back)
	d.back = slices.Compact(d.back)
}

// deal looks after the spans. open reports whether there is space for pages.
func (d *dealer) deal(ctx context.Context, open bool) {
	if d.owner == "" && !d.begin() {
		return
	}
	for _, sp := range d.spans {
		switch quiet := time.Since(sp.at); {
		case sp.helper == "" && quiet > journal.SpanAge:
			d.withdraw(sp)
		case sp.helper != "" && quiet > d.c.tempo.silence:
			d.c.log.Info("a span is lost; its missing pages are fetched here", "pages", len(sp.open))
			d.recover(ctx, sp)
		}
	}
	d.offer(open)
}

// begin measures the rate of this process, and begins to deal out if the list is worth it.
func (d *dealer) begin() bool {
	have, now := d.c.have.sum(), time.Now()
	if have.read == 0 || have.chained {
		return false
	}
	if d.measured.IsZero() {
		d.measured, d.base = now, have.pages
	}
	elapsed := now.Sub(d.measured)
	if elapsed < d.c.tempo.after || have.pages == d.base {
		return false
	}
	d.perSecond = float64(have.pages-d.base) / elapsed.Seconds()
	if have.announced > 0 {
		if float64(have.announced-have.pages) <= d.perSecond*d.c.tempo.worth.Seconds() {
			return false
		}
	} else if elapsed < d.c.tempo.worth {
		return false
	}
	d.inbox = make(chan incoming, 1024)
	var err error
	d.owner, d.stop, err = d.c.journal.HearSpans(d.c.x.Tenant, d.c.x.Key, d.c.into, func(data []byte, answer func([]byte)) {
		select {
		case d.inbox <- incoming{data, answer}:
		case <-d.over:
		}
	})
	if err != nil {
		d.owner, d.stop = "", func() {}
		return false
	}
	d.c.dealt.Store(true)
	d.before, _ = d.c.have.missing(1, d.next-1, d.c.conn(), d.lead())
	d.before = slices.DeleteFunc(d.before, func(n int) bool { return n >= d.next })
	d.c.log.Info("the export is dealt out to all crawlers", "pages", have.announced, "pages_per_second", int(d.perSecond))
	return true
}

// offer puts spans into the queue while crawlers take them.
func (d *dealer) offer(open bool) {
	if d.before = d.c.have.lacks(d.before); len(d.before) > 0 {
		return
	}
	for open && d.c.gate.refused.Load() == 0 && len(d.untaken()) < spansAhead && d.workers() < 2*d.c.conn() {
		numbers, ahead := d.c.have.missing(d.next, maxSpan, d.c.conn(), d.lead())
		numbers = numbers[:min(len(numbers), spanSize(ahead, d.perSecond, d.c.tempo))]
		if ahead < minAhead || len(numbers) == 0 {
			return
		}
		sp := &dealtSpan{id: d.made, pages: numbers, open: map[int]bool{}, at: time.Now()}
		for _, n := range numbers {
			sp.open[n] = true
		}
		d.made++
		d.next = numbers[len(numbers)-1] + 1
		d.spans[sp.id] = sp
		x := &d.c.x
		if err := d.c.journal.OfferSpan(x.Tenant, x.Key, d.c.into, numbers[0], encoded(span{
			Tenant: x.Tenant, Key: x.Key, Requested: x.RequestedSeq, Run: d.c.into, Sheet: d.c.sheet,
			UsedPages: d.c.used.pages, ID: sp.id, Owner: d.owner, Pages: numbers,
		})); err != nil {
			d.withdraw(sp)
			return
		}
	}
}

// untaken returns the spans that no crawler has taken, in the order of their pages.
func (d *dealer) untaken() (list []*dealtSpan) {
	for _, sp := range d.spans {
		if sp.helper == "" {
			list = append(list, sp)
		}
	}
	slices.SortFunc(list, func(a, b *dealtSpan) int { return a.pages[0] - b.pages[0] })
	return list
}

// workers returns how many requests the helpers of all spans may send at once.
func (d *dealer) workers() (n int) {
	for _, sp := range d.spans {
		n += sp.workers
	}
	return n
}

// withdraw takes back a span that no crawler has taken. A crawler that asks for it later is refused.
func (d *dealer) withdraw(sp *dealtSpan) {
	delete(d.spans, sp.id)
	d.takeBack(sp.pages)
}

// hear takes one report.
func (d *dealer) hear(ctx context.Context, m incoming, open bool) error {
	var r report
	if json.Unmarshal(m.data, &r) != nil {
		return nil
	}
	sp := d.spans[r.Span]
	if sp != nil && sp.helper != r.Helper && (sp.helper != "" || r.Ask != askTake) {
		sp = nil // another process has it
	}
	if sp != nil {
		sp.at = time.Now()
	}
	switch {
	case r.Ask == askTake && sp != nil && sp.helper == "":
		sp.helper, sp.workers = r.Helper, max(r.Workers, 1)
		m.answer([]byte(yes))
		d.offer(open)
	case r.Ask == askStill && sp != nil:
		m.answer([]byte(yes))
	case r.Ask != "":
		m.answer([]byte(no))
	}
	d.c.crowd.Store(int32(d.helpers()))
	d.c.attempt.retries.Add(max(r.Retries, 0))
	switch {
	case r.Page != nil && r.Page.Page > 1: // also a late one: the page is in the stream
		if sp != nil {
			delete(sp.open, r.Page.Page)
		}
		if r.SameNames {
			r.Page.Names = d.c.first
		}
		d.c.attempt.further()
		if f := d.c.have.record(*r.Page); f != nil {
			return f
		}
		d.c.tell(false)
	case r.Failure != nil && sp != nil && sp.open[r.Failure.Page]:
		delete(sp.open, r.Failure.Page)
		if f := d.c.have.miss(r.Failure.Page, &missed{r.Failure, r.Earlier, r.Data}); f != nil {
			return f
		}
	}
	if r.Done && sp != nil {
		d.recover(ctx, sp)
		d.offer(open)
	}
	return nil
}

// helpers returns how many processes work on the crawl.
func (d *dealer) helpers() int {
	names := map[string]bool{d.c.id: true}
	for _, sp := range d.spans {
		if sp.helper != "" {
			names[sp.helper] = true
		}
	}
	return len(names)
}

// recover ends a span. Of the pages that were not reported it reads those that are stored, and hands out the others
// to this process.
func (d *dealer) recover(ctx context.Context, sp *dealtSpan) {
	delete(d.spans, sp.id)
	var open []int
	for _, n := range sp.pages {
		if sp.open[n] {
			open = append(open, n)
		}
	}
	if open = d.c.have.lacks(open); len(open) == 0 {
		return
	}
	d.goes(func() error {
		back, err := d.c.readStored(ctx, open)
		if err != nil {
			if d.c.leaves(err) {
				return nil
			}
			return err
		}
		select {
		case d.returned <- back:
		case <-d.over:
		case <-ctx.Done():
		}
		return nil
	})
}

// readStored records those pages that are stored, and returns the others.
func (c *crawl) readStored(ctx context.Context, numbers []int) (missing []int, err error) {
	have, err := c.pages.List(ctx, c.x.Tenant, c.x.Key, c.into, c.sheet)
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		var p pages.Page
		if _, found := slices.BinarySearch(have, n); found {
			p, err = c.stored(ctx, n)
		}
		switch {
		case p.Number == 0 && err == nil, errors.Is(err, events.ErrPageMissing):
			missing, err = append(missing, n), nil
		case err != nil:
			return nil, err
		default:
			err = c.account(p, c.namesOf(p))
			p.Release()
			if err != nil {
				return nil, err
			}
		}
	}
	return missing, nil
}
