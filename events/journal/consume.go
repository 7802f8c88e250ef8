package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

// Delivery is one message of a consumer.
type Delivery struct {
	Subject   string
	Header    nats.Header
	Data      []byte
	Sequence  uint64
	Delivered uint64 // how often, this time included
	Time      time.Time

	// Fresh is true of a first delivery of a message that was stored since this
	// process connected to the streams. Nobody has begun to work on it: not a
	// process that ended, for then the server would count more deliveries; nor
	// this one before a crash that took an embedded server and its last counts
	// with it, for then the message would be older than the connection. Only a
	// server that crashes within 100 ms of a delivery to a process that lives on
	// can make a second one look like the first.
	Fresh bool

	requestID *string // see Concerns; nil outside Consume
}

// Concerns says that the delivery is about an export. Log lines about the delivery then
// name the request that began the export.
func (d Delivery) Concerns(x *events.Export) {
	if d.requestID != nil {
		*d.requestID = x.Origin()
	}
}

// Event decodes the delivery as an event. An error is Permanent, for the message
// will not improve, unless it is ErrNewerEvent: then it is to be delivered again,
// to a process that knows it. That may take as long as an upgrade does.
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

// Handler does the work of one delivery. What it returns decides about the
// message:
//
//	nil                  the work is done, and durable: acknowledged
//	Permanent(err)       given up; logged as an error
//	RetryAfter(err, d)   delivered again after d
//	Beside(work)         work goes on without a slot; what it returns decides
//	ErrTakenOver         left to another handler that has it: no answer
//	any error after ctx  handed back at once, for another process
//	any other error      delivered again after a growing delay
//
// ctx ends when the process drains. A handler may be given the same message
// again, here or elsewhere, also while an earlier call still runs.
type Handler func(ctx context.Context, d Delivery) error

const (
	// pullWait is how long a pull waits at the server for a message.
	pullWait = 30 * time.Second
	// pullHeartbeat is how often the server says that it still has the pull;
	// after two that are missing the pull is made again. A server that dies
	// takes its pulls with it without a word.
	pullHeartbeat = 3 * time.Second
)

// Consume handles the messages of a durable consumer, up to slots at once,
// until ctx ends and the handlers have returned; then it returns nil. It is
// the one place that acknowledges. While a handler runs its message is kept
// from others by a sign of life every 3 s, if AckWait is 10 s.
//
// A slot takes a message only when it is free to work on it, so no message
// waits here while another process is idle. Work that was put beside the slots
// is waited for too; the handlers bound how much of it there is.
func (s *Log) Consume(ctx context.Context, stream, consumer string, slots int, h Handler) error {
	cons, err := s.js.Consumer(ctx, stream, consumer)
	for absent := uint64(0); err != nil && ctx.Err() == nil; cons, err = s.js.Consumer(ctx, stream, consumer) {
		err = fmt.Errorf("%w: consumer %s of %s: %w", events.ErrUnavailable, consumer, stream, err)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			// A cluster may say so of what was just made.
			if absent++; absent == 3 {
				return err
			}
			streams.Wait(ctx, streams.Backoff(absent))
			continue
		}
		slog.Warn("trying again", "consumer", consumer, "error", err) // an outage
		streams.Wait(ctx, time.Second)
	}
	if ctx.Err() != nil {
		return nil
	}
	var wg, beside sync.WaitGroup
	// An outage meets all slots again and again. It is told now and then.
	tell := rate.Sometimes{First: 1, Interval: time.Minute}
	for range slots {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := s.pull(ctx, cons, stream, consumer, &beside, h); err != nil && ctx.Err() == nil {
					tell.Do(func() { slog.Warn("pulling messages; trying again", "consumer", consumer, "error", err) })
					streams.Wait(ctx, time.Second)
				}
			}
		})
	}
	wg.Wait()
	beside.Wait()
	return nil
}

// pull handles one message after another until ctx ends or the pulling fails.
func (s *Log) pull(ctx context.Context, cons jetstream.Consumer, stream, name string, beside *sync.WaitGroup, h Handler) error {
	// With a maximum of one, the next message is asked for by Next and no
	// sooner.
	iter, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullWait), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	defer iter.Stop()
	// A message can be on its way when ctx ends. Draining lets it arrive, so
	// that it is handed back and need not wait for its AckWait.
	defer context.AfterFunc(ctx, func() {
		if s.nc.IsConnected() {
			iter.Drain()
		} else {
			iter.Stop()
		}
	})()
	for {
		msg, err := iter.Next()
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			_ = handBack(msg)
			continue
		}
		s.handle(ctx, msg, stream, name, beside, h)
	}
}

// handle handles one message.
func (s *Log) handle(ctx context.Context, msg jetstream.Msg, stream, name string, beside *sync.WaitGroup, h Handler) {
	meta, err := msg.Metadata()
	if err != nil {
		_ = msg.Term()
		return
	}
	d := Delivery{
		Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(),
		Sequence: meta.Sequence.Stream, Delivered: meta.NumDelivered, Time: meta.Timestamp,
		Fresh: meta.NumDelivered == 1 && meta.Sequence.Stream > s.before[stream],

		requestID: new(string),
	}

	stop := keepAlive(msg, s.cfg.AckWait*3/10) // three chances
	err = h(ctx, d)
	var he *handlingError
	if errors.As(err, &he) && he.work != nil {
		beside.Go(func() {
			err := he.work()
			stop()
			settle(ctx, msg, d, name, err)
		})
		return
	}
	stop()
	settle(ctx, msg, d, name, err)
}

// keepAlive gives signs of life for a message until stop is called.
func keepAlive(msg jetstream.Msg, every time.Duration) (stop func()) {
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
				_ = msg.InProgress()
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// settle acknowledges, or says what shall become of the message. An answer
// that is lost only means one more delivery.
func settle(ctx context.Context, msg jetstream.Msg, d Delivery, consumer string, err error) {
	log := slog.With("consumer", consumer, "subject", d.Subject, "sequence", d.Sequence, "delivered", d.Delivered)
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
		err = msg.Ack()
	case streams.IsPermanent(err):
		log.Error("message given up", "error", err)
		err = msg.TermWithReason(err.Error())
	case errors.Is(err, ErrTakenOver):
		err = nil
	case ctx.Err() != nil:
		err = handBack(msg)
	case errors.As(err, &he) && he.after > 0:
		log.Debug("message will be handled again", "after", he.after, "error", err)
		err = msg.NakWithDelay(he.after)
	default:
		after := streams.Backoff(d.Delivered)
		log.Warn("message will be handled again", "after", after, "error", err)
		err = msg.NakWithDelay(after)
	}
	if err != nil {
		log.Warn("acknowledgement not sent", "error", err)
	}
}

// handBack has a message delivered again at once. A plain negative
// acknowledgement would do, but for a server that stops next: that is not on
// its disk, and the message would come when its AckWait is over, 10 s later
// (measured). A delay is.
func handBack(msg jetstream.Msg) error { return msg.NakWithDelay(time.Millisecond) }
