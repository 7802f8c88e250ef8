package events

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// State is the state of an export.
type State string

// The states of an export. Every path ends in a terminal one; only completed changes by itself, to expired.
//
//	requested ──▶ crawled ──▶ completed ──▶ expired
//	    │            │                         │
//	    ├────────────┼──▶ failed ──────────────┤ requested again
//	    └────────────┴──▶ cancelled ───────────┘ under the same key
//	rejected: a submission that never became an export
const (
	StateNone      State = ""
	StateRequested State = "requested"
	StateCrawled   State = "crawled"
	StateCompleted State = "completed"
	StateFailed    State = "failed"
	StateCancelled State = "cancelled"
	StateExpired   State = "expired"
	StateRejected  State = "rejected"
)

// Terminal reports whether no work is in progress.
func (s State) Terminal() bool {
	switch s {
	case StateCompleted, StateFailed, StateCancelled, StateExpired, StateRejected:
		return true
	}
	return false
}

// Status numbers of the REST contract.
const (
	StatusProcessing = 1
	StatusSucceeded  = 2
	StatusFailed     = 3
	StatusCancelled  = 4
)

// Status returns the number of the REST contract: 1 in progress, 2 succeeded (also after its file expired), 3
// failed, 4 cancelled.
func (s State) Status() int {
	switch s {
	case StateCompleted, StateExpired:
		return StatusSucceeded
	case StateFailed, StateRejected:
		return StatusFailed
	case StateCancelled:
		return StatusCancelled
	}
	return StatusProcessing
}

// Callback states.
const (
	CallbackNone      = ""          // none requested, or nothing to report yet
	CallbackPending   = "pending"   // due, or waiting for its next attempt
	CallbackDone      = "delivered" // answered with 2xx
	CallbackExhausted = "failed"    // retries exhausted
)

// CallbackState is the progress of the callback for the last terminal event.
type CallbackState struct {
	State      string    `json:"state"`
	Attempts   int       `json:"attempts"`
	LastStatus int       `json:"last_status"` // HTTP status of the last attempt, 0 if there was no response
	LastReason string    `json:"last_reason,omitempty"`
	NextAt     time.Time `json:"next_at,omitzero"`
}

// Export is the complete state of one export. Every event contains the export after it, so the newest event
// of a key is sufficient. The projection stores it and the fence decides by it.
//
// The zero value with Tenant and Key set is an export that does not exist yet.
type Export struct {
	Tenant        string    `json:"tenant"`
	Key           string    `json:"hash_key"`
	ID            uint64    `json:"id,omitempty"` // sequence of the key's first event
	CreatedAt     time.Time `json:"created_at"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	RequestID     string    `json:"request_id,omitempty"` // see ExportRequested
	// TraceParent is the W3C trace context of the event that began the round; "" if it is not traced.
	TraceParent string  `json:"traceparent,omitempty"`
	State       State   `json:"state"`
	Request     Request `json:"request"`

	Submission   *Submission `json:"submission,omitempty"`
	ContinuesRun uint64      `json:"continues_run,omitempty"` // see ExportRequested

	// Sequences of events. A message cannot contain its own sequence, which is unknown before the write;
	// Decode fills it in.
	RequestedSeq uint64 `json:"requested_sequence,omitempty"` // of the newest requested event
	CrawledSeq   uint64 `json:"crawled_sequence,omitempty"`   // of its crawled event, 0 if there is none
	TerminalSeq  uint64 `json:"terminal_sequence,omitempty"`  // of the event that ended it
	LastSeq      uint64 `json:"last_sequence,omitempty"`      // of the newest event
	LastID       string `json:"last_event_id,omitempty"`      // ce-id of that event

	RequestedAt time.Time `json:"requested_at,omitzero"`
	FinishedAt  time.Time `json:"finished_at,omitzero"`

	Run       uint64       `json:"run,omitempty"` // the run that was crawled or failed
	Pages     int          `json:"pages,omitempty"`
	Manifest  string       `json:"manifest,omitempty"`
	Proof     *Proof       `json:"proof,omitempty"`
	Sheets    []SheetPages `json:"sheets,omitempty"` // see ExportCrawled
	Crawl     *CrawlStats  `json:"crawl,omitempty"`
	Rows      int64        `json:"rows,omitempty"`
	Files     []File       `json:"files,omitempty"`
	Warnings  []Warning    `json:"warnings,omitempty"`
	ExpiresAt time.Time    `json:"expires_at,omitzero"`
	// PagesUntil is until when the pages of a completed export are kept for other files.
	PagesUntil time.Time    `json:"pages_until,omitzero"`
	Failure    ExportFailed `json:"failure,omitzero"`

	ExpiredReason string `json:"expired_reason,omitempty"` // why the file expired early, see ExportExpired

	Callback CallbackState `json:"callback,omitzero"`

	Timeline []Moment `json:"timeline,omitempty"` // of all rounds, oldest first; see Moment
}

// Moment is an event of an export in its timeline, which outlives the events themselves. There are at most
// maxMoments: the first few, the newest ones, and one in between that counts the others.
type Moment struct {
	Type    Type      `json:"type,omitempty"` // "" for the one that summarises others
	Time    time.Time `json:"time"`
	EventID string    `json:"event_id,omitempty"` // ce-id
	Run     uint64    `json:"run,omitempty"`      // of crawled, completed and failed
	Attempt int       `json:"attempt,omitempty"`  // of a callback, from 1
	Outcome string    `json:"outcome,omitempty"`  // an error code, or a reason of at most maxOutcome bytes
	Events  int       `json:"events,omitempty"`   // number of events that it summarises
}

const (
	maxMoments   = 32
	firstMoments = 8   // never summarised
	maxOutcome   = 256 // bytes; every event contains all outcomes
)

// moment returns the timeline entry of an event.
func moment(ev Event) Moment {
	m := Moment{Type: ev.Type(), Time: ev.Time, EventID: ev.ID}
	switch p := ev.Payload.(type) {
	case *ExportCrawled:
		m.Run = p.Run
	case *ExportCompleted:
		m.Run = p.Run
	case *ExportFailed:
		m.Run, m.Outcome = p.Run, p.Code
	case *ExportCancelled:
		m.Outcome = p.Reason
	case *ExportExpired:
		m.Outcome = p.Reason
	case *SubmissionRejected:
		m.Outcome = p.Reason
	case *CallbackAttempted:
		m.Attempt, m.Outcome = p.Attempt, p.Reason
	case *CallbackDelivered:
		m.Attempt = p.Attempt
	case *CallbackFailed:
		m.Attempt, m.Outcome = p.Attempt, p.Reason
	}
	m.Outcome = strings.ToValidUTF8(m.Outcome[:min(len(m.Outcome), maxOutcome)], "")
	return m
}

// Note adds an event to the timeline.
func (x *Export) Note(ev Event) { x.Timeline = withMoment(x.Timeline, moment(ev)) }

// withMoment returns a timeline with one more event. It does not change its argument, which other copies of
// the export share.
func withMoment(timeline []Moment, m Moment) []Moment {
	if len(timeline) < maxMoments {
		return append(slices.Clip(timeline), m)
	}
	next := slices.Clone(timeline[:firstMoments])
	summed := timeline[firstMoments]
	if summed.Type != "" {
		summed = Moment{Time: summed.Time, Events: 1}
	}
	summed.Time = timeline[firstMoments+1].Time
	summed.Events++
	return append(append(append(next, summed), timeline[firstMoments+2:]...), m)
}

// Has reports whether the timeline contains an event.
func (x *Export) Has(id string) bool {
	return slices.ContainsFunc(x.Timeline, func(m Moment) bool { return m.EventID == id })
}

// ErrNotAllowed is returned for an event that the export's state does not allow: another writer was first.
var ErrNotAllowed = errors.New("event not allowed in this state")

// Allows returns nil if an event of type t may follow, else an error that wraps ErrNotAllowed and names the
// state.
func (x *Export) Allows(t Type) error {
	ok := false
	switch t {
	case TypeRequested:
		ok = x.State == StateNone || x.State == StateFailed || x.State == StateCancelled ||
			x.State == StateExpired
	case TypeCrawled:
		ok = x.State == StateRequested
	case TypeCompleted:
		ok = x.State == StateCrawled
	case TypeFailed, TypeCancelled:
		ok = x.State == StateRequested || x.State == StateCrawled
	case TypeExpired:
		ok = x.State == StateCompleted
	case TypeRejected:
		ok = x.State == StateNone
	case TypeCallbackAttempted, TypeCallbackDelivered, TypeCallbackFailed:
		ok = x.State.Terminal() && x.State != StateRejected && x.Callback.State == CallbackPending
	case TypeCallbackRequested:
		ok = x.State.Terminal() && (x.Callback.State == CallbackDone || x.Callback.State == CallbackExhausted)
	}
	if ok {
		return nil
	}
	state := string(x.State)
	if x.State == StateNone {
		state = "unknown"
	}
	return fmt.Errorf("%w: %s after %s", ErrNotAllowed, t, state)
}

// Apply updates the export to its state after ev. If the current state does not allow ev, Apply returns
// ErrNotAllowed and changes nothing.
func (x *Export) Apply(ev Event) error {
	t := ev.Type()
	if err := x.Allows(t); err != nil {
		return err
	}
	switch p := ev.Payload.(type) {
	case *ExportRequested:
		*x = Export{
			Tenant: ev.Tenant, Key: ev.Key,
			ID: p.ExportID, CreatedAt: p.CreatedAt, CorrelationID: ev.CorrelationID, RequestID: p.RequestID,
			TraceParent: ev.TraceParent,
			State:       StateRequested, Request: p.Request, Submission: p.Submission, ContinuesRun: p.ContinuesRun,
			RequestedAt: ev.Time, Timeline: x.Timeline,
		}
	case *ExportCrawled:
		x.State, x.Run, x.Pages, x.Manifest, x.Proof, x.Sheets, x.Crawl, x.Warnings = StateCrawled, p.Run,
			p.Pages, p.Manifest, p.Proof, p.Sheets, p.Crawl, p.Warnings
	case *ExportCompleted:
		x.finish(StateCompleted, ev)
		x.Run, x.Pages, x.Manifest, x.Rows, x.Files, x.Warnings, x.ExpiresAt, x.PagesUntil = p.Run, p.Pages,
			p.Manifest, p.Rows, p.Files, p.Warnings, p.ExpiresAt, p.PagesUntil
	case *ExportFailed:
		x.finish(StateFailed, ev)
		x.Failure = *p
		if p.Run != 0 {
			x.Run = p.Run
		}
	case *ExportCancelled:
		x.finish(StateCancelled, ev)
		x.Failure.Reason = p.Reason
	case *ExportExpired:
		x.State = StateExpired
		x.ExpiresAt, x.ExpiredReason = ev.Time, p.Reason
	case *SubmissionRejected:
		x.Tenant, x.Key, x.CorrelationID = ev.Tenant, ev.Key, ev.CorrelationID
		x.State, x.CreatedAt, x.FinishedAt = StateRejected, ev.Time, ev.Time
		x.Submission = &p.Submission
		x.Failure = ExportFailed{Code: CodeRejected, Reason: p.Reason}
	case *CallbackAttempted:
		x.Callback.Attempts, x.Callback.LastStatus, x.Callback.LastReason, x.Callback.NextAt = p.Attempt,
			p.Status, p.Reason, p.NextAt
	case *CallbackDelivered:
		x.Callback = CallbackState{State: CallbackDone, Attempts: p.Attempt, LastStatus: p.Status}
	case *CallbackFailed:
		x.Callback = CallbackState{State: CallbackExhausted, Attempts: p.Attempt, LastStatus: p.Status,
			LastReason: p.Reason}
	case *CallbackRequested:
		x.Callback.State = CallbackPending
	}
	x.Note(ev)
	x.Stamp(t, ev.Sequence, ev.ID)
	return nil
}

// Stamp records the newest event, which is of type t.
func (x *Export) Stamp(t Type, sequence uint64, id string) {
	x.LastSeq, x.LastID = sequence, id
	switch t {
	case TypeRequested:
		if x.ID == 0 || x.ID == x.RequestedSeq { // it is the key's first event
			x.ID = sequence
		}
		x.RequestedSeq = sequence
	case TypeCrawled:
		x.CrawledSeq = sequence
	case TypeCompleted, TypeFailed, TypeCancelled:
		x.TerminalSeq = sequence
	case TypeRejected:
		x.ID, x.TerminalSeq = sequence, sequence
	}
}

// Settled reports whether nothing is left to do: the export has ended, and its callback was delivered or
// given up.
func (x *Export) Settled() bool {
	return x.State.Terminal() && x.Callback.State != CallbackPending
}

func (x *Export) finish(s State, ev Event) {
	x.State, x.FinishedAt = s, ev.Time
	if x.Request.Callback != "" {
		x.Callback = CallbackState{State: CallbackPending}
	}
}

// Resumable returns the oldest run whose pages a retry may reuse, and whether there is one: the export ended
// during the crawl, and its pages are good. A round that was meant to continue a run may instead have started
// its own, because the source had changed, and ended before it recorded which. Only the pages show that, so
// the crawler takes the newest run from this one on that has page 1. If that is the older run, its pages are
// all there is, and the crawler requests page 1 again before it reuses any.
func (x *Export) Resumable() (run uint64, ok bool) {
	if (x.State != StateFailed && x.State != StateCancelled) || x.Failure.RunSpoiled {
		return 0, false
	}
	if x.Run != 0 {
		return x.Run, true
	}
	if x.ContinuesRun != 0 {
		return x.ContinuesRun, true
	}
	return x.RequestedSeq, x.RequestedSeq != 0
}

// WebhookID returns the id of the callback for the export's last terminal event. It is constant over attempts
// and differs for each ending of the key.
func (x *Export) WebhookID() string { return fmt.Sprintf("%s-%d", x.Key, x.TerminalSeq) }

// With returns log with the attributes that identify the export: tenant, hash_key, id, the request_id of the
// request that started the round, and its trace_id. Rounds started by an earlier version have one only if a producer set
// it.
func (x *Export) With(log *slog.Logger) *slog.Logger {
	log = log.With("tenant", x.Tenant, "hash_key", x.Key, "id", x.ID)
	if id := x.Origin(); id != "" {
		log = log.With("request_id", id)
	}
	if id := TraceID(x.TraceParent); id != "" {
		log = log.With("trace_id", id)
	}
	return log
}

// TraceID returns the trace id of a W3C trace context, "" without one.
func TraceID(traceParent string) string {
	if len(traceParent) < 35 {
		return ""
	}
	return traceParent[3:35]
}

// Origin returns the id of the request that started the current round, "" if unknown.
func (x *Export) Origin() string { return cmp.Or(x.RequestID, x.CorrelationID) }
