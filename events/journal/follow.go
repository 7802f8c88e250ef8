package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followBatch is the maximum number of events that Follow passes on at once.
	followBatch = 512
	// followHeartbeat is the heartbeat interval of a follower's consumer. After two missed ones the follower
	// abandons the consumer.
	followHeartbeat = time.Second
	// followUnused is when a server removes an abandoned consumer.
	followUnused = 30 * time.Second
	// followPoll is the pause between two reads of the log without a consumer, and followRead the time limit
	// of a read. Events read by then are applied; a leader that just died does not respond.
	followPoll = 50 * time.Millisecond
	followRead = 500 * time.Millisecond
)

// errReconnected ends a follower's consumer, because the server that had it may have restarted.
var errReconnected = errors.New("the connection was lost and is back")

// Follow calls apply with every unpurged event from a sequence on, in log order, as many at once as are
// available. It blocks until ctx ends, then it returns nil, or until apply fails. Events that cannot be
// decoded are passed on without a payload. No event is passed on twice.
//
// Follow survives outages. Events arrive through a consumer on one of the servers. While that server is down,
// Follow reads them one by one from the log's leader. So a follower lags at most two heartbeats while events
// can be written.
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
			s.cfg.Log.Warn("following the log; trying again", "next", f.next, "error", err)
		}
	}
	return nil
}

// follower is one call of Follow.
type follower struct {
	s      *Log
	next   uint64 // sequence of the next event to apply
	apply  func([]events.Event) error
	failed error // error of apply
}

// take applies a batch of events in order, skipping those applied before.
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

// poll reads from the log's leader until there is a new consumer. again delays the new consumer, as the
// previous one was lost too. poll returns nil when ctx ends or apply fails. A cluster without a meta leader
// cannot create consumers, although the log may have a leader.
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
				f.s.cfg.Log.Debug("no consumer to follow the log; trying again", "error", err)
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
			return nil, nil // ended
		case <-tick.C:
		}
		if err := f.take(f.s.readOn(ctx, f.next)); err != nil {
			return nil, err
		}
	}
}

// newFollowConsumer creates a consumer for one follower, under a new name: one created by a request without a
// response may be on a server that is down.
func (s *Log) newFollowConsumer(ctx context.Context, from uint64) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return s.js.CreateConsumer(ctx, events.StreamEvents, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: followUnused,
	})
}

// readOn returns the events from a sequence on, as the log's leader has them: those that it receives within
// followRead, at most followBatch.
func (s *Log) readOn(ctx context.Context, from uint64) (batch []events.Event) {
	ctx, cancel := context.WithTimeout(ctx, followRead)
	defer cancel()
	for len(batch) < followBatch {
		m, err := s.events.GetMsg(ctx, from, jetstream.WithGetMsgSubject(events.SubjectEvent+">"))
		if err != nil {
			return batch // no more events, or the next call retries
		}
		ev := s.decodeRaw(m)
		batch = append(batch, ev)
		from = m.Sequence + 1
	}
	return batch
}

// consume applies the deliveries of a consumer until ctx ends, apply fails or the consumer ends.
func (f *follower) consume(ctx context.Context, cons jetstream.Consumer) error {
	reconnected := f.s.nc.StatusChanged(nats.CONNECTED)
	defer f.s.nc.RemoveStatusListener(reconnected)
	iter, err := cons.Messages(jetstream.PullMaxMessages(followBatch),
		jetstream.PullHeartbeat(followHeartbeat))
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

// receive passes on the deliveries of a consumer from the sequence next on. It returns an error at the first
// missing message.
func (s *Log) receive(ctx context.Context, iter jetstream.MessagesContext, next uint64,
	messages chan<- events.Event) error {
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
		// Ended keys are purged, so old events may have gaps before them.
		if is > next && (delivered == 1 || time.Since(meta.Timestamp) < gapFor) {
			if err := s.notThere(ctx, next, is); err != nil {
				return err
			}
		}
		next = is + 1
		ev, err := events.Decode(m.Subject(), m.Headers(), m.Data(), is)
		if err != nil {
			s.cfg.Log.Warn("event skipped", "sequence", is, "subject", m.Subject(), "error", err)
			ev.Sequence, ev.Payload = is, nil
		}
		select {
		case messages <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gapFor is the age below which an event's predecessors are checked. Ended exports are purged later than
// that, and nothing else makes gaps.
const gapFor = 30 * time.Second

// notThere returns an error if the log holds an event from next on that comes before sequence is. Consumer
// numbers show gaps in the deliveries, not in the log: on three servers that were killed in turn, one
// consumer started with the second event of a log that held the first. A lagging leader proves nothing.
func (s *Log) notThere(ctx context.Context, next, is uint64) error {
	m, err := s.events.GetMsg(ctx, next, jetstream.WithGetMsgSubject(events.SubjectEvent+">"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		// The delivered event may have been purged since. A lagging leader looks the same.
		info, err := streams.LeaderInfo(ctx, s.events)
		if err == nil && info.State.LastSeq < is {
			err = fmt.Errorf("the log's leader knows %d events, and number %d was delivered",
				info.State.LastSeq, is)
		}
		return err
	}
	if err == nil && m.Sequence < is {
		err = fmt.Errorf("sequence %d was passed over", m.Sequence)
	}
	return err
}
