package crawler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
)

const (
	// spaceEvery is how often a crawl that needs much room says how much, and
	// looks whether it may go on.
	spaceEvery = time.Second
	// diskEvery is how often a page that waits for the disk looks at it.
	diskEvery = 100 * time.Millisecond
	// starvedAfter is how long the oldest crawl finds the stream full before the
	// youngest gives way: what completes in that time makes room without loss.
	starvedAfter = 2 * time.Second
	// reclaimEvery is the pause between two searches for pages that nobody needs,
	// while somebody waits for room, and reclaimAtOnce the shorter one when the
	// waiting begins: what completed before was not listened for.
	reclaimEvery  = 15 * time.Second
	reclaimAtOnce = 2 * time.Second
	// checkedFor is how long a reservation is believed after the log was asked
	// whether its export is still to be crawled.
	checkedFor = 3 * time.Second
	// slotAfter is how long a crawl waits in a process that has no slot left
	// before it hands its own back, and slotFor for how long.
	slotAfter = 2 * time.Second
	slotFor   = 5 * time.Second
	// lostFor is how long a crawl keeps away from an export that another crawler
	// has taken over.
	lostFor = 5 * time.Second
	// paceWindow is over what time the pace of a crawl is taken, and paceAhead for how
	// long one that would take longer than paceLong reserves space by it: a source that
	// answers a page now and then holds no room for a million of them. One that takes
	// less keeps all its room, for what others stored in it meanwhile might have to go.
	paceWindow = time.Minute
	paceAhead  = 10 * time.Minute
	paceLong   = 2 * time.Hour
	// endedLooks is how often an export that was heard to have completed is
	// looked at before that is believed to be a mistake.
	endedLooks = 5
)

var (
	errGiveWay = errors.New("the pages give way to an older export")
	errGaveWay = errors.New("the pages gave way to an older export; the crawl begins again")
	errNoSlot  = errors.New("waiting for space; the slot is needed")
	errAgain   = errors.New("another crawler reserved space for the export; the crawl begins again")
)

// Disk says what there is room for on the disk of the page stream.
type Disk interface {
	Room() DiskRoom
	// Hold sets bytes aside that are about to be written, until release. It
	// returns an error, which names the figures, when there is no room for them
	// beside what is held already.
	Hold(bytes int64) (release func(), err error)
}

// DiskRoom is what there is room for on a disk.
type DiskRoom struct {
	Free int64 // bytes that pages may take now; less than nothing when too much is taken
	Most int64 // bytes that they could take if nothing else were there
	// Drafts is true while workbooks found no room that pages could make.
	Drafts bool
}

// endless is a disk that is not watched.
type endless struct{}

func (endless) Room() DiskRoom { return DiskRoom{Free: 1 << 60, Most: 1 << 60} }

func (endless) Hold(int64) (func(), error) { return func() {}, nil }

// verdict is what a crawl may do.
type verdict int

const (
	waitForSpace verdict = iota
	goOn
	giveWay
)

// room is what there is and who wants it. Bytes that are in the stream count
// where they are, in used: those of exports that are crawled, that ended or
// that came with a request need no reservation to be seen.
type room struct {
	limit  int64 // bytes of the stream; 0 or less: no limit
	used   int64
	lacks  int64                // bytes of the stream's own room that the disk has none for
	most   int64                // bytes that the disk could take were nothing else there
	drafts bool                 // workbooks find no room on the disk
	claims []events.Reservation // of exports that are still to be crawled
}

// capacity is what the stream can take as the disk is now.
func (r room) capacity() int64 { return r.limit - r.lacks }

// free is what may still be stored; less than nothing when too much is.
func (r room) free() int64 { return r.capacity() - r.used }

// usable is the capacity less a margin for what is on its way.
func (r room) usable() int64 { return r.capacity() - max(r.capacity(), 0)/32 }

// small is how many bytes an export may write unasked. It is the sample that
// the first estimate is made from, and what spares small exports any question.
func (r room) small() int64 { return max(r.limit/1024, 64<<10) }

// judge decides for the crawl of one reservation, which may be among the claims
// in an older form. By its own RequestedSeq a crawl is older or younger than
// another. Of any set of claims:
//
//   - the oldest goes on;
//   - what goes on fits into what is free, all together, unless it is the
//     oldest alone;
//   - nobody overtakes: if a claim waits, those that are younger and want as
//     much wait too;
//   - if an older one is starved and still has no room, one gives way: the
//     youngest that has pages;
//   - if workbooks find no room, nobody goes on, not even the oldest, and one
//     gives way: what is crawled goes before what is to be crawled.
func (r room) judge(own events.Reservation) verdict {
	oldest, starved, youngest := true, r.drafts, own.Stored > 0
	var older int64
	for _, c := range r.claims {
		switch {
		case c.Requested == own.Requested:
		case c.Requested < own.Requested:
			oldest, older = false, older+c.Remaining
			starved = starved || c.Starved > r.free()
		case c.Stored > 0:
			youngest = false
		}
	}
	switch {
	case r.limit <= 0, oldest && !r.drafts:
		return goOn
	case starved && youngest:
		return giveWay
	case !starved && older+own.Remaining <= r.usable()-r.used:
		return goOn
	}
	return waitForSpace
}

// wanted is how many bytes are still to come.
func (r room) wanted() (sum int64) {
	for _, c := range r.claims {
		sum += c.Remaining
	}
	return sum
}

// space is what the crawls of this process know of the page stream. They share
// one look at it a second, however many they are.
type space struct {
	streams *events.Streams
	disk    Disk
	limit   atomic.Int64 // of room, by the last look; 0 before the first
	// Of reservations; settable by tests.
	paceWindow, paceAhead, paceLong time.Duration

	looking chan struct{} // holds the right to look, and what follows
	known   room
	err     error                // of the last look
	at      time.Time            // of known or err
	checked map[uint64]time.Time // reservations whose export was looked at, by Requested
	swept   time.Time            // when pages that nobody needs were last searched for

	mu        sync.Mutex
	waiting   int               // crawls that wait for room
	begins    bool              // the waiting, since the last search
	completed map[[2]string]int // exports that were heard to have completed, and how often they were looked at
	news      chan struct{}     // closed when something changed
}

func newSpace(streams *events.Streams, disk Disk) *space {
	return &space{
		streams: streams, disk: disk, paceWindow: paceWindow, paceAhead: paceAhead, paceLong: paceLong, looking: make(chan struct{}, 1), checked: map[uint64]time.Time{},
		completed: map[[2]string]int{}, news: make(chan struct{}),
	}
}

// changed is closed at the next change that this process hears of.
func (s *space) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

func (s *space) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.news)
	s.news = make(chan struct{})
}

// heard is told of every export that ends, and keeps it in mind while somebody
// waits for its room.
func (s *space) heard(tenant string, t events.Type, key string) {
	s.mu.Lock()
	waiting := s.waiting > 0
	if waiting && t == events.TypeCompleted {
		s.completed[[2]string{tenant, key}] = 0
	}
	s.mu.Unlock()
	if waiting {
		s.tell()
	}
}

// wait counts a crawl that waits for room, until done is called.
func (s *space) wait() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begins = s.begins || s.waiting == 0
	s.waiting++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
	})
}

// look returns what is known and no older than maxAge. While somebody waits it
// also removes what nobody needs.
func (s *space) look(ctx context.Context, maxAge time.Duration) (room, error) {
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return room{}, ctx.Err()
	}
	s.mu.Lock()
	waiting, completed := s.waiting > 0, len(s.completed) > 0
	s.mu.Unlock()
	if time.Since(s.at) < maxAge && !completed {
		return s.known, s.err
	}
	s.err = s.read(ctx)
	if s.err == nil && waiting && s.known.limit > 0 {
		removed, err := s.reclaim(ctx)
		if err != nil {
			// Others have the same task; the crawls go on by what is known.
			slog.Warn("making room in the page stream", "error", err)
		}
		if removed {
			s.err = s.read(ctx)
			s.tell()
		}
	}
	if s.at = time.Now(); ctx.Err() != nil {
		s.at = time.Time{} // this caller's end says nothing
	}
	return s.known, s.err
}

// read reads the state of the stream and the reservations. One whose export is
// no longer to be crawled is removed, so nobody waits for the dead.
func (s *space) read(ctx context.Context) error {
	state, err := s.streams.PageSpace(ctx)
	if err != nil {
		return err
	}
	disk := s.disk.Room()
	s.known = room{
		limit: state.Limit, used: state.Used, lacks: max(state.Limit-state.Used-disk.Free, 0),
		most: disk.Most, drafts: disk.Drafts,
	}
	s.limit.Store(state.Limit)
	if state.Limit <= 0 {
		return nil
	}
	all, err := s.streams.Reservations(ctx)
	if err != nil {
		return err
	}
	checked := make(map[uint64]time.Time, len(all))
	for _, r := range all {
		at, ok := s.checked[r.Requested]
		if !ok || time.Since(at) > checkedFor {
			x, err := s.streams.Read(ctx, r.Tenant, r.Key)
			if err != nil {
				return err
			}
			if stillOpen(&x, r.Requested) != nil {
				if err := s.streams.Release(ctx, r); err != nil {
					return err
				}
				continue
			}
			at = time.Now()
		}
		checked[r.Requested] = at
		s.known.claims = append(s.known.claims, r)
	}
	s.checked = checked
	return nil
}

// reclaim removes the pages of completed exports, those of superseded runs and,
// as far as room is still wanted, those that stopped exports keep for a retry,
// oldest first. Not the rows that came with a request: whoever repeats it counts
// on them.
func (s *space) reclaim(ctx context.Context) (removed bool, err error) {
	mark, err := s.streams.PurgeMark(ctx)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	keys := make([][2]string, 0, len(s.completed))
	for k := range s.completed {
		keys = append(keys, k)
	}
	s.mu.Unlock()
	for _, k := range keys {
		x, err := s.streams.Read(ctx, k[0], k[1])
		if err != nil {
			return removed, err
		}
		gone := x.State == events.StateCompleted
		if gone {
			if err := s.streams.PurgeEndedPages(ctx, x, mark); err != nil && !errors.Is(err, events.ErrNotAllowed) {
				return removed, err
			}
			removed = true
		}
		// A message is heard before it is written, and may never be.
		s.mu.Lock()
		if s.completed[k]++; gone || s.completed[k] >= endedLooks {
			delete(s.completed, k)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	due := time.Since(s.swept) > reclaimEvery || s.begins && time.Since(s.swept) > reclaimAtOnce
	s.begins = s.begins && !due
	s.mu.Unlock()
	if !due {
		return removed, nil
	}
	s.swept = time.Now()
	more, err := s.sweep(ctx, mark)
	return removed || more, err
}

func (s *space) sweep(ctx context.Context, mark events.PurgeMark) (removed bool, err error) {
	runs, err := s.streams.Runs(ctx)
	if err != nil {
		return false, err
	}
	byKey := map[[2]string][]uint64{}
	for _, r := range runs {
		k := [2]string{r.Tenant, r.Key}
		byKey[k] = append(byKey[k], r.Run)
	}
	var stopped []events.Export
	for k, runs := range byKey {
		x, err := s.streams.Read(ctx, k[0], k[1])
		if err != nil {
			return removed, err
		}
		switch x.State {
		case events.StateCompleted, events.StateExpired:
			err = s.streams.PurgeEndedPages(ctx, x, mark)
			removed = removed || err == nil
		case events.StateFailed, events.StateCancelled:
			if x.Request.SourceType == events.SourceHTTP {
				stopped = append(stopped, x)
			}
		case events.StateRequested, events.StateCrawled:
			for _, run := range runs {
				if superseded(&x, run) {
					err = errors.Join(err, s.streams.PurgeRun(ctx, x.Tenant, x.Key, run))
					removed = true
				}
			}
		}
		if err != nil && !errors.Is(err, events.ErrNotAllowed) {
			return removed, err
		}
	}
	slices.SortFunc(stopped, func(a, b events.Export) int { return a.FinishedAt.Compare(b.FinishedAt) })
	for _, x := range stopped {
		state, err := s.streams.PageSpace(ctx)
		if err != nil {
			return removed, err
		}
		if s.known.wanted() <= s.known.usable()-state.Used {
			break
		}
		err = s.streams.PurgeEndedPages(ctx, x, mark)
		if err != nil && !errors.Is(err, events.ErrNotAllowed) {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// superseded reports whether a run of an export that is under way is one that
// neither this round nor a retry of it will read.
func superseded(x *events.Export, run uint64) bool {
	if run > x.RequestedSeq {
		return false // of a later round, which whoever told of x did not know yet
	}
	if x.State == events.StateCrawled {
		return run != x.Run
	}
	return run != x.RequestedSeq && (x.ContinuesRun == 0 || run < x.ContinuesRun) && run != events.RawRun
}

// need is what a crawl knows of the room that its run takes.
type need struct {
	stored  int64 // bytes that are there
	more    int64 // bytes that are still to come, by the average of the pages so far
	pages   int
	total   int
	refused int64     // bytes of the largest page that found no room
	full    time.Time // since when pages find no room; zero while they do
}

// of the whole run.
func (n need) whole() int64 { return n.stored + n.more }

// tooLarge reports whether the run cannot fit into the stream, were it alone.
// While few pages are known the average may mislead, so an estimate must be
// over the limit by up to a half before it is believed; unless the run fills
// the stream already.
func (n need) tooLarge(limit int64) bool {
	if !n.full.IsZero() && n.stored > limit/8*7 {
		return n.whole() > limit
	}
	doubt := float64(max(n.total-n.pages, 0)) / float64(max(n.total, 1)) / 2
	return float64(n.whole()) > float64(limit)*(1+doubt)
}

// pace is how fast a crawl stores pages while it may.
type pace struct {
	since  time.Time // of the window; zero while the crawl waits for space
	stored int64     // then
	known  bool      // there was a whole window since the crawl last waited
	perSec float64   // bytes, in the newest whole one
}

// look takes what is stored now.
func (p *pace) look(now time.Time, stored int64, window time.Duration) {
	switch over := now.Sub(p.since); {
	case p.since.IsZero():
		*p = pace{since: now, stored: stored}
	case over >= window:
		*p = pace{since: now, stored: stored, known: true, perSec: float64(stored-p.stored) / over.Seconds()}
	}
}

// atMost bounds what a crawl that takes long reserves by what it will store within a time.
func (p *pace) atMost(more, least int64, within, long time.Duration) int64 {
	if !p.known || float64(more) <= p.perSec*long.Seconds() {
		return more
	}
	return min(more, max(least, int64(p.perSec*within.Seconds())))
}

// mostMore caps an estimate, so that sums of many do not overflow.
const mostMore = 1 << 50

func (c *crawl) need() need {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := need{stored: c.stored, pages: len(c.ledger.taken), total: max(c.ledger.announced, c.ledger.bound(max(c.x.Request.HTTP.Conn, 1))), refused: c.refused, full: c.fullSince}
	if n.pages > 0 {
		n.more = int64(min(float64(n.stored)/float64(n.pages)*float64(max(n.total-n.pages, 0)), mostMore))
	}
	n.more = max(n.more, c.refused)
	return n
}

// mayGoOn reports whether the crawl may ask for more pages. It must be called
// again at least every spaceEvery. Small exports never get to the stream by it.
func (c *crawl) mayGoOn(ctx context.Context) (bool, error) {
	if time.Now().Before(c.nextLook) && !c.hasNews() {
		return c.verdict == goOn, nil
	}
	limit := c.space.limit.Load()
	if limit == 0 {
		known, err := c.space.look(ctx, spaceEvery)
		if err != nil {
			return false, err
		}
		limit = known.limit
	}
	n, small := c.need(), room{limit: limit}.small()
	if limit > 0 && !c.reserved && n.pages == 0 && n.full.IsZero() {
		// Who has no page yet takes no room by waiting: for him alone nobody
		// need give way.
		if disk := c.cfg.Disk.Room(); disk.Free <= 0 || disk.Drafts {
			c.news, c.nextLook, c.verdict = c.space.changed(), time.Now().Add(spaceEvery), waitForSpace
			if _, err := c.space.look(ctx, spaceEvery); err != nil { // who waits makes room
				return false, err
			}
			return false, c.pause("disk", mebibytes(disk.Free))
		}
		c.waitEnds()
	}
	if limit <= 0 || !c.reserved && n.full.IsZero() && (n.stored < small || n.more < small) {
		return true, nil
	}

	if c.reserved && c.verdict == goOn && n.full.IsZero() {
		c.pace.look(time.Now(), n.stored, c.space.paceWindow)
	} else {
		c.pace = pace{} // who waits wants as much as before
	}
	maxAge := spaceEvery / 2
	if !c.reserved {
		maxAge = 0 // whoever reserves after another sees it
	}
	c.news, c.nextLook = c.space.changed(), time.Now().Add(spaceEvery)
	if err := c.reserve(ctx, n, c.reservation.Starved); err != nil {
		return false, err
	}
	known, err := c.space.look(ctx, maxAge)
	if err != nil {
		return false, err
	}
	if maxAge == 0 {
		c.space.tell() // the younger ones look again
	}
	if known.limit > 0 && known.most < known.limit && n.tooLarge(known.most) {
		return false, &Failure{Code: events.CodeLimitBytes, Msg: fmt.Sprintf(
			"the pages need about %s (%d of %d pages take %s), the disk of the page stream has room for at most %s; use a larger disk or export less at once",
			mebibytes(n.whole()), n.pages, max(n.total, 1), mebibytes(n.stored), mebibytes(known.most))}
	}
	if known.limit > 0 && n.tooLarge(known.limit) {
		return false, &Failure{Code: events.CodeLimitBytes, Msg: fmt.Sprintf(
			"the pages need about %s (%d of %d pages take %s), the page stream holds at most %s; raise --max-pages-bytes or export less at once",
			mebibytes(n.whole()), n.pages, max(n.total, 1), mebibytes(n.stored), mebibytes(known.limit))}
	}
	c.verdict = known.judge(c.reservation)
	switch c.verdict {
	case giveWay:
		return false, errGiveWay
	case goOn:
		c.waitEnds()
		return true, c.starve(ctx, n, known)
	}
	if err := c.reserve(ctx, n, 0); err != nil { // no longer the oldest
		return false, err
	}
	c.mu.Lock()
	if !c.fullSince.IsZero() {
		c.fullSince = time.Now() // the room is for others now
	}
	c.mu.Unlock()
	return false, c.pause("needs", mebibytes(n.more), "free", mebibytes(known.usable()-known.used))
}

// pause has the crawl wait, and tells why once. An error says that others need
// its slot.
func (c *crawl) pause(why ...any) error {
	if c.waitDone == nil {
		c.waitDone, c.waitSince = c.space.wait(), time.Now()
		c.mu.Lock()
		c.paused = true
		c.mu.Unlock()
		c.log.Info("waiting for space", why...)
	}
	c.tell(true)
	if time.Since(c.waitSince) > slotAfter && c.running.Len() >= c.cfg.Exports {
		return events.RetryAfter(errNoSlot, slotFor)
	}
	return nil
}

// awaitDisk waits until a page may be stored that the disk must have so many
// bytes for. The page is kept meanwhile, so that the source need not be asked
// twice, unless others need the memory: then it counts as one that the stream
// had no room for.
func (c *crawl) awaitDisk(ctx context.Context, bytes int64) (release func(), err error) {
	if release, err = c.cfg.Disk.Hold(bytes); err == nil {
		return release, nil
	}
	pieceOf(ctx).rest()
	defer c.findsItFull(bytes)()
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		c.mu.Lock()
		paused := c.paused
		c.noteFull(bytes) // another page may have found room meanwhile
		c.mu.Unlock()
		if !paused {
			if release, err = c.cfg.Disk.Hold(bytes); err == nil {
				return release, nil
			}
		}
		if time.Since(begun) > starvedAfter && c.memory.wanted() {
			return nil, &refusedPage{events.ErrNoSpace, bytes}
		}
	}
}

// findsItFull says that a page finds no room, until done is called.
func (c *crawl) findsItFull(size int64) (done func()) {
	waits := c.space.wait()
	c.mu.Lock()
	c.noteFull(size)
	c.full++
	c.mu.Unlock()
	c.tell(true)
	c.stir()
	return func() {
		c.mu.Lock()
		c.full--
		c.mu.Unlock()
		waits()
	}
}

// noteFull notes that there is no room for a page. The caller holds mu.
func (c *crawl) noteFull(size int64) {
	if c.fullSince.IsZero() {
		c.fullSince = time.Now()
	}
	c.refused = max(c.refused, size)
}

func (c *crawl) hasNews() bool {
	select {
	case <-c.news: // nil before the first look: never
		return true
	default:
		return false
	}
}

func (c *crawl) waitEnds() {
	if c.waitDone != nil {
		c.waitDone()
		c.waitDone = nil
	}
	c.mu.Lock()
	c.paused = false
	c.mu.Unlock()
}

// starve is asked of a crawl that may go on. If it is the oldest and finds the
// stream full nevertheless, it says so, and then others give way.
func (c *crawl) starve(ctx context.Context, n need, known room) error {
	oldest := !slices.ContainsFunc(known.claims, func(r events.Reservation) bool { return r.Requested < c.reservation.Requested })
	if n.full.IsZero() || !oldest {
		return c.reserve(ctx, n, 0)
	}
	c.tell(false) // that it still waits
	if time.Since(n.full) > c.cfg.SpaceWait {
		if known.lacks > 0 {
			return &Failure{Code: events.CodeLimitBytes, Msg: fmt.Sprintf(
				"no room for the pages within %s: they need %s more, and the disk of the page stream has %s for them, of which one page needs %s; make room there, use a larger disk or export less at once",
				c.cfg.SpaceWait, mebibytes(n.more), mebibytes(known.free()), mebibytes(n.refused))}
		}
		return &Failure{Code: events.CodeLimitBytes, Msg: fmt.Sprintf(
			"no room for the pages within %s: they need %s more, and of the %s of the page stream %s are taken by others that do not end; raise --max-pages-bytes or export less at once",
			c.cfg.SpaceWait, mebibytes(n.more), mebibytes(known.limit), mebibytes(known.used-n.stored))}
	}
	if time.Since(n.full) < starvedAfter || known.free() >= n.refused {
		return nil
	}
	if err := c.reserve(ctx, n, n.refused); err != nil {
		return err
	}
	if old := c.x.ContinuesRun; old != 0 && old != c.into {
		// The source has changed: what was read of it before is of no use.
		return c.streams.PurgeRun(ctx, c.x.Tenant, c.x.Key, old)
	}
	return nil
}

// reserve writes what the crawl needs, when that is news.
func (c *crawl) reserve(ctx context.Context, n need, starved int64) error {
	r := c.reservation
	if !c.reserved {
		found, err := c.streams.Reservation(ctx, c.x.Tenant, c.x.Key)
		if err != nil {
			return err
		}
		if found.Requested == c.x.RequestedSeq {
			return events.RetryAfter(errAgain, spaceEvery)
		}
		r = found // of an earlier round, or none
	}
	r.Requested, r.Run, r.Stored, r.Starved, r.GaveWay = c.x.RequestedSeq, c.into, n.stored, starved, 0
	old := c.reservation
	more := c.pace.atMost(n.more, n.stored/int64(max(n.pages, 1)), c.space.paceAhead, c.space.paceLong)
	if r.Remaining = more + more/8; n.pages == 0 {
		r.Remaining = max(r.Remaining, old.Remaining) // an earlier crawl knew more
	}
	if c.reserved && r.Starved == old.Starved && (r.Stored == 0) == (old.Stored == 0) &&
		max(r.Remaining, old.Remaining)-min(r.Remaining, old.Remaining) <= old.Remaining/16 {
		return nil
	}
	if err := c.streams.Reserve(ctx, &r); err != nil {
		if errors.Is(err, events.ErrReservationLost) {
			return events.RetryAfter(err, lostFor)
		}
		return err
	}
	c.reservation, c.reserved = r, true
	return nil
}

// awaitRoom waits until there may be room for a page of size bytes that the
// stream had no room for. The page is not kept meanwhile: what waits must not
// hold the memory that an older crawl needs to go on.
func (c *crawl) awaitRoom(ctx context.Context, size int64) error {
	defer c.findsItFull(size)()
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.space.changed():
		case <-tick.C:
		}
		known, err := c.space.look(ctx, spaceEvery/2)
		if err != nil {
			return err
		}
		c.mu.Lock()
		paused := c.paused
		c.mu.Unlock()
		if !paused && (known.limit <= 0 || known.free() >= size) {
			return nil
		}
	}
}

// retreat carries out what the verdict giveWay says.
func (c *crawl) retreat(ctx context.Context) error {
	n := c.need()
	c.reservation.Remaining = n.whole()
	err := c.streams.GiveWay(ctx, &c.reservation)
	c.space.tell()
	switch {
	case errors.Is(err, events.ErrReservationLost):
		return events.RetryAfter(err, lostFor)
	case err != nil:
		return err
	}
	c.log.Info("pages gave way to an older export", "pages", n.pages, "bytes", n.stored)
	return events.RetryAfter(errGaveWay, spaceEvery)
}

// release takes the reservation back when nothing more is to come.
func (c *crawl) release(ctx context.Context) {
	if !c.reserved {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := c.streams.Release(ctx, c.reservation); err != nil {
		c.log.Warn("reservation not taken back; whoever waits for it will see that the export has ended", "error", err)
	}
	c.space.tell()
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(max(n, 0))/(1<<20)) }

// takeOver makes the reservation of an earlier crawl of this round its own. It
// must come before the pages of the run are listed.
func (c *crawl) takeOver(ctx context.Context) error {
	r, err := c.streams.TakeOver(ctx, &c.x)
	if errors.Is(err, events.ErrReservationLost) {
		return events.RetryAfter(err, lostFor)
	}
	if err != nil {
		return err
	}
	if r.Requested == c.x.RequestedSeq {
		c.reservation, c.reserved = r, true
	}
	return nil
}
