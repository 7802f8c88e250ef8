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

// errcodeIdempotency answers an Idempotency-Key that came with another request before.
const errcodeIdempotency = 422

// repeats reports whether a call's Idempotency-Key has already begun its export, whatever the age of the
// request. The call then begins nothing.
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

// bind binds a call's Idempotency-Key to the round that the call begins, or to the existing one. It comes
// last, so that a refused request can be corrected and sent with the same key. done means that another call
// with the key was first.
func (s *Service) bind(ctx context.Context, c call, x *events.Export, there bool) (done, bound bool, err error) {
	if c.idempotency == "" {
		return false, false, nil
	}
	claim := journal.IdempotencyClaim{Key: x.Key, Before: x.RequestedSeq}
	if there {
		claim.Before = 0 // the existing round answers it
	}
	first, err := s.journal.ClaimIdempotencyKey(ctx, c.tenant, c.idempotency, claim)
	if err != nil || first == claim {
		return false, err == nil, err
	}
	done, err = s.answered(ctx, c, x.Key, first)
	return done, false, err
}

// answered reports whether a call's Idempotency-Key has begun its export, however that ended. The call then
// begins nothing.
//
// A process may die after it binds the key and before its round begins; the repetition then begins it. The
// same holds if the export is forgotten before the key.
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

// release frees a key that a call has bound, after an error proves that nothing began. Otherwise a repetition
// would get an answer without an export.
func (s *Service) release(ctx context.Context, c call, sub *request.Checked, err error) {
	var refused *apiError
	if !errors.As(err, &refused) && !errors.Is(err, events.ErrNoSpace) && !errors.Is(err, nats.ErrMaxPayload) {
		return // the binding may be stored
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
	defer cancel()
	claim, known, err := s.journal.IdempotencyKey(ctx, c.tenant, c.idempotency)
	if err != nil || !known {
		return
	}
	if x, err := s.journal.Read(ctx, c.tenant, sub.Key); err != nil || x.RequestedSeq > claim.Before {
		return // a concurrent equal request has begun it
	}
	if err := s.journal.ReleaseIdempotencyKey(ctx, c.tenant, c.idempotency); err != nil {
		s.log(c.requestID).Warn("an Idempotency-Key stays bound although nothing was begun", "tenant", c.tenant, "hash_key", sub.Key, "error", err)
	}
}
