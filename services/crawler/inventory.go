package crawler

import (
	"cmp"
	"slices"
	"sync"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"
)

// inventory lists the stored pages of a run. It is safe for concurrent use.
type inventory struct {
	changed chan struct{} // signals a change; holds one

	mu     sync.Mutex
	ledger *ledger
	bytes  int64           // bytes of SHEAF_PAGES that the pages take
	failed *source.Failure // the first failure; later pages do not replace it
}

func newInventory(l *ledger) *inventory {
	return &inventory{changed: make(chan struct{}, 1), ledger: l}
}

// add records a page that is durable. names are those of its rows, where pages have no header.
func (v *inventory) add(p pages.Page, names []string) *source.Failure {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.stir()
	if v.ledger.missing(p.Number) {
		v.bytes += p.Stored
	}
	return v.first(v.ledger.take(p, names))
}

// record records a page that a helper has stored.
func (v *inventory) record(r record) *source.Failure {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.stir()
	if v.ledger.missing(r.Page) {
		v.bytes += r.Stored
	}
	return v.first(v.ledger.record(r))
}

// miss records a page that the source did not return.
func (v *inventory) miss(n int, m *missed) *source.Failure {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.stir()
	return v.first(v.ledger.miss(n, m))
}

// first returns the first failure of the list, so that the reason does not depend on which worker reports first.
func (v *inventory) first(f *source.Failure) *source.Failure {
	v.failed = cmp.Or(v.failed, f)
	return v.failed
}

func (v *inventory) stir() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// next returns the lowest missing page from one on that may be requested now, or 0. It stays within the
// bounds of the list, and at most lead pages ahead of the pages that were read.
func (v *inventory) next(from, conn, lead int) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, last := from, min(v.ledger.bound(conn), v.ledger.read+lead)
	for n <= last && !v.ledger.missing(n) {
		n++
	}
	if n > last {
		return 0
	}
	return n
}

// missing returns up to most missing pages from one on that may be requested now, in order, and how many pages
// lie from there to the bound of the list. It stays within the bounds of next.
func (v *inventory) missing(from, most, conn, lead int) (numbers []int, ahead int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := min(v.ledger.bound(conn), v.ledger.read+lead)
	for n := from; n <= last && len(numbers) < most; n++ {
		if v.ledger.missing(n) {
			numbers = append(numbers, n)
		}
	}
	return numbers, max(last-from+1, 0)
}

// lacks returns those pages that are missing, in order.
func (v *inventory) lacks(numbers []int) []int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(numbers), func(n int) bool { return !v.ledger.missing(n) })
}

// position returns where a page begins, and the plan that judges it.
func (v *inventory) position(n int) (source.Position, *plan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := source.Position{Page: n, Token: v.ledger.next}
	if n > 1 {
		at.Size = v.ledger.plan.size
	}
	return at, v.ledger.plan
}

func (v *inventory) limits() limits { return v.ledger.limits }

func (v *inventory) ended() bool { return v.sum().end > 0 }

// finish is called when the list has ended. It returns the event that reports it, without its run.
func (v *inventory) finish() (*events.ExportCrawled, *source.Failure) {
	v.mu.Lock()
	defer v.mu.Unlock()
	warnings, f := v.ledger.finish()
	if f != nil {
		return nil, f
	}
	proof, f := v.ledger.proof()
	if f != nil {
		return nil, f
	}
	return &events.ExportCrawled{Pages: v.ledger.end, Manifest: v.ledger.manifest(), Proof: proof, Warnings: warnings}, nil
}

// columns returns page 0 of the run, and whether it has one. It is called when the list has ended.
func (v *inventory) columns() (p pages.Page, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ledger.union == nil {
		return p, false
	}
	return v.ledger.union.page(), true
}

// fork returns a copy of the judge of a declared source, the token of the page after those that were read,
// and the plan of page 1, nil before it.
func (v *inventory) fork() (*ending, string, *plan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ledger.ending.fork(), v.ledger.next, v.ledger.plan
}

// json returns the bytes of the rows that were read, as JSON.
func (v *inventory) json() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ledger.bytes
}

// sum returns the number of stored pages and rows.
type sum struct {
	pages, read, announced, end int
	rows, bytes                 int64
	chained                     bool // each page names the next one
}

func (v *inventory) sum() sum {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.ledger
	return sum{pages: len(l.taken), read: l.read, announced: l.announced, end: l.end, rows: l.stored, bytes: v.bytes, chained: l.next != ""}
}
