package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"
)

const (
	// maxClaimsBytes is the limit of SHEAF_IDEMPOTENCY: about 1,300,000 keys.
	maxClaimsBytes = 256 << 20
	// claimsEvery is how long the stream's size and a tenant's number of keys are cached.
	claimsEvery = 2 * time.Second
	// countAbove is the used fraction of the stream below which keys are not counted per tenant.
	countAbove = 0.5
)

// ErrTooManyKeys means that a tenant has reached its maximum of Idempotency-Keys. They expire with time.
var ErrTooManyKeys = errors.New("the tenant has too many Idempotency-Keys")

// IdempotencyClaim is the binding of a caller's Idempotency-Key.
type IdempotencyClaim struct {
	Key string `json:"hash_key"` // of the export that the request asked for
	// Before is the sequence of the export's round when the key arrived, 0 for none. The key's own round is a
	// later one.
	Before uint64 `json:"round,omitempty"`
}

func (s *Log) idempotencySubject(tenant, key string) string {
	return subjectIdempotency + tenant + "." + s.keys.IdempotencyName(tenant, key)
}

// IdempotencyKey returns the binding of a key from the leader; ok is false if there is none.
func (s *Log) IdempotencyKey(ctx context.Context, tenant, key string) (c IdempotencyClaim,
	ok bool, err error) {
	st, err := s.js.Stream(ctx, events.StreamIdempotency)
	if err != nil {
		return c, false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, s.idempotencySubject(tenant, key))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return c, false, nil
	case err != nil:
		return c, false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if err := json.Unmarshal(m.Data, &c); err != nil {
		return c, false, fmt.Errorf("Idempotency-Key: %w", err)
	}
	return c, true, nil
}

// ClaimIdempotencyKey binds a caller's key and returns its first binding: c, or that of an earlier request
// with the key. Of two concurrent claims, one is first. The binding lasts for Config.KeepIdempotency; only an
// HMAC of the key is stored. Once more than half of the space for keys is used, a tenant may have twice as
// many as are free; beyond that it gets ErrTooManyKeys. So one tenant can use up to two thirds, and others
// always find some space.
func (s *Log) ClaimIdempotencyKey(ctx context.Context, tenant, key string,
	c IdempotencyClaim) (first IdempotencyClaim, err error) {
	if err := events.CheckName(tenant, c.Key); err != nil {
		return first, err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return first, fmt.Errorf("Idempotency-Key: %w", err)
	}
	publish, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := s.mayClaim(publish, tenant); err != nil {
		return first, err
	}
	for attempt := uint64(1); ; attempt++ {
		_, err = s.js.PublishMsg(publish, &nats.Msg{Subject: s.idempotencySubject(tenant, key), Data: data})
		if err == nil {
			return c, nil
		}
		if err = streams.PublishError(err); !errors.Is(err, streams.ErrSubjectTaken) {
			return first, err
		}
		first, ok, err := s.IdempotencyKey(ctx, tenant, key)
		if err != nil || ok {
			return first, err
		}
		if attempt >= uint64(s.cfg.PublishAttempts) {
			return first, fmt.Errorf("%w: an Idempotency-Key is taken but cannot be read", events.ErrUnavailable)
		}
		streams.Wait(ctx, streams.Backoff(attempt)) // it expired in between
	}
}

// ReleaseIdempotencyKey removes a binding, because nothing was started with it.
func (s *Log) ReleaseIdempotencyKey(ctx context.Context, tenant, key string) error {
	st, err := s.js.Stream(ctx, events.StreamIdempotency)
	if err == nil {
		err = st.Purge(ctx, jetstream.WithPurgeSubject(s.idempotencySubject(tenant, key)))
	}
	if err != nil {
		return fmt.Errorf("%w: releasing an Idempotency-Key: %w", events.ErrUnavailable, err)
	}
	return nil
}

// claims caches the number of stored keys.
type claims struct {
	counts singleflight.Group // of the keys of a tenant

	mu      sync.Mutex
	at      time.Time // of the fields below; keys bound since are added
	limit   int64     // bytes of the stream; 0 or less: unlimited
	used    int64
	all     int64 // keys
	counted map[string]int64
}

// claimBytes is the approximate size of a key.
const claimBytes = 200

// mayClaim returns ErrTooManyKeys if a tenant may not bind another key.
func (s *Log) mayClaim(ctx context.Context, tenant string) error {
	c := &s.claims
	c.mu.Lock()
	stale := time.Since(c.at) > claimsEvery
	c.mu.Unlock()
	if stale {
		_, err, _ := c.counts.Do("", func() (any, error) { // not for the first caller alone
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.PublishTimeout)
			defer cancel()
			st, err := s.js.Stream(ctx, events.StreamIdempotency)
			if err != nil {
				return nil, err
			}
			state := st.CachedInfo().State
			c.mu.Lock()
			defer c.mu.Unlock()
			c.at, c.limit = time.Now(), st.CachedInfo().Config.MaxBytes
			c.used, c.all, c.counted = int64(state.Bytes), int64(state.Msgs), map[string]int64{}
			return nil, nil
		})
		if err != nil {
			return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
	}
	c.mu.Lock()
	_, known := c.counted[tenant]
	plenty := c.limit <= 0 || float64(c.used) < float64(c.limit)*countAbove
	c.mu.Unlock()
	if !plenty && !known {
		n, err, _ := c.counts.Do(tenant, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.PublishTimeout)
			defer cancel()
			return s.countClaims(ctx, tenant)
		})
		if err != nil {
			return fmt.Errorf("%w: counting Idempotency-Keys: %w", events.ErrUnavailable, err)
		}
		c.mu.Lock()
		if _, ok := c.counted[tenant]; !ok {
			c.counted[tenant] = n.(int64)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.counted[tenant]; ok && !plenty {
		if own := float64(c.used) / float64(max(c.all, 1)) * float64(n); own > 2*float64(c.limit-c.used) {
			return ErrTooManyKeys
		}
		c.counted[tenant]++
	}
	c.used, c.all = c.used+claimBytes, c.all+1
	return nil
}

// countClaims counts the keys of a tenant. The server counts them when it creates a consumer, without reading
// them.
func (s *Log) countClaims(ctx context.Context, tenant string) (int64, error) {
	cons, err := s.js.CreateConsumer(ctx, events.StreamIdempotency, jetstream.ConsumerConfig{
		FilterSubject: subjectIdempotency + tenant + ".*", AckPolicy: jetstream.AckNonePolicy,
		HeadersOnly:   true,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: claimsEvery,
	})
	if err != nil {
		return 0, err
	}
	info := cons.CachedInfo()
	return int64(info.NumPending), s.js.DeleteConsumer(ctx, events.StreamIdempotency, info.Name)
}
