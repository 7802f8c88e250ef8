package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
