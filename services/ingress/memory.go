package ingress

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// mediumBody is the size up to which bodies have memory of their own, so that they do not wait for large ones
// that arrive slowly.
const mediumBody = 1 << 20

// bodyMemory bounds the memory of bodies above lightBody. Large ones get twice the largest, medium ones half
// of that, and one tenant at most half of either. A slow sender therefore delays only its own tenant. It is
// safe for concurrent use.
type bodyMemory struct{ medium, large pool }

func newBodyMemory(most int64) *bodyMemory {
	pool := func(most int64) pool { return newPool(most, 2*most) }
	return &bodyMemory{medium: pool(most / 2), large: pool(most)}
}

func (b *bodyMemory) pool(size int64) *pool {
	if size <= mediumBody {
		return &b.medium
	}
	return &b.large
}

// acquire waits until a tenant's body has memory, or ctx ends.
func (b *bodyMemory) acquire(ctx context.Context, tenant string, size int64) (release func(), err error) {
	if size <= lightBody {
		return func() {}, nil
	}
	return b.pool(size).acquire(ctx, tenant, size)
}

// try reserves memory for a body if some is free.
func (b *bodyMemory) try(tenant string, size int64) (release func(), ok bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // with an ended context the semaphore does not wait
	release, err := b.acquire(ctx, tenant, size)
	return release, err == nil
}

// pool is a capacity that tenants share. Each tenant may use a part of it.
type pool struct {
	most int64 // of one tenant, concurrently
	all  *semaphore.Weighted

	mu      sync.Mutex
	tenants map[string]*tenantPart // that use or wait for capacity
}

func newPool(most, all int64) pool {
	return pool{most: most, all: semaphore.NewWeighted(all), tenants: map[string]*tenantPart{}}
}

type tenantPart struct {
	room  *semaphore.Weighted
	users int
}

func (p *pool) acquire(ctx context.Context, tenant string, size int64) (release func(), err error) {
	size = min(size, p.most)
	p.mu.Lock()
	own := p.tenants[tenant]
	if own == nil {
		own = &tenantPart{room: semaphore.NewWeighted(p.most)}
		p.tenants[tenant] = own
	}
	own.users++
	p.mu.Unlock()
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(p.tenants, tenant)
		}
	}
	if err := acquire(ctx, own.room, size); err != nil {
		leave()
		return nil, err
	}
	if err := acquire(ctx, p.all, size); err != nil {
		own.room.Release(size)
		leave()
		return nil, err
	}
	return func() {
		p.all.Release(size)
		own.room.Release(size)
		leave()
	}, nil
}

// acquire takes free capacity even after ctx has ended, unlike the semaphore.
func acquire(ctx context.Context, s *semaphore.Weighted, size int64) error {
	if s.TryAcquire(size) {
		return nil
	}
	return s.Acquire(ctx, size)
}
