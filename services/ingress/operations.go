package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

const (
	// beginWait is how long a caller waits for the event that begins its
	// export. A stream whose disk fails does not say so: it is silent.
	beginWait = 5 * time.Second
	// readWait is how long an answer waits for the projection to have seen
	// what was acknowledged before the question.
	readWait = 2 * time.Second
	// eventBytes is about what the event that begins an export takes of the log
	// besides the request.
	eventBytes = 1 << 10
	// historyDays is how far back the history of a user goes, counted from
	// midnight.
	historyDays = 7
	// maxHistoryPage is the number of exports in one answer.
	maxHistoryPage = 1000
)

// call is one request of a caller, whichever way it came.
type call struct {
	tenant      string
	requestID   string
	body        []byte             // of http and raw, as received
	params      url.Values         // of the other operations
	correlation string             // id that the caller gave the submission, "" for none
	submission  *events.Submission // of a durable submission
	idempotency string             // Idempotency-Key of a request by REST, "" for none
	at          time.Time          // when a durable submission was stored; zero: now
}

// key is that of the export which the call made, as data says, or named. It is ""
// for what is no key.
func (c *call) key(data any) string {
	if a, ok := data.(accepted); ok {
		return a.HashKey
	}
	if key := c.params.Get("key"); events.ValidKey(key) {
		return key
	}
	return ""
}

// roundID is the request id of a round that the call begins, "" where the id that the caller
// gave its submission says it already.
func (c *call) roundID() string {
	if c.requestID == c.correlation {
		return ""
	}
	return c.requestID
}

// operation does what a caller asks for. Its errors are told through
// asAPIError.
type operation func(ctx context.Context, c call) (data any, err error)

// operations by the name that the last token of their subject has.
func (s *Service) operations() map[string]operation {
	return map[string]operation{
		"http":    s.submitHTTP,
		"raw":     s.submitRaw,
		"detail":  s.detail,
		"history": s.history,
		"cancel":  s.cancel,
		"retry":   s.retry,
	}
}

// takesBody reports whether an operation reads the body itself.
func takesBody(name string) bool { return name == "http" || name == "raw" }

// do runs an operation within its time and turns a panic into an error. Without
// a connection it does not wait for one: the caller learns at once that it must
// come again. So it does when the connection is lost meanwhile or the streams
// can no longer be written; what was asked for may then be stored, and a
// repetition finds it.
func (s *Service) do(ctx context.Context, op operation, c call) (data any, err error) {
	if !s.journal.Conn().IsConnected() {
		return nil, events.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OperationWait+time.Duration(len(c.body)>>20)*time.Second)
	defer cancel()
	ctx, leave := s.outlook.whileAlive(ctx)
	defer leave()
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, panicked(s.log(c.requestID), p)
		}
	}()
	return op(ctx, c)
}

// panicked logs a panic with its stack and returns what the caller is told.
func panicked(log *slog.Logger, p any) error {
	log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return internal(fmt.Errorf("panic: %v", p))
}

// accepted answers a submission.
type accepted struct {
	HashKey  string   `json:"hash_key"`
	Warnings []string `json:"warnings,omitempty"`

	duplicate *journal.SubmissionDuplicate // of a durable submission that another request had begun the export of
}

func (s *Service) submitHTTP(ctx context.Context, c call) (any, error) {
	return s.submit(ctx, events.SourceHTTP, c)
}

func (s *Service) submitRaw(ctx context.Context, c call) (any, error) {
	return s.submit(ctx, events.SourceRaw, c)
}

// errDuplicate ends an Append: an equal request is under way or has a file.
var errDuplicate = errors.New("duplicate request")

// submit begins an export, or finds the one that an equal request began. What
// the export needs is durable before the event that announces it.
func (s *Service) submit(ctx context.Context, sourceType string, c call) (_ any, err error) {
	sub, err := request.Parse(s.journal.Keys(), c.tenant, sourceType, c.body)
	if err != nil {
		return nil, err
	}
	if c.at.IsZero() {
		c.at = time.Now()
	}
	disk := int64(len(c.body))
	log := disk
	if sourceType == events.SourceRaw {
		log = 0 // its event is small
	}
	admitted, err := s.admit(disk, log+eventBytes)
	if err != nil {
		return nil, err
	}
	written := false
	defer func() { admitted(written) }()
	answer := accepted{HashKey: sub.Key, Warnings: sub.Request.Warnings}

	done, bound, err := s.mayBegin(ctx, c, sub)
	if err != nil || done {
		return answer, err
	}
	defer func() {
		if bound && err != nil {
			s.release(ctx, c, sub, err)
		}
	}()

	duplicate := func(x *events.Export) error {
		if c.submission != nil && !began(x.Submission, *c.submission) {
			answer.duplicate = &journal.SubmissionDuplicate{Submission: *c.submission, Key: x.Key, Status: x.State.Status()}
		}
		return errDuplicate
	}
	decide := s.expireFirst(ctx, storage.SizeOnly, func(x *events.Export) (events.Payload, error) {
		switch x.State {
		case events.StateNone:
			if err := s.withinQuota(c.tenant); err != nil {
				return nil, err
			}
			return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: sub.Request, Submission: c.submission, RequestID: c.roundID()}, nil
		case events.StateFailed, events.StateCancelled, events.StateExpired:
			if c.submission != nil && handled(x.Submission, *c.submission) {
				return nil, duplicate(x)
			}
			if err := s.withinQuota(c.tenant); err != nil {
				return nil, err
			}
			again := requestAgain(x, c)
			again.Request = sub.Request
			if c.submission != nil {
				again.Submission = c.submission
			}
			return again, nil
		}
		return nil, duplicate(x)
	})

	known := events.Export{Tenant: c.tenant, Key: sub.Key}
	// Plain subscribers also hear an event that the log then refuses, so a repetition
	// looks before it publishes.
	_, unknown := s.tasks.Get(sub.Key)
	if unknown == nil || len(sub.Secrets) > 0 || len(sub.Pages) > 0 {
		if known, err = s.journal.Read(ctx, c.tenant, sub.Key); err != nil {
			return nil, err
		}
		switch _, err := decide(&known); {
		case errors.Is(err, errDuplicate):
			return answer, nil
		case err != nil:
			return nil, err
		}
		if err := s.prepare(ctx, c, sub); err != nil {
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
	written = true
	if again {
		// The end of the earlier run lets the sweeper purge what prepare
		// wrote. It no longer may, but it may just have.
		if err := s.prepare(ctx, c, sub); err != nil {
			s.log(c.requestID).Warn("could not write the source of an export again", "tenant", c.tenant, "hash_key", sub.Key, "error", err)
		}
	}
	return answer, nil
}

// begin appends the event that begins an export, which decide returns, after
// the expired event that decide may ask for first. again reports that the
// export had ended before.
func (s *Service) begin(ctx context.Context, known events.Export, correlation string, decide journal.Decide) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beginWait)
	defer cancel()
	for {
		var next events.Type
		known, err = s.journal.Append(ctx, known, correlation, func(x *events.Export) (events.Payload, error) {
			p, err := decide(x)
			if err == nil {
				next, again = p.EventType(), x.State != events.StateNone
			}
			return p, err
		})
		if err != nil || next != events.TypeExpired {
			return again, err
		}
		if known.ExpiredReason != "" {
			storage.LogLost(&known)
		}
	}
}

// expireFirst expires a completed export before decide sees it, if the file's
// time is over or the file is lost, so that it can begin again at once. A file
// of at most readUpTo bytes is read whole for that, of a larger one the size is
// looked at. What is left of the file is found by the search for orphans.
func (s *Service) expireFirst(ctx context.Context, readUpTo int64, decide journal.Decide) journal.Decide {
	return func(x *events.Export) (events.Payload, error) {
		if x.State != events.StateCompleted {
			return decide(x)
		}
		if !time.Now().Before(x.ExpiresAt) {
			return events.Expired(x, ""), nil
		}
		if len(x.Files) == 0 || s.store.health() != nil {
			return decide(x) // a store that is away may not answer at all
		}
		file, err := storage.OpenFinished(ctx, s.files, x, readUpTo)
		if err == nil {
			err = file.Close()
		}
		if storage.IsLost(err) {
			return events.Expired(x, storage.LostReason(err)), nil
		}
		return decide(x) // also when the file cannot be read now
	}
}

// prepare writes what an export needs besides its event: the sealed headers of
// the source, or the pages that came with the request. Repeating it is
// harmless.
func (s *Service) prepare(ctx context.Context, c call, sub *request.Checked) error {
	tenant := c.tenant
	if len(sub.Secrets) > 0 {
		if err := s.journal.SaveHeaders(ctx, tenant, sub.Key, sub.Secrets); err != nil {
			return err
		}
	}
	for i, p := range sub.Pages {
		_, err := s.pages.Publish(ctx, pages.Page{
			ID:       pages.ID{Tenant: tenant, Key: sub.Key, Run: events.RawRun, Number: i + 1},
			Rows:     p.Array(),
			RowCount: p.Count, HeaderRow: i == 0,
			Total: sub.Request.Raw.Rows, TotalPages: len(sub.Pages), Attempts: 1,
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

// dropPages removes the first pages of a request that the page stream had no
// room for: no event names them, so nothing else ever would.
func (s *Service) dropPages(ctx context.Context, c call, key string) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	x, err := s.journal.Read(ctx, c.tenant, key)
	if err == nil && x.State == events.StateNone {
		err = s.pages.PurgeRun(ctx, c.tenant, key, events.RawRun)
	}
	if err != nil {
		s.log(c.requestID).Warn("pages of a refused request are left over", "tenant", c.tenant, "hash_key", key, "error", err)
	}
}

// handled reports whether the submission that an export came from is sub or a
// later one. Every later event of the key carries the newest, so a submission
// that is delivered again finds itself also after the export ended.
func handled(by *events.Submission, sub events.Submission) bool {
	return by != nil && by.StreamCreated.Equal(sub.StreamCreated) && by.Sequence >= sub.Sequence
}

// began reports whether an export came from sub itself, so that its events have the id of sub.
func began(by *events.Submission, sub events.Submission) bool {
	return handled(by, sub) && by.Sequence == sub.Sequence
}

// requestAgain is the event with which a call begins an ended export again.
func requestAgain(x *events.Export, c call) *events.ExportRequested {
	r := &events.ExportRequested{ExportID: x.ID, CreatedAt: x.CreatedAt, Request: x.Request, Submission: x.Submission, RequestID: c.roundID()}
	if x.Request.SourceType == events.SourceHTTP {
		r.ContinuesRun, _ = x.Resumable()
	}
	return r
}

// changed answers an operation that moved an export to another state.
type changed struct {
	HashKey string `json:"hash_key"`
	Status  int    `json:"status"`
}

func (s *Service) cancel(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	x, err = s.journal.Append(ctx, x, c.correlation, func(x *events.Export) (events.Payload, error) {
		switch {
		case x.State == events.StateNone: // swept from the log since it was found
			return nil, unknownKey(x.Key)
		case x.State.Terminal():
			return nil, conflict("the export is already %s; only one that is under way can be cancelled", x.State)
		}
		return &events.ExportCancelled{}, nil
	})
	if err != nil {
		return nil, err
	}
	return changed{HashKey: x.Key, Status: x.State.Status()}, nil
}

func (s *Service) retry(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	again, err := json.Marshal(x.Request) // which the event repeats
	if err != nil {
		return nil, err
	}
	admitted, err := s.admit(0, int64(len(again))+eventBytes)
	if err != nil {
		return nil, err
	}
	written := false
	defer func() { admitted(written) }()
	_, err = s.begin(ctx, x, c.correlation, s.expireFirst(ctx, smallFile, func(x *events.Export) (events.Payload, error) {
		switch x.State {
		case events.StateNone:
			return nil, unknownKey(x.Key)
		case events.StateFailed, events.StateCancelled, events.StateExpired:
			if err := s.repeatable(ctx, x); err != nil {
				return nil, err
			}
			if err := s.withinQuota(c.tenant); err != nil {
				return nil, err
			}
			return requestAgain(x, c), nil
		case events.StateRejected:
			return nil, conflict("the submission was rejected; submit it again, corrected")
		case events.StateCompleted:
			return nil, conflict("the export is completed and its file is there; only a failed, cancelled or expired one can be retried")
		}
		return nil, conflict("the export is under way; only a failed, cancelled or expired one can be retried")
	}))
	if err != nil {
		return nil, err
	}
	written = true
	return changed{HashKey: x.Key, Status: events.StatusProcessing}, nil
}

// repeatable reports whether all that an ended export needs is still there.
func (s *Service) repeatable(ctx context.Context, x *events.Export) error {
	req := x.Request
	if req.HTTP != nil && len(req.HTTP.Header)+len(req.HTTP.SecretParam) > 0 {
		_, err := s.journal.Headers(ctx, x.Tenant, x.Key)
		if errors.Is(err, events.ErrNoHeaders) || errors.Is(err, events.ErrSealed) {
			return conflict("the source headers are no longer kept; submit the request again")
		}
		return err
	}
	if req.Raw != nil {
		have, err := s.pages.List(ctx, x.Tenant, x.Key, events.RawRun)
		if err != nil {
			return err
		}
		if len(have) < req.Raw.Pages {
			return conflict("the rows that came with the request are no longer kept; submit the request again")
		}
	}
	return nil
}

func (s *Service) detail(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.detailOf(&x, time.Now()), nil
}

func (s *Service) history(ctx context.Context, c call) (any, error) {
	userID := c.params.Get("user_id")
	if userID == "" {
		userID = c.params.Get("uid")
	}
	if userID == "" {
		return nil, request.Invalid("user_id", "不能为空 (user_id is required)")
	}
	limit, err := request.Number(c.params, "limit", maxHistoryPage, 1, maxHistoryPage)
	if err != nil {
		return nil, err
	}
	before, err := request.Number(c.params, "before", 0, 1, 1<<63-1)
	if err != nil {
		return nil, err
	}
	if err := s.readYourWrites(ctx); err != nil {
		return nil, err
	}
	y, m, d := time.Now().Date()
	since := time.Date(y, m, d-historyDays, 0, 0, 0, 0, time.Local)
	exports, err := s.tasks.History(c.tenant, userID, since, before, int(limit))
	if err != nil {
		return nil, err
	}
	summaries := make([]summaryView, len(exports))
	for i := range exports {
		summaries[i] = summaryOf(&exports[i])
	}
	return summaries, nil
}

// find returns the export that a call names, as new as everything that was
// acknowledged before the call. Another tenant's is as unknown as one that
// does not exist.
func (s *Service) find(ctx context.Context, c call) (events.Export, error) {
	key := c.params.Get("key")
	if key == "" {
		return events.Export{}, &apiError{Errcode: errcodeNoKey, Status: http.StatusBadRequest, Field: "key", Msg: "key 不能为空 (key is required)"}
	}
	if !events.ValidKey(key) {
		return events.Export{}, unknownKey(key)
	}
	if err := s.readYourWrites(ctx); err != nil {
		return events.Export{}, err
	}
	x, err := s.tasks.Get(key)
	if errors.Is(err, storage.ErrUnknownKey) || err == nil && x.Tenant != c.tenant {
		return events.Export{}, unknownKey(key)
	}
	return x, err
}

// readYourWrites waits until the projection has applied every event that was
// acknowledged before the call, through whichever ingress.
func (s *Service) readYourWrites(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	last, err := s.journal.LastSequence(ctx)
	if err != nil {
		return err
	}
	if err := s.tasks.WaitApplied(ctx, last); err != nil {
		return unavailable("this ingress has not caught up with the log yet; try again", time.Second, err)
	}
	return nil
}
