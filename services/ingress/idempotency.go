package ingress

import (
	"context"
	"errors"
	"net/http"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
)

// errcodeIdempotency is of an Idempotency-Key that came with another request before.
const errcodeIdempotency = 422

// repeats reports whether the Idempotency-Key of a call has begun its export before,
// however old the request is: then nothing is to be begun.
func (s *Service) repeats(ctx context.Context, c call, hashKey string) (bool, error) {
	if c.idempotency == "" {
		return false, nil
	}
	claim, known, err := s.journal.IdempotencyKey(ctx, c.tenant, c.idempotency)
	if err != nil || !known {
		return false, err
	}
	return s.answered(ctx, c, hashKey, claim)
}

// bind binds the Idempotency-Key of a call to the round that the call begins, or to the
// one that is there. It comes last, so that a request that is refused can be sent again,
// corrected, with the same key. done means that another call with the key was first.
func (s *Service) bind(ctx context.Context, c call, x *events.Export, there bool) (done, bound bool, err error) {
	if c.idempotency == "" {
		return false, false, nil
	}
	claim := journal.IdempotencyClaim{Key: x.Key, Before: x.RequestedSeq}
	if there {
		claim.Before = 0 // the round that is there answers it
	}
	first, err := s.journal.ClaimIdempotencyKey(ctx, c.tenant, c.idempotency, claim)
	if err != nil || first == claim {
		return false, err == nil, err
	}
	done, err = s.answered(ctx, c, x.Key, first)
	return done, false, err
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
