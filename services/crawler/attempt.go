package crawler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/crawler/source"
)

// attempt is one attempt of a process at an export. It counts how often the crawl began without getting
// further, lets suspects work one at a time, and tells whether another process has begun since.
type attempt struct {
	journal *journal.Log
	log     *slog.Logger
	tenant  string
	key     string
	fresh   bool   // nobody has begun before
	mark    string // names how far the crawl had come when it began
	further func() // lets the next suspect work: the crawl got further, or ended

	mu     sync.Mutex
	starts int // recorded at mark, this attempt included; 0 until it is recorded
}

// markAt names how far the crawl of a request had come when it began.
func markAt(requested uint64, pages int) string {
	return strconv.FormatUint(requested, 10) + ":" + strconv.Itoa(pages)
}

// begin says how far the crawl has come: so many pages of its run, or of an earlier run that it continues. A
// suspect then sleeps, and waits until no other suspect is at work, for which it has maxAlone.
func (a *attempt) begin(ctx context.Context, requested uint64, pages, earlier, maxStarts int, sleep func(context.Context, time.Duration) error) error {
	a.mark = markAt(requested, pages+earlier)
	if a.fresh && pages+earlier == 0 {
		return nil
	}
	// A delivery that calls itself the first need not be: in a cluster the count of deliveries can be lost
	// with its leader.
	a.fresh = a.fresh && pages == 0
	starts, err := a.journal.Starts(ctx, a.tenant, a.key, a.mark)
	if err != nil {
		return err
	}
	if pages+earlier == 0 {
		starts++ // the first one is not recorded, see count
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

// maxAlone is how long a suspect that gets no further keeps the others waiting. A source may take longer to
// answer, but most answers that end a process have done so by then.
const maxAlone = 5 * time.Second

// count records the attempt, once, before its work begins. The first one of all is not recorded, which spares
// small exports a write to the disk: begin takes no record for one start if others may have begun.
func (a *attempt) count(ctx context.Context) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.fresh && a.starts == 0 {
		a.starts, err = a.journal.CountStart(ctx, a.tenant, a.key, a.mark)
	}
	return err
}

// stillMine is asked when a page was there already, and before a run is purged. If another crawler has begun
// since, this one was stopped for so long that its work was handed out again; it leaves the export to the
// other. An attempt that is not recorded is recorded now, so that of two that took each other for the only
// one, one leaves.
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

// takeBack removes the record: the crawl is handed back in order. It does so also while the work is being cut
// off.
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
	case !errors.Is(err, journal.ErrTakenOver): // which stillMine will find
		a.log.Warn("start not taken back", "error", err)
	}
}
