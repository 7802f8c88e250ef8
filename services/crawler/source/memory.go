package source

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// leastShare is set aside for every answer: most are smaller.
const leastShare = 1 << 20

// Memory bounds the bytes of answers that are held at once, from the first byte read until the page is
// published. How large an answer will be is not known before it is read, so an attempt sets aside as much as
// the largest answer of its export took so far. One that grows beyond takes more if there is more. If not, it
// gives up what it has and is made again with enough: nobody who holds memory ever waits for more, so nobody
// waits for ever.
//
// Compression, and the copying when a buffer grows, take some memory besides.
type Memory struct {
	size int64
	free *semaphore.Weighted
}

// NewMemory returns a budget of size bytes.
func NewMemory(size int64) *Memory { return &Memory{size: size, free: semaphore.NewWeighted(size)} }

// take waits for memory for an answer of size bytes, or for all there is.
func (m *Memory) take(ctx context.Context, size int64) (*share, error) {
	if m == nil {
		return nil, nil
	}
	size = min(max(size, leastShare), m.size)
	if err := m.free.Acquire(ctx, size); err != nil {
		return nil, err
	}
	return &share{of: m, held: size}, nil
}

// share is the memory of one answer. A nil share is without limit.
type share struct {
	of   *Memory
	held int64
}

// shortError is a share that could not grow.
type shortError struct{ want int64 }

func (e *shortError) Error() string {
	return fmt.Sprintf("%d bytes of memory are not free", e.want)
}

// grow makes the share at least size bytes, if they are free. Who holds all the memory may have more.
func (s *share) grow(size int64) error {
	if s == nil || size <= s.held || s.held == s.of.size {
		return nil
	}
	more := min(size, s.of.size) - s.held
	if !s.of.free.TryAcquire(more) {
		return &shortError{size}
	}
	s.held += more
	return nil
}

// release gives the share back. It may be called again.
func (s *share) release() {
	if s == nil {
		return
	}
	s.of.free.Release(s.held)
	s.held = 0
}
