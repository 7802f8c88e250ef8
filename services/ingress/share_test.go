package ingress

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// However many tenants fill the log, as greedily as they like and in whatever order,
// no one has more than two thirds of the shared part, and who has less than an equal
// part may always have more.
func TestSharesLeaveRoomForWhoComes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		log := events.Space{Limit: rapid.Int64Range(1<<20, 1<<34).Draw(t, "limit")}
		shared := int64(float64(log.Limit) * sharedLog)
		tenants := make([]int64, rapid.IntRange(2, 40).Draw(t, "tenants"))
		step := log.Limit / 1000
		present := 0
		for range 2000 {
			n := rapid.IntRange(0, len(tenants)-1).Draw(t, "tenant")
			if tenants[n] > shareOf(log, present) {
				require.Greater(t, tenants[n], shared/int64(len(tenants)), "an equal part is everybody's")
				continue
			}
			if tenants[n] == 0 {
				present++
			}
			tenants[n] += step
			log.Used += step
		}
		alone := present == 1
		for _, own := range tenants {
			require.True(t, alone || own <= shared*2/3+step+1, "%d of %d", own, shared)
		}
		require.LessOrEqual(t, log.Used, shared*5/3+int64(len(tenants))*step)
	})
}

// A tenant that submits and cancels without end fills its share of the log, and is
// told so; everybody else goes on, and nothing of theirs goes early.
func TestOneTenantCannotFillTheLog(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: limit})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	ask := func(tenant, path, body string) answer {
		return send(t, http.MethodPost, in.url+path, body, "X-API-Key", tenant)
	}
	submit := func(tenant, title string) answer { return ask(tenant, "/v1/export/raw", titled(title)) }
	bank := submit("bank", "first").key(t)

	// One export, begun and cancelled again and again.
	long := titled("endless " + strings.Repeat("x", 200))
	key := ask("shop", "/v1/export/raw", long).key(t)
	var over answer
	rounds := 0
	for ; rounds < 5000; rounds++ {
		if a := ask("shop", "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)); a.Errcode != 0 {
			t.Fatalf("cancelling: %+v", a)
		}
		if over = ask("shop", "/v1/export/retry", fmt.Sprintf(`{"key":%q}`, key)); over.Errcode != 0 {
			break
		}
		in.caughtUpTo(t)
	}
	require.Equal(t, http.StatusTooManyRequests, over.Status, "%d rounds: %s", rounds, over.Msg)
	require.Equal(t, "30", over.Header.Get("Retry-After"))
	require.Contains(t, over.Msg, "of the event log")
	require.Equal(t, http.StatusTooManyRequests, submit("shop", "another").Status)
	require.Less(t, in.log(t).Full, sharedLog)

	// Nothing of others is refused, failed or forgotten, whatever the sweeper does.
	for n := range 20 {
		require.Zero(t, submit("bank", fmt.Sprint(n)).Errcode)
	}
	require.Zero(t, submit("new", "1").Errcode)
	in.caughtUpTo(t)
	passes(t, in.sweeper(), 3)
	require.Equal(t, events.StateRequested, in.read(t, "bank", bank).State)
	u, err := in.tasks.Usage("bank")
	require.NoError(t, err)
	require.Equal(t, 21, u.Exports)

	// When the head is free the log is trimmed down to the share, without waiting for
	// --keep-history, and there is room again.
	require.Zero(t, ask("bank", "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, bank)).Errcode)
	require.Zero(t, ask("bank", "/v1/export/retry", fmt.Sprintf(`{"key":%q}`, bank)).Errcode, "its round begins anew, behind all that")
	in.caughtUpTo(t)
	s := in.sweeper()
	passes(t, s, 3)
	p := portionOf(in.tasks, in.log(t).Space, "shop")
	require.LessOrEqual(t, p.own, p.share(0))
	require.Eventually(t, func() bool { return submit("shop", "another").Errcode == 0 }, 10*time.Second, 20*time.Millisecond)
}

// Callbacks that nobody takes are told again and again, and each attempt is an event:
// they count when the export begins, so that they do not fill the log afterwards.
func TestCallbacksThatNobodyTakesStayWithinTheShare(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	ask := func(tenant, path, body string) answer {
		return send(t, http.MethodPost, in.url+path, body, "X-API-Key", tenant)
	}
	require.Zero(t, ask("bank", "/v1/export/raw", titled("1")).Errcode)
	var keys []string
	for n := 0; ; n++ {
		in.caughtUpTo(t)
		a := ask("shop", "/v1/export/raw", strings.Replace(titled(fmt.Sprint(n)), "{", `{"callback":"http://127.0.0.1:1/dead",`, 1))
		if a.Status == http.StatusTooManyRequests {
			break
		}
		keys = append(keys, a.key(t))
		require.Zero(t, ask("shop", "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, a.key(t))).Errcode)
	}
	for _, key := range keys {
		x := in.read(t, "shop", key)
		require.Equal(t, events.CallbackPending, x.Callback.State)
		for attempt := range 10 {
			var err error
			x, err = streams.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
				return &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: attempt + 1, Status: 503, Reason: strings.Repeat("r", 100), NextAt: time.Now()}, nil
			})
			require.NoError(t, err)
		}
	}
	in.caughtUpTo(t)
	require.Less(t, in.log(t).Full, sharedLog)
	require.Zero(t, ask("bank", "/v1/export/raw", titled("2")).Errcode)
}

// A tenant that has less than an equal part is not refused for what others do, and
// none of its exports goes early; nor does the log come to a stop when it was filled
// before there were others.
func TestAModestTenantIsLeftAlone(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	ask := func(tenant, path, body string) answer {
		return send(t, http.MethodPost, in.url+path, body, "X-API-Key", tenant)
	}
	own := func(tenant string) float64 {
		in.caughtUpTo(t)
		n, _, _ := in.tasks.LogBytes(tenant)
		return float64(n) / (1 << 20)
	}
	filled := 0
	for own("bank") < 0.2 {
		filled++
		key := ask("bank", "/v1/export/raw", titled(fmt.Sprint(filled))).key(t)
		require.Zero(t, ask("bank", "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	}
	for n := 0; own("shop") < 0.5; n++ {
		a := ask("shop", "/v1/export/raw", titled(fmt.Sprint(n)))
		if a.Status == http.StatusTooManyRequests {
			break
		}
		require.Zero(t, ask("shop", "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, a.key(t))).Errcode)
	}
	require.Greater(t, own("shop"), 0.2)
	require.Less(t, own("shop"), 0.5)
	// Events that nobody can refuse bring the log beyond what is shared.
	for n := 0; in.log(t).Full < 0.75; n++ {
		_, err := streams.Append(t.Context(), events.Export{Tenant: "shop", Key: testKey(n)}, "", func(*events.Export) (events.Payload, error) {
			return &events.SubmissionRejected{Reason: strings.Repeat("x", 3000)}, nil
		})
		require.NoError(t, err)
	}
	in.caughtUpTo(t)
	passes(t, in.sweeper(), 3)
	u, err := in.tasks.Usage("bank")
	require.NoError(t, err)
	require.Equal(t, filled, u.Exports)
	require.Zero(t, ask("bank", "/v1/export/raw", titled("more")).Errcode)
	require.Zero(t, ask("new", "/v1/export/raw", titled("more")).Errcode)
}

// A log that one tenant has filled while it was alone is made free for others: when it
// is crowded, even what that tenant has under way does not hold it.
func TestALogThatWasFilledByOneAlone(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	in.underway(t, testKey(0))
	for n := 1; in.log(t).Full < 0.75; n++ {
		in.write(t, testKey(n), requestOf(strings.Repeat("long ", 1000)))
		in.write(t, testKey(n), &events.ExportCancelled{})
	}
	begun := 0
	for in.log(t).Full < crowded {
		in.caughtUpTo(t)
		require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", titled(fmt.Sprint(begun)), "X-API-Key", "bank").Errcode)
		begun++
	}
	in.caughtUpTo(t)
	passes(t, in.sweeper(), 10)
	in.caughtUpTo(t)
	require.Less(t, in.log(t).Full, crowded)
	require.False(t, in.knows(t, 0))
	u, err := in.tasks.Usage("bank")
	require.NoError(t, err)
	require.Equal(t, [2]int{begun, begun}, [2]int{u.Exports, u.Unfinished})
}

// Durable submissions of a tenant that is far over its share wait, as many as may; what
// is rejected beyond that is told, though not in the log.
func TestSubmissionsOverTheShareAreTold(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
	in := startOn(t, streams, Config{})
	for n := 0; in.log(t).Full < 0.75; n++ {
		_, err := streams.Append(t.Context(), events.Export{Tenant: "shop", Key: testKey(n)}, "", func(*events.Export) (events.Payload, error) {
			return &events.SubmissionRejected{Reason: strings.Repeat("x", 3000)}, nil
		})
		require.NoError(t, err)
	}
	in.underway(t, testKey(1000)) // of another tenant
	in.caughtUpTo(t)
	in.outlook.mu.Lock()
	in.outlook.log = in.log(t).Space
	in.outlook.mu.Unlock()
	require.False(t, in.mayTell("shop"))
	results, err := streams.Conn().SubscribeSync("sheaf.callback.shop.>")
	require.NoError(t, err)
	before := in.log(t).Last
	const more = 50
	for n := range maxWaiting + more + 1 {
		body := titled(fmt.Sprint(n))
		if n == maxWaiting+more {
			body = `{"title":1}`
		}
		_, err := streams.JetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: events.SubmitSubject("shop", "raw"), Header: nats.Header{"ce-id": {fmt.Sprint("my-", n)}}, Data: []byte(body),
		})
		require.NoError(t, err)
	}
	told := map[string]int{}
	for range more + 1 {
		m, err := results.NextMsg(30 * time.Second)
		require.NoError(t, err)
		require.Equal(t, "sheaf.callback.shop.rejected", m.Subject)
		require.Equal(t, "sheaf.submission.rejected.v1", m.Header.Get("ce-type"))
		var r events.SubmissionRejected
		require.NoError(t, json.Unmarshal(m.Data, &r))
		told[m.Header.Get("ce-correlationid")] = r.Errcode
	}
	require.Len(t, told, more+1, "each once")
	require.Equal(t, errcodeInvalid, told[fmt.Sprint("my-", maxWaiting+more)])
	st, err := streams.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := st.Info(t.Context())
		return err == nil && info.State.Msgs == maxWaiting
	}, 10*time.Second, 20*time.Millisecond, "the others wait")
	require.Equal(t, before, in.log(t).Last)
}

// Many exports that run at the head of a log that is crowded are ended together, not
// one after another.
func TestManyUnfinishedHeadsGoTogether(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	n := 0
	for ; in.log(t).Full < logShare; n++ {
		in.write(t, testKey(n), requestOf(strings.Repeat("long ", 1000)))
	}
	in.caughtUpTo(t)
	in.outlook.mu.Lock()
	in.outlook.log = in.log(t).Space
	in.outlook.mu.Unlock()
	require.Equal(t, http.StatusServiceUnavailable, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1"), "X-API-Key", events.DefaultTenant).Status)
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1"), "X-API-Key", "new").Errcode, "a newcomer may begin")
	in.caughtUpTo(t)
	s := in.sweeper()
	passes(t, s, 1)
	passes(t, s, 1)
	in.caughtUpTo(t)
	failed := 0
	for k := range n {
		if in.read(t, events.DefaultTenant, testKey(k)).State == events.StateFailed {
			failed++
		}
	}
	require.InDelta(t, n/10, failed, 2, "a step of them, and no more before those are gone")
	for range 12 {
		passes(t, s, 1)
		in.caughtUpTo(t)
	}
	require.Less(t, in.log(t).Full, crowded)
	p := portionOf(in.tasks, in.log(t).Space, "new")
	require.False(t, p.over())
	u, err := in.tasks.Usage("new")
	require.NoError(t, err)
	require.Equal(t, 1, u.Unfinished)
}

// Who is alone has the whole log.
func TestATenantAloneHasTheWholeLog(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
	in := startOn(t, streams, Config{})
	for n := 0; in.log(t).Full < sharedLog; n++ {
		in.write(t, testKey(n), requestOf(strings.Repeat("long ", 1000)))
	}
	in.caughtUpTo(t)
	in.outlook.mu.Lock()
	in.outlook.log = in.log(t).Space
	in.outlook.mu.Unlock()
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1")).Errcode)
	require.True(t, in.mayTell(events.DefaultTenant))
}

// Rejections are events too. They count for their tenant, push out no history of
// others, and end where they would fill what is kept for the ends of exports.
func TestRejectionsStayWithinTheShare(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
	in := startOn(t, streams, Config{MaxHistory: 10, Authenticate: func(key string) (string, bool) { return key, true }})
	bank := send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1"), "X-API-Key", "bank").key(t)
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, bank), "X-API-Key", "bank").Errcode)
	const sent = 1000
	for range sent {
		_, err := streams.JetStream().PublishMsgAsync(&nats.Msg{Subject: events.SubmitSubject("shop", "raw"), Data: []byte(`{"title":1}`)})
		require.NoError(t, err)
	}
	<-streams.JetStream().PublishAsyncComplete()
	st, err := streams.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := st.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, 60*time.Second, 20*time.Millisecond, "each is dealt with")
	in.caughtUpTo(t)
	require.Less(t, in.log(t).Full, crowded)
	u, err := in.tasks.Usage("shop")
	require.NoError(t, err)
	require.Less(t, u.Exports, sent)
	require.Greater(t, u.Exports, 50)
	passes(t, in.sweeper(), 3)
	in.caughtUpTo(t)
	_, err = in.tasks.Get(bank)
	require.NoError(t, err, "the history of others is not pushed out")
}
