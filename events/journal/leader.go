package journal

import (
	"context"
	"fmt"

	"sheaf/events"
	"sheaf/events/internal/streams"
)

// Quorum returns an error while the log cannot accept events: it has no leader, or the leader does not hear
// from most replicas.
func (s *Log) Quorum(ctx context.Context) error {
	if _, err := streams.LeaderInfo(ctx, s.events); err != nil {
		return fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamEvents, err)
	}
	return nil
}

// ReadSince is Read for a caller that received an event of the export. A consumer and its stream may have
// different leaders, and an event may be delivered before the stream's leader has stored it. In that case, or
// if that leader was replaced without knowing, its state is older than the event, and the error is
// ErrUnavailable.
func (s *Log) ReadSince(ctx context.Context, ev events.Event) (events.Export, error) {
	x, err := s.Read(ctx, ev.Tenant, ev.Key)
	if err != nil {
		return x, err
	}
	return x, s.notBehind(ctx, &x, ev.Sequence)
}

// notBehind returns ErrUnavailable if x, as read from the log's leader, is older than a known event of it:
// the leader was replaced and does not know yet. If the key was purged meanwhile, x stays older. The leader
// then knows events beyond the known one, and gives the same answer about the key again.
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
	return fmt.Errorf("%w: the log's leader does not know the event at sequence %d yet",
		events.ErrUnavailable, seen)
}
