package ingress

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// With only its newest event left, all answers about a settled export stay the same.
func TestAnswersOfAnExportWithOneEvent(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	begin := func(title, more string) string {
		return in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"title":"`+title+`"`, `"user_id":"u"`, fmt.Sprintf(`"timestamp":%d`, time.Now().Unix())+more)).key(t)
	}
	delivered, failed, expired := begin("delivered", `,"callback":"http://127.0.0.1/done"`), begin("failed", ""), begin("expired", "")
	x := in.finish(t, delivered, noise(1, 1000))
	in.write(t, delivered, &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Status: 500, Reason: "answered 500", NextAt: time.Now().UTC()})
	in.write(t, delivered, &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: 2, Status: 200})
	in.write(t, failed, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503", Phase: events.PhaseCrawling, Page: 7})
	in.finish(t, expired, noise(2, 1000))
	in.write(t, expired, &events.ExportExpired{})
	in.caughtUpTo(t)
	all := []string{delivered, failed, expired}
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
	before, sum := answers(), in.digest(t)
	for _, key := range all {
		require.NoError(t, in.journal.KeepLast(t.Context(), events.DefaultTenant, key))
	}
	require.Equal(t, before, answers())
	require.Equal(t, sum, in.digest(t))
	require.Equal(t, sum, in.rebuilt(t))

	// An equal request starts nothing, and a retry restarts it under the same id.
	first := in.read(t, events.DefaultTenant, failed)
	require.Equal(t, http.StatusOK, in.post(t, "/v1/export/retry", `{"key":"`+failed+`"}`).Status)
	again := in.read(t, events.DefaultTenant, failed)
	require.Equal(t, [2]any{events.StateRequested, first.ID}, [2]any{again.State, again.ID})
	var types []events.Type
	for _, m := range again.Timeline {
		types = append(types, m.Type)
	}
	require.Equal(t, []events.Type{events.TypeRequested, events.TypeFailed, events.TypeRequested}, types)
}

// A forgotten export is unknown, and so is its link. An equal request begins a new one.
func TestAForgottenExportIsUnknown(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	body, x := in.submitted(t, "orders", noise(1, 1000))
	link := in.link(&x)
	require.Equal(t, http.StatusOK, func() int { resp, _ := fetch(t, http.MethodGet, link); return resp.StatusCode }())
	x = in.write(t, x.Key, events.Expired(&x, ""))
	in.write(t, testKey(1), requestOf("the newest of the log"))
	in.caughtUpTo(t)
	require.NoError(t, in.tasks.Forget([]events.Export{x}))
	require.NoError(t, in.journal.Forget(t.Context(), x))
	require.Equal(t, http.StatusNotFound, in.get(t, strings.TrimPrefix(link, in.url)).Status)
	require.Equal(t, http.StatusNotFound, in.get(t, "/v1/export/detail?key="+x.Key).Status)
	require.Equal(t, x.Key, in.post(t, "/v1/export/http", body).key(t))
	again := in.read(t, x.Tenant, x.Key)
	require.Equal(t, again.RequestedSeq, again.ID)
	require.Len(t, again.Timeline, 1)
}

// After a crash the log knows an export that the projection has forgotten. It can be requested again, and its
// event brings it back.
func TestAnExportThatOnlyTheLogKnows(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in, other := start(t, srv, Config{}), start(t, srv, Config{})
	body, x := in.submitted(t, "orders", noise(1, 1000))
	x = in.write(t, x.Key, events.Expired(&x, ""))
	in.caughtUpTo(t)
	require.NoError(t, in.tasks.Forget([]events.Export{x}))
	require.Equal(t, http.StatusNotFound, in.get(t, "/v1/export/detail?key="+x.Key).Status)
	require.Equal(t, x.Key, in.post(t, "/v1/export/http", body).key(t))
	require.Equal(t, events.StatusProcessing, in.get(t, "/v1/export/detail?key="+x.Key).detail(t).Status)
	other.caughtUpTo(t)
	require.Equal(t, in.digest(t), other.digest(t), "the event brings it back")
	require.Zero(t, in.post(t, "/v1/export/cancel", `{"key":"`+x.Key+`"}`).Errcode)
}

// A rejected submission counts as an ended export of its tenant.
func TestRejectionsCountAsExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	const sent = 100
	for range sent {
		_, err := in.journal.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: events.SubmitSubject("shop", "raw"), Data: []byte(`{"title":1}`)})
		require.NoError(t, err)
	}
	emptied(t, in)
	in.caughtUpTo(t)
	u, err := in.tasks.Usage("shop")
	require.NoError(t, err)
	require.Equal(t, storage.Usage{Exports: sent, Settled: sent, Failed: sent, Bytes: u.Bytes}, u)
}
