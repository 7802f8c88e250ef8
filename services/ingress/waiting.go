package ingress

import (
	"maps"
	"sync"
	"time"
)

const (
	// maxWaiting is how many durable submissions of one tenant may wait for its
	// quota, and maxWaitingBytes how many bytes. They fill the consumer's set of
	// pending messages and the stream, which all tenants share; more are rejected.
	maxWaiting      = 1000
	maxWaitingBytes = 64 << 20
	// knownWaiting is how much more of those may wait that did so before: others may
	// have come first to this process.
	knownWaiting = 4
)

// waitsFor is how long a submission that was handed back is taken to wait: it is
// offered again within one and a half quotaWait, and another ingress may take it,
// which nobody tells this one.
const waitsFor = 2 * quotaWait

// backlog knows the durable submissions that were handed back and wait. It is safe for
// concurrent use.
type backlog struct {
	mu         sync.Mutex
	waiting    map[string]map[uint64]waitingSubmission // for the quota, by tenant and sequence
	handedBack map[uint64]uint64                       // by sequence, how often it waited for a slot
}

func newBacklog() *backlog {
	return &backlog{waiting: map[string]map[uint64]waitingSubmission{}, handedBack: map[uint64]uint64{}}
}

// waitingSubmission is a durable submission that waits for its tenant's quota.
type waitingSubmission struct {
	bytes int
	until time.Time // that it waits, if nothing is heard of it
}

// add notes that a durable submission waits, and reports whether it may.
// again says that it came before.
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

// remove is called when a submission was taken or rejected.
func (l *backlog) remove(tenant string, sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.waiting[tenant], sequence); len(l.waiting[tenant]) == 0 {
		delete(l.waiting, tenant)
	}
}

// maxHandBacks bounds the submissions whose number of waits is remembered. When another
// process takes one, this one does not hear of it.
const maxHandBacks = 100_000

// countHandBack notes that a submission waits for its tenant's share of the slots.
func (l *backlog) countHandBack(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.handedBack) >= maxHandBacks {
		clear(l.handedBack)
	}
	l.handedBack[sequence]++
}

// handBacks returns how often a submission waited for that. It starts from 0 in each process.
func (l *backlog) handBacks(sequence uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.handedBack[sequence]
	delete(l.handedBack, sequence)
	return n
}
