package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events/failpoint"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxResultsBytes is the space of SHEAF_CALLBACKS.
	maxResultsBytes = 256 << 20
	// crowdedResults is how much of it may be taken before the tenants with the
	// most results lose their oldest, down to roomyResults. The server alone would
	// remove the oldest of all, whosever they are.
	crowdedResults = maxResultsBytes / 4 * 3
	roomyResults   = maxResultsBytes / 8 * 5
	// resultsEvery is after how many bytes of new results a process looks at the
	// space: so far can those that it published be beyond crowdedResults. Eight
	// notifiers can be so at once before the server makes room.
	resultsEvery = 8 << 20
	// resultsWait is how long making room may take. Meanwhile one callback waits.
	resultsWait = 30 * time.Second
	// resultHeaders is what a result takes beside its body, about.
	resultHeaders = 1 << 10
	// headerMsgSize is where a consumer of headers alone is told the size of the rest.
	headerMsgSize = "Nats-Msg-Size"
)

// results is what a process knows of the space of SHEAF_CALLBACKS.
type results struct {
	mu        sync.Mutex
	published int64         // bytes since the last look
	looked    chan struct{} // closed at the end of the look that is under way; nil while none is
}

// PublishCallback writes how an export ended to a subject of SHEAF_CALLBACKS,
// for a producer without HTTP. The ce-id is the export's WebhookID, constant
// over repeats; ce-correlationid tells a producer, who may not know the key,
// which of its submissions it was.
//
// A result is kept for Config.KeepCallbacks, unless the stream is full before: then
// the tenants that have most of it lose their oldest results.
func (s *Streams) PublishCallback(ctx context.Context, subject string, x *Export, ceType string, body []byte) error {
	return s.publishResult(ctx, subject, x.Tenant, x.Key, x.WebhookID(), x.CorrelationID, ceType, x.FinishedAt, body)
}

// rejectedName is the last token of the subject that PublishRejected publishes on.
const rejectedName = "rejected"

// PublishRejected tells a producer that its submission was rejected, on a subject of
// SHEAF_CALLBACKS, sheaf.callback.<tenant>.rejected, where the log has no room for it.
// The body is that of the event.
func (s *Streams) PublishRejected(ctx context.Context, tenant, key, correlation string, r *SubmissionRejected) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("telling of a rejected submission: %w", err)
	}
	id := key + "-" + strconv.FormatUint(r.Submission.Sequence, 10)
	return s.publishResult(ctx, subjectCallback+tenant+"."+rejectedName, tenant, key, id, correlation, typeNames[TypeRejected], time.Now(), body)
}

// duplicateName is the last token of the subject that PublishDuplicate publishes on, and
// duplicateTypeName the ce-type there.
const (
	duplicateName     = "duplicate"
	duplicateTypeName = "sheaf.submission.duplicate.v1"
)

// SubmissionDuplicate answers a durable submission that began nothing, because an equal
// request had begun its export. No event of the export has the submission's own id.
type SubmissionDuplicate struct {
	Submission Submission `json:"submission"`
	Key        string     `json:"hash_key"` // of the export
	Status     int        `json:"status"`   // of the export when the submission was handled, see State.Status
}

// PublishDuplicate reports to a producer which export its submission duplicates, on the subject
// sheaf.callback.<tenant>.duplicate of SHEAF_CALLBACKS. The ce-id is constant over repeats.
func (s *Streams) PublishDuplicate(ctx context.Context, tenant, correlation string, d *SubmissionDuplicate) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("reporting a duplicate submission: %w", err)
	}
	id := s.keys.SubmissionKey(tenant, d.Submission)
	return s.publishResult(ctx, subjectCallback+tenant+"."+duplicateName, tenant, d.Key, id, correlation, duplicateTypeName, time.Now(), body)
}

func (s *Streams) publishResult(ctx context.Context, subject, tenant, key, id, correlation, ceType string, at time.Time, body []byte) error {
	s.makeRoomForResults(ctx, int64(len(body)))
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	h := nats.Header{
		headerSpecVersion: {"1.0"},
		headerID:          {id},
		headerSource:      {"/sheaf/" + tenant},
		headerType:        {ceType},
		headerSubject:     {key},
		headerTime:        {at.UTC().Format(time.RFC3339Nano)},
		headerContentType: {"application/json"},
	}
	if correlation != "" {
		h[headerCorrelationID] = []string{correlation}
	}
	failpoint.Hit("publish-callback.before")
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: body, Header: h}); err != nil {
		return publishError(err)
	}
	failpoint.Hit("publish-callback.after")
	return nil
}

// add counts bytes that are about to be published, and reports whether it is time for a
// look. If another is under way nothing is counted, and busy is closed at its end; else
// the look is the caller's until done.
func (r *results) add(bytes int64) (due bool, busy <-chan struct{}, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.published+bytes < resultsEvery {
		r.published += bytes
		return false, nil, nil
	}
	if r.looked != nil {
		return true, r.looked, nil
	}
	looked := make(chan struct{})
	r.published, r.looked = 0, looked
	return true, nil, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.looked = nil
		close(looked)
	}
}

// makeRoomForResults removes results when the stream is crowded, now and then. While
// one looks, no more than resultsEvery is published. A failure is no reason not to
// publish: the server makes room too, less fairly.
func (s *Streams) makeRoomForResults(ctx context.Context, bytes int64) {
	for {
		due, busy, done := s.results.add(bytes + resultHeaders)
		if !due {
			return
		}
		if busy == nil {
			defer done()
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resultsWait)
	defer cancel()
	if err := s.shareResults(ctx); err != nil {
		slog.Warn("making room for results on subjects", "stream", StreamCallbacks, "error", err)
	}
}

// shareResults brings a crowded SHEAF_CALLBACKS down to roomyResults, by max-min
// fairness: whoever has more than a certain size loses the oldest of it, and that
// size is as large as can be.
func (s *Streams) shareResults(ctx context.Context) error {
	st, err := s.js.Stream(ctx, StreamCallbacks)
	if err != nil {
		return err
	}
	if st.CachedInfo().State.Bytes < crowdedResults {
		return nil
	}
	held, err := s.heldResults(ctx, st.CachedInfo().State)
	if err != nil {
		return err
	}
	sizes := make(map[string]int64, len(held))
	for tenant, list := range held {
		for _, m := range list {
			sizes[tenant] += m.size
		}
	}
	most := fairCap(sizes, roomyResults)
	for tenant, list := range held {
		below, removed := uint64(0), 0
		for over := sizes[tenant] - most; over > 0 && removed < len(list); removed++ {
			over -= list[removed].size
			below = list[removed].sequence + 1
		}
		if removed == 0 {
			continue
		}
		if err := st.Purge(ctx, jetstream.WithPurgeSubject(subjectCallback+tenant+".>"), jetstream.WithPurgeSequence(below)); err != nil {
			return fmt.Errorf("purging results of tenant %s: %w", tenant, err)
		}
		slog.Warn("the oldest results of a tenant are removed before their time: nobody took them, and the space is needed",
			"stream", StreamCallbacks, "tenant", tenant, "results", removed, "bytes_before", sizes[tenant], "bytes_at_most", most)
	}
	return nil
}

// fairCap is the size that each may have, so that all together have no more than
// total: who has less keeps it, and what they leave is for the others.
func fairCap(sizes map[string]int64, total int64) int64 {
	ascending := make([]int64, 0, len(sizes))
	for _, size := range sizes {
		ascending = append(ascending, size)
	}
	slices.Sort(ascending)
	for i, size := range ascending {
		if share := total / int64(len(ascending)-i); size > share {
			return share
		}
		total -= size
	}
	return 1 << 62
}

type heldResult struct {
	sequence uint64
	size     int64
}

// heldResults are the results of each tenant, oldest first, by their headers alone.
func (s *Streams) heldResults(ctx context.Context, state jetstream.StreamState) (map[string][]heldResult, error) {
	held := map[string][]heldResult{}
	if state.Msgs == 0 {
		return held, nil
	}
	cons, err := s.js.OrderedConsumer(ctx, StreamCallbacks, jetstream.OrderedConsumerConfig{HeadersOnly: true, InactiveThreshold: resultsWait})
	if err != nil {
		return nil, err
	}
	iter, err := cons.Messages(jetstream.PullMaxMessages(8 * followBatch))
	if err != nil {
		return nil, err
	}
	defer iter.Stop()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		tenant, _, _ := strings.Cut(strings.TrimPrefix(m.Subject(), subjectCallback), ".")
		body, _ := strconv.ParseInt(m.Headers().Get(headerMsgSize), 10, 64)
		held[tenant] = append(held[tenant], heldResult{meta.Sequence.Stream, storedSize(m.Subject(), m.Headers(), nil) + body})
		if meta.Sequence.Stream >= state.LastSeq || meta.NumPending == 0 {
			return held, nil
		}
	}
}
