package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"
	"sheaf/events/tracing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Decide returns the next event of an export, or an error that aborts Append. It may be called several times,
// each time with a newer state, and must not retain its argument.
type Decide func(x *events.Export) (events.Payload, error)

// Append writes the next event of an export through the fence.
//
// known is the last state of the export that the caller saw; with only Tenant and Key set it means "I believe
// it is new". Append calls decide with that state first. It publishes the event if the key's last sequence is
// still that of the state. If not, Append reads the state from the leader and calls decide again. So of two
// concurrent writers exactly one succeeds, and the other sees the result before it decides again. If the
// state does not allow the event's type, Append returns ErrNotAllowed, but only after reading from the
// leader.
//
// A key that ended and was requested again is the same export in a new round. A decide that concerns one
// round must compare RequestedSeq.
//
// Append returns the export after the event and after events that others added since. If an acknowledgement
// is lost, Append looks for the event in the export's timeline, so the event is written once. After an error
// the event may still be written only if the error is ErrUnavailable. A request almost as large as the
// server's limit is refused with nats.ErrMaxPayload.
func (s *Log) Append(ctx context.Context, known events.Export, correlation string,
	decide Decide) (_ events.Export, err error) {
	x := known
	if err := events.CheckName(x.Tenant, x.Key); err != nil {
		return x, err
	}
	ev := events.Event{ID: events.NewID(), Tenant: x.Tenant, Key: x.Key, Time: time.Now().UTC(),
		CorrelationID: correlation}
	unconfirmed := 0        // publishes with unknown outcome
	var after events.Export // with the event, as last published
	var span *tracing.Span
	defer func() { span.End(traceError(err)) }()
	for fromLeader := false; ; fromLeader = true {
		payload, err := decide(&x)
		if err != nil {
			return x, err
		}
		ev.Payload = payload
		if span == nil {
			ev.TraceParent, span = s.publishes(ctx, ev)
		}
		if correlation == "" {
			ev.CorrelationID = x.CorrelationID
		}
		next := x
		err = next.Apply(ev)
		if err != nil && fromLeader {
			return x, err
		}
		if err == nil {
			after = next
			ev.Export = &after
			sequence, err := s.publishExport(ctx, ev, x.LastSeq)
			if err == nil {
				after.Stamp(ev.Type(), sequence, ev.ID)
				ev.Sequence = sequence
				s.cfg.Appended(ev)
				return after, nil
			}
			if errors.Is(err, events.ErrUnavailable) {
				if unconfirmed++; unconfirmed >= s.cfg.PublishAttempts || ctx.Err() != nil {
					return x, err
				}
			} else if !errors.Is(err, streams.ErrWrongLastSequence) {
				return x, err
			}
		}

		// Another writer was first, or the acknowledgement was lost. The leader knows which.
		now, err := s.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return x, err
		}
		if err := s.notBehind(ctx, &now, x.LastSeq); err != nil {
			return x, err
		}
		if x = now; unconfirmed > 0 && x.Has(ev.ID) {
			s.cfg.Appended(ev)
			return x, nil
		}
	}
}

// publishes begins the span of an event that is written within another span. Events of the keeper are not.
func (s *Log) publishes(ctx context.Context, ev events.Event) (parent string, span *tracing.Span) {
	if s.cfg.Tracer == nil || tracing.Parent(ctx) == "" {
		return "", nil
	}
	return s.cfg.Tracer.Publish(ctx, tracing.Message{
		Stream: events.StreamEvents, Template: events.EventSubject("{tenant}", ev.Type(), "{key}"), ID: ev.ID, ConversationID: ev.CorrelationID,
	}, tracing.Tenant.String(ev.Tenant), tracing.ExportKey.String(ev.Key))
}

// traceError classifies why an event was not written, "" if it was.
func traceError(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, events.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, ErrEnded), errors.Is(err, events.ErrNotAllowed):
		return "not_allowed"
	}
	return "refused"
}

// growth is how many bytes an export may grow beyond its request: files, warnings, failure reason, timeline.
// Each of its events contains the request.
const growth = 64 << 10

// publishExport publishes an event if last is still the last sequence of its key.
func (s *Log) publishExport(ctx context.Context, ev events.Event, last uint64) (uint64, error) {
	msg, err := events.Encode(ev)
	if err != nil {
		return 0, err
	}
	if most := s.nc.MaxPayload(); ev.Type() == events.TypeRequested &&
		int64(msg.Size()) > most-min(most/8, growth) {
		return 0, fmt.Errorf("publishing: %w", nats.ErrMaxPayload)
	}
	sequence, err := s.publishEvent(ctx, msg, last, ev.Tenant, ev.Key)
	if err != nil {
		s.own.forget(ev.Key)
		return 0, err
	}
	s.own.wrote(ev.Key, sequence)
	return sequence, nil
}

// fence makes the server refuse msg unless the last sequence over filter is last.
func fence(msg *nats.Msg, last uint64, filter string) {
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last, 10))
	msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, filter)
}

// publishFenced publishes msg if the last sequence over filter is last.
func (s *Log) publishFenced(ctx context.Context, msg *nats.Msg, last uint64, filter string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	failpoint.Hit("append.before")
	ack, err := s.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequenceForSubject(last, filter))
	if err != nil {
		return 0, streams.PublishError(err)
	}
	failpoint.Hit("append.after")
	return ack.Sequence, nil
}

// Read returns the current export from the stream's leader: one request, for the newest event of the key. One
// that does not exist has StateNone. So has one whose newest event is unreadable, with the sequence of that
// event.
func (s *Log) Read(ctx context.Context, tenant, key string) (events.Export, error) {
	x := events.Export{Tenant: tenant, Key: key}
	if err := events.CheckName(tenant, key); err != nil {
		return events.Export{}, err
	}
	last, err := s.last(ctx, events.KeyFilter(tenant, key))
	if err != nil || last == nil {
		return x, err
	}
	ev := s.decodeRaw(last)
	if ev.Export != nil {
		return *ev.Export, nil
	}
	x.LastSeq, x.LastID = ev.Sequence, ev.ID
	return x, nil
}

// last returns the newest message that matches filter, nil if there is none.
func (s *Log) last(ctx context.Context, filter string) (*jetstream.RawStreamMsg, error) {
	last, err := s.events.GetLastMsgForSubject(ctx, filter)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: reading %s: %w", events.ErrUnavailable, filter, err)
	}
	return last, nil
}

// decodeRaw decodes a stored message. One that cannot be decoded keeps its sequence and id, without a
// payload, so that the fence still counts it.
func (s *Log) decodeRaw(m *jetstream.RawStreamMsg) events.Event {
	ev, err := events.Decode(m.Subject, m.Header, m.Data, m.Sequence)
	if err != nil {
		s.cfg.Log.Warn("event skipped", "sequence", m.Sequence, "subject", m.Subject, "error", err)
		ev.Sequence, ev.Payload = m.Sequence, nil
	}
	return ev
}

// LastSequence returns the sequence of the newest event of the log, from the leader. A reader that has
// applied it has seen every event acknowledged before the call. Callers that arrive while the leader is being
// asked share the next question.
func (s *Log) LastSequence(ctx context.Context) (uint64, error) {
	s.asking.Lock()
	q := s.nextQuestion
	if q == nil {
		q = &question{answered: make(chan struct{})}
		s.nextQuestion = q
		go s.askLastSequence(q)
	}
	s.asking.Unlock()
	select {
	case <-q.answered:
		return q.last, q.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	}
}

// question is one request to the log's leader, shared by all callers that arrived before it was sent.
type question struct {
	answered chan struct{} // closed once the fields below are set
	last     uint64
	err      error
}

// maxQuestionWait is how long a question delays the next one. A dead leader never answers, and questions to
// its successor must not wait for it.
const maxQuestionWait = 500 * time.Millisecond

// askLastSequence waits for the previous question, at most maxQuestionWait, and then asks.
func (s *Log) askLastSequence(q *question) {
	s.oneQuestion <- struct{}{}
	next := sync.OnceFunc(func() { <-s.oneQuestion })
	defer next()
	defer time.AfterFunc(maxQuestionWait, next).Stop()
	s.asking.Lock()
	s.nextQuestion = nil
	s.asking.Unlock()
	defer close(q.answered)
	ctx, cancel := context.WithTimeout(context.Background(), min(s.cfg.PublishTimeout, answerWait))
	defer cancel()
	info, err := streams.LeaderInfo(ctx, s.events)
	if err != nil {
		q.err = fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		return
	}
	q.last = info.State.LastSeq
}

// OnCancelled calls fn at once and at most once for every cancellation until stop is called. It is a hint
// that saves work; the fence makes a cancellation final.
func (s *Log) OnCancelled(fn func(tenant, key string)) (stop func(), err error) {
	sub, err := s.nc.Subscribe(events.EventSubject("*", events.TypeCancelled, "*"), func(m *nats.Msg) {
		if tokens, err := events.SplitSubject(m.Subject, events.SubjectEvent, 3); err == nil {
			fn(tokens[0], tokens[2])
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
