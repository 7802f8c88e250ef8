package events

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Type names what happened; it is a token of the event's subject.
type Type string

// The types of events, in the order in which an export meets them.
const (
	TypeRequested         Type = "requested"
	TypeCrawled           Type = "crawled"
	TypeCompleted         Type = "completed"
	TypeFailed            Type = "failed"
	TypeCancelled         Type = "cancelled"
	TypeExpired           Type = "expired"
	TypeRejected          Type = "rejected"
	TypeCallbackAttempted Type = "callback_attempted"
	TypeCallbackDelivered Type = "callback_delivered"
	TypeCallbackFailed    Type = "callback_failed"
)

// Event is one fact of one export. On the wire it is a CloudEvent in binary
// mode: the attributes are headers, the payload is JSON.
type Event struct {
	ID            string    // ce-id; a UUIDv7, kept over the retries of a publish
	Tenant        string    // from the subject
	Key           string    // from the subject, and ce-subject
	Time          time.Time // ce-time, UTC
	CorrelationID string    // ce-correlationid: the submission's own id, "" when it had none
	Sequence      uint64    // sequence in the stream; 0 until published
	Payload       Payload   // what happened
	Export        *Export   // the export after it; nil if the message holds none that is of this key
}

// Payload is the typed body of an event: one of the structs below.
type Payload interface{ EventType() Type }

// Type returns the event's type, "" when it has no payload.
func (e Event) Type() Type {
	if e.Payload == nil {
		return ""
	}
	return e.Payload.EventType()
}

// NewID returns an id for an event: a UUIDv7, so that ids sort by time.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// IDTime returns when an id was made by NewID, to the millisecond, by the clock
// of the process that made it. ok is false for any other text.
func IDTime(id string) (at time.Time, ok bool) {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return time.Time{}, false
	}
	// The first 48 bits are milliseconds since 1970 (RFC 9562, section 5.7).
	ms := int64(binary.BigEndian.Uint64(u[:8]) >> 16)
	return time.UnixMilli(ms).UTC(), true
}

// Source types of a request.
const (
	SourceHTTP = "http"
	SourceRaw  = "raw"
)

// Request is what the caller asked for, as Sheaf keeps it: everything but the
// secrets and the rows themselves.
type Request struct {
	Timestamp  int64        `json:"timestamp"`             // seconds since 1970, as the caller gave it
	ExtType    string       `json:"ext_type"`              // as the caller wrote it, any case
	Title      string       `json:"title"`                 // may be empty
	UserID     string       `json:"user_id"`               // may be empty
	RowKey     string       `json:"row_key,omitempty"`     // a column whose values shall not repeat; "" for none
	Callback   string       `json:"callback,omitempty"`    // http(s) URL, nats:<subject>, or ""
	SourceType string       `json:"source_type"`           // SourceHTTP or SourceRaw
	HTTP       *HTTPRequest `json:"source_http,omitempty"` // set when SourceType is SourceHTTP
	Raw        *RawRows     `json:"source_raw,omitempty"`  // set when SourceType is SourceRaw
	Warnings   []string     `json:"warnings,omitempty"`    // what was odd about the request, such as unknown fields
}

// HTTPRequest says how to ask the source for a page.
type HTTPRequest struct {
	URL    string          `json:"url"`
	Method string          `json:"method"`           // "GET" or "POST"
	Param  json.RawMessage `json:"param,omitempty"`  // a JSON object as received; page and limit are set on top
	Limit  int             `json:"limit"`            // rows a page, from param.limit or the default
	Conn   int             `json:"conn"`             // requests in flight at once
	Header []string        `json:"header,omitempty"` // names only; the values are sealed, see journal.Log.SaveHeaders

	SecretParam []string `json:"secret_param,omitempty"` // names of parameters that are not in Param but sealed with the headers
}

// RawRows refers to rows that came with the request. They were published as
// the pages of run RawRun before the requested event that refers to them.
type RawRows struct {
	Pages int   `json:"pages"`
	Rows  int64 `json:"rows"` // without the header
}

// RawRun is the run of pages that came with a raw request. It is not a
// sequence, because the pages are published before the event that has one.
const RawRun uint64 = 0

// Submission names the durable submission that an export came from, so that a
// redelivered one starts nothing.
type Submission struct {
	StreamCreated time.Time `json:"stream_created"`
	Sequence      uint64    `json:"sequence"`
}

// ExportRequested begins an export, or begins it again after it failed, was
// cancelled or expired. On the wire it has no fields of its own: all that it says
// is in the export.
type ExportRequested struct {
	ExportID   uint64      `json:"-"` // sequence of the key's first requested event; 0 in that one itself
	CreatedAt  time.Time   `json:"-"` // of the first one
	Request    Request     `json:"-"`
	Submission *Submission `json:"-"`
	// ContinuesRun is the oldest run whose pages may be used again. The newest
	// one from there on that has a page is, if page 1 is unchanged; what is
	// older was superseded. 0: none.
	ContinuesRun uint64 `json:"-"`
	// RequestID is the id of the request that began this round: a caller's, or one that the
	// ingress made. It is left out where the event's CorrelationID is the same.
	RequestID string `json:"-"`
}

// ExportCrawled says that every page of a run is in SHEAF_PAGES.
type ExportCrawled struct {
	Run      uint64    `json:"run"`
	Pages    int       `json:"pages"`
	Manifest string    `json:"manifest"` // see Manifest
	Warnings []Warning `json:"warnings,omitempty"`
}

// Warning is something that a person should know about a file that is
// nevertheless right.
type Warning struct {
	Code    string `json:"code"` // upper snake case, stable
	Message string `json:"message"`
}

// File is a finished file.
type File struct {
	Name   string `json:"name"`   // what a download is called
	Store  string `json:"store"`  // its name in the file store; made from ids alone
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Rows   int64  `json:"rows"`   // without headers
}

// ExportCompleted is a success: the file is durable, and its rows and pages
// were proven against the log.
type ExportCompleted struct {
	Run       uint64    `json:"run"`
	Pages     int       `json:"pages"`
	Manifest  string    `json:"manifest"` // see Manifest
	Rows      int64     `json:"rows"`
	Files     []File    `json:"files,omitempty"`
	Warnings  []Warning `json:"warnings,omitempty"`
	ExpiresAt time.Time `json:"expires_at"` // when the file is deleted
}

// Error codes of failed exports. They are stable; services/REFERENCE.md explains each.
const (
	CodeSourceHTTP        = "SOURCE_HTTP"        // the source answered with an HTTP status that is not 200
	CodeSourceErrcode     = "SOURCE_ERRCODE"     // the source answered errcode != 0
	CodeSourceFormat      = "SOURCE_FORMAT"      // the answer is not a page in the standard format
	CodeSourceTimeout     = "SOURCE_TIMEOUT"     // the source did not answer in time
	CodeSourceUnreachable = "SOURCE_UNREACHABLE" // no connection, or an address that is not allowed
	CodeSourceIncomplete  = "SOURCE_INCOMPLETE"  // rows or pages are missing against what the source announced
	CodePagingStuck       = "PAGING_STUCK"       // the source answers further pages with rows that it gave before
	CodeSourceChanged     = "SOURCE_CHANGED"     // the header or the total changed while pages were read
	CodeLimitBytes        = "LIMIT_BYTES"        // larger than a limit on bytes
	CodeLimitRows         = "LIMIT_ROWS"         // more rows than allowed
	CodeLimitColumns      = "LIMIT_COLUMNS"      // more columns than a sheet has
	CodeLimitPages        = "LIMIT_PAGES"        // more pages than allowed
	CodeLimitTime         = "LIMIT_TIME"         // unfinished for longer than allowed
	CodeSealed            = "SEALED"             // a value that the producer sealed cannot be opened
	CodeCrashedWorker     = "CRASHED_WORKER"     // the export was started again and again without progress
	CodeStore             = "STORE"              // Sheaf's own storage failed
	CodeInternal          = "INTERNAL"           // a defect of Sheaf
	CodeRejected          = "REJECTED"           // a durable submission that never became an export
)

// ExportFailed ends an export without a file.
type ExportFailed struct {
	Code     string `json:"error_code"`
	Reason   string `json:"reason"` // a sentence for a person; never a response body, an address of ours or a secret
	Phase    string `json:"phase"`  // PhaseCrawling or PhaseAssembling
	Run      uint64 `json:"run,omitempty"`
	Page     int    `json:"page,omitempty"`
	Status   int    `json:"http_status,omitempty"`
	Errcode  string `json:"errcode,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// RunSpoiled is set when the pages of the run must not be used again: a
	// retry then crawls from page 1.
	RunSpoiled bool `json:"run_spoiled,omitempty"`
}

// ExportCancelled ends an export because its caller said so.
type ExportCancelled struct {
	Reason string `json:"reason,omitempty"`
}

// ExportExpired says that the file of a completed export is gone: its time was
// over and it was deleted, or it was found missing or damaged.
type ExportExpired struct {
	Files  []string `json:"files,omitempty"`  // names in the file store
	Reason string   `json:"reason,omitempty"` // a sentence for a person: what is wrong with the file; "" when its time was over
}

// Expired is the event that ends the time of a completed export's file. reason is ""
// unless the file is lost.
func Expired(x *Export, reason string) *ExportExpired {
	stored := make([]string, len(x.Files))
	for i, f := range x.Files {
		stored[i] = f.Store
	}
	return &ExportExpired{Files: stored, Reason: reason}
}

// SubmissionRejected answers a durable submission that could not be accepted.
type SubmissionRejected struct {
	Submission Submission `json:"submission"`
	Errcode    int        `json:"errcode"`
	Field      string     `json:"field,omitempty"` // the field at fault
	Reason     string     `json:"reason"`
}

// CallbackAttempted is one failed try of a callback that will be tried again.
type CallbackAttempted struct {
	Terminal uint64    `json:"terminal_sequence"` // of the event that is being told
	Attempt  int       `json:"attempt"`           // from 1
	Status   int       `json:"http_status,omitempty"`
	Reason   string    `json:"reason"`
	Millis   int64     `json:"elapsed_ms"`
	NextAt   time.Time `json:"next_at"`
}

// CallbackDelivered is the try that the receiver answered with 2xx.
type CallbackDelivered struct {
	Terminal uint64 `json:"terminal_sequence"`
	Attempt  int    `json:"attempt"`
	Status   int    `json:"http_status,omitempty"` // 0 for a nats: callback
	Millis   int64  `json:"elapsed_ms"`
}

// CallbackFailed is the last try: the schedule is exhausted, or the receiver
// answered 410.
type CallbackFailed struct {
	Terminal uint64 `json:"terminal_sequence"`
	Attempt  int    `json:"attempt"`
	Status   int    `json:"http_status,omitempty"`
	Reason   string `json:"reason"`
	Millis   int64  `json:"elapsed_ms"`
}

func (*ExportRequested) EventType() Type    { return TypeRequested }
func (*ExportCrawled) EventType() Type      { return TypeCrawled }
func (*ExportCompleted) EventType() Type    { return TypeCompleted }
func (*ExportFailed) EventType() Type       { return TypeFailed }
func (*ExportCancelled) EventType() Type    { return TypeCancelled }
func (*ExportExpired) EventType() Type      { return TypeExpired }
func (*SubmissionRejected) EventType() Type { return TypeRejected }
func (*CallbackAttempted) EventType() Type  { return TypeCallbackAttempted }
func (*CallbackDelivered) EventType() Type  { return TypeCallbackDelivered }
func (*CallbackFailed) EventType() Type     { return TypeCallbackFailed }

// newPayload returns an empty payload of a type, or nil for an unknown one.
func newPayload(t Type) Payload {
	switch t {
	case TypeRequested:
		return &ExportRequested{}
	case TypeCrawled:
		return &ExportCrawled{}
	case TypeCompleted:
		return &ExportCompleted{}
	case TypeFailed:
		return &ExportFailed{}
	case TypeCancelled:
		return &ExportCancelled{}
	case TypeExpired:
		return &ExportExpired{}
	case TypeRejected:
		return &SubmissionRejected{}
	case TypeCallbackAttempted:
		return &CallbackAttempted{}
	case TypeCallbackDelivered:
		return &CallbackDelivered{}
	case TypeCallbackFailed:
		return &CallbackFailed{}
	}
	return nil
}
