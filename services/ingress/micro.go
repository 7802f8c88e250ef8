package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/tracing"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/time/rate"
)

const (
	microName    = "sheaf"
	microVersion = "1.0.0" // of the request/reply contract

	// maxMicroCalls limits the concurrent calls, and maxTenantMicroCalls those of one tenant. Further ones
	// get an answer to try again.
	maxMicroCalls       = 512
	maxTenantMicroCalls = 128
	// maxMicroPending and maxMicroPendingBytes limit the delivered requests of one operation that wait.
	// Further ones are dropped.
	maxMicroPending      = 8192
	maxMicroPendingBytes = 4 << 20
	// maxMicroAnswer is the largest answer in bytes. It is below the pending limit of the embedded server's
	// clients.
	maxMicroAnswer = 768 << 10
)

// microService answers request/reply on NATS.
type microService struct {
	s    *Service
	back context.Context // of the operations

	mu     sync.Mutex // guards what follows and the Add of calls
	closed bool
	taken  map[string]int // calls of each tenant
	total  int            // sum of taken
	calls  sync.WaitGroup

	warn rate.Sometimes // limits log lines of requests that cannot be answered
}

// take reports whether a further call of a tenant is accepted. A tenant gets at most as many places as it
// leaves to others. The caller holds mu.
func (m *microService) take(tenant string) bool {
	if m.taken[tenant] >= min(maxTenantMicroCalls, maxMicroCalls-m.total) {
		return false
	}
	m.taken[tenant]++
	m.total++
	return true
}

// done frees the place of a call.
func (m *microService) done(tenant string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total--
	if m.taken[tenant]--; m.taken[tenant] == 0 {
		delete(m.taken, tenant)
	}
}

// serveMicro offers the operations as a NATS micro service until front ends. Accepted calls are answered;
// delivered ones that wait get an answer to try again.
func (s *Service) serveMicro(front, back context.Context) error {
	m := &microService{s: s, back: back, taken: map[string]int{}, warn: rate.Sometimes{First: 10, Interval: time.Second}}
	nc := s.journal.Callers()
	service, err := micro.AddService(nc, micro.Config{
		Name: microName, Version: microVersion, Description: "exports of paginated HTTP sources as files",
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			s.cfg.Log.Warn("micro service", "subject", err.Subject, "error", err.Description)
		},
	})
	if err != nil {
		return fmt.Errorf("micro service: %w", err)
	}
	for name, op := range operations {
		err := service.AddEndpoint(name, m.endpoint(name, op), micro.WithEndpointSubject(events.APISubject("*", name)),
			micro.WithEndpointPendingLimits(maxMicroPending, maxMicroPendingBytes))
		if err != nil {
			_ = service.Stop()
			return fmt.Errorf("micro service: endpoint %s: %w", name, err)
		}
	}
	known, cancel := context.WithTimeout(front, readWait)
	_ = nc.FlushWithContext(known) // without a connection it is not ready
	cancel()
	s.onNATS.Store(true)
	<-front.Done()
	if err := service.Stop(); err != nil {
		s.cfg.Log.Warn("stopping the micro service", "error", err)
	}
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.calls.Wait()
	// The answers must leave before the process closes the connection.
	ctx, cancel := context.WithTimeout(back, readWait)
	defer cancel()
	_ = nc.FlushWithContext(ctx)
	return nil
}

// endpoint answers each call in a goroutine of its own, so that a waiting call does not block the
// subscription. It ignores requests that cannot be answered.
func (m *microService) endpoint(name string, op operation) micro.Handler {
	return micro.HandlerFunc(func(req micro.Request) {
		if !isInbox(req.Reply()) {
			m.warn.Do(func() {
				m.s.cfg.Log.Warn("a request is dropped: its reply is no inbox, which begins with _INBOX",
					"subject", request.Cut(req.Subject(), 128), "reply", request.Cut(req.Reply(), 64))
			})
			return
		}
		begin := time.Now()
		id := chooseRequestID(func(header string) string { return headerOf(nats.Header(req.Headers()), header) })
		// The tenant comes from the subject, because the permissions of a NATS user guard subjects.
		tenant, _, err := events.ParseAPISubject(req.Subject())
		if err != nil {
			m.reply(req, begin, &line{log: m.s.cfg.Log, id: id}, request.Invalid("subject", "%s", err))
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.closed {
			m.reply(req, begin, &line{log: m.s.cfg.Log, id: id, tenant: tenant}, unavailable("shutting down; try again", retryEvery, nil))
			return
		}
		if !m.take(tenant) {
			m.reply(req, begin, &line{log: m.s.cfg.Log, id: id, tenant: tenant}, unavailable("too many requests of yours are under way; try again", retryEvery, nil))
			return
		}
		m.calls.Go(func() {
			defer m.done(tenant)
			l := line{log: m.s.cfg.Log, id: id, tenant: tenant}
			body, failure := m.call(req, name, op, &l)
			m.send(req, begin, &l, body, failure)
		})
	})
}

// call returns the answer to a request, and records its export in l.
func (m *microService) call(req micro.Request, name string, op operation, l *line) ([]byte, *apiError) {
	tenant, id := l.tenant, l.id
	c := call{
		operation: name, tenant: tenant, requestID: id, body: req.Data(), onNATS: true,
		idempotency: headerOf(nats.Header(req.Headers()), "Idempotency-Key"),
	}
	if err := request.CheckIdempotencyKey(c.idempotency); err != nil {
		return seal(nil, err, id)
	}
	if !op.body {
		var err error
		if c.params, err = request.Params(c.body); err != nil {
			return seal(nil, err, id)
		}
	} else if limit := m.s.bodyLimit(name); int64(len(c.body)) > limit {
		return seal(nil, request.TooLarge("body", "is larger than %d bytes", limit), id)
	}
	if err := c.authorize(principalOf(tenant), op); err != nil {
		return seal(nil, err, id)
	}
	l.tenant, l.key = c.tenant, c.key(nil)
	release, ok := m.s.bodies.try(tenant, int64(len(c.body)))
	if !ok { // all callers share the places
		return seal(nil, unavailable("too many large requests are under way; try again", m.s.cfg.BodyWait, nil), id)
	}
	defer release()
	leave, err := m.s.turn(m.back, tenant, name)
	if err != nil {
		return seal(nil, err, id)
	}
	defer leave()
	ctx, span := m.s.tracer().Process(m.back, tracing.ParentOf(req.Headers()), tracing.Message{Template: events.APISubject("{tenant}", name)},
		tracing.Tenant.String(tenant))
	l.trace = events.TraceID(tracing.Parent(ctx))
	data, err := m.s.do(ctx, op, c)
	l.key = c.key(data)
	body, failure := seal(data, err, id)
	code := ""
	if failure != nil && failure.Status >= http.StatusInternalServerError {
		code = strconv.Itoa(failure.Errcode)
	}
	span.End(code)
	return body, failure
}

// principalOf returns the caller that a subject names. The permissions of NATS users guard subjects.
func principalOf(tenant string) Principal {
	if tenant == AdminTenant {
		return Principal{Tenant: tenant, Scope: ScopeAdmin}
	}
	return Principal{Tenant: tenant, Scope: ScopeOperate}
}

// reply refuses a request.
func (m *microService) reply(req micro.Request, begin time.Time, l *line, err error) {
	body, failure := seal(nil, err, l.id)
	m.send(req, begin, l, body, failure)
}

// send publishes the answer itself. The library's answer counts errors without a lock, so a goroutine cannot
// use it.
func (m *microService) send(req micro.Request, begin time.Time, l *line, body []byte, failure *apiError) {
	if len(body) > maxMicroAnswer {
		body, failure = seal(nil, request.TooLarge("limit", "the answer has %d bytes, at most %d are sent by NATS; ask for fewer with limit and before, or by REST", len(body), maxMicroAnswer), l.id)
	}
	status := http.StatusOK
	answer := &nats.Msg{Subject: req.Reply(), Data: body, Header: nats.Header{}}
	if failure != nil {
		answer.Header.Set(micro.ErrorCodeHeader, strconv.Itoa(failure.Status))
		answer.Header.Set(micro.ErrorHeader, headerText(failure.Msg))
		if failure.RetryAfter > 0 {
			answer.Header.Set("Retry-After", retryAfter(failure))
		}
		status, l.errcode = failure.Status, failure.Errcode
		logFailure(m.back, l.logger(), failure)
	}
	level := slog.LevelInfo
	if _, name, err := events.ParseAPISubject(req.Subject()); err == nil && operations[name].quiet {
		level = slog.LevelDebug // like GET requests
	}
	l.logger().Log(m.back, level, "request", "subject", request.Cut(req.Subject(), 256), "status", status, "bytes", len(body), "elapsed", time.Since(begin))
	if err := m.s.journal.Callers().PublishMsg(answer); err != nil {
		l.logger().Warn("answer not sent", "error", err)
	}
}

// isInbox reports whether a reply is an inbox. The caller chooses the reply, and the ingress publishes with
// its own permissions: on "$JS.API.STREAM.PURGE.SHEAF_EVENTS" an answer would empty the log. The server
// writes replies of callers in other accounts as "_R_".
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX") || strings.HasPrefix(reply, "_R_.")
}

// bodyLimit returns the maximum body of an operation, in bytes.
func (s *Service) bodyLimit(operation string) int64 {
	if operation == "raw" {
		return s.cfg.MaxRawBody
	}
	return s.cfg.MaxBody
}

// headerText returns text that a header can hold.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// headerOf reads a header of a NATS message, ignoring case, because producers spell headers differently.
func headerOf(h nats.Header, name string) string {
	if v := h.Get(name); v != "" {
		return v
	}
	if v := h.Get(textproto.CanonicalMIMEHeaderKey(name)); v != "" {
		return v
	}
	for k, v := range h {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}
