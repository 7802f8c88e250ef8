package crawler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/crawler/source"
)

// attempt is one attempt of a process at an export. It counts starts without progress, runs suspects one at a
// time, and detects whether another process has started since.
type attempt struct {
	journal *journal.Log
	log     *slog.Logger
	tenant  string
	key     string
	fresh   bool         // no attempt precedes this one
	mark    string       // the position at which the crawl began
	retries atomic.Int64 // requests that were repeated
	spans   atomic.Int64 // of requests
	further func()       // lets the next suspect run: the crawl made progress, or ended

	mu     sync.Mutex
	starts int // starts recorded at mark, this one included; 0 until it is recorded
}

// markAt names the position at which the crawl of a request began.
func markAt(requested uint64, pages int) string {
	return strconv.FormatUint(requested, 10) + ":" + strconv.Itoa(pages)
}

// begin sets the position of the crawl: the number of pages of its run, or of an earlier run that it
// continues. A suspect then backs off, waits until no other suspect runs, and runs alone for at most
// maxAlone.
func (a *attempt) begin(ctx context.Context, requested uint64, pages, earlier, maxStarts int, sleep func(context.Context, time.Duration) error) error {
	a.mark = markAt(requested, pages+earlier)
	if a.fresh && pages+earlier == 0 {
		return nil
	}
	// The delivery count is not enough: a cluster can lose it with its leader.
	a.fresh = a.fresh && pages == 0
	starts, err := a.journal.Starts(ctx, a.tenant, a.key, a.mark)
	if err != nil {
		return err
	}
	if pages+earlier == 0 {
		starts++ // the first start is not recorded, see count
	}
	if starts >= maxStarts {
		return &source.Failure{Code: events.CodeCrashedWorker,
			Msg: fmt.Sprintf("crawling began %d times without getting past %d pages; the process ended each time", maxStarts, pages+earlier)}
	}
	if starts < journal.SuspectAfter {
		return nil
	}
	if err := sleep(ctx, a.journal.SuspectPause(starts)); err != nil {
		return err
	}
	leave, err := a.journal.Alone(ctx, maxAlone)
	if err == nil {
		a.further = leave
	}
	return err
}

// maxAlone is the maximum time that a suspect without progress keeps the others waiting. A source may take
// longer to answer, but most answers that crash a process have done so by then.
const maxAlone = 5 * time.Second

// count records the attempt once, before its work begins. The very first attempt is not recorded, which
// spares small exports a disk write. begin allows for that one missing record.
func (a *attempt) count(ctx context.Context) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.fresh && a.starts == 0 {
		a.starts, err = a.journal.CountStart(ctx, a.tenant, a.key, a.mark)
	}
	return err
}

// stillMine reports whether no other crawler has started since. It is called when a page exists already, and
// before a run is purged. A crawler that stalled so long that its work was redelivered leaves the export to
// the other. An unrecorded attempt is recorded now, so that one of two crawlers that both believe to be alone
// leaves.
func (a *attempt) stillMine(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	latest, err := a.journal.Starts(ctx, a.tenant, a.key, a.mark)
	if err != nil {
		return err
	}
	if latest != a.starts {
		return journal.ErrTakenOver
	}
	if a.starts == 0 {
		a.starts, err = a.journal.CountStart(ctx, a.tenant, a.key, a.mark)
	}
	return err
}

// takeBack removes the record, because the crawl is handed back in order. It works after the cancellation of
// the crawl too.
func (a *attempt) takeBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.starts == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	switch err := a.journal.UncountStart(ctx, a.tenant, a.key, a.mark, a.starts); {
	case err == nil:
		a.starts = 0
	case !errors.Is(err, journal.ErrTakenOver): // stillMine will find it
		a.log.Warn("start not taken back", "error", err)
	}
}
