package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go/jetstream"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"
)

const (
	soon = 30 * time.Second // limit for everything that must happen
	tick = 20 * time.Millisecond
)

// call is one request to a receiver.
type call struct {
	header http.Header
	body   []byte
	at     time.Time
}

// receiver is an endpoint for callbacks. It answers call n, counted from 1, with answer.
type receiver struct {
	*httptest.Server
	calls chan call
	count atomic.Int64
}

func newReceiver(t *testing.T, answer func(n int64, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	r := &receiver{calls: make(chan call, 10_000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		n := r.count.Add(1)
		r.calls <- call{req.Header.Clone(), body, time.Now()}
		if answer != nil {
			answer(n, w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) next(t *testing.T) call {
	t.Helper()
	select {
	case c := <-r.calls:
		return c
	case <-time.After(soon):
		require.FailNow(t, "no callback came")
		return call{}
	}
}

func newClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func newService(t *testing.T, s *journal.Log, cfg Config) *Service {
	t.Helper()
	if cfg.PublicURL == "" {
		cfg.PublicURL = "https://sheaf.example.com"
	}
	if cfg.Schedule == nil {
		cfg.Schedule = []time.Duration{2 * time.Second, 2 * time.Second}
	}
	n, err := New(cfg, s, newClient(t))
	require.NoError(t, err)
	return n
}

// run starts a notifier; stop drains it and may be called twice.
func run(t *testing.T, n *Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(15 * time.Second):
				require.FailNow(t, "the notifier did not drain")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func key(n int) string { return fmt.Sprintf("%032x", n) }

func always(p events.Payload) journal.Decide {
	return func(*events.Export) (events.Payload, error) { return p, nil }
}

func begin(t *testing.T, s *journal.Log, key, callback string) events.Export {
	t.Helper()
	now := time.Now().UTC()
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "order 7", always(&events.ExportRequested{
		CreatedAt: now,
		Request: events.Request{
			Timestamp: now.Unix(), ExtType: "XLSX", Title: "orders", UserID: "123", Callback: callback,
			SourceType: events.SourceHTTP, HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/p", Method: "GET", Limit: 50, Conn: 1},
		},
	}))
	require.NoError(t, err)
	return x
}

func end(t *testing.T, s *journal.Log, x events.Export, state events.State) events.Export {
	t.Helper()
	var err error
	switch state {
	case events.StateCompleted:
		x, err = s.Append(t.Context(), x, "", always(&events.ExportCrawled{Run: x.RequestedSeq, Pages: 1}))
		require.NoError(t, err)
		x, err = s.Append(t.Context(), x, "", always(&events.ExportCompleted{
			Run: x.RequestedSeq, Pages: 1, Rows: 3, ExpiresAt: time.Now().Add(time.Hour),
			Files: []events.File{{Name: "orders.zip", Store: "a", Size: 1, Rows: 3}},
		}))
	case events.StateFailed:
		x, err = s.Append(t.Context(), x, "", always(&events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "HTTP 503", Phase: events.PhaseCrawling}))
	case events.StateCancelled:
		x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{Reason: "by its caller"}))
	}
	require.NoError(t, err)
	return x
}

// ended writes a failed export, which takes the fewest events.
func ended(t *testing.T, s *journal.Log, key, callback string) events.Export {
	t.Helper()
	return end(t, s, begin(t, s, key, callback), events.StateFailed)
}

// until waits until the callback of an export meets ok.
func until(t *testing.T, s *journal.Log, key string, ok func(c events.CallbackState) bool) events.Export {
	t.Helper()
	var x events.Export
	require.Eventually(t, func() bool {
		var err error
		x, err = s.Read(t.Context(), "default", key)
		return err == nil && ok(x.Callback)
	}, soon, tick)
	return x
}

func is(state string) func(events.CallbackState) bool {
	return func(c events.CallbackState) bool { return c.State == state }
}

func attempted(n int) func(events.CallbackState) bool {
	return func(c events.CallbackState) bool { return c.Attempts >= n }
}

// callbackEvents returns the types of the callback events of a key, in order.
func callbackEvents(t *testing.T, s *journal.Log, key string) []events.Type {
	t.Helper()
	last, err := s.LastSequence(t.Context())
	require.NoError(t, err)
	var types []events.Type
	enough := errors.New("enough")
	err = s.Follow(t.Context(), 1, func(batch []events.Event) error {
		for _, ev := range batch {
			if ev.Key == key && strings.HasPrefix(string(ev.Type()), "callback_") {
				types = append(types, ev.Type())
			}
			if ev.Sequence >= last {
				return enough
			}
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	return types
}

func TestReportsHowAnExportEnded(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	run(t, newService(t, s, Config{}))
	secret, err := standardwebhooks.NewWebhook(s.Keys().WebhookSecret("default"))
	require.NoError(t, err)
	for i, c := range []struct {
		state  events.State
		event  string
		status int
	}{
		{events.StateCompleted, "export.completed", 2},
		{events.StateFailed, "export.failed", 3},
		{events.StateCancelled, "export.cancelled", 4},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			r := newReceiver(t, nil)
			x := end(t, s, begin(t, s, key(i), r.URL+"/hook?a=1"), c.state)
			got := r.next(t)
			require.NoError(t, secret.Verify(got.body, got.header))
			require.Equal(t, fmt.Sprintf("%s-%d", x.Key, x.TerminalSeq), got.header.Get("webhook-id"))
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
			require.Equal(t, "Sheaf", got.header.Get("User-Agent"))
			require.Equal(t, "*/*", got.header.Get("Accept"))
			require.Equal(t, "export-server", got.header.Get("Service-Name"))
			require.Equal(t, "sheaf.callback.export_"+string(c.state)+".v1", got.header.Get("ce-type"))
			require.Equal(t, "order%207", got.header.Get("ce-correlationid"))
			var body Body
			require.NoError(t, json.Unmarshal(got.body, &body))
			require.Equal(t, c.event, body.Event)
			require.Equal(t, c.status, body.Log.Status)
			require.Equal(t, x.Key, body.Log.HashKey)
			require.Equal(t, c.state == events.StateCompleted, body.DownURL != "")

			done := until(t, s, x.Key, is(events.CallbackDone))
			require.Equal(t, 200, done.Callback.LastStatus)
			require.Equal(t, []events.Type{events.TypeCallbackDelivered}, callbackEvents(t, s, x.Key))
		})
	}
}

func TestExportWithoutCallbackIsNotReported(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	run(t, newService(t, s, Config{}))
	silent := ended(t, s, key(1), "")
	told := ended(t, s, key(2), r.URL) // when it arrives, the first callback was seen
	r.next(t)
	until(t, s, told.Key, is(events.CallbackDone))
	require.Empty(t, callbackEvents(t, s, silent.Key))
}

func TestFailedAttemptIsRepeated(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		status int
		reason string
	}{
		"HTTP 500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 500, "HTTP 500"},
		"HTTP 404": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404, "HTTP 404"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusMovedPermanently)
		}, 301, "HTTP 301; redirects are not followed"},
		"redirect that keeps the method": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		}, 308, "HTTP 308; redirects are not followed"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "timeout"},
		"closed":  {func(w http.ResponseWriter, _ *http.Request) { hangUp(w, "") }, 0, "connection closed"},
		"not HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			hangUp(w, "220 mail.example.com ESMTP\r\n")
		}, 0, "no valid HTTP answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			r := newReceiver(t, func(n int64, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					c.answer(w, r)
				}
			})
			run(t, newService(t, s, Config{Timeout: 2 * time.Second}))
			x := ended(t, s, key(1), r.URL+"/?token=secret")
			first := r.next(t)
			failed := until(t, s, x.Key, attempted(1))
			require.Equal(t, c.status, failed.Callback.LastStatus)
			require.Equal(t, c.reason, failed.Callback.LastReason)
			second := r.next(t)
			require.Equal(t, x.WebhookID(), first.header.Get("webhook-id"))
			require.Equal(t, x.WebhookID(), second.header.Get("webhook-id"))
			require.Equal(t, first.body, second.body)
			require.Greater(t, timestamp(t, second), timestamp(t, first))
			require.NotEqual(t, first.header.Get("webhook-signature"), second.header.Get("webhook-signature"))
			until(t, s, x.Key, is(events.CallbackDone))
			require.Equal(t, []events.Type{events.TypeCallbackAttempted, events.TypeCallbackDelivered}, callbackEvents(t, s, x.Key))
		})
	}
	require.Zero(t, elsewhere.Load())
}

// hangUp closes the connection after a last word.
func hangUp(w http.ResponseWriter, word string) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_, _ = io.WriteString(conn, word)
		_ = conn.Close()
	}
}

func timestamp(t *testing.T, c call) int64 {
	t.Helper()
	n, err := strconv.ParseInt(c.header.Get("webhook-timestamp"), 10, 64)
	require.NoError(t, err)
	return n
}

func TestRefusedConnectionIsRepeatedAndExhausted(t *testing.T) {
	t.Parallel()
	url := fmt.Sprintf("http://127.0.0.1:%d/?token=secret", eventstest.FreePort())
	s := eventstest.Journal(t)
	run(t, newService(t, s, Config{Schedule: []time.Duration{time.Second}}))
	x := ended(t, s, key(1), url)
	failed := until(t, s, x.Key, is(events.CallbackExhausted))
	require.Equal(t, 2, failed.Callback.Attempts)
	require.Equal(t, "connection refused", failed.Callback.LastReason)
	require.Equal(t, []events.Type{events.TypeCallbackAttempted, events.TypeCallbackFailed}, callbackEvents(t, s, x.Key))
}

func TestGoneStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, func(_ int64, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	run(t, newService(t, s, Config{}))
	x := ended(t, s, key(1), r.URL)
	failed := until(t, s, x.Key, is(events.CallbackExhausted))
	require.Equal(t, 1, failed.Callback.Attempts)
	require.Equal(t, 410, failed.Callback.LastStatus)
}

func TestCallbackThatCannotBeAskedIsGivenUp(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	run(t, newService(t, s, Config{}))
	for i, callback := range []string{"ftp://example.com/", "http://", "://x", "nats:sheaf.callback.other.a", "nats:sheaf.event.default.failed.x", "nats:"} {
		x := ended(t, s, key(i), callback)
		failed := until(t, s, x.Key, is(events.CallbackExhausted))
		require.Equal(t, 1, failed.Callback.Attempts, callback)
		require.NotEmpty(t, failed.Callback.LastReason)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	asked := map[string]string{ // path to Retry-After
		"/429": "3600", "/503": "3600.5", "/403": "3600", "/413": "3600", "/500": "3600", "/302": "3600",
		"/408": time.Now().Add(time.Hour).UTC().Format(http.TimeFormat),
	}
	r := newReceiver(t, func(_ int64, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", asked[r.URL.Path])
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(status)
	})
	run(t, newService(t, s, Config{}))
	keys := map[string]string{}
	for path := range asked {
		keys[path] = ended(t, s, key(len(keys)), r.URL+path).Key
	}
	for path, key := range keys {
		x := until(t, s, key, attempted(1))
		require.WithinDuration(t, time.Now().Add(time.Hour), x.Callback.NextAt, time.Minute, path)
	}
}

func TestEndlessAnswerDoesNotHoldADelivery(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, func(_ int64, w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1024)); err != nil {
				return
			}
		}
	})
	run(t, newService(t, s, Config{}))
	x := until(t, s, ended(t, s, key(1), r.URL).Key, is(events.CallbackDone))
	require.Equal(t, 202, x.Callback.LastStatus)
}

func TestRestartBetweenAttemptsLosesNothing(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, func(n int64, w http.ResponseWriter, _ *http.Request) {
		if n <= 2 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	const exports = 2
	stop := run(t, newService(t, s, Config{}))
	for i := range exports {
		ended(t, s, key(i), r.URL)
		until(t, s, key(i), attempted(1))
	}
	stop()
	run(t, newService(t, s, Config{}))
	for i := range exports {
		x := until(t, s, key(i), is(events.CallbackDone))
		require.Equal(t, 2, x.Callback.Attempts)
	}
}

func TestCrashBetweenEventAndScheduleLosesNothing(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	x := ended(t, s, key(1), r.URL)
	next := time.Now().Add(3 * time.Second)
	_, err := s.Append(t.Context(), x, "", always(&events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Reason: "timeout", NextAt: next}))
	require.NoError(t, err)
	run(t, newService(t, s, Config{})) // gets the terminal event, as after a crash
	got := r.next(t)
	require.False(t, got.at.Before(next.Add(-timerEarly)), "not before its time")
	done := until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, 2, done.Callback.Attempts)
	require.Equal(t, int64(1), r.count.Load())
}

// When a schedule fires, the server also purges a newer one written meanwhile. The fired message must then
// restore the newer schedule.
func TestScheduleLostToAnEarlierOneComesBack(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	n := newService(t, s, Config{})
	const exports = 40
	next := time.Now().Add(4 * time.Second)
	for i := range exports {
		x := ended(t, s, key(i), r.URL)
		_, err := s.Append(t.Context(), x, "", always(&events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Reason: "timeout", NextAt: next}))
		require.NoError(t, err)
	}
	run(t, n)
	for time.Now().Before(next.Add(-timerEarly)) {
		for i := range exports {
			require.NoError(t, s.ScheduleCallback(t.Context(), "default", key(i), time.Now()))
		}
	}
	for i := range exports {
		until(t, s, key(i), is(events.CallbackDone))
		require.Equal(t, []events.Type{events.TypeCallbackAttempted, events.TypeCallbackDelivered}, callbackEvents(t, s, key(i)))
	}
	require.Equal(t, int64(exports), r.count.Load())
}

func TestAttemptThatFellDueWhileTheServerWasDownIsMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newReceiver(t, func(n int64, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	start := func() (*embedded.Server, *journal.Log) {
		srv, err := embedded.Start(embedded.Options{Dir: dir, MaxStore: 8 << 30, Ephemeral: true})
		require.NoError(t, err)
		return srv, eventstest.JournalOn(t, srv, journal.Config{})
	}
	srv, s := start()
	stop := run(t, newService(t, s, Config{Schedule: []time.Duration{time.Second}}))
	x := ended(t, s, key(1), r.URL)
	failed := until(t, s, x.Key, attempted(1))
	stop()
	srv.Stop()

	<-time.After(time.Until(failed.Callback.NextAt.Add(time.Second)))
	srv, s = start()
	t.Cleanup(srv.Stop)
	run(t, newService(t, s, Config{}))
	until(t, s, x.Key, is(events.CallbackDone))
}

func TestEarlierEndingIsNotReported(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	x := ended(t, s, key(1), r.URL)
	req := x.Request
	x, err := s.Append(t.Context(), x, "", always(&events.ExportRequested{ExportID: x.ID, CreatedAt: x.CreatedAt, Request: req}))
	require.NoError(t, err)
	x = end(t, s, x, events.StateCancelled)
	run(t, newService(t, s, Config{}))
	require.Equal(t, x.WebhookID(), r.next(t).header.Get("webhook-id"))
	until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, int64(1), r.count.Load())
}

func TestTwoNotifiersLeaveOneEventAnAttempt(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	a, b := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	var failedOnce sync.Map
	r := newReceiver(t, func(_ int64, w http.ResponseWriter, req *http.Request) {
		if _, again := failedOnce.LoadOrStore(req.Header.Get("webhook-id"), true); !again {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	const exports = 30
	for i := range exports {
		x := ended(t, a, key(i), r.URL)
		if i%2 == 0 { // both consumers get this one
			require.NoError(t, a.ScheduleCallback(t.Context(), x.Tenant, x.Key, time.Now()))
		}
	}
	run(t, newService(t, a, Config{}))
	run(t, newService(t, b, Config{}))
	for i := range exports {
		until(t, a, key(i), is(events.CallbackDone))
		types := callbackEvents(t, a, key(i))
		require.Equal(t, events.TypeCallbackDelivered, types[len(types)-1])
		require.LessOrEqual(t, len(types), 2)
	}
}

// silence is a listener on every loopback address that takes connections and
// never answers.
func silence(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// dead writes exports with callbacks to hosts of their own in 127.1.0.0/16. Their keys start at first.
func dead(t *testing.T, s *journal.Log, first, hosts int, port string) {
	t.Helper()
	for i := range hosts {
		ended(t, s, key(first+i), fmt.Sprintf("http://127.1.%d.%d:%s/", i/250, i%250+1, port))
	}
}

// untouched asserts that the exports of some keys have no recorded attempt, and that each still waits in a
// consumer or a schedule.
func untouched(t *testing.T, s *journal.Log, keys int) {
	t.Helper()
	for i := range keys {
		x, err := s.Read(t.Context(), "default", key(i))
		require.NoError(t, err)
		require.Equal(t, events.CallbackState{State: events.CallbackPending}, x.Callback)
	}
	timers, err := s.JetStream().Stream(t.Context(), events.StreamTimers)
	require.NoError(t, err)
	due, err := s.JetStream().Consumer(t.Context(), events.StreamEvents, events.ConsumerNotifier)
	require.NoError(t, err)
	require.GreaterOrEqual(t, int(timers.CachedInfo().State.Msgs)+due.CachedInfo().NumAckPending+int(due.CachedInfo().NumPending), keys)
}

// A healthy receiver comes behind a thousand unknown silent ones and behind a flood to one silent host. It
// gets its callback before any of theirs is given up.
func TestDeadReceiversHoldUpNobody(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	port := silence(t)
	const hosts, flood = 1000, 4 + maxHostWaiting + 40
	dead(t, s, 0, hosts, port)
	for i := range flood {
		ended(t, s, key(hosts+i), "http://127.0.2.1:"+port+"/")
	}
	r := newReceiver(t, nil)
	healthy := ended(t, s, key(9999), r.URL)

	n := newService(t, s, Config{})
	n.drainFor = 100 * time.Millisecond
	begin := time.Now()
	stop := run(t, n)
	got := r.next(t)
	until(t, s, healthy.Key, is(events.CallbackDone))
	stop()
	t.Logf("delivered after %v", got.at.Sub(begin).Round(time.Millisecond))
	untouched(t, s, hosts+flood) // none was given up before
}

// Too many callbacks to silent hosts delay no others: callbacks to a host known as silent use memory of their
// own.
func TestMoreDeadReceiversThanRoomHoldUpNobody(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	port := silence(t)
	const hosts, room = 50, 60
	n := newService(t, s, Config{Timeout: 5 * time.Second, Schedule: []time.Duration{time.Second, time.Hour}})
	n.drainFor = 100 * time.Millisecond
	n.hosts.room, n.hosts.silent = semaphore.NewWeighted(room*callbackWeight), semaphore.NewWeighted(room/2*callbackWeight)
	stop := run(t, n)
	dead(t, s, 0, hosts, port)
	for i := range hosts {
		until(t, s, key(i), attempted(1))
	}
	require.Eventually(t, func() bool {
		if n.hosts.silent.TryAcquire(2 * callbackWeight) {
			n.hosts.silent.Release(2 * callbackWeight)
			return false
		}
		return true
	}, soon, tick, "all come back, and take the room that is theirs")
	r := newReceiver(t, nil)
	begin := time.Now()
	ended(t, s, key(9999), r.URL)
	r.next(t)
	require.Less(t, time.Since(begin), minPutOff, "it was not put off")
	until(t, s, key(9999), is(events.CallbackDone))
	stop()
	for i := range hosts {
		x, err := s.Read(t.Context(), "default", key(i))
		require.NoError(t, err)
		require.Equal(t, events.CallbackPending, x.Callback.State)
	}
}

// A callback that would be postponed past the history is given up, with a reason.
func TestCallbackThatIsPutOffForTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	n := newService(t, s, Config{KeepHistory: minPutOff - time.Second})
	n.hosts.room = semaphore.NewWeighted(0)
	run(t, n)
	x := until(t, s, ended(t, s, key(1), r.URL).Key, is(events.CallbackExhausted))
	require.Equal(t, reasonBusy, x.Callback.LastReason)
	require.Equal(t, []events.Type{events.TypeCallbackFailed}, callbackEvents(t, s, x.Key))
	require.Zero(t, r.count.Load())
}

func TestOneHostIsAskedByFewAtOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	var now, most atomic.Int64
	r := newReceiver(t, func(_ int64, _ http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(30 * time.Millisecond) // as a real receiver takes
		now.Add(-1)
	})
	const exports = 60
	for i := range exports {
		ended(t, s, key(i), r.URL)
	}
	run(t, newService(t, s, Config{PerHost: 3}))
	for i := range exports {
		until(t, s, key(i), is(events.CallbackDone))
	}
	require.Equal(t, int64(3), most.Load())
	require.Equal(t, int64(exports), r.count.Load())
}

const shortAckWait = 2 * time.Second

// A receiver that is slower than AckWait gets one request.
func TestSlowReceiverIsHeardBesideTheSlots(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{AckWait: shortAckWait})
	goOn := make(chan struct{})
	slow := newReceiver(t, func(int64, http.ResponseWriter, *http.Request) { <-goOn })
	quick := newReceiver(t, nil)
	run(t, newService(t, s, Config{Slots: 1}))
	x := ended(t, s, key(1), slow.URL)
	slow.next(t)
	require.NoError(t, s.ScheduleCallback(t.Context(), "default", x.Key, time.Now())) // the same message again
	ended(t, s, key(2), quick.URL)
	quick.next(t) // the one slot is free
	time.AfterFunc(shortAckWait+500*time.Millisecond, func() { close(goOn) })
	<-goOn
	x = until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, 1, x.Callback.Attempts)
	require.Equal(t, int64(1), slow.count.Load())
}

func TestCrashOfASlowAttemptIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	srv, cfg := eventstest.Server(t, ""), journal.Config{AckWait: shortAckWait}
	s, dying := eventstest.JournalOn(t, srv, cfg), eventstest.JournalOn(t, srv, cfg)
	r := newReceiver(t, func(n int64, w http.ResponseWriter, req *http.Request) {
		if n == 1 {
			<-req.Context().Done()
		}
	})
	n := newService(t, dying, Config{})
	n.drainFor = 10 * time.Millisecond
	stop := run(t, n)
	x := ended(t, s, key(1), r.URL)
	r.next(t)
	dying.Conn().Close() // nothing is returned to the stream
	stop()
	run(t, newService(t, s, Config{}))
	require.Eventually(t, func() bool {
		done, err := s.Read(t.Context(), "default", x.Key)
		return err == nil && done.Callback.State == events.CallbackDone && done.Callback.Attempts == 1
	}, 30*time.Second, tick, "after the AckWait; what was cut off is not the receiver's failure")
}

func TestDrainHandsBackAnAttempt(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, func(n int64, w http.ResponseWriter, req *http.Request) {
		if n == 1 {
			<-req.Context().Done()
		}
	})
	n := newService(t, s, Config{})
	n.drainFor = 10 * time.Millisecond
	stop := run(t, n)
	x := ended(t, s, key(1), r.URL)
	r.next(t)
	stop()
	run(t, newService(t, s, Config{}))
	begin := time.Now()
	done := until(t, s, x.Key, is(events.CallbackDone))
	require.Less(t, time.Since(begin), 8*time.Second, "sooner than the AckWait")
	require.Equal(t, 1, done.Callback.Attempts, "what the drain cut off is not the receiver's failure")
}

// A drain waits until an attempt is recorded and, after a failure, the next one is scheduled.
func TestDrainLetsAQuickAttemptFinish(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]struct {
		state     string
		schedules int
	}{
		http.StatusOK:                  {events.CallbackDone, 0},
		http.StatusInternalServerError: {events.CallbackPending, 1},
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			arrived, goOn := make(chan struct{}), make(chan struct{})
			r := newReceiver(t, func(_ int64, w http.ResponseWriter, _ *http.Request) {
				close(arrived)
				<-goOn
				w.WriteHeader(status)
			})
			stop := run(t, newService(t, s, Config{Schedule: []time.Duration{time.Hour}}))
			x := ended(t, s, key(1), r.URL)
			<-arrived
			stopped := make(chan struct{})
			go func() { stop(); close(stopped) }()
			time.AfterFunc(500*time.Millisecond, func() { close(goOn) })
			<-stopped
			now, err := s.Read(t.Context(), "default", x.Key)
			require.NoError(t, err)
			require.Equal(t, want.state, now.Callback.State)
			require.Equal(t, status, now.Callback.LastStatus)
			require.Len(t, eventstest.Stored(t, s, events.StreamTimers, ">"), want.schedules)
		})
	}
}

func TestRunThatEndsBeforeItBeganIsClean(t *testing.T) {
	t.Parallel()
	n := newService(t, eventstest.Journal(t), Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, n.Run(ctx))
}

func TestNATSCallbackArrivesDurably(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	run(t, newService(t, s, Config{}))
	const subject = "sheaf.callback.default.orders.done"
	x := end(t, s, begin(t, s, key(1), "nats:"+subject), events.StateCompleted)
	until(t, s, x.Key, is(events.CallbackDone))
	// A later subscriber still finds it.
	stream, err := s.JetStream().Stream(t.Context(), events.StreamCallbacks)
	require.NoError(t, err)
	m, err := stream.GetLastMsgForSubject(t.Context(), subject)
	require.NoError(t, err)
	require.Equal(t, x.WebhookID(), m.Header.Get("ce-id"))
	require.Equal(t, "sheaf.callback.export_completed.v1", m.Header.Get("ce-type"))
	require.Equal(t, x.Key, m.Header.Get("ce-subject"))
	require.Equal(t, "order 7", m.Header.Get("ce-correlationid"))
	var body Body
	require.NoError(t, json.Unmarshal(m.Data, &body))
	require.Equal(t, x.Key, body.Log.HashKey)
	require.NotEmpty(t, body.DownURL)
}

func TestFullLogDoesNotRepeatACallback(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxEventsBytes: 64 << 10})
	r := newReceiver(t, nil)
	x := ended(t, s, key(1), r.URL)
	filler := events.Export{Tenant: "default", Key: key(2)}
	for n := 40 << 10; n > 0; n /= 2 {
		for i := 0; ; i++ {
			filler.Key = key(1000*n + i)
			_, err := s.Append(t.Context(), filler, "", always(&events.ExportRequested{Request: events.Request{Title: strings.Repeat("x", n)}}))
			if err != nil {
				require.ErrorIs(t, err, events.ErrNoSpace)
				break
			}
		}
	}
	var lines eventstest.Log
	run(t, newService(t, s, Config{Log: lines.Logger()}))
	r.next(t)
	require.Eventually(t, func() bool { return len(lines.With("not recorded; trying again")) >= 2 }, soon, tick)
	log, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, log.Purge(t.Context(), jetstream.WithPurgeSubject(events.EventSubject("default", events.TypeRequested, key(1000*(40<<10))))))
	until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, int64(1), r.count.Load())
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	s, c := &journal.Log{}, &http.Client{}
	for _, bad := range []Config{
		{}, {PublicURL: "sheaf.example.com"}, {PublicURL: "ftp://x"},
		{PublicURL: "http://x", Schedule: []time.Duration{time.Second, 0}},
		{PublicURL: "http://x", Timeout: -1}, {PublicURL: "http://x", KeepHistory: -1},
		{PublicURL: "http://x", Slots: -1}, {PublicURL: "http://x", PerHost: -1},
	} {
		_, err := New(bad, s, c)
		require.Error(t, err, "%+v", bad)
	}
	_, err := New(Config{PublicURL: "http://x"}, nil, c)
	require.Error(t, err)
	_, err = New(Config{PublicURL: "http://x"}, s, nil)
	require.Error(t, err)
}
