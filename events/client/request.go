package client

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"time"

	"sheaf/events"
)

// Request asks for an export. services/REFERENCE.md documents the fields. One of HTTP, Raw and Sheets is the
// source.
type Request struct {
	// Timestamp is in Unix seconds. Equal requests with equal timestamps are one export. Zero becomes the time
	// of the call.
	Timestamp int64  `json:"timestamp"`
	ExtType   string `json:"ext_type"` // such as "XLSX" or "XLSX,CSV"; "" becomes XLSX
	Title     string `json:"title,omitempty"`
	UserID    string `json:"user_id,omitempty"`
	Callback  string `json:"callback,omitempty"` // URL, or nats:sheaf.callback.TENANT.NAME

	HTTP    *HTTPSource  `json:"source_http,omitempty"`
	Raw     any          `json:"source_raw,omitempty"` // an array of objects, or JSON text; the first row has the titles
	Sheets  []Sheet      `json:"sheets,omitempty"`
	RowKey  string       `json:"row_key,omitempty"` // column whose values must be unique
	Columns []Column     `json:"columns,omitempty"`
	Options *FileOptions `json:"options,omitempty"`
	Share   bool         `json:"share,omitempty"` // answer a link for the person who waits

	// IdempotencyKey makes repeated calls one export, also after it failed. "" becomes a random key, which
	// holds for the repetitions of one call. NATS has none: there equal timestamps do it.
	IdempotencyKey string `json:"-"`
}

// HTTPSource is a paginated API.
type HTTPSource struct {
	URL         string            `json:"url"`
	Method      string            `json:"method,omitempty"` // GET or POST
	Header      map[string]string `json:"header,omitempty"` // kept sealed
	Param       map[string]any    `json:"param,omitempty"`
	SecretParam []string          `json:"secret_param,omitempty"` // names in Param that are kept sealed
	Conn        int               `json:"conn,omitempty"`         // requests in flight
	Preset      string            `json:"preset,omitempty"`
	Rows        string            `json:"rows,omitempty"`
	Paging      map[string]any    `json:"paging,omitempty"`
	Error       map[string]any    `json:"error,omitempty"`
	Auth        map[string]any    `json:"auth,omitempty"` // kept sealed
	Body        any               `json:"body,omitempty"`
	BodyType    string            `json:"body_type,omitempty"`
	Format      string            `json:"format,omitempty"`
	HeaderRow   bool              `json:"header_row,omitempty"`
	MaxWait     int               `json:"max_wait,omitempty"` // seconds
}

// Sheet is one of several tables of a file.
type Sheet struct {
	Title   string      `json:"title"`
	RowKey  string      `json:"row_key,omitempty"`
	HTTP    *HTTPSource `json:"source_http,omitempty"`
	Raw     any         `json:"source_raw,omitempty"`
	Columns []Column    `json:"columns,omitempty"`
}

// Column is a column of a file.
type Column struct {
	Key    string            `json:"key"`
	Title  string            `json:"title,omitempty"`
	Type   string            `json:"type,omitempty"`
	From   string            `json:"from,omitempty"`
	Format string            `json:"format,omitempty"`
	Map    map[string]string `json:"map,omitempty"`
	Join   *string           `json:"join,omitempty"`
	Link   any               `json:"link,omitempty"` // true, or a template
	Width  int               `json:"width,omitempty"`
}

// FileOptions change how rows become a file.
type FileOptions struct {
	Timezone       string         `json:"timezone,omitempty"`
	SourceTimezone string         `json:"source_timezone,omitempty"`
	MaxRows        int64          `json:"max_rows,omitempty"`
	Zip            *bool          `json:"zip,omitempty"`
	Manifest       bool           `json:"manifest,omitempty"`
	KeepPages      int            `json:"keep_pages,omitempty"` // hours
	Reproducible   bool           `json:"reproducible,omitempty"`
	CSV            map[string]any `json:"csv,omitempty"`
	JSON           map[string]any `json:"json,omitempty"`
}

// ConvertRequest asks for a finished export in another form. Fields that are not set are those of the export.
type ConvertRequest struct {
	Key       string       `json:"key"`
	ExtType   string       `json:"ext_type"`
	Timestamp int64        `json:"timestamp,omitempty"`
	Title     string       `json:"title,omitempty"`
	UserID    string       `json:"user_id,omitempty"`
	Callback  string       `json:"callback,omitempty"`
	Columns   []Column     `json:"columns,omitempty"`
	Options   *FileOptions `json:"options,omitempty"`

	IdempotencyKey string `json:"-"` // see Request
}

// Accepted answers a request for an export.
type Accepted struct {
	Key      string   `json:"hash_key"`
	Warnings []string `json:"warnings,omitempty"`  // such as unknown fields
	ShareURL string   `json:"share_url,omitempty"` // if the request asked for it
}

// encode returns the operation and the body of a request.
func (r Request) encode() (operation string, body []byte, err error) {
	r.Timestamp, r.ExtType = cmp.Or(r.Timestamp, time.Now().Unix()), cmp.Or(r.ExtType, events.XLSX.Name)
	operation = events.SourceHTTP
	if r.Raw != nil {
		operation = events.SourceRaw
	}
	body, err = encode(r)
	return operation, body, err
}

// encode writes JSON without HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// submits reports whether an operation begins an export by a request that may be repeated.
func submits(operation string) bool {
	return operation == events.SourceHTTP || operation == events.SourceRaw || operation == operationConvert
}

func idempotencyKey() string { return rand.Text() }
