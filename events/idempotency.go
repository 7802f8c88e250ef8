package events

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ClaimIdempotencyKey binds a key that a caller has chosen to the export that its
// request asks for, and returns the export that it was bound to first: hashKey, or
// that of another request which came with the key before. Of two that come at once
// one is first. The binding lasts as long as Config.KeepIdempotency; only an HMAC of
// the key is kept.
func (s *Streams) ClaimIdempotencyKey(ctx context.Context, tenant, key, hashKey string) (first string, err error) {
	if err := checkName(tenant, hashKey); err != nil {
		return "", err
	}
	m := hmac.New(sha256.New, s.keys.hash)
	m.Write([]byte("idempotency\x00" + tenant + "\x00" + key))
	subject := subjectIdempotency + tenant + "." + hex.EncodeToString(m.Sum(nil)[:16])
	publish, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	for attempt := uint64(1); ; attempt++ {
		_, err = s.js.PublishMsg(publish, &nats.Msg{Subject: subject, Data: []byte(hashKey)})
		if err == nil {
			return hashKey, nil
		}
		if err = publishError(err); !errors.Is(err, errSubjectTaken) {
			return "", err
		}
		st, err := s.js.Stream(ctx, StreamIdempotency)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		was, err := st.GetLastMsgForSubject(ctx, subject)
		switch {
		case err == nil:
			return string(was.Data), nil
		case !errors.Is(err, jetstream.ErrMsgNotFound) || attempt >= uint64(s.cfg.PublishAttempts):
			return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		wait(ctx, backoff(attempt)) // it expired in between
	}
}
