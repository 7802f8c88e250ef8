package source

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// leastShare is reserved for every response: most are smaller.
const leastShare = 1 << 20

// Memory bounds the bytes of responses in memory, from the first byte read until the page is published. The
// size of a response is unknown before it is read, so an attempt reserves the size of its export's largest
// response so far. A larger response reserves more if memory is free. If not, it releases its memory and is
// requested again with enough: an attempt that holds memory never waits for more, so no deadlock is possible.
//
// Compression, and the copying when a buffer grows, need some memory in addition.
type Memory struct {
	size int64
	free *semaphore.Weighted
}

// NewMemory returns a budget of size bytes.
func NewMemory(size int64) *Memory { return &Memory{size: size, free: semaphore.NewWeighted(size)} }

// take waits for memory for a response of size bytes, or for the whole budget.
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

// share is the memory of one response. A nil share is without limit.
type share struct {
	of   *Memory
	held int64
}

// shortError reports a share that could not grow.
type shortError struct{ want int64 }

func (e *shortError) Error() string {
	return fmt.Sprintf("%d bytes of memory are not free", e.want)
}

// grow makes the share at least size bytes, if they are free. A share that holds the whole budget may exceed
// it.
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

// release returns the memory of the share. It may be called again.
func (s *share) release() {
	if s == nil {
		return
	}
	s.of.free.Release(s.held)
	s.held = 0
}
