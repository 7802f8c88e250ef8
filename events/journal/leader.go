package journal

import (
	"context"
	"fmt"

	"sheaf/events"
	"sheaf/events/internal/streams"
)

// Quorum returns an error while the log can take no event: it has no leader, or
// the leader does not hear from most of the copies.
func (s *Log) Quorum(ctx context.Context) error {
	if _, err := streams.LeaderInfo(ctx, s.events); err != nil {
		return fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamEvents, err)
	}
	return nil
}

// ReadSince is Read by somebody who was given an event of the export. A consumer
// and its stream may have different leaders, and an event may be delivered
// before the stream's has stored it. Then, or when that leader was overtaken by
// another without knowing, what it says is older than the event, and the answer
// is ErrUnavailable.
func (s *Log) ReadSince(ctx context.Context, ev events.Event) (events.Export, error) {
	x, err := s.Read(ctx, ev.Tenant, ev.Key)
	if err != nil {
		return x, err
	}
	return x, s.notBehind(ctx, &x, ev.Sequence)
}

// notBehind returns ErrUnavailable if x, as the log's leader told it, is older
// than an event of it that was seen: the leader was overtaken by another and does
// not know yet. A key that was purged since is older for good: then the leader knows the
// log beyond that event, and says the same of the key again.
func (s *Log) notBehind(ctx context.Context, x *events.Export, seen uint64) error {
	if x.LastSeq >= seen {
		return nil
	}
	info, err := streams.LeaderInfo(ctx, s.events)
	if err != nil {
		return fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamEvents, err)
	}
	if info.State.LastSeq >= seen {
		again, err := s.Read(ctx, x.Tenant, x.Key)
		if err != nil {
			return err
		}
		if again.LastSeq >= seen || again.LastSeq == x.LastSeq {
			*x = again
			return nil
		}
	}
	return fmt.Errorf("%w: the log's leader does not know the event at sequence %d yet", events.ErrUnavailable, seen)
}
