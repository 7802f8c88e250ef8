package crawler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const key = "5ad5f7b92a816b76e70a21e4154c2485"

var quick = source.Policy{Attempts: 3, BaseBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}

// start runs a crawler until the test ends or stop is called.
func start(t testing.TB, s *journal.Log, client *http.Client, cfg Config) (stop func()) {
	t.Helper()
	return startWith(t, s, client, cfg, func(*Service) {})
}

func startWith(t testing.TB, s *journal.Log, client *http.Client, cfg Config, change func(*Service)) (stop func()) {
	t.Helper()
	if cfg.Policy == (source.Policy{}) {
		cfg.Policy = quick
	}
	service, err := New(cfg, s, client)
	require.NoError(t, err)
	change(service)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// request appends a requested event for the source.
func request(t *testing.T, s *journal.Log, known events.Export, url string, limit int, continues uint64) events.Export {
	t.Helper()
	known.Tenant, known.Key = "default", key
	x, err := s.Append(t.Context(), known, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), ContinuesRun: continues, Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: url, Method: http.MethodGet, Limit: limit, Conn: 4, Param: json.RawMessage(`{}`)},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// await follows the log until the key's next event of one of the types.
func await(t testing.TB, s *journal.Log, after uint64, types ...events.Type) events.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var found events.Event
	err := s.Follow(ctx, after+1, func(batch []events.Event) error {
		for _, ev := range batch {
			if ev.Key == key && slices.Contains(types, ev.Type()) {
				found = ev
				cancel()
				return nil
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NotNil(t, found.Payload, "no event %v came", types)
	return found
}

// dataRows reads all pages of a run and returns the ids of their data rows.
func dataRows(t *testing.T, s *journal.Log, run uint64, last int) []string {
	t.Helper()
	var ids []string
	for n := 1; n <= last; n++ {
		p, err := s.Pages().Get(t.Context(), pages.ID{Tenant: "default", Key: key, Run: run, Number: n})
		require.NoError(t, err)
		c := rows.NewCursor(p.Rows)
		for first := true; c.NextRow(); first = false {
			_, _, v, _ := c.NextField()
			if !first || !p.HeaderRow {
				ids = append(ids, string(v.Raw))
			}
		}
	}
	return ids
}

func wantRows(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	return ids
}

func TestCrawlKeepsEveryPage(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 1003)
	start(t, s, src.Client, Config{})
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	crawled, ok := ev.Payload.(*events.ExportCrawled)
	require.True(t, ok, "%+v", ev.Payload)
	require.Equal(t, 101, crawled.Pages)
	require.Equal(t, x.RequestedSeq, crawled.Run)
	require.Equal(t, wantRows(1003), dataRows(t, s, crawled.Run, crawled.Pages))
	require.Len(t, src.Requests(), 101, "each page is asked for once")
	for _, r := range src.Requests() {
		require.Equal(t, key, r.Header.Get("xt-export-taskId"))
	}
}

func TestCrawlRidesOutFaults(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 95)
	src.Fault = func(page, attempt int) sourcetest.Fault {
		switch {
		case page%3 == 0 && attempt == 1:
			return sourcetest.Status(503, "busy")
		case page%4 == 0 && attempt <= 2:
			return sourcetest.Reset
		}
		return nil
	}
	start(t, s, src.Client, Config{})
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	require.Equal(t, events.TypeCrawled, ev.Type(), "%+v", ev.Payload)
	require.Equal(t, wantRows(95), dataRows(t, s, x.RequestedSeq, 10))
}

func TestCrawlGivesUpWithAReason(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim  string
		fault  sourcetest.Fault
		code   string
		status int
		tries  int
	}{
		{"HTTP 404", sourcetest.Status(404, "no such page"), events.CodeSourceHTTP, 404, 1},
		{"HTTP 503 for good", sourcetest.Status(503, "busy"), events.CodeSourceHTTP, 503, 3},
		{"HTML", sourcetest.Body("<html>please log in</html>"), events.CodeSourceFormat, 0, 1},
		{"errcode", sourcetest.Body(`{"errcode":7,"msg":"no right","data":null}`), events.CodeSourceErrcode, 0, 1},
		{"no pagetag", sourcetest.Body(`{"errcode":0,"data":{"data":[{"a":"A"},{"a":1}]}}`), events.CodeSourceFormat, 0, 1},
		{"rows that are no objects", sourcetest.Body(`{"errcode":0,"data":{"data":[1],"pagetag":{"total_page":1}}}`), events.CodeSourceFormat, 0, 1},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			s := eventstest.Journal(t)
			src := sourcetest.New(t, 100)
			src.Fault = func(page, _ int) sourcetest.Fault {
				if page == 4 {
					return tc.fault
				}
				return nil
			}
			start(t, s, src.Client, Config{})
			x := request(t, s, events.Export{}, src.URL, 10, 0)
			f, ok := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportFailed)
			require.True(t, ok)
			require.Equal(t, tc.code, f.Code)
			require.Equal(t, 4, f.Page)
			if tc.status != 0 {
				require.Equal(t, tc.status, f.Status)
			}
			require.Equal(t, tc.tries, f.Attempts)
			require.Contains(t, f.Reason, "page 4")
		})
	}
}

// After any interruption of a crawler, the next one requests only the missing pages.
func TestCrawlGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 400)
	var held atomic.Bool
	held.Store(true)
	reached := make(chan struct{}, 100)
	src.Fault = func(page, _ int) sourcetest.Fault {
		if page >= 20 && held.Load() {
			reached <- struct{}{}
			return sourcetest.Hang
		}
		return nil
	}
	stop := start(t, s, src.Client, Config{DrainFor: 100 * time.Millisecond})
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	for range 4 {
		<-reached // all four requests in flight hang
	}
	stop()
	before, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
	require.NoError(t, err)
	require.Len(t, before, 19)
	asked := len(src.Requests())
	held.Store(false)

	start(t, s, src.Client, Config{})
	ev := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed)
	require.Equal(t, events.TypeCrawled, ev.Type())
	require.Equal(t, asked+21, len(src.Requests()), "only the 21 missing pages were asked for")
	require.Equal(t, wantRows(400), dataRows(t, s, x.RequestedSeq, 40))
}

func TestRetryContinuesTheRunOrBeginsAnew(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim   string
		changed bool
	}{
		{"an unchanged source is asked for page 1 and what is missing", false},
		{"a changed one for everything, with page 1 only once", true},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			s := eventstest.Journal(t)
			src := sourcetest.New(t, 100)
			var broken, changed atomic.Bool
			broken.Store(true)
			// The four concurrent requests are for pages 5 to 8 when the first fails. So pages 1 to 4 are
			// stored and no other request is in flight.
			var together sync.WaitGroup
			together.Add(4)
			src.Fault = func(page, _ int) sourcetest.Fault {
				if page > 4 && broken.Load() {
					together.Done()
					together.Wait()
					return sourcetest.Status(404, "")
				}
				if changed.Load() {
					return sourcetest.Body(fmt.Sprintf(`{"errcode":0,"data":{"data":[{"id":"编号"},{"id":%d}],"pagetag":{"page":%d,"total":10,"total_page":10}}}`, page-1, page))
				}
				return nil
			}
			start(t, s, src.Client, Config{})
			x := request(t, s, events.Export{}, src.URL, 10, 0)
			failed := await(t, s, x.LastSeq, events.TypeFailed)
			have, err := s.Pages().List(t.Context(), "default", key, x.RequestedSeq, 0)
			require.NoError(t, err)
			require.Equal(t, []int{1, 2, 3, 4}, have)
			asked := len(src.Requests())
			broken.Store(false)
			changed.Store(tc.changed)

			ended, err := s.Read(t.Context(), "default", key)
			require.NoError(t, err)
			run, ok := ended.Resumable()
			require.True(t, ok)
			again := request(t, s, ended, src.URL, 10, run)
			crawled, ok := await(t, s, failed.Sequence, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportCrawled)
			require.True(t, ok)
			if tc.changed {
				require.Equal(t, 10, len(src.Requests())-asked)
				require.Equal(t, again.RequestedSeq, crawled.Run)
				require.Equal(t, wantRows(10), dataRows(t, s, crawled.Run, 10))
			} else {
				require.Equal(t, 1+6, len(src.Requests())-asked)
				require.Equal(t, x.RequestedSeq, crawled.Run)
				require.Equal(t, wantRows(100), dataRows(t, s, crawled.Run, 10))
			}
		})
	}
}

// A retry that finds the source changed begins a run. After its cancellation the next retry continues that
// run. If it was cancelled before its first page, the next retry continues the run before it.
func TestRetryContinuesTheNewestRun(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim string
		began bool
	}{
		{"the retry before had pages", true},
		{"the retry before had none", false},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			s := eventstest.Journal(t)
			src := sourcetest.New(t, 100)
			var round atomic.Int64
			stuck := make(chan struct{}, 100)
			src.Fault = func(page, _ int) sourcetest.Fault {
				body := sourcetest.Body(fmt.Sprintf(`{"errcode":0,"data":{"data":[{"id":"编号"},{"id":%d}],"pagetag":{"page":%d,"total":10,"total_page":10}}}`, page-1, page))
				switch r := round.Load(); {
				case r == 0 && page > 4:
					return sourcetest.Status(404, "")
				case r == 1 && (page > 4 || !tc.began): // cancelled while it waits
					stuck <- struct{}{}
					return sourcetest.Status(503, "")
				case r > 0 && tc.began:
					return body
				}
				return nil
			}
			stop := start(t, s, src.Client, Config{Policy: source.Policy{Attempts: 1000, BaseBackoff: 10 * time.Millisecond, MaxBackoff: 20 * time.Millisecond}})
			x := request(t, s, events.Export{}, src.URL, 10, 0)
			await(t, s, x.LastSeq, events.TypeFailed)
			retry := func() events.Export {
				ended, err := s.Read(t.Context(), "default", key)
				require.NoError(t, err)
				run, ok := ended.Resumable()
				require.True(t, ok)
				return request(t, s, ended, src.URL, 10, run)
			}
			round.Store(1)
			second := retry()
			for range 8 {
				<-stuck // by now the pages of its responses are stored or soon will be
			}
			_, err := s.Append(t.Context(), second, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
			require.NoError(t, err)
			stop()
			from := x.RequestedSeq
			if tc.began {
				from = second.RequestedSeq
			}
			have, err := s.Pages().List(t.Context(), "default", key, from, 0)
			require.NoError(t, err)
			require.Contains(t, have, 1)

			round.Store(2)
			asked := len(src.Requests())
			third := retry()
			start(t, s, src.Client, Config{})
			crawled, ok := await(t, s, third.RequestedSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportCrawled)
			require.True(t, ok)
			require.Equal(t, from, crawled.Run)
			require.Equal(t, 1+10-len(have), len(src.Requests())-asked, "page 1 and what is missing")
			want := wantRows(100)
			if tc.began {
				want = wantRows(10)
			}
			require.Equal(t, want, dataRows(t, s, crawled.Run, 10))
		})
	}
}

func TestCancelStopsTheCrawlAtOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := sourcetest.New(t, 100)
	src.Fault = func(page, _ int) sourcetest.Fault {
		if page > 1 {
			return sourcetest.Hang
		}
		return nil
	}
	service, err := New(Config{Policy: quick}, s, src.Client)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	require.Eventually(t, func() bool { return len(src.Requests()) == 5 }, 10*time.Second, time.Millisecond)
	_, err = s.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)
	require.Eventually(t, func() bool { return service.running.Len() == 0 }, time.Second, time.Millisecond, "crawling stops within a second")
	cancel()
	require.NoError(t, <-done)
	got, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, got.State)
}

// Two crawlers with the same export write one complete and unmixed run, although the source returns different
// rows to each.
func TestTwoCrawlersOnOneExport(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	a, b := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	src := sourcetest.New(t, 300)
	var asked atomic.Int64
	src.Row = func(n int) string { return fmt.Sprintf(`{"id":%d,"name":"%d"}`, n, asked.Add(1)) }
	x := request(t, a, events.Export{}, src.URL, 10, 0)

	d := journal.Delivery{}
	require.NoError(t, a.Follow(followOne(t, a, &d)))
	var wg sync.WaitGroup
	for _, s := range []*journal.Log{a, b} {
		service, err := New(Config{Policy: quick}, s, src.Client)
		require.NoError(t, err)
		service.running, err = s.Watch()
		require.NoError(t, err)
		defer service.running.Close()
		wg.Go(func() {
			if err := service.handle(t.Context(), d); err != nil {
				assert.ErrorIs(t, err, journal.ErrTakenOver)
			}
		})
	}
	wg.Wait()
	got, err := a.Read(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, events.StateCrawled, got.State)
	require.Equal(t, x.RequestedSeq, got.Run)
	require.Equal(t, wantRows(300), dataRows(t, a, got.Run, 30))
}

// A crawler was stopped for so long that another took its export. When it resumes, it sends no request that
// it had not sent before.
func TestAStalledCrawlerLeavesTheExport(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	stalled, other := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	src := sourcetest.New(t, 300)
	stall, last := make(chan struct{}), make(chan struct{})
	atPages, atLast := make(chan int, 30), make(chan struct{})
	src.Fault = func(page, attempt int) sourcetest.Fault {
		switch {
		case page >= 2 && page <= 5 && attempt == 1: // all requests in flight
			return func(w http.ResponseWriter, r *http.Request, body []byte) {
				atPages <- page
				<-stall
				sourcetest.Body(string(body))(w, r, body)
			}
		case page == 30 && attempt == 1:
			return func(w http.ResponseWriter, r *http.Request, body []byte) {
				close(atLast)
				<-last
				sourcetest.Body(string(body))(w, r, body)
			}
		}
		return nil
	}
	request(t, stalled, events.Export{}, src.URL, 10, 0)
	d := journal.Delivery{}
	require.NoError(t, stalled.Follow(followOne(t, stalled, &d)))
	handle := func(s *journal.Log, d journal.Delivery) chan error {
		service, err := New(Config{Policy: quick}, s, src.Client)
		require.NoError(t, err)
		service.running, err = s.Watch()
		require.NoError(t, err)
		t.Cleanup(service.running.Close)
		done := make(chan error, 1)
		go func() { done <- service.handle(t.Context(), d) }()
		return done
	}
	first := handle(stalled, d)
	for range 4 {
		<-atPages
	}
	d.Delivered = 2
	second := handle(other, d)
	<-atLast
	// Page 30 may be requested while an earlier one is not stored yet. The first crawler could still store that.
	require.Eventually(t, func() bool {
		stored, err := other.Pages().List(t.Context(), "default", key, d.Sequence, 0)
		return err == nil && len(stored) == 29
	}, 10*time.Second, time.Millisecond)
	close(stall)
	require.ErrorIs(t, <-first, journal.ErrTakenOver)
	close(last)
	require.NoError(t, <-second)
	require.Equal(t, wantRows(300), dataRows(t, other, d.Sequence, 30))
	asked := map[int]int{}
	for _, r := range src.Requests() {
		asked[r.Page]++
	}
	for page := 1; page <= 30; page++ {
		want := 1
		if page >= 2 && page <= 5 {
			want = 2
		}
		require.Equal(t, want, asked[page], "page %d", page)
	}
}

// followOne fills d with the first event of the log, as its consumer would.
func followOne(t *testing.T, s *journal.Log, d *journal.Delivery) (context.Context, uint64, func([]events.Event) error) {
	ctx, cancel := context.WithCancel(t.Context())
	return ctx, 1, func(batch []events.Event) error {
		defer cancel()
		m, err := events.Encode(batch[0])
		if err != nil {
			return err
		}
		*d = journal.Delivery{Subject: m.Subject, Header: m.Header, Data: m.Data, Sequence: batch[0].Sequence, Delivered: 1}
		return nil
	}
}

func TestPoisonExportEndsAfterFiveStarts(t *testing.T) {
	t.Parallel()
	server := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, server, journal.Config{})
	src := sourcetest.New(t, 10)
	x := request(t, s, events.Export{}, src.URL, 10, 0)
	for range 5 { // five processes that crashed before page 1
		_, err := s.CountStart(t.Context(), "default", key, fmt.Sprintf("%d:0", x.RequestedSeq))
		require.NoError(t, err)
	}
	start(t, eventstest.JournalOn(t, server, journal.Config{}), src.Client, Config{})
	f, ok := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportFailed)
	require.True(t, ok)
	require.Equal(t, events.CodeCrashedWorker, f.Code)
	require.Empty(t, src.Requests())
}

// A source in its backoff holds no place, so another export continues even when there is only one place.
func TestBackoffHoldsNoPlace(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	sick, well := sourcetest.New(t, 10), sourcetest.New(t, 50)
	asked := make(chan struct{}, 10)
	sick.Fault = sourcetest.Always(func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		asked <- struct{}{}
	})
	start(t, s, well.Client, Config{Fetches: 1})
	_, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: "00000000000000000000000000000000"}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: sick.URL, Method: http.MethodGet, Limit: 10, Conn: 1}}}, nil
	})
	require.NoError(t, err)
	<-asked
	x := request(t, s, events.Export{}, well.URL, 10, 0)
	require.Equal(t, events.TypeCrawled, await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Type())
}

// A source that never answers loses its place after a second, and holds no memory for the missing response.
func TestHangingSourceHoldsNoPlace(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	hanging, well := sourcetest.New(t, 10), sourcetest.New(t, 50)
	asked := make(chan struct{}, 10)
	hanging.Fault = sourcetest.Always(func(w http.ResponseWriter, r *http.Request, page []byte) {
		asked <- struct{}{}
		sourcetest.Hang(w, r, page)
	})
	policy := quick
	policy.SlowAfter = 20 * time.Millisecond
	start(t, s, well.Client, Config{Fetches: 1, BodyBytes: 1 << 20, DrainFor: 100 * time.Millisecond, Policy: policy})
	_, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: "00000000000000000000000000000000"}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: hanging.URL, Method: http.MethodGet, Limit: 10, Conn: 1}}}, nil
	})
	require.NoError(t, err)
	<-asked
	x := request(t, s, events.Export{}, well.URL, 10, 0)
	require.Equal(t, events.TypeCrawled, await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Type())
}

// A value that was sealed for another tenant ends its export with a sentence, and the source gets no request.
func TestSealedForAnotherTenant(t *testing.T) {
	t.Parallel()
	for place, kept := range map[string]func(sealed string) (secrets.Values, events.HTTPRequest){
		"a header": func(sealed string) (secrets.Values, events.HTTPRequest) {
			return secrets.Values{"Authorization": sealed}, events.HTTPRequest{Header: []string{"Authorization"}}
		},
		"a parameter": func(sealed string) (secrets.Values, events.HTTPRequest) {
			return secrets.Values{secrets.Param("token"): `"` + sealed + `"`}, events.HTTPRequest{SecretParam: []string{"token"}}
		},
		"auth": func(sealed string) (secrets.Values, events.HTTPRequest) {
			return secrets.Values{secrets.Auth: `{"type":"bearer","token":"` + sealed + `"}`}, events.HTTPRequest{Auth: events.AuthBearer}
		},
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			src := sourcetest.New(t, 10)
			sealed, err := secrets.SealValue(s.Keys().SealKey(), "other", "secret")
			require.NoError(t, err)
			values, req := kept(sealed)
			req.URL, req.Method, req.Limit, req.Conn = src.URL, http.MethodGet, 10, 1
			require.NoError(t, s.SaveHeaders(t.Context(), "default", key, values))
			x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
				return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{SourceType: events.SourceHTTP, HTTP: &req}}, nil
			})
			require.NoError(t, err)
			start(t, s, src.Client, Config{})
			f, ok := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportFailed)
			require.True(t, ok)
			require.Contains(t, f.Reason, "a sealed value cannot be opened")
			require.Empty(t, src.Requests())
		})
	}
}

// A crawl that begins a new run purges the earlier ones at once: an outdated one, and an unusable one. No
// other crawl reads them.
func TestEarlierRunsArePurged(t *testing.T) {
	t.Parallel()
	for claim, spoiled := range map[string]bool{"the source has changed": false, "the run was spoiled": true} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			src, changed := sourcetest.New(t, 30), sourcetest.New(t, 30)
			changed.Row = func(n int) string { return fmt.Sprintf(`{"id":%d,"name":"moved","amount":1}`, n) }
			changed.Rows = 40
			x := request(t, s, events.Export{}, changed.URL, 10, 0)
			store(t, s, src, key, x.RequestedSeq, 10, 2)
			x, err := s.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) {
				return &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "x", Phase: events.PhaseCrawling, Run: x.RequestedSeq, RunSpoiled: spoiled}, nil
			})
			require.NoError(t, err)
			run, resumable := x.Resumable()
			require.Equal(t, !spoiled, resumable)
			start(t, s, src.Client, Config{})
			again := request(t, s, x, changed.URL, 10, run)
			crawled, ok := await(t, s, again.RequestedSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportCrawled)
			require.True(t, ok)
			require.Equal(t, again.RequestedSeq, crawled.Run)
			runs, err := s.Pages().Runs(t.Context())
			require.NoError(t, err)
			require.Equal(t, []pages.RunID{{Tenant: "default", Key: key, Run: crawled.Run}}, runs)
		})
	}
}
