package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoOwner is returned if no crawl listens for reports about a span: it has ended, or its process has.
var ErrNoOwner = errors.New("no crawl owns the span")

// SpanAge is how long a span waits for a crawler before the stream drops it.
const SpanAge = time.Minute

// memoryStreams returns the streams of processes that share the log. What they hold may be lost. The work queue
// holds spans of pages: an export whose spans are lost is fetched by its owner.
func memoryStreams(cfg Config) []jetstream.StreamConfig {
	if !cfg.Shared {
		return nil
	}
	return []jetstream.StreamConfig{leasesConfig(cfg), {
		Name: events.StreamWork, Description: "spans of pages, for any crawler to fetch",
		Subjects: []string{events.SubjectWork + "*.*.*.*"}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.MemoryStorage, Replicas: cfg.Replicas, Duplicates: minDedupeWindow,
		MaxAge: SpanAge, MaxBytes: 16 << 20, Discard: jetstream.DiscardOld,
	}}
}

// OfferSpan puts a span of pages on the work queue. It does not wait for the server: a span may be lost.
func (s *Log) OfferSpan(tenant, key string, run uint64, from int, span []byte) error {
	subject := fmt.Sprintf("%s%s.%s.%d.%d", events.SubjectWork, tenant, key, run, from)
	if err := s.nc.Publish(subject, span); err != nil {
		return fmt.Errorf("%w: offering a span: %w", events.ErrUnavailable, err)
	}
	return nil
}

// HearSpans calls hear for each report about the spans of a run, one after another, until stop is called. The
// subject has a name of its own for this call, so that no report about earlier spans of the run arrives. hear
// gets a function that answers a question.
func (s *Log) HearSpans(tenant, key string, run uint64,
	hear func(report []byte, answer func([]byte))) (subject string, stop func(), err error) {
	if err := events.CheckName(tenant, key); err != nil {
		return "", nil, err
	}
	subject = events.SubjectSpan + tenant + "." + key + "." + strconv.FormatUint(run, 10) + "." + events.NewID()
	sub, err := s.nc.Subscribe(subject, func(m *nats.Msg) {
		hear(m.Data, func(answer []byte) { _ = m.Respond(answer) })
	})
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return subject, func() { _ = sub.Unsubscribe() }, nil
}

// ReportSpan sends a report to the owner of a span. A report may be lost. One that is larger than the server
// allows is refused.
func (s *Log) ReportSpan(subject string, report []byte) error {
	if err := s.nc.Publish(subject, report); err != nil {
		return fmt.Errorf("%w: reporting a span: %w", events.ErrUnavailable, err)
	}
	return nil
}

// AskOwner asks the owner of a span and returns the answer. The error is ErrNoOwner if there is none any more.
func (s *Log) AskOwner(ctx context.Context, subject string, question []byte) ([]byte, error) {
	m, err := s.nc.RequestWithContext(ctx, subject, question)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, ErrNoOwner
	}
	if err != nil {
		return nil, fmt.Errorf("%w: asking the owner of a span: %w", events.ErrUnavailable, err)
	}
	return m.Data, nil
}
