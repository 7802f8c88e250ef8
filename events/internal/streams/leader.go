// Package streams holds what packages journal and pages both need of a JetStream
// stream: whose answer counts, what a refusal means, how long to wait before the next
// try, and how the writes of tenants take turns.
package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go/jetstream"
)

// LeaderInfo returns the state of a stream as its leader knows it.
//
// While a stream has no leader, each server that has a copy answers for itself,
// however far behind it is, and a leader that was left alone or stopped goes on
// answering for ten seconds and more while the others have a new one (read in
// nats-server 2.15.2, jsStreamInfoRequest and lostQuorum). Such an answer would call
// pages missing that are there, and is an error.
func LeaderInfo(ctx context.Context, st jetstream.Stream, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := st.Info(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if err := ByLeader(info); err != nil {
		return nil, err
	}
	return info, nil
}

// ErrNoLeader is why an answer about a stream is not taken.
var ErrNoLeader = errors.New("the stream has no leader")

// quorumSeen is how long a copy may be silent before it counts as away. A leader
// hears from each copy once a second or two; one that does not hear from a leader
// takes part in electing another after four.
const quorumSeen = 3 * time.Second

// ByLeader returns an error unless an answer is that of a leader who hears from
// most of the copies. A server leaves itself out of the copies that it lists.
func ByLeader(info *jetstream.StreamInfo) error {
	if info.Cluster == nil || info.Config.Replicas <= 1 {
		return nil
	}
	away := 0
	for _, r := range info.Cluster.Replicas {
		if r.Name == info.Cluster.Leader {
			return ErrNoLeader
		}
		if r.Offline || r.Active > quorumSeen {
			away++
		}
	}
	if info.Cluster.Leader == "" {
		return ErrNoLeader
	}
	if copies := len(info.Cluster.Replicas) + 1; 2*away >= copies {
		return fmt.Errorf("%w that hears from most copies: %d of %d are away", ErrNoLeader, away, copies)
	}
	return nil
}

// Space returns the room of a stream, from its leader.
func Space(ctx context.Context, name string, stream jetstream.Stream) (events.Space, error) {
	info, err := LeaderInfo(ctx, stream)
	if err != nil {
		return events.Space{}, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, name, err)
	}
	return events.Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)}, nil
}
