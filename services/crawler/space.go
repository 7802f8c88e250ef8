package crawler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"
)

// SHEAF_PAGES is bounded, and its disk may have less space than the bound. Four rules keep the crawls that
// share it from blocking each other permanently:
//
//  1. A crawl without a page waits while pages take more than startBelow of their limit, in the stream or on
//     its disk.
//  2. A page that finds no space is dropped and requested again when there is space, those of older runs
//     first.
//  3. While pages find no space, the newest run being crawled yields: its crawl purges it and restarts later.
//  4. A crawl that is alone and still finds no space fails with LIMIT_BYTES.
const (
	startBelow = 0.7
	// nearlyFull is the free part of the stream at which every process treats it as full, also one whose own
	// pages are small enough to fit.
	nearlyFull = 1.0 / 32
	// slotAfter is how long a crawl waits to start before it releases a slot that others need. slotFor is how
	// long it stays away.
	slotAfter = 2 * time.Second
	slotFor   = 5 * time.Second
)

var (
	errYield  = errors.New("the pages were dropped for an older export; the crawl starts again")
	errNoSlot = errors.New("waiting for space; the slot is needed")
)

// verdict is the decision about a crawl with pages.
type verdict int

const (
	goOn verdict = iota
	yield
	fail
)

// room is one measurement of the space for pages.
type room struct {
	limit, used int64     // bytes of SHEAF_PAGES; a limit of 0 or less is none
	disk        error     // why the disk has no space; nil while it has
	begin       error     // why no crawl may begin; nil while one may
	full        time.Time // when pages first found no space; zero while they find some
	freed       time.Time // when bytes were last freed since full, initially full itself
	alone       time.Time // since when only one export is under way; zero with several
	waiting     bool      // a crawl waited to start within the last seconds, or several wait with pages

	crawled    []string // keys of runs being crawled, newest first: all, or one more than may yield
	assembling int      // exports that are crawled and not yet assembled
}

// mayBegin returns nil if a crawl without a page may request one. disk reports whether so many more bytes fit
// on the disk.
func (r *room) mayBegin(disk func(bytes int64) error) error {
	if r.limit > 0 && float64(r.used) > startBelow*float64(r.limit) {
		return fmt.Errorf("%s of the %s of the page stream are used", mebibytes(r.used), mebibytes(r.limit))
	}
	return cmp.Or(r.disk, disk(int64(float64(r.used)*(1-startBelow)/startBelow)))
}

// yielding returns how many of the newest runs must yield. It is one after a third of wait, and one more with
// each third in which nothing was freed, because the newest may belong to a dead process.
func (r *room) yielding(now time.Time, wait time.Duration) int {
	if r.full.IsZero() || now.Sub(r.full) < wait/3 {
		return 0
	}
	return max(1, int(now.Sub(r.freed)/(wait/3)))
}

// judge decides about the crawl of a key that has pages. refused means that one of its pages finds no space.
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
		if r.waiting && r.disk != nil { // the crawls that wait to start may fit on the disk without it
			return yield
		}
		return fail
	case r.assembling > 0 && r.disk != nil: // a workbook may need the room on the disk
		return yield
	}
	return goOn
}

// since continues the start time of the previous measurement while pages find no space.
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

// sinceAlone continues the start time of the previous measurement while only one export is under way.
func (r *room) sinceAlone(before *room, now time.Time) {
	if len(r.crawled) != 1 || r.assembling > 0 {
		return
	}
	if r.alone = before.alone; r.alone.IsZero() {
		r.alone = now
	}
}

// space is the view of this process on the space for pages. Its crawls share one measurement per second.
type space struct {
	journal *journal.Log
	pages   *pages.Store
	disk    func(bytes int64) error
	wait    time.Duration // Config.SpaceWait
	every   time.Duration // between two measurements

	looking chan struct{} // the right to measure; guards the following fields
	known   room
	err     error     // of the last measurement
	at      time.Time // of the last measurement

	mu      sync.Mutex
	waiting map[*refusedPage]struct{}
	refused bool  // a page was refused since the last measurement
	claimed int64 // bytes that waiting pages may take since the last measurement
	free    int64 // bytes of the stream that were free then

	waitedAt   time.Time // when a crawl last waited to start
	begunAgain string    // key of the last export that was alone and restarted
}

func newSpace(log *journal.Log, disk func(int64) error, wait time.Duration) *space {
	return &space{
		journal: log, pages: log.Pages(), disk: disk, wait: wait, every: wait / 15,
		looking: make(chan struct{}, 1), waiting: map[*refusedPage]struct{}{},
	}
}

// look returns a measurement that is no older than every.
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
		s.at = time.Time{} // the end of this caller's context says nothing about the space
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
	largest, refused, runs := int64(0), s.refused, map[uint64]bool{}
	for page := range s.waiting {
		largest = max(largest, page.size)
		runs[page.run] = true
	}
	s.refused, s.claimed, s.free = false, 0, 1<<60
	if r.limit > 0 {
		s.free = r.limit - r.used
	}
	free := s.free
	// A crawl whose first page was refused has no page in the stream, so readRuns does not find it.
	r.waiting = len(runs) > 1 || now.Sub(s.waitedAt) < 2*slotFor
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

// readRuns finds the runs in the stream.
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

// await registers a page that waits for space, until done is called.
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

// claim reports whether a page may be requested again. It subtracts the claims since the last measurement, so
// that no page is requested in vain, and the waiting pages of older runs: freed space goes to the oldest.
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

// mayBeginAgain reports, once, whether a run that is alone on a full disk may restart. A purged run keeps its
// space while it shares blocks of the stream with others.
func (s *space) mayBeginAgain(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.begunAgain
	s.begunAgain = key
	return key != before
}

// noteWaiting records that a crawl waits to start.
func (s *space) noteWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitedAt = time.Now()
}

// onDisk returns how many bytes a page needs on disk: a large one is written twice.
func onDisk(size int64) int64 { return 2 * size }

// gate is the state of a crawl with regard to the space for pages.
type gate struct {
	paused  atomic.Bool  // it waits for space before its first page
	refused atomic.Int32 // pages that wait for space

	// Used only by the goroutine that hands out pages.
	begun  bool      // it may request pages
	shared bool      // there were other pages when it started
	since  time.Time // since when it waits to start
}

func (g *gate) waits() bool { return g.paused.Load() || g.refused.Load() > 0 }

// mayGoOn reports whether the crawl may request pages. It is called at the start and then once a second, so
// that small exports measure at most once.
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

// pause makes a crawl wait that has not started. An error means that others need its slot.
func (c *crawl) pause(r *room) error {
	if c.gate.since.IsZero() {
		c.gate.since = time.Now()
		c.log.Info("waiting for space", "reason", r.begin)
	}
	c.space.noteWaiting()
	c.tell(true)
	if time.Since(c.gate.since) > slotAfter && (c.running.Len() >= c.cfg.Exports || c.shares.Taken(c.x.Tenant)) {
		return journal.RetryAfter(errNoSlot, slotFor)
	}
	return nil
}

// refusedPage is a page that found no space.
type refusedPage struct {
	error
	run  uint64
	size int64 // bytes of SHEAF_PAGES that it takes
}

func (r *refusedPage) Unwrap() error { return r.error }

// awaitRoom waits until there may be space for a page. It drops the page meanwhile, because an older crawl
// may need its memory to continue.
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

// retreat purges the run with all its sheets, unless another crawler has the export now.
func (c *crawl) retreat(ctx context.Context) error {
	if err := c.attempt.stillMine(ctx); err != nil {
		return err
	}
	if len(c.x.Request.Sheets) > 0 {
		if err := c.pages.PurgeRuns(ctx, c.x.Tenant, c.x.Key, math.MaxUint64); err != nil {
			return err
		}
		c.log.Info("pages dropped for an older export", "sheets", len(c.x.Request.Sheets))
	} else {
		if err := c.pages.PurgeRun(ctx, c.x.Tenant, c.x.Key, c.into, 0); err != nil {
			return err
		}
		c.log.Info("pages dropped for an older export", "pages", c.have.sum().pages, "bytes", c.have.sum().bytes)
	}
	return journal.RetryAfter(errYield, c.space.wait/3) // older runs use the space first
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(max(n, 0))/(1<<20)) }
