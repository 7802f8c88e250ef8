package ingress

import (
	"net/http"
	"strings"
	"testing"

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
	require.Equal(t, errcodeScope, ask(t, in.journal.Callers(), "other", "detail", `{"key":"`+key+`","tenant":"shop"}`).Errcode)
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
