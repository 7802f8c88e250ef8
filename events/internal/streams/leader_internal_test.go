package streams

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestOnlyALeaderWithAQuorumIsTrusted(t *testing.T) {
	t.Parallel()
	replicas := func(names ...string) (list []*jetstream.PeerInfo) {
		for _, n := range names {
			list = append(list, &jetstream.PeerInfo{Name: n})
		}
		return list
	}
	for name, c := range map[string]struct {
		copies  int
		cluster *jetstream.ClusterInfo
		want    bool
	}{
		"no cluster":            {1, nil, true},
		"one copy in a cluster": {1, &jetstream.ClusterInfo{Leader: "a"}, true},
		"the leader": {3,
			&jetstream.ClusterInfo{Leader: "a", Replicas: replicas("b", "c")}, true},
		"anybody, during an election": {3,
			&jetstream.ClusterInfo{Replicas: replicas("a", "b", "c")}, false},
		"one that just learned the leader": {3,
			&jetstream.ClusterInfo{Leader: "a", Replicas: replicas("a", "c")}, false},
		"one that a copy is away from": {3,
			&jetstream.ClusterInfo{Leader: "a",
				Replicas: []*jetstream.PeerInfo{{Name: "b"}, {Name: "c", Active: time.Minute}}}, true},
		"one that hears from no replica": {3,
			&jetstream.ClusterInfo{Leader: "a",
				Replicas: []*jetstream.PeerInfo{{Name: "b", Offline: true},
					{Name: "c", Active: time.Minute}}}, false},
	} {
		info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Replicas: c.copies}, Cluster: c.cluster}
		require.Equal(t, c.want, ByLeader(info) == nil, name)
	}
}
