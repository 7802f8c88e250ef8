package ingress

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// One tenant leaves capacity for the calls of others, and each tenant's calls end.
func TestCallsOfOneTenantLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &microService{taken: map[string]int{}}
		tenants := []string{"a", "b", "c", "d", "e", "f"}
		calls := map[string]int{}
		for range rapid.IntRange(1, 1500).Draw(t, "steps") {
			tenant := rapid.SampledFrom(tenants).Draw(t, "tenant")
			if calls[tenant] > 0 && rapid.IntRange(0, 9).Draw(t, "ends") == 0 {
				m.done(tenant)
				calls[tenant]--
				continue
			}
			if m.take(tenant) {
				calls[tenant]++
			}
			require.LessOrEqual(t, calls[tenant], maxTenantMicroCalls)
			require.LessOrEqual(t, m.total, maxMicroCalls)
			require.Less(t, m.total, maxMicroCalls, "a tenant that has none can always begin one")
		}
		require.True(t, m.take("newcomer"))
		m.done("newcomer")
		for tenant, n := range calls {
			for range n {
				m.done(tenant)
			}
		}
		require.Empty(t, m.taken)
		require.Zero(t, m.total)
	})
}

// A request without an inbox begins nothing.
func TestRequestsWithoutAnInboxAreNotWorkedOn(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	nc := in.journal.Callers()
	for n, reply := range []string{"", "sheaf.api.default.http", "inbox.mine"} {
		require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "sheaf.api.default.raw", Reply: reply, Data: []byte(titled(fmt.Sprint("without ", n)))}))
	}
	// The requests of one operation are handled in order, so this one comes last.
	m, err := nc.Request("sheaf.api.default.raw", []byte(titled("with an inbox")), 10*time.Second)
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(m.Data, &a))
	in.read(t, "default", a.key(t))
	log, err := in.journal.LogState(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, log.Last, "events")
}

// Requests arrive on a connection other than the log's.
func TestRequestsHaveAConnectionOfTheirOwn(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	callers, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(callers.Close)
	in := startOn(t, eventstest.JournalOn(t, srv, journal.Config{Callers: callers}), Config{})
	nc, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	heard, err := nc.SubscribeSync("sheaf.progress.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	before := callers.Stats().InMsgs
	_, err = nc.Request("sheaf.api.default.history", []byte(`{"user_id":"7"}`), 10*time.Second)
	require.NoError(t, err)
	require.Greater(t, callers.Stats().InMsgs, before)
	sent := callers.Stats().OutMsgs
	in.journal.PublishProgress("default", strings.Repeat("0", 32), events.Progress{Phase: events.PhaseCrawling})
	_, err = heard.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Equal(t, sent+1, callers.Stats().OutMsgs)
}

// A tenant at its limit of concurrent calls delays its own calls and no other tenant's.
func TestCallsOfOneTenantWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byTenant})
	for range maxTenantCalls {
		leave, err := in.turn(t.Context(), "busy", "detail")
		require.NoError(t, err)
		defer leave()
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := in.turn(soon, "busy", "detail")
	var refused *apiError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	require.NotZero(t, refused.RetryAfter)

	require.Zero(t, send(t, http.MethodGet, in.url+"/v1/export/history?user_id=7", "", "X-API-Key", "other").Errcode)
	m, err := in.journal.Callers().Request("sheaf.api.other.history", []byte(`{"user_id":"7"}`), 10*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(m.Data), `"errcode":0`)
}

// A tenant reads one history, or checks one file, at a time. Then it pauses as long as that took. Its other
// calls, and those of other tenants, do not wait.
func TestATenantReadsMuchOneAtATime(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byTenant, TurnWait: 10 * time.Millisecond})
	get := func(tenant, path string) int {
		return send(t, http.MethodGet, in.url+"/v1/export/"+path, "", "X-API-Key", tenant).Status
	}
	leave, err := in.readTurn(t.Context(), "busy")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, get("busy", "history?user_id=7"))
	m, err := in.journal.Callers().Request("sheaf.api.busy.history", []byte(`{"user_id":"7"}`), 10*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(m.Data), `"errcode":503`)
	require.Equal(t, http.StatusServiceUnavailable, send(t, http.MethodPost, in.url+"/v1/export/retry", `{"key":"x"}`, "X-API-Key", "busy").Status)
	require.Equal(t, http.StatusNotFound, get("busy", "detail?key=x"))
	require.Equal(t, http.StatusOK, get("other", "history?user_id=7"))
	leave()
	require.Eventually(t, func() bool { return get("busy", "history?user_id=7") == http.StatusOK }, 10*time.Second, time.Millisecond)

	synctest.Test(t, func(t *testing.T) {
		s := &Service{reads: newPool(1, 2), cfg: Config{TurnWait: time.Minute}}
		leave, err := s.readTurn(t.Context(), "busy")
		require.NoError(t, err)
		time.Sleep(300 * time.Millisecond) // on the bubble's clock, like those below
		leave()
		begin := time.Now()
		leave, err = s.readTurn(t.Context(), "busy")
		require.NoError(t, err)
		require.Equal(t, 300*time.Millisecond, time.Since(begin))
		leave()
	})
}

// Large REST answers that callers do not read use a bounded amount of memory.
func TestLargeAnswersByRESTAreBounded(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byTenant, TurnWait: 10 * time.Millisecond})
	for i, tenant := range []string{"busy", "other"} {
		for n := range 200 { // makes an answer larger than lightBody
			x := events.Export{Tenant: tenant, Key: fmt.Sprintf("%032x", 1000*i+n)} // unique over all tenants
			_, err := in.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) {
				p := requestOf("{}")
				p.Request.UserID, p.Request.Title = "7", strings.Repeat("x", 255)
				return p, nil
			})
			require.NoError(t, err)
		}
	}
	history := func(tenant string) answer {
		return send(t, http.MethodGet, in.url+"/v1/export/history?user_id=7", "", "X-API-Key", tenant)
	}
	require.Greater(t, len(history("busy").Raw), lightBody)
	leave, err := in.await(t.Context(), &in.answers, "busy", maxTenantAnswers)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return history("busy").Status == http.StatusServiceUnavailable }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return history("other").Status == http.StatusOK }, 10*time.Second, time.Millisecond)
	leave()
	require.Eventually(t, func() bool { return history("busy").Status == http.StatusOK }, 10*time.Second, time.Millisecond)
}

// A tenant's durable submissions leave slots to other tenants, and run later.
func TestSubmissionsOfOneTenantLeaveSlots(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	requested, err := in.journal.Conn().SubscribeSync("sheaf.event.*.requested.*")
	require.NoError(t, err)
	// A tenant that is alone takes all slots.
	_, err = in.journal.JetStream().Publish(t.Context(), "sheaf.submit.other.raw", []byte(titled("first")))
	require.NoError(t, err)
	_, err = requested.NextMsg(10 * time.Second)
	require.NoError(t, err)
	var leaves []func()
	for range tenantSubmissions {
		leave, err := in.submissions.Enter("busy")
		require.NoError(t, err)
		leaves = append(leaves, leave)
	}
	const queued = 3 * submissionSlots
	for n := range queued {
		_, err := in.journal.JetStream().Publish(t.Context(), "sheaf.submit.busy.raw", []byte(titled(fmt.Sprint(n))))
		require.NoError(t, err)
	}
	_, err = in.journal.JetStream().Publish(t.Context(), "sheaf.submit.other.raw", []byte(titled("one")))
	require.NoError(t, err)
	m, err := requested.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Contains(t, m.Subject, "sheaf.event.other.")
	for _, leave := range leaves {
		leave()
	}
	for range queued {
		m, err := requested.NextMsg(20 * time.Second)
		require.NoError(t, err)
		require.Contains(t, m.Subject, "sheaf.event.busy.")
	}
}

// An answer that is too large for NATS becomes an error that says how to get it.
func TestLargeAnswersByNATS(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	m := &microService{s: in.Service, back: t.Context()}
	nc := in.journal.Callers()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	require.NoError(t, err)
	for size, code := range map[int]string{maxMicroAnswer - 1000: "", maxMicroAnswer: "413"} {
		body, failure := seal(strings.Repeat("x", size), nil, "id")
		m.send(microRequest{reply: inbox}, time.Now(), &line{log: quiet.cfg.Log, id: "id"}, body, failure)
		got, err := sub.NextMsg(10 * time.Second)
		require.NoError(t, err)
		require.Equal(t, code, got.Header.Get(micro.ErrorCodeHeader))
		require.LessOrEqual(t, len(got.Data), maxMicroAnswer)
	}
}

// microRequest holds the parts of a request that an answer needs.
type microRequest struct {
	micro.Request
	reply string
}

func (r microRequest) Reply() string   { return r.reply }
func (r microRequest) Subject() string { return "sheaf.api.default.history" }
