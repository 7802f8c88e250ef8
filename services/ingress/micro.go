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
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/time/rate"
)

const (
	microName    = "sheaf"
	microVersion = "1.0.0" // of the request/reply contract

	// maxMicroCalls bounds the calls that were taken at once, and maxTenantMicroCalls
	// those of one tenant. Further ones are told to try again.
	maxMicroCalls       = 512
	maxTenantMicroCalls = 128
	// maxMicroPending and maxMicroPendingBytes bound the requests of one operation that
	// have arrived and were not taken yet. Further ones are dropped.
	maxMicroPending      = 8192
	maxMicroPendingBytes = 4 << 20
	// maxMicroAnswer is the largest answer in bytes. It stays below what a caller of the
	// embedded server may have pending.
	maxMicroAnswer = 768 << 10
)

// microService answers request/reply on NATS.
type microService struct {
	s    *Service
	back context.Context // of the operations

	mu     sync.Mutex // guards what follows and the Add of calls
	closed bool
	taken  map[string]int // calls of each tenant
	total  int            // of taken
	calls  sync.WaitGroup

	warn rate.Sometimes // of requests that cannot be answered
}

// take reports whether a further call of a tenant may be taken: at most as many as are
// left for others. It is called with mu held.
func (m *microService) take(tenant string) bool {
	if m.taken[tenant] >= min(maxTenantMicroCalls, maxMicroCalls-m.total) {
		return false
	}
	m.taken[tenant]++
	m.total++
	return true
}

// done gives the place of a call back.
func (m *microService) done(tenant string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total--
	if m.taken[tenant]--; m.taken[tenant] == 0 {
		delete(m.taken, tenant)
	}
}

// serveMicro offers the operations as a NATS micro service until front ends.
// Calls that were taken are answered; those that were only delivered are told
// to try again.
func (s *Service) serveMicro(front, back context.Context) error {
	m := &microService{s: s, back: back, taken: map[string]int{}, warn: rate.Sometimes{First: 10, Interval: time.Second}}
	nc := s.journal.Callers()
	service, err := micro.AddService(nc, micro.Config{
		Name: microName, Version: microVersion, Description: "exports of paginated HTTP sources as workbooks",
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			s.cfg.Log.Warn("micro service", "subject", err.Subject, "error", err.Description)
		},
	})
	if err != nil {
		return fmt.Errorf("micro service: %w", err)
	}
	for name, op := range s.operations() {
		err := service.AddEndpoint(name, m.endpoint(name, op), micro.WithEndpointSubject(events.APISubject("*", name)),
			micro.WithEndpointPendingLimits(maxMicroPending, maxMicroPendingBytes))
		if err != nil {
			_ = service.Stop()
			return fmt.Errorf("micro service: endpoint %s: %w", name, err)
		}
	}
	known, cancel := context.WithTimeout(front, readWait)
	_ = nc.FlushWithContext(known) // without a connection it is not ready for that
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
	// The answers leave before the process may close the connection.
	ctx, cancel := context.WithTimeout(back, readWait)
	defer cancel()
	_ = nc.FlushWithContext(ctx)
	return nil
}

// endpoint answers each call in a goroutine of its own, so that one that waits
// does not hold up the subscription. A request that cannot be answered is not worked on.
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
		// The tenant is a token of the subject: subjects are what a NATS user's
		// permissions guard.
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

// call returns the answer to a request, and notes in l which export it is about.
func (m *microService) call(req micro.Request, name string, op operation, l *line) ([]byte, *apiError) {
	tenant, id := l.tenant, l.id
	c := call{operation: name, tenant: tenant, requestID: id, body: req.Data()}
	if !takesBody(name) {
		var err error
		if c.params, err = request.Params(c.body); err != nil {
			return seal(nil, err, id)
		}
	} else if limit := m.s.bodyLimit(name); int64(len(c.body)) > limit {
		return seal(nil, request.TooLarge("body", "is larger than %d bytes", limit), id)
	}
	l.key = c.key(nil)
	release, ok := m.s.bodies.try(tenant, int64(len(c.body)))
	if !ok { // the places of calls are everybody's
		return seal(nil, unavailable("too many large requests are under way; try again", m.s.cfg.BodyWait, nil), id)
	}
	defer release()
	leave, err := m.s.turn(m.back, tenant, name)
	if err != nil {
		return seal(nil, err, id)
	}
	defer leave()
	data, err := m.s.do(m.back, op, c)
	l.key = c.key(data)
	return seal(data, err, id)
}

// reply refuses a request.
func (m *microService) reply(req micro.Request, begin time.Time, l *line, err error) {
	body, failure := seal(nil, err, l.id)
	m.send(req, begin, l, body, failure)
}

// send goes around the library's own answer, which counts errors without a lock and so
// cannot be sent from a goroutine.
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
	if strings.HasSuffix(req.Subject(), ".detail") || strings.HasSuffix(req.Subject(), ".history") {
		level = slog.LevelDebug // as GET requests
	}
	l.logger().Log(m.back, level, "request", "subject", request.Cut(req.Subject(), 256), "status", status, "bytes", len(body), "elapsed", time.Since(begin))
	if err := m.s.journal.Callers().PublishMsg(answer); err != nil {
		l.logger().Warn("answer not sent", "error", err)
	}
}

// isInbox reports whether a reply is a subject where a caller waits for an answer.
// The caller chooses it, and what is published there is published with our rights:
// to "$JS.API.STREAM.PURGE.SHEAF_EVENTS" it would empty the log. "_R_" is how the
// server writes the reply of a caller in another account.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX") || strings.HasPrefix(reply, "_R_.")
}

// bodyLimit is how large the body of an operation may be, in bytes.
func (s *Service) bodyLimit(operation string) int64 {
	if operation == "raw" {
		return s.cfg.MaxRawBody
	}
	return s.cfg.MaxBody
}

// headerText is text that can stand in a header.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// headerOf reads a header of a NATS message in any case: producers in other
// languages spell them as they like.
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
