package crawler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"
)

// SHEAF_PAGES holds a bounded number of bytes, and its disk may have room for fewer. Four
// rules keep the crawls that share it from stopping each other for good:
//
//  1. A crawl without a page waits while pages take more than startBelow of what they may
//     take, in the stream and on its disk.
//  2. A page that finds no room is dropped and asked for again when there is room, those of
//     older runs first.
//  3. While pages find no room, the youngest run that is being crawled yields: its crawl
//     purges it and begins again later.
//  4. A crawl that is alone and still finds no room fails with LIMIT_BYTES.
const (
	startBelow = 0.7
	// nearlyFull is the part of the stream that is left when every process takes it for
	// full, also one whose own pages are smaller than those that find no room.
	nearlyFull = 1.0 / 32
	// slotAfter is how long a crawl waits to begin before it hands back a slot that
	// others need, and slotFor for how long.
	slotAfter = 2 * time.Second
	slotFor   = 5 * time.Second
)

var (
	errYield  = errors.New("the pages gave way to an older export; the crawl begins again")
	errNoSlot = errors.New("waiting for space; the slot is needed")
)

// verdict is what a crawl with pages does.
type verdict int

const (
	goOn verdict = iota
	yield
	fail
)

// room is one look at the room for pages.
type room struct {
	limit, used int64     // bytes of SHEAF_PAGES; a limit of 0 or less is none
	disk        error     // why the disk has no room; nil while it has
	begin       error     // why no crawl may begin; nil while one may
	full        time.Time // since when pages find no room; zero while they do
	freed       time.Time // when bytes were last freed since full, at first full itself
	alone       time.Time // since when only one export is under way; zero while there are others

	crawled    []string // keys of runs being crawled, youngest first: all, or one more than may yield
	assembling int      // exports that are crawled and not yet assembled
}

// mayBegin returns nil if a crawl without a page may ask for one. disk says whether so many
// bytes more have room there.
func (r *room) mayBegin(disk func(bytes int64) error) error {
	if r.limit > 0 && float64(r.used) > startBelow*float64(r.limit) {
		return fmt.Errorf("%s of the %s of the page stream are used", mebibytes(r.used), mebibytes(r.limit))
	}
	return cmp.Or(r.disk, disk(int64(float64(r.used)*(1-startBelow)/startBelow)))
}

// yielding is how many of the youngest runs are to yield. It is one after a third of wait,
// and one more with each third in which nothing was freed: the youngest may belong to a
// process that is gone.
func (r *room) yielding(now time.Time, wait time.Duration) int {
	if r.full.IsZero() || now.Sub(r.full) < wait/3 {
		return 0
	}
	return max(1, int(now.Sub(r.freed)/(wait/3)))
}

// judge decides for the crawl of a key that has pages. refused says that it has a page
// that finds no room.
func (r *room) judge(key string, refused bool, now time.Time, wait time.Duration) verdict {
	n := slices.Index(r.crawled, key)
	switch {
	case n < 0:
		return goOn
	case n < len(r.crawled)-1: // there is an older one
		if n < r.yielding(now, wait) {
			return yield
		}
	case n > 0 || now.Sub(r.freed) < wait:
	case refused && !r.alone.IsZero() && now.Sub(r.alone) >= wait:
		return fail
	case r.assembling > 0 && r.disk != nil: // a workbook may need the room on the disk
		return yield
	}
	return goOn
}

// since takes over from the look before since when pages find no room.
func (r *room) since(before *room, now time.Time, full bool) {
	r.full, r.freed = before.full, before.freed
	switch {
	case !full:
		r.full, r.freed = time.Time{}, time.Time{}
	case r.full.IsZero():
		r.full, r.freed = now, now
	case r.used < before.used:
		r.freed = now
	}
}

// sinceAlone takes over from the look before since when one export is alone.
func (r *room) sinceAlone(before *room, now time.Time) {
	if len(r.crawled) != 1 || r.assembling > 0 {
		return
	}
	if r.alone = before.alone; r.alone.IsZero() {
		r.alone = now
	}
}

// space is what the crawls of this process know of the room for pages. They share one
// look a second.
type space struct {
	journal *journal.Log
	pages   *pages.Store
	disk    func(bytes int64) error
	wait    time.Duration // Config.SpaceWait
	every   time.Duration // between two looks

	looking chan struct{} // holds the right to look, and what follows
	known   room
	err     error     // of the last look
	at      time.Time // of the last look

	mu      sync.Mutex
	waiting map[*refusedPage]struct{}
	refused bool  // a page was refused since the last look
	claimed int64 // bytes that waiting pages may take since the last look
	free    int64 // bytes of the stream that were free then

	begunAgain string // key of the last export that was alone and began again
}

func newSpace(log *journal.Log, disk func(int64) error, wait time.Duration) *space {
	return &space{
		journal: log, pages: log.Pages(), disk: disk, wait: wait, every: wait / 15,
		looking: make(chan struct{}, 1), waiting: map[*refusedPage]struct{}{},
	}
}

// look returns what is known, which is no older than every.
func (s *space) look(ctx context.Context) (room, error) {
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return room{}, ctx.Err()
	}
	if time.Since(s.at) < s.every {
		return s.known, s.err
	}
	s.err = s.read(ctx)
	if s.at = time.Now(); ctx.Err() != nil {
		s.at = time.Time{} // the end of this caller says nothing
	}
	return s.known, s.err
}

func (s *space) read(ctx context.Context) error {
	state, err := s.pages.Space(ctx)
	if err != nil {
		return err
	}
	before, now := s.known, time.Now()
	r := room{limit: state.Limit, used: state.Used}
	s.mu.Lock()
	largest, refused := int64(0), s.refused
	for page := range s.waiting {
		largest = max(largest, page.size)
	}
	s.refused, s.claimed, s.free = false, 0, 1<<60
	if r.limit > 0 {
		s.free = r.limit - r.used
	}
	free := s.free
	s.mu.Unlock()
	r.disk = s.disk(onDisk(largest))
	r.begin = r.mayBegin(s.disk)
	r.since(&before, now, r.disk != nil || refused || free < max(largest, int64(nearlyFull*float64(r.limit))))
	if yielding := r.yielding(now, s.wait); yielding > 0 {
		err = s.readRuns(ctx, &r, yielding)
		r.sinceAlone(&before, now)
	}
	s.known = r
	return err
}

// readRuns finds out whose runs are in the stream.
func (s *space) readRuns(ctx context.Context, r *room, yielding int) error {
	runs, err := s.pages.Runs(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(runs, func(a, b pages.RunID) int { return int(int64(b.Run) - int64(a.Run)) })
	for _, run := range runs {
		if run.Run == events.RawRun || slices.Contains(r.crawled, run.Key) {
			continue
		}
		x, err := s.journal.Read(ctx, run.Tenant, run.Key)
		if err != nil {
			return err
		}
		switch x.State {
		case events.StateRequested:
			r.crawled = append(r.crawled, run.Key)
		case events.StateCrawled:
			r.assembling++
		}
		if len(r.crawled) > yielding {
			return nil // the last one is older than all that yield
		}
	}
	return nil
}

// await registers a page that waits for room, until done is called.
func (s *space) await(page *refusedPage) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[page], s.refused = struct{}{}, true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, page)
	}
}

// claim reports whether a page may be asked for again. What was claimed since the last look
// counts, so the source is not asked for pages in vain, and so do the waiting pages of older
// runs: room that was made goes to the oldest.
func (s *space) claim(page *refusedPage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := s.claimed + page.size
	for other := range s.waiting {
		if other.run < page.run {
			needed += other.size
		}
	}
	if needed > s.free || s.disk(onDisk(needed)) != nil {
		return false
	}
	s.claimed += page.size
	delete(s.waiting, page) // it is among those claimed now
	return true
}

// mayBeginAgain reports, once, whether a run that is alone on a full disk may be written
// again. A purged run takes room as long as it shares blocks of the stream with others.
func (s *space) mayBeginAgain(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.begunAgain
	s.begunAgain = key
	return key != before
}

// onDisk is how many bytes the disk needs for a page: a large one is written twice.
func onDisk(size int64) int64 { return 2 * size }

// gate is how a crawl stands to the room for pages.
type gate struct {
	paused  atomic.Bool  // it waits for room before its first page
	refused atomic.Int32 // pages that wait for room

	// Of the goroutine that hands out pages.
	begun  bool      // it may ask for pages
	shared bool      // there were other pages when it began
	since  time.Time // since when it waits to begin
}

func (g *gate) waits() bool { return g.paused.Load() || g.refused.Load() > 0 }

// mayGoOn reports whether the crawl may ask for pages. It is called at the begin and
// then once a second, so that small exports look at most once.
func (c *crawl) mayGoOn(ctx context.Context) (bool, error) {
	r, err := c.space.look(ctx)
	if err != nil {
		return false, err
	}
	have, refused := c.have.sum(), c.gate.refused.Load() > 0
	if !c.gate.begun {
		c.gate.begun, c.gate.shared = have.pages > 0 || r.begin == nil, r.used > 0
	}
	c.gate.paused.Store(!c.gate.begun)
	if !c.gate.begun {
		return false, c.pause(&r)
	}
	switch r.judge(c.x.Key, refused, time.Now(), c.space.wait) {
	case yield:
		return false, errYield
	case fail:
		if r.disk != nil && c.gate.shared && c.space.mayBeginAgain(c.x.Key) {
			return false, errYield
		}
		fits := fmt.Sprintf("the page stream holds at most %s, of which %s are used; raise --max-pages-bytes or export less at once",
			mebibytes(r.limit), mebibytes(r.used))
		if r.disk != nil {
			fits = fmt.Sprintf("there is no room for more: %v; make room there, use a larger disk or export less at once", r.disk)
		}
		return false, &source.Failure{Code: events.CodeLimitBytes, Msg: fmt.Sprintf(
			"the pages find no room: %d of %d pages take %s, and %s", have.pages, max(have.announced, have.pages), mebibytes(have.bytes), fits)}
	}
	if refused {
		c.tell(true)
	}
	return true, nil
}

// pause has a crawl that has not begun wait. An error says that others need its slot.
func (c *crawl) pause(r *room) error {
	if c.gate.since.IsZero() {
		c.gate.since = time.Now()
		c.log.Info("waiting for space", "reason", r.begin)
	}
	c.tell(true)
	if time.Since(c.gate.since) > slotAfter && (c.running.Len() >= c.cfg.Exports || c.shares.Taken(c.x.Tenant)) {
		return journal.RetryAfter(errNoSlot, slotFor)
	}
	return nil
}

// refusedPage is a page that found no room.
type refusedPage struct {
	error
	run  uint64
	size int64 // bytes of SHEAF_PAGES that it takes
}

func (r *refusedPage) Unwrap() error { return r.error }

// awaitRoom waits until there may be room for a page. The page is not kept meanwhile: its
// memory may be what an older crawl needs to go on.
func (c *crawl) awaitRoom(ctx context.Context, page *refusedPage) error {
	defer c.space.await(page)()
	c.gate.refused.Add(1)
	defer c.gate.refused.Add(-1)
	c.tell(true)
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	tick := time.NewTicker(c.space.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if _, err := c.space.look(ctx); err != nil {
			return err
		}
		if c.space.claim(page) {
			return nil
		}
	}
}

// retreat purges the run, unless another crawler has taken the export over.
func (c *crawl) retreat(ctx context.Context) error {
	if err := c.attempt.stillMine(ctx); err != nil {
		return err
	}
	if err := c.pages.PurgeRun(ctx, c.x.Tenant, c.x.Key, c.into); err != nil {
		return err
	}
	c.log.Info("pages gave way to an older export", "pages", c.have.sum().pages, "bytes", c.have.sum().bytes)
	return journal.RetryAfter(errYield, c.space.wait/3) // the older ones use the room first
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(max(n, 0))/(1<<20)) }
