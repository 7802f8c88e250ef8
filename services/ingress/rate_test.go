package ingress

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// setRate gives a tenant's bucket n tokens, and no further ones.
func (in *ingress) setRate(tenant string, n int) {
	in.admission.mu.Lock()
	defer in.admission.mu.Unlock()
	in.admission.rates[tenant] = rate.NewLimiter(rate.Every(time.Hour), n)
}

// A tenant that begins too many exports per second gets 429 with a Retry-After, and nothing is written.
// Existing exports are found, cancelled and read. Other tenants are not affected.
func TestNewExportsPerSecond(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{NewPerSecond: 20},
		Authenticate: byTenant})
	for _, by := range []struct {
		name string
		ask  func(tenant, operation, body string) answer
	}{
		{"rest", func(tenant, operation, body string) answer {
			return send(t, http.MethodPost, in.url+"/v1/export/"+operation, body, "X-API-Key", tenant)
		}},
		{"request", func(tenant, operation, body string) answer {
			m, err := in.journal.Callers().Request(events.APISubject(tenant, operation), []byte(body), 10*time.Second)
			require.NoError(t, err)
			a := answer{Status: http.StatusOK, Header: http.Header(m.Header), Raw: string(m.Data)}
			require.NoError(t, json.Unmarshal(m.Data, &a))
			if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
				_, err = fmt.Sscan(code, &a.Status)
				require.NoError(t, err)
			}
			return a
		}},
	} {
		busy, other := "busy-"+by.name, "other-"+by.name
		in.setRate(busy, 3)
		first := by.ask(busy, "raw", titled("1")).key(t)
		require.Equal(t, first, by.ask(busy, "raw", titled("1")).key(t))
		require.Zero(t, by.ask(busy, "http", eventstest.HTTPBody("")).Errcode)
		require.Zero(t, by.ask(busy, "cancel", `{"key":"`+first+`"}`).Errcode)
		require.Zero(t, by.ask(busy, "retry", `{"key":"`+first+`"}`).Errcode, "an equal request took no token")
		require.Zero(t, by.ask(busy, "cancel", `{"key":"`+first+`"}`).Errcode)

		before := in.caughtUpTo(t).Last
		for operation, body := range map[string]string{
			"raw": titled("2"), "http": eventstest.HTTPBody(`,"method":"POST"`), "retry": `{"key":"` + first + `"}`,
		} {
			a := by.ask(busy, operation, body)
			require.Equal(t, http.StatusTooManyRequests, a.Status, "%s by %s: %s", operation, by.name, a.Raw)
			require.Equal(t, errcodeQuota, a.Errcode)
			require.Equal(t, "1", a.Header.Get("Retry-After"))
			require.Contains(t, a.Msg, "more than 20 exports a second")
		}
		require.Equal(t, before, in.log(t).Last, "nothing is written")
		require.Zero(t, by.ask(other, "raw", titled("2")).Errcode)

		in.setRate(busy, 1)
		require.Zero(t, by.ask(busy, "raw", titled("2")).Errcode, "a refused request can be sent again")
	}
}

// Durable submissions over the rate wait, and all of them begin. Another tenant's overtake them.
func TestDurableSubmissionsKeepToTheRate(t *testing.T) {
	t.Parallel()
	const perSecond, busy = 5, 20
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{NewPerSecond: perSecond},
		Authenticate: byTenant})
	begun, err := in.journal.Conn().SubscribeSync("sheaf.event.*.requested.*")
	require.NoError(t, err)
	publish := func(tenant, title string) {
		_, err := in.journal.JetStream().PublishMsg(t.Context(),
			&nats.Msg{Subject: events.SubmitSubject(tenant, "raw"), Data: []byte(titled(title))})
		require.NoError(t, err)
	}
	publish("other", "0") // a tenant that is alone has all slots
	m, err := begun.NextMsg(20 * time.Second)
	require.NoError(t, err)
	require.Contains(t, m.Subject, ".other.")
	begin := time.Now()
	for n := range busy {
		publish("busy", fmt.Sprint(n))
	}
	publish("other", "1")
	var order []string
	seen := map[string]bool{} // a plain subscriber can hear an event twice
	for len(order) < busy+1 {
		m, err := begun.NextMsg(20 * time.Second)
		require.NoError(t, err, "none is lost")
		tenant, err := events.SplitSubject(m.Subject, events.SubjectEvent, 3)
		require.NoError(t, err)
		if !seen[m.Subject] {
			order = append(order, tenant[0])
		}
		seen[m.Subject] = true
	}
	// The bucket and the tenant's slots let some begin at once.
	const atOnce = perSecond + tenantSubmissions
	require.GreaterOrEqual(t, time.Since(begin), (busy-atOnce)*time.Second/perSecond)
	require.Contains(t, order[:busy], "other", "it does not wait for those before it")
	emptied(t, in)
}

// Without API keys the default tenant has no neighbours, and no limit on new exports.
func TestTheDefaultTenantBeginsAtAnyRate(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Quota: Quota{NewPerSecond: 1}})
	for n := range 10 {
		require.Zero(t, in.post(t, "/v1/export/raw", titled(fmt.Sprint(n))).Errcode)
	}
	in.setRate("shop", 0)
	m, err := in.journal.Callers().Request(events.APISubject("shop", "raw"), []byte(titled("1")), 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "429", m.Header.Get(micro.ErrorCodeHeader), "other tenants have one")
}

// Buckets of tenants that are idle are dropped, so that names cannot fill the memory.
func TestRatesOfIdleTenantsAreDropped(t *testing.T) {
	t.Parallel()
	a := admission{quota: Quota{NewPerSecond: 1}, rates: map[string]*rate.Limiter{}}
	busy := a.rateOf("busy")
	busy.SetLimit(rate.Every(time.Hour))
	require.True(t, busy.Allow())
	for n := range 3 * maxRates {
		a.rateOf(fmt.Sprint(n))
		require.LessOrEqual(t, len(a.rates), maxRates)
	}
	require.Same(t, busy, a.rateOf("busy"))
}
