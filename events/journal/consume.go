package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"
	"sheaf/events/tracing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Delivery is one message of a consumer.
type Delivery struct {
	Subject   string
	Header    nats.Header
	Data      []byte
	Sequence  uint64
	Delivered uint64 // number of deliveries, including this one
	Time      time.Time

	// Fresh means the first delivery of a message that was stored after this process connected. No process
	// has started work on it. An earlier process cannot have: the server would have counted its delivery. An
	// earlier crash with an embedded server that lost its count cannot hide one: the message would be older
	// than the connection. Only a server that crashes within 100 ms of a delivery, while this process
	// survives, can make a second delivery look like the first.
	Fresh bool

	requestID *string // see Concerns; nil outside Consume
}

// Concerns says that the delivery is about an export. Log lines about the delivery then include the request
// that started the export.
func (d Delivery) Concerns(x *events.Export) {
	if d.requestID != nil {
		*d.requestID = x.Origin()
	}
}

// Process begins the span of the work on an export, which End ends. It is a child of the span that published the
// message.
func (s *Log) Process(ctx context.Context, d Delivery, ev events.Event, consumer string) (context.Context, *tracing.Span) {
	if s.cfg.Tracer == nil {
		return ctx, nil
	}
	return s.cfg.Tracer.Process(ctx, ev.TraceParent, tracing.Message{
		Stream: events.StreamEvents, Template: events.EventSubject("{tenant}", ev.Type(), "{key}"), ID: ev.ID,
		ConversationID: ev.CorrelationID, Consumer: consumer,
	}, tracing.Tenant.String(ev.Tenant), tracing.ExportKey.String(ev.Key), tracing.Delivery.Int64(int64(d.Delivered)))
}

// Event decodes the delivery as an event. Its errors are Permanent, except ErrNewerEvent: such a message must
// be redelivered to a process that knows its type. That may take as long as an upgrade.
func (d Delivery) Event() (events.Event, error) {
	ev, err := events.Decode(d.Subject, d.Header, d.Data, d.Sequence)
	if errors.Is(err, events.ErrNewerEvent) {
		return ev, err
	}
	if err != nil {
		return ev, Permanent(err)
	}
	return ev, nil
}

// Handler does the work of one delivery. Its result decides about the message:
//
//	nil                  the work is done and durable: acknowledge
//	Permanent(err)       give up; log an error
//	RetryAfter(err, d)   redeliver after d
//	Beside(work)         continue without a slot; the result of work decides
//	ErrTakenOver         another handler has the message: do not answer
//	any error after ctx  hand back at once, for another process
//	any other error      redeliver after a growing delay
//
// ctx ends when the process drains. A handler may receive the same message again, here or elsewhere, even
// while an earlier call still runs.
type Handler func(ctx context.Context, d Delivery) error

// Consume handles the messages of a durable consumer, up to slots at once, until ctx ends and the handlers
// have returned; then it returns nil. Only Consume acknowledges messages. While a handler runs, Consume sends
// a keep-alive for its message every 3 s, if AckWait is 10 s.
//
// A message is requested only for a free slot, so none waits here while another process is idle. The process
// with the fewest running handlers gets the next message. Consume also waits for work beside the slots, whose
// amount the handlers must bound.
func (s *Log) Consume(ctx context.Context, stream, consumer string, slots int, h Handler) error {
	_, err := s.js.Consumer(ctx, stream, consumer)
	for absent := uint64(0); err != nil &&
		ctx.Err() == nil; _, err = s.js.Consumer(ctx, stream, consumer) {
		err = fmt.Errorf("%w: consumer %s of %s: %w", events.ErrUnavailable, consumer, stream, err)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			// A cluster may report a new consumer as missing.
			if absent++; absent == 3 {
				return err
			}
			streams.Wait(ctx, streams.Backoff(absent))
			continue
		}
		s.cfg.Log.Warn("trying again", "consumer", consumer, "error", err) // an outage
		streams.Wait(ctx, time.Second)
	}
	if ctx.Err() != nil {
		return nil
	}
	var beside sync.WaitGroup
	newIntake(s, stream, consumer, slots, func(m message) {
		s.handle(ctx, m, stream, consumer, &beside, h)
	}).run(ctx)
	beside.Wait()
	return nil
}

// handle handles one message.
func (s *Log) handle(ctx context.Context, msg message, stream, name string,
	beside *sync.WaitGroup, h Handler) {
	meta, err := msg.Metadata()
	if err != nil {
		_ = msg.giveUp("not a delivery of a stream")
		return
	}
	d := Delivery{
		Subject: msg.Subject, Header: msg.Header, Data: msg.Data,
		Sequence: meta.Sequence.Stream, Delivered: meta.NumDelivered, Time: meta.Timestamp,
		Fresh: meta.NumDelivered == 1 && meta.Sequence.Stream > s.before[stream],

		requestID: new(string),
	}
	if n := s.again[name]; n != nil && d.Delivered > 1 {
		n.Add(1)
	}

	stop := keepAlive(msg, s.cfg.AckWait*3/10) // three chances
	err = h(ctx, d)
	var he *handlingError
	if errors.As(err, &he) && he.work != nil {
		beside.Go(func() {
			err := he.work()
			stop()
			s.settle(ctx, msg, d, name, err)
		})
		return
	}
	stop()
	s.settle(ctx, msg, d, name, err)
}

// keepAlive extends the AckWait of a message until stop is called.
func keepAlive(msg message, every time.Duration) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = msg.inProgress()
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// settle acknowledges a message, or answers according to err. A lost answer only causes one more delivery.
func (s *Log) settle(ctx context.Context, msg message, d Delivery, consumer string, err error) {
	log := s.cfg.Log.With("consumer", consumer, "subject", d.Subject, "sequence", d.Sequence,
		"delivered", d.Delivered)
	if t, err := events.SplitSubject(d.Subject, events.SubjectEvent, 3); err == nil {
		log = log.With("tenant", t[0], "hash_key", t[2])
	} else if tenant, key, err := DueCallback(d.Subject); err == nil {
		log = log.With("tenant", tenant, "hash_key", key)
	}
	if *d.requestID != "" {
		log = log.With("request_id", *d.requestID)
	}
	failpoint.Hit("ack.before")
	var he *handlingError
	switch {
	case err == nil:
		err = msg.ack()
	case streams.IsPermanent(err):
		log.Error("message given up", "error", err)
		err = msg.giveUp(err.Error())
	case errors.Is(err, ErrTakenOver):
		err = nil
	case ctx.Err() != nil:
		err = handBack(msg)
	case errors.As(err, &he) && he.after > 0:
		log.Debug("message will be handled again", "after", he.after, "error", err)
		err = msg.redeliver(he.after)
	default:
		after := streams.Backoff(d.Delivered)
		log.Warn("message will be handled again", "after", after, "error", err)
		err = msg.redeliver(after)
	}
	if err != nil {
		log.Warn("acknowledgement not sent", "error", err)
	}
}

// handBack makes the server redeliver a message at once. It asks for a delay, because a plain negative
// acknowledgement is not written to disk: if the server stops next, the message would be redelivered only
// after its AckWait of 10 s (measured).
func handBack(msg message) error { return msg.redeliver(time.Millisecond) }
