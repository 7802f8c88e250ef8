package events_test

import (
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// What a page costs in allocations on its way to the stream and back, the embedded
// server's part included. A change that copies the page once more, or makes
// something for each of its rows, shows up here, where a timing would be noise.
func TestPagesAllocateLittle(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	const (
		pages = 100
		size  = 160 << 10 // of the rows of a page, somewhat less than half of that compressed
		bound = 1.2
	)
	s := eventstest.Streams(t)
	rows := make([][]byte, pages+1)
	for n := range rows {
		for i := 0; len(rows[n]) < size; i++ {
			rows[n] = fmt.Appendf(rows[n], `{"id":%d,"sn":"SN%012d","name":"name %d"},`, n*1000+i, (n*1000+i)*7919%1_000_003*999_983, i*31%977)
		}
	}
	numbered := func(round, n int) events.Page { return page(round*(pages+1)+n+1, rows[n]) }
	publish := func(round, n int) {
		_, err := s.PublishPage(t.Context(), numbered(round, n))
		require.NoError(t, err)
	}
	get := func(round, n int) {
		p, err := s.GetPage(t.Context(), numbered(round, n).PageID)
		require.NoError(t, err)
		p.Release()
	}
	for _, tc := range []struct {
		name     string
		do       func(round, n int)
		objects  float64
		kibibyte float64
	}{
		{"publish", publish, 84, 150}, // the server copies twice what is larger than its read buffer
		{"get", get, 102, 165},
	} {
		tc.do(0, pages) // fills the pools
		objects, kibibyte := math.Inf(1), math.Inf(1)
		for round := range 3 { // what the server does beside is noise
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for n := range pages {
				tc.do(round, n)
			}
			runtime.ReadMemStats(&after)
			objects = min(objects, float64(after.Mallocs-before.Mallocs)/pages)
			kibibyte = min(kibibyte, float64(after.TotalAlloc-before.TotalAlloc)/pages/1024)
		}
		t.Logf("%s: %.1f objects, %.1f KiB a page", tc.name, objects, kibibyte)
		require.LessOrEqual(t, objects, tc.objects*bound, tc.name)
		require.LessOrEqual(t, kibibyte, tc.kibibyte*bound, tc.name)
	}
}
