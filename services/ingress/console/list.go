package console

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"sheaf/events"
	"sheaf/services/ingress/sse"
)

// pageSize is the number of exports on a page of the list.
const pageSize = 50

// list is what the operation answers.
type list struct {
	Exports []export         `json:"exports"`
	Next    uint64           `json:"next"`
	Counts  map[string]int64 `json:"counts"`
	Partial bool             `json:"partial"`
}

// row is an export in the list.
type row struct {
	Key, Title, State, StateText string
	ID                           uint64
	Rows                         string
	User                         string
	Started                      moment
	Progress                     progress
	Failure                      *failure
	Href                         string
	Action, ActionHref           string // cancel or retry, if the state and the visitor's scope allow it
	Tenant                       string // for the form, if it is not the visitor's own
}

func (v *visit) rowOf(x *export) row {
	r := row{
		Key: x.Key, Title: cmp.Or(x.Title, x.Key), State: x.state(), ID: x.ID, Rows: grouped(x.rows()), User: x.UserID,
		Started: v.moment(x.CreatedAt), Progress: v.progressOf(x), Failure: v.failureOf(x),
		Href: v.url("/console/x/"+x.Key, nil),
	}
	r.StateText = v.t("state." + r.State)
	if v.who.Tenant != v.own {
		r.Tenant = v.who.Tenant
	}
	if v.who.Scope >= ScopeOperate {
		switch {
		case !x.ended():
			r.Action = "cancel"
		case r.State == stateFailed || r.State == stateCancelled || x.expired(time.Now()):
			r.Action = "retry"
		}
		r.ActionHref = v.url("/console/x/"+x.Key+"/"+r.Action, nil)
	}
	return r
}

// filter is the filter of the list, as the URL of the page has it.
type filter struct {
	State, Q, User, Code, Since, Until string
	Before                             uint64
}

// sinces are the choices of the time filter. Other values of ?since= are times.
var sinces = map[string]time.Duration{"1h": time.Hour, "24h": 24 * time.Hour, "3d": 3 * 24 * time.Hour, "7d": 7 * 24 * time.Hour}

func (v *visit) filter() filter {
	q := v.r.URL.Query()
	f := filter{State: q.Get("state"), Q: q.Get("q"), User: q.Get("user"), Code: q.Get("code"), Since: q.Get("since"), Until: q.Get("until")}
	if !slices.Contains(states, f.State) {
		f.State = ""
	}
	f.Before, _ = strconv.ParseUint(q.Get("before"), 10, 63) // 0 for anything else
	return f
}

// empty reports whether the filter lets every export pass.
func (f filter) Empty() bool { return f.query() == nil }

// query returns the filter for a URL of the console; nil for an empty one. Before is no part of it.
func (f filter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"state": f.State, "q": f.Q, "user": f.User, "code": f.Code, "since": f.Since, "until": f.Until} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if len(q) == 0 {
		return nil
	}
	return q
}

// params returns the filter as the operations take it.
func (f filter) params(now time.Time) url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"state": f.State, "q": f.Q, "user_id": f.User, "error_code": f.Code, "since": f.Since, "until": f.Until} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if ago, ok := sinces[f.Since]; ok {
		q.Set("since", now.Add(-ago).UTC().Format(time.RFC3339))
	}
	return q
}

// tab is a state with its count and link.
type tab struct {
	State, Text, Href string
	Count             int64
	Current           bool
}

type listData struct {
	Filter  filter
	Tabs    []tab
	Rows    []row
	Codes   []string
	Sinces  []string
	Older   string
	Newest  string
	Bulk    []bulkLink
	Partial bool
	Curl    string
	Clear   string
	Tenant  string
}

// bulkLink leads to an action on everything that the filter matches.
type bulkLink struct{ Action, Text, Href string }

func (v *visit) list() error {
	f := v.filter()
	l, err := v.exports(f, f.Before, pageSize)
	if err != nil {
		return err
	}
	d := listData{Filter: f, Codes: errorCodes, Sinces: []string{"1h", "24h", "3d", "7d"}, Partial: l.Partial, Clear: v.url("/console/", nil)}
	for _, state := range append([]string{""}, states...) {
		with := f
		with.State = state
		name := cmp.Or(state, "all")
		d.Tabs = append(d.Tabs, tab{name, v.t("state." + name), v.url("/console/", with.query()), l.Counts[name], f.State == state})
	}
	for i := range l.Exports {
		d.Rows = append(d.Rows, v.rowOf(&l.Exports[i]))
	}
	if l.Next > 0 {
		d.Older = v.older(f, l.Next)
	}
	if f.Before > 0 {
		d.Newest = v.url("/console/", f.query())
	}
	if v.who.Scope >= ScopeOperate && len(d.Rows) > 0 {
		d.Bulk = v.bulkLinks(f, l)
	}
	if len(d.Rows) == 0 {
		d.Curl = v.demoCommand()
	}
	if v.who.Tenant != v.own {
		d.Tenant = v.who.Tenant
	}
	p := v.page(v.t("nav.exports"), "exports")
	p.Data = d
	p.Events = v.listEvents(f, l)
	return v.render(http.StatusOK, "list", p)
}

func (v *visit) older(f filter, next uint64) string {
	q := f.query()
	if q == nil {
		q = url.Values{}
	}
	q.Set("before", strconv.FormatUint(next, 10))
	return v.url("/console/", q)
}

// listEvents returns the URL of the list's stream. It names the newest export of the page, so that the
// stream can count newer ones.
func (v *visit) listEvents(f filter, l *list) string {
	q := f.query()
	if q == nil {
		q = url.Values{}
	}
	if f.Before > 0 {
		q.Set("before", strconv.FormatUint(f.Before, 10))
	}
	if len(l.Exports) > 0 {
		q.Set("top", strconv.FormatUint(l.Exports[0].ID, 10))
	}
	return v.url("/console/events", q)
}

// exports runs the operation list.
func (v *visit) exports(f filter, before uint64, limit int) (*list, error) {
	return v.listed(listParams(f, before, limit))
}

func (v *visit) listed(params url.Values) (*list, error) {
	var l list
	return &l, v.call("list", params, nil, &l)
}

func listParams(f filter, before uint64, limit int) url.Values {
	params := f.params(time.Now())
	params.Set("limit", strconv.Itoa(limit))
	if before > 0 {
		params.Set("before", strconv.FormatUint(before, 10))
	}
	return params
}

// sharedExports returns two pages of the list as at since or later. Other streams of the list may use it too.
func (v *visit) sharedExports(f filter, since time.Time) (*list, error) {
	params := listParams(f, f.Before, 2*pageSize)
	return v.reads.get(v.who.Tenant+"?"+params.Encode(), since, func() (*list, error) { return v.listed(params) })
}

// errorCodes are the error codes that the list can be filtered by.
var errorCodes = []string{
	events.CodeSourceHTTP, events.CodeSourceErrcode, events.CodeSourceFormat, events.CodeSourceTimeout,
	events.CodeSourceUnreachable, events.CodeSourceIncomplete, events.CodeSourceAuth, events.CodeSourcePath,
	events.CodeSourcePaging, events.CodeSourceCursor, events.CodeSourceChanged, events.CodePagingLoop,
	events.CodePagingStuck, events.CodeLimitBytes, events.CodeLimitRows, events.CodeLimitColumns,
	events.CodeLimitPages, events.CodeLimitTime, events.CodeSealed, events.CodeCrashedWorker, events.CodeRejected,
	events.CodeStore, events.CodeInternal,
}

// listStream sends the rows of a page of the list that change, the counts, and how many newer exports match.
func (v *visit) listStream() error {
	f := v.filter()
	top, _ := strconv.ParseUint(v.r.URL.Query().Get("top"), 10, 63)
	shown := map[string]*shownRow{}
	first := true
	return v.stream("", func(s *sse.Writer, since time.Time) (bool, error) {
		l, err := v.sharedExports(f, since)
		if err != nil {
			return false, err
		}
		newer := 0
		seen := map[string]bool{}
		for i := range l.Exports {
			x := &l.Exports[i]
			if x.ID > top {
				newer++
				continue
			}
			if _, known := shown[x.Key]; known || first && len(shown) < pageSize {
				seen[x.Key] = true
				if err := v.sendRow(s, shown, x); err != nil {
					return false, err
				}
			}
		}
		first = false
		if err := v.sendLeft(s, shown, seen); err != nil {
			return false, err
		}
		counts, err := json.Marshal(l.Counts)
		if err != nil {
			return false, err
		}
		if err := s.SendChanged("counts", string(counts)); err != nil {
			return false, err
		}
		return false, s.SendChanged("newer", v.newerText(newer))
	})
}

func (v *visit) newerText(n int) string {
	switch {
	case n == 0:
		return ""
	case n >= 2*pageSize:
		return v.t("list.newer", "n", strconv.Itoa(n)+"+")
	}
	return v.t("list.newer", "n", n)
}

// shownRow is a row as it was sent.
type shownRow struct {
	html  string
	ended bool
}

func (v *visit) sendRow(s *sse.Writer, shown map[string]*shownRow, x *export) error {
	html, err := v.fragment("list", "row", v.rowOf(x))
	if err != nil {
		return err
	}
	if old, ok := shown[x.Key]; ok && old.html == html {
		return nil
	}
	shown[x.Key] = &shownRow{html, x.ended()}
	return s.Send("row", html)
}

// sendLeft sends rows that the filter no longer matches, once more when they end.
func (v *visit) sendLeft(s *sse.Writer, shown map[string]*shownRow, seen map[string]bool) error {
	for key, old := range shown {
		if seen[key] || old.ended {
			continue
		}
		var x export
		if err := v.call("detail", keyParam(key), nil, &x); err != nil {
			old.ended = true // it was forgotten
			continue
		}
		if err := v.sendRow(s, shown, &x); err != nil {
			return err
		}
	}
	return nil
}
