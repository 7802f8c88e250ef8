package events

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// Type is the kind of an event, and a token of its subject.
type Type string

// The event types, in the order of an export's life.
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
	TypeCallbackRequested Type = "callback_requested"
)

// Event is one fact about one export. On the wire it is a CloudEvent in binary mode: attributes are headers,
// the payload is JSON.
type Event struct {
	ID            string    // ce-id; a UUIDv7, constant over retries of a publish
	Tenant        string    // from the subject
	Key           string    // from the subject, and ce-subject
	Time          time.Time // ce-time, UTC
	CorrelationID string    // ce-correlationid: the submission's own id, "" if it had none
	TraceParent   string    // W3C trace context of the span that published it, "" if it is not traced
	Sequence      uint64    // sequence in the stream; 0 until published
	Payload       Payload   // what happened
	Export        *Export   // the export after the event; nil if the message contains none of this key
}

// Payload is the typed body of an event: one of the structs below.
type Payload interface{ EventType() Type }

// Type returns the event's type, "" if it has no payload.
func (e Event) Type() Type {
	if e.Payload == nil {
		return ""
	}
	return e.Payload.EventType()
}

// NewID returns an event id: a UUIDv7, so that ids sort by time.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// IDTime returns when NewID created an id, in milliseconds, by the creating process's clock. ok is false for
// other texts.
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

// Request is the caller's request as Sheaf stores it: without secrets and rows.
type Request struct {
	Timestamp int64  `json:"timestamp"` // seconds since 1970, as received
	ExtType   string `json:"ext_type"`  // as received, in any case; several formats with commas between
	Title     string `json:"title"`     // may be empty
	UserID    string `json:"user_id"`   // may be empty
	// a column whose values must be unique; "" for none
	RowKey     string       `json:"row_key,omitempty"`
	Callback   string       `json:"callback,omitempty"`    // http(s) URL, nats:<subject>, or ""
	SourceType string       `json:"source_type"`           // SourceHTTP or SourceRaw
	HTTP       *HTTPRequest `json:"source_http,omitempty"` // set when SourceType is SourceHTTP
	Raw        *RawRows     `json:"source_raw,omitempty"`  // set when SourceType is SourceRaw
	Columns    []Column     `json:"columns,omitempty"`     // empty: those of the header, or the names of the rows
	Sheets     []Sheet      `json:"sheets,omitempty"`      // instead of HTTP, Raw, RowKey and Columns
	From       *Origin      `json:"from,omitempty"`        // the pages are those of another export; HTTP and Raw only describe them
	Options    *Options     `json:"options,omitempty"`
	// Needs names what a process must know to work on the export. One that does not leaves it to another.
	Needs    []string `json:"needs,omitempty"`
	Warnings []string `json:"warnings,omitempty"` // oddities of the request, such as unknown fields
}

// RawRows refers to rows that came with the request. They were published as the pages of run RawRun before
// the requested event.
type RawRows struct {
	Pages int   `json:"pages"`
	Rows  int64 `json:"rows"` // without the header
}

// RawRun is the run of the pages of a raw request. It is not a sequence, because the pages are published
// before the requested event has one.
const RawRun uint64 = 0

// Submission identifies the durable submission of an export, so that a redelivered one has no effect.
type Submission struct {
	StreamCreated time.Time `json:"stream_created"`
	Sequence      uint64    `json:"sequence"`
}

// ExportRequested starts an export, or restarts it after it failed, was cancelled or expired. It has no
// fields on the wire: the export contains everything.
type ExportRequested struct {
	ExportID   uint64      `json:"-"` // sequence of the key's first requested event; 0 in that event
	CreatedAt  time.Time   `json:"-"` // of the first requested event
	Request    Request     `json:"-"`
	Submission *Submission `json:"-"`
	// ContinuesRun is the oldest run whose pages may be reused. The crawler reuses the newest run from there
	// on that has a page, if page 1 is unchanged; older ones are superseded. 0: none.
	ContinuesRun uint64 `json:"-"`
	// RequestID is the id of the request that started this round: the caller's, or one that the ingress
	// generated. It is omitted where it equals the event's CorrelationID.
	RequestID string `json:"-"`
}

// ExportCrawled says that every page of a run is in SHEAF_PAGES.
type ExportCrawled struct {
	Run      uint64 `json:"run"`
	Pages    int    `json:"pages"`
	Manifest string `json:"manifest"` // see Manifest
	Proof    *Proof `json:"proof,omitempty"`
	// Sheets has one entry for each sheet of a request with Sheets. The fields above then count all of them;
	// Manifest is the SHA-256 over the manifests of the sheets, in order.
	Sheets   []SheetPages `json:"sheets,omitempty"`
	Crawl    *CrawlStats  `json:"crawl,omitempty"`
	Warnings []Warning    `json:"warnings,omitempty"`
}

// CrawlStats describes how a crawl went, for logs. A crawl that several processes shared is described by the
// last one.
type CrawlStats struct {
	Millis  int64 `json:"ms"`    // from its start to its end
	Bytes   int64 `json:"bytes"` // of the rows, as JSON
	Retries int64 `json:"retries"`
}

// Warning is a remark about a file that is nevertheless correct.
type Warning struct {
	Code    string `json:"code"` // upper snake case, stable
	Message string `json:"message"`
}

// Content is a document in a finished file that is a zip.
type Content struct {
	Name   string `json:"name"`             // of the entry
	Size   int64  `json:"size"`             // bytes, uncompressed
	SHA256 string `json:"sha256,omitempty"` // lower-case hexadecimal; absent if it is the only workbook in the zip
	Rows   int64  `json:"rows"`             // without headers
	Sheet  string `json:"sheet,omitempty"`  // title of the sheet, if it holds one of several
}

// File is a finished file.
type File struct {
	Name   string `json:"name"`   // file name of a download
	Store  string `json:"store"`  // name in the file store; consists of ids
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Rows   int64  `json:"rows"`   // without headers; those of all sheets
	// Contents are the documents in a zip; absent if it holds nothing but one workbook.
	Contents []Content `json:"contents,omitempty"`
}

// ExportCompleted is a success: the file is durable, and its rows and pages agree with the log.
type ExportCompleted struct {
	Run       uint64    `json:"run"`
	Pages     int       `json:"pages"`
	Manifest  string    `json:"manifest"` // see Manifest
	Rows      int64     `json:"rows"`
	Files     []File    `json:"files,omitempty"`
	Warnings  []Warning `json:"warnings,omitempty"`
	ExpiresAt time.Time `json:"expires_at"` // when the file will be deleted
	// PagesUntil is until when the pages are kept for other files; zero: they are not kept.
	PagesUntil time.Time `json:"pages_until,omitzero"`
}

// Error codes of failed exports. They are stable; services/REFERENCE.md explains each.
const (
	CodeSourceHTTP        = "SOURCE_HTTP"        // the source returned an HTTP status other than 200
	CodeSourceErrcode     = "SOURCE_ERRCODE"     // the source returned errcode != 0
	CodeSourceFormat      = "SOURCE_FORMAT"      // the response is not a page in the standard format
	CodeSourceTimeout     = "SOURCE_TIMEOUT"     // the source did not answer in time
	CodeSourceUnreachable = "SOURCE_UNREACHABLE" // no connection, or a forbidden address
	CodeSourceIncomplete  = "SOURCE_INCOMPLETE"  // rows or pages are missing that the source announced
	CodePagingStuck       = "PAGING_STUCK"       // the source repeats earlier rows on later pages
	CodePagingLoop        = "PAGING_LOOP"        // a page names an earlier page as the next one
	CodeSourcePath        = "SOURCE_PATH"        // a path of the request finds nothing, or a value of another kind
	CodeSourcePaging      = "SOURCE_PAGING"      // the place of the next page cannot be used
	CodeSourceCursor      = "SOURCE_CURSOR"      // the source no longer accepts the token of a stored page
	CodeSourceAuth        = "SOURCE_AUTH"        // the source or the token server refused the credentials
	CodeSourceChanged     = "SOURCE_CHANGED"     // the header or the total changed during the crawl
	CodeLimitBytes        = "LIMIT_BYTES"        // a limit on bytes was exceeded
	CodeLimitRows         = "LIMIT_ROWS"         // too many rows
	CodeLimitColumns      = "LIMIT_COLUMNS"      // more columns than a worksheet allows
	CodeLimitPages        = "LIMIT_PAGES"        // too many pages
	CodeLimitTime         = "LIMIT_TIME"         // not finished in time
	CodeSealed            = "SEALED"             // a value that the producer sealed cannot be opened
	CodeCrashedWorker     = "CRASHED_WORKER"     // repeated starts without progress
	CodeStore             = "STORE"              // Sheaf's own storage failed
	CodeInternal          = "INTERNAL"           // a defect of Sheaf
	CodeRejected          = "REJECTED"           // a durable submission that did not become an export
)

// ExportFailed ends an export without a file.
type ExportFailed struct {
	Code string `json:"error_code"`
	// one sentence; never contains a response body, an internal address or a secret
	Reason   string `json:"reason"`
	Phase    string `json:"phase"` // PhaseCrawling or PhaseAssembling
	Run      uint64 `json:"run,omitempty"`
	Page     int    `json:"page,omitempty"`
	Status   int    `json:"http_status,omitempty"`
	Errcode  string `json:"errcode,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// RunSpoiled means that the run's pages must not be reused: a retry crawls from page 1.
	RunSpoiled bool `json:"run_spoiled,omitempty"`
}

// ExportCancelled ends an export at its caller's request.
type ExportCancelled struct {
	Reason string `json:"reason,omitempty"`
}

// ExportExpired says that the file of a completed export is gone: it expired and was deleted, or it was
// missing or damaged.
type ExportExpired struct {
	Files []string `json:"files,omitempty"` // names in the file store
	// one sentence about the file's damage; "" if it expired in time
	Reason string `json:"reason,omitempty"`
}

// Expired returns the event that expires a completed export's file. reason is "" unless the file is lost.
func Expired(x *Export, reason string) *ExportExpired {
	stored := make([]string, len(x.Files))
	for i, f := range x.Files {
		stored[i] = f.Store
	}
	return &ExportExpired{Files: stored, Reason: reason}
}

// SubmissionRejected reports that a durable submission was refused.
type SubmissionRejected struct {
	Submission Submission `json:"submission"`
	Errcode    int        `json:"errcode"`
	Field      string     `json:"field,omitempty"` // the offending field
	Reason     string     `json:"reason"`
}

// CallbackAttempted is a failed callback attempt that will be retried.
type CallbackAttempted struct {
	Terminal uint64    `json:"terminal_sequence"` // of the event that the callback reports
	Attempt  int       `json:"attempt"`           // from 1
	Status   int       `json:"http_status,omitempty"`
	Reason   string    `json:"reason"`
	Millis   int64     `json:"elapsed_ms"`
	NextAt   time.Time `json:"next_at"`
}

// CallbackDelivered is the attempt that the receiver answered with 2xx.
type CallbackDelivered struct {
	Terminal uint64 `json:"terminal_sequence"`
	Attempt  int    `json:"attempt"`
	Status   int    `json:"http_status,omitempty"` // 0 for a nats: callback
	Millis   int64  `json:"elapsed_ms"`
}

// CallbackFailed is the last attempt: the schedule is exhausted, or the receiver returned 410.
type CallbackFailed struct {
	Terminal uint64 `json:"terminal_sequence"`
	Attempt  int    `json:"attempt"`
	Status   int    `json:"http_status,omitempty"`
	Reason   string `json:"reason"`
	Millis   int64  `json:"elapsed_ms"`
}

// CallbackRequested makes a callback due again that was delivered or given up. Its attempts go on counting.
type CallbackRequested struct {
	Terminal uint64 `json:"terminal_sequence"` // of the event that the callback reports
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
func (*CallbackRequested) EventType() Type  { return TypeCallbackRequested }

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
	case TypeCallbackRequested:
		return &CallbackRequested{}
	}
	return nil
}
