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
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

const (
	// beginWait is how long a caller waits for the event that begins its export. A stream with a failing disk
	// does not answer.
	beginWait = 5 * time.Second
	// readWait is how long an answer waits for the projection to apply earlier events.
	readWait = 2 * time.Second
	// historyDays is how far back the history of a user goes, counted from
	// midnight.
	historyDays = 7
	// maxHistoryPage is the number of exports in one answer.
	maxHistoryPage = 1000
)

// call is one request of a caller, over any transport.
type call struct {
	operation   string // its name
	tenant      string // whose exports it sees
	scope       Scope  // of its caller
	requestID   string
	body        []byte             // of http and raw, as received
	params      url.Values         // of the other operations
	onNATS      bool               // it came as a NATS request
	correlation string             // the caller's id of the submission; "" for none
	submission  *events.Submission // of a durable submission
	idempotency string             // Idempotency-Key of a request; "" for none
	at          time.Time          // when a durable submission was stored; zero means now
}

// key returns the key of the export that the call made (in data) or named. It is "" for an invalid key.
func (c *call) key(data any) string {
	if a, ok := data.(accepted); ok {
		return a.HashKey
	}
	if key := c.params.Get("key"); events.ValidKey(key) {
		return key
	}
	return ""
}

// roundID returns the request id of a round that the call begins. It is "" if the submission's own id already
// identifies it.
func (c *call) roundID() string {
	if c.requestID == c.correlation {
		return ""
	}
	return c.requestID
}

// operation is one operation of the API, the same for REST and NATS.
type operation struct {
	scope Scope // that a caller needs
	// handle answers a call. asAPIError converts its errors for the caller.
	handle func(s *Service, ctx context.Context, c call) (data any, err error)
	body   bool // handle reads the body itself; otherwise it has parameters
	heavy  bool // it reads much, so a tenant has one at a time
	quiet  bool // it changes nothing, so it is logged at debug level
}

// operations are the operations by the last token of their subject.
var operations = map[string]operation{
	"http":           {scope: ScopeSubmit, handle: (*Service).submitHTTP, body: true},
	"raw":            {scope: ScopeSubmit, handle: (*Service).submitRaw, body: true},
	"convert":        {scope: ScopeSubmit, handle: (*Service).convert, body: true},
	"detail":         {scope: ScopeRead, handle: (*Service).detail, quiet: true},
	"events":         {scope: ScopeRead, handle: (*Service).timeline, quiet: true},
	"history":        {scope: ScopeRead, handle: (*Service).history, quiet: true, heavy: true},
	"list":           {scope: ScopeRead, handle: (*Service).list, quiet: true, heavy: true},
	"cancel":         {scope: ScopeOperate, handle: (*Service).cancel},
	"retry":          {scope: ScopeOperate, handle: (*Service).retry, heavy: true},
	"redeliver":      {scope: ScopeOperate, handle: (*Service).redeliver},
	"share":          {scope: ScopeOperate, handle: (*Service).share},
	"tenants":        {scope: ScopeAdmin, handle: (*Service).tenants, quiet: true, heavy: true},
	"system":         {scope: ScopeAdmin, handle: (*Service).system, quiet: true, heavy: true},
	previewOperation: {scope: ScopeSubmit, handle: (*Service).preview, body: true, quiet: true},
	bulkOperation:    {scope: ScopeOperate, handle: (*Service).bulk, body: true},
}

// authorize sets the tenant of a call by a principal. An admin may name another tenant by the parameter
// tenant. It returns an error if the principal's scope does not allow the operation.
func (c *call) authorize(p Principal, op operation) error {
	c.tenant, c.scope = p.Tenant, p.Scope
	if err := c.require(op.scope, c.operation); err != nil {
		return err
	}
	return c.chooseTenant()
}

// require returns an error if the caller lacks a scope. By NATS, the tenant of the subject decides, not the key.
func (c *call) require(need Scope, what string) error {
	err := Principal{Scope: c.scope}.require(need, what)
	if err != nil && c.onNATS {
		return &apiError{
			Errcode: errcodeScope, Status: http.StatusForbidden,
			Msg: fmt.Sprintf("%s is for operators: ask %s with an API key of the tenant %s", what, events.APISubject(AdminTenant, c.operation), AdminTenant),
		}
	}
	return err
}

// chooseTenant sets the tenant that the parameters name.
func (c *call) chooseTenant() error {
	other := c.params.Get("tenant")
	if other == "" || other == c.tenant {
		return nil
	}
	if err := c.require(ScopeAdmin, "another tenant"); err != nil {
		return err
	}
	if !events.ValidTenant(other) {
		return request.Invalid("tenant", "want 1 to 32 of a-z, 0-9, _ and -")
	}
	c.tenant = other
	return nil
}

// submits reports whether an operation takes a submission, which may be durable.
func submits(name string) bool { return name == events.SourceHTTP || name == events.SourceRaw }

// do runs an operation within its time and turns a panic into an error. It fails at once without a
// connection, and when the connection is lost or the streams refuse writes meanwhile. The change may be
// stored even then, and a repetition finds it.
func (s *Service) do(ctx context.Context, op operation, c call) (data any, err error) {
	s.metrics.busy.Inc()
	defer func() {
		s.metrics.busy.Dec()
		s.metrics.operation(&c, data, err)
	}()
	if !s.journal.Conn().IsConnected() {
		return nil, events.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, s.operationWait(c))
	defer cancel()
	ctx, leave := s.availability.whileUp(ctx)
	defer leave()
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, panicked(s.log(c.requestID), p)
		}
	}()
	return op.handle(s, ctx, c)
}

// panicked logs a panic with its stack and returns the caller's error.
func panicked(log *slog.Logger, p any) error {
	log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return internal(fmt.Errorf("panic: %v", p))
}

// changed answers an operation that changed an export's state.
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
		case x.State == events.StateNone: // removed from the log meanwhile
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
	again, err := json.Marshal(x.Request) // the event repeats it
	if err != nil {
		return nil, err
	}
	export := &candidate{admission: &s.admission, tenant: c.tenant, log: int64(len(again)) + eventBytes}
	_, err = s.begin(ctx, x, c.correlation, s.expireFirst(ctx, smallFile, func(x *events.Export) (events.Payload, error) {
		switch x.State {
		case events.StateNone:
			return nil, unknownKey(x.Key)
		case events.StateFailed, events.StateCancelled, events.StateExpired:
			if err := s.repeatable(ctx, x); err != nil {
				return nil, err
			}
			if err := export.admit(); err != nil {
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
		export.release()
		return nil, err
	}
	return changed{HashKey: x.Key, Status: events.StatusProcessing}, nil
}

// repeatable reports whether everything that an ended export needs is still stored.
func (s *Service) repeatable(ctx context.Context, x *events.Export) error {
	if x.Request.From != nil {
		return s.pagesKept(ctx, x.Tenant, x.Request.From, conflict)
	}
	secret := false
	for i := range x.Request.SheetCount() {
		req := x.Request.Sheet(i)
		if h := req.HTTP; h != nil && (len(h.Header)+len(h.SecretParam) > 0 || h.Auth != "") {
			secret = true
		}
		if req.Raw == nil {
			continue
		}
		have, err := s.pages.List(ctx, x.Tenant, x.Key, events.RawRun, i)
		if err != nil {
			return err
		}
		if len(have) < req.Raw.Pages {
			return conflict("the rows that came with the request are no longer kept; submit the request again")
		}
	}
	if !secret {
		return nil
	}
	_, err := s.journal.Headers(ctx, x.Tenant, x.Key)
	if errors.Is(err, events.ErrNoHeaders) || errors.Is(err, events.ErrSealed) {
		return conflict("the source headers are no longer kept; submit the request again")
	}
	return err
}

func (s *Service) detail(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	d := s.detailOf(&x, time.Now())
	if s.pagesGone(ctx, &x) {
		d.PagesUntil = ""
	}
	return d, nil
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

// find returns the export of a call, with every event acknowledged before the call. Another tenant's export
// is as unknown as one that does not exist.
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

// readYourWrites waits until the projection has applied every event acknowledged before the call, by any
// ingress.
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
