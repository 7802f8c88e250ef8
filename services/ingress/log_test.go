package ingress

import (
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Each request has one log line with the request id, the tenant and the export, for every transport. No line
// contains an API key.
func TestOneLineForEachRequest(t *testing.T) {
	t.Parallel()
	var log eventstest.Log
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{Log: log.Logger(), Authenticate: func(key string) (Principal, bool) {
		if key == "ops-key" {
			return Principal{ID: "id-ops", Tenant: "ops", Scope: ScopeAdmin}, true
		}
		return operator("shop"), key == "shop-key"
	}})
	shop := func(id string) []string { return []string{"X-API-Key", "shop-key", "X-Request-Id", id} }
	nc := eventstest.Connect(t, srv)
	ask := func(operation, id, body string) {
		t.Helper()
		_, err := nc.RequestMsg(&nats.Msg{
			Subject: events.APISubject("shop", operation), Data: []byte(body), Header: nats.Header{"X-Request-Id": {id}},
		}, 5*time.Second)
		require.NoError(t, err)
	}
	submit := func(id, body string) {
		t.Helper()
		_, err := in.journal.JetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: events.SubmitSubject("shop", "http"), Data: []byte(body), Header: nats.Header{"ce-id": {id}},
		})
		require.NoError(t, err)
	}

	key := send(t, "POST", in.url+"/v1/export/http", eventstest.HTTPBody(""), shop("rest-submit")...).key(t)
	send(t, "GET", in.url+"/v1/export/detail?key="+key, "", shop("rest-detail")...)
	send(t, "GET", in.url+"/v1/export/detail?key="+oneKey, "", shop("rest-unknown")...)
	send(t, "POST", in.url+"/v1/export/cancel", `{"key":"`+key+`"}`, shop("rest-cancel")...)
	send(t, "GET", in.url+"/v1/export/detail?key="+key, "", "X-API-Key", "no-such-key", "X-Request-Id", "rest-401")
	send(t, "GET", in.url+"/v1/export/detail?key=a%20b", "", shop("rest-no-key")...)
	send(t, "GET", in.url+"/v1/export/detail?tenant=shop&key="+key, "", "X-API-Key", "ops-key", "X-Request-Id", "rest-admin")
	_, err := nc.RequestMsg(&nats.Msg{
		Subject: events.APISubject(AdminTenant, "detail"), Data: []byte(`{"tenant":"shop","key":"` + key + `"}`), Header: nats.Header{"X-Request-Id": {"nats-admin"}},
	}, 5*time.Second)
	require.NoError(t, err)
	ask("http", "nats-submit", eventstest.HTTPBody(""))
	ask("detail", "nats-detail", `{"key":"`+key+`"}`)
	ask("detail", "nats-unknown", `{"key":"`+oneKey+`"}`)
	submit("durable", eventstest.HTTPBody(""))
	submit("durable-bad", `{}`)

	for _, want := range []struct{ id, level, tenant, key, status, errcode string }{
		{"rest-submit", "INFO", "shop", key, "200", "0"},
		{"rest-detail", "DEBUG", "shop", key, "200", "0"},
		{"rest-unknown", "DEBUG", "shop", oneKey, "404", "404"},
		{"rest-cancel", "INFO", "shop", key, "200", "0"},
		{"rest-401", "INFO", `""`, `""`, "401", "40101"},
		{"rest-no-key", "DEBUG", "shop", `""`, "404", "404"},
		{"rest-admin", "DEBUG", "shop", key, "200", "0"}, // whose export it is
		{"nats-admin", "DEBUG", "shop", key, "200", "0"},
		{"nats-submit", "INFO", "shop", key, "200", "0"},
		{"nats-detail", "DEBUG", "shop", key, "200", "0"},
		{"nats-unknown", "DEBUG", "shop", oneKey, "404", "404"},
		{"durable", "INFO", "shop", key, "200", "0"},
		{"durable-bad", "INFO", "shop", "", "400", ""}, // under a key of its own
	} {
		var found []string
		require.Eventually(t, func() bool {
			found = log.With("request_id=" + want.id + " ")
			return len(found) > 0
		}, 5*time.Second, time.Millisecond, want.id)
		require.Len(t, found, 1, want.id)
		line := found[0]
		for _, attr := range []string{
			"level=" + want.level + " ", "service=ingress ", "tenant=" + want.tenant + " ", "hash_key=" + want.key,
			"status=" + want.status + " ", "errcode=" + want.errcode, "elapsed=",
		} {
			require.Contains(t, line, attr, want.id)
		}
	}
	for id, caller := range map[string]string{"rest-submit": "shop", "rest-admin": "id-ops", "rest-401": `""`, "nats-detail": `""`} {
		require.Contains(t, log.With("request_id=" + id + " ")[0], "key_id="+caller+" ", id)
	}
	require.Empty(t, log.With("shop-key"))
	require.Empty(t, log.With("no-such-key"))
}
