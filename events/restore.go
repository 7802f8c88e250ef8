package events

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// lostReason is what an export is told that could only be ended.
const lostReason = "the event log was damaged and lost events of this export"

// Restore writes to the log what it has lost of an export, and reports whether
// that was anything. want is the export as a projection had seen it before.
//
// An export that had ended ends the same way again, with its file, its times and
// without telling its callback a second time if it was told. One that was under
// way is requested again under its id: the crawler uses what pages there are.
// Sequences are new. If the log has seen more of the export than want, that
// stays.
//
// Every event goes through the fence, so several processes may do the same at
// once, and a second call finds nothing left to do.
func (s *Streams) Restore(ctx context.Context, want Export) (restored bool, err error) {
	if err := checkName(want.Tenant, want.Key); err != nil {
		return false, err
	}
	refused := 0
	for {
		history, err := s.history(ctx, want.Tenant, want.Key, 0)
		if err != nil {
			return restored, err
		}
		have := fold(want.Tenant, want.Key, history)
		if have.State != StateNone && have.RequestedSeq == want.RequestedSeq {
			for _, ev := range history { // the projection may be behind
				_ = want.Apply(ev)
			}
		}
		for {
			payload, at := missing(&have, &want)
			if payload == nil {
				return restored, nil
			}
			ev := Event{ID: NewID(), Tenant: want.Tenant, Key: want.Key, Time: at, CorrelationID: want.CorrelationID, Payload: payload}
			if payload.EventType() != TypeRequested && payload.EventType() != TypeRejected {
				ev.Requested = have.RequestedSeq
			}
			msg, err := Encode(ev)
			if err != nil {
				return restored, err
			}
			ev.Sequence, err = s.publishFenced(ctx, msg, have.LastSeq, keyFilter(want.Tenant, want.Key))
			if errors.Is(err, errWrongLastSequence) {
				if refused++; refused > 2 {
					return restored, fmt.Errorf("restoring key %s: %w", want.Key, err)
				}
				break // read again
			}
			if err != nil {
				return restored, fmt.Errorf("restoring key %s: %w", want.Key, err)
			}
			restored = true
			if err := have.Apply(ev); err != nil {
				return restored, fmt.Errorf("restoring key %s: %w", want.Key, err)
			}
		}
	}
}

// missing returns the next event that brings have to where want stood, and its
// time, or nil when nothing more can be done.
func missing(have, want *Export) (Payload, time.Time) {
	if want.State == StateNone || have.State == StateRejected {
		return nil, time.Time{}
	}
	if want.State == StateRejected {
		if have.State != StateNone || want.Submission == nil {
			return nil, time.Time{}
		}
		return &SubmissionRejected{Submission: *want.Submission, Errcode: 400, Reason: want.Failure.Reason}, want.CreatedAt
	}
	// A round is known by when it was requested: a restored one has another
	// sequence.
	if have.State == StateNone || want.RequestedAt.After(have.RequestedAt) {
		switch have.State {
		case StateRequested, StateCrawled: // of an older round, whose end was lost
			return &ExportCancelled{Reason: lostReason}, want.RequestedAt
		case StateCompleted:
			return &ExportExpired{}, want.RequestedAt
		}
		r := &ExportRequested{ExportID: want.ID, CreatedAt: want.CreatedAt, Request: want.Request, Submission: want.Submission, ContinuesRun: want.ContinuesRun, RequestID: want.RequestID}
		if !want.State.Terminal() && want.Request.SourceType == SourceHTTP {
			r.ContinuesRun = want.RequestedSeq
			if want.State == StateCrawled {
				r.ContinuesRun = want.Run
			}
		}
		return r, want.RequestedAt
	}
	if !want.RequestedAt.Equal(have.RequestedAt) {
		return nil, time.Time{} // the log knows a newer round
	}

	done := want.State == StateCompleted || want.State == StateExpired
	switch {
	case have.State == StateRequested && done:
		return &ExportCrawled{Run: want.Run, Pages: want.Pages, Manifest: want.Manifest}, want.FinishedAt
	case have.State == StateCrawled && done:
		return &ExportCompleted{Run: want.Run, Pages: want.Pages, Manifest: want.Manifest, Rows: want.Rows, Files: want.Files, Warnings: want.Warnings, ExpiresAt: want.ExpiresAt}, want.FinishedAt
	case have.State == StateCompleted && want.State == StateExpired:
		return &ExportExpired{Reason: want.ExpiredReason}, want.ExpiresAt
	case !have.State.Terminal() && want.State == StateFailed:
		failure := want.Failure
		return &failure, want.FinishedAt
	case !have.State.Terminal() && want.State == StateCancelled:
		return &ExportCancelled{Reason: want.Failure.Reason}, want.FinishedAt
	}
	if have.Callback.State == CallbackPending && have.State == want.State {
		told := want.Callback
		switch told.State {
		case CallbackDone:
			return &CallbackDelivered{Terminal: have.TerminalSeq, Attempt: told.Attempts, Status: told.LastStatus}, want.FinishedAt
		case CallbackExhausted:
			return &CallbackFailed{Terminal: have.TerminalSeq, Attempt: told.Attempts, Status: told.LastStatus, Reason: told.LastReason}, want.FinishedAt
		}
	}
	return nil, time.Time{}
}
