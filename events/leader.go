package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// leaderInfo returns the state of a stream as its leader knows it.
//
// While a stream has no leader, each server that has a copy answers for itself,
// however far behind it is (read in nats-server 2.15.2, jsStreamInfoRequest).
// Such an answer would call pages missing that are there, and is an error.
func leaderInfo(ctx context.Context, st jetstream.Stream, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := st.Info(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if !byLeader(info) {
		return nil, errNoLeader
	}
	return info, nil
}

var errNoLeader = errors.New("the stream has no leader")

// byLeader reports whether an answer is the leader's. A server leaves itself out
// of the copies that it lists.
func byLeader(info *jetstream.StreamInfo) bool {
	if info.Cluster == nil || info.Config.Replicas <= 1 {
		return true
	}
	return info.Cluster.Leader != "" && !slices.ContainsFunc(info.Cluster.Replicas, func(r *jetstream.PeerInfo) bool {
		return r.Name == info.Cluster.Leader
	})
}

// quorumSeen is how long a copy may be silent before it counts as away. A leader
// hears from each copy once a second.
const quorumSeen = 5 * time.Second

// Quorum returns an error while the log can take no event: it has no leader, or
// the leader does not hear from most of the copies. A leader that was left alone
// goes on answering questions for ten seconds.
func (s *Streams) Quorum(ctx context.Context) error {
	info, err := leaderInfo(ctx, s.events)
	if err != nil {
		return fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
	}
	if info.Cluster == nil {
		return nil
	}
	away := 0
	for _, r := range info.Cluster.Replicas {
		if r.Offline || r.Active > quorumSeen {
			away++
		}
	}
	if copies := len(info.Cluster.Replicas) + 1; 2*away >= copies {
		return fmt.Errorf("%w: %d of %d copies of %s are away", ErrUnavailable, away, copies, StreamEvents)
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
// not know yet. A key whose events were trimmed is older for good.
func (s *Streams) notBehind(ctx context.Context, x *Export, seen uint64) error {
	if x.LastSeq >= seen {
		return nil
	}
	info, err := leaderInfo(ctx, s.events)
	if err != nil {
		return fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
	}
	if info.State.FirstSeq > seen {
		return nil
	}
	return fmt.Errorf("%w: the log's leader does not know the event at sequence %d yet", ErrUnavailable, seen)
}
