package ingress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/ingress/request"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
)

const (
	errcodeQuota       = 429 // the tenant has as much as it may
	errcodeIdempotency = 422 // the Idempotency-Key came with another request before
)

// quotaWait is when a caller over its quota may come again.
const quotaWait = 30 * time.Second

// Quota bounds what one tenant takes. 0 is no limit.
type Quota struct {
	Unfinished int   // exports that were accepted and have not ended
	FileBytes  int64 // of finished files that have not expired
}

// withinQuota refuses a further export of a tenant that has as much as it may. What
// is accepted at the same moment, here or elsewhere, is not counted yet: the quota
// can be passed by as many as are accepted at once.
func (s *Service) withinQuota(tenant string) error {
	u, err := s.tasks.Usage(tenant)
	if err != nil {
		return err
	}
	over := func(format string, args ...any) error {
		return &apiError{Errcode: errcodeQuota, Status: http.StatusTooManyRequests, Msg: fmt.Sprintf(format, args...), RetryAfter: quotaWait}
	}
	s.outlook.mu.Lock()
	log := s.outlook.log
	s.outlook.mu.Unlock()
	q := s.cfg.Quota
	switch {
	case u.Settled == 0 && storage.Usage{Exports: u.Exports + 1, Bytes: u.Bytes}.TooMuch(log, s.cfg.MaxHistory):
		return over("%d exports of yours, which take %d bytes of the event log, are under way or wait for their callback, and nothing of yours can be forgotten; "+
			"try again when some have ended", u.Exports, u.Bytes)
	case q.Unfinished > 0 && u.Unfinished >= q.Unfinished:
		return over("%d exports of yours are under way, as many as may be; try again when some have ended, or cancel some", u.Unfinished)
	case q.FileBytes > 0 && u.FileBytes >= q.FileBytes:
		return over("your finished files take %d bytes, of %d that they may; try again when some have expired", u.FileBytes, q.FileBytes)
	}
	return nil
}

// answered reports whether the Idempotency-Key of a call has begun its export before,
// however that ended: then nothing is to be begun. A process that died after it bound
// the key has left it without a round of its own; then the repetition begins it, and so
// it does when the export was forgotten before the key.
func (s *Service) answered(ctx context.Context, c call, hashKey string, claim journal.IdempotencyClaim) (bool, error) {
	if claim.Key != hashKey {
		return false, &apiError{
			Errcode: errcodeIdempotency, Status: http.StatusUnprocessableEntity, Field: "Idempotency-Key",
			Msg: "Idempotency-Key: it came with another request before; give each request a key of its own",
		}
	}
	x, err := s.journal.Read(ctx, c.tenant, hashKey)
	return err == nil && x.RequestedSeq > claim.Before, err
}

// mayBegin says whether a submission may begin an export: it is fresh, its tenant has
// room, and its Idempotency-Key is its own. done means that the key has begun the
// export before, bound that it was bound by this call. The key is bound last, so that a
// request that is refused can be sent again, corrected, with the same one; and asked
// first, so that a repetition is answered however old it is.
func (s *Service) mayBegin(ctx context.Context, c call, sub *request.Checked) (done, bound bool, err error) {
	if c.idempotency != "" {
		claim, known, err := s.journal.IdempotencyKey(ctx, c.tenant, c.idempotency)
		if err != nil {
			return false, false, err
		}
		if known {
			done, err := s.answered(ctx, c, sub.Key, claim)
			return done, false, err
		}
	}
	if err := request.Fresh(sub.Request.Timestamp, c.at, s.cfg.MaxSkew); err != nil || c.idempotency == "" {
		return false, false, err
	}
	x, err := s.journal.Read(ctx, c.tenant, sub.Key)
	if err != nil {
		return false, false, err
	}
	// A file whose time is over counts as expired, see expireFirst.
	there := x.State != events.StateNone && !x.State.Terminal() || x.State == events.StateCompleted && time.Now().Before(x.ExpiresAt)
	if !there {
		if err := s.withinQuota(c.tenant); err != nil {
			return false, false, err
		}
	}
	claim := journal.IdempotencyClaim{Key: sub.Key, Before: x.RequestedSeq}
	if there {
		claim.Before = 0 // the round that is there answers it
	}
	first, err := s.journal.ClaimIdempotencyKey(ctx, c.tenant, c.idempotency, claim)
	if err != nil || first == claim {
		return false, err == nil, err
	}
	done, err = s.answered(ctx, c, sub.Key, first) // another was first
	return done, false, err
}

// release takes back a key that a call has bound, after an error that says that nothing
// was begun: a repetition is not to be answered for it.
func (s *Service) release(ctx context.Context, c call, sub *request.Checked, err error) {
	var refused *apiError
	if !errors.As(err, &refused) && !errors.Is(err, events.ErrNoSpace) && !errors.Is(err, nats.ErrMaxPayload) {
		return // it may be written
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
	defer cancel()
	claim, known, err := s.journal.IdempotencyKey(ctx, c.tenant, c.idempotency)
	if err != nil || !known {
		return
	}
	if x, err := s.journal.Read(ctx, c.tenant, sub.Key); err != nil || x.RequestedSeq > claim.Before {
		return // an equal request, at the same time, has begun it
	}
	if err := s.journal.ReleaseIdempotencyKey(ctx, c.tenant, c.idempotency); err != nil {
		s.log(c.requestID).Warn("an Idempotency-Key stays bound although nothing was begun", "tenant", c.tenant, "hash_key", sub.Key, "error", err)
	}
}

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
