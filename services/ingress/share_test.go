package ingress

import (
	"fmt"
	"net/http"
	"slices"
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
// what they begin never fills more than the shared part of it, and whoever comes
// next may begin something.
func TestSharesLeaveRoomForWhoComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1<<20, 1<<34).Draw(t, "limit")
		log := events.Space{Limit: limit}
		tenants := make([]int64, rapid.IntRange(1, 40).Draw(t, "tenants"))
		for range 400 {
			n := rapid.IntRange(0, len(tenants)-1).Draw(t, "tenant")
			if own := tenants[n]; own <= shareOf(log) {
				// No more than what another share would be left of.
				took := rapid.Int64Range(0, max(limit/10_000, 1)).Draw(t, "took")
				tenants[n] += took
				log.Used += took
			}
		}
		// Each tenant may be over by what it took last.
		require.LessOrEqual(t, log.Used, int64(float64(limit)*sharedLog)+int64(len(tenants))*(limit/10_000+1))
		most := slices.Max(tenants)
		require.LessOrEqual(t, most, int64(float64(limit)*sharedLog)*2/3+limit/10_000+1, "of the most greedy two thirds")
		if log.Used < int64(float64(limit)*sharedLog) {
			require.Positive(t, shareOf(log))
		}
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
	own, _ := in.tasks.LogBytes("shop")
	require.Less(t, own, shareOf(in.log(t).Space))
	require.Eventually(t, func() bool { return submit("shop", "another").Errcode == 0 }, 10*time.Second, 20*time.Millisecond)
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
