package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
)

// State names of the list.
const (
	stateRunning   = events.ListRunning
	stateQueued    = events.ListQueued
	stateWaiting   = events.ListWaitingForSpace
	stateFailed    = events.ListFailed
	stateSucceeded = events.ListSucceeded
	stateCancelled = events.ListCancelled
)

// states are the states of the list, in the order in which they are shown.
var states = []string{stateRunning, stateQueued, stateWaiting, stateFailed, stateSucceeded, stateCancelled}

// export is what list and detail answer of an export; see the reference of the API.
type export struct {
	Key        string          `json:"hash_key"`
	ID         uint64          `json:"id"`
	Title      string          `json:"title"`
	ExtType    string          `json:"ext_type"`
	SourceType string          `json:"source_type"`
	Status     int             `json:"status"`
	State      string          `json:"state"` // of list alone
	UserID     string          `json:"user_id"`
	CreatedAt  time.Time       `json:"created_at"`
	FinishedAt optional        `json:"finished_at"`
	ExpiresAt  optional        `json:"expires_at"`
	Rows       int64           `json:"rows"`
	Progress   events.Progress `json:"progress"`
	ErrorCode  string          `json:"error_code"`
	FailReason string          `json:"fail_reason"`

	DownURL    string           `json:"down_url"`
	Reason     string           `json:"reason"`
	PagesUntil optional         `json:"pages_until"`
	Proof      *events.Proof    `json:"proof"`
	Sheets     []sheet          `json:"sheets"`
	Retries    int64            `json:"retries"`
	FailedPage int              `json:"failed_page"`
	Files      []file           `json:"files"`
	Warnings   []events.Warning `json:"warnings"`
	Callback   struct {
		State      string `json:"state"`
		Attempts   int    `json:"attempts"`
		LastStatus int    `json:"last_status"`
	} `json:"callback"`
}

type sheet struct {
	Title string `json:"title"`
	Rows  int64  `json:"rows"`
}

type file struct {
	Name     string           `json:"name"`
	Size     int64            `json:"size"`
	SHA256   string           `json:"sha256"`
	Rows     int64            `json:"rows"`
	Contents []events.Content `json:"contents"`
}

// Bytes returns the size for people.
func (f file) Bytes() string { return size(f.Size) }

// optional is a time that may be "".
type optional struct{ time.Time }

func (o *optional) UnmarshalJSON(data []byte) error {
	if s := string(data); s == `""` || s == "null" {
		return nil
	}
	return o.Time.UnmarshalJSON(data)
}

// state returns the name of the list for an export's state.
func (x *export) state() string {
	switch {
	case x.State != "":
		return x.State
	case x.Status == events.StatusSucceeded:
		return stateSucceeded
	case x.Status == events.StatusFailed:
		return stateFailed
	case x.Status == events.StatusCancelled:
		return stateCancelled
	case x.Progress.Phase == events.PhaseQueued || x.Progress.Phase == "":
		return stateQueued
	case x.Progress.Phase == events.PhaseWaitingForSpace:
		return stateWaiting
	}
	return stateRunning
}

func (x *export) ended() bool { return x.Status != events.StatusProcessing }

// expired reports whether the file of a succeeded export is gone.
func (x *export) expired(now time.Time) bool {
	return x.Status == events.StatusSucceeded && (x.Reason != "" || !x.ExpiresAt.IsZero() && !now.Before(x.ExpiresAt.Time))
}

func (x *export) rows() int64 {
	if x.Rows > 0 {
		return x.Rows
	}
	return x.Progress.Rows
}

// moment is a time as a page shows it.
type moment struct{ ISO, Text, Ago string }

func (v *visit) moment(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{
		ISO: t.UTC().Format(time.RFC3339Nano), Text: t.In(v.prefs.place).Format("2006-01-02 15:04:05"), Ago: v.span(time.Since(t)),
	}
}

// span says how long something took or takes, in its largest one or two units.
func (v *visit) span(d time.Duration) string {
	d = max(d, 0)
	unit := func(n time.Duration, name string) string { return v.t("span."+name, "n", int64(n)) }
	switch {
	case d < time.Minute:
		return unit(d/time.Second, "s")
	case d < time.Hour:
		return unit(d/time.Minute, "min")
	case d < 24*time.Hour:
		if m := d % time.Hour / time.Minute; m > 0 && d < 6*time.Hour {
			return unit(d/time.Hour, "h") + " " + unit(m, "min")
		}
		return unit(d/time.Hour, "h")
	}
	if h := d % (24 * time.Hour) / time.Hour; h > 0 && d < 7*24*time.Hour {
		return unit(d/(24*time.Hour), "d") + " " + unit(h, "h")
	}
	return unit(d/(24*time.Hour), "d")
}

// grouped writes a whole number with commas.
func grouped(n any) string {
	var s string
	switch x := reflect.ValueOf(n); {
	case x.CanInt():
		s = strconv.FormatInt(x.Int(), 10)
	case x.CanUint():
		s = strconv.FormatUint(x.Uint(), 10)
	default:
		return fmt.Sprint(n)
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 5 {
		f /= 1024
		unit++
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + "KMGTP"[unit-1:unit] + "iB"
}

// progress is a bar with its text.
type progress struct {
	Done, Total int // pages; Total is 0 while unknown
	Percent     int
	Phase       string // in words
	Running     bool
}

func (v *visit) progressOf(x *export) progress {
	p := progress{Done: x.Progress.PagesDone, Total: x.Progress.PagesTotal, Running: !x.ended()}
	if p.Total > 0 {
		p.Percent = min(100, p.Done*100/p.Total)
	}
	if x.Progress.Phase != "" && !x.ended() {
		p.Phase = v.t("phase." + x.Progress.Phase)
	}
	return p
}

// failure is why an export failed, in the visitor's language and as the server wrote it.
type failure struct{ Code, Text, Reason string }

func (v *visit) failureOf(x *export) *failure {
	if x.Status != events.StatusFailed {
		return nil
	}
	return &failure{Code: x.ErrorCode, Text: wordOr(v.prefs.Lang, "code."+x.ErrorCode, x.ErrorCode), Reason: x.FailReason}
}

// keyParam is the parameter of an operation on one export.
func keyParam(key string) url.Values { return url.Values{"key": {key}} }

// find returns the detail of the export in the path. An unknown key and another tenant's get the same page.
func (v *visit) find() (*export, error) {
	key := v.r.PathValue("key")
	if !events.ValidKey(key) {
		return nil, &Error{Status: http.StatusNotFound}
	}
	var x export
	return &x, v.call("detail", keyParam(key), nil, &x)
}

// text returns a JSON value as people read it: texts without quotes, numbers as they came.
func text(value any) string {
	switch x := value.(type) {
	case nil:
		return ""
	case string:
		return x
	case json.Number:
		return x.String()
	}
	b, _ := json.Marshal(value) // it was decoded from JSON
	return string(b)
}
