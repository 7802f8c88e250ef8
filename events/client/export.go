package client

import (
	"encoding/json"
	"strconv"
	"time"

	"sheaf/events"
)

// Status is the status of an export.
type Status int

// The statuses of an export.
const (
	Processing Status = events.StatusProcessing
	Succeeded  Status = events.StatusSucceeded // also after its file has expired
	Failed     Status = events.StatusFailed
	Cancelled  Status = events.StatusCancelled
)

// String returns "processing", "succeeded", "failed" or "cancelled".
func (s Status) String() string {
	switch s {
	case Processing:
		return "processing"
	case Succeeded:
		return "succeeded"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	}
	return "status " + strconv.Itoa(int(s))
}

// Export is an export as the server describes it. A list and a history leave out what only Detail answers.
type Export struct {
	ID         uint64           `json:"id"`
	Key        string           `json:"hash_key"`
	Title      string           `json:"title"`
	ExtType    string           `json:"ext_type"`
	SourceType string           `json:"source_type"` // http or raw
	UserID     string           `json:"user_id"`     // in a list
	State      string           `json:"state"`       // in a list: one of the State constants
	Status     Status           `json:"status"`
	FailReason string           `json:"fail_reason"` // for people; "" unless it failed
	ErrorCode  string           `json:"error_code"`  // for programs; "" unless it failed
	Reason     string           `json:"reason"`      // why the file expired early
	CreatedAt  Time             `json:"created_at"`
	FinishedAt Time             `json:"finished_at"`
	ExpiresAt  Time             `json:"expires_at"`  // of the file
	PagesUntil Time             `json:"pages_until"` // until when it can be converted
	DownURL    string           `json:"down_url"`    // signed link to the file; "" without one
	Progress   *events.Progress `json:"progress"`
	Rows       int64            `json:"rows"`  // data rows
	Proof      *events.Proof    `json:"proof"` // how the list was found complete
	Files      []File           `json:"files"` // of a finished export, one
	Warnings   []events.Warning `json:"warnings"`
	Callback   *Callback        `json:"callback"`

	// JSON is the answer of Detail as the server sent it.
	JSON json.RawMessage `json:"-"`
}

// States of an export in a list.
const (
	StateRunning         = events.ListRunning
	StateQueued          = events.ListQueued
	StateWaitingForSpace = events.ListWaitingForSpace
	StateFailed          = events.ListFailed
	StateSucceeded       = events.ListSucceeded // also after its file has expired
	StateCancelled       = events.ListCancelled
)

// Err returns nil while an export is under way and after it has succeeded, and otherwise an [*ExportError].
func (x *Export) Err() error {
	switch x.Status {
	case Processing, Succeeded:
		return nil
	case Cancelled:
		return &ExportError{Key: x.Key, Cancelled: true, Code: "CANCELLED"}
	}
	return &ExportError{Key: x.Key, Code: x.ErrorCode, Reason: x.FailReason}
}

// File is the file of a finished export.
type File struct {
	Name     string           `json:"name"` // file name of a download
	Size     int64            `json:"size"` // bytes
	SHA256   string           `json:"sha256"`
	Rows     int64            `json:"rows"`
	Contents []events.Content `json:"contents"` // the documents in a zip; absent if it holds one workbook alone
}

// Callback says how far the callback of an export is.
type Callback struct {
	State      string `json:"state"` // "", pending, delivered or failed
	Attempts   int    `json:"attempts"`
	LastStatus int    `json:"last_status"` // HTTP status of the last attempt; 0 if there was no answer
}

// Time is a time that may be missing: the zero time.
type Time struct{ time.Time }

// UnmarshalJSON reads a time, "" or null.
func (t *Time) UnmarshalJSON(data []byte) error {
	if string(data) == `""` {
		*t = Time{}
		return nil
	}
	return json.Unmarshal(data, &t.Time)
}

// MarshalJSON writes a time as the server does, a missing one as "".
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte(`""`), nil
	}
	return json.Marshal(t.Time)
}
