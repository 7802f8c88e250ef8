package source

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/services/crawler/source/sourcetest"
)

// waits fetches a page whose first attempts fail and returns the waits between them, with maximum jitter.
func waits(t *testing.T, policy Policy, attempts int, fault sourcetest.Fault) []time.Duration {
	src := sourcetest.New(t, 1)
	src.Fault = sourcetest.First(attempts-1, fault)
	policy.Attempts = attempts
	s, err := New(src.Client, Request{URL: src.URL, Limit: 1}, policy)
	require.NoError(t, err)
	var got []time.Duration
	s.Sleep = func(_ context.Context, d time.Duration) error { got = append(got, d); return nil }
	s.jitter = func(limit time.Duration) time.Duration { return limit }
	_, err = s.Fetch(t.Context(), Position{Page: 1})
	require.NoError(t, err)
	return got
}

func TestBackoffDoublesUpToItsMost(t *testing.T) {
	t.Parallel()
	require.Equal(t, []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second},
		waits(t, Policy{}, 8, sourcetest.Reset))
	require.Equal(t, []time.Duration{5, 5}, waits(t, Policy{BaseBackoff: 10, MaxBackoff: 5}, 3, sourcetest.Reset))
	got := waits(t, Policy{BaseBackoff: 1, MaxBackoff: 1<<63 - 1}, 80, sourcetest.Status(500, "")) // no overflow
	require.Equal(t, time.Duration(1<<63-1), got[len(got)-1])
}

func TestJitterIsFull(t *testing.T) {
	t.Parallel()
	s, err := New(http.DefaultClient, Request{URL: "http://a/", Limit: 1}, Policy{})
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
	t.Parallel()
	policy := Policy{BaseBackoff: time.Millisecond}
	for value, want := range map[string]time.Duration{
		"7":                             7*time.Second + time.Millisecond,
		"3.5":                           3500*time.Millisecond + time.Millisecond,
		"3600":                          time.Minute + time.Millisecond,
		"99999999999999999":             time.Minute + time.Millisecond,
		"99999999999999999999":          time.Minute + time.Millisecond,
		"0":                             time.Millisecond,
		"-5":                            time.Millisecond, // not a wait
		"soon":                          time.Millisecond,
		"":                              time.Millisecond,
		"Mon, 01 Jan 2001 00:00:00 GMT": time.Millisecond,
		"Fri, 01 Jan 2100 00:00:00 GMT": time.Minute + time.Millisecond,
	} {
		for _, status := range []int{408, 425, 429, 500, 503} {
			require.Equal(t, []time.Duration{want}, waits(t, policy, 2, sourcetest.Status(status, "", "Retry-After", value)), value)
		}
	}
	for _, status := range []int{202, 400, 403, 404, 409, 413, 423} {
		page := `{"errcode":0,"data":{"data":[],"pagetag":{}}}`
		require.Equal(t, []time.Duration{7*time.Second + time.Millisecond}, waits(t, policy, 2, sourcetest.Status(status, page, "Retry-After", "7")), status)
		require.Equal(t, []time.Duration{time.Millisecond}, waits(t, policy, 2, sourcetest.Status(status, page, "Retry-After", "0")), status)
	}
}

// Without a readable Retry-After a refusal is final; with one, attempts are bounded.
func TestRefusalsWithoutRetryAfterAreFinal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status   int
		value    string
		attempts int
		want     string
	}{
		{403, "", 1, "page 1: HTTP 403"},
		{403, "soon", 1, "page 1: HTTP 403"},
		{403, "-5", 1, "page 1: HTTP 403"},
		{403, "7", 3, "page 1: HTTP 403 after 3 attempts"},
		{403, "3600", 3, "page 1: HTTP 403 after 3 attempts: the source asks to wait 1h0m0s, at most 1m0s is waited"},
		{429, "3600.4", 3, "page 1: HTTP 429 after 3 attempts: the source asks to wait 1h0m0s, at most 1m0s is waited"},
		{202, "7", 3, "page 1: the source answers 202: the page is not ready after 3 attempts"},
		{302, "7", 1, "page 1: HTTP 302: redirects are not followed; give the address it leads to"},
	} {
		src := sourcetest.New(t, 1)
		src.Fault = sourcetest.Always(sourcetest.Status(c.status, "", "Retry-After", c.value))
		s, err := New(src.Client, Request{URL: src.URL, Limit: 1}, Policy{Attempts: 3})
		require.NoError(t, err)
		s.Sleep = func(context.Context, time.Duration) error { return nil }
		_, err = s.Fetch(t.Context(), Position{Page: 1})
		require.EqualError(t, err, c.want)
		require.Len(t, src.Requests(), c.attempts)
	}
	src := sourcetest.New(t, 1) // a 202 without Retry-After is a page
	src.Fault = sourcetest.Always(sourcetest.Status(202, string(src.Page(1, 1))))
	s, err := New(src.Client, Request{URL: src.URL, Limit: 1}, Policy{})
	require.NoError(t, err)
	got, err := s.Fetch(t.Context(), Position{Page: 1})
	require.NoError(t, err)
	got.Release()
}

// A source with several formats is asked for JSON, unless the caller sets another Accept.
func TestAcceptIsSent(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{"": "application/json", "text/csv": "text/csv"} {
		for _, method := range []string{"GET", "POST"} {
			src := sourcetest.New(t, 1)
			req := Request{URL: src.URL, Limit: 1, Method: method}
			if given != "" {
				req.Header = map[string]string{"accept": given}
			}
			s, err := New(src.Client, req, Policy{})
			require.NoError(t, err)
			got, err := s.Fetch(t.Context(), Position{Page: 1})
			require.NoError(t, err)
			got.Release()
			require.Equal(t, []string{want}, src.Requests()[0].Header["Accept"])
		}
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	m := NewMemory(10 << 20)
	a, err := m.take(t.Context(), 0)
	require.NoError(t, err)
	b, err := m.take(t.Context(), 8<<20)
	require.NoError(t, err)
	require.NoError(t, a.grow(2<<20))
	short := (*shortError)(nil)
	require.ErrorAs(t, a.grow(3<<20), &short)
	require.EqualValues(t, 3<<20, short.want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = m.take(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
	b.release()
	b.release()
	require.NoError(t, a.grow(64<<20), "alone it may have all")
	require.NoError(t, a.grow(128<<20), "and more")
	a.release()
	all, err := m.take(t.Context(), 1<<40)
	require.NoError(t, err)
	all.release()
	var none *share
	require.NoError(t, none.grow(1<<40))
	none.release()
}
