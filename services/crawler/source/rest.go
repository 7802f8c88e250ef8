package source

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events/retryafter"
)

// Rests knows which hosts asked for a pause. All exports of a process share one, so that a host that refuses
// one export is not asked by the others meanwhile. It is safe for concurrent use.
type Rests struct {
	mu    sync.Mutex
	until map[string]time.Time // by host, see hostOf
}

// NewRests returns an empty registry.
func NewRests() *Rests { return &Rests{until: map[string]time.Time{}} }

// add lets a host rest. A longer rest replaces a shorter one.
func (r *Rests) add(host string, until time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(r.until, func(_ string, t time.Time) bool { return !t.After(now) })
	if until.After(now) && until.After(r.until[host]) {
		r.until[host] = until
	}
}

// of returns the end of a host's rest, the zero time if it does not rest.
func (r *Rests) of(host string) time.Time {
	if r == nil {
		return time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if until := r.until[host]; until.After(time.Now()) {
		return until
	}
	return time.Time{}
}

// waiters reports to Waiting when the first of a fetcher's pages begins to wait, and when the last one continues.
type waiters struct {
	mu    sync.Mutex
	pages int
	until time.Time
}

// rest waits while a host rests, each time at most the longest wait. It returns the end of the rest that it
// waited for, which may be later than now.
func (f *Fetcher) rest(ctx context.Context, host string) (over time.Time, err error) {
	for {
		until := f.Rests.of(host)
		if !until.After(over) {
			return over, nil
		}
		wait := min(time.Until(until), f.policy.MaxRetryAfter)
		if err := f.pause(ctx, wait+f.jitter(f.policy.BaseBackoff)); err != nil {
			return over, err
		}
		over = until
	}
}

// pause waits because the source asked for it.
func (f *Fetcher) pause(ctx context.Context, wait time.Duration) error {
	if f.Waiting != nil {
		f.waiting(1, time.Now().Add(wait))
		defer f.waiting(-1, time.Time{})
	}
	return f.Sleep(ctx, wait)
}

func (f *Fetcher) waiting(pages int, until time.Time) {
	w := &f.waiters
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages += pages
	switch {
	case w.pages == 0:
		w.until = time.Time{}
	case until.After(w.until):
		w.until = until
	default:
		return
	}
	f.Waiting(w.until)
}

// pressure is what a response says about the limit of requests at its host.
type pressure struct {
	wait  time.Duration // until requests are allowed again, from 0 to 365 days
	known bool          // wait was given
	spent bool          // no request is left
	left  bool          // some requests are left
}

// readPressure reads the fields RateLimit (draft-ietf-httpapi-ratelimit-headers) and its forerunners. A value
// that is not understood counts as absent.
func readPressure(h http.Header, now time.Time) pressure {
	p := readRateLimit(h.Values("RateLimit"))
	for _, name := range []string{"RateLimit-Remaining", "X-RateLimit-Remaining", "X-Rate-Limit-Remaining"} {
		if n, ok := leadingNumber(h.Get(name)); ok && !p.spent && !p.left {
			p.spent, p.left = n < 1, n >= 1
		}
	}
	for _, name := range []string{"RateLimit-Reset", "X-RateLimit-Reset", "X-Rate-Limit-Reset"} {
		if n, ok := leadingNumber(h.Get(name)); ok && !p.known {
			p.wait, p.known = untilReset(n, now), true
		}
	}
	return p
}

// readRateLimit reads both forms of RateLimit: "name";r=0;t=30 and remaining=0, reset=30. Of several policies
// the one without requests counts, then the first.
func readRateLimit(values []string) (p pressure) {
	policy := pressure{}
	take := func() {
		if policy.known && (!p.known || policy.spent && (!p.spent || policy.wait > p.wait)) {
			p = policy
		}
		policy = pressure{}
	}
	quoted := false
	parts := strings.FieldsFunc(strings.Join(values, ","), func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ',' || r == ';')
	})
	for _, part := range parts {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			take() // the name of a policy
			continue
		}
		n, ok := leadingNumber(value)
		if !ok {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "r", "remaining":
			policy.spent, policy.left = n < 1, n >= 1
		case "t", "reset":
			policy.wait, policy.known = seconds(n), true
		}
	}
	take()
	return p
}

// leadingNumber reads a number from 0 on, before a list or parameters.
func leadingNumber(value string) (n float64, ok bool) {
	if i := strings.IndexAny(value, ",;"); i >= 0 {
		value = value[:i]
	}
	value = strings.TrimSpace(value)
	if value == "" || strings.Trim(value, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(value, 64)
	return n, err == nil
}

// untilReset returns the time until a reset. The same field is a time at some sources and a duration at
// others: above 1e12 it is Unix time in milliseconds, above 1e9 in seconds, below it is seconds from now.
func untilReset(n float64, now time.Time) time.Duration {
	switch {
	case n > 1e12:
		return seconds(n/1e3 - float64(now.UnixMilli())/1e3)
	case n > 1e9:
		return seconds(n - float64(now.UnixMilli())/1e3)
	}
	return seconds(n)
}

const longestWait = 365 * 24 * time.Hour

func seconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), longestWait.Seconds()) * float64(time.Second))
}

// announcedWait returns how long a refusal asks the client to wait. retried says that its status means a limit
// of requests. A reset counts only if that limit is the likely reason for the refusal.
func announcedWait(h http.Header, status int, retried bool, now time.Time) (wait time.Duration, asked, spent bool) {
	wait, asked = retryafter.Parse(h, now)
	if status < 400 && !retried {
		return wait, asked, false
	}
	p := readPressure(h, now)
	limited := retried || status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable && !p.left
	if !asked && p.known && (p.spent || limited) {
		wait, asked = p.wait, true
	}
	return wait, asked, p.spent
}
