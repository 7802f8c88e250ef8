package ingress

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// bodyMemory bounds the bytes of large bodies in memory. There is room for two of the
// largest, and for one of them for each tenant: one that sends slowly keeps its own
// others waiting, and nobody else's. It is safe for concurrent use.
type bodyMemory struct {
	most int64 // of one tenant, and of one body
	all  *semaphore.Weighted

	mu      sync.Mutex
	tenants map[string]*tenantBodies // that have a body, or wait
}

type tenantBodies struct {
	room  *semaphore.Weighted
	users int
}

func newBodyMemory(most int64) *bodyMemory {
	return &bodyMemory{most: most, all: semaphore.NewWeighted(2 * most), tenants: map[string]*tenantBodies{}}
}

// acquire waits until a body of a tenant has room, or ctx ends.
func (b *bodyMemory) acquire(ctx context.Context, tenant string, size int64) (release func(), err error) {
	size = min(size, b.most)
	b.mu.Lock()
	own := b.tenants[tenant]
	if own == nil {
		own = &tenantBodies{room: semaphore.NewWeighted(b.most)}
		b.tenants[tenant] = own
	}
	own.users++
	b.mu.Unlock()
	leave := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(b.tenants, tenant)
		}
	}
	if err := own.room.Acquire(ctx, size); err != nil {
		leave()
		return nil, err
	}
	if err := b.all.Acquire(ctx, size); err != nil {
		own.room.Release(size)
		leave()
		return nil, err
	}
	return func() {
		b.all.Release(size)
		own.room.Release(size)
		leave()
	}, nil
}
