package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// mostCommitted and mostCommittedBytes bound what goes to the log as one batch. The
	// server takes 1,000 messages.
	mostCommitted      = 64
	mostCommittedBytes = 4 << 20
	// mostOfOne is how many of them may be one tenant's. Another tenant's event then waits
	// for one write at most, whatever the first one floods.
	mostOfOne = mostCommitted / 2
)

// commits is the group commit of the log. The server syncs an atomic batch once, but a
// lone message each time, and the sync is what takes long. So while one write is in
// flight, the events that come wait and go together as the next one. Each keeps its own
// fence.
type commits struct {
	mu      sync.Mutex
	waiting []*commit
	busy    bool // a goroutine carries out what waits
}

// commit is one event that waits to be written.
type commit struct {
	msg    *nats.Msg // with its fence
	tenant string
	filter string // of its key

	done     chan struct{} // closed when what follows is set
	sequence uint64
	err      error
}

// publishEvent writes an event to the log under the condition that the last sequence over
// its key is last.
func (s *Log) publishEvent(ctx context.Context, msg *nats.Msg, last uint64, tenant, key string) (uint64, error) {
	filter := events.KeyFilter(tenant, key)
	fence(msg, last, filter)
	c := &commit{msg: msg, tenant: tenant, filter: filter, done: make(chan struct{})}
	q := &s.commits
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	begin := !q.busy
	q.busy = true
	q.mu.Unlock()
	if begin {
		go s.carryOut()
	}
	select {
	case <-c.done:
		return c.sequence, c.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err()) // it may yet be written
	}
}

// carryOut writes until nothing waits.
func (s *Log) carryOut() {
	for {
		group := s.commits.take()
		if len(group) == 0 {
			return
		}
		s.write(group)
	}
}

// take removes what can go as one batch: of each key one event, for the second would
// contradict the first's fence. It returns nothing, and busy ends, when nothing waits.
func (q *commits) take() (group []*commit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	keys, tenants, bytes := map[string]bool{}, map[string]int{}, 0
	var left []*commit
	for _, c := range q.waiting {
		size := c.msg.Size()
		if keys[c.filter] || tenants[c.tenant] == mostOfOne || len(group) == mostCommitted || len(group) > 0 && bytes+size > mostCommittedBytes {
			left = append(left, c)
			continue
		}
		keys[c.filter] = true
		tenants[c.tenant]++
		bytes += size
		group = append(group, c)
	}
	q.waiting = left
	q.busy = len(group) > 0
	return group
}

// write writes a group of events, together if they are several. A batch that the server
// refuses is written one by one: one event of it lost a race, or does not fit.
func (s *Log) write(group []*commit) {
	defer func() {
		for _, c := range group {
			close(c.done)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.PublishTimeout)
	defer cancel()
	failpoint.Hit("append.before")
	if len(group) > 1 {
		last, err := s.publishBatch(ctx, group)
		if err == nil {
			failpoint.Hit("append.after")
			for i, c := range group {
				c.sequence = last - uint64(len(group)-1-i)
			}
			return
		}
		if errors.Is(err, events.ErrUnavailable) { // it may be written
			for _, c := range group {
				c.err = err
			}
			return
		}
	}
	for _, c := range group {
		for _, name := range []string{jetstreamext.BatchIDHeader, jetstreamext.BatchSeqHeader, jetstreamext.BatchCommitHeader} {
			c.msg.Header.Del(name)
		}
		c.msg.Reply = ""
		ack, err := s.js.PublishMsg(ctx, c.msg)
		if err != nil {
			c.err = streams.PublishError(err)
			continue
		}
		failpoint.Hit("append.after")
		c.sequence = ack.Sequence
	}
}

// publishBatch publishes events all or none, and returns the sequence of the last one.
func (s *Log) publishBatch(ctx context.Context, group []*commit) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(group))
	for i, c := range group {
		msgs[i] = c.msg
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs, jetstreamext.BatchFlowControl{AckTimeout: s.cfg.PublishTimeout})
	if err != nil {
		return 0, streams.PublishError(err)
	}
	return ack.Sequence, nil
}
