package retryafter_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/retryafter"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const never, longest = time.Duration(-1), 365 * 24 * time.Hour
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"7":                               7 * time.Second,
		" 120\t":                          2 * time.Minute,
		"3.5":                             3500 * time.Millisecond,
		"0.25":                            250 * time.Millisecond,
		".5":                              500 * time.Millisecond,
		"2.":                              2 * time.Second,
		"0":                               0,
		"000":                             0,
		"0.0":                             0,
		"86400":                           24 * time.Hour,
		"99999999999":                     longest,
		"99999999999999999999999":         longest,
		"Sun, 22 Nov 2026 10:00:30 GMT":   30 * time.Second,
		"Sunday, 22-Nov-26 10:00:30 GMT":  30 * time.Second,
		"Sun Nov 22 10:00:30 2026":        30 * time.Second,
		"Sun, 22 Nov 2026 09:00:00 GMT":   0,
		"Mon, 01 Jan 0001 00:00:00 GMT":   0,
		"Fri, 31 Dec 9999 23:59:59 GMT":   longest,
		"Sun, 22 Nov 2026 10:00:30 +0000": never,
		"":                                never,
		".":                               never,
		"1.2.3":                           never,
		"..":                              never,
		"-5":                              never,
		"+5":                              never,
		"1e3":                             never,
		"0x10":                            never,
		"NaN":                             never,
		"Inf":                             never,
		"5s":                              never,
		"120, 240":                        never,
		"soon":                            never,
		"٣":                               never,
	} {
		got, ok := retryafter.Parse(http.Header{"Retry-After": {value}}, now)
		require.Equal(t, want != never, ok, value)
		if ok {
			require.Equal(t, want, got, value)
		} else {
			require.Zero(t, got, value)
		}
	}
	_, ok := retryafter.Parse(nil, now)
	require.False(t, ok)
	got, ok := retryafter.Parse(http.Header{"Retry-After": {"3", "soon"}}, now)
	require.True(t, ok)
	require.Equal(t, 3*time.Second, got)
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"0", "120", "3.5", ".", "1.2.3", "99999999999999999999",
		"Fri, 02 Jan 2026 03:05:05 GMT", "-1", "", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got, ok := retryafter.Parse(http.Header{"Retry-After": {v}}, time.Now())
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, 365*24*time.Hour)
		require.True(t, ok || got == 0)
	})
}
