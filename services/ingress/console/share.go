package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/services/ingress/sse"
)

// shareTimes are the choices of how long a share link is good for.
var shareTimes = []string{"1h", "24h", "72h", "168h"}

func (v *visit) shareForm() error {
	x, err := v.find()
	if err != nil {
		return err
	}
	p := v.page(v.t("share.title"), "exports")
	p.Data = struct {
		Key, Title, Action, Back, Tenant string
		Times                            []string
	}{x.Key, x.Title, v.url(v.r.URL.Path, nil), v.url("/console/x/"+x.Key, nil), v.tenantField(), shareTimes}
	return v.render(http.StatusOK, "share", p)
}

// makeShare makes a share link and shows it on the page of the export, once.
func (v *visit) makeShare() error {
	key := v.r.PathValue("key")
	if !events.ValidKey(key) {
		return v.notFound()
	}
	var answer struct {
		URL string `json:"url"`
	}
	body := map[string]string{"key": key}
	for _, name := range []string{"ttl", "return_url"} {
		if value := strings.TrimSpace(v.r.PostFormValue(name)); value != "" {
			body[name] = value
		}
	}
	f := flash{Kind: "ok", Text: v.t("done.share")}
	err := v.call("share", nil, body, &answer)
	f.Link = answer.URL
	if err != nil {
		if f, err = v.refused(err); err != nil {
			return err
		}
	}
	if err := v.setFlash(f); err != nil {
		return err
	}
	return v.seeOther(v.url("/console/x/"+key, nil))
}

// shared serves the holder of a share link, who has no session.
func (c *Console) shared(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &visit{Console: c, w: w, r: r, prefs: prefsOf(r)}
		if lang := r.URL.Query().Get("lang"); slices.Contains(languages, lang) {
			v.prefs.Lang = lang
		}
		c.allowEmbedding(w, r)
		s, ok := c.backend.Shared(r.Context(), r.PathValue("token"))
		if !ok {
			v.answer((*visit).unknownShare)
			return
		}
		v.share, v.who, v.own = s, s.Who, s.Who.Tenant
		v.answer(h)
	}
}

// allowEmbedding lets the pages of the configured origins read and frame the pages of share links.
func (c *Console) allowEmbedding(w http.ResponseWriter, r *http.Request) {
	if len(c.EmbedOrigins) == 0 {
		return
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); slices.Contains(c.EmbedOrigins, origin) {
		h.Set("Access-Control-Allow-Origin", origin)
	}
	h.Set("Content-Security-Policy", policy+strings.Join(c.EmbedOrigins, " "))
	h.Del("X-Frame-Options")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
}

// widget serves the element that shows the progress of a share link on another page.
func (c *Console) widget(w http.ResponseWriter, r *http.Request) {
	c.allowEmbedding(w, r)
	r.SetPathValue("hash", "")
	r.SetPathValue("file", "progress.js")
	static(w, r)
}

// sharedData is what the holder of a share link sees. It has no URL of the source, no user, no row and no
// reason.
type sharedData struct {
	State    string // one of the words share.*
	Title    string
	Progress progress
	Left     string
	Rows     string
	Size     string
	Until    moment
	Class    string // why it failed, for the reader
	Number   string // for support
	File     string // relative URL of the file
	Return   string
	Host     string // of the return URL
	Ended    bool
}

// readShared reads the export of a share link. A link whose export is unknown is an unknown link.
func (v *visit) readShared() (*export, error) {
	var x export
	if v.share.Expired {
		return &x, nil // what it was does not matter any more
	}
	err := v.call("detail", keyParam(v.share.Key), nil, &x)
	return &x, err
}

func (v *visit) sharedOf(x *export) *sharedData {
	now := time.Now()
	d := &sharedData{
		State: x.state(), Title: x.Title, Progress: v.progressOf(x), Rows: grouped(x.rows()), Ended: x.ended(),
		Return: linkable(v.share.ReturnURL),
	}
	if len(x.Key) > 8 {
		d.Number = x.Key[:8]
	}
	if u, err := url.Parse(d.Return); err == nil {
		d.Host = u.Host
	}
	switch {
	case v.share.Expired:
		d.State, d.Ended = "gone", true
	case x.expired(now) || d.State == stateSucceeded && x.DownURL == "":
		d.State = "expired"
	case d.State == stateFailed:
		d.Class = classOf(x.ErrorCode)
	case d.State == stateSucceeded:
		d.File, d.Until = v.r.PathValue("token")+"/file", v.moment(x.ExpiresAt.Time)
		if len(x.Files) > 0 {
			d.Size = size(x.Files[0].Size)
		}
	}
	if took := now.Sub(x.CreatedAt); !d.Ended && took > 2*time.Second && took < time.Hour {
		d.Left = v.left(took, d.Progress)
	}
	if v.share.Expired || d.State == "expired" {
		d.Title, d.Rows = "", ""
	}
	return d
}

// classOf returns the class of an error code: the reader can tell support no more than that.
func classOf(code string) string {
	switch prefix, _, _ := strings.Cut(code, "_"); prefix {
	case "SOURCE", "PAGING":
		return "source"
	case "LIMIT":
		return "large"
	}
	return "fault"
}

// sharePageOf returns the frame of a share page, whose URLs are relative: a proxy may serve /s/ under its own
// origin.
func (v *visit) sharePageOf(title string) *page {
	return &page{
		Title: title, Lang: v.prefs.Lang, Theme: v.prefs.Theme, Zone: v.prefs.place.String(), Asks: v.prefs.Zone == "",
		Assets: "static/" + assetHash, v: v,
	}
}

// sharePage is the page of a user who waits for a file.
func (v *visit) sharePage() error {
	x, err := v.readShared()
	if err != nil {
		return v.unknownUnless(err)
	}
	d := v.sharedOf(x)
	p := v.sharePageOf(v.t("share." + d.State))
	p.Data = struct {
		Live     *sharedData
		Download bool // the file comes by itself
		Refresh  bool
	}{d, v.r.URL.Query().Get("download") == "1", !d.Ended}
	if !d.Ended {
		p.Events = v.r.PathValue("token") + "/events"
	}
	status := http.StatusOK
	if d.State == "gone" || d.State == "expired" {
		status = http.StatusGone
	}
	return v.render(status, "shared", p)
}

// unknownUnless answers for an export that is not known any more, and returns other errors.
func (v *visit) unknownUnless(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		return v.unknownShare()
	}
	return err
}

// unknownShare answers for a link that was never issued, or whose export is forgotten. A forged link gets
// the same answer.
func (v *visit) unknownShare() error {
	p := v.sharePageOf(v.t("share.unknown"))
	p.Assets = "static/" + assetHash
	if strings.Count(strings.TrimPrefix(v.r.URL.Path, "/s/"), "/") > 0 {
		p.Assets = "../static/" + assetHash
	}
	p.Data = struct {
		Live     *sharedData
		Download bool
		Refresh  bool
	}{&sharedData{State: "unknown", Ended: true}, false, false}
	return v.render(http.StatusNotFound, "shared", p)
}

func (v *visit) shareStream() error {
	if v.share.Expired {
		return &Error{Status: http.StatusGone}
	}
	if _, err := v.readShared(); err != nil {
		return v.unknownUnless(err)
	}
	return v.stream(v.share.Key, func(s *sse.Writer, _ time.Time) (bool, error) {
		x, err := v.readShared()
		if err != nil {
			return false, err
		}
		d := v.sharedOf(x)
		html, err := v.fragment("shared", "live", d)
		if err != nil {
			return false, err
		}
		if err := s.SendChanged("part", html); err != nil || !d.Ended {
			return false, err
		}
		return true, s.Send("end", v.t("share."+d.State))
	})
}

// shareProgress is what the widget reads.
func (v *visit) shareProgress() error {
	answer := struct {
		State   string `json:"state"`
		Percent int    `json:"percent"`
		Text    string `json:"text"`
		File    string `json:"file,omitempty"` // relative to this URL
	}{State: "gone"}
	if !v.share.Expired {
		x, err := v.readShared()
		if err != nil {
			return v.unknownUnless(err)
		}
		d := v.sharedOf(x)
		answer.State, answer.Percent = d.State, d.Progress.Percent
		if d.File != "" {
			answer.Percent, answer.File = 100, "file"
		}
	}
	answer.Text = v.t("share." + answer.State)
	v.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(v.w).Encode(answer)
}

// shareFile serves the file. The signed link is made now and stays on this server.
func (v *visit) shareFile() error {
	if v.share.Expired {
		return v.sharePage()
	}
	x, err := v.readShared()
	if err != nil {
		return v.unknownUnless(err)
	}
	if x.DownURL == "" {
		return v.seeOther("../" + v.r.PathValue("token"))
	}
	v.backend.Download(v.w, v.r, x.DownURL)
	return nil
}
