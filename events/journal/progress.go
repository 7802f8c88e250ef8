package journal

import (
	"encoding/json"
	"fmt"

	"sheaf/events"

	"github.com/nats-io/nats.go"
)

// PublishProgress publishes progress. Losing a message does no harm.
func (s *Log) PublishProgress(tenant, key string, p events.Progress) {
	data, err := json.Marshal(p)
	if err == nil {
		_ = s.cfg.Callers.Publish(events.ProgressSubject(tenant, key), data)
	}
}

// OnProgress calls fn for all published progress until stop is called.
func (s *Log) OnProgress(fn func(tenant, key string, p events.Progress)) (stop func(), err error) {
	sub, err := s.cfg.Callers.Subscribe(events.ProgressSubject("*", "*"), func(m *nats.Msg) {
		t, err := events.SplitSubject(m.Subject, events.SubjectProgress, 2)
		if err != nil {
			return
		}
		var p events.Progress
		if json.Unmarshal(m.Data, &p) == nil {
			fn(t[0], t[1], p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
