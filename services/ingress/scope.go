package ingress

import (
	"fmt"
	"net/http"
	"slices"
)

// errcodeScope answers a call that the scope of its API key does not allow. 403 was taken.
const errcodeScope = 40301

// AdminTenant is the tenant of operators. Calls under its NATS subjects have ScopeAdmin, so its API keys must
// have it too.
const AdminTenant = "_admin"

// Scope is what a caller may do. Each scope includes those before it; the zero value allows nothing.
type Scope int

const (
	ScopeRead    Scope = iota + 1 // read exports
	ScopeSubmit                   // begin exports
	ScopeOperate                  // change exports: cancel, retry, redeliver, share
	ScopeAdmin                    // exports of all tenants, and the state of the server
)

var scopeNames = []string{"", "read", "submit", "operate", "admin"}

// String returns the scope's name, "none" for the zero value.
func (s Scope) String() string {
	if s < ScopeRead || s > ScopeAdmin {
		return "none"
	}
	return scopeNames[s]
}

// ParseScope returns the scope of a name.
func ParseScope(name string) (Scope, bool) {
	i := slices.Index(scopeNames, name)
	return Scope(max(i, 0)), i > 0
}

// Principal is an authenticated caller.
type Principal struct {
	ID     string // of its API key; "" without keys and by NATS
	Tenant string
	Scope  Scope
}

// require returns an error if the principal lacks a scope.
func (p Principal) require(need Scope, what string) error {
	if p.Scope >= need {
		return nil
	}
	return &apiError{
		Errcode: errcodeScope, Status: http.StatusForbidden,
		Msg: fmt.Sprintf("%s needs an API key of scope %s; this one has scope %s", what, need, p.Scope),
	}
}

// OperationsOf returns the operations that a scope allows by NATS, sorted; nil stands for all.
func OperationsOf(s Scope) []string {
	if s >= ScopeOperate {
		return nil
	}
	names := []string{}
	for name, op := range operations {
		if op.scope <= s {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
