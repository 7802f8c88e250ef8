package events

import "time"

// Phases of an export in progress.
const (
	PhaseQueued           = "queued"
	PhaseCrawling         = "crawling"
	PhaseWaitingForSource = "waiting_for_source" // the source asked for a pause
	PhaseWaitingForSpace  = "waiting_for_space"  // the page stream is full; older exports go first
	PhaseAssembling       = "assembling"
)

// Progress is a hint about an export's progress, published on plain NATS a few times a second and not stored.
type Progress struct {
	Phase      string `json:"phase"`
	PagesDone  int    `json:"pages_done"`
	PagesTotal int    `json:"pages_total"` // 0 while unknown
	Rows       int64  `json:"rows"`
	// Crawlers is the number of processes that fetch its pages, 0 while its crawl is not dealt out.
	Crawlers int `json:"crawlers,omitempty"`
	// Until is when the source is asked again, in PhaseWaitingForSource. It is zero in all other phases.
	Until time.Time `json:"until,omitzero"`
}
