package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/services/ingress/console/commands"
	"sheaf/services/ingress/sse"
)

// timeline is what the operation events answers.
type timeline struct {
	Events []struct {
		Type    events.Type `json:"type"`
		Time    time.Time   `json:"time"`
		Run     uint64      `json:"run"`
		Attempt int         `json:"attempt"`
		Outcome string      `json:"outcome"`
		Events  int         `json:"events"`
	} `json:"events"`
}

// step is a line of the timeline.
type step struct {
	At            moment
	Text, Outcome string
}

// round is one request of an export with what followed it.
type round struct {
	Number int
	Steps  []step
}

// detailData is the live part of the detail page.
type detailData struct {
	Key, Title          string
	State, StateText    string
	Progress            progress
	Rows, Speed, Left   string
	Pages               string // how they came, once that is known
	Failure             *failure
	Expired             string // why there is no file any more, "" if there is one
	Files               []file
	DownURL             string
	Expires             moment
	ExpiresIn           string
	Warnings            []events.Warning
	Callback            callbackData
	Rounds              []round // the newest first
	Created, Finished   moment
	User, Proof         string
	Sheets              []sheet
	Ended               bool
	CanCancel, CanRetry bool
	CanRedeliver        bool
	Operate             bool
	Links               map[string]string
	Tenant              string
}

type callbackData struct {
	URL, State, Text string
	Attempts, Status int
	Steps            []step
}

func (v *visit) detailOf(x *export, r *events.Request, line *timeline) *detailData {
	now := time.Now()
	d := &detailData{
		Key: x.Key, Title: x.Title, State: x.state(), Progress: v.progressOf(x), Rows: grouped(x.rows()), Failure: v.failureOf(x),
		Files: x.Files, DownURL: x.DownURL, Expires: v.moment(x.ExpiresAt.Time), Warnings: x.Warnings, User: r.UserID,
		Created: v.moment(x.CreatedAt), Finished: v.moment(x.FinishedAt.Time), Sheets: x.Sheets, Ended: x.ended(),
		Operate: v.who.Scope >= ScopeOperate,
	}
	if d.Title == "" {
		d.Title = x.Key
	}
	d.StateText = v.t("state." + d.State)
	d.Pages = v.pagesOf(x)
	if x.expired(now) {
		d.Expired = x.Reason
		if d.Expired == "" {
			d.Expired = v.t("detail.expired")
		}
	}
	if !x.ExpiresAt.IsZero() && now.Before(x.ExpiresAt.Time) {
		d.ExpiresIn = v.span(x.ExpiresAt.Sub(now))
	}
	if x.Proof != nil {
		d.Proof = v.t("proof."+x.Proof.Kind, "rows", grouped(x.Proof.Rows), "pages", grouped(x.Proof.Pages))
	}
	d.CanCancel = d.Operate && !d.Ended
	d.CanRetry = d.Operate && (d.State == stateFailed && x.ErrorCode != events.CodeRejected || d.State == stateCancelled || d.Expired != "")
	d.CanRedeliver = d.Operate && d.Ended && r.Callback != "" && x.Callback.State != events.CallbackPending
	d.Callback = callbackData{URL: r.Callback, State: x.Callback.State, Attempts: x.Callback.Attempts, Status: x.Callback.LastStatus}
	if x.Callback.State != "" {
		d.Callback.Text = v.t("callback." + x.Callback.State)
	}
	v.addTimeline(d, line)
	d.Speed, d.Left = v.speed(x, line, now)
	d.Links = map[string]string{}
	for _, action := range []string{"cancel", "retry", "redeliver", "share"} {
		d.Links[action] = v.url("/console/x/"+x.Key+"/"+action, nil)
	}
	if v.who.Tenant != v.own {
		d.Tenant = v.who.Tenant
	}
	return d
}

// pagesOf says which pages were asked again, and which one failed; "" for none.
func (v *visit) pagesOf(x *export) string {
	var parts []string
	if x.Retries > 0 {
		parts = append(parts, v.t("detail.retries", "n", grouped(x.Retries)))
	}
	if x.FailedPage > 0 {
		parts = append(parts, v.t("detail.failedpage", "n", grouped(x.FailedPage)))
	}
	return strings.Join(parts, " · ")
}

// addTimeline groups the events by request, and those of the callback of the newest one.
func (v *visit) addTimeline(d *detailData, line *timeline) {
	for _, e := range line.Events {
		if e.Type == events.TypeRequested || len(d.Rounds) == 0 {
			d.Rounds = append(d.Rounds, round{Number: len(d.Rounds) + 1})
			d.Callback.Steps = nil
		}
		s := step{At: v.moment(e.Time), Text: v.t("event.more", "n", e.Events), Outcome: e.Outcome}
		if e.Type != "" {
			s.Text = wordOr(v.prefs.Lang, "event."+string(e.Type), string(e.Type))
		}
		if e.Attempt > 0 {
			s.Text += " #" + strconv.Itoa(e.Attempt)
			if e.Type == events.TypeCallbackDelivered && e.Attempt == d.Callback.Attempts && d.Callback.Status > 0 {
				s.Outcome = "HTTP " + strconv.Itoa(d.Callback.Status)
			}
			d.Callback.Steps = append(d.Callback.Steps, s)
		}
		last := &d.Rounds[len(d.Rounds)-1]
		last.Steps = append(last.Steps, s)
	}
	slices.Reverse(d.Rounds)
}

// speed returns the rows a second of a running export and the time that is left, as far as they are known.
func (v *visit) speed(x *export, line *timeline, now time.Time) (speed, left string) {
	var begun time.Time
	for _, e := range line.Events {
		if e.Type == events.TypeRequested {
			begun = e.Time
		}
	}
	took := now.Sub(begun)
	if x.ended() || begun.IsZero() || took < time.Second || x.Progress.Phase != events.PhaseCrawling {
		return "", ""
	}
	if x.Progress.Rows > 0 {
		speed = v.t("detail.speed", "n", grouped(int64(float64(x.Progress.Rows)/took.Seconds())))
	}
	return speed, v.left(took, v.progressOf(x))
}

// left returns the time that is left if later pages come as fast as those so far; "" if it is unknown.
func (v *visit) left(took time.Duration, p progress) string {
	if p.Done <= 0 || p.Total <= p.Done {
		return ""
	}
	return v.t("detail.left", "span", v.span(took/time.Duration(p.Done)*time.Duration(p.Total-p.Done)))
}

// source is one source of an export's request.
type source struct {
	Title, Method, URL string
	Conn, Limit        int
	Sealed             []string // headers and parameters whose values are sealed
	Preset, Auth       string
}

func sourcesOf(r *events.Request) (all []source) {
	for i := range r.SheetCount() {
		s := r.Sheet(i)
		one := source{Title: s.Title}
		if r.SheetCount() == 1 {
			one.Title = ""
		}
		if h := s.HTTP; h != nil {
			one.Method, one.URL, one.Conn, one.Limit, one.Preset, one.Auth = h.Method, h.URL, h.Conn, h.Limit, h.Preset, h.Auth
			one.Sealed = append(slices.Clone(h.Header), h.SecretParam...)
		}
		all = append(all, one)
	}
	return all
}

// detailPage is the whole detail page.
type detailPage struct {
	Live     *detailData
	Sources  []source
	ExtType  string
	From     string // key of the export whose pages this one converts
	Commands []commands.Form
	Again    string // the form that begins a copy
	Back     string
}

func (v *visit) readDetail() (*export, *events.Request, *timeline, error) {
	x, err := v.find()
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := v.backend.Request(v.r.Context(), v.who, x.Key)
	if err != nil {
		return nil, nil, nil, err
	}
	var line timeline
	return x, r, &line, v.call("events", keyParam(x.Key), nil, &line)
}

func (v *visit) detail() error {
	x, r, line, err := v.readDetail()
	if err != nil {
		return err
	}
	d := detailPage{Live: v.detailOf(x, r, line), Sources: sourcesOf(r), ExtType: x.ExtType, Back: v.url("/console/", nil)}
	if r.From != nil {
		d.From = r.From.Key
	}
	if r.HTTP != nil && r.From == nil && v.who.Scope >= ScopeSubmit {
		d.Commands = v.commands(formOf(r))
		d.Again = v.url("/console/new", map[string][]string{"from": {x.Key}})
	}
	p := v.page(d.Live.Title, "exports")
	p.Data = d
	p.Events = v.url("/console/x/"+x.Key+"/events", nil)
	return v.render(http.StatusOK, "detail", p)
}

// detailStream sends the live part of the detail page until the export has ended.
func (v *visit) detailStream() error {
	if _, err := v.find(); err != nil {
		return err
	}
	return v.stream(v.r.PathValue("key"), func(s *sse.Writer, _ time.Time) (bool, error) {
		x, r, line, err := v.readDetail()
		if err != nil {
			return false, err
		}
		html, err := v.fragment("detail", "live", v.detailOf(x, r, line))
		if err != nil {
			return false, err
		}
		if err := s.SendChanged("part", html); err != nil {
			return false, err
		}
		if x.ended() && x.Callback.State != events.CallbackPending {
			return true, s.Send("end", v.t("state."+x.state()))
		}
		return false, nil
	})
}

// confirmCancel asks before what cannot be undone.
func (v *visit) confirmCancel() error {
	x, err := v.find()
	if err != nil {
		return err
	}
	p := v.page(v.t("cancel.title"), "exports")
	p.Data = struct{ Key, Title, Action, Back, Tenant string }{x.Key, x.Title, v.url(v.r.URL.Path, nil), v.url("/console/x/"+x.Key, nil), v.tenantField()}
	return v.render(http.StatusOK, "cancel", p)
}

// tenantField is the tenant that a form carries, "" for the visitor's own.
func (v *visit) tenantField() string {
	if v.who.Tenant == v.own {
		return ""
	}
	return v.who.Tenant
}

// act runs an operation on one export and goes back to its page, or to the list.
func act(operation string) handler {
	return func(v *visit) error {
		key := v.r.PathValue("key")
		if !events.ValidKey(key) {
			return &Error{Status: http.StatusNotFound}
		}
		err := v.call(operation, nil, map[string]string{"key": key}, nil)
		f := flash{Kind: "ok", Text: v.t("done." + operation)}
		if err != nil {
			if f, err = v.refused(err); err != nil {
				return err
			}
		}
		if err := v.setFlash(f); err != nil {
			return err
		}
		if v.r.PostFormValue("back") != "" {
			return v.seeOther(v.base + localPath(v.r.PostFormValue("back")))
		}
		return v.seeOther(v.url("/console/x/"+key, nil))
	}
}

// refused returns the message for an operation that the export's state or a limit does not allow. Other
// errors get a page of their own.
func (v *visit) refused(err error) (flash, error) {
	e, ok := err.(*Error) //nolint:errorlint // the backend promises this type
	if !ok || e.Status == http.StatusNotFound || e.Status >= 500 {
		return flash{}, err
	}
	return flash{Kind: "error", Text: e.Msg}, nil
}

// commands returns the ways to submit a request without the console.
func (v *visit) commands(f *form) []commands.Form {
	raw, err := json.Marshal(f.submission())
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // a long number stays exact
	var request map[string]any
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if d.Decode(&request) != nil {
		return nil
	}
	hideSecrets(request)
	if enc.Encode(request) != nil {
		return nil
	}
	return commands.Forms(commands.Call{
		Server: v.PublicURL, Tenant: v.who.Tenant, Operation: "http", Method: http.MethodPost, Path: "/v1/export/http",
		Body: bytes.TrimSpace(body.Bytes()), Key: !v.Open,
	})
}
