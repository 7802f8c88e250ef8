package events

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
)

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

// TellProgress publishes progress. A message that is lost is not missed.
func (s *Streams) TellProgress(tenant, key string, p Progress) {
	data, err := json.Marshal(p)
	if err == nil {
		_ = s.cfg.Callers.Publish(ProgressSubject(tenant, key), data)
	}
}

// OnProgress calls fn for every progress that is told, until stop is called.
func (s *Streams) OnProgress(fn func(tenant, key string, p Progress)) (stop func(), err error) {
	sub, err := s.cfg.Callers.Subscribe(ProgressSubject("*", "*"), func(m *nats.Msg) {
		t, err := SplitSubject(m.Subject, subjectProgress, 2)
		if err != nil {
			return
		}
		var p Progress
		if json.Unmarshal(m.Data, &p) == nil {
			fn(t[0], t[1], p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
