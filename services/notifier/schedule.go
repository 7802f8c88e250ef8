package notifier

import (
	"math/rand/v2"
	"time"

	"sheaf/events"
)

// retryAfterMost bounds the pause that Retry-After can ask for.
const retryAfterMost = 24 * time.Hour

// DefaultSchedule returns the pauses between attempts that Standard Webhooks
// 1.0.0 recommends: ten attempts over 75 hours 35 minutes and 5 seconds,
// jitter aside.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
		10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

// verdict returns the event for an outcome.
func (s *Service) verdict(x *events.Export, o outcome) events.Payload {
	if o.delivered() {
		return &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: o.attempt, Status: o.status, Millis: o.elapsed.Milliseconds()}
	}
	failed := &events.CallbackFailed{Terminal: x.TerminalSeq, Attempt: o.attempt, Status: o.status, Reason: o.reason, Millis: o.elapsed.Milliseconds()}
	if o.final || o.attempt > len(s.cfg.Schedule) {
		return failed
	}
	next := time.Now().Add(pause(s.cfg.Schedule[o.attempt-1], o.retryAfter)).UTC()
	if next.After(x.FinishedAt.Add(s.cfg.KeepHistory)) {
		failed.Reason += "; the next attempt would come after the export was deleted from the history"
		return failed
	}
	return &events.CallbackAttempted{
		Terminal: x.TerminalSeq, Attempt: o.attempt, Status: o.status, Reason: o.reason,
		Millis: o.elapsed.Milliseconds(), NextAt: next,
	}
}

// pause is the wait before the next attempt: the published pause plus up to a tenth, which spreads attempts
// that failed together. It is longer if the receiver asked for it.
func pause(published, retryAfter time.Duration) time.Duration {
	if tenth := published / 10; tenth > 0 {
		published += rand.N(tenth)
	}
	return max(published, min(retryAfter, retryAfterMost))
}
