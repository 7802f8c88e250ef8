// Package streams holds what journal and pages share about JetStream streams: which answers are trustworthy,
// the meaning of errors, back-off, and how tenants take turns in writing.
package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go/jetstream"
)

// LeaderInfo returns the state of a stream from its leader.
//
// While a stream has no leader, each server with a replica answers for itself, however much it lags. A leader
// that was cut off or stopped keeps answering for ten seconds or more while the others have a new one
// (nats-server 2.15.2, jsStreamInfoRequest and lostQuorum). Such an answer would report existing pages as
// missing, so it is an error.
func LeaderInfo(ctx context.Context, st jetstream.Stream,
	opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := st.Info(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if err := ByLeader(info); err != nil {
		return nil, err
	}
	return info, nil
}

// ErrNoLeader explains why an answer about a stream is not trusted.
var ErrNoLeader = errors.New("the stream has no leader")

// quorumSeen is how long a replica may be silent before it counts as down. A leader hears from each replica
// every second or two. A replica that does not hear from its leader starts an election after four.
const quorumSeen = 3 * time.Second

// ByLeader returns an error unless the answer comes from a leader that hears from most replicas. A server
// does not list itself among the replicas.
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

// Space returns the size and limit of a stream, from its leader.
func Space(ctx context.Context, name string, stream jetstream.Stream) (events.Space, error) {
	info, err := LeaderInfo(ctx, stream)
	if err != nil {
		return events.Space{}, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, name, err)
	}
	return events.Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)}, nil
}
