package journal

import (
	"context"
	"sync"

	"sheaf/events"
)

// ownEvents remembers the newest events that this process wrote, by key. It is safe for concurrent use.
type ownEvents struct {
	mu         sync.Mutex
	young, old map[string]uint64
}

// maxOwn bounds the keys of young and of old: about 1 MiB together.
const maxOwn = 4096

func (n *ownEvents) wrote(key string, sequence uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if max(n.young[key], n.old[key]) > sequence {
		return // another call of Append was later
	}
	if n.young == nil || len(n.young) >= maxOwn {
		n.young, n.old = map[string]uint64{}, n.young
	}
	n.young[key] = sequence
}

// forget is for an event that may or may not have been written.
func (n *ownEvents) forget(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.young, key)
	delete(n.old, key)
}

func (n *ownEvents) is(key string, sequence uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return sequence > 0 && max(n.young[key], n.old[key]) == sequence
}

// ReadDelivered is ReadSince for the handler of a delivery. It asks the leader unless the answer is in the
// event: on an embedded server all writers are in this process. If it wrote this event and none after it, and
// no handler had the message before, nothing has happened to the export since.
func (s *Log) ReadDelivered(ctx context.Context, d Delivery, ev events.Event) (events.Export, error) {
	if s.Embedded() && d.Delivered == 1 && ev.Export != nil && s.own.is(ev.Key, ev.Sequence) {
		return *ev.Export, nil
	}
	return s.ReadSince(ctx, ev)
}
