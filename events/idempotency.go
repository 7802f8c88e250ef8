package events

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// IdempotencyClaim is what an Idempotency-Key of a caller is bound to.
type IdempotencyClaim struct {
	Key    string `json:"hash_key"`        // of the export that its request asks for
	Before uint64 `json:"round,omitempty"` // sequence of the round that the export was in when the key came, 0 for none: the key's own is a later one
}

func (s *Streams) idempotencySubject(tenant, key string) string {
	m := hmac.New(sha256.New, s.keys.hash)
	m.Write([]byte("idempotency\x00" + tenant + "\x00" + key))
	return subjectIdempotency + tenant + "." + hex.EncodeToString(m.Sum(nil)[:16])
}

// IdempotencyKey returns what a key is bound to, from the leader, and whether it is.
func (s *Streams) IdempotencyKey(ctx context.Context, tenant, key string) (c IdempotencyClaim, ok bool, err error) {
	st, err := s.js.Stream(ctx, StreamIdempotency)
	if err != nil {
		return c, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, s.idempotencySubject(tenant, key))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return c, false, nil
	case err != nil:
		return c, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := json.Unmarshal(m.Data, &c); err != nil {
		return c, false, fmt.Errorf("Idempotency-Key: %w", err)
	}
	return c, true, nil
}

// ClaimIdempotencyKey binds a key that a caller has chosen, and returns what it was
// bound to first: c, or what another request with the key was for. Of two that come
// at once one is first. The binding lasts as long as Config.KeepIdempotency; only an
// HMAC of the key is kept.
func (s *Streams) ClaimIdempotencyKey(ctx context.Context, tenant, key string, c IdempotencyClaim) (first IdempotencyClaim, err error) {
	if err := checkName(tenant, c.Key); err != nil {
		return first, err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return first, fmt.Errorf("Idempotency-Key: %w", err)
	}
	publish, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	for attempt := uint64(1); ; attempt++ {
		_, err = s.js.PublishMsg(publish, &nats.Msg{Subject: s.idempotencySubject(tenant, key), Data: data})
		if err == nil {
			return c, nil
		}
		if err = publishError(err); !errors.Is(err, errSubjectTaken) {
			return first, err
		}
		first, ok, err := s.IdempotencyKey(ctx, tenant, key)
		if err != nil || ok {
			return first, err
		}
		if attempt >= uint64(s.cfg.PublishAttempts) {
			return first, fmt.Errorf("%w: an Idempotency-Key is taken and not there", ErrUnavailable)
		}
		wait(ctx, backoff(attempt)) // it expired in between
	}
}
