package ingress

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/storage"

	"golang.org/x/time/rate"
)

const (
	// logShare is the part of the log that new exports may fill. The rest is for the events that end exports.
	logShare = 0.9
	// eventBytes is about the size in the log of the event that begins an export, without the request.
	eventBytes = 1 << 10
	// roomWait is the Retry-After of a caller refused for lack of space, quotaWait of one over its quota, and
	// rateWait of one that begins too many exports per second.
	roomWait  = 10 * time.Second
	quotaWait = 30 * time.Second
	rateWait  = time.Second
	// roomEvery is how often durable submissions check for space.
	roomEvery = 250 * time.Millisecond

	errcodeQuota = 429 // the tenant has reached its quota
)

// Quota limits one tenant. 0 means no limit.
type Quota struct {
	Unfinished int   // accepted exports that have not ended
	FileBytes  int64 // of finished files that have not expired
	// NewPerSecond is the number of exports that begin per second in this process. Every durable submission
	// counts as one. Without Config.Authenticate the default tenant has no such limit.
	NewPerSecond int
}

// admission decides whether a further export may begin, for all callers. It refuses with 503 while the disk
// is full or the log almost full. It refuses with 429 if the tenant has reached its limit of remembered
// exports, unfinished exports, file bytes or new exports per second.
type admission struct {
	room       func(bytes int64) error // on the disk
	usage      func(tenant string) (storage.Usage, error)
	quota      Quota
	maxHistory int
	noKeys     bool // callers have no API keys, so the default tenant has no NewPerSecond

	mu    sync.Mutex
	log   events.Space
	looks int                      // how often log was read; it includes earlier reservations
	rates map[string]*rate.Limiter // of new exports, by tenant
}

// look updates the log's size. Until the next look admission counts what it admits.
func (a *admission) look(log events.Space) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = log
	a.looks++
}

// candidate is an export that may begin.
type candidate struct {
	*admission
	tenant    string
	disk, log int64 // estimated bytes
	durable   bool  // a durable submission, which pause charges
	reserved  bool
	seen      int // looks when it was reserved
}

// admit refuses the export unless it may begin now. Call it before anything of the export is written; further
// calls are allowed.
//
// The tenant's usage lacks exports that are accepted at the same moment, here or in another process.
// Concurrent requests can therefore exceed a quota by their number.
func (c *candidate) admit() error {
	if err := c.room(c.disk); err != nil {
		return unavailable(err.Error()+"; nothing was accepted; try again later", roomWait, nil)
	}
	u, err := c.usage(c.tenant)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reserved {
		if err := c.refuse(c.log); err != nil {
			return err
		}
	}
	if err := c.withinQuota(u); err != nil {
		return err
	}
	if !c.reserved {
		if err := c.withinRate(true); err != nil {
			return err
		}
		c.admission.log.Used += c.log
		c.reserved, c.seen = true, c.looks
	}
	return nil
}

// release returns the reservation of an export that did not begin.
func (c *candidate) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reserved && c.looks == c.seen {
		c.admission.log.Used -= c.log
	}
	c.reserved = false
}

// refuse returns an error if this many more bytes would fill the log beyond logShare. The caller holds mu.
func (a *admission) refuse(bytes int64) error {
	if most := int64(float64(a.log.Limit) * logShare); a.log.Limit > 0 && a.log.Used+bytes > most {
		return unavailable(fmt.Sprintf("the event log holds %d of %d bytes, and the last tenth is kept for exports that are under way; "+
			"nothing was accepted; try again in a minute, when what ended takes less room", a.log.Used, a.log.Limit), 3*roomWait, nil)
	}
	return nil
}

// withinQuota refuses a further export of a tenant that has reached its quota. The caller holds mu.
func (a *admission) withinQuota(u storage.Usage) error {
	over := func(format string, args ...any) error {
		return &apiError{Errcode: errcodeQuota, Status: http.StatusTooManyRequests, Msg: fmt.Sprintf(format, args...), RetryAfter: quotaWait}
	}
	switch {
	case u.Settled == 0 && storage.Usage{Exports: u.Exports + 1, Bytes: u.Bytes}.TooMuch(a.log, a.maxHistory):
		return over("%d exports of yours, which take %d bytes of the event log, are under way or wait for their callback, and nothing of yours can be forgotten; "+
			"try again when some have ended", u.Exports, u.Bytes)
	case a.quota.Unfinished > 0 && u.Unfinished >= a.quota.Unfinished:
		return over("%d exports of yours are under way, as many as may be; try again when some have ended, or cancel some", u.Unfinished)
	case a.quota.FileBytes > 0 && u.FileBytes >= a.quota.FileBytes:
		return over("your finished files take %d bytes, of %d that they may; try again when some have expired", u.FileBytes, a.quota.FileBytes)
	}
	return nil
}

// withinRate refuses a caller that waits for the answer if its tenant begins too many exports per second. A
// durable submission is charged by pause instead. Call it with charge false to leave the tenant's rate as it
// is. An export that fails to begin later is charged too. The caller holds mu.
func (c *candidate) withinRate(charge bool) error {
	limit := c.rateOf(c.tenant)
	if c.durable || limit == nil || charge && limit.Allow() || !charge && limit.Tokens() >= 1 {
		return nil
	}
	return &apiError{
		Errcode: errcodeQuota, Status: http.StatusTooManyRequests, RetryAfter: rateWait,
		Msg: fmt.Sprintf("you begin more than %d exports a second; nothing was accepted; try again later", c.quota.NewPerSecond),
	}
}

// early refuses an export whose admit would exceed the tenant's rate, before its key is read from the log. A
// flood of refused requests is then cheap.
func (c *candidate) early() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.withinRate(false)
}

// pause charges a tenant for a durable submission, whatever became of it. It returns how long the tenant must
// begin nothing to be within its rate again.
func (a *admission) pause(tenant string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit := a.rateOf(tenant)
	if limit == nil {
		return 0
	}
	return limit.Reserve().Delay()
}

// maxRates is the number of tenants above which rateOf drops those that were idle.
const maxRates = 1000

// rateOf returns the limiter of a tenant's new exports, nil for no limit. The caller holds mu.
func (a *admission) rateOf(tenant string) *rate.Limiter {
	if a.quota.NewPerSecond <= 0 || a.noKeys && tenant == events.DefaultTenant {
		return nil
	}
	limit := a.rates[tenant]
	if limit == nil {
		if len(a.rates) >= maxRates {
			maps.DeleteFunc(a.rates, func(_ string, l *rate.Limiter) bool { return l.Tokens() >= float64(l.Burst()) })
		}
		limit = rate.NewLimiter(rate.Limit(a.quota.NewPerSecond), a.quota.NewPerSecond)
		a.rates[tenant] = limit
	}
	return limit
}

// closed returns an error if even the smallest export of any tenant would be refused.
func (a *admission) closed() error {
	if err := a.room(0); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refuse(eventBytes)
}

// whileOpen runs take with a context that ends when admission closes, and runs it again when admission opens.
// It returns when ctx ends or take fails.
func (a *admission) whileOpen(ctx context.Context, take func(context.Context) error) error {
	for ; ctx.Err() == nil; pause(ctx, roomEvery) {
		if a.closed() != nil {
			continue
		}
		taking, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for pause(taking, roomEvery) && a.closed() == nil {
			}
			stop()
		}()
		err := take(taking)
		stop()
		<-watched
		if err != nil {
			return err
		}
	}
	return nil
}
