package console

import (
	"maps"
	"sync"
	"time"
)

const (
	// readKept is how long a read of a list is remembered without a stream that uses it.
	readKept = 10 * time.Second
	// maxReads bounds the lists that are remembered, which take about 100 KB each. Streams of further lists
	// read for themselves.
	maxReads = 100
)

// reads lets the streams of equal lists share reads. It is safe for concurrent use.
type reads struct {
	mu sync.Mutex
	by map[string]*read
}

// read is the newest read of a list. Those who need a newer one wait for each other.
type read struct {
	mu    sync.Mutex
	begun time.Time
	list  *list
	used  time.Time // guarded by reads
}

func newReads() *reads { return &reads{by: map[string]*read{}} }

// get returns the list of a name by a read that began at a time or later. The caller must not change it.
func (r *reads) get(name string, since time.Time, fresh func() (*list, error)) (*list, error) {
	known := r.of(name)
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.list != nil && !known.begun.Before(since) {
		return known.list, nil
	}
	begun := time.Now()
	l, err := fresh()
	if err != nil {
		return nil, err
	}
	known.begun, known.list = begun, l
	return l, nil
}

func (r *reads) of(name string) *read {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.by[name]
	if !ok {
		maps.DeleteFunc(r.by, func(_ string, other *read) bool { return now.Sub(other.used) > readKept })
		known = &read{}
		if len(r.by) >= maxReads {
			return known
		}
		r.by[name] = known
	}
	known.used = now
	return known
}
