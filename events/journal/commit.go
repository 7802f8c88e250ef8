package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// maxBatch and maxBatchBytes bound one batch written to the log. The server accepts 1,000 messages.
	maxBatch      = 64
	maxBatchBytes = 4 << 20
	// maxBatchPerTenant is how many of them one tenant may have. Other tenants' events then wait for at most
	// one write during a flood.
	maxBatchPerTenant = maxBatch / 2
	// batchCost is the least time that a batch must save. The server creates a store on disk for each batch,
	// which took 2 ms of processor time (measured on two cores).
	batchCost = 10 * time.Millisecond
	// measureEvery is how many groups are written until one is written separately, to measure again.
	measureEvery = 32
)

// commits is the group commit of the log. Events that arrive during a write are queued and become the next
// group. It is written as separate messages, which the server syncs one by one, or as an atomic batch, which
// the server syncs once. On a disk that syncs slowly, or one that others keep busy, a batch is faster; on a
// fast disk separate messages are three to five times as fast. Each event keeps its own fence.
type commits struct {
	mu      sync.Mutex
	waiting []*commit
	busy    bool // a goroutine is writing the queue

	// Only that goroutine uses these.
	each   time.Duration // for one of several separate messages, as last measured
	batch  time.Duration // for a batch, as last measured; 0 before the first
	groups int           // written so far
}

// batched reports whether a group is written as a batch. On a busy machine both ways take long, so the time of
// one alone proves nothing.
func (q *commits) batched(size int) bool {
	q.groups++
	return size > 1 && q.groups%measureEvery != 0 && time.Duration(size)*q.each > 2*q.batch+batchCost
}

// commit is one queued event.
type commit struct {
	msg    *nats.Msg // with its fence
	tenant string
	filter string // of the event's key

	done     chan struct{} // closed once the fields below are set
	sequence uint64
	err      error
}

// publishEvent writes an event to the log if last is still the last sequence of its key.
func (s *Log) publishEvent(ctx context.Context, msg *nats.Msg, last uint64, tenant,
	key string) (uint64, error) {
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
		go s.writeQueued()
	}
	select {
	case <-c.done:
		return c.sequence, c.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err()) // it may still be written
	}
}

// writeQueued writes batches until the queue is empty.
func (s *Log) writeQueued() {
	for {
		group := s.commits.nextBatch()
		if len(group) == 0 {
			return
		}
		s.write(group)
	}
}

// nextBatch removes the next batch from the queue: at most one event of each key, because a second one would
// contradict the first one's fence. If the queue is empty it returns nothing and clears busy.
func (q *commits) nextBatch() (group []*commit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	keys, tenants, bytes := map[string]bool{}, map[string]int{}, 0
	var left []*commit
	for _, c := range q.waiting {
		size := c.msg.Size()
		if keys[c.filter] || tenants[c.tenant] == maxBatchPerTenant || len(group) == maxBatch ||
			len(group) > 0 && bytes+size > maxBatchBytes {
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

// write writes a group of events. If the server refuses it as a batch, write retries its events separately: one
// of them lost a race, or does not fit.
func (s *Log) write(group []*commit) {
	defer func() {
		for _, c := range group {
			close(c.done)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.PublishTimeout)
	defer cancel()
	failpoint.Hit("append.before")
	if !s.commits.batched(len(group)) {
		s.publishEach(ctx, group)
		return
	}
	begin := time.Now()
	last, err := s.publishBatch(ctx, group)
	s.commits.batch = time.Since(begin)
	switch {
	case err == nil:
		failpoint.Hit("append.after")
		for i, c := range group {
			c.sequence = last - uint64(len(group)-1-i)
		}
	case errors.Is(err, events.ErrUnavailable): // it may be written
		for _, c := range group {
			c.err = err
		}
	default:
		for _, c := range group {
			for _, name := range []string{jetstreamext.BatchIDHeader, jetstreamext.BatchSeqHeader,
				jetstreamext.BatchCommitHeader} {
				c.msg.Header.Del(name)
			}
			c.msg.Reply = ""
		}
		s.publishEach(ctx, group)
	}
}

// publishEach publishes the events of a group concurrently, each with its own result. They belong to different
// keys, so their order does not matter.
func (s *Log) publishEach(ctx context.Context, group []*commit) {
	begin := time.Now()
	var all sync.WaitGroup
	for _, c := range group {
		all.Go(func() {
			ack, err := s.js.PublishMsg(ctx, c.msg)
			if err != nil {
				c.err = streams.PublishError(err)
				return
			}
			failpoint.Hit("append.after")
			c.sequence = ack.Sequence
		})
	}
	all.Wait()
	s.commits.each = time.Since(begin) / time.Duration(len(group))
}

// publishBatch publishes all events or none, and returns the sequence of the last one.
func (s *Log) publishBatch(ctx context.Context, group []*commit) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(group))
	for i, c := range group {
		msgs[i] = c.msg
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs,
		jetstreamext.BatchFlowControl{AckTimeout: s.cfg.PublishTimeout})
	if err != nil {
		return 0, streams.PublishError(err)
	}
	return ack.Sequence, nil
}
