package ingress

import (
	"net/url"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/ingress/request"
)

// summaryView is a line of the history: the eight keys of the specification.
type summaryView struct {
	CreatedAt  string `json:"created_at"` // RFC 3339, whole seconds, local zone
	ExtType    string `json:"ext_type"`
	FailReason string `json:"fail_reason"`
	HashKey    string `json:"hash_key"`
	ID         uint64 `json:"id"`
	SourceType string `json:"source_type"`
	Status     int    `json:"status"`
	Title      string `json:"title"`
}

// detailView holds everything that a caller sees of an export.
type detailView struct {
	CreatedAt  string `json:"created_at"`
	DownURL    string `json:"down_url"` // "" without a file
	ExtType    string `json:"ext_type"`
	FailReason string `json:"fail_reason"`
	HashKey    string `json:"hash_key"`
	ID         uint64 `json:"id"`
	SourceType string `json:"source_type"`
	Status     int    `json:"status"`
	Title      string `json:"title"`

	FinishedAt string           `json:"finished_at"` // "" while under way
	ExpiresAt  string           `json:"expires_at"`  // of the file; "" without one
	Progress   events.Progress  `json:"progress"`
	Rows       int64            `json:"rows"`
	Proof      *events.Proof    `json:"proof,omitempty"`       // how the list was found complete; nil until it is crawled
	Sheets     []sheetView      `json:"sheets,omitempty"`      // of a request with sheets
	Retries    int64            `json:"retries,omitempty"`     // requests to the source that were repeated
	FailedPage int              `json:"failed_page,omitempty"` // number of the page at which it failed
	Files      []fileView       `json:"files"`
	PagesUntil string           `json:"pages_until,omitempty"` // until when it can be converted
	Warnings   []events.Warning `json:"warnings"`
	ErrorCode  string           `json:"error_code"`
	Reason     string           `json:"reason"` // why the file expired early: it is missing or damaged
	Callback   callbackView     `json:"callback"`
}

type fileView struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	Rows   int64  `json:"rows"`
	// Contents are the documents in a zip; absent if it holds nothing but one workbook.
	Contents []events.Content `json:"contents,omitempty"`
}

// sheetView is one of several sheets.
type sheetView struct {
	Title string        `json:"title"`
	Rows  int64         `json:"rows"`
	Proof *events.Proof `json:"proof,omitempty"`
}

type callbackView struct {
	State      string `json:"state"`
	Attempts   int    `json:"attempts"`
	LastStatus int    `json:"last_status"`
}

// phaseDone is the phase of every ended export.
const phaseDone = "done"

// The codes of warnings about the request itself.
const (
	warningUnknownField = "UNKNOWN_FIELD"
	warningOptionUnused = "OPTION_UNUSED"
)

func summaryOf(x *events.Export) summaryView {
	return summaryView{
		CreatedAt: localTime(x.CreatedAt), ExtType: x.Request.ExtType, FailReason: x.Failure.Reason,
		HashKey: x.Key, ID: x.ID, SourceType: x.Request.SourceType, Status: x.State.Status(), Title: x.Request.Title,
	}
}

func (s *Service) detailOf(x *events.Export, now time.Time) detailView {
	d := detailView{
		CreatedAt: localTime(x.CreatedAt), ExtType: x.Request.ExtType, FailReason: x.Failure.Reason,
		HashKey: x.Key, ID: x.ID, SourceType: x.Request.SourceType, Status: x.State.Status(), Title: x.Request.Title,

		FinishedAt: localTime(x.FinishedAt), ExpiresAt: localTime(x.ExpiresAt), PagesUntil: localTime(x.PagesUntil),
		Progress: s.progress.of(x), Rows: x.Rows,
		Files: []fileView{}, Warnings: []events.Warning{}, ErrorCode: x.Failure.Code, Reason: x.ExpiredReason,
		Callback: callbackOf(x),
	}
	if x.Crawl != nil {
		d.Retries = x.Crawl.Retries
	}
	if x.State == events.StateFailed {
		d.FailedPage = x.Failure.Page
	}
	if x.State == events.StateCompleted && now.Before(x.ExpiresAt) {
		d.DownURL = secrets.DownloadURL(s.journal.Keys(), s.cfg.PublicURL, x)
	}
	if x.State != events.StateFailed {
		d.Proof = x.Proof
		for i, sheet := range x.Sheets {
			if i < len(x.Request.Sheets) {
				d.Sheets = append(d.Sheets, sheetView{Title: x.Request.Sheets[i].Title, Rows: sheet.Rows, Proof: sheet.Proof})
			}
		}
	}
	for _, f := range x.Files {
		d.Files = append(d.Files, fileView{Name: f.Name, Size: f.Size, SHA256: f.SHA256, Rows: f.Rows, Contents: f.Contents})
	}
	for _, w := range x.Request.Warnings {
		code := warningUnknownField
		if request.IsUnusedOption(w) {
			code = warningOptionUnused
		}
		d.Warnings = append(d.Warnings, events.Warning{Code: code, Message: w})
	}
	d.Warnings = append(d.Warnings, x.Warnings...)
	return d
}

func callbackOf(x *events.Export) callbackView {
	return callbackView{State: x.Callback.State, Attempts: x.Callback.Attempts, LastStatus: x.Callback.LastStatus}
}

func localTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}

// visibleRequest returns what a caller of a scope may see of a request, which holds no secret. A query of a
// URL and parameters often hold tokens all the same. So only callers that can begin exports see them.
func visibleRequest(r *events.Request, scope Scope) *events.Request {
	if scope >= ScopeSubmit {
		return r
	}
	shown := *r
	shown.Callback = withoutQuery(r.Callback)
	shown.HTTP = withoutQueries(r.HTTP)
	shown.Sheets = slices.Clone(r.Sheets)
	for i := range shown.Sheets {
		shown.Sheets[i].HTTP = withoutQueries(shown.Sheets[i].HTTP)
	}
	return &shown
}

func withoutQueries(h *events.HTTPRequest) *events.HTTPRequest {
	if h == nil {
		return nil
	}
	shown := *h
	shown.URL, shown.Param = withoutQuery(h.URL), nil
	return &shown
}

// withoutQuery returns a URL without its user, and with … for its query.
func withoutQuery(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "…"
	}
	u.User, u.Fragment = nil, ""
	if query := u.RawQuery; query != "" {
		u.RawQuery = ""
		return u.String() + "?…"
	}
	return u.String()
}
