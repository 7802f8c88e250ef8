package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/tracing"
	"sheaf/services/ingress/request"
)

// submissionSlots is the number of durable submissions handled concurrently.
const submissionSlots = 16

// tenantSubmissions is the number of those for one tenant. Its others wait, see [journal.Shares].
// submissionOffers limits how many of the returned ones are delivered again per second.
const (
	tenantSubmissions = 4
	submissionOffers  = 300
)

// maxCorrelation is the maximum length in bytes of a producer's id of a submission, which every event
// repeats.
const maxCorrelation = 256

// takeSubmissions handles the durable submissions until ctx ends.
func (s *Service) takeSubmissions(ctx context.Context) error {
	return s.untilDone(ctx, "taking submissions", func(ctx context.Context) error {
		created, err := s.journal.SubmitStreamCreated(ctx)
		if err != nil {
			return err
		}
		// Without space for new exports they stay in the stream.
		return s.admission.whileOpen(ctx, func(ctx context.Context) error {
			return s.journal.Consume(ctx, events.StreamSubmit, events.ConsumerSubmissions, submissionSlots,
				func(ctx context.Context, d journal.Delivery) error { return s.takeSubmission(ctx, created, d) })
		})
	})
}

// takeSubmission begins the export of a submission. An invalid one becomes a rejected event and is
// acknowledged.
func (s *Service) takeSubmission(ctx context.Context, created time.Time, d journal.Delivery) error {
	tenant, sourceType, err := events.ParseSubmitSubject(d.Subject)
	if err != nil {
		return journal.Permanent(err) // no tenant to report to
	}
	// Rejected events must not use the space kept for events that end exports.
	if err := s.admission.closed(); err != nil {
		return journal.RetryAfter(fmt.Errorf("submission %d: %w", d.Sequence, err), retryEvery)
	}
	err = s.submissions.Run(ctx, tenant, len(d.Data), func() error { return s.takeInTurn(ctx, created, d, tenant, sourceType) })
	if errors.Is(err, journal.ErrShareTaken) {
		s.backlog.countHandBack(d.Sequence)
	}
	return err
}

// takeInTurn takes a submission when its tenant has its turn.
func (s *Service) takeInTurn(ctx context.Context, created time.Time, d journal.Delivery, tenant, sourceType string) error {
	again := d.Delivered > 1+s.backlog.handBacks(d.Sequence) // it waited for its quota before
	begin := time.Now()
	correlation := correlationOf(d.Header)
	c := call{
		tenant: tenant, requestID: cmp.Or(correlation, fmt.Sprintf("submission-%d", d.Sequence)), body: d.Data,
		correlation: correlation,
		submission:  &events.Submission{StreamCreated: created, Sequence: d.Sequence},
		at:          d.Time,
	}
	traced, span := s.tracer().Process(ctx, tracing.ParentOf(d.Header), tracing.Message{
		Stream: events.StreamSubmit, Template: events.SubmitSubject("{tenant}", "{source}"), ID: correlation, Consumer: events.ConsumerSubmissions,
	}, tracing.Tenant.String(tenant), tracing.Delivery.Int64(int64(d.Delivered)))
	defer span.End("")
	data, err := s.carryOut(traced, sourceType, c)
	if err == nil {
		err = s.reportDuplicate(ctx, c, data)
	}
	l := line{log: s.cfg.Log, id: c.requestID, tenant: tenant, key: c.key(data), trace: events.TraceID(tracing.Parent(traced))}
	if err == nil {
		what := "submission accepted"
		if a, ok := data.(accepted); ok && a.duplicate != nil {
			what = "submission is a duplicate"
		}
		l.logger().Info(what, "subject", d.Subject, "sequence", d.Sequence, "status", http.StatusOK, "elapsed", time.Since(begin))
		s.backlog.remove(tenant, d.Sequence)
		return nil
	}
	failure := asAPIError(err)
	if failure.Status == http.StatusTooManyRequests && s.backlog.add(tenant, d.Sequence, len(d.Data), again) {
		// It stays in the stream until the tenant's quota allows it. Redeliveries are spread, so that other
		// tenants' submissions run in between. A submission that has waited is not rejected later because
		// newer ones fill the limit.
		return journal.RetryAfter(fmt.Errorf("submission %d: %w", d.Sequence, err), failure.RetryAfter/2+rand.N(failure.RetryAfter))
	}
	if failure.Status == http.StatusServiceUnavailable {
		err = fmt.Errorf("submission %d: %w", d.Sequence, err)
		if failure.cause == nil {
			return journal.RetryAfter(err, retryEvery) // no space for it; logged once
		}
		return err
	}
	s.backlog.remove(tenant, d.Sequence)
	l.errcode = failure.Errcode
	logFailure(ctx, l.logger(), failure)
	return s.reject(ctx, c, begin, failure)
}

// reportDuplicate sends the producer the export that its submission duplicates. A submission without an id
// gets no message, because its producer could not match it.
func (s *Service) reportDuplicate(ctx context.Context, c call, data any) error {
	a, ok := data.(accepted)
	if !ok || a.duplicate == nil || c.correlation == "" {
		return nil
	}
	return s.journal.PublishDuplicate(ctx, c.tenant, c.correlation, a.duplicate)
}

func (s *Service) carryOut(ctx context.Context, sourceType string, c call) (any, error) {
	if !submits(sourceType) {
		return nil, request.Invalid("subject", "ends in %q; want %s or %s", request.Cut(sourceType, 32), events.SourceHTTP, events.SourceRaw)
	}
	if limit := s.bodyLimit(sourceType); int64(len(c.body)) > limit {
		return nil, request.TooLarge("body", "is larger than %d bytes", limit)
	}
	release, ok := s.bodies.try(c.tenant, int64(len(c.body)))
	if !ok { // other submissions do not wait for it
		return nil, unavailable("too many large requests are under way; try again", s.cfg.BodyWait, nil)
	}
	defer release()
	c.operation = sourceType
	return s.do(ctx, operations[sourceType], c)
}

// reject records that a submission was not accepted, under a key of its own.
func (s *Service) reject(ctx context.Context, c call, begin time.Time, failure *apiError) error {
	key := s.journal.Keys().SubmissionKey(c.tenant, *c.submission)
	_, err := s.journal.Append(ctx, events.Export{Tenant: c.tenant, Key: key}, c.correlation, func(*events.Export) (events.Payload, error) {
		return &events.SubmissionRejected{Submission: *c.submission, Errcode: failure.Errcode, Field: failure.Field, Reason: failure.Msg}, nil
	})
	if errors.Is(err, events.ErrNotAllowed) {
		return nil // already reported
	}
	if err != nil {
		return fmt.Errorf("rejecting submission %d: %w", c.submission.Sequence, err)
	}
	l := line{log: s.cfg.Log, id: c.requestID, tenant: c.tenant, key: key, errcode: failure.Errcode}
	l.logger().Info("submission rejected", "sequence", c.submission.Sequence, "status", failure.Status, "field", failure.Field,
		"elapsed", time.Since(begin))
	return nil
}

// correlationOf returns the producer's id of its submission: the ce-id, or the Nats-Msg-Id. It is "" for an
// id that a header cannot hold.
func correlationOf(h nats.Header) string {
	id := headerOf(h, "ce-id")
	if id == "" {
		id = headerOf(h, nats.MsgIdHdr)
	}
	if len(id) > maxCorrelation || !utf8.ValidString(id) || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return ""
	}
	return id
}
