package console

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Streams that wake together need one read. One that a later change woke gets a read that began after it.
func TestStreamsOfEqualListsShareReads(t *testing.T) {
	t.Parallel()
	r, n := newReads(), atomic.Uint64{}
	fresh := func() (*list, error) { return &list{Next: n.Add(1)}, nil }
	tick := time.Now()
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			l, err := r.get("shop", tick, fresh)
			if err != nil || l.Next != 1 {
				t.Errorf("read %d, %v", l.Next, err)
			}
		})
	}
	group.Wait()
	for _, c := range []struct {
		name  string
		since time.Time
		want  uint64
	}{{"shop", time.Now(), 2}, {"shop", tick, 2}, {"other", tick, 3}, {"shop", tick, 2}} {
		l, err := r.get(c.name, c.since, fresh)
		require.NoError(t, err)
		require.Equal(t, c.want, l.Next, c.name)
	}
	_, err := r.get("shop", time.Now(), func() (*list, error) { return nil, errors.New("down") })
	require.EqualError(t, err, "down")
	l, err := r.get("shop", time.Now(), fresh)
	require.NoError(t, err, "an error is not shared")
	require.EqualValues(t, 4, l.Next)
	r.by["shop"].used = time.Now().Add(-2 * readKept)
	_, err = r.get("third", tick, fresh)
	require.NoError(t, err)
	require.Len(t, r.by, 2, "lists that are no longer shown are forgotten")
}

// A caller that opens streams with many filters must not fill the memory of the process.
func TestReadsOfManyListsAreBounded(t *testing.T) {
	t.Parallel()
	r, n := newReads(), uint64(0)
	fresh := func() (*list, error) { n++; return &list{Next: n}, nil }
	tick := time.Now()
	for i := range uint64(2 * maxReads) {
		l, err := r.get(strconv.FormatUint(i, 10), tick, fresh)
		require.NoError(t, err)
		require.Equal(t, i+1, l.Next, "each list has its own read")
	}
	require.Len(t, r.by, maxReads)
	l, err := r.get("0", tick, fresh)
	require.NoError(t, err)
	require.EqualValues(t, 1, l.Next, "remembered lists are still shared")
}
