package ingress

import (
	"maps"
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

// waitingSubmission is a durable submission that waits for its tenant's quota.
type waitingSubmission struct {
	bytes int
	until time.Time // that it waits, if nothing is heard of it
}

// waitsForQuota notes that a durable submission waits, and reports whether it may.
// again says that it came before.
func (s *Service) waitsForQuota(tenant string, sequence uint64, bytes int, again bool) bool {
	most, mostBytes := maxWaiting, maxWaitingBytes
	if again {
		most, mostBytes = knownWaiting*most, knownWaiting*mostBytes
	}
	s.waitingMu.Lock()
	defer s.waitingMu.Unlock()
	waiting := s.waiting[tenant]
	if waiting == nil {
		waiting = map[uint64]waitingSubmission{}
		s.waiting[tenant] = waiting
	}
	now := time.Now()
	full := func() bool {
		sum := bytes
		for _, w := range waiting {
			sum += w.bytes
		}
		return len(waiting) >= most || len(waiting) > 0 && sum > mostBytes
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

// waitsNoLonger is told when a submission was taken or rejected.
func (s *Service) waitsNoLonger(tenant string, sequence uint64) {
	s.waitingMu.Lock()
	defer s.waitingMu.Unlock()
	if delete(s.waiting[tenant], sequence); len(s.waiting[tenant]) == 0 {
		delete(s.waiting, tenant)
	}
}

// maxHandBacks bounds the submissions whose number of waits is remembered. When another
// process takes one, this one does not hear of it.
const maxHandBacks = 100_000

// countHandBack notes that a submission waits for its tenant's share of the slots.
func (s *Service) countHandBack(sequence uint64) {
	s.waitingMu.Lock()
	defer s.waitingMu.Unlock()
	if len(s.handedBack) >= maxHandBacks {
		clear(s.handedBack)
	}
	s.handedBack[sequence]++
}

// handBacks returns how often a submission waited for that. It starts from 0 in each process.
func (s *Service) handBacks(sequence uint64) uint64 {
	s.waitingMu.Lock()
	defer s.waitingMu.Unlock()
	n := s.handedBack[sequence]
	delete(s.handedBack, sequence)
	return n
}
