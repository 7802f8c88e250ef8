package embedded

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// tenants lets callers in by their API keys, each into an account of its tenant.
//
// An account is a world of its own: what is published there stays there, and only
// what is named below crosses over to Sheaf's. Permissions would not do. They guard
// the subject of a message and not its reply, and a reply is where somebody else
// publishes: the server its acknowledgement of a submission, and Sheaf its answer
// to a request, with Sheaf's rights. With a reply of "$JS.API.STREAM.PURGE.…" one
// producer emptied the log, and with "sheaf.page.…" it took the place of another's
// page (tried). Between accounts a reply is replaced by one of the server's own.
type tenants struct {
	authenticate func(key string) (tenant string, ok bool)
	own          string // password of this process

	mu       sync.Mutex
	ns       *server.Server // set before the first connection
	accounts map[string]*server.Account
	let      map[uint64]let // the connections that were let in, and some that have gone
	of       map[string]int // how many of those are of a tenant
	pruneAt  int            // how many of them are looked through for those
}

// let is by what a connection was let in, and as whose.
type let struct{ key, tenant string }

// leastPruned is how many connections that have gone may be remembered.
const leastPruned = 256

// tenantConnections is how many connections a tenant may have at once. Each may hold a
// message of the largest size half sent.
const tenantConnections = 64

const ownUser = "sheaf"

func newTenants(authenticate func(string) (string, bool)) *tenants {
	return &tenants{
		authenticate: authenticate, own: rand.Text(),
		accounts: map[string]*server.Account{}, let: map[uint64]let{}, of: map[string]int{}, pruneAt: leastPruned,
	}
}

// Check implements server.Authentication.
func (t *tenants) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == ownUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(t.own)) == 1 {
		c.RegisterUser(&server.User{Username: ownUser, Account: t.ns.GlobalAccount()})
		return true
	}
	for _, key := range []string{o.Token, o.Password} {
		if key == "" {
			continue
		}
		tenant, ok := t.authenticate(key)
		if !ok {
			continue
		}
		account, err := t.account(tenant)
		if err != nil {
			slog.Error("no account for a tenant", "component", "nats-server", "tenant", tenant, "error", err)
			return false
		}
		if !t.remember(c.GetID(), let{key, tenant}) {
			slog.Warn("connection refused: its tenant has as many as it may", "component", "nats-server", "tenant", tenant, "connections", tenantConnections)
			return false
		}
		if now, ok := t.authenticate(key); !ok || now != tenant {
			return false // revoked since it was asked, and recheck may not have seen the connection yet
		}
		c.RegisterUser(&server.User{Username: tenant, Account: account, Permissions: permissions(tenant)})
		return true
	}
	return false
}

// account returns the account of a tenant, made when it is first needed.
func (t *tenants) account(tenant string) (*server.Account, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.accounts[tenant]; ok {
		return a, nil
	}
	a, err := t.ns.RegisterAccount("tenant-" + tenant)
	if err != nil {
		return nil, err
	}
	sheaf, only := t.ns.GlobalAccount(), []*server.Account{a}
	for _, subject := range []string{"sheaf.submit." + tenant + ".*", "sheaf.api." + tenant + ".*"} {
		if err := sheaf.AddServiceExport(subject, only); err != nil {
			return nil, fmt.Errorf("export of %s: %w", subject, err)
		}
		if err := a.AddServiceImport(sheaf, subject, subject); err != nil {
			return nil, fmt.Errorf("import of %s: %w", subject, err)
		}
	}
	for _, subject := range heardBy(tenant) {
		if err := sheaf.AddStreamExport(subject, only); err != nil {
			return nil, fmt.Errorf("export of %s: %w", subject, err)
		}
		if err := a.AddStreamImport(sheaf, subject, ""); err != nil {
			return nil, fmt.Errorf("import of %s: %w", subject, err)
		}
	}
	t.accounts[tenant] = a
	return a, nil
}

// heardBy is what a tenant may subscribe to of Sheaf's.
func heardBy(tenant string) []string {
	return []string{"sheaf.event." + tenant + ".>", "sheaf.progress." + tenant + ".*", "sheaf.callback." + tenant + ".>"}
}

// permissions of a tenant within its own account: it is there to talk to Sheaf.
func permissions(tenant string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"sheaf.submit." + tenant + ".*", "sheaf.api." + tenant + ".*"}},
		Subscribe: &server.SubjectPermission{Allow: append(heardBy(tenant), "_INBOX.>", "_INBOX_"+tenant+".>")},
	}
}

// remember notes a connection, unless its tenant has as many as it may. The server tells
// nobody when one ends, so now and then those that have are looked for: callers that
// connect for each message would else be remembered for ever.
func (t *tenants) remember(id uint64, by let) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.let[id] = by
	t.of[by.tenant]++
	if len(t.let) >= t.pruneAt || t.of[by.tenant] > tenantConnections {
		for other, was := range t.let {
			if other != id && t.ns.GetClient(other) == nil {
				t.forget(other, was)
			}
		}
		t.pruneAt = max(leastPruned, 2*len(t.let))
	}
	if t.of[by.tenant] > tenantConnections {
		t.forget(id, by)
		return false
	}
	return true
}

// forget is called with mu held.
func (t *tenants) forget(id uint64, by let) {
	delete(t.let, id)
	if t.of[by.tenant]--; t.of[by.tenant] == 0 {
		delete(t.of, by.tenant)
	}
}

// recheck closes the connections whose key is no longer good, or is another's.
func (t *tenants) recheck() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, by := range t.let {
		if tenant, ok := t.authenticate(by.key); ok && tenant == by.tenant {
			continue
		}
		t.forget(id, by)
		if err := t.ns.DisconnectClientByID(id); err == nil {
			slog.Info("connection closed: its API key was revoked, or is another tenant's", "component", "nats-server", "connection", id)
		}
	}
}
