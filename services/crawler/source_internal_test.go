package crawler

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/services/crawler/sourcetest"
)

// waits fetches a page whose first attempts fail and returns the waits between
// them, with jitter at its most.
func waits(t *testing.T, policy Policy, attempts int, fault sourcetest.Fault) []time.Duration {
	src := sourcetest.New(t, 1)
	src.Fault = sourcetest.First(attempts-1, fault)
	policy.Attempts = attempts
	s, err := NewSource(src.Client, Request{URL: src.URL, Limit: 1}, policy)
	require.NoError(t, err)
	var got []time.Duration
	s.sleep = func(_ context.Context, d time.Duration) error { got = append(got, d); return nil }
	s.jitter = func(limit time.Duration) time.Duration { return limit }
	_, err = s.Fetch(t.Context(), 1)
	require.NoError(t, err)
	return got
}

func TestBackoffDoublesUpToItsMost(t *testing.T) {
	require.Equal(t, []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second},
		waits(t, Policy{}, 8, sourcetest.Reset))
	require.Equal(t, []time.Duration{5, 5}, waits(t, Policy{BaseBackoff: 10, MaxBackoff: 5}, 3, sourcetest.Reset))
	got := waits(t, Policy{BaseBackoff: 1, MaxBackoff: 1<<63 - 1}, 80, sourcetest.Status(500, "")) // no overflow
	require.Equal(t, time.Duration(1<<63-1), got[len(got)-1])
}

func TestJitterIsFull(t *testing.T) {
	s, err := NewSource(http.DefaultClient, Request{URL: "http://a/", Limit: 1}, Policy{})
	require.NoError(t, err)
	low, high := time.Hour, time.Duration(0)
	for range 10_000 {
		d := s.jitter(time.Second)
		low, high = min(low, d), max(high, d)
	}
	require.GreaterOrEqual(t, low, time.Duration(0))
	require.LessOrEqual(t, high, time.Second)
	require.Less(t, low, 50*time.Millisecond)
	require.Greater(t, high, 950*time.Millisecond)
}

func TestRetryAfterIsHonouredAndCapped(t *testing.T) {
	policy := Policy{BaseBackoff: time.Millisecond}
	for value, want := range map[string]time.Duration{
		"7":                             7*time.Second + time.Millisecond,
		"3600":                          time.Minute + time.Millisecond,
		"99999999999999999":             time.Minute + time.Millisecond,
		"99999999999999999999":          time.Millisecond, // not a number of seconds
		"0":                             time.Millisecond,
		"-5":                            time.Millisecond,
		"soon":                          time.Millisecond,
		"":                              time.Millisecond,
		"Mon, 01 Jan 2001 00:00:00 GMT": time.Millisecond,
		"Fri, 01 Jan 2100 00:00:00 GMT": time.Minute + time.Millisecond,
	} {
		for _, status := range []int{429, 503} {
			require.Equal(t, []time.Duration{want}, waits(t, policy, 2, sourcetest.Status(status, "", "Retry-After", value)), value)
		}
	}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	require.Equal(t, 30*time.Second, retryAfter("Sun, 22 Nov 2026 10:00:30 GMT", now))
}
