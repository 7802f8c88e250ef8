package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// leaderInfo returns the state of a stream as its leader knows it.
//
// While a stream has no leader, each server that has a copy answers for itself,
// however far behind it is, and a leader that was left alone or stopped goes on
// answering for ten seconds and more while the others have a new one (read in
// nats-server 2.15.2, jsStreamInfoRequest and lostQuorum). Such an answer would call
// pages missing that are there, and is an error.
func leaderInfo(ctx context.Context, st jetstream.Stream, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := st.Info(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if err := byLeader(info); err != nil {
		return nil, err
	}
	return info, nil
}

var errNoLeader = errors.New("the stream has no leader")

// quorumSeen is how long a copy may be silent before it counts as away. A leader
// hears from each copy once a second or two; one that does not hear from a leader
// takes part in electing another after four.
const quorumSeen = 3 * time.Second

// byLeader returns an error unless an answer is that of a leader who hears from
// most of the copies. A server leaves itself out of the copies that it lists.
func byLeader(info *jetstream.StreamInfo) error {
	if info.Cluster == nil || info.Config.Replicas <= 1 {
		return nil
	}
	away := 0
	for _, r := range info.Cluster.Replicas {
		if r.Name == info.Cluster.Leader {
			return errNoLeader
		}
		if r.Offline || r.Active > quorumSeen {
			away++
		}
	}
	if info.Cluster.Leader == "" {
		return errNoLeader
	}
	if copies := len(info.Cluster.Replicas) + 1; 2*away >= copies {
		return fmt.Errorf("%w that hears from most copies: %d of %d are away", errNoLeader, away, copies)
	}
	return nil
}

// Quorum returns an error while the log can take no event: it has no leader, or
// the leader does not hear from most of the copies.
func (s *Streams) Quorum(ctx context.Context) error {
	if _, err := leaderInfo(ctx, s.events); err != nil {
		return fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
	}
	return nil
}

// ReadSince is Read by somebody who was given an event of the export. A consumer
// and its stream may have different leaders, and an event may be delivered
// before the stream's has stored it. Then, or when that leader was overtaken by
// another without knowing, what it says is older than the event, and the answer
// is ErrUnavailable.
func (s *Streams) ReadSince(ctx context.Context, ev Event) (Export, error) {
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
func (s *Streams) notBehind(ctx context.Context, x *Export, seen uint64) error {
	if x.LastSeq >= seen {
		return nil
	}
	info, err := leaderInfo(ctx, s.events)
	if err != nil {
		return fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
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
	return fmt.Errorf("%w: the log's leader does not know the event at sequence %d yet", ErrUnavailable, seen)
}
