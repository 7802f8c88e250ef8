package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
)

func TestAnnouncedWait(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	const second = time.Second
	for _, c := range []struct {
		header string // name: value lines
		status int
		want   time.Duration
		asked  bool
		spent  bool
	}{
		{"", 429, 0, false, false},
		{"Retry-After: 7\nX-RateLimit-Reset: 99", 429, 7 * second, true, false},
		{"Retry-After: soon\nX-RateLimit-Reset: 99", 429, 99 * second, true, false},
		{`RateLimit: "default";r=0;t=30`, 429, 30 * second, true, true},
		{`RateLimit: "burst";r=5;t=2, "daily";r=0;t=30`, 429, 30 * second, true, true},
		{`RateLimit: "a;b,r=7";r=0;t=30` + "\nX-RateLimit-Reset: 99", 429, 30 * second, true, true},
		{"RateLimit: limit=100, remaining=0, reset=5", 429, 5 * second, true, true},
		{"RateLimit-Remaining: 0\nRateLimit-Reset: 5\nX-RateLimit-Reset: 99", 429, 5 * second, true, true},
		{"X-RateLimit-Reset: 99\nX-Rate-Limit-Reset: 5", 429, 99 * second, true, false},
		{"X-Rate-Limit-Reset: 5", 429, 5 * second, true, false},
		{"X-RateLimit-Reset: 1800000030", 429, 30 * second, true, false},
		{"X-RateLimit-Reset: 1800000030.5", 429, 30*second + second/2, true, false},
		{"X-RateLimit-Reset: 1800000030500", 429, 30*second + second/2, true, false},
		{"X-RateLimit-Reset: 1799999999", 429, 0, true, false},
		{"X-RateLimit-Reset: 1000000000", 429, longestWait, true, false},
		{"X-RateLimit-Reset: 999999999999999999999", 429, longestWait, true, false},
		{"X-RateLimit-Reset: -5", 429, 0, false, false},
		{"X-RateLimit-Reset: 6m0s", 429, 0, false, false},
		{"X-RateLimit-Reset: 30, 60;w=60", 429, 30 * second, true, false},
		// GitHub: 403 without a request left.
		{"X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 30", 403, 30 * second, true, true},
		{"X-RateLimit-Remaining: 12\nX-RateLimit-Reset: 30", 403, 0, false, false},
		{"X-RateLimit-Remaining: 0.0\nX-RateLimit-Reset: 30", 403, 30 * second, true, true},
		{"X-RateLimit-Remaining: 0", 403, 0, false, true},
		// Each response has these; an error of the server is another matter.
		{"X-RateLimit-Remaining: 12\nX-RateLimit-Reset: 30", 500, 0, false, false},
		{"X-RateLimit-Remaining: 12\nX-RateLimit-Reset: 30", 503, 0, false, false},
		{"X-RateLimit-Reset: 30", 503, 30 * second, true, false},
		{"X-RateLimit-Remaining: 12\nX-RateLimit-Reset: 30", 429, 30 * second, true, false},
		{"X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 30", 200, 0, false, false},
		{"Retry-After: 7", 202, 7 * second, true, false},
	} {
		h := http.Header{}
		for line := range strings.SplitSeq(c.header, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Add(name, value)
			}
		}
		wait, asked, spent := announcedWait(h, c.status, false, now)
		require.Equal(t, []any{c.want, c.asked, c.spent}, []any{wait, asked, spent}, "%d %s", c.status, c.header)
	}
	wait, asked, _ := announcedWait(http.Header{"X-Ratelimit-Reset": {"30"}}, 418, true, now)
	require.True(t, asked, "a status of retry_status means a limit")
	require.Equal(t, 30*second, wait)
}

func FuzzRateHeaders(f *testing.F) {
	for _, s := range []string{`"a";r=0;t=30`, "limit=1, remaining=0, reset=5", "1800000030", "1e400", `";r=0`, "0", "-1", "99999999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, name := range []string{"Retry-After", "RateLimit", "RateLimit-Reset", "RateLimit-Remaining", "X-RateLimit-Reset", "X-RateLimit-Remaining", "X-Rate-Limit-Reset"} {
			h := http.Header{}
			h.Set(name, value)
			for _, status := range []int{200, 403, 429, 503} {
				wait, asked, _ := announcedWait(h, status, false, time.Unix(1_800_000_000, 0))
				require.GreaterOrEqual(t, wait, time.Duration(0))
				require.LessOrEqual(t, wait, longestWait)
				require.True(t, asked || wait == 0)
			}
			require.GreaterOrEqual(t, readPressure(h, time.Now()).wait, time.Duration(0))
		}
	})
}

// rested is a source whose responses a test chooses, and the fetchers of its exports.
type rested struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Value // http.HandlerFunc
	rests  *Rests
}

func newRested(t *testing.T, answer http.HandlerFunc) *rested {
	s := &rested{rests: NewRests()}
	s.answer.Store(answer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.answer.Load().(http.HandlerFunc)(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func page(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[{"id":1}]`) }

// export returns a fetcher of the source, and the waits it was asked for.
func (s *rested) export(t *testing.T, from events.HTTPRequest) (*Fetcher, func() []time.Duration) {
	if from.Paging == nil {
		from.Paging = &events.Paging{Type: events.PagingPage, PageParam: "page"}
	}
	f, err := New(http.DefaultClient, Request{URL: s.URL, From: &from}, Policy{BaseBackoff: 1})
	require.NoError(t, err)
	f.Rests = s.rests
	f.jitter = func(time.Duration) time.Duration { return 0 }
	var mu sync.Mutex
	var waits []time.Duration
	f.Sleep = func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		waits = append(waits, d.Round(time.Second))
		return ctx.Err()
	}
	return f, func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return append([]time.Duration(nil), waits...)
	}
}

func (s *rested) fetch(t *testing.T, f *Fetcher, at Position) int {
	got, err := f.Fetch(t.Context(), at)
	require.NoError(t, err)
	got.Release()
	return got.Attempts
}

// A refusal lets the host rest for all exports. The others wait before they take a place, and it costs them no
// attempt.
func TestHostsRestForAllExports(t *testing.T) {
	t.Parallel()
	for _, status := range []int{429, 503, 418, 403} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			var refused atomic.Bool
			s := newRested(t, func(w http.ResponseWriter, r *http.Request) {
				if !refused.CompareAndSwap(false, true) {
					page(w, r)
					return
				}
				w.Header().Set("X-RateLimit-Remaining", "0")
				w.Header().Set("X-RateLimit-Reset", "40")
				w.WriteHeader(status)
			})
			from := events.HTTPRequest{Error: &events.ErrorMapping{RetryStatus: []int{418}}}
			first, waits := s.export(t, from)
			require.Equal(t, 2, s.fetch(t, first, Position{Page: 1}))
			require.Equal(t, 40*time.Second, waits()[0], "the request that was refused")

			other, waits := s.export(t, events.HTTPRequest{})
			var order []string
			sleep := other.Sleep
			other.Sleep = func(ctx context.Context, d time.Duration) error {
				order = append(order, "rest")
				return sleep(ctx, d)
			}
			other.Turn = func(context.Context) (Place, error) {
				order = append(order, "turn")
				return anywhere{}, nil
			}
			require.Equal(t, 1, s.fetch(t, other, Position{Page: 1}))
			require.Equal(t, []string{"rest", "turn"}, order)
			require.Equal(t, []time.Duration{40 * time.Second}, waits())

			elsewhere := newRested(t, page)
			elsewhere.rests = s.rests
			f, waits := elsewhere.export(t, events.HTTPRequest{})
			elsewhere.fetch(t, f, Position{Page: 1})
			require.Empty(t, waits(), "another host does not rest")
		})
	}
}

// A failure of the server does not stop the other exports.
func TestOtherFailuresLetNoHostRest(t *testing.T) {
	t.Parallel()
	var refused atomic.Bool
	s := newRested(t, func(w http.ResponseWriter, r *http.Request) {
		if !refused.CompareAndSwap(false, true) {
			page(w, r)
			return
		}
		w.Header().Set("Retry-After", "40")
		w.WriteHeader(500)
	})
	f, _ := s.export(t, events.HTTPRequest{})
	s.fetch(t, f, Position{Page: 1})
	other, waits := s.export(t, events.HTTPRequest{})
	s.fetch(t, other, Position{Page: 1})
	require.Empty(t, waits())
}

// A successful response without requests left pauses the next request instead of wasting it.
func TestTheLastRequestLetsTheHostRest(t *testing.T) {
	t.Parallel()
	s := newRested(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(30*time.Second).Unix(), 10))
		page(w, r)
	})
	f, waits := s.export(t, events.HTTPRequest{})
	require.Equal(t, 1, s.fetch(t, f, Position{Page: 1}))
	require.Empty(t, waits())
	require.Equal(t, 1, s.fetch(t, f, Position{Page: 2, Size: 1}))
	require.Len(t, waits(), 1)
	require.InDelta(t, 30, waits()[0].Seconds(), 1)
	require.EqualValues(t, 2, s.asked.Load())
}

// A code in a successful response can mean the same as 429.
func TestARetriedCodeLetsTheHostRest(t *testing.T) {
	t.Parallel()
	var refused atomic.Bool
	s := newRested(t, func(w http.ResponseWriter, r *http.Request) {
		if refused.CompareAndSwap(false, true) {
			w.Header().Set("Retry-After", "40")
			_, _ = io.WriteString(w, `{"code":"busy"}`)
			return
		}
		page(w, r)
	})
	from := events.HTTPRequest{Error: &events.ErrorMapping{Path: "code", Retry: []json.RawMessage{json.RawMessage(`"busy"`)}}}
	f, waits := s.export(t, from)
	require.Equal(t, 2, s.fetch(t, f, Position{Page: 1}))
	require.Equal(t, 40*time.Second, waits()[0])
	other, waits := s.export(t, events.HTTPRequest{})
	s.fetch(t, other, Position{Page: 1})
	require.Equal(t, []time.Duration{40 * time.Second}, waits())
}

// No export waits longer than its own longest wait, whatever another one accepted.
func TestRestsAreBounded(t *testing.T) {
	t.Parallel()
	var refused atomic.Bool
	s := newRested(t, func(w http.ResponseWriter, r *http.Request) {
		if refused.CompareAndSwap(false, true) {
			w.Header().Set("Retry-After", "7200")
			w.WriteHeader(429)
			return
		}
		page(w, r)
	})
	patient, waits := s.export(t, events.HTTPRequest{MaxWait: 3600})
	require.Equal(t, 2, s.fetch(t, patient, Position{Page: 1}))
	require.Equal(t, time.Hour, waits()[0])
	other, waits := s.export(t, events.HTTPRequest{})
	s.fetch(t, other, Position{Page: 1})
	require.Equal(t, []time.Duration{time.Minute}, waits())
}

// A page that got its place after a rest began gives it back and waits.
func TestARestThatBeginsDuringTheTurn(t *testing.T) {
	t.Parallel()
	s := newRested(t, page)
	f, waits := s.export(t, events.HTTPRequest{})
	var turns, done int
	f.Turn = func(context.Context) (Place, error) {
		if turns++; turns == 1 {
			s.rests.add(f.Host(), time.Now().Add(40*time.Second))
		}
		return counted{&done}, nil
	}
	require.Equal(t, 1, s.fetch(t, f, Position{Page: 1}))
	require.Equal(t, 2, turns)
	require.Equal(t, 2, done)
	require.Equal(t, []time.Duration{40 * time.Second}, waits())
	require.EqualValues(t, 1, s.asked.Load())
}

type counted struct{ done *int }

func (c counted) Yield() {}
func (c counted) Done()  { *c.done++ }

// The pages of an export on another host wait for that host.
func TestTheHostOfANextPageRests(t *testing.T) {
	t.Parallel()
	s := newRested(t, page)
	other := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	f, waits := s.export(t, events.HTTPRequest{Paging: &events.Paging{Type: events.PagingLink, Hosts: []string{"localhost"}}})
	s.rests.add(strings.Replace(f.Host(), "127.0.0.1", "localhost", 1), time.Now().Add(40*time.Second))
	s.fetch(t, f, Position{Page: 1})
	require.Empty(t, waits())
	s.fetch(t, f, Position{Page: 2, Size: 1, Token: other + "/x"})
	require.Equal(t, []time.Duration{40 * time.Second}, waits())
}

// Waiting reports the first page that waits and the last one that continues.
func TestWaiting(t *testing.T) {
	t.Parallel()
	s := newRested(t, page)
	f, _ := s.export(t, events.HTTPRequest{})
	var mu sync.Mutex
	var reports []string
	f.Waiting = func(until time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if until.IsZero() {
			reports = append(reports, "over")
			return
		}
		reports = append(reports, fmt.Sprint(time.Until(until).Round(time.Second)))
	}
	const pages = 4
	waiting, release := make(chan struct{}, pages), make(chan struct{})
	f.Sleep = func(context.Context, time.Duration) error {
		waiting <- struct{}{}
		<-release
		return nil
	}
	s.rests.add(f.Host(), time.Now().Add(40*time.Second))
	var wg sync.WaitGroup
	for n := 1; n <= pages; n++ {
		wg.Go(func() {
			if got, err := f.Fetch(t.Context(), Position{Page: n, Size: 1}); err == nil {
				got.Release()
			}
		})
	}
	for range pages {
		<-waiting
	}
	close(release)
	wg.Wait()
	require.Equal(t, "over", reports[len(reports)-1])
	require.Equal(t, "40s", reports[0])
	require.Equal(t, 1, strings.Count(strings.Join(reports, " "), "over"))
}

// A wait ends with the fetch.
func TestARestEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newRested(t, page)
	f, _ := s.export(t, events.HTTPRequest{})
	f.Sleep = Sleep
	s.rests.add(f.Host(), time.Now().Add(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	f.Waiting = func(until time.Time) {
		if !until.IsZero() {
			cancel()
		}
	}
	_, err := f.Fetch(ctx, Position{Page: 1})
	require.ErrorContains(t, err, "the fetch was stopped")
	require.Zero(t, s.asked.Load())
}

func TestRests(t *testing.T) {
	t.Parallel()
	r := NewRests()
	now := time.Now()
	r.add("a", now.Add(time.Hour))
	r.add("a", now.Add(time.Minute))
	r.add("b", now.Add(-time.Minute))
	require.Equal(t, now.Add(time.Hour), r.of("a"))
	require.Zero(t, r.of("b"))
	require.Len(t, r.until, 1)
	var none *Rests
	none.add("a", now.Add(time.Hour))
	require.Zero(t, none.of("a"))
}
