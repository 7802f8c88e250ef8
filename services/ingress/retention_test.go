package ingress

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// eventsOf is how many events the log holds of a key.
func (in *ingress) eventsOf(t testing.TB, key string) int {
	t.Helper()
	stream, err := in.streams.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("sheaf.event.*.*."+key))
	require.NoError(t, err)
	n := 0
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n
}

// as appends an event to an export of any tenant.
func (in *ingress) as(t testing.TB, tenant, key string, p events.Payload) events.Export {
	t.Helper()
	x, err := in.streams.Append(t.Context(), in.read(t, tenant, key), "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(t, err)
	return x
}

func (in *ingress) cancelled(t testing.TB, n int) {
	t.Helper()
	in.write(t, testKey(n), requestOf("a"))
	in.write(t, testKey(n), &events.ExportCancelled{})
}

// A settled export is purged down to one event after a minute, and everything about it
// answers as before.
func TestSettledKeysArePurgedToOneEvent(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	withUser := func(title, more string) string {
		return httpBody("", `"title":"`+title+`"`, `"user_id":"u"`, fmt.Sprintf(`"timestamp":%d`, time.Now().Unix())+more)
	}
	begin := func(title, more string) string {
		return in.post(t, "/v1/export/http", withUser(title, more)).key(t)
	}
	callback := `,"callback":"http://127.0.0.1/done"`
	delivered, failed, pending, running, expired := begin("delivered", callback), begin("failed", ""), begin("pending", callback), begin("running", ""), begin("expired", "")
	x := in.finish(t, delivered, noise(1, 1000))
	in.write(t, delivered, &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Status: 500, Reason: "answered 500", NextAt: time.Now().UTC()})
	in.write(t, delivered, &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: 2, Status: 200})
	in.write(t, failed, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503", Phase: events.PhaseCrawling, Page: 7})
	in.write(t, pending, &events.ExportCancelled{})
	in.write(t, pending, &events.CallbackAttempted{Attempt: 1, Status: 500, Reason: "answered 500", NextAt: time.Now().UTC()})
	in.write(t, running, &events.ExportCrawled{Run: 1, Pages: 1})
	in.finish(t, expired, noise(2, 1000))
	in.caughtUpTo(t)
	all := []string{delivered, failed, pending, running, expired}
	answers := func() (list []string) {
		for _, key := range all {
			list = append(list, string(in.get(t, "/v1/export/detail?key="+key).Data))
		}
		retry := in.post(t, "/v1/export/retry", `{"key":"`+delivered+`"}`)
		require.Equal(t, http.StatusConflict, retry.Status)
		x := in.read(t, events.DefaultTenant, delivered)
		status, body, err := partly(t, http.MethodGet, in.link(&x))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		return append(list, string(in.get(t, "/v1/export/history?user_id=u").Data), retry.Msg, string(body))
	}
	counts := func() (list []int) {
		for _, key := range all {
			list = append(list, in.eventsOf(t, key))
		}
		return list
	}
	before, sum := answers(), in.digest(t)

	patient := in.sweeper()
	patient.settle = time.Hour
	passes(t, patient, 2)
	require.Equal(t, []int{5, 2, 3, 2, 3}, counts(), "not before its time")
	s := in.sweeper()
	passes(t, s, 2)
	require.Equal(t, []int{1, 1, 3, 2, 1}, counts())
	require.Equal(t, before, answers())
	require.Equal(t, sum, in.digest(t))
	require.Equal(t, sum, in.rebuilt(t))

	// An equal request starts nothing, a retry begins it again under its id.
	first := in.read(t, events.DefaultTenant, failed)
	require.Equal(t, http.StatusOK, in.post(t, "/v1/export/retry", `{"key":"`+failed+`"}`).Status)
	again := in.read(t, events.DefaultTenant, failed)
	require.Equal(t, [2]any{events.StateRequested, first.ID}, [2]any{again.State, again.ID})
	require.Equal(t, []events.Type{events.TypeRequested, events.TypeFailed, events.TypeRequested}, typesOf(again.Timeline))

	// So it is when more has happened since.
	in.write(t, expired, &events.ExportExpired{})
	in.write(t, pending, &events.CallbackDelivered{Attempt: 2, Status: 200})
	in.caughtUpTo(t)
	passes(t, s, 2)
	require.Equal(t, []int{1, 2, 1, 2, 1}, []int{in.eventsOf(t, delivered), in.eventsOf(t, failed), in.eventsOf(t, pending), in.eventsOf(t, running), in.eventsOf(t, expired)})
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

func typesOf(timeline []events.Moment) (types []events.Type) {
	for _, m := range timeline {
		types = append(types, m.Type)
	}
	return types
}

// A tenant with too many exports forgets the oldest settled ones, with all that they left
// behind. What is under way or has a callback pending stays however old it is, and so
// does everything of others.
func TestATenantForgetsItsOldestSettledExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	running := in.underway(t, testKey(0))
	in.write(t, testKey(1), withCallback("a"))
	in.write(t, testKey(1), &events.ExportCancelled{})
	old := map[int]events.Export{}
	for n := 2; n < 8; n++ {
		x := in.underway(t, testKey(n))
		old[n] = x
		if n == 3 { // which keeps its pages for a retry
			in.write(t, testKey(n), &events.ExportCancelled{})
			continue
		}
		in.finish(t, testKey(n), []byte("zip"))
	}
	for n := range 4 {
		in.as(t, "other", testKey(100+n), requestOf("a"))
		in.as(t, "other", testKey(100+n), &events.ExportCancelled{})
	}
	in.caughtUpTo(t)
	first := in.read(t, events.DefaultTenant, testKey(2))
	link := in.link(&first)
	status, _, err := partly(t, http.MethodGet, link)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)

	s := in.sweeper()
	s.maxHistory, s.keepPages = 4, time.Hour
	require.NoError(t, s.forget(t.Context()))
	require.True(t, in.knows(t, 2), "there is no mark yet")
	passes(t, s, 2)
	in.caughtUpTo(t)
	require.True(t, in.knows(t, 5), "the newest event of the log stays")
	require.False(t, in.has(t, in.read(t, events.DefaultTenant, testKey(5)).Files[0].Store))
	require.Equal(t, in.rebuilt(t), in.digest(t))
	in.other(t, 1)
	passes(t, s, 1)
	for n := range 8 {
		require.Equal(t, n < 2 || n >= 6, in.knows(t, n), "key %d", n)
	}
	for n, x := range old {
		gone := n < 6
		require.Equal(t, gone, in.eventsOf(t, testKey(n)) == 0)
		require.False(t, in.sealed(t, testKey(n)))
		require.Empty(t, in.pages(t, testKey(n), x.RequestedSeq))
		if !gone {
			x := in.read(t, x.Tenant, x.Key)
			require.True(t, in.has(t, x.Files[0].Store))
		}
	}
	require.False(t, in.has(t, first.Files[0].Store))
	require.Equal(t, http.StatusNotFound, in.get(t, strings.TrimPrefix(link, in.url)).Status)
	require.Equal(t, http.StatusNotFound, in.get(t, "/v1/export/detail?key="+testKey(2)).Status)
	require.Len(t, in.pages(t, testKey(0), running.RequestedSeq), 2)
	require.True(t, in.sealed(t, testKey(0)))
	u, err := in.tasks.Usage("other")
	require.NoError(t, err)
	require.Equal(t, 4, u.Exports)
	require.Equal(t, in.rebuilt(t), in.digest(t))

	// What cannot be forgotten counts, and stays.
	s.maxHistory = 1
	passes(t, s, 1)
	in.other(t, 2)
	passes(t, s, 1)
	require.True(t, in.knows(t, 0))
	require.True(t, in.knows(t, 1))
	require.False(t, in.knows(t, 7))
	in.write(t, testKey(1), &events.CallbackFailed{Attempt: 10, Reason: "answered 500"})
	in.other(t, 3)
	passes(t, s, 2)
	require.False(t, in.knows(t, 1))
	require.Equal(t, in.rebuilt(t), in.digest(t))

	// A key that was forgotten is a new export when it is asked for again.
	x := in.write(t, testKey(2), requestOf("a"))
	require.Equal(t, x.RequestedSeq, x.ID)
	require.Len(t, x.Timeline, 1)
	in.caughtUpTo(t)
	require.True(t, in.knows(t, 2))
}

// other writes an event of some other tenant, which is then the newest of the log.
func (in *ingress) other(t testing.TB, n int) {
	t.Helper()
	in.as(t, fmt.Sprint("somebody-", n), testKey(10_000+n), &events.SubmissionRejected{Reason: "no"})
	in.caughtUpTo(t)
}

// What one tenant has in the log is bounded by half of it.
func TestATenantForgetsWhatTakesMoreThanHalfOfTheLog(t *testing.T) {
	t.Parallel()
	const limit = 512 << 10
	in := startOn(t, eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: limit}), Config{})
	in.as(t, "other", testKey(1000), requestOf("a"))
	in.as(t, "other", testKey(1000), &events.ExportCancelled{})
	long := requestOf(strings.Repeat("long ", 1000))
	n := 0
	s := in.sweeper()
	passes(t, s, 1)
	for in.log(t).Space.Used < limit/10*7 {
		in.write(t, testKey(n), long)
		in.write(t, testKey(n), &events.ExportCancelled{})
		in.caughtUpTo(t)
		passes(t, s, 2) // purges the events before the newest
		n++
		if n > 40 {
			u, err := in.tasks.Usage(events.DefaultTenant)
			require.NoError(t, err)
			require.Less(t, u.Exports, n, "%d bytes of the log are used", in.log(t).Space.Used)
			break
		}
	}
	log := in.caughtUpTo(t)
	u, err := in.tasks.Usage(events.DefaultTenant)
	require.NoError(t, err)
	require.False(t, u.TooMuch(log.Space, s.maxHistory))
	require.Greater(t, u.Bytes, int64(limit)*2/5, "no more goes than must")
	require.InDelta(t, log.Space.Used, u.Bytes, limit/10, "what is counted is about what the log holds")
	require.False(t, in.knows(t, 0))
	require.True(t, in.knows(t, n-1))
	other, err := in.tasks.Usage("other")
	require.NoError(t, err)
	require.Equal(t, 1, other.Exports)
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

// However several ingresses come to forget, at once, one after the other, or with a
// different look at the log, they know the same exports in the end, and so does the log.
func TestForgettingIsTheSameOnTwoIngresses(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in, other := start(t, srv, Config{}), start(t, srv, Config{})
	due := time.Now().Add(time.Hour)
	a, b := in.sweeper(), other.sweeper()
	b.files = in.files
	for _, s := range []*sweeper{a, b} {
		s.maxHistory = 5
		passes(t, s, 1)
	}
	marks := 0
	same := func(known ...int) {
		t.Helper()
		for _, s := range []*sweeper{a, b, a} { // and what was the newest event
			in.other(t, marks)
			marks++
			other.caughtUpTo(t)
			passes(t, s, 1)
		}
		in.caughtUpTo(t)
		other.caughtUpTo(t)
		require.Equal(t, in.digest(t), other.digest(t))
		require.Equal(t, in.rebuilt(t), in.digest(t))
		for n := range 60 {
			in.knows(t, n)
		}
		u, err := in.tasks.Usage(events.DefaultTenant)
		require.NoError(t, err)
		require.Equal(t, len(known), u.Exports)
		for _, n := range known {
			require.True(t, in.knows(t, n), "key %d", n)
		}
	}
	for n := range 10 {
		in.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	passes(t, a, 2)
	passes(t, b, 2)
	same(5, 6, 7, 8, 9)

	var wg sync.WaitGroup
	for n := 10; n < 50; n++ {
		in.complete(t, testKey(n), "a", []byte("zip"), due)
	}
	for _, s := range []*sweeper{a, b} {
		wg.Go(func() {
			for range 3 {
				if err := s.pass(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	passes(t, a, 1)
	passes(t, b, 1)
	same(45, 46, 47, 48, 49)

	// The oldest one cannot be forgotten when the one looks, and can when the other does.
	in.write(t, testKey(50), withCallback("a"))
	in.write(t, testKey(50), &events.ExportCancelled{})
	for n := 51; n < 56; n++ {
		in.cancelled(t, n)
	}
	in.caughtUpTo(t)
	passes(t, a, 2)
	in.write(t, testKey(50), &events.CallbackDelivered{Attempt: 1, Status: 200})
	other.caughtUpTo(t)
	passes(t, b, 2)
	same(50, 52, 53, 54, 55)
}

// A process that dies after its projection has forgotten an export, and before the log
// has, leaves one that can be asked for again, and that the next one forgets.
func TestACrashWhileForgetting(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in, other := start(t, srv, Config{}), start(t, srv, Config{})
	body, x := in.submitted(t, "orders", noise(1, 1000))
	s := in.sweeper()
	after, err := s.expireFile(t.Context(), x, func(*events.Export) bool { return true })
	require.NoError(t, err)
	in.caughtUpTo(t)
	require.NoError(t, in.tasks.Forget([]events.Export{after}))
	require.Equal(t, http.StatusNotFound, in.get(t, "/v1/export/detail?key="+x.Key).Status)
	require.Equal(t, x.Key, in.post(t, "/v1/export/http", body).key(t))
	require.Equal(t, events.StatusProcessing, in.get(t, "/v1/export/detail?key="+x.Key).detail(t).Status)
	other.caughtUpTo(t)
	require.Equal(t, in.digest(t), other.digest(t), "the event brings it back")
	require.Zero(t, in.post(t, "/v1/export/cancel", `{"key":"`+x.Key+`"}`).Errcode)

	last := in.read(t, x.Tenant, x.Key)
	in.other(t, 1)
	require.NoError(t, in.tasks.Forget([]events.Export{last}))
	again := startOn(t, in.streams, Config{})
	again.caughtUpTo(t)
	_, err = again.tasks.Get(x.Key)
	require.NoError(t, err, "a projection that is made from the log knows it")
	s = again.sweeper()
	s.maxHistory = 0
	passes(t, s, 2)
	require.Equal(t, events.StateNone, again.read(t, x.Tenant, x.Key).State)
	require.Equal(t, in.digest(t), again.digest(t))
}

// What is too old for the log goes from the projection too.
func TestWhatIsTooOldForTheLogIsForgotten(t *testing.T) {
	t.Parallel()
	in := startOn(t, eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{KeepLog: 2 * time.Second}), Config{})
	in.cancelled(t, 0)
	in.write(t, testKey(1), &events.SubmissionRejected{Reason: "no"})
	last := in.caughtUpTo(t).Last
	s := in.sweeper()
	passes(t, s, 2)
	require.True(t, in.knows(t, 0))
	require.Eventually(t, func() bool { return in.log(t).First > last }, 20*time.Second, 10*time.Millisecond)
	in.cancelled(t, 2)
	in.caughtUpTo(t)
	passes(t, s, 1)
	for n := range 3 {
		_, err := in.tasks.Get(testKey(n))
		if n < 2 {
			require.ErrorIs(t, err, storage.ErrUnknownKey)
		} else {
			require.NoError(t, err)
		}
	}
}

// A tenant whose exports are all under way, or wait for their callback, and are as many as
// may be remembered is refused. Others are not.
func TestATenantThatCanForgetNothingIsRefused(t *testing.T) {
	t.Parallel()
	const limit = 512 << 10
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: limit})
	in := startOn(t, streams, Config{MaxHistory: 3, Authenticate: func(key string) (string, bool) { return key, true }})
	submit := func(tenant, title string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", titled(title), "X-API-Key", tenant)
	}
	look := func() {
		in.outlook.mu.Lock()
		defer in.outlook.mu.Unlock()
		in.outlook.log = in.caughtUpTo(t).Space
	}
	refused := func(a answer) {
		t.Helper()
		require.Equal(t, http.StatusTooManyRequests, a.Status, a.Raw)
		require.Equal(t, errcodeQuota, a.Errcode)
		require.Equal(t, "30", a.Header.Get("Retry-After"))
		require.Contains(t, a.Msg, "nothing of yours can be forgotten")
	}
	key := ""
	for n := range 3 {
		key = submit("shop", fmt.Sprint(n)).key(t)
		look()
	}
	in.as(t, "told", testKey(1), withCallback("a"))
	in.as(t, "told", testKey(1), &events.ExportCancelled{})
	look()
	before := in.log(t).Last
	refused(submit("shop", "more"))
	require.Equal(t, before, in.log(t).Last)
	require.Equal(t, key, submit("shop", "2").key(t), "what is there is found")
	require.Zero(t, submit("other", "more").Errcode)
	require.Zero(t, submit("told", "1").Errcode)
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key), "X-API-Key", "shop").Errcode)
	look()
	require.Zero(t, submit("shop", "more").Errcode, "one can be forgotten")

	// The same with bytes.
	for n := 0; ; n++ {
		in.as(t, "large", testKey(100+n), requestOf(strings.Repeat("long ", 4000)))
		look()
		if u, err := in.tasks.Usage("large"); err != nil || u.Bytes > limit/2 {
			require.NoError(t, err)
			break
		}
	}
	in.cfg.MaxHistory = 1000
	refused(submit("large", "more"))
	require.Zero(t, submit("shop", "and more").Errcode)
	require.Less(t, in.log(t).Space.Used, int64(limit)/10*9)
}

// Rejections of one tenant are exports that ended: they push out its own, and nothing of
// others.
func TestRejectionsPushOutOnlyTheTenantsOwn(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	in.cancelled(t, 0)
	const sent = 100
	for range sent {
		_, err := in.streams.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: events.SubmitSubject("shop", "raw"), Data: []byte(`{"title":1}`)})
		require.NoError(t, err)
	}
	emptied(t, in)
	in.caughtUpTo(t)
	u, err := in.tasks.Usage("shop")
	require.NoError(t, err)
	require.Equal(t, storage.Usage{Exports: sent, Settled: sent, Bytes: u.Bytes}, u)
	s := in.sweeper()
	s.maxHistory = 10
	passes(t, s, 2)
	u, err = in.tasks.Usage("shop")
	require.NoError(t, err)
	require.Equal(t, 10, u.Exports)
	require.True(t, in.knows(t, 0))
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

// A file of an export that the log does not know stays, for the log may be what was lost,
// until it is older than any file may become.
func TestFilesOfUnknownExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	id := events.NewID()
	made, ok := events.IDTime(id)
	require.True(t, ok)
	stores := []string{
		"default/" + testKey(9) + "-" + id + ".zip",
		"default/" + testKey(8) + "/" + id + ".zip",                           // of an older version
		"default/" + testKey(9) + "-01900000-0000-7000-8000-000000000000.zip", // of a log before this one
		"default/" + testKey(9) + "-a.zip",
	}
	for _, store := range stores {
		in.commit(t, store, []byte("zip"))
	}
	s := in.sweeper()
	left := func(at time.Time) (list []bool) {
		s.now, s.filesSwept = func() time.Time { return at }, time.Time{}
		require.NoError(t, s.sweepFiles(t.Context()))
		for _, store := range stores {
			list = append(list, in.has(t, store))
		}
		return list
	}
	ancient := made.Add(s.keepFiles + s.maxAge + orphanAge)
	require.Equal(t, []bool{true, true, true, true}, left(ancient))
	require.Equal(t, []bool{false, false, true, true}, left(ancient.Add(time.Second)))
}
