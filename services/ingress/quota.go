package ingress

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"sheaf/events"
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
	q := s.cfg.Quota
	if q == (Quota{}) {
		return nil
	}
	u, err := s.tasks.Usage(tenant)
	if err != nil {
		return err
	}
	over := func(format string, args ...any) error {
		return &apiError{Errcode: errcodeQuota, Status: http.StatusTooManyRequests, Msg: fmt.Sprintf(format, args...), RetryAfter: quotaWait}
	}
	switch {
	case q.Unfinished > 0 && u.Unfinished >= q.Unfinished:
		return over("%d exports of yours are under way, as many as may be; try again when some have ended, or cancel some", u.Unfinished)
	case q.FileBytes > 0 && u.FileBytes >= q.FileBytes:
		return over("your finished files take %d bytes, of %d that they may; try again when some have expired", u.FileBytes, q.FileBytes)
	}
	return nil
}

// fresh refuses a request whose timestamp is further from the clock than MaxSkew: it
// may be one that somebody has recorded. at is when it came.
func (s *Service) isFresh(timestamp int64, at time.Time) error {
	skew := s.cfg.MaxSkew
	if skew <= 0 {
		return nil
	}
	if off := at.Sub(time.Unix(timestamp, 0)); off > skew || off < -skew {
		return invalid("timestamp", "请求时间与标准时间差不可大于%s (is %s off the server's clock; at most %s is allowed)", skew, off.Round(time.Second), skew)
	}
	return nil
}

// maxIdempotencyKey is how long an Idempotency-Key may be.
const maxIdempotencyKey = 255

// validIdempotencyKey checks the header of that name: visible ASCII.
func validIdempotencyKey(key string) error {
	if len(key) > maxIdempotencyKey {
		return invalid("Idempotency-Key", "has %d characters, at most %d are allowed", len(key), maxIdempotencyKey)
	}
	for _, c := range []byte(key) {
		if c < 0x21 || c > 0x7e {
			return invalid("Idempotency-Key", "must be visible ASCII characters")
		}
	}
	return nil
}

// claimed binds the Idempotency-Key of a call to its request. done means that the
// export which the key began before is there, however it ended: nothing is to be
// begun. A process that died between the two has left a key without an export; then
// the repetition begins it.
func (s *Service) claimed(ctx context.Context, c call, hashKey string) (done bool, err error) {
	if c.idempotency == "" {
		return false, nil
	}
	first, err := s.streams.ClaimIdempotencyKey(ctx, c.tenant, c.idempotency, hashKey)
	if err != nil {
		return false, err
	}
	if first != hashKey {
		return false, &apiError{
			Errcode: errcodeIdempotency, Status: http.StatusUnprocessableEntity, Field: "Idempotency-Key",
			Msg: "Idempotency-Key: it came with another request before; give each request a key of its own",
		}
	}
	x, err := s.streams.Read(ctx, c.tenant, hashKey)
	return err == nil && x.State != events.StateNone, err
}
