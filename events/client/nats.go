package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"sheaf/events"
	"sheaf/events/retryafter"
)

// onNATS calls the micro service of a tenant.
type onNATS struct {
	conn   *nats.Conn
	tenant string
	answer time.Duration
}

func (t *onNATS) call(ctx context.Context, c call) (json.RawMessage, error) {
	body := c.body
	if body == nil {
		var err error
		if body, err = json.Marshal(c.query); err != nil {
			return nil, err
		}
	}
	within, cancel := context.WithTimeout(ctx, max(t.answer, c.slow))
	defer cancel()
	msg := &nats.Msg{Subject: events.APISubject(t.tenant, c.operation), Data: body, Header: nats.Header{}}
	if c.idempotency != "" {
		msg.Header.Set("Idempotency-Key", c.idempotency)
	}
	answer, err := t.conn.RequestMsgWithContext(within, msg)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrNoResponders):
		return nil, &UnreachableError{t.server(), errors.New("no ingress listens there for tenant " + t.tenant)}
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, newError(http.StatusRequestEntityTooLarge, http.StatusRequestEntityTooLarge,
			"body: is larger than a message of this NATS server may be; use REST", "", 0)
	case err != nil:
		return nil, &UnreachableError{t.server(), err}
	}
	status := http.StatusOK
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		if status, err = strconv.Atoi(code); err != nil {
			status = http.StatusInternalServerError
		}
	}
	wait, _ := retryafter.Parse(http.Header{"Retry-After": answer.Header.Values("Retry-After")}, time.Now())
	return readAnswer(answer.Data, status, wait, t.server())
}

func (t *onNATS) server() string { return "NATS" }
