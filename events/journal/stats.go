package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamStats is the size of a stream, from its leader.
type StreamStats struct {
	Name     string
	Space    events.Space
	Messages uint64
}

// ConsumerStats is the progress of a durable consumer, over all processes.
type ConsumerStats struct {
	Name           string
	Stream         string
	Pending        uint64 // messages that were never delivered
	Unacknowledged int    // messages that were delivered: in work, or waiting for redelivery
	// OldestPending is when the oldest message that was never delivered was stored; zero without one.
	OldestPending time.Time
}

// Stats returns the sizes of all streams and the progress of all consumers. It asks the servers some twenty
// times, so call it every few seconds at most.
func (s *Log) Stats(ctx context.Context) (sizes []StreamStats, consumers []ConsumerStats, err error) {
	byName := map[string]jetstream.Stream{}
	for _, sc := range append(streamConfigs(s.cfg), memoryStreams(s.cfg)...) {
		st, err := s.js.Stream(ctx, sc.Name)
		if err == nil {
			err = streams.ByLeader(st.CachedInfo())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, sc.Name, err)
		}
		info := st.CachedInfo()
		byName[sc.Name] = st
		sizes = append(sizes, StreamStats{sc.Name,
			events.Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)}, info.State.Msgs})
	}
	for _, c := range consumerConfigs(s.cfg) {
		cs, err := consumerStats(ctx, byName[c.stream], c)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: state of consumer %s: %w", events.ErrUnavailable, c.config.Durable, err)
		}
		consumers = append(consumers, cs)
	}
	return sizes, consumers, nil
}

func consumerStats(ctx context.Context, st jetstream.Stream, c consumerConfig) (ConsumerStats, error) {
	cs := ConsumerStats{Name: c.config.Durable, Stream: c.stream}
	cons, err := st.Consumer(ctx, cs.Name)
	if err != nil {
		return cs, err
	}
	info := cons.CachedInfo()
	cs.Pending, cs.Unacknowledged = info.NumPending, info.NumAckPending
	if cs.Pending == 0 {
		return cs, nil
	}
	for _, filter := range c.config.FilterSubjects {
		m, err := st.GetMsg(ctx, info.Delivered.Stream+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return cs, err
		}
		if cs.OldestPending.IsZero() || m.Time.Before(cs.OldestPending) {
			cs.OldestPending = m.Time
		}
	}
	return cs, nil
}

// Redeliveries returns how many messages were delivered to this process that had been delivered before, by
// consumer.
func (s *Log) Redeliveries() map[string]uint64 {
	n := make(map[string]uint64, len(s.again))
	for name, count := range s.again {
		n[name] = count.Load()
	}
	return n
}
