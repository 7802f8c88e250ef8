package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Decide looks at an export and returns the event that shall follow, or an
// error that ends Append. It may be called several times, each time with a
// newer state, and must not keep what it is given.
type Decide func(x *events.Export) (events.Payload, error)

// Append writes the next event of an export through the fence.
//
// known is what the caller last saw of the export; with only Tenant and Key
// set it means "I believe it is new". decide is asked with that state first.
// The event is published under the condition that the key's last sequence is
// still the one of that state; if not, the state is read from the leader and
// decide is asked again. So of two that race exactly one is written, and the
// other sees it before it decides anew. A type that the state does not admit
// is refused with ErrNotAllowed, and only after the leader was asked.
//
// A key that ended and was requested again is the same export in a new round:
// a decide that speaks for one round compares RequestedSeq.
//
// Append returns the export with the event applied, and with what others
// added since. An acknowledgement that is lost is looked for in the export's
// timeline, so the event is written once. After an error the event may still be
// written only if the error is ErrUnavailable. A request that is almost as large as
// the server takes is refused with nats.ErrMaxPayload.
func (s *Log) Append(ctx context.Context, known events.Export, correlation string, decide Decide) (events.Export, error) {
	x := known
	if err := events.CheckName(x.Tenant, x.Key); err != nil {
		return x, err
	}
	ev := events.Event{ID: events.NewID(), Tenant: x.Tenant, Key: x.Key, Time: time.Now().UTC(), CorrelationID: correlation}
	unconfirmed := 0 // publishes whose fate is not known
	for fromLeader := false; ; fromLeader = true {
		payload, err := decide(&x)
		if err != nil {
			return x, err
		}
		ev.Payload = payload
		if correlation == "" {
			ev.CorrelationID = x.CorrelationID
		}
		after := x
		err = after.Apply(ev)
		if err != nil && fromLeader {
			return x, err
		}
		if err == nil {
			ev.Export = &after
			sequence, err := s.publishExport(ctx, ev, x.LastSeq)
			if err == nil {
				after.Stamp(ev.Type(), sequence, ev.ID)
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

		// Somebody wrote, or the answer was lost. The leader knows which.
		now, err := s.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return x, err
		}
		if err := s.notBehind(ctx, &now, x.LastSeq); err != nil {
			return x, err
		}
		if x = now; unconfirmed > 0 && x.Has(ev.ID) {
			return x, nil
		}
	}
}

// growth is how many bytes larger than its request an export may become: its files, its
// warnings, why it failed, its timeline. Each of its events holds the request.
const growth = 64 << 10

// publishExport publishes an event under the condition that the key's last sequence is last.
func (s *Log) publishExport(ctx context.Context, ev events.Event, last uint64) (uint64, error) {
	msg, err := events.Encode(ev)
	if err != nil {
		return 0, err
	}
	if most := s.nc.MaxPayload(); ev.Type() == events.TypeRequested && int64(msg.Size()) > most-min(most/8, growth) {
		return 0, fmt.Errorf("publishing: %w", nats.ErrMaxPayload)
	}
	leave, err := s.logWriters.Enter(ctx, ev.Tenant)
	if err != nil {
		return 0, err
	}
	defer leave()
	return s.publishEvent(ctx, msg, last, ev.Tenant, ev.Key)
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

// Read returns an export as the stream's leader knows it now: one request, for the
// newest event of the key. One that does not exist has StateNone. So has one whose
// newest event cannot be read, with the sequence of that event.
func (s *Log) Read(ctx context.Context, tenant, key string) (events.Export, error) {
	x := events.Export{Tenant: tenant, Key: key}
	if err := events.CheckName(tenant, key); err != nil {
		return events.Export{}, err
	}
	last, err := s.last(ctx, events.KeyFilter(tenant, key))
	if err != nil || last == nil {
		return x, err
	}
	ev := decodeRaw(last)
	if ev.Export != nil {
		return *ev.Export, nil
	}
	x.LastSeq, x.LastID = ev.Sequence, ev.ID
	return x, nil
}

// last returns the newest message of a filter, nil if there is none.
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

// decodeRaw decodes a stored message. One that cannot be decoded keeps its
// sequence and id, without a payload, so that it still counts for the fence.
func decodeRaw(m *jetstream.RawStreamMsg) events.Event {
	ev, err := events.Decode(m.Subject, m.Header, m.Data, m.Sequence)
	if err != nil {
		slog.Warn("event skipped", "sequence", m.Sequence, "subject", m.Subject, "error", err)
		ev.Sequence, ev.Payload = m.Sequence, nil
	}
	return ev
}

// LastSequence is the sequence of the newest event of the log, from the
// leader. A reader that has applied it has seen every event that was
// acknowledged before the call. Callers who come while the leader is asked share
// the next question.
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

// question is one that the log's leader is asked for all who came before it was.
type question struct {
	answered chan struct{} // closed when what follows is set
	last     uint64
	err      error
}

// questionAlone is how long a question keeps the next one waiting. A leader that died
// never answers, and the questions to the leader after it must not wait for that.
const questionAlone = 500 * time.Millisecond

// askLastSequence waits for the question before it, questionAlone at most, and is put then.
func (s *Log) askLastSequence(q *question) {
	s.oneQuestion <- struct{}{}
	next := sync.OnceFunc(func() { <-s.oneQuestion })
	defer next()
	defer time.AfterFunc(questionAlone, next).Stop()
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

const (
	// followBatch bounds how many events Follow hands over at once.
	followBatch = 512
	// followHeartbeat is how often the server of a follower's consumer says that it is
	// there. After two missing ones the follower gives the consumer up.
	followHeartbeat = time.Second
	// followUnused is when a server removes a consumer that its follower has left.
	followUnused = 30 * time.Second
	// followPoll is the pause between two reads of a log without a consumer, and
	// followRead how long one may take: what it has got by then is applied, and a
	// leader that just died answers nothing.
	followPoll = 50 * time.Millisecond
	followRead = 500 * time.Millisecond
)

// errReconnected ends a follower's consumer: the server it was on may have been restarted.
var errReconnected = errors.New("the connection was lost and is back")

// Follow calls apply with every event from a sequence on that was not purged, in the
// order of the log, as many at once as are there; it blocks until ctx ends
// (then it returns nil) or apply fails. Events that cannot be decoded are
// passed on without a payload. No event comes twice.
//
// An outage does not end it. Events come by a consumer on one of the servers. While that
// server is away they are read one by one from the log's leader, so a follower is never blind for
// longer than two heartbeats while events can be written.
func (s *Log) Follow(ctx context.Context, from uint64, apply func([]events.Event) error) error {
	f := &follower{s: s, next: max(from, 1), apply: apply}
	for again := false; ctx.Err() == nil; again = true {
		cons, err := f.poll(ctx, again)
		if err == nil && cons != nil {
			err = f.consume(ctx, cons)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case f.failed != nil:
			return f.failed
		case err != nil:
			slog.Warn("following the log; trying again", "next", f.next, "error", err)
		}
	}
	return nil
}

// follower is one call of Follow.
type follower struct {
	s      *Log
	next   uint64 // sequence from which on events are still to be applied
	apply  func([]events.Event) error
	failed error // what apply returned
}

// take applies a batch of events in order, without those that were applied before.
func (f *follower) take(batch []events.Event) error {
	for len(batch) > 0 && batch[0].Sequence < f.next {
		batch = batch[1:]
	}
	if len(batch) == 0 {
		return nil
	}
	if f.failed = f.apply(batch); f.failed != nil {
		return f.failed
	}
	f.next = batch[len(batch)-1].Sequence + 1
	return nil
}

// poll reads from the log's leader until there is a consumer, which is made after a
// moment if one was lost again. It returns none when ctx ends or apply fails. A cluster whose own leader is away makes no consumers, and its log
// may have a leader nevertheless.
func (f *follower) poll(ctx context.Context, again bool) (jetstream.Consumer, error) {
	making, stop := context.WithCancel(ctx)
	made := make(chan jetstream.Consumer, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	from := f.next
	wg.Go(func() {
		for ; making.Err() == nil; again = true {
			if again {
				streams.Wait(making, streams.Backoff(1))
			}
			if cons, err := f.s.newFollowConsumer(making, from); err == nil {
				made <- cons
				return
			} else if making.Err() == nil {
				slog.Debug("no consumer to follow the log; trying again", "error", err)
			}
		}
	})
	tick := time.NewTicker(followPoll)
	defer tick.Stop()
	for {
		select {
		case cons := <-made:
			return cons, nil
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // ended
		case <-tick.C:
		}
		if err := f.take(f.s.readOn(ctx, f.next)); err != nil {
			return nil, err
		}
	}
}

// newFollowConsumer makes a consumer for one follower. Its name is new: one that was made
// by a request without an answer may be on a server that is away.
func (s *Log) newFollowConsumer(ctx context.Context, from uint64) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return s.js.CreateConsumer(ctx, events.StreamEvents, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: followUnused,
	})
}

// readOn returns events from a sequence on as the log's leader holds them: those that it
// gets within followRead, at most followBatch.
func (s *Log) readOn(ctx context.Context, from uint64) (batch []events.Event) {
	ctx, cancel := context.WithTimeout(ctx, followRead)
	defer cancel()
	for len(batch) < followBatch {
		m, err := s.events.GetMsg(ctx, from, jetstream.WithGetMsgSubject(events.SubjectEvent+">"))
		if err != nil {
			return batch // there are no more, or it is asked again
		}
		ev := decodeRaw(m)
		batch = append(batch, ev)
		from = m.Sequence + 1
	}
	return batch
}

// consume applies what a consumer delivers, until ctx ends, apply fails or the consumer
// does.
func (f *follower) consume(ctx context.Context, cons jetstream.Consumer) error {
	reconnected := f.s.nc.StatusChanged(nats.CONNECTED)
	defer f.s.nc.RemoveStatusListener(reconnected)
	iter, err := cons.Messages(jetstream.PullMaxMessages(followBatch), jetstream.PullHeartbeat(followHeartbeat))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan events.Event, followBatch)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	next := f.next
	wg.Go(func() { failed <- f.s.receive(ctx, iter, next, messages) })
	defer wg.Wait()
	defer iter.Stop()
	defer cancel()
	batch := make([]events.Event, 0, followBatch)
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-reconnected:
			return errReconnected
		case ev := <-messages:
			batch = append(batch, ev)
		}
	drain:
		for len(batch) < followBatch {
			select {
			case ev := <-messages:
				batch = append(batch, ev)
			default:
				break drain
			}
		}
		if err := f.take(batch); err != nil {
			return err
		}
	}
}

// receive passes on what a consumer delivers, without those before the sequence next. It
// ends with an error at a message that is missing.
func (s *Log) receive(ctx context.Context, iter jetstream.MessagesContext, next uint64, messages chan<- events.Event) error {
	for delivered := uint64(1); ; delivered++ {
		m, err := iter.Next()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != delivered {
			return fmt.Errorf("message %d of the consumer was lost", delivered)
		}
		is := meta.Sequence.Stream
		if is < next {
			continue
		}
		// Keys are purged when they have ended, so later there are gaps.
		if is > next && (delivered == 1 || time.Since(meta.Timestamp) < gapFor) {
			if err := s.notThere(ctx, next, is); err != nil {
				return err
			}
		}
		next = is + 1
		ev, err := events.Decode(m.Subject(), m.Headers(), m.Data(), is)
		if err != nil {
			slog.Warn("event skipped", "sequence", is, "subject", m.Subject(), "error", err)
			ev.Sequence, ev.Payload = is, nil
		}
		select {
		case messages <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gapFor is how young an event is whose predecessors are looked for. Ended exports are
// purged later than that, and nothing else makes gaps.
const gapFor = 30 * time.Second

// notThere returns an error if the log holds an event from next on that comes before the
// one at sequence is. A consumer shows a gap in what it delivered, not one in the log: on
// three servers that were killed in turn one was seen to begin with the second event of a
// log that held the first. A leader that is behind the reader proves nothing.
func (s *Log) notThere(ctx context.Context, next, is uint64) error {
	m, err := s.events.GetMsg(ctx, next, jetstream.WithGetMsgSubject(events.SubjectEvent+">"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		// What was delivered may have been purged since. A leader that is behind says this too.
		info, err := streams.LeaderInfo(ctx, s.events)
		if err == nil && info.State.LastSeq < is {
			err = fmt.Errorf("the log's leader knows %d events, and number %d was delivered", info.State.LastSeq, is)
		}
		return err
	}
	if err == nil && m.Sequence < is {
		err = fmt.Errorf("sequence %d was passed over", m.Sequence)
	}
	return err
}

// OnCancelled calls fn for every cancellation, at once and at most once, until
// stop is called. It is a hint that saves work; the fence is what makes a
// cancellation final.
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
