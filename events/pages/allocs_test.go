package pages_test

import (
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
	"sheaf/events/pages"
)

// Allocations of a page on its way to the stream and back, including the embedded server. A change that
// copies the page once more, or allocates for each of its rows, exceeds them, while a timing would be noise.
func TestPagesAllocateLittle(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	const (
		count = 100
		size  = 160 << 10 // of a page's rows; compressed, it is somewhat less than half
		bound = 1.2
	)
	s := eventstest.Journal(t)
	rows := make([][]byte, count+1)
	for n := range rows {
		for i := 0; len(rows[n]) < size; i++ {
			rows[n] = fmt.Appendf(rows[n], `{"id":%d,"sn":"SN%012d","name":"name %d"},`, n*1000+i,
				(n*1000+i)*7919%1_000_003*999_983, i*31%977)
		}
	}
	numbered := func(round, n int) pages.Page { return page(round*(count+1)+n+1, rows[n]) }
	publish := func(round, n int) {
		_, err := s.Pages().Publish(t.Context(), numbered(round, n))
		require.NoError(t, err)
	}
	get := func(round, n int) {
		p, err := s.Pages().Get(t.Context(), numbered(round, n).ID)
		require.NoError(t, err)
		p.Release()
	}
	for _, tc := range []struct {
		name     string
		do       func(round, n int)
		objects  float64
		kibibyte float64
	}{
		{"publish", publish, 84, 150}, // the server copies twice what exceeds its read buffer
		{"get", get, 102, 165},
	} {
		tc.do(0, count) // fills the pools
		objects, kibibyte := math.Inf(1), math.Inf(1)
		for round := range 3 { // the server's background work is noise
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for n := range count {
				tc.do(round, n)
			}
			runtime.ReadMemStats(&after)
			objects = min(objects, float64(after.Mallocs-before.Mallocs)/count)
			kibibyte = min(kibibyte, float64(after.TotalAlloc-before.TotalAlloc)/count/1024)
		}
		t.Logf("%s: %.1f objects, %.1f KiB a page", tc.name, objects, kibibyte)
		require.LessOrEqual(t, objects, tc.objects*bound, tc.name)
		require.LessOrEqual(t, kibibyte, tc.kibibyte*bound, tc.name)
	}
}
