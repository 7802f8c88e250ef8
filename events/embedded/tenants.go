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

// tenants admits callers by their API keys, each into the account of its tenant.
//
// Accounts are separate namespaces: only the subjects exported below cross over to Sheaf's account.
// Permissions would not suffice. They guard the subject of a message, but not its reply subject, to which
// someone else publishes: the server its acknowledgement, and Sheaf its response, with Sheaf's rights. With
// the reply subject "$JS.API.STREAM.PURGE.…" one producer emptied the log, and with "sheaf.page.…" it
// replaced another's page (tried). Between accounts the server replaces the reply subject by one of its own.
type tenants struct {
	authenticate func(key string) (tenant string, ok bool)
	operations   func(key string) []string
	own          string // password of this process

	mu          sync.Mutex
	ns          *server.Server // set before the first connection
	accounts    map[string]*server.Account
	traffic     map[string]*traffic
	admitted    map[uint64]admission // admitted connections, including some closed ones
	connections map[string]int       // size of admitted by tenant
	pruneAt     int                  // size of admitted at which closed connections are removed

	refusals chan struct{} // one slot for each refusal that is delayed
	stop     chan struct{}
	refused  rate.Sometimes // limits the log
	stopping sync.Once
	watching sync.WaitGroup
}

// admission is the key that a connection used, its tenant and what it allowed.
type admission struct{ key, tenant, operations string }

// minPruneAt is the smallest value of tenants.pruneAt.
const minPruneAt = 256

// accountPrefix is the prefix of the names of the tenants' accounts.
const accountPrefix = "tenant-"

// Limits of callers with keys. Memory: each connection may hold a half-sent message and as many unread bytes,
// so all take at most callerConnections times (callerPayload + callerPending), which is 128 MiB, and one
// tenant 32 MiB. Work: an event is delivered at most tenantConnections times callerSubscriptions times.
const (
	callerConnections   = 64 // of all tenants together
	tenantConnections   = 16
	callerSubscriptions = 64 // per connection
	callerPayload       = 1 << 20
	callerPending       = 1 << 20
)

const (
	// tenantRate is how many messages per second a tenant may send on average, and tenantBurst how many at
	// once. A connection counts as connectionCost messages, and so do every bytesCost bytes of payload.
	tenantRate     = 2000
	tenantBurst    = 20_000
	connectionCost = 20
	bytesCost      = 2 << 10
	// floodPause is how long a tenant that exceeds the rate is disconnected.
	floodPause = time.Minute
	// floodEvery is the interval at which traffic is checked. An unnoticed flood of small messages uses both
	// cores of a small machine.
	floodEvery = 20 * time.Millisecond
	// responseWait is how long the server remembers the reply subject of a request. With its default of two
	// minutes, unanswered requests would pile up.
	responseWait = 15 * time.Second
	// refusalDelay slows down callers that reconnect at once, up to maxRefusals of them.
	refusalDelay = 100 * time.Millisecond
	maxRefusals  = 128
)

// traffic counts the messages of a tenant.
type traffic struct {
	limit       *rate.Limiter
	sent        server.MsgBytes // at the last check
	pausedUntil time.Time
}

const ownUser = "sheaf"

func newTenants(authenticate func(string) (string, bool), operations func(string) []string) *tenants {
	if operations == nil {
		operations = func(string) []string { return nil }
	}
	return &tenants{
		authenticate: authenticate, operations: operations, own: rand.Text(),
		accounts: map[string]*server.Account{}, traffic: map[string]*traffic{},
		admitted: map[uint64]admission{}, connections: map[string]int{}, pruneAt: minPruneAt,
		refused: rate.Sometimes{First: 10, Interval: time.Second}, refusals: make(chan struct{}, maxRefusals),
		stop: make(chan struct{}),
	}
}

// begin starts the watch for floods. Call it once.
func (t *tenants) begin() { t.watching.Go(t.watch) }

// end stops the watch.
func (t *tenants) end() {
	t.stopping.Do(func() { close(t.stop) })
	t.watching.Wait()
}

// watch disconnects tenants that send too much. The server has no such limit, and processes received messages
// before Sheaf could refuse them.
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

// look charges each tenant for the messages since the last call.
func (t *tenants) look(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.admitted) == 0 {
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
		if cost := is.Msgs - was.Msgs + (is.Bytes-was.Bytes)/bytesCost; cost > 0 &&
			!t.spend(tenant, int(cost), now) {
			for id, by := range t.admitted {
				if by.tenant == tenant {
					t.forget(id, by)
					_ = t.ns.DisconnectClientByID(id)
				}
			}
		}
	}
}

// spend charges a tenant for messages. It returns false while the tenant is paused, and pauses a tenant that
// exceeds its rate. Call it with mu held.
func (t *tenants) spend(tenant string, messages int, now time.Time) bool {
	of := t.traffic[tenant]
	if now.Before(of.pausedUntil) {
		return false
	}
	if of.limit.AllowN(now, messages) {
		return true
	}
	of.pausedUntil = now.Add(floodPause)
	slog.Warn("connections closed: their tenant sends too many messages, or connects too often", "component",
		"nats-server", "tenant", tenant,
		"messages", messages, "messages_per_second", tenantRate, "at_once", tenantBurst, "again_in",
		floodPause.String())
	return false
}

// refuse returns false. It delays the refusal, unless too many are delayed already: callers that retry at
// once slow down others.
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
		by, ok := t.admission(key)
		if !ok {
			continue
		}
		tenant := by.tenant
		account, err := t.account(tenant)
		if err != nil {
			slog.Error("no account for a tenant", "component", "nats-server", "tenant", tenant, "error", err)
			return false
		}
		if why := t.remember(c.GetID(), by); why != "" {
			t.refused.Do(func() {
				slog.Warn("connection refused: "+why, "component", "nats-server", "tenant", tenant)
			})
			return t.refuse()
		}
		if now, ok := t.admission(key); !ok || now != by {
			return false // revoked meanwhile, and recheck may have missed the connection
		}
		c.RegisterUser(&server.User{Username: tenant, Account: account, Permissions: permissions(by)})
		return true
	}
	return t.refuse()
}

// admission returns what a key allows now.
func (t *tenants) admission(key string) (by admission, ok bool) {
	tenant, ok := t.authenticate(key)
	operations := "*"
	if list := t.operations(key); list != nil {
		operations = strings.Join(list, " ")
	}
	return admission{key, tenant, operations}, ok
}

// account returns the account of a tenant and creates it when it is first needed.
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
	limits := jwt.NewAccountClaims(a.Name) // the form in which the server accepts limits
	limits.Limits.Payload, limits.Limits.Subs = callerPayload, callerSubscriptions
	t.ns.UpdateAccountClaims(a, limits) // first, because it removes exports and imports
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

// heardBy returns Sheaf's subjects that a tenant may subscribe to.
func heardBy(tenant string) []string {
	return []string{"sheaf.event." + tenant + ".>", "sheaf.progress." + tenant + ".*",
		"sheaf.callback." + tenant + ".>"}
}

// permissions returns the permissions of a connection within its tenant's account: they allow nothing but
// talking to Sheaf.
func permissions(by admission) *server.Permissions {
	tenant := by.tenant
	// Only the existing submission subjects, because the queue limit applies per subject.
	submit, api := "sheaf.submit."+tenant+".", "sheaf.api."+tenant+"."
	publish := []string{submit + "http", submit + "raw", api + "*"}
	if by.operations != "*" {
		publish = nil
		for _, name := range strings.Fields(by.operations) {
			publish = append(publish, api+name)
			if name == "http" || name == "raw" {
				publish = append(publish, submit+name)
			}
		}
	}
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: append(heardBy(tenant), "_INBOX.>",
			"_INBOX_"+tenant+".>")},
	}
}

// remember records a connection. It returns why the tenant may not have it, or "". The server does not report
// closed connections, so remember removes them now and then. Otherwise callers that connect for each message
// would fill the memory.
//
// A tenant may have at most as many connections as are free. So each new tenant finds some, even if all
// others use as many as they can.
func (t *tenants) remember(id uint64, by admission) (why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.spend(by.tenant, connectionCost, time.Now()) {
		return "its tenant has sent too much, or connects too often"
	}
	t.admitted[id] = by
	t.connections[by.tenant]++
	full := func() bool {
		return t.connections[by.tenant] > min(tenantConnections, callerConnections+1-len(t.admitted))
	}
	if len(t.admitted) >= t.pruneAt || full() {
		for other, was := range t.admitted {
			if other != id && t.ns.GetClient(other) == nil {
				t.forget(other, was)
			}
		}
		t.pruneAt = max(minPruneAt, 2*len(t.admitted))
	}
	if full() {
		t.forget(id, by)
		return fmt.Sprintf("its tenant has too many connections: at most %d, and no more than are free of %d",
			tenantConnections, callerConnections)
	}
	return ""
}

// forget removes a connection. Call it with mu held.
func (t *tenants) forget(id uint64, by admission) {
	delete(t.admitted, id)
	if t.connections[by.tenant]--; t.connections[by.tenant] == 0 {
		delete(t.connections, by.tenant)
	}
}

// recheck closes connections whose key is no longer valid, belongs to another tenant or allows something else.
func (t *tenants) recheck() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, by := range t.admitted {
		if now, ok := t.admission(by.key); ok && now == by {
			continue
		}
		t.forget(id, by)
		if err := t.ns.DisconnectClientByID(id); err == nil {
			slog.Info("connection closed: its API key was revoked or changed", "component",
				"nats-server", "connection", id)
		}
	}
}
