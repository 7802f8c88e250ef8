package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"sheaf/services/ingress/request"
)

// bulkActions are the actions on everything that a filter matches, with the state that each needs.
var bulkActions = []string{"cancel", "retry", "redeliver"}

// countPage is how many exports are counted at once.
const countPage = 200

func (v *visit) bulkLinks(f filter, l *list) []bulkLink {
	var actions []string
	switch f.State {
	case stateFailed, stateCancelled:
		actions = []string{"retry", "redeliver"}
	case stateRunning, stateQueued, stateWaiting:
		actions = []string{"cancel"}
	case stateSucceeded:
		actions = []string{"redeliver"}
	}
	var links []bulkLink
	for _, action := range actions {
		q := f.query()
		q.Set("action", action)
		links = append(links, bulkLink{action, v.t("bulk.link."+action, "n", grouped(l.Counts[f.State])), v.url("/console/bulk", q)})
	}
	return links
}

type bulkData struct {
	Action, Text, Target, Back, Tenant string
	Filter                             filter
	Count                              int64
	Rows                               []row // some of them
	Limited                            bool
	Moved                              bool
	Skipped                            []skipped
	Done                               int
}

type skipped struct {
	Key string `json:"key"`
	Msg string `json:"msg"`
}

// bulk asks before an action, with the number of exports that it would change.
func (v *visit) bulk() error { return v.confirmBulk(v.filter(), v.r.URL.Query().Get("action"), false) }

func (v *visit) confirmBulk(f filter, action string, moved bool) error {
	if !slices.Contains(bulkActions, action) || f.Empty() {
		return v.notFound()
	}
	l, err := v.exports(f, 0, 10)
	if err != nil {
		return err
	}
	d := bulkData{Action: action, Filter: f, Target: v.base + "/console/bulk", Back: v.url("/console/", f.query()), Tenant: v.tenantField(), Moved: moved}
	if d.Count, err = v.count(f, l); err != nil {
		return err
	}
	d.Limited = d.Count > request.MaxBulk
	d.Text = v.t("bulk.confirm."+action, "n", grouped(d.Count))
	for i := range l.Exports {
		d.Rows = append(d.Rows, v.rowOf(&l.Exports[i]))
	}
	p := v.page(v.t("bulk.title."+action), "exports")
	p.Data = d
	status := http.StatusOK
	if moved {
		status = http.StatusConflict
	}
	return v.render(status, "bulk", p)
}

// count returns how many exports a filter matches, counting at most one more than a bulk action changes.
func (v *visit) count(f filter, l *list) (n int64, err error) {
	alone := f
	alone.State = ""
	if f.State != "" && alone.Empty() {
		return l.Counts[f.State], nil
	}
	before := uint64(0)
	for range request.MaxBulk/countPage + 1 { // a search may find less in a part, and the action then refuses the filter
		part, err := v.exports(f, before, countPage)
		if err != nil {
			return 0, err
		}
		n += int64(len(part.Exports))
		if before = part.Next; before == 0 {
			break
		}
	}
	return n, nil
}

// runBulk runs an action. It does nothing if the number of exports has changed since the visitor saw it.
func (v *visit) runBulk() error {
	form := v.r.PostForm
	f := filter{State: form.Get("state"), Q: form.Get("q"), User: form.Get("user"), Code: form.Get("code"), Since: form.Get("since"), Until: form.Get("until")}
	action := form.Get("action")
	expect, err := strconv.Atoi(form.Get("expect"))
	if !slices.Contains(bulkActions, action) || f.Empty() || err != nil {
		return v.notFound()
	}
	var answer struct {
		Matched int       `json:"matched"`
		Done    int       `json:"done"`
		Skipped []skipped `json:"skipped"`
	}
	err = v.call("bulk", nil, map[string]any{"action": action, "filter": plain(f.params(time.Now())), "expect": expect}, &answer)
	if e, ok := err.(*Error); ok && e.Status == http.StatusConflict { //nolint:errorlint // the backend promises this type
		return v.confirmBulk(f, action, true)
	}
	if err != nil {
		return err
	}
	kind := "ok"
	text := v.t("bulk.done."+action, "n", grouped(answer.Done))
	if len(answer.Skipped) > 0 {
		kind = "error"
		text += " " + v.t("bulk.skipped", "n", grouped(len(answer.Skipped)), "why", answer.Skipped[0].Msg)
	}
	if err := v.setFlash(flash{Kind: kind, Text: text}); err != nil {
		return err
	}
	return v.seeOther(v.url("/console/", f.query()))
}

// plain returns parameters as a JSON object of texts.
func plain(q url.Values) map[string]string {
	o := map[string]string{}
	for name := range q {
		o[name] = q.Get(name)
	}
	return o
}
