package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

const (
	microName    = "sheaf"
	microVersion = "1.0.0" // of the request/reply contract

	// maxMicroCalls bounds the calls at work at once. Further ones are told to
	// try again.
	maxMicroCalls = 128
)

// microService answers request/reply on NATS.
type microService struct {
	s    *Service
	back context.Context // of the operations
	busy chan struct{}

	mu     sync.Mutex // guards closed and the Add of calls
	closed bool
	calls  sync.WaitGroup
}

// serveMicro offers the operations as a NATS micro service until front ends.
// Calls that were taken are answered; those that were only delivered are told
// to try again.
func (s *Service) serveMicro(front, back context.Context) error {
	m := &microService{s: s, back: back, busy: make(chan struct{}, maxMicroCalls)}
	nc := s.streams.Conn()
	service, err := micro.AddService(nc, micro.Config{
		Name: microName, Version: microVersion, Description: "exports of paginated HTTP sources as workbooks",
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			slog.Warn("micro service", "service", "ingress", "subject", err.Subject, "error", err.Description)
		},
	})
	if err != nil {
		return fmt.Errorf("micro service: %w", err)
	}
	for name, op := range s.operations() {
		err := service.AddEndpoint(name, m.endpoint(name, op), micro.WithEndpointSubject(events.APISubject("*", name)))
		if err != nil {
			_ = service.Stop()
			return fmt.Errorf("micro service: endpoint %s: %w", name, err)
		}
	}
	<-front.Done()
	if err := service.Stop(); err != nil {
		slog.Warn("stopping the micro service", "service", "ingress", "error", err)
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
// does not hold up the subscription.
func (m *microService) endpoint(name string, op operation) micro.Handler {
	return micro.HandlerFunc(func(req micro.Request) {
		id := chooseRequestID(func(header string) string { return headerOf(nats.Header(req.Headers()), header) })
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.closed {
			m.reply(req, id, nil, unavailable("shutting down; try again", retryEvery, nil))
			return
		}
		select {
		case m.busy <- struct{}{}:
		default:
			m.reply(req, id, nil, unavailable("too many requests are under way; try again", retryEvery, nil))
			return
		}
		m.calls.Go(func() {
			defer func() { <-m.busy }()
			data, err := m.call(req, name, op, id)
			m.reply(req, id, data, err)
		})
	})
}

func (m *microService) call(req micro.Request, name string, op operation, id string) (any, error) {
	// The tenant is a token of the subject: subjects are what a NATS user's
	// permissions guard.
	tenant, _, err := events.ParseAPISubject(req.Subject())
	if err != nil {
		return nil, invalid("subject", "%s", err)
	}
	c := call{tenant: tenant, requestID: id, body: req.Data()}
	if !takesBody(name) {
		if c.params, err = parseParams(c.body); err != nil {
			return nil, err
		}
		return m.s.do(m.back, op, c)
	}
	if limit := m.s.bodyLimit(name); int64(len(c.body)) > limit {
		return nil, tooLarge("body", "is larger than %d bytes", limit)
	}
	release, ok := m.s.bodies.try(tenant, int64(len(c.body)))
	if !ok { // the places of calls are everybody's
		return nil, unavailable("too many large requests are under way; try again", bodyWait, nil)
	}
	defer release()
	return m.s.do(m.back, op, c)
}

// reply sends the envelope. It goes around the library's own answer, which
// counts errors without a lock and so cannot be sent from a goroutine.
func (m *microService) reply(req micro.Request, id string, data any, err error) {
	body, failure := seal(data, err, id)
	answer := &nats.Msg{Subject: req.Reply(), Data: body, Header: nats.Header{}}
	if failure != nil {
		answer.Header.Set(micro.ErrorCodeHeader, strconv.Itoa(failure.Status))
		answer.Header.Set(micro.ErrorHeader, headerText(failure.Msg))
		if failure.RetryAfter > 0 {
			answer.Header.Set("Retry-After", retryAfter(failure))
		}
		logFailure(m.back, id, failure)
	}
	logger(id).Debug("call", "subject", req.Subject(), "failed", failure != nil)
	if answer.Subject == "" {
		return
	}
	if !isInbox(answer.Subject) {
		logger(id).Warn("a request is not answered: its reply is no inbox, which begins with _INBOX", "subject", req.Subject(), "reply", cut(answer.Subject, 64))
		return
	}
	if err := m.s.streams.Conn().PublishMsg(answer); err != nil {
		logger(id).Warn("answer not sent", "error", err)
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
