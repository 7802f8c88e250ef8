package ingress

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func titled(title string) string {
	return strings.Replace(rawRequest, `"title":"t"`, fmt.Sprintf(`"title":%q`, title), 1)
}

// A tenant at its limit of unfinished exports gets a Retry-After. Its existing exports are still found, other
// tenants are served, and free capacity is used at once.
func TestQuotaOfExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{Unfinished: 2}, Authenticate: byTenant})
	submit := func(tenant, title string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", titled(title), "X-API-Key", tenant)
	}
	unfinished := func(tenant string, want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			u, err := in.tasks.Usage(tenant)
			require.NoError(t, err)
			return u.Unfinished == want
		}, 10*time.Second, time.Millisecond)
	}
	first := submit("shop", "1").key(t)
	second := submit("shop", "2").key(t)
	unfinished("shop", 2)
	over := submit("shop", "3")
	require.Equal(t, http.StatusTooManyRequests, over.Status)
	require.Equal(t, errcodeQuota, over.Errcode)
	require.Equal(t, "30", over.Header.Get("Retry-After"))
	require.Contains(t, over.Msg, "2 exports of yours are under way")
	require.Equal(t, first, submit("shop", "1").key(t), "an equal request starts nothing")
	require.Zero(t, submit("other", "3").Errcode, "the quota is each tenant's own")

	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, second), "X-API-Key", "shop").Errcode)
	unfinished("shop", 1)
	require.Zero(t, submit("shop", "3").Errcode)
	unfinished("shop", 2)
	require.Equal(t, http.StatusTooManyRequests, send(t, http.MethodPost, in.url+"/v1/export/retry", fmt.Sprintf(`{"key":%q}`, second), "X-API-Key", "shop").Status)
}

// A durable submission over the quota waits in its stream, and other tenants' submissions overtake it.
func TestDurableSubmissionsWaitForTheQuota(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{Unfinished: 1}})
	events1, err := in.journal.Conn().SubscribeSync("sheaf.event.*.*.*")
	require.NoError(t, err)
	publish := func(tenant, title string) {
		_, err := in.journal.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: events.SubmitSubject(tenant, "raw"), Data: []byte(titled(title))})
		require.NoError(t, err)
	}
	publish("shop", "1")
	m, err := events1.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Contains(t, m.Subject, "sheaf.event.shop.requested.")
	require.Eventually(t, func() bool { u, _ := in.tasks.Usage("shop"); return u.Unfinished == 1 }, 10*time.Second, time.Millisecond)
	publish("shop", "2")
	publish("other", "1")
	m, err = events1.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Contains(t, m.Subject, "sheaf.event.other.requested.", "not rejected, and nobody waits behind it")
	st, err := in.journal.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := st.Info(t.Context())
		return err == nil && info.State.Msgs == 1
	}, 10*time.Second, 5*time.Millisecond, "it is kept")
}

func TestQuotaOfFiles(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{FileBytes: 1000}})
	key := send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1")).key(t)
	x, err := in.journal.Read(t.Context(), events.DefaultTenant, key)
	require.NoError(t, err)
	for _, p := range []events.Payload{
		&events.ExportCrawled{Pages: 1},
		&events.ExportCompleted{Pages: 1, ExpiresAt: time.Now().Add(time.Hour).UTC(), Files: []events.File{{Name: "a", Store: "default/a.zip", Size: 1000}}},
	} {
		x, err = in.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		u, _ := in.tasks.Usage(events.DefaultTenant)
		return u.FileBytes == 1000 && u.Unfinished == 0
	}, 10*time.Second, time.Millisecond)
	over := send(t, http.MethodPost, in.url+"/v1/export/raw", titled("2"))
	require.Equal(t, http.StatusTooManyRequests, over.Status)
	require.Contains(t, over.Msg, "take 1000 bytes, of 1000")
	_, err = in.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return &events.ExportExpired{}, nil })
	require.NoError(t, err)
	require.Eventually(t, func() bool { u, _ := in.tasks.Usage(events.DefaultTenant); return u.FileBytes == 0 }, 10*time.Second, time.Millisecond)
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("2")).Errcode)
}

// One Idempotency-Key with one request is one export, even after it ended. With another request the key is
// refused. Both hold for every ingress.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	a, b := start(t, srv, Config{}), start(t, srv, Config{})
	submit := func(in *ingress, title, key string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", titled(title), "Idempotency-Key", key)
	}
	key := submit(a, "1", "k-1").key(t)
	require.Equal(t, key, submit(b, "1", "k-1").key(t))
	other := submit(b, "2", "k-1")
	require.Equal(t, http.StatusUnprocessableEntity, other.Status)
	require.Equal(t, errcodeIdempotency, other.Errcode)
	require.NotEqual(t, key, submit(b, "2", "k-2").key(t))

	require.Zero(t, send(t, http.MethodPost, a.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	require.Equal(t, key, submit(a, "1", "k-1").key(t))
	x, err := a.journal.Read(t.Context(), events.DefaultTenant, key)
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, x.State, "the repetition has begun nothing")
	require.Equal(t, key, send(t, http.MethodPost, a.url+"/v1/export/raw", titled("1")).key(t))
	x, err = a.journal.Read(t.Context(), events.DefaultTenant, key)
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State, "without the key it begins again")

	// A new key restarts an ended export, once.
	require.Zero(t, send(t, http.MethodPost, a.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	for range 2 {
		require.Equal(t, key, submit(b, "1", "k-3").key(t))
		again, err := a.journal.Read(t.Context(), events.DefaultTenant, key)
		require.NoError(t, err)
		require.Greater(t, again.RequestedSeq, x.RequestedSeq)
		require.Equal(t, again.RequestedSeq, again.LastSeq)
	}

	for _, wrong := range []string{strings.Repeat("k", 256), "a b", "ä"} {
		require.Equal(t, http.StatusBadRequest, submit(a, "1", wrong).Status, wrong)
	}

	// NATS has the same keys.
	nc := eventstest.Connect(t, srv)
	onNATS := func(title, key string) answer {
		msg, err := nc.RequestMsg(&nats.Msg{
			Subject: events.APISubject(events.DefaultTenant, "raw"), Data: []byte(titled(title)), Header: nats.Header{"idempotency-key": {key}},
		}, 5*time.Second)
		require.NoError(t, err)
		var got answer
		require.NoError(t, json.Unmarshal(msg.Data, &got))
		return got
	}
	require.Equal(t, key, onNATS("1", "k-3").key(t))
	require.Equal(t, errcodeIdempotency, onNATS("2", "k-3").Errcode)
	require.Equal(t, onNATS("of NATS", "k-4").key(t), submit(a, "of NATS", "k-4").key(t))
	require.Contains(t, onNATS("1", "a b").Msg, "Idempotency-Key: must be visible")

	// Concurrent different requests with one key: one succeeds, all others are refused.
	var wg sync.WaitGroup
	answers := make([]answer, 16)
	for n := range answers {
		wg.Go(func() { answers[n] = submit([]*ingress{a, b}[n%2], fmt.Sprint("race ", n), "k-race") })
	}
	wg.Wait()
	accepted := 0
	for _, got := range answers {
		if got.Errcode == 0 {
			accepted++
		} else {
			require.Equal(t, errcodeIdempotency, got.Errcode, got.Msg)
		}
	}
	require.Equal(t, 1, accepted)
}

// A process died after it had bound the key and before the export began: a repetition begins the export.
func TestIdempotencyKeyWithoutAnExport(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	sub, err := request.Parse(in.journal.Keys(), events.DefaultTenant, events.SourceRaw, in.cfg.Formats, []byte(titled("1")))
	require.NoError(t, err)
	claim := journal.IdempotencyClaim{Key: sub.Key}
	first, err := in.journal.ClaimIdempotencyKey(t.Context(), events.DefaultTenant, "k", claim)
	require.NoError(t, err)
	require.Equal(t, claim, first)
	require.Equal(t, sub.Key, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("1"), "Idempotency-Key", "k").key(t))
	x, err := in.journal.Read(t.Context(), events.DefaultTenant, sub.Key)
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
}

// A request refused for another reason leaves its key unused. An answered request gets its answer again,
// whatever its age.
func TestIdempotencyKeyIsBoundLast(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{Unfinished: 1}, MaxSkew: time.Minute})
	at := func(title string, off time.Duration) string {
		return strings.Replace(titled(title), "1625106207", fmt.Sprint(time.Now().Add(off).Unix()), 1)
	}
	submit := func(body, key string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", body, "Idempotency-Key", key)
	}
	require.Equal(t, http.StatusBadRequest, submit(at("old", -time.Hour), "k").Status)
	first := at("1", 0)
	key := submit(first, "k").key(t)
	require.Eventually(t, func() bool { u, _ := in.tasks.Usage(events.DefaultTenant); return u.Unfinished == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, http.StatusTooManyRequests, submit(at("2", 0), "k-2").Status)
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	require.Eventually(t, func() bool { u, _ := in.tasks.Usage(events.DefaultTenant); return u.Unfinished == 0 }, 10*time.Second, time.Millisecond)
	require.Zero(t, submit(at("3", 0), "k-2").Errcode)
	in.cfg.MaxSkew = time.Nanosecond // simulates a late repetition
	require.Equal(t, key, submit(first, "k").key(t))
}

func TestMaxSkew(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{MaxSkew: time.Minute})
	at := func(off time.Duration) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", strings.Replace(rawRequest, "1625106207", fmt.Sprint(time.Now().Add(off).Unix()), 1))
	}
	require.Zero(t, at(0).Errcode)
	require.Zero(t, at(-50*time.Second).Errcode)
	for _, off := range []time.Duration{-2 * time.Minute, 2 * time.Minute} {
		a := at(off)
		require.Equal(t, http.StatusBadRequest, a.Status)
		require.Contains(t, a.Msg, "timestamp: 请求时间与标准时间差不可大于1m0s")
	}
	// The age of a submission is its age when it was stored.
	require.NoError(t, request.Fresh(1000, time.Unix(1030, 0), in.cfg.MaxSkew))
	require.Error(t, request.Fresh(1000, time.Unix(1061, 0), in.cfg.MaxSkew))
}

// A key whose export was forgotten first begins the export again, as a request without a key would. So does
// the key of a process that died before it began an export.
func TestIdempotencyKeyOfAForgottenExport(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	submit := func(title, key string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", titled(title), "Idempotency-Key", key)
	}
	key := submit("1", "k-1").key(t)
	require.Zero(t, in.post(t, "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	require.Equal(t, key, submit("1", "k-1").key(t))
	require.Equal(t, events.StateCancelled, in.read(t, events.DefaultTenant, key).State, "the repetition begins nothing")
	x := in.read(t, events.DefaultTenant, key)
	require.NoError(t, in.tasks.Forget([]events.Export{x}))
	require.NoError(t, in.journal.Forget(t.Context(), x))
	require.Equal(t, key, submit("1", "k-1").key(t))
	begun := in.read(t, events.DefaultTenant, key)
	require.Equal(t, events.StateRequested, begun.State)
	require.Equal(t, begun.ID, begun.RequestedSeq, "a new export")
	require.Equal(t, key, submit("1", "k-1").key(t))
	require.Equal(t, key, submit("1", "k-3").key(t))
	require.Equal(t, begun, in.read(t, events.DefaultTenant, key), "that round answers both")

	require.Zero(t, in.post(t, "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key)).Errcode)
	dead, err := in.journal.ClaimIdempotencyKey(t.Context(), events.DefaultTenant, "k-4", journal.IdempotencyClaim{Key: key, Before: begun.RequestedSeq})
	require.NoError(t, err)
	require.Equal(t, key, submit("1", "k-4").key(t))
	x = in.read(t, events.DefaultTenant, key)
	require.Equal(t, events.StateRequested, x.State)
	require.Greater(t, x.RequestedSeq, dead.Before)
}

// If a request is refused after its key was bound, the key is free again. Otherwise it would answer for an
// export that never began.
func TestIdempotencyKeyOfARefusedRequest(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	claim := journal.IdempotencyClaim{Key: testKey(1)}
	first, err := in.journal.ClaimIdempotencyKey(t.Context(), events.DefaultTenant, "k", claim)
	require.NoError(t, err)
	require.Equal(t, claim, first)
	bound := func() bool {
		_, ok, err := in.journal.IdempotencyKey(t.Context(), events.DefaultTenant, "k")
		require.NoError(t, err)
		return ok
	}
	c := call{tenant: events.DefaultTenant, idempotency: "k"}
	sub := &request.Checked{Key: testKey(1)}
	in.release(t.Context(), c, sub, events.ErrUnavailable)
	require.True(t, bound(), "it may have been written")
	in.write(t, testKey(1), requestOf("a"))
	in.release(t.Context(), c, sub, conflict("no"))
	require.True(t, bound(), "an equal request has begun it")
	in.release(t.Context(), c, &request.Checked{Key: testKey(2)}, fmt.Errorf("x: %w", conflict("no")))
	require.False(t, bound())
}

// If all exports of a tenant are unsettled and it has reached its limit of remembered exports, it is refused.
// Other tenants are not.
func TestATenantThatCanForgetNothingIsRefused(t *testing.T) {
	t.Parallel()
	const limit = 512 << 10
	streams := eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{MaxEventsBytes: limit})
	in := startOn(t, streams, Config{MaxHistory: 3, Authenticate: byTenant})
	submit := func(tenant, title string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/raw", titled(title), "X-API-Key", tenant)
	}
	look := func() {
		in.admission.look(in.caughtUpTo(t).Space)
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

	// The same for bytes.
	for n := 0; ; n++ {
		in.as(t, "large", testKey(100+n), requestOf(strings.Repeat("long ", 4000)))
		look()
		if u, err := in.tasks.Usage("large"); err != nil || u.Bytes > limit/2 {
			require.NoError(t, err)
			break
		}
	}
	in.admission.maxHistory = 1000
	refused(submit("large", "more"))
	require.Zero(t, submit("shop", "and more").Errcode)
	require.Less(t, in.log(t).Space.Used, int64(limit)/10*9)
}
