package notifier

import (
	"strings"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDefaultScheduleIsThePublishedOne(t *testing.T) {
	t.Parallel()
	var total time.Duration
	for _, d := range DefaultSchedule() {
		total += d
	}
	require.Equal(t, "75h35m5s", total.String())
}

func TestPauseStaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		published := time.Duration(rapid.Int64Range(1, int64(48*time.Hour)).Draw(t, "published"))
		asked := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "asked"))
		got := pause(published, asked)
		require.GreaterOrEqual(t, got, published)
		require.GreaterOrEqual(t, got, min(asked, retryAfterMost))
		require.LessOrEqual(t, got, max(published+published/10, min(asked, retryAfterMost)))
	})
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	s := &Service{cfg: Config{Schedule: []time.Duration{time.Second, time.Hour}, KeepHistory: 2 * time.Hour}}
	x := sample(events.StateCompleted)
	x.FinishedAt = time.Now()
	for name, c := range map[string]struct {
		o    outcome
		want events.Type
	}{
		"answered":        {outcome{attempt: 1, status: 204}, events.TypeCallbackDelivered},
		"first failure":   {outcome{attempt: 1, reason: "HTTP 500"}, events.TypeCallbackAttempted},
		"last but one":    {outcome{attempt: 2, reason: "timeout"}, events.TypeCallbackAttempted},
		"exhausted":       {outcome{attempt: 3, reason: "timeout"}, events.TypeCallbackFailed},
		"gone":            {outcome{attempt: 1, status: 410, reason: "HTTP 410", final: true}, events.TypeCallbackFailed},
		"after the log":   {outcome{attempt: 1, status: 503, reason: "HTTP 503", retryAfter: 3 * time.Hour}, events.TypeCallbackFailed},
		"late but in log": {outcome{attempt: 1, status: 503, reason: "HTTP 503", retryAfter: time.Hour}, events.TypeCallbackAttempted},
	} {
		require.Equal(t, c.want, s.verdict(&x, c.o).EventType(), name)
	}
}

func FuzzHeaderValue(f *testing.F) {
	for _, s := range []string{"order-1", "a b", "订单", "x\r\nSet-Cookie: y", "100%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got := headerValue(v)
		require.Equal(t, -1, strings.IndexFunc(got, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }))
	})
}
