package events

import "encoding/json"

// HTTPRequest describes how to request the pages of a list from its source.
//
// A source without Paging speaks the standard format: page and limit are added to Param, and each response is
// {"errcode", "msg", "data": {"data": [rows], "pagetag": {...}}} with the titles of the columns in its first
// row. All other forms have Paging. Its fields, and those of Error, are complete: a preset or a default is
// expanded before the event is written, so a later version that changes it changes no export that exists.
type HTTPRequest struct {
	URL    string          `json:"url"`
	Method string          `json:"method"`          // "GET" or "POST"
	Param  json.RawMessage `json:"param,omitempty"` // a JSON object as received; the place of a page is added
	Limit  int             `json:"limit"`           // rows per page, as requested or the default
	Conn   int             `json:"conn"`            // concurrent requests
	// only names; the values are sealed, see journal.Log.SaveHeaders
	Header []string `json:"header,omitempty"`

	// SecretParam names parameters that are sealed with the headers instead of being in Param.
	SecretParam []string `json:"secret_param,omitempty"`

	Preset   string          `json:"preset,omitempty"`    // the name that was given, to be shown; its fields are below
	Body     json.RawMessage `json:"body,omitempty"`      // of a POST, as received; Param is then in the query
	BodyType string          `json:"body_type,omitempty"` // BodyForm, or "" for JSON
	Format   string          `json:"format,omitempty"`    // of a response: FormatNDJSON, FormatCSV, FormatTSV, or "" for JSON
	Rows     string          `json:"rows,omitempty"`      // path of the array of rows; "" is the whole response
	// HeaderRow means that the first row of each page holds the titles of the columns.
	HeaderRow bool          `json:"header_row,omitempty"`
	Auth      string        `json:"auth,omitempty"` // one of the Auth constants; its values are sealed with the headers
	Paging    *Paging       `json:"paging,omitempty"`
	Error     *ErrorMapping `json:"error,omitempty"`
	MaxWait   int           `json:"max_wait,omitempty"` // seconds; the longest announced wait that is waited for. 0: the server's
}

// Values of HTTPRequest.BodyType, HTTPRequest.Format and HTTPRequest.Auth.
const (
	BodyForm = "form" // application/x-www-form-urlencoded

	FormatNDJSON = "ndjson"
	FormatCSV    = "csv"
	FormatTSV    = "tsv"

	AuthBearer = "bearer"
	AuthBasic  = "basic"
	AuthAPIKey = "api_key"
	AuthOAuth2 = "oauth2" // client credentials
)

// HasColumnsPage reports whether the columns of the export are the names of its rows. Page 0 of its run then
// holds them as a header row, in order of first appearance. Otherwise the header is the first row of page 1.
func (r *Request) HasColumnsPage() bool {
	return r.SourceType == SourceHTTP && r.HTTP != nil && r.HTTP.Paging != nil && !r.HTTP.HeaderRow
}

// UnknownNeed returns the first of Needs that this version does not know, "" if it knows all.
func (r *Request) UnknownNeed() string {
	for _, need := range r.Needs {
		if need != NeedSource && need != NeedFile {
			return need
		}
	}
	return ""
}

// Values of Request.Needs: a process that lacks one of them leaves the export to another.
const (
	NeedSource = "source/1" // a request with fields that the standard format lacks
	NeedFile   = "file/1"   // columns, sheets, pages of another export, formats and options of files
)

// Ways in which the pages of a list are found.
const (
	PagingPage    = "page"     // by number
	PagingOffset  = "offset"   // by the number of rows before the page
	PagingCursor  = "cursor"   // by a token from the page before
	PagingNextURL = "next_url" // by an address in the page before
	PagingLink    = "link"     // by the Link header of the page before (RFC 8288)
	PagingNone    = "none"     // the list is one response
)

// Paging says how the pages of a list are found, and what the source says about the end of the list.
//
// A place is where a value is read or written: a path in a response or the name of a parameter, "header:Name",
// "body:path" (written only), "query:name" (written only), "row:path" (read only: in the last row).
type Paging struct {
	Type        string `json:"type"`                   // one of the Paging constants
	PageParam   string `json:"page_param,omitempty"`   // place of the page number
	OffsetParam string `json:"offset_param,omitempty"` // place of the offset
	Start       int64  `json:"start,omitempty"`        // number or offset of the first page
	LimitParam  string `json:"limit_param,omitempty"`  // place of the page size; "" if none is sent
	CursorParam string `json:"cursor_param,omitempty"` // place where the token is written
	Cursor      string `json:"cursor,omitempty"`       // place where the next token is read
	// CursorStart is the token of the first request; absent if it has none.
	CursorStart json.RawMessage `json:"cursor_start,omitempty"`
	NextURL     string          `json:"next_url,omitempty"` // place of the address of the next page
	Rel         string          `json:"rel,omitempty"`      // relation type of the Link header

	Total      string   `json:"total,omitempty"`       // place of the number of rows
	TotalPages string   `json:"total_pages,omitempty"` // place of the number of pages
	More       string   `json:"more,omitempty"`        // place of a boolean: a page follows. "!" before it negates
	End        []string `json:"end,omitempty"`         // markers, see the End constants
	Estimate   bool     `json:"estimate,omitempty"`    // the total proves nothing
	Repeats    bool     `json:"repeats,omitempty"`     // neighbouring pages may be equal
	Hosts      []string `json:"hosts,omitempty"`       // further hosts that the address of a next page may name
}

// Markers of the end of a list.
const (
	EndEmpty   = "empty"   // a page without rows
	EndShort   = "short"   // a page with fewer rows than page 1
	EndMissing = "missing" // 404, 410 or 416
	EndRepeat  = "repeat"  // the same rows, or the same next page, as on the page before
)

// ErrorMapping says which successful responses are failures.
type ErrorMapping struct {
	// Path is the value that decides. The response is a failure unless it is one of OK; without OK, unless it
	// is absent, null, false, 0, "", [] or {}. A number and a string of the same text are equal.
	Path        string            `json:"path,omitempty"`
	OK          []json.RawMessage `json:"ok,omitempty"`
	Message     string            `json:"message,omitempty"`      // path of the text for the caller
	Retry       []json.RawMessage `json:"retry,omitempty"`        // values at Path that are retried as 429 is
	RetryStatus []int             `json:"retry_status,omitempty"` // HTTP statuses retried as 429 is
}

// Options change how rows become a file.
type Options struct {
	Timezone       string `json:"timezone,omitempty"`        // IANA name of the zone in which moments are shown; "" is UTC
	SourceTimezone string `json:"source_timezone,omitempty"` // of times without an offset; "" shows them as they are
	MaxRows        int64  `json:"max_rows,omitempty"`        // data rows of a file; 0: no limit
	NoZip          bool   `json:"no_zip,omitempty"`          // the file is the document itself
	Manifest       bool   `json:"manifest,omitempty"`        // the zip holds manifest.json
	KeepPages      int    `json:"keep_pages,omitempty"`      // hours that the pages are kept after success; 0: the server's
	// Reproducible makes documents independent of the export's time.
	Reproducible bool        `json:"reproducible,omitempty"`
	CSV          CSVOptions  `json:"csv,omitzero"`
	JSON         JSONOptions `json:"json,omitzero"`

	Flatten       int    `json:"flatten,omitempty"`        // levels of nested objects that become columns such as "user.name"
	SourceCharset string `json:"source_charset,omitempty"` // of CSV and TSV: "utf-8", "gbk" or "gb18030"; "" as the response says
}

// CSVOptions are those of CSV and TSV.
type CSVOptions struct {
	NoBOM     bool   `json:"no_bom,omitempty"`
	Delimiter string `json:"delimiter,omitempty"` // "" is a comma; TSV always has a tab
	Encoding  string `json:"encoding,omitempty"`  // "gbk", "gb18030", or "" for UTF-8
	NoGuard   bool   `json:"no_guard,omitempty"`  // text that begins like a formula stays as it is
}

// JSONOptions are those of JSON and NDJSON.
type JSONOptions struct {
	Titles bool `json:"titles,omitempty"` // members are named by the titles of the columns instead of their keys
}

// Kinds of [Proof].
const (
	ProofTotal  = "total"  // as many rows as the source announced
	ProofPages  = "pages"  // as many pages as the source announced
	ProofEnd    = "end"    // the source said where the list ends, and announced no number
	ProofSingle = "single" // one response, which announced no number
)

// Proof says how it is known that a list is complete.
type Proof struct {
	Kind      string `json:"kind"`
	Announced int64  `json:"announced,omitempty"` // rows or pages, for ProofTotal and ProofPages
	Rows      int64  `json:"rows"`                // data rows read
	Pages     int    `json:"pages"`
}
