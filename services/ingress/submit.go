package ingress

import (
	"context"
	"errors"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

// accepted answers a submission.
type accepted struct {
	HashKey  string   `json:"hash_key"`
	Warnings []string `json:"warnings,omitempty"`
	ShareURL string   `json:"share_url,omitempty"` // with "share": true

	begun     bool                         // an export has begun; otherwise an equal request was first
	duplicate *journal.SubmissionDuplicate // of a durable submission whose export another request began
}

func (s *Service) submitHTTP(ctx context.Context, c call) (any, error) {
	return s.submit(ctx, events.SourceHTTP, c)
}

func (s *Service) submitRaw(ctx context.Context, c call) (any, error) {
	return s.submit(ctx, events.SourceRaw, c)
}

// errDuplicate ends an Append: an equal request is under way or has a file.
var errDuplicate = errors.New("duplicate request")

// submit begins an export, or finds the one of an equal request. Everything that the export needs is durable
// before its event.
func (s *Service) submit(ctx context.Context, sourceType string, c call) (any, error) {
	sub, err := request.Parse(s.journal.Keys(), c.tenant, sourceType, s.cfg.Formats, c.body)
	if err != nil {
		return nil, err
	}
	if err := s.checkKeepPages(sub.Request.Options); err != nil {
		return nil, err
	}
	if c.at.IsZero() {
		c.at = time.Now()
	}
	logBytes := int64(eventBytes)
	if sourceType != events.SourceRaw { // the event of a raw request is small
		logBytes += int64(len(c.body))
	}
	return s.accept(ctx, c, sub, logBytes, func() error { return request.Fresh(sub.Request.Timestamp, c.at, s.cfg.MaxSkew) })
}

// checkKeepPages refuses pages to be kept for longer than this server keeps them.
func (s *Service) checkKeepPages(o *events.Options) error {
	if most := int(s.cfg.MaxKeepPages / time.Hour); o != nil && o.KeepPages > most {
		return request.Invalid("options.keep_pages", "is %d hours; this server keeps pages for at most %d", o.KeepPages, most)
	}
	return nil
}

// accept begins the export of a checked request, or finds the one of an equal request. logBytes is about the
// size of its event. fresh refuses a request that is too old to begin anything.
func (s *Service) accept(ctx context.Context, c call, sub *request.Checked, logBytes int64, fresh func() error) (_ any, err error) {
	answer := accepted{HashKey: sub.Key, Warnings: sub.Request.Warnings}
	if sub.Share {
		answer.ShareURL = s.shareOf(sub.Key, time.Now().Add(s.cfg.KeepFiles), "").URL
	}
	if done, err := s.repeats(ctx, c, sub.Key); done || err != nil {
		return answer, err
	}
	if err := fresh(); err != nil {
		return nil, err
	}
	export := &candidate{admission: &s.admission, tenant: c.tenant, disk: int64(len(c.body)), log: logBytes,
		durable: c.submission != nil}
	written := false
	defer func() {
		if !written {
			export.release()
		}
	}()
	decide := s.expireFirst(ctx, storage.SizeOnly, s.decideSubmission(c, sub, export, &answer))

	known := events.Export{Tenant: c.tenant, Key: sub.Key}
	// Plain subscribers also hear an event that the log then refuses, so a repetition reads the state before
	// it publishes.
	_, unknown := s.tasks.Get(sub.Key)
	if unknown != nil {
		if err := export.early(); err != nil {
			return nil, err
		}
	}
	if unknown == nil || c.idempotency != "" || len(sub.Secrets) > 0 || len(sub.Pages) > 0 {
		if known, err = s.journal.Read(ctx, c.tenant, sub.Key); err != nil {
			return nil, err
		}
		_, verdict := decide(&known)
		there := errors.Is(verdict, errDuplicate)
		if verdict != nil && !there {
			return nil, verdict
		}
		done, bound, failed := s.bind(ctx, c, &known, there)
		if failed != nil || done || there {
			return answer, failed
		}
		defer func() {
			if bound && err != nil {
				s.release(ctx, c, sub, err)
			}
		}()
		if err = s.prepare(ctx, c, sub); err != nil {
			return nil, err
		}
	}
	again, err := s.begin(ctx, known, c.correlation, decide)
	if errors.Is(err, errDuplicate) {
		return answer, nil
	}
	if err != nil {
		return nil, err
	}
	written, answer.begun = true, true
	if again {
		// Until now the earlier ending allowed the keeper to purge what prepare wrote. The keeper stops with
		// this event, but may just have done so.
		if err := s.prepare(ctx, c, sub); err != nil {
			s.log(c.requestID).Warn("could not write the source of an export again", "tenant", c.tenant, "hash_key", sub.Key, "error", err)
		}
	}
	return answer, nil
}

// decideSubmission returns the event that begins the submission's export, or errDuplicate if an equal request
// began it.
func (s *Service) decideSubmission(c call, sub *request.Checked, export *candidate, answer *accepted) journal.Decide {
	return func(x *events.Export) (events.Payload, error) {
		ended := x.State == events.StateFailed || x.State == events.StateCancelled || x.State == events.StateExpired
		if x.State != events.StateNone && !ended || ended && c.submission != nil && handled(x.Submission, *c.submission) {
			if c.submission != nil && !began(x.Submission, *c.submission) {
				answer.duplicate = &journal.SubmissionDuplicate{Submission: *c.submission, Key: x.Key, Status: x.State.Status()}
			}
			return nil, errDuplicate
		}
		if err := export.admit(); err != nil {
			return nil, err
		}
		if !ended {
			return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: sub.Request, Submission: c.submission, RequestID: c.roundID()}, nil
		}
		again := requestAgain(x, c)
		again.Request = sub.Request
		if c.submission != nil {
			again.Submission = c.submission
		}
		return again, nil
	}
}

// begin appends the event of decide, which begins an export. decide may ask for an expired event before it.
// again reports that the export had ended before.
func (s *Service) begin(ctx context.Context, known events.Export, correlation string, decide journal.Decide) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beginWait)
	defer cancel()
	for {
		var next events.Type
		start := time.Now()
		known, err = s.journal.Append(ctx, known, correlation, func(x *events.Export) (events.Payload, error) {
			p, err := decide(x)
			if err == nil {
				next, again = p.EventType(), x.State != events.StateNone
			}
			return p, err
		})
		if err == nil && next == events.TypeRequested {
			s.metrics.append.Observe(time.Since(start).Seconds())
		}
		if err != nil || next != events.TypeExpired {
			return again, err
		}
		if known.ExpiredReason != "" {
			storage.LogLost(s.cfg.Log, &known)
		}
	}
}

// expireFirst expires a completed export before decide sees it, if the file has expired or is lost. The
// export can then begin again at once. It reads a file of at most readUpTo bytes completely and checks only
// the size of a larger one. The search for orphans deletes leftovers of the file.
func (s *Service) expireFirst(ctx context.Context, readUpTo int64, decide journal.Decide) journal.Decide {
	return func(x *events.Export) (events.Payload, error) {
		if x.State != events.StateCompleted {
			return decide(x)
		}
		if !time.Now().Before(x.ExpiresAt) {
			return events.Expired(x, ""), nil
		}
		if len(x.Files) == 0 || s.store.health() != nil {
			return decide(x) // a missing store may not answer at all
		}
		file, err := storage.OpenFinished(ctx, s.files, x, readUpTo)
		if err == nil {
			err = file.Close()
		}
		if storage.IsLost(err) {
			return events.Expired(x, storage.LostReason(err)), nil
		}
		return decide(x) // also when the file is unreadable for now
	}
}

// prepare stores the data that an export needs besides its event: the sealed source headers, or the pages of
// a raw request. Repeating it is safe.
func (s *Service) prepare(ctx context.Context, c call, sub *request.Checked) error {
	tenant := c.tenant
	if len(sub.Secrets) > 0 {
		if err := s.journal.SaveHeaders(ctx, tenant, sub.Key, sub.Secrets); err != nil {
			return err
		}
	}
	number := 0
	for i, p := range sub.Pages {
		if number++; i > 0 && p.Sheet != sub.Pages[i-1].Sheet {
			number = 1
		}
		raw := sub.Request.Raw
		if raw == nil {
			raw = sub.Request.Sheets[p.Sheet].Raw
		}
		_, err := s.pages.Publish(ctx, pages.Page{
			ID:       pages.ID{Tenant: tenant, Key: sub.Key, Run: events.RawRun, Sheet: p.Sheet, Number: number},
			Rows:     p.Array(),
			RowCount: p.Count, HeaderRow: number == 1,
			Total: raw.Rows, TotalPages: raw.Pages, Attempts: 1,
		})
		if errors.Is(err, events.ErrNoSpace) {
			s.dropPages(context.WithoutCancel(ctx), c, sub.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dropPages removes the first pages of a request that did not fit into the page stream. No event names them,
// so nothing else would remove them.
func (s *Service) dropPages(ctx context.Context, c call, key string) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	x, err := s.journal.Read(ctx, c.tenant, key)
	if err == nil && x.State == events.StateNone {
		err = s.pages.Purge(ctx, c.tenant, key)
	}
	if err != nil {
		s.log(c.requestID).Warn("pages of a refused request are left over", "tenant", c.tenant, "hash_key", key, "error", err)
	}
}

// handled reports whether an export's newest submission is sub or a later one. Every later event of the key
// carries the newest, so a redelivered submission is recognised even after the export ended.
func handled(by *events.Submission, sub events.Submission) bool {
	return by != nil && by.StreamCreated.Equal(sub.StreamCreated) && by.Sequence >= sub.Sequence
}

// began reports whether sub itself began an export, so that its events have the id of sub.
func began(by *events.Submission, sub events.Submission) bool {
	return handled(by, sub) && by.Sequence == sub.Sequence
}

// requestAgain returns the event that begins an ended export again.
func requestAgain(x *events.Export, c call) *events.ExportRequested {
	r := &events.ExportRequested{ExportID: x.ID, CreatedAt: x.CreatedAt, Request: x.Request, Submission: x.Submission, RequestID: c.roundID()}
	if x.Request.SourceType == events.SourceHTTP && x.Request.From == nil {
		r.ContinuesRun, _ = x.Resumable()
	}
	return r
}
