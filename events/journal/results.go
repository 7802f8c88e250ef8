package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"
	"sheaf/events/tracing"

	"github.com/nats-io/nats.go"
)

// maxResultsBytes is the limit of SHEAF_CALLBACKS.
const maxResultsBytes = 256 << 20

// PublishCallback publishes the result of an export on a subject of SHEAF_CALLBACKS, for a producer without
// HTTP. The ce-id is the export's WebhookID, constant over retries. The ce-correlationid identifies the
// submission to a producer, which may not know the key.
//
// A result is stored for Config.KeepCallbacks, or until there are 50,000 newer ones on its subject or 256 MiB
// of newer ones on all subjects. GET /v1/export/detail returns it for longer.
func (s *Log) PublishCallback(ctx context.Context, subject string, x *events.Export, ceType string,
	body []byte) error {
	return s.publishResult(ctx, subject, x.Tenant, x.Key, x.WebhookID(), x.CorrelationID, ceType,
		x.FinishedAt, body)
}

// duplicateName is the last token of PublishDuplicate's subject, and duplicateTypeName the ce-type there.
const (
	duplicateName     = "duplicate"
	duplicateTypeName = "sheaf.submission.duplicate.v1"
)

// SubmissionDuplicate reports a durable submission that started nothing, because an equal request had already
// started its export. No event of the export has the submission's own id.
type SubmissionDuplicate struct {
	Submission events.Submission `json:"submission"`
	Key        string            `json:"hash_key"` // of the export
	// of the export when the submission was handled, see State.Status
	Status int `json:"status"`
}

// PublishDuplicate reports to a producer which export its submission duplicates, on the subject
// sheaf.callback.<tenant>.duplicate of SHEAF_CALLBACKS. The ce-id is constant over retries.
func (s *Log) PublishDuplicate(ctx context.Context, tenant, correlation string,
	d *SubmissionDuplicate) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("reporting a duplicate submission: %w", err)
	}
	id := s.keys.SubmissionKey(tenant, d.Submission)
	return s.publishResult(ctx, events.SubjectCallback+tenant+"."+duplicateName, tenant, d.Key, id,
		correlation, duplicateTypeName, time.Now(), body)
}

func (s *Log) publishResult(ctx context.Context, subject, tenant, key, id, correlation, ceType string,
	at time.Time, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	h := events.Header(id, tenant, key, ceType, at)
	if correlation != "" {
		h[events.HeaderCorrelationID] = []string{correlation}
	}
	if parent := tracing.Parent(ctx); parent != "" {
		h[events.HeaderTraceParent] = []string{parent}
	}
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: body, Header: h}); err != nil {
		return streams.PublishError(err)
	}
	failpoint.Hit("publish-callback.after")
	return nil
}
