package ingress

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// byScope authenticates a key such as "shop/read".
func byScope(key string) (Principal, bool) {
	tenant, name, _ := strings.Cut(key, "/")
	scope, ok := ParseScope(name)
	return Principal{ID: key, Tenant: tenant, Scope: scope}, ok
}

// Each operation refuses every scope below its own, before it reads the body, and no scope above.
func TestEachOperationNeedsItsScope(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byScope})
	checked := 0
	for _, r := range in.routes() {
		name := strings.TrimPrefix(r.path, "/v1/export/")
		op, ok := operations[name]
		if !ok {
			continue
		}
		checked++
		for scope := ScopeRead; scope <= ScopeAdmin; scope++ {
			a := send(t, r.method, in.url+r.path, `}`, "X-API-Key", "shop/"+scope.String())
			if scope >= op.scope {
				require.NotEqual(t, http.StatusForbidden, a.Status, "%s as %s: %s", name, scope, a.Raw)
				continue
			}
			require.Equal(t, http.StatusForbidden, a.Status, "%s as %s: %s", name, scope, a.Raw)
			require.Equal(t, errcodeScope, a.Errcode)
			require.Equal(t, name+" needs an API key of scope "+op.scope.String()+"; this one has scope "+scope.String(), a.Msg)
		}
	}
	require.Equal(t, len(operations), checked, "every operation has a path")
}

// An admin may name the tenant whose exports it means. Others may name only their own.
func TestOnlyAdminsNameAnotherTenant(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byScope})
	key := send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, "X-API-Key", "shop/submit").key(t)
	detail := in.url + "/v1/export/detail?key=" + key
	for _, c := range []struct {
		as, tenant string
		status     int
	}{
		{"shop/read", "", 200},
		{"shop/read", "shop", 200},
		{"other/admin", "shop", 200},
		{"other/admin", "", 404},
		{"other/admin", "a.b", 400},
		{"other/operate", "shop", 403},
		{"shop/operate", "other", 403},
	} {
		a := send(t, http.MethodGet, detail+"&tenant="+c.tenant, "", "X-API-Key", c.as)
		require.Equal(t, c.status, a.Status, "%s as %s: %s", c.tenant, c.as, a.Raw)
	}
	byNATS := ask(t, in.journal.Callers(), AdminTenant, "detail", `{"key":"`+key+`","tenant":"shop"}`)
	require.Zero(t, byNATS.Errcode, byNATS.Msg)
	refused := ask(t, in.journal.Callers(), "other", "detail", `{"key":"`+key+`","tenant":"shop"}`)
	require.Equal(t, errcodeScope, refused.Errcode)
	require.Equal(t, "another tenant is for operators: ask sheaf.api._admin.detail with an API key of the tenant _admin", refused.Msg)
}

func TestScopeNames(t *testing.T) {
	t.Parallel()
	for scope := ScopeRead; scope <= ScopeAdmin; scope++ {
		got, ok := ParseScope(scope.String())
		require.True(t, ok)
		require.Equal(t, scope, got)
	}
	for _, name := range []string{"", "none", "Admin", "root"} {
		_, ok := ParseScope(name)
		require.False(t, ok, name)
	}
	require.Error(t, Principal{}.require(ScopeRead, "detail"), "the zero value allows nothing")
}

// About another tenant's export, every operation and stream answers as about an unknown one, and changes
// nothing.
func TestExportsOfOthersAreUnknown(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byScope})
	key := send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, "X-API-Key", "shop/operate").key(t)
	before := in.read(t, "shop", key)
	never := strings.Repeat("0", 31) + "1"
	asked := 0
	for _, r := range in.routes() {
		if !strings.HasPrefix(r.path, "/v1/export/") || strings.Contains(r.path, "{") {
			continue
		}
		about := func(key string) answer {
			name := strings.TrimPrefix(r.path, "/v1/export/")
			target, body := in.url+r.path, `{"key":"`+key+`","ext_type":"CSV"}`
			switch {
			case r.method == http.MethodGet && name == "list":
				target, body = target+"?q="+key, ""
			case r.method == http.MethodGet && name == "history":
				target, body = target+"?user_id=7", ""
			case name == "presets":
				body = ""
			case r.method == http.MethodGet:
				target, body = target+"?key="+key, ""
			case name == "bulk":
				body = `{"action":"cancel","filter":{"q":"` + key + `"},"expect":0}`
			}
			a := send(t, r.method, target, body, "X-API-Key", "mallory/operate", "X-Request-Id", "1")
			if op, ok := operations[name]; ok {
				asked++
				byNATS := ask(t, in.journal.Callers(), "mallory", name, `{"key":"`+key+`","q":"`+key+`","user_id":"7"}`)
				if !op.body {
					require.Equal(t, string(a.Data), string(byNATS.Data), name)
				}
				require.NotContains(t, string(byNATS.Data), key)
			}
			return a
		}
		theirs, unknown := about(key), about(never)
		require.Equal(t, strings.ReplaceAll(unknown.Raw, never, key), theirs.Raw, r.path)
		require.Equal(t, unknown.Status, theirs.Status, r.path)
	}
	require.Greater(t, asked, 20)
	require.Equal(t, before, in.read(t, "shop", key), "nothing has changed")
}

func TestOperatorsSeeTenantsAndTheSystem(t *testing.T) {
	t.Parallel()
	host := Host{Version: "v1", Disk: Disk{Size: 3, Free: 2, Reserve: 1}, Losses: []string{"a line"},
		Keys: []KeyInfo{NewKeyInfo(Principal{ID: "k", Tenant: "shop", Scope: ScopeRead}, "name", time.Now(), time.Time{})}}
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byScope, Host: func() Host { return host }})
	in.as(t, "shop", oneKey, requestOf("t"))
	in.as(t, "bank", strings.Repeat("1", 32), requestOf("t"))
	var tenants tenantsView
	a := send(t, http.MethodGet, in.url+"/v1/export/tenants", "", "X-API-Key", "x/admin")
	require.NoError(t, json.Unmarshal(a.Data, &tenants), a.Raw)
	require.Len(t, tenants.Tenants, 2)
	require.Equal(t, []any{"bank", 1, 1}, []any{tenants.Tenants[0].Tenant, tenants.Tenants[0].Exports, tenants.Tenants[0].Unfinished})

	var system systemView
	a = send(t, http.MethodGet, in.url+"/v1/export/system", "", "X-API-Key", "x/admin")
	require.NoError(t, json.Unmarshal(a.Data, &system), a.Raw)
	require.True(t, system.Ready, a.Raw)
	require.Equal(t, []any{host.Version, host.Disk, host.Keys, host.Losses}, []any{system.Version, system.Disk, system.Keys, system.Losses})
	names := map[string]bool{}
	for _, s := range system.Streams {
		names[s.Name] = true
	}
	for _, c := range system.Consumers {
		require.True(t, names[c.Stream], "%s of %s", c.Name, c.Stream)
		names[c.Name] = true
	}
	require.True(t, names[events.StreamEvents] && names[events.ConsumerNotifier], "%v", names)
	require.EqualValues(t, 2, system.Projection.Applied)
	require.Zero(t, system.Projection.Behind)
	require.Positive(t, system.Memory.Heap)

	for _, name := range []string{"tenants", "system"} {
		require.Zero(t, ask(t, in.journal.Callers(), AdminTenant, name, `{}`).Errcode)
		require.Equal(t, errcodeScope, ask(t, in.journal.Callers(), "shop", name, `{}`).Errcode)
	}
}
