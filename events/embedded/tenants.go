package embedded

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"
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
	traffic  map[string]*traffic
	let      map[uint64]let // the connections that were let in, and some that have gone
	of       map[string]int // how many of those are of a tenant
	pruneAt  int            // how many of them are looked through for those

	refusals chan struct{} // those that are being delayed
	stop     chan struct{}
	refused  rate.Sometimes // is logged
	stopping sync.Once
	watching sync.WaitGroup
}

// let is by what a connection was let in, and as whose.
type let struct{ key, tenant string }

// leastPruned is how many connections that have gone may be remembered.
const leastPruned = 256

// accountPrefix begins the names of the tenants' accounts.
const accountPrefix = "tenant-"

// Limits of callers with keys. Memory: each connection may hold a message half sent and
// as many bytes that it does not read, so all take at most callerConnections times
// (callerPayload + callerPending), which is 128 MiB, and one tenant 32 MiB. Work: an
// event is delivered at most tenantConnections times callerSubscriptions times.
const (
	callerConnections   = 64 // of all tenants
	tenantConnections   = 16
	callerSubscriptions = 64 // of one connection
	callerPayload       = 1 << 20
	callerPending       = 1 << 20
)

const (
	// tenantRate is how many messages a second a tenant may send in the long run, and
	// tenantBurst how many at once. A connection counts as connectionCost messages, and
	// so does each bytesCost of payload.
	tenantRate     = 2000
	tenantBurst    = 20_000
	connectionCost = 20
	bytesCost      = 2 << 10
	// floodPause is how long a tenant that sends more has no connections.
	floodPause = time.Minute
	// floodEvery is the pause between two looks at what tenants send. A flood of small
	// messages takes both cores of a small machine until it is seen.
	floodEvery = 20 * time.Millisecond
	// responseWait is how long the server remembers where the answer to a request goes.
	// Its default of two minutes would let unanswered requests pile up.
	responseWait = 15 * time.Second
	// refusalDelay slows down callers that connect again at once, maxRefusals of them.
	refusalDelay = 100 * time.Millisecond
	maxRefusals  = 128
)

// traffic is what a tenant has sent.
type traffic struct {
	limit       *rate.Limiter
	sent        server.MsgBytes // as of the last look
	pausedUntil time.Time
}

const ownUser = "sheaf"

func newTenants(authenticate func(string) (string, bool)) *tenants {
	return &tenants{
		authenticate: authenticate, own: rand.Text(),
		accounts: map[string]*server.Account{}, traffic: map[string]*traffic{}, let: map[uint64]let{}, of: map[string]int{}, pruneAt: leastPruned,
		refused: rate.Sometimes{First: 10, Interval: time.Second}, refusals: make(chan struct{}, maxRefusals), stop: make(chan struct{}),
	}
}

// begin starts to watch for floods. It is called once.
func (t *tenants) begin() { t.watching.Go(t.watch) }

// end stops that.
func (t *tenants) end() {
	t.stopping.Do(func() { close(t.stop) })
	t.watching.Wait()
}

// watch closes the connections of tenants that send too much. The server itself has no
// limit on that, and works on what it receives before anyone can refuse it.
func (t *tenants) watch() {
	tick := time.NewTicker(floodEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			t.look(time.Now())
		}
	}
}

// look counts what tenants have sent since the last look.
func (t *tenants) look(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.let) == 0 {
		return
	}
	names := make([]string, 0, len(t.accounts))
	for tenant := range t.accounts {
		names = append(names, accountPrefix+tenant)
	}
	stats, err := t.ns.AccountStatz(&server.AccountStatzOptions{Accounts: names, IncludeUnused: true})
	if err != nil {
		return
	}
	for _, stat := range stats.Accounts {
		tenant := strings.TrimPrefix(stat.Account, accountPrefix)
		is, was := stat.Received.MsgBytes, t.traffic[tenant].sent
		t.traffic[tenant].sent = is
		if cost := is.Msgs - was.Msgs + (is.Bytes-was.Bytes)/bytesCost; cost > 0 && !t.spend(tenant, int(cost), now) {
			for id, by := range t.let {
				if by.tenant == tenant {
					t.forget(id, by)
					_ = t.ns.DisconnectClientByID(id)
				}
			}
		}
	}
}

// spend takes from what a tenant may send. It returns false while the tenant is paused,
// and pauses it when it has sent too much. It is called with mu held.
func (t *tenants) spend(tenant string, messages int, now time.Time) bool {
	of := t.traffic[tenant]
	if now.Before(of.pausedUntil) {
		return false
	}
	if of.limit.AllowN(now, messages) {
		return true
	}
	of.pausedUntil = now.Add(floodPause)
	slog.Warn("connections closed: their tenant sends too many messages, or connects too often", "component", "nats-server", "tenant", tenant,
		"messages", messages, "messages_per_second", tenantRate, "at_once", tenantBurst, "again_in", floodPause.String())
	return false
}

// refuse answers no. It does so late, unless many wait for that already: a caller that
// tries again at once costs the others time.
func (t *tenants) refuse() bool {
	select {
	case t.refusals <- struct{}{}:
	default:
		return false
	}
	defer func() { <-t.refusals }()
	select {
	case <-time.After(refusalDelay):
	case <-t.stop:
	}
	return false
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
		if why := t.remember(c.GetID(), let{key, tenant}); why != "" {
			t.refused.Do(func() { slog.Warn("connection refused: "+why, "component", "nats-server", "tenant", tenant) })
			return t.refuse()
		}
		if now, ok := t.authenticate(key); !ok || now != tenant {
			return false // revoked since it was asked, and recheck may not have seen the connection yet
		}
		c.RegisterUser(&server.User{Username: tenant, Account: account, Permissions: permissions(tenant)})
		return true
	}
	return t.refuse()
}

// account returns the account of a tenant, made when it is first needed.
func (t *tenants) account(tenant string) (*server.Account, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.accounts[tenant]; ok {
		return a, nil
	}
	a, err := t.ns.RegisterAccount(accountPrefix + tenant)
	if err != nil {
		return nil, err
	}
	limits := jwt.NewAccountClaims(a.Name) // a form in which the server takes limits
	limits.Limits.Payload, limits.Limits.Subs = callerPayload, callerSubscriptions
	t.ns.UpdateAccountClaims(a, limits) // before there are exports and imports, which it removes
	sheaf, only := t.ns.GlobalAccount(), []*server.Account{a}
	for _, subject := range []string{"sheaf.submit." + tenant + ".*", "sheaf.api." + tenant + ".*"} {
		if err := sheaf.AddServiceExport(subject, only); err != nil {
			return nil, fmt.Errorf("export of %s: %w", subject, err)
		}
		if err := a.AddServiceImport(sheaf, subject, subject); err != nil {
			return nil, fmt.Errorf("import of %s: %w", subject, err)
		}
		if err := sheaf.SetServiceExportResponseThreshold(subject, responseWait); err != nil {
			return nil, fmt.Errorf("export of %s: %w", subject, err)
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
	t.accounts[tenant], t.traffic[tenant] = a, &traffic{limit: rate.NewLimiter(tenantRate, tenantBurst)}
	return a, nil
}

// heardBy is what a tenant may subscribe to of Sheaf's.
func heardBy(tenant string) []string {
	return []string{"sheaf.event." + tenant + ".>", "sheaf.progress." + tenant + ".*", "sheaf.callback." + tenant + ".>"}
}

// permissions of a tenant within its own account: it is there to talk to Sheaf.
func permissions(tenant string) *server.Permissions {
	return &server.Permissions{
		// Of submissions the subjects that there are: each may have so many queued.
		Publish:   &server.SubjectPermission{Allow: []string{"sheaf.submit." + tenant + ".http", "sheaf.submit." + tenant + ".raw", "sheaf.api." + tenant + ".*"}},
		Subscribe: &server.SubjectPermission{Allow: append(heardBy(tenant), "_INBOX.>", "_INBOX_"+tenant+".>")},
	}
}

// remember notes a connection. It returns why there may be no more of its tenant, "" if
// there may. The server tells nobody when one ends, so now and then those that have are
// looked for: callers that connect for each message would else be remembered for ever.
//
// A tenant may have as many connections as are left for others: each that comes has a
// share, however many take all they may.
func (t *tenants) remember(id uint64, by let) (why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.spend(by.tenant, connectionCost, time.Now()) {
		return "its tenant has sent too much, or connects too often"
	}
	t.let[id] = by
	t.of[by.tenant]++
	full := func() bool {
		return t.of[by.tenant] > min(tenantConnections, callerConnections+1-len(t.let))
	}
	if len(t.let) >= t.pruneAt || full() {
		for other, was := range t.let {
			if other != id && t.ns.GetClient(other) == nil {
				t.forget(other, was)
			}
		}
		t.pruneAt = max(leastPruned, 2*len(t.let))
	}
	if full() {
		t.forget(id, by)
		return fmt.Sprintf("its tenant has as many as it may, at most %d and what is left of %d", tenantConnections, callerConnections)
	}
	return ""
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
