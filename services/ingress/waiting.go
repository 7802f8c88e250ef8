package ingress

import (
	"maps"
	"sync"
	"time"
)

const (
	// maxWaiting limits how many durable submissions of one tenant wait for its quota, and maxWaitingBytes
	// their bytes. They use the consumer's pending set and the stream, which all tenants share. Further ones
	// are rejected.
	maxWaiting      = 1000
	maxWaitingBytes = 64 << 20
	// knownWaiting multiplies these limits for submissions that have waited before, because this process may
	// see newer ones first.
	knownWaiting = 4
)

// waitsFor is how long a returned submission counts as waiting. It comes back within one and a half
// quotaWait. Another ingress may take it, and this one would not notice.
const waitsFor = 2 * quotaWait

// backlog tracks the durable submissions that were returned to the stream and wait. It is safe for concurrent
// use.
type backlog struct {
	mu         sync.Mutex
	waiting    map[string]map[uint64]waitingSubmission // for the quota, by tenant and sequence
	handedBack map[uint64]uint64                       // by sequence: how often it waited for a slot
}

func newBacklog() *backlog {
	return &backlog{waiting: map[string]map[uint64]waitingSubmission{}, handedBack: map[uint64]uint64{}}
}

// waitingSubmission is a durable submission that waits for its tenant's quota.
type waitingSubmission struct {
	bytes int
	until time.Time // when it stops counting
}

// add records a waiting durable submission, and reports whether it may wait. again means that it has waited
// before.
func (l *backlog) add(tenant string, sequence uint64, bytes int, again bool) bool {
	limit, byteLimit := maxWaiting, maxWaitingBytes
	if again {
		limit, byteLimit = knownWaiting*limit, knownWaiting*byteLimit
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.waiting[tenant]
	if waiting == nil {
		waiting = map[uint64]waitingSubmission{}
		l.waiting[tenant] = waiting
	}
	now := time.Now()
	full := func() bool {
		sum := bytes
		for _, w := range waiting {
			sum += w.bytes
		}
		return len(waiting) >= limit || len(waiting) > 0 && sum > byteLimit
	}
	if _, ok := waiting[sequence]; !ok && full() {
		maps.DeleteFunc(waiting, func(_ uint64, w waitingSubmission) bool { return now.After(w.until) })
		if full() {
			return false
		}
	}
	waiting[sequence] = waitingSubmission{bytes: bytes, until: now.Add(waitsFor)}
	return true
}

// remove drops a submission that was accepted or rejected.
func (l *backlog) remove(tenant string, sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.waiting[tenant], sequence); len(l.waiting[tenant]) == 0 {
		delete(l.waiting, tenant)
	}
}

// maxHandBacks bounds the submissions with a remembered number of waits. This process does not notice when
// another one takes a submission.
const maxHandBacks = 100_000

// countHandBack counts a submission that waits for its tenant's share of the slots.
func (l *backlog) countHandBack(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.handedBack) >= maxHandBacks {
		clear(l.handedBack)
	}
	l.handedBack[sequence]++
}

// handBacks returns how often a submission waited for a slot. It starts from 0 in each process.
func (l *backlog) handBacks(sequence uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.handedBack[sequence]
	delete(l.handedBack, sequence)
	return n
}
