package events

// Phases of an export that is under way.
const (
	PhaseQueued          = "queued"
	PhaseCrawling        = "crawling"
	PhaseWaitingForSpace = "waiting_for_space" // the page stream is full; older exports go first
	PhaseAssembling      = "assembling"
)

// Progress is how far an export has come: a hint, told on plain NATS a few
// times a second and kept nowhere.
type Progress struct {
	Phase      string `json:"phase"`
	PagesDone  int    `json:"pages_done"`
	PagesTotal int    `json:"pages_total"` // 0 while unknown
	Rows       int64  `json:"rows"`
}
