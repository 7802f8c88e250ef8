package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"
)

// Restore republishes an export from a projection if the log has lost it, and reports whether it had. want is
// the projection's export.
//
// It is published under the type that brought the export to its state. An export in progress resumes under
// its id: the crawler reuses the pages that exist. A pending callback is delivered. Sequences are new. If the
// log has an event of the export that is at least as new, nothing happens.
//
// The event goes through the fence, so several processes may call Restore concurrently, and repeated calls
// are harmless.
func (s *Log) Restore(ctx context.Context, want events.Export) (restored bool, err error) {
	if err := events.CheckName(want.Tenant, want.Key); err != nil {
		return false, err
	}
	for range 3 {
		have, err := s.Read(ctx, want.Tenant, want.Key)
		if err != nil {
			return false, err
		}
		if !lost(&have, &want) {
			return false, nil
		}
		x := want
		ev := events.Event{ID: events.NewID(), Tenant: x.Tenant, Key: x.Key, Time: time.Now().UTC(),
			CorrelationID: x.CorrelationID, Payload: again(&x), Export: &x}
		x.Note(ev)
		_, err = s.publishExport(ctx, ev, have.LastSeq)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, streams.ErrWrongLastSequence) {
			return false, fmt.Errorf("restoring key %s: %w", want.Key, err)
		}
	}
	return false, fmt.Errorf("restoring key %s: %w", want.Key, streams.ErrWrongLastSequence)
}

// lost reports whether the log, which has an export as have, lacks want's state. Sequences prove nothing: a
// log that ends too early assigns them a second time.
func lost(have, want *events.Export) bool {
	if want.State == events.StateNone || have.State == events.StateNone {
		return want.State != events.StateNone
	}
	return len(want.Timeline) > 0 && !have.Has(want.LastID) && newest(want).After(newest(have))
}

// newest returns the time of an export's newest event.
func newest(x *events.Export) time.Time {
	if len(x.Timeline) == 0 {
		return time.Time{}
	}
	return x.Timeline[len(x.Timeline)-1].Time
}

// again changes the export to one that can be published, and returns the event for it. An export in progress
// restarts, because its pages may be lost too.
func again(x *events.Export) events.Payload {
	switch x.State {
	case events.StateCompleted:
		return &events.ExportCompleted{Run: x.Run, Pages: x.Pages, Manifest: x.Manifest, Rows: x.Rows,
			Files: x.Files, Warnings: x.Warnings, ExpiresAt: x.ExpiresAt}
	case events.StateFailed:
		failure := x.Failure
		return &failure
	case events.StateCancelled:
		return &events.ExportCancelled{Reason: x.Failure.Reason}
	case events.StateExpired:
		return &events.ExportExpired{Reason: x.ExpiredReason}
	case events.StateRejected:
		r := &events.SubmissionRejected{Errcode: 400, Reason: x.Failure.Reason}
		if x.Submission != nil {
			r.Submission = *x.Submission
		}
		return r
	}
	run := x.RequestedSeq
	if x.State == events.StateCrawled {
		run = x.Run
	}
	*x = events.Export{
		Tenant: x.Tenant, Key: x.Key, ID: x.ID, CreatedAt: x.CreatedAt, CorrelationID: x.CorrelationID,
		RequestID: x.RequestID, State: events.StateRequested,
		Request: x.Request, Submission: x.Submission, RequestedAt: x.RequestedAt, Timeline: x.Timeline,
	}
	if x.Request.SourceType == events.SourceHTTP {
		x.ContinuesRun = run
	}
	return &events.ExportRequested{}
}
