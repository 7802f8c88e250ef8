package events

import (
	"context"
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
	s.makeRoomForResults(ctx, int64(len(body)))
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	h := nats.Header{
		headerSpecVersion: {"1.0"},
		headerID:          {x.WebhookID()},
		headerSource:      {"/sheaf/" + x.Tenant},
		headerType:        {ceType},
		headerSubject:     {x.Key},
		headerTime:        {x.FinishedAt.UTC().Format(time.RFC3339Nano)},
		headerContentType: {"application/json"},
	}
	if x.CorrelationID != "" {
		h[headerCorrelationID] = []string{x.CorrelationID}
	}
	failpoint.Hit("publish-callback.before")
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: body, Header: h}); err != nil {
		return publishError(err)
	}
	failpoint.Hit("publish-callback.after")
	return nil
}

// makeRoomForResults removes results when the stream is crowded, now and then. While
// one looks, no more than resultsEvery is published. A failure is no reason not to
// publish: the server makes room too, less fairly.
func (s *Streams) makeRoomForResults(ctx context.Context, bytes int64) {
	r := &s.results
	for {
		r.mu.Lock()
		busy, due := r.looked, r.published+bytes >= resultsEvery
		if !due || busy == nil {
			break
		}
		r.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return
		}
	}
	if r.published += bytes + 1<<10; r.published < resultsEvery {
		r.mu.Unlock()
		return
	}
	done := make(chan struct{})
	r.published, r.looked = 0, done
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.looked = nil
		close(done)
	}()
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
