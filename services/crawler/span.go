package crawler

import (
	"encoding/json"
	"sync"
	"time"

	"sheaf/services/crawler/source"
)

const (
	maxSpan     = 256 // pages of a span
	minAhead    = 16  // fewer pages are not worth a span: the owner fetches them
	spansAhead  = 2   // spans of an export in the queue that no crawler has taken
	spansAtOnce = 2   // spans that a process works on: of one it asks for pages, of the other for the last ones
	leadFactor  = 16  // times Config.Lead, see DESIGN.md
	maxInLine   = 2   // pages of a dealt-out crawl that wait for a turn in one process
)

// tempo is when large exports are dealt out.
type tempo struct {
	beat    time.Duration // between two looks of the owner at its spans
	after   time.Duration // how long the owner fetches alone, to know its rate
	worth   time.Duration // a list is dealt out if the owner alone would take longer
	span    time.Duration // work of one crawler in a span
	ask     time.Duration // between two questions of a helper whether its span is still wanted
	silence time.Duration // without a word of its helper, after which a span is lost
	linger  time.Duration // how long a helper is kept for the next span
}

var usualTempo = tempo{beat: 250 * time.Millisecond, after: time.Second, worth: 5 * time.Second, span: 3 * time.Second,
	ask: time.Second, silence: 5 * time.Second, linger: 10 * time.Second}

// span is a message of the work queue: missing pages of a run, for any crawler to fetch.
type span struct {
	Tenant    string `json:"tenant"`
	Key       string `json:"key"`
	Requested uint64 `json:"requested"` // the event that began the round
	Run       uint64 `json:"run"`
	Sheet     int    `json:"sheet,omitempty"`
	UsedPages int    `json:"used_pages,omitempty"` // of the sheets before
	ID        int    `json:"id"`                   // unique for the owner
	Owner     string `json:"owner"`                // the subject of reports
	Pages     []int  `json:"pages"`                // ascending
}

// report is a message of a helper to the owner of a span.
type report struct {
	Span      int             `json:"span"`
	Helper    string          `json:"helper"`
	Ask       string          `json:"ask,omitempty"` // a question, which is answered with yes or no
	Workers   int             `json:"workers,omitempty"`
	Page      *record         `json:"page,omitempty"`       // a durable page
	SameNames bool            `json:"same_names,omitempty"` // its names are those of page 1
	Failure   *source.Failure `json:"failure,omitempty"`    // why the source did not return a page
	Earlier   int             `json:"earlier,omitempty"`    // see missed
	Data      uint64          `json:"data,omitempty"`
	Retries   int64           `json:"retries,omitempty"` // requests that were repeated
	Done      bool            `json:"done,omitempty"`    // the helper has left the span
}

const (
	askTake  = "take"  // may I have the span?
	askStill = "still" // is it still wanted?
	yes, no  = "yes", "no"
)

func encoded(v any) []byte {
	data, _ := json.Marshal(v) // of these types it cannot fail
	return data
}

// spanSize returns how many pages the next span has, if so many are ahead and one crawler fetches perSecond. It
// shrinks with the pages that are left, so that all crawlers end together.
func spanSize(ahead int, perSecond float64, t tempo) int {
	most := int(perSecond * t.span.Seconds())
	least := int(perSecond * t.span.Seconds() / 12)
	return min(max(min(ahead/8, most), least, 1), maxSpan)
}

// line counts the pages that were handed out and wait for their first turn. It keeps a process from holding pages
// that another could request at once.
type line struct {
	moved chan struct{} // signals that a page has left; holds one

	mu      sync.Mutex
	waiting map[int]struct{}
}

func newLine() *line { return &line{moved: make(chan struct{}, 1), waiting: map[int]struct{}{}} }

func (l *line) join(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[n] = struct{}{}
}

// leave may be called again, and for pages that never joined.
func (l *line) leave(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.waiting[n]; !ok {
		return
	}
	delete(l.waiting, n)
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

func (l *line) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) >= maxInLine
}
